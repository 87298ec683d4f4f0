"""LayerNorm, RMSNorm, GroupNorm and the response norms against torch's."""

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
    check_refused("RMSNorm", 4, inputs=(torch.randn(2, 5),))
    check_refused("RMSNorm", 2.5)
    check_refused("GroupNorm", 2, 3)
    check_refused("GroupNorm", 0, 3)
    check_refused("GroupNorm", 2, 4, inputs=(torch.randn(2, 3, 2),))
    check_refused("LocalResponseNorm", 2, inputs=(torch.randn(2, 3),))
    check_refused("CrossMapLRN2d", 2, inputs=(torch.randn(2, 3, 4),))


@pytest.mark.parametrize(
    ("name", "arguments", "options", "shape"),
    [
        ("RMSNorm", ((3, 4),), {}, (2, 3, 4)),
        ("GroupNorm", (2, 4), {"eps": 0.1}, (2, 4, 3)),
        ("LocalResponseNorm", (3, 0.5), {}, (2, 4, 3)),
        ("CrossMapLRN2d", (3, 0.5), {}, (2, 4, 2, 1)),
    ],
)
def test_other_norms(name, arguments, options, shape):
    check_module(name, *arguments, inputs=(torch.randn(shape),), **options)


@settings(max_examples=4, deadline=None)
@given(st.none() | st.floats(1e-6, 1), st.booleans(), st.booleans(), st.sampled_from([torch.float32, torch.bfloat16]))
def test_other_arguments(eps, affine, bias, dtype):
    pair = build("RMSNorm", [2, 5], eps, affine, None, dtype)
    check_attributes(pair)
    check_forward(pair, torch.randn(3, 2, 5).to(dtype))
    pair = build("GroupNorm", 1, 2, eps or 1e-5, affine, None, dtype, bias=bias)
    check_attributes(pair)
    check_forward(pair, torch.randn(3, 2, 5).to(dtype))
