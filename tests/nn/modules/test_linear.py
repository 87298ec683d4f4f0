"""Linear and Identity against torch's."""

from __future__ import annotations

import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from objnet import nn  # noqa: E402
from tests.nn.module_parity import build, check_attributes, check_forward, check_module, check_refused, check_signature  # noqa: E402


@pytest.mark.parametrize("bias", [True, False])
def test_linear(bias):
    check_module("Linear", 5, 3, bias=bias, inputs=(torch.randn(4, 5),))


@settings(max_examples=6, deadline=None)
@given(
    st.integers(1, 20),
    st.integers(1, 20),
    st.booleans(),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_linear_arguments(inputs, outputs, bias, dtype):
    pair = build("Linear", inputs, outputs, bias, dtype=dtype)
    check_attributes(pair)
    check_forward(pair, torch.randn(2, 1, inputs).to(dtype))


def test_linear_of_nothing():
    with pytest.warns(UserWarning):
        pair = build("Linear", 0, 3)
    check_attributes(pair)
    check_forward(pair, torch.randn(2, 0))


def test_linear_refusals():
    check_refused("Linear", 5, 3, inputs=(torch.randn(4, 6),))
    check_refused("Linear", -1, 3, match="negative dimension -1")
    check_refused("Linear", 2.5, 3)
    check_refused("Linear", 5, 3, device="nowhere")
    with pytest.raises(RuntimeError, match="64-bit"):
        nn.Linear(2, 2, dtype="float64")
    with pytest.raises(RuntimeError, match="floating point"):
        nn.Linear(2, 2, dtype="int32")


def test_linear_device():
    import jax

    second = jax.devices("cpu")[1]
    for device in (second, "cpu:1"):
        layer = nn.Linear(2, 2, device=device)
        assert {v.device for v in layer.state_dict().values()} == {second}
    assert nn.Linear(2, 2).weight.device == jax.devices()[0]


def test_identity():
    check_signature("Identity")
    pair = build("Identity", 54, unused=True)
    check_attributes(pair)
    x = jnp.ones(3)
    assert pair.ours(x) is x
