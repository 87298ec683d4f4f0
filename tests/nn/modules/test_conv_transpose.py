"""Transposed convolution modules, Fold, Unfold and Bilinear against torch's."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from tests.nn.module_parity import build, check_attributes, check_forward, check_module, check_outputs, check_refused, converted  # noqa: E402


@pytest.mark.parametrize(
    ("name", "arguments", "options", "shape"),
    [
        ("ConvTranspose1d", (4, 6, 3), {"stride": 2, "padding": 1, "groups": 2, "output_padding": 1}, (2, 4, 5)),
        ("ConvTranspose2d", (3, 5, 3, 2, 1), {}, (2, 3, 4, 3)),
        ("ConvTranspose2d", (3, 2, (4, 2)), {"stride": (2, 3), "dilation": (1, 2), "bias": False}, (3, 3, 2)),
        ("ConvTranspose3d", (2, 4, 2), {"stride": 2}, (1, 2, 2, 3, 2)),
    ],
)
def test_conv_transpose(name, arguments, options, shape):
    check_module(name, *arguments, inputs=(torch.randn(shape),), vmap=len(shape) == int(name[-2]) + 2, **options)


@pytest.mark.parametrize("size", [(9, 10), [2, 4, 10, 9], torch.Size([1, 1, 10, 10])])
def test_output_size(size):
    ours, theirs = build("ConvTranspose2d", 3, 4, 3, 2, 1)
    x = torch.randn(2, 3, 5, 5)
    check_outputs(ours(converted(x), size), theirs(x, size))
    assert ours(converted(x[0]), size[-2:]).shape == (4, *size[-2:])


def test_conv_transpose_refusals():
    x = torch.randn(2, 4, 5)
    check_refused("ConvTranspose1d", 4, 6, 3, groups=0)
    check_refused("ConvTranspose1d", 4, 6, 3, groups=4, match="divisible by groups")
    check_refused("ConvTranspose1d", 4, 6, 3, padding_mode="reflect", match='Only "zeros"')
    check_refused("ConvTranspose1d", 3, 6, 3, inputs=(x,))
    check_refused("ConvTranspose1d", 4, 6, 3, output_padding=1, inputs=(x,))
    check_refused("ConvTranspose1d", 4, 6, 3, 2, inputs=(x, (10,)), match="valid sizes range from [11] to [12]")
    check_refused("ConvTranspose1d", 4, 6, 3, 2, inputs=(x, (11, 11)))
    check_refused("ConvTranspose1d", 4, 6, 3, 2, inputs=(x, (11.5,)))
    check_refused("ConvTranspose1d", 4, 6, 3, 2, inputs=(x[0], (1, 1, 11)))


@pytest.mark.parametrize("name", ["Fold", "Unfold"])
def test_fold(name):
    size = [(4, 5)] if name == "Fold" else []
    x = torch.randn(2, 12, 12) if name == "Fold" else torch.randn(2, 3, 4, 5)
    check_module(name, *size, 2, inputs=(x,))
    x = torch.randn(12, 9) if name == "Fold" else torch.randn(3, 4, 5)
    check_attributes(pair := build(name, *size, (2, 2), (1, 2), (0, 1), stride=(1, 2)))
    check_forward(pair, x)
    check_refused(name, *size, 2, stride=0, inputs=(x,))


@pytest.mark.parametrize("bias", [True, False])
def test_bilinear(bias):
    check_module("Bilinear", 4, 3, 5, bias, inputs=(torch.randn(2, 4), torch.randn(2, 3)))


def test_bilinear_refusals():
    check_refused("Bilinear", 0, 3, 5, match="in1_features")
    check_refused("Bilinear", 4, -3, 5)
    check_refused("Bilinear", 4, 3, 5, inputs=(torch.randn(2, 4), torch.randn(2, 4)))
