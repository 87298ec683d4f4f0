"""Loss modules against torch's."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from objnet import nn  # noqa: E402
from tests.nn.module_parity import (  # noqa: E402
    Pair,
    build,
    check_attributes,
    check_forward,
    check_module,
    check_refused,
    check_signature,
    converted,
)

A, B = torch.randn(4, 3), torch.randn(4, 3)
P, Q = torch.rand(4, 3) * 0.9 + 0.05, torch.rand(4, 3)
CLASSES = torch.tensor([0, 2, 1, 1])
WEIGHT = torch.tensor([0.5, 2.0, 1.0])

CASES = [
    ("L1Loss", {}, (A, B)),
    ("MSELoss", {"reduction": "sum"}, (A, B)),
    ("SmoothL1Loss", {"beta": 0.3}, (A, B)),
    ("HuberLoss", {"delta": 0.4, "reduction": "none"}, (A, B)),
    ("NLLLoss", {"weight": WEIGHT, "ignore_index": 1}, (torch.log_softmax(A, 1), CLASSES)),
    ("CrossEntropyLoss", {}, (A, CLASSES)),
    ("CrossEntropyLoss", {"weight": WEIGHT, "label_smoothing": 0.2}, (A, CLASSES)),
    ("CrossEntropyLoss", {"reduction": "sum"}, (A, torch.softmax(B, 1))),
    ("BCELoss", {"weight": WEIGHT}, (P, Q)),
    ("BCEWithLogitsLoss", {"weight": WEIGHT, "pos_weight": WEIGHT, "reduction": "sum"}, (A, Q)),
    ("BCEWithLogitsLoss", {}, (A, Q)),
]


@pytest.mark.parametrize(("name", "options", "inputs"), CASES)
def test_loss(name, options, inputs):
    check_module(name, inputs=inputs, **options)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([(n, i) for n, _, i in CASES]), st.sampled_from(["mean", "sum", "none"]))
def test_reductions(case, reduction):
    name, inputs = case
    pair = build(name, reduction=reduction)
    check_attributes(pair)
    check_forward(pair, *inputs)


@settings(max_examples=10, deadline=None)
@given(
    st.sampled_from(["L1Loss", "MSELoss", "SmoothL1Loss", "NLLLoss", "CrossEntropyLoss", "BCELoss", "BCEWithLogitsLoss"]),
    st.sampled_from([None, True, False]),
    st.sampled_from([None, True, False]),
)
def test_deprecated_flags(name, size_average, reduce):
    check_signature(name)
    flags = {"size_average": size_average, "reduce": reduce}
    if size_average is reduce is None:
        check_attributes(build(name, **flags))
        return
    with pytest.warns(UserWarning, match="deprecated"):
        ours = getattr(nn, name)(**flags)
    with pytest.warns(UserWarning):
        theirs = getattr(torch.nn, name)(**flags)
    check_attributes(Pair(ours, theirs))


def test_the_weight_is_a_buffer():
    loss = nn.CrossEntropyLoss(converted(WEIGHT))
    assert list(loss.state_dict()) == ["weight"]
    assert not list(loss.parameters())
    assert nn.Sequential(loss).half()[0].weight.dtype == jnp.float16
    np.testing.assert_array_equal(nn.NLLLoss(WEIGHT.numpy()).weight, WEIGHT.numpy())


def test_refusals():
    check_refused("MSELoss", reduction="median", inputs=(A, B))
    check_refused("HuberLoss", delta="small", match="delta must be a float or int")
    check_refused("CrossEntropyLoss", weight=[1.0, 2.0, 3.0])
    check_refused("CrossEntropyLoss", inputs=(A, torch.tensor([0, 1, 2, 5])))
    check_refused("BCELoss", inputs=(A + 5, Q))
    check_refused("NLLLoss", inputs=(A, CLASSES[:3]))
