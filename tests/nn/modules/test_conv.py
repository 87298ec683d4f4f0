"""Convolution modules against torch's."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from objnet import nn  # noqa: E402
from tests.nn.module_parity import build, check_attributes, check_forward, check_module, check_refused  # noqa: E402

MODES = ["zeros", "reflect", "replicate", "circular"]


@pytest.mark.parametrize(
    ("name", "arguments", "options", "shape"),
    [
        ("Conv1d", (4, 6, 3), {"stride": 2, "padding": 1, "groups": 2}, (2, 4, 9)),
        ("Conv2d", (3, 5, 3), {}, (2, 3, 6, 5)),
        ("Conv2d", (3, 4, (1, 2)), {"padding": (1, 0), "padding_mode": "circular", "bias": False}, (2, 3, 4, 5)),
        ("Conv2d", (2, 2, (4, 3)), {"padding": "same", "padding_mode": "reflect", "dilation": (1, 2)}, (1, 2, 6, 6)),
        ("Conv3d", (2, 4, 2), {"padding": "valid", "dilation": (1, 2, 1)}, (1, 2, 4, 4, 3)),
        ("Conv3d", (2, 2, 3), {"padding": 1, "padding_mode": "replicate"}, (2, 3, 4, 3)),
    ],
)
def test_conv(name, arguments, options, shape):
    check_module(name, *arguments, inputs=(torch.randn(shape),), vmap=len(shape) == arguments_dims(name), **options)


def arguments_dims(name):
    """Dimensions of a batched input."""
    return int(name[-2]) + 2


def sizes(low, high, dims):
    each = st.integers(low, high)
    return each | st.tuples(*[each] * dims)


@settings(max_examples=8, deadline=None)
@given(st.data())
def test_arguments(data):
    dims = data.draw(st.sampled_from([1, 2, 2, 3]))
    groups = data.draw(st.integers(1, 2))
    kernel = data.draw(sizes(1, 3, dims))
    padding = data.draw(st.sampled_from(["same", "valid"]) | sizes(0, 2, dims))
    stride = 1 if padding == "same" else data.draw(sizes(1, 2, dims))
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16]))
    pair = build(
        f"Conv{dims}d",
        2 * groups,
        groups,
        kernel,
        stride,
        padding,
        data.draw(sizes(1, 2, dims)),
        groups,
        data.draw(st.booleans()),
        data.draw(st.sampled_from(MODES)),
        None,
        dtype,
    )
    check_attributes(pair)
    batch = (2,) if data.draw(st.booleans()) else ()
    check_forward(pair, torch.randn(*batch, 2 * groups, *[6] * dims).to(dtype))


def test_reset_parameters():
    layer = nn.Conv2d(2, 3, 3)
    before = layer.weight.tolist()
    layer.reset_parameters()
    assert layer.weight.tolist() != before


def test_refusals():
    x = torch.randn(2, 4, 6)
    check_refused("Conv1d", 4, 6, 3, groups=0, match="groups must be a positive integer")
    check_refused("Conv1d", 4, 6, 3, groups=3, match="in_channels must be divisible by groups")
    check_refused("Conv1d", 4, 6, 3, groups=4, match="out_channels must be divisible by groups")
    check_refused("Conv1d", 4, 6, 3, padding="full", match="Invalid padding string 'full'")
    check_refused("Conv1d", 4, 6, 3, padding="same", stride=2, match="not supported for strided convolutions")
    check_refused("Conv1d", 4, 6, 3, padding_mode="mirror", match="padding_mode must be one of")
    check_refused("Conv1d", 3, 6, 3, inputs=(x,))
    check_refused("Conv2d", 4, 6, 3, inputs=(x[0],))
    check_refused("Conv1d", 4, 6, 9, inputs=(x,))
    check_refused("Conv1d", 4, 6, 3, padding=7, padding_mode="reflect", inputs=(x,))
    check_refused("Conv1d", 4, 6, -3)
