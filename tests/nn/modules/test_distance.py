"""Distance modules against torch's."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from tests.nn.module_parity import build, check_attributes, check_forward, check_module, check_refused  # noqa: E402


def test_distances():
    inputs = torch.randn(4, 3), torch.randn(4, 3)
    check_module("CosineSimilarity", inputs=inputs)
    check_module("PairwiseDistance", 3.0, 0.1, True, inputs=inputs)
    for name, arguments in [("CosineSimilarity", (0, 0.5)), ("PairwiseDistance", (float("inf"),))]:
        pair = build(name, *arguments)
        check_attributes(pair)
        check_forward(pair, *inputs)


def test_refusals():
    for name in ("CosineSimilarity", "PairwiseDistance"):
        check_refused(name, inputs=(torch.randn(2, 3), torch.randn(2, 4)))
    check_refused("CosineSimilarity", inputs=(torch.randn(3), torch.randn(3)))
