"""Depthwise convolutions: filters for each channel alone.

In torch they are written as a convolution with ``groups=in_channels``, which these are.
"""

from __future__ import annotations

from typing import Any, Literal

from objnet.nn.modules._sizes import Size1, Size2, Size3, spread
from objnet.nn.modules.container import Sequential
from objnet.nn.modules.conv import Conv1d, Conv2d, Conv3d

__all__ = ["DepthwiseConv1d", "DepthwiseConv2d", "DepthwiseConv3d", "SeparableDepthwiseConv2d"]

_Mode = Literal["zeros", "reflect", "replicate", "circular"]


class DepthwiseConv1d(Conv1d):
    """``channel_multiplier`` filters for each channel (Haiku's DepthwiseConv1D).

    Input (N, in_channels, L) or (in_channels, L), output alike with ``in_channels * channel_multiplier`` channels, those of one
    input channel together. ``weight`` is (in_channels * channel_multiplier, 1, *kernel_size). The other arguments, initial values
    and errors as :class:`Conv1d`.
    """

    def __init__(
        self,
        in_channels: int,
        channel_multiplier: int,
        kernel_size: Size1,
        stride: Size1 = 1,
        padding: str | Size1 = 0,
        dilation: Size1 = 1,
        bias: bool = True,
        padding_mode: _Mode = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        out = in_channels * channel_multiplier
        super().__init__(in_channels, out, kernel_size, stride, padding, dilation, in_channels, bias, padding_mode, device, dtype)
        self.channel_multiplier = channel_multiplier


class DepthwiseConv2d(Conv2d):
    """:class:`DepthwiseConv1d` over 2 dimensions (Haiku's DepthwiseConv2D)."""

    def __init__(
        self,
        in_channels: int,
        channel_multiplier: int,
        kernel_size: Size2,
        stride: Size2 = 1,
        padding: str | Size2 = 0,
        dilation: Size2 = 1,
        bias: bool = True,
        padding_mode: _Mode = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        out = in_channels * channel_multiplier
        super().__init__(in_channels, out, kernel_size, stride, padding, dilation, in_channels, bias, padding_mode, device, dtype)
        self.channel_multiplier = channel_multiplier


class DepthwiseConv3d(Conv3d):
    """:class:`DepthwiseConv1d` over 3 dimensions (Haiku's DepthwiseConv3D)."""

    def __init__(
        self,
        in_channels: int,
        channel_multiplier: int,
        kernel_size: Size3,
        stride: Size3 = 1,
        padding: str | Size3 = 0,
        dilation: Size3 = 1,
        bias: bool = True,
        padding_mode: _Mode = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        out = in_channels * channel_multiplier
        super().__init__(in_channels, out, kernel_size, stride, padding, dilation, in_channels, bias, padding_mode, device, dtype)
        self.channel_multiplier = channel_multiplier


class SeparableDepthwiseConv2d(Sequential):
    """A depthwise convolution of columns, then one of rows (Haiku's SeparableDepthwiseConv2D); keys "0" and "1".

    Input (N, in_channels, H, W) or without N, output alike with ``in_channels * channel_multiplier`` channels. At stride 1 it is a
    :class:`DepthwiseConv2d` whose kernels are outer products. The first convolution takes all of the stride, as Haiku's does, so
    that the second filters every ``stride[1]``-th column.

    Args:
        in_channels: channels of the input.
        channel_multiplier: filters for each channel in the first convolution; the second has one.
        kernel_size: height of the first kernel and width of the second.
        stride: steps between windows, of the first convolution.
        padding: what is added above and below, and left and right; ``"same"`` keeps the size, ``"valid"`` adds none.
        bias: whether the second convolution has a bias; the first has none.
        device: where the parameters live, as in :meth:`Module.to`.
        dtype: their dtype.

    Raises:
        ValueError: as :class:`Conv2d`.
    """

    def __init__(
        self,
        in_channels: int,
        channel_multiplier: int,
        kernel_size: Size2,
        stride: Size2 = 1,
        padding: str | Size2 = 0,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        height, width = spread(kernel_size, 2)
        columns: Any = padding
        rows: Any = padding
        if not isinstance(padding, str):
            above, beside = spread(padding, 2)
            columns, rows = (above, 0), (0, beside)
        channels = in_channels * channel_multiplier
        super().__init__(
            DepthwiseConv2d(
                in_channels, channel_multiplier, (height, 1), stride, columns, bias=False, device=device, dtype=dtype
            ),
            DepthwiseConv2d(channels, 1, (1, width), 1, rows, bias=bias, device=device, dtype=dtype),
        )
