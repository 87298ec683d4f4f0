"""Residual networks with pre-activation (He et al. 2016, "Identity mappings in deep residual networks").

Normalisation and activation come before each convolution, the shortcut is never normalised, and one more normalisation
follows the last stage.  torchvision has none; the names are those of its ResNet where the parts correspond.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax

from objnet import nn
from objnet.models._common import Layer
from objnet.models.resnet import ResNet, bottleneck_width, check_basic, conv1x1, conv3x3

__all__ = [
    "PreActBlock",
    "PreActBottleneck",
    "ResNetV2",
    "resnet18_v2",
    "resnet34_v2",
    "resnet50_v2",
    "resnet101_v2",
    "resnet152_v2",
    "resnet200_v2",
]


class PreActBlock(nn.Module):
    """Two pre-activated 3x3 convolutions; arguments and errors as :class:`~objnet.models.resnet.BasicBlock`."""

    expansion: ClassVar[int] = 1

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        groups: int = 1,
        base_width: int = 64,
        dilation: int = 1,
        norm_layer: Layer | None = None,
    ) -> None:
        super().__init__()
        check_basic(groups, base_width, dilation)
        norm_layer = norm_layer or nn.BatchNorm2d
        self.bn1 = norm_layer(inplanes)
        self.conv1 = conv3x3(inplanes, planes, stride)
        self.bn2 = norm_layer(planes)
        self.conv2 = conv3x3(planes, planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample
        self.stride = stride

    def forward(self, x: jax.Array) -> jax.Array:
        active = self.relu(self.bn1(x))
        # a projection shares the activation; the identity is taken before it
        shortcut = x if self.downsample is None else self.downsample(active)
        x = self.conv1(active)
        return self.conv2(self.relu(self.bn2(x))) + shortcut


class PreActBottleneck(nn.Module):
    """Pre-activated 1x1, 3x3 and 1x1 convolutions; arguments as :class:`~objnet.models.resnet.Bottleneck`."""

    expansion: ClassVar[int] = 4

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        groups: int = 1,
        base_width: int = 64,
        dilation: int = 1,
        norm_layer: Layer | None = None,
    ) -> None:
        super().__init__()
        norm_layer = norm_layer or nn.BatchNorm2d
        width = bottleneck_width(planes, groups, base_width)
        self.bn1 = norm_layer(inplanes)
        self.conv1 = conv1x1(inplanes, width)
        self.bn2 = norm_layer(width)
        self.conv2 = conv3x3(width, width, stride, groups, dilation)
        self.bn3 = norm_layer(width)
        self.conv3 = conv1x1(width, planes * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample
        self.stride = stride

    def forward(self, x: jax.Array) -> jax.Array:
        active = self.relu(self.bn1(x))
        shortcut = x if self.downsample is None else self.downsample(active)
        x = self.conv1(active)
        x = self.conv2(self.relu(self.bn2(x)))
        return self.conv3(self.relu(self.bn3(x))) + shortcut


class ResNetV2(ResNet):
    """:class:`~objnet.models.resnet.ResNet` of pre-activated blocks; the same arguments."""

    def _make_stem(self) -> None:
        self.conv1 = nn.Conv2d(3, self.inplanes, kernel_size=7, stride=2, padding=3, bias=False)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)

    def _make_downsample(self, inplanes: int, outplanes: int, stride: int) -> nn.Module:
        return conv1x1(inplanes, outplanes, stride)

    def _make_head(self, features: int, num_classes: int) -> None:
        self.bn = self._norm_layer(features)
        self.relu = nn.ReLU(inplace=True)
        super()._make_head(features, num_classes)

    def _zero_residual_branches(self) -> None:
        for module in self.modules():
            if isinstance(module, PreActBlock | PreActBottleneck):
                nn.init.zeros_((module.conv3 if isinstance(module, PreActBottleneck) else module.conv2).weight)

    def forward(self, x: jax.Array) -> jax.Array:
        x = self.maxpool(self.conv1(x))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = self.avgpool(self.relu(self.bn(x)))
        return self.fc(x.reshape(x.shape[0], -1))


def resnet18_v2(**kwargs: Any) -> ResNetV2:
    """Pre-activation ResNet-18; ``kwargs`` go to :class:`ResNetV2`."""
    return ResNetV2(PreActBlock, [2, 2, 2, 2], **kwargs)


def resnet34_v2(**kwargs: Any) -> ResNetV2:
    """Pre-activation ResNet-34; ``kwargs`` go to :class:`ResNetV2`."""
    return ResNetV2(PreActBlock, [3, 4, 6, 3], **kwargs)


def resnet50_v2(**kwargs: Any) -> ResNetV2:
    """Pre-activation ResNet-50; ``kwargs`` go to :class:`ResNetV2`."""
    return ResNetV2(PreActBottleneck, [3, 4, 6, 3], **kwargs)


def resnet101_v2(**kwargs: Any) -> ResNetV2:
    """Pre-activation ResNet-101; ``kwargs`` go to :class:`ResNetV2`."""
    return ResNetV2(PreActBottleneck, [3, 4, 23, 3], **kwargs)


def resnet152_v2(**kwargs: Any) -> ResNetV2:
    """Pre-activation ResNet-152; ``kwargs`` go to :class:`ResNetV2`."""
    return ResNetV2(PreActBottleneck, [3, 8, 36, 3], **kwargs)


def resnet200_v2(**kwargs: Any) -> ResNetV2:
    """Pre-activation ResNet-200; ``kwargs`` go to :class:`ResNetV2`."""
    return ResNetV2(PreActBottleneck, [3, 24, 36, 3], **kwargs)
