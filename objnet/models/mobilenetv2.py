"""MobileNetV2 (Sandler et al. 2018) with the keys, arguments and initial values of ``torchvision.models.mobilenetv2``.

Images are (N, 3, H, W) floats, the result is (N, num_classes).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

import objnet.nn.functional as F
from objnet import nn
from objnet.models._common import Conv2dNormActivation, Layer, make_divisible, no_download

__all__ = ["InvertedResidual", "MobileNetV2", "mobilenet_v2"]

# expansion, channels, blocks, stride of the first
SETTING = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """Widen, filter each channel, narrow: (N, inp, H, W) to (N, oup, H / stride, W / stride), with a shortcut if it fits.

    Raises:
        ValueError: a stride that is neither 1 nor 2.
    """

    def __init__(self, inp: int, oup: int, stride: int, expand_ratio: int, norm_layer: Layer | None = None) -> None:
        super().__init__()
        if stride not in (1, 2):
            raise ValueError(f"stride should be 1 or 2 instead of {stride}")
        norm_layer = norm_layer or nn.BatchNorm2d
        self.stride = stride
        self.use_res_connect = stride == 1 and inp == oup
        self.out_channels = oup
        hidden = round(inp * expand_ratio)
        common: dict[str, Any] = {"norm_layer": norm_layer, "activation_layer": nn.ReLU6}
        widen = [] if expand_ratio == 1 else [Conv2dNormActivation(inp, hidden, kernel_size=1, **common)]
        self.conv = nn.Sequential(
            *widen,
            Conv2dNormActivation(hidden, hidden, stride=stride, groups=hidden, **common),
            nn.Conv2d(hidden, oup, kernel_size=1, bias=False),
            norm_layer(oup),
        )

    def forward(self, x: jax.Array) -> jax.Array:
        return x + self.conv(x) if self.use_res_connect else self.conv(x)


class MobileNetV2(nn.Module):
    """Inverted residuals between two convolutions, average pooling and a classifier (torchvision's ``MobileNetV2``).

    Args:
        num_classes: number of logits.
        width_mult: factor on every number of channels.
        inverted_residual_setting: rows of expansion, channels, blocks and first stride.
        round_nearest: numbers of channels are rounded to a multiple of this; 1 rounds nothing.
        block: class of the blocks, arguments as :class:`InvertedResidual`.
        norm_layer: makes a normalisation from a number of channels; ``nn.BatchNorm2d`` if None.
        dropout: probability, before the classifier.

    Raises:
        ValueError: an ``inverted_residual_setting`` without rows of four.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        width_mult: float = 1.0,
        inverted_residual_setting: Sequence[Sequence[int]] | None = None,
        round_nearest: int = 8,
        block: Layer | None = None,
        norm_layer: Layer | None = None,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        block, norm_layer = block or InvertedResidual, norm_layer or nn.BatchNorm2d
        setting = SETTING if inverted_residual_setting is None else inverted_residual_setting
        if not setting or any(len(row) != 4 for row in setting):
            raise ValueError(
                f"inverted_residual_setting should have rows of four numbers (t, c, n, s), got {inverted_residual_setting}"
            )
        common: dict[str, Any] = {"norm_layer": norm_layer, "activation_layer": nn.ReLU6}
        channels = make_divisible(32 * width_mult, round_nearest)
        self.last_channel = make_divisible(1280 * max(1.0, width_mult), round_nearest)
        features: list[nn.Module] = [Conv2dNormActivation(3, channels, stride=2, **common)]
        for expansion, width, blocks, stride in setting:
            width = make_divisible(width * width_mult, round_nearest)
            for index in range(blocks):
                features.append(block(channels, width, 1 if index else stride, expansion, norm_layer=norm_layer))
                channels = width
        features.append(Conv2dNormActivation(channels, self.last_channel, kernel_size=1, **common))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.Dropout(p=dropout), nn.Linear(self.last_channel, num_classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
                nn.init.zeros_(module.bias)

    def forward(self, x: jax.Array) -> jax.Array:
        x = F.adaptive_avg_pool2d(self.features(x), (1, 1))
        return self.classifier(x.reshape(x.shape[0], -1))


def mobilenet_v2(*, weights: None = None, **kwargs: Any) -> MobileNetV2:
    """MobileNetV2; ``kwargs`` go to :class:`MobileNetV2`, and ``weights`` must be None (nothing is downloaded)."""
    no_download(weights)
    return MobileNetV2(**kwargs)
