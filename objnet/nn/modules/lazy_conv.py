"""Convolutions whose number of input channels is that of their first input."""

from __future__ import annotations

from typing import Any, Literal

import jax

from objnet.core.arrays import as_array
from objnet.nn.modules._sizes import Size1, Size2, Size3
from objnet.nn.modules.conv import Conv1d, Conv2d, Conv3d
from objnet.nn.modules.conv_transpose import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from objnet.nn.modules.lazy import LazyModuleMixin, materialize
from objnet.nn.parameter import UninitializedParameter

__all__ = ["LazyConv1d", "LazyConv2d", "LazyConv3d", "LazyConvTranspose1d", "LazyConvTranspose2d", "LazyConvTranspose3d"]


class _LazyConvXdMixin(LazyModuleMixin):
    """What lazy convolutions share."""

    _function: Any
    weight: Any
    bias: Any
    groups: int
    transposed: bool
    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...]

    def __init__(self, out_channels: int, bias: bool, device: Any, dtype: Any, *args: Any) -> None:
        super().__init__(0, 0, *args)
        self.weight = UninitializedParameter(device=device, dtype=dtype)
        self.out_channels = out_channels
        if bias:
            self.bias = UninitializedParameter(device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        """Draw new initial values, once there are parameters."""
        if not self.has_uninitialized_params() and self.in_channels != 0:
            super().reset_parameters()  # type: ignore[misc]

    def initialize_parameters(self, input: jax.Array, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        """Materialise and initialise the parameters.

        Raises:
            ValueError: groups that do not divide the channels. RuntimeError: an input of other dimensions. AssertionError: only
            some of the parameters were loaded.
        """
        if not self.has_uninitialized_params():
            return
        channels = self._get_in_channels(as_array(input))
        if channels % self.groups:
            raise ValueError(f"in_channels must be divisible by groups, got {channels} and {self.groups}")
        first, second = self.out_channels, channels
        if self.transposed:
            first, second = second, first
        materialize(self, weight=(first, second // self.groups, *self.kernel_size), bias=(self.out_channels,))
        self.in_channels = channels
        self.reset_parameters()

    def _get_in_channels(self, input: jax.Array) -> int:
        n = self._get_num_spatial_dims()
        if input.ndim not in (n + 1, n + 2):
            raise RuntimeError(
                f"Expected {n + 1}D (unbatched) or {n + 2}D (batched) input to {type(self).__name__}, but got input of size: {input.shape}"
            )
        return input.shape[-n - 1]

    def _get_num_spatial_dims(self) -> int:
        return len(self.kernel_size)


class LazyConv1d(_LazyConvXdMixin, Conv1d):
    """:class:`Conv1d` whose ``in_channels`` is that of the first input (torch's ``nn.LazyConv1d``); arguments as there."""

    cls_to_become = Conv1d

    def __init__(
        self,
        out_channels: int,
        kernel_size: Size1,
        stride: Size1 = 1,
        padding: Size1 = 0,
        dilation: Size1 = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        sizes = (kernel_size, stride, padding, dilation, groups, False, padding_mode)
        super().__init__(out_channels, bias, device, dtype, *sizes)


class LazyConv2d(_LazyConvXdMixin, Conv2d):
    """:class:`Conv2d` whose ``in_channels`` is that of the first input (torch's ``nn.LazyConv2d``); arguments as there."""

    cls_to_become = Conv2d

    def __init__(
        self,
        out_channels: int,
        kernel_size: Size2,
        stride: Size2 = 1,
        padding: Size2 = 0,
        dilation: Size2 = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        sizes = (kernel_size, stride, padding, dilation, groups, False, padding_mode)
        super().__init__(out_channels, bias, device, dtype, *sizes)


class LazyConv3d(_LazyConvXdMixin, Conv3d):
    """:class:`Conv3d` whose ``in_channels`` is that of the first input (torch's ``nn.LazyConv3d``); arguments as there."""

    cls_to_become = Conv3d

    def __init__(
        self,
        out_channels: int,
        kernel_size: Size3,
        stride: Size3 = 1,
        padding: Size3 = 0,
        dilation: Size3 = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        sizes = (kernel_size, stride, padding, dilation, groups, False, padding_mode)
        super().__init__(out_channels, bias, device, dtype, *sizes)


class LazyConvTranspose1d(_LazyConvXdMixin, ConvTranspose1d):
    """:class:`ConvTranspose1d` whose ``in_channels`` is that of the first input (torch's ``nn.LazyConvTranspose1d``); arguments as there."""

    cls_to_become = ConvTranspose1d

    def __init__(
        self,
        out_channels: int,
        kernel_size: Size1,
        stride: Size1 = 1,
        padding: Size1 = 0,
        output_padding: Size1 = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Size1 = 1,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        sizes = (kernel_size, stride, padding, output_padding, groups, False, dilation, padding_mode)
        super().__init__(out_channels, bias, device, dtype, *sizes)


class LazyConvTranspose2d(_LazyConvXdMixin, ConvTranspose2d):
    """:class:`ConvTranspose2d` whose ``in_channels`` is that of the first input (torch's ``nn.LazyConvTranspose2d``); arguments as there."""

    cls_to_become = ConvTranspose2d

    def __init__(
        self,
        out_channels: int,
        kernel_size: Size2,
        stride: Size2 = 1,
        padding: Size2 = 0,
        output_padding: Size2 = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Size2 = 1,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        sizes = (kernel_size, stride, padding, output_padding, groups, False, dilation, padding_mode)
        super().__init__(out_channels, bias, device, dtype, *sizes)


class LazyConvTranspose3d(_LazyConvXdMixin, ConvTranspose3d):
    """:class:`ConvTranspose3d` whose ``in_channels`` is that of the first input (torch's ``nn.LazyConvTranspose3d``); arguments as there."""

    cls_to_become = ConvTranspose3d

    def __init__(
        self,
        out_channels: int,
        kernel_size: Size3,
        stride: Size3 = 1,
        padding: Size3 = 0,
        output_padding: Size3 = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Size3 = 1,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        sizes = (kernel_size, stride, padding, output_padding, groups, False, dilation, padding_mode)
        super().__init__(out_channels, bias, device, dtype, *sizes)
