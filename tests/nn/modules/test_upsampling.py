"""Upsampling and shuffling modules against torch's."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from tests.nn.module_parity import build, check_attributes, check_module, check_refused  # noqa: E402


@pytest.mark.parametrize(
    ("name", "options", "shape"),
    [
        ("Upsample", {"size": 7}, (2, 3, 4)),
        ("Upsample", {"scale_factor": (2, 1.5), "mode": "bilinear", "align_corners": True}, (1, 2, 3, 4)),
        ("Upsample", {"scale_factor": 1.7, "mode": "trilinear", "recompute_scale_factor": True}, (1, 2, 3, 2, 3)),
        ("UpsamplingNearest2d", {"scale_factor": 2}, (1, 2, 3, 4)),
        ("UpsamplingBilinear2d", {"size": (5, 3)}, (1, 2, 3, 4)),
        ("PixelShuffle", {"upscale_factor": 2}, (2, 8, 3, 4)),
        ("PixelUnshuffle", {"downscale_factor": 2}, (3, 4, 6)),
        ("ChannelShuffle", {"groups": 3}, (1, 6, 2, 3)),
    ],
)
def test_modules(name, options, shape):
    check_module(name, inputs=(torch.randn(shape),), **options)


def test_attributes():
    check_attributes(build("Upsample"))
    check_attributes(build("Upsample", (3, 4), mode="area"))
    check_attributes(build("Upsample", None, 0))
    check_attributes(build("UpsamplingNearest2d", scale_factor=(1, 2)))


def test_refusals():
    x = torch.randn(2, 3, 4, 5)
    check_refused("Upsample", inputs=(x,))
    check_refused("Upsample", 3, 2.0, inputs=(x,))
    check_refused("Upsample", 3, mode="linear", inputs=(x,))
    check_refused("Upsample", 3, align_corners=True, inputs=(x,))
    check_refused("UpsamplingBilinear2d", (2, 3, 4), inputs=(x,))
    check_refused("Upsample", scale_factor="x")
    check_refused("PixelShuffle", 2, inputs=(x,))
    check_refused("PixelUnshuffle", 3, inputs=(x,))
    check_refused("ChannelShuffle", 2, inputs=(x,))
