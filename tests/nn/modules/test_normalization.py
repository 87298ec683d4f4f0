"""LayerNorm against torch's."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from tests.nn.module_parity import build, check_attributes, check_forward, check_module, check_refused  # noqa: E402


@pytest.mark.parametrize(
    ("shape", "options"), [(4, {}), ((3, 4), {"bias": False}), ([4], {"elementwise_affine": False}), (torch.Size([4]), {})]
)
def test_layer_norm(shape, options):
    check_module("LayerNorm", shape, inputs=(torch.randn(2, 3, 4),), **options)


@settings(max_examples=6, deadline=None)
@given(
    st.sampled_from([5, (5,), [2, 5]]),
    st.floats(1e-6, 1),
    st.booleans(),
    st.booleans(),
    st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_layer_norm_arguments(shape, eps, affine, bias, dtype):
    pair = build("LayerNorm", shape, eps, affine, bias, None, dtype)
    check_attributes(pair)
    check_forward(pair, torch.randn(3, 2, 5).to(dtype))


def test_refusals():
    check_refused("LayerNorm", 4, inputs=(torch.randn(2, 5),))
    check_refused("LayerNorm", 2.5)
