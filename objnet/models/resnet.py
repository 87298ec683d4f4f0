"""Residual networks (He et al. 2015), ResNeXt (Xie et al. 2017) and wide ones (Zagoruyko and Komodakis 2016).

Keys, arguments and initial values are those of ``torchvision.models.resnet``.  As there, a bottleneck strides in its 3x3
convolution ("ResNet 1.5").  Images are (N, 3, H, W) floats, the result is (N, num_classes).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import jax

from objnet import nn
from objnet.models._common import Layer, no_download

__all__ = [
    "BasicBlock",
    "Bottleneck",
    "ResNet",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnet200",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
]


def conv3x3(inplanes: int, planes: int, stride: int = 1, groups: int = 1, dilation: int = 1) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size at stride 1."""
    return nn.Conv2d(inplanes, planes, 3, stride, padding=dilation, dilation=dilation, groups=groups, bias=False)


def conv1x1(inplanes: int, planes: int, stride: int = 1) -> nn.Conv2d:
    """A linear map of the channels."""
    return nn.Conv2d(inplanes, planes, 1, stride, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut: (N, inplanes, H, W) to (N, planes, H / stride, W / stride).

    Raises:
        ValueError: ``groups`` or ``base_width``, which only bottlenecks have.
        NotImplementedError: a dilation.
    """

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
        self.conv1 = conv3x3(inplanes, planes, stride)
        self.bn1 = norm_layer(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv3x3(planes, planes)
        self.bn2 = norm_layer(planes)
        self.downsample = downsample
        self.stride = stride

    def forward(self, x: jax.Array) -> jax.Array:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        return self.relu(x + shortcut)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions around a shortcut: (N, inplanes, H, W) to (N, 4 planes, H / stride, W / stride)."""

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
        self.conv1 = conv1x1(inplanes, width)
        self.bn1 = norm_layer(width)
        self.conv2 = conv3x3(width, width, stride, groups, dilation)
        self.bn2 = norm_layer(width)
        self.conv3 = conv1x1(width, planes * self.expansion)
        self.bn3 = norm_layer(planes * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample
        self.stride = stride

    def forward(self, x: jax.Array) -> jax.Array:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        return self.relu(x + shortcut)


class ResNet(nn.Module):
    """A stem, four stages of residual blocks, average pooling and a classifier (torchvision's ``ResNet``).

    Args:
        block: :class:`BasicBlock` or :class:`Bottleneck`.
        layers: the number of blocks in each of the four stages.
        num_classes: number of logits.
        zero_init_residual: start every residual branch at zero (Goyal et al. 2017).
        groups: groups of a bottleneck's 3x3 convolution.
        width_per_group: their width at 64 planes.
        replace_stride_with_dilation: for the last three stages, whether to dilate instead of striding.
        norm_layer: makes a normalisation from a number of channels; ``nn.BatchNorm2d`` if None.

    Raises:
        ValueError: ``replace_stride_with_dilation`` of another length than three.
    """

    def __init__(
        self,
        block: Any,
        layers: Sequence[int],
        num_classes: int = 1000,
        zero_init_residual: bool = False,
        groups: int = 1,
        width_per_group: int = 64,
        replace_stride_with_dilation: Sequence[bool] | None = None,
        norm_layer: Layer | None = None,
    ) -> None:
        super().__init__()
        self._norm_layer = norm_layer or nn.BatchNorm2d
        self.inplanes = 64
        self.dilation = 1
        dilated = (False, False, False) if replace_stride_with_dilation is None else tuple(replace_stride_with_dilation)
        if len(dilated) != 3:
            raise ValueError(f"replace_stride_with_dilation must be None or have 3 elements, got {replace_stride_with_dilation}")
        self.groups = groups
        self.base_width = width_per_group
        self._make_stem()
        self.layer1 = self._make_layer(block, 64, layers[0])
        self.layer2 = self._make_layer(block, 128, layers[1], stride=2, dilate=dilated[0])
        self.layer3 = self._make_layer(block, 256, layers[2], stride=2, dilate=dilated[1])
        self.layer4 = self._make_layer(block, 512, layers[3], stride=2, dilate=dilated[2])
        self._make_head(512 * block.expansion, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if zero_init_residual:
            self._zero_residual_branches()

    def _make_stem(self) -> None:
        self.conv1 = nn.Conv2d(3, self.inplanes, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = self._norm_layer(self.inplanes)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)

    def _make_layer(self, block: Any, planes: int, blocks: int, stride: int = 1, dilate: bool = False) -> nn.Sequential:
        dilation = self.dilation  # of the first block; the others have the new one
        if dilate:
            self.dilation, stride = self.dilation * stride, 1
        outplanes = planes * block.expansion
        downsample = None
        if stride != 1 or self.inplanes != outplanes:
            downsample = self._make_downsample(self.inplanes, outplanes, stride)
        widths = (self.groups, self.base_width)
        stage = [block(self.inplanes, planes, stride, downsample, *widths, dilation, self._norm_layer)]
        self.inplanes = outplanes
        for _ in range(1, blocks):
            stage.append(block(outplanes, planes, 1, None, *widths, self.dilation, self._norm_layer))
        return nn.Sequential(*stage)

    def _make_downsample(self, inplanes: int, outplanes: int, stride: int) -> nn.Module:
        return nn.Sequential(conv1x1(inplanes, outplanes, stride), self._norm_layer(outplanes))

    def _make_head(self, features: int, num_classes: int) -> None:
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(features, num_classes)

    def _zero_residual_branches(self) -> None:
        for module in self.modules():
            last = module.bn3 if isinstance(module, Bottleneck) else module.bn2 if isinstance(module, BasicBlock) else None
            if last is not None and last.weight is not None:
                nn.init.zeros_(last.weight)

    def forward(self, x: jax.Array) -> jax.Array:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = self.avgpool(x)
        return self.fc(x.reshape(x.shape[0], -1))


def bottleneck_width(planes: int, groups: int, base_width: int) -> int:
    """Channels of a bottleneck's 3x3 convolution."""
    return int(planes * (base_width / 64.0)) * groups


def check_basic(groups: int, base_width: int, dilation: int) -> None:
    """Refuse what basic blocks lack."""
    if groups != 1 or base_width != 64:
        raise ValueError(f"BasicBlock only supports groups=1 and base_width=64, got {groups} and {base_width}")
    if dilation > 1:
        raise NotImplementedError(f"Dilation > 1 not supported in BasicBlock, got {dilation}")


def resnet18(*, weights: None = None, **kwargs: Any) -> ResNet:
    """ResNet-18; ``kwargs`` go to :class:`ResNet`, and ``weights`` must be None (nothing is downloaded)."""
    no_download(weights)
    return ResNet(BasicBlock, [2, 2, 2, 2], **kwargs)


def resnet34(*, weights: None = None, **kwargs: Any) -> ResNet:
    """ResNet-34; arguments as :func:`resnet18`."""
    no_download(weights)
    return ResNet(BasicBlock, [3, 4, 6, 3], **kwargs)


def resnet50(*, weights: None = None, **kwargs: Any) -> ResNet:
    """ResNet-50; arguments as :func:`resnet18`."""
    no_download(weights)
    return ResNet(Bottleneck, [3, 4, 6, 3], **kwargs)


def resnet101(*, weights: None = None, **kwargs: Any) -> ResNet:
    """ResNet-101; arguments as :func:`resnet18`."""
    no_download(weights)
    return ResNet(Bottleneck, [3, 4, 23, 3], **kwargs)


def resnet152(*, weights: None = None, **kwargs: Any) -> ResNet:
    """ResNet-152; arguments as :func:`resnet18`."""
    no_download(weights)
    return ResNet(Bottleneck, [3, 8, 36, 3], **kwargs)


def resnet200(*, weights: None = None, **kwargs: Any) -> ResNet:
    """ResNet-200 (Haiku's; torchvision has none); arguments as :func:`resnet18`."""
    no_download(weights)
    return ResNet(Bottleneck, [3, 24, 36, 3], **kwargs)


def resnext50_32x4d(*, weights: None = None, **kwargs: Any) -> ResNet:
    """ResNeXt-50 of 32 groups of width 4; arguments as :func:`resnet18`."""
    return resnet50(weights=weights, **{"groups": 32, "width_per_group": 4} | kwargs)


def resnext101_32x8d(*, weights: None = None, **kwargs: Any) -> ResNet:
    """ResNeXt-101 of 32 groups of width 8; arguments as :func:`resnet18`."""
    return resnet101(weights=weights, **{"groups": 32, "width_per_group": 8} | kwargs)


def resnext101_64x4d(*, weights: None = None, **kwargs: Any) -> ResNet:
    """ResNeXt-101 of 64 groups of width 4; arguments as :func:`resnet18`."""
    return resnet101(weights=weights, **{"groups": 64, "width_per_group": 4} | kwargs)


def wide_resnet50_2(*, weights: None = None, **kwargs: Any) -> ResNet:
    """ResNet-50 with bottlenecks twice as wide; arguments as :func:`resnet18`."""
    return resnet50(weights=weights, **{"width_per_group": 128} | kwargs)


def wide_resnet101_2(*, weights: None = None, **kwargs: Any) -> ResNet:
    """ResNet-101 with bottlenecks twice as wide; arguments as :func:`resnet18`."""
    return resnet101(weights=weights, **{"width_per_group": 128} | kwargs)
