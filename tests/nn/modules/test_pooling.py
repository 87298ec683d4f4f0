"""Pooling modules against torch's."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from tests.nn.module_parity import build, check_attributes, check_forward, check_module, check_refused  # noqa: E402

SHAPES = {1: (2, 3, 9), 2: (2, 3, 7, 6), 3: (1, 2, 5, 4, 6)}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("MaxPool1d", {"kernel_size": 3, "stride": 2, "padding": 1, "return_indices": True}),
        ("MaxPool2d", {"kernel_size": 2}),
        ("MaxPool2d", {"kernel_size": (3, 2), "stride": (2, 1), "dilation": (1, 2), "ceil_mode": True}),
        ("MaxPool3d", {"kernel_size": 2, "stride": 2}),
        ("AvgPool1d", {"kernel_size": 3, "padding": 1}),
        ("AvgPool2d", {"kernel_size": (3, 2), "stride": 2, "padding": (1, 0), "count_include_pad": False}),
        ("AvgPool2d", {"kernel_size": 2, "divisor_override": 3}),
        ("AvgPool3d", {"kernel_size": 2, "ceil_mode": True}),
        ("AdaptiveAvgPool1d", {"output_size": 4}),
        ("AdaptiveAvgPool2d", {"output_size": (None, 4)}),
        ("AdaptiveAvgPool2d", {"output_size": 1}),
        ("AdaptiveAvgPool3d", {"output_size": (2, 3, None)}),
    ],
)
def test_pooling(name, options):
    check_module(name, inputs=(torch.randn(SHAPES[int(name[-2])]),), **options)


def sizes(low, high, dims):
    each = st.integers(low, high)
    return each | st.tuples(*[each] * dims)


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_arguments(data):
    dims = data.draw(st.sampled_from([1, 2, 2, 3]))
    kind = data.draw(st.sampled_from(["MaxPool", "AvgPool", "AdaptiveAvgPool"]))
    kernel = data.draw(sizes(2, 3, dims))
    stride = data.draw(st.none() | sizes(1, 3, dims))
    padding = data.draw(sizes(0, 1, dims))
    ceil = data.draw(st.booleans())
    if kind == "MaxPool":
        arguments = kernel, stride, padding, data.draw(sizes(1, 2, dims)), data.draw(st.booleans()), ceil
    elif kind == "AvgPool":
        arguments = kernel, stride, padding, ceil, data.draw(st.booleans())
    else:
        arguments = (data.draw(st.integers(1, 9)),)
    pair = build(f"{kind}{dims}d", *arguments)
    check_attributes(pair)
    shape = SHAPES[dims]
    check_forward(pair, torch.randn(shape if data.draw(st.booleans()) else shape[1:]))


def test_refusals():
    x = torch.randn(2, 3, 7, 6)
    check_refused("MaxPool2d", inputs=(x,))
    check_refused("MaxPool2d", 2, padding=2, inputs=(x,))
    check_refused("MaxPool2d", 9, inputs=(x,))
    check_refused("AvgPool2d", 2, inputs=(x[None],))
    check_refused("AvgPool2d", 2, divisor_override=0, inputs=(x,))
    check_refused("AdaptiveAvgPool2d", -1, inputs=(x,))
