"""Pooling modules against torch's."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from tests.nn.module_parity import build, check_attributes, check_forward, check_module, check_outputs, check_refused, converted  # noqa: E402

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
        ("AdaptiveMaxPool1d", {"output_size": 4}),
        ("AdaptiveMaxPool2d", {"output_size": (None, 4), "return_indices": True}),
        ("AdaptiveMaxPool3d", {"output_size": 2}),
        ("LPPool1d", {"norm_type": 2, "kernel_size": 3}),
        ("LPPool2d", {"norm_type": 2.0, "kernel_size": (3, 2), "stride": 2, "ceil_mode": True}),
        ("LPPool3d", {"norm_type": 4, "kernel_size": 2}),
    ],
)
def test_pooling(name, options):
    check_module(name, inputs=(torch.randn(SHAPES[int(name[-2])]),), **options)


@pytest.mark.parametrize("name", ["MaxUnpool1d", "MaxUnpool2d", "MaxUnpool3d"])
def test_unpooling(name):
    n = int(name[-2])
    x, indices = getattr(torch.nn, f"MaxPool{n}d")(2, return_indices=True)(torch.randn(2, 2, *[4] * n))
    check_module(name, 2, inputs=(x, indices))
    pair = build(name, (2,) * n, 2, padding=0)
    check_attributes(pair)
    # not compiled: there an integer argument is a traced one, and no size
    check_outputs(pair.ours(*converted((x, indices)), (5,) * n), pair.theirs(x, indices, (5,) * n))
    check_refused(name, 2, inputs=(x, indices, (7,) * n))


@pytest.mark.parametrize("name", ["FractionalMaxPool2d", "FractionalMaxPool3d"])
def test_fractional(name):
    n = int(name[-2])
    x, samples = torch.randn(2, 2, *[7] * n), torch.rand(2, 2, n)
    for options in ({"output_size": 3, "return_indices": True}, {"output_ratio": (0.5,) * n}):
        pair = build(name, 2, _random_samples=samples, **options)
        check_attributes(pair)
        check_forward(pair, x)
    check_attributes(build(name, (2,) * n, output_ratio=0.6))
    for options in ({}, {"output_size": 2, "output_ratio": 0.5}, {"output_ratio": 1.0}, {"output_ratio": (0.5,)}):
        check_refused(name, 2, **options)


def sizes(low, high, dims):
    each = st.integers(low, high)
    return each | st.tuples(*[each] * dims)


@settings(max_examples=6, deadline=None)
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
    check_refused("AdaptiveMaxPool2d", (2, 2, 2), inputs=(x,))
    check_refused("FractionalMaxPool3d", (2, 0, 2), 3)
    check_refused("FractionalMaxPool2d", 9, 3, inputs=(x,))
    check_refused("LPPool1d", 2, (2,), inputs=(x[0],))
    check_refused("LPPool2d", 0, 2, inputs=(x,))
