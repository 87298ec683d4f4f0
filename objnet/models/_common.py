"""What the image models share: a refusal to download, channel rounding, and the block of convolution, norm and activation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from objnet import nn

__all__ = ["Conv2dNormActivation", "make_divisible", "no_download"]

Layer = Callable[..., nn.Module]


def no_download(weights: Any) -> None:
    """Refuse torchvision's ``weights=`` argument: objnet opens no network connection.

    Raises:
        ValueError: ``weights`` is not None.
    """
    if weights is not None:
        raise ValueError(
            f"weights={weights!r}: objnet downloads nothing. Build the model without it and call "
            "model.load_state_dict(...) with torchvision's state dict, whose keys are the same."
        )


def make_divisible(value: float, divisor: int, smallest: int | None = None) -> int:
    """The multiple of ``divisor`` nearest to ``value``, at least ``smallest`` and at least 90 % of ``value`` (MobileNet)."""
    rounded = max(divisor if smallest is None else smallest, int(value + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * value else rounded + divisor


class Conv2dNormActivation(nn.Sequential):
    """Convolution, normalisation, activation (torchvision's ``ops.Conv2dNormActivation``); keys "0", "1", "2".

    Input (N, in_channels, H, W). The padding keeps the size at stride 1, and the convolution has a bias only where no
    normalisation follows, unless ``padding`` and ``bias`` say otherwise.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int | None = None,
        groups: int = 1,
        norm_layer: Layer | None = nn.BatchNorm2d,
        activation_layer: Layer | None = nn.ReLU,
        dilation: int = 1,
        inplace: bool | None = True,
        bias: bool | None = None,
    ) -> None:
        if padding is None:
            padding = (kernel_size - 1) // 2 * dilation
        if bias is None:
            bias = norm_layer is None
        layers: list[nn.Module] = [nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)]
        if norm_layer is not None:
            layers.append(norm_layer(out_channels))
        if activation_layer is not None:
            layers.append(activation_layer() if inplace is None else activation_layer(inplace=inplace))
        super().__init__(*layers)
        self.out_channels = out_channels
