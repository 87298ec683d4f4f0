"""EmbeddingBag against torch's."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from objnet import nn  # noqa: E402
from tests.nn.module_parity import (  # noqa: E402
    Pair,
    build,
    check_attributes,
    check_forward,
    check_module,
    check_refused,
    check_training,
    converted,
    parameters_of,
)

BAGS = torch.tensor([[1, 2, 2], [0, 6, 2]])


@pytest.mark.parametrize("options", [{}, {"mode": "max", "padding_idx": -5}])
def test_bags(options):
    check_module("EmbeddingBag", 7, 3, inputs=(BAGS,), **options)


def test_offsets_and_max_norm():
    pair = build("EmbeddingBag", 7, 3, 0.7, 1.5, False, "sum", include_last_offset=True, padding_idx=2)
    check_attributes(pair)
    check_training(pair, BAGS.reshape(-1), torch.tensor([0, 2, 6]), torch.rand(6), steps=2)
    check_attributes(build("EmbeddingBag", 7, 3, scale_grad_by_freq=True))


def test_from_pretrained():
    assert parameters_of(nn.EmbeddingBag.from_pretrained) == parameters_of(torch.nn.EmbeddingBag.from_pretrained)
    table = torch.randn(7, 3)
    for options in ({}, {"freeze": False, "mode": "max", "padding_idx": 1}):
        bags = (
            nn.EmbeddingBag.from_pretrained(converted(table), **options),
            torch.nn.EmbeddingBag.from_pretrained(table, **options),
        )
        check_attributes(Pair(*bags))
        check_forward(Pair(*bags), BAGS)
    assert nn.modules.sparse.EmbeddingBag is nn.EmbeddingBag


def test_refusals():
    check_refused("EmbeddingBag", 7, 3, inputs=(torch.tensor([[7]]),))
    check_refused("EmbeddingBag", 7, 3, padding_idx=7, match="padding_idx must be within")
    check_refused("EmbeddingBag", 7, 3, _weight=torch.zeros(3, 7), match="Shape of weight")
    with pytest.raises(NotImplementedError, match="sparse gradients"):
        nn.EmbeddingBag(7, 3, sparse=True)
    with pytest.raises(AssertionError, match="2-dimensional"):
        nn.EmbeddingBag.from_pretrained(converted(torch.zeros(3)))
