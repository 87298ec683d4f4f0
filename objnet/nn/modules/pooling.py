"""Pooling."""

from __future__ import annotations

from typing import Any

import jax

from objnet.nn import functional as F
from objnet.nn.module import Module
from objnet.nn.modules._sizes import Size1, SizeAny, spread

__all__ = [
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "LPPool1d",
    "LPPool2d",
    "LPPool3d",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
]


class _MaxPoolNd(Module):
    def __init__(
        self,
        kernel_size: SizeAny,
        stride: SizeAny | None = None,
        padding: SizeAny = 0,
        dilation: SizeAny = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = stride if stride is not None else kernel_size
        self.padding = padding
        self.dilation = dilation
        self.return_indices = return_indices
        self.ceil_mode = ceil_mode

    def _arguments(self) -> tuple[Any, ...]:
        return self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, dilation={self.dilation}, "
            f"ceil_mode={self.ceil_mode}"
        )


class MaxPool1d(_MaxPoolNd):
    """The largest element of each window (torch's ``nn.MaxPool1d``).

    Input (N, C, L) or (C, L), output alike.

    Args:
        kernel_size: size of a window.
        stride: steps between windows, ``kernel_size`` if None.
        padding: minus infinity added on both sides.
        dilation: steps between the points of a window.
        return_indices: give the pair (output, indices of the largest).
        ceil_mode: round the output size up.
    """

    def forward(self, input: jax.Array) -> Any:
        return F.max_pool1d(input, *self._arguments())


class MaxPool2d(_MaxPoolNd):
    """The largest element of each window (torch's ``nn.MaxPool2d``).

    Input (N, C, H, W) or (C, H, W), output alike. Arguments as :class:`MaxPool1d`; sizes are one number, or one for each
    dimension.
    """

    def forward(self, input: jax.Array) -> Any:
        return F.max_pool2d(input, *self._arguments())


class MaxPool3d(_MaxPoolNd):
    """The largest element of each window (torch's ``nn.MaxPool3d``).

    Input (N, C, D, H, W) or (C, D, H, W), output alike. Arguments as :class:`MaxPool2d`.
    """

    def forward(self, input: jax.Array) -> Any:
        return F.max_pool3d(input, *self._arguments())


class _AvgPoolNd(Module):
    kernel_size: Any
    stride: Any
    padding: Any

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AvgPool1d(_AvgPoolNd):
    """The mean of each window (torch's ``nn.AvgPool1d``).

    Input (N, C, L) or (C, L), output alike.

    Args:
        kernel_size: size of a window.
        stride: steps between windows, ``kernel_size`` if None.
        padding: zeros added on both sides.
        ceil_mode: round the output size up.
        count_include_pad: whether the mean counts the padding.
    """

    def __init__(
        self,
        kernel_size: Size1,
        stride: Size1 | None = None,
        padding: Size1 = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__()
        self.kernel_size = spread(kernel_size, 1)
        self.stride = spread(stride if stride is not None else kernel_size, 1)
        self.padding = spread(padding, 1)
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad

    def forward(self, input: jax.Array) -> jax.Array:
        return F.avg_pool1d(input, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad)


class _AvgPoolOverridden(_AvgPoolNd):
    """Average pooling whose divisor can be set."""

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = stride if stride is not None else kernel_size
        self.padding = padding
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad
        self.divisor_override = divisor_override

    def _arguments(self) -> tuple[Any, ...]:
        sizes = self.kernel_size, self.stride, self.padding
        return *sizes, self.ceil_mode, self.count_include_pad, self.divisor_override


class AvgPool2d(_AvgPoolOverridden):
    """The mean of each window (torch's ``nn.AvgPool2d``).

    Input (N, C, H, W) or (C, H, W), output alike. Arguments as :class:`AvgPool1d`; sizes are one number, or one for each
    dimension. ``divisor_override`` divides the sums of windows instead of their sizes.
    """

    def forward(self, input: jax.Array) -> jax.Array:
        return F.avg_pool2d(input, *self._arguments())


class AvgPool3d(_AvgPoolOverridden):
    """The mean of each window (torch's ``nn.AvgPool3d``).

    Input (N, C, D, H, W) or (C, D, H, W), output alike. Arguments as :class:`AvgPool2d`.
    """

    def forward(self, input: jax.Array) -> jax.Array:
        return F.avg_pool3d(input, *self._arguments())


class _LPPoolNd(Module):
    def __init__(self, norm_type: float, kernel_size: SizeAny, stride: SizeAny | None = None, ceil_mode: bool = False) -> None:
        super().__init__()
        self.norm_type = norm_type
        self.kernel_size = kernel_size
        self.stride = stride
        self.ceil_mode = ceil_mode

    def _arguments(self) -> tuple[Any, ...]:
        return float(self.norm_type), self.kernel_size, self.stride, self.ceil_mode

    def extra_repr(self) -> str:
        return f"norm_type={self.norm_type}, kernel_size={self.kernel_size}, stride={self.stride}, ceil_mode={self.ceil_mode}"


class LPPool1d(_LPPoolNd):
    """The p-norm of each window (torch's ``nn.LPPool1d``).

    Input (N, C, L) or (C, L), output alike.

    Args:
        norm_type: the exponent p.
        kernel_size: size of a window.
        stride: steps between windows, ``kernel_size`` if None.
        ceil_mode: round the output size up.
    """

    def forward(self, input: jax.Array) -> jax.Array:
        return F.lp_pool1d(input, *self._arguments())


class LPPool2d(_LPPoolNd):
    """The p-norm of each window (torch's ``nn.LPPool2d``).

    Input (N, C, H, W) or (C, H, W), output alike. Arguments as :class:`LPPool1d`; sizes are one number, or one for each
    dimension.
    """

    def forward(self, input: jax.Array) -> jax.Array:
        return F.lp_pool2d(input, *self._arguments())


class LPPool3d(_LPPoolNd):
    """The p-norm of each window (torch's ``nn.LPPool3d``).

    Input (N, C, D, H, W) or (C, D, H, W), output alike. Arguments as :class:`LPPool2d`.
    """

    def forward(self, input: jax.Array) -> jax.Array:
        return F.lp_pool3d(input, *self._arguments())
