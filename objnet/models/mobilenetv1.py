"""MobileNetV1 (Howard et al. 2017), which torchvision lacks: the network of Haiku's ``nets.MobileNetV1`` in torchvision's style.

Images are (N, 3, H, W) floats, the result is (N, num_classes).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

import objnet.nn.functional as F
from objnet import nn
from objnet.models._common import Conv2dNormActivation, Layer, no_download

__all__ = ["MobileNetV1", "mobilenet_v1"]

# channels of each block, and its stride
SETTING = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))


class MobileNetV1(nn.Module):
    """A convolution, blocks that filter each channel and then mix channels, average pooling and a classifier.

    Args:
        num_classes: number of logits.
        setting: rows of channels and stride, one for each block.
        norm_layer: makes a normalisation from a number of channels; None leaves it out, and convolutions get biases.

    Raises:
        ValueError: a ``setting`` without rows of two.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        setting: Sequence[Sequence[int]] = SETTING,
        norm_layer: Layer | None = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        if not setting or any(len(row) != 2 for row in setting):
            raise ValueError(f"setting should have rows of two numbers (channels, stride), got {setting}")
        width = 32
        features: list[nn.Module] = [Conv2dNormActivation(3, width, stride=2, padding=0, norm_layer=norm_layer)]
        for channels, stride in setting:
            depthwise = Conv2dNormActivation(width, width, stride=stride, groups=width, norm_layer=norm_layer)
            pointwise = Conv2dNormActivation(width, channels, kernel_size=1, norm_layer=norm_layer)
            features.append(nn.Sequential(depthwise, pointwise))
            width = channels
        self.features = nn.Sequential(*features)
        self.classifier = nn.Linear(width, num_classes)
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


def mobilenet_v1(*, weights: None = None, **kwargs: Any) -> MobileNetV1:
    """MobileNetV1; ``kwargs`` go to :class:`MobileNetV1`, and ``weights`` must be None (nothing is downloaded)."""
    no_download(weights)
    return MobileNetV1(**kwargs)
