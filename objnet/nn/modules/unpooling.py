"""Max unpooling."""

from __future__ import annotations

from typing import Any

import jax

from objnet.nn import functional as F
from objnet.nn.module import Module
from objnet.nn.modules._sizes import Size1, Size2, Size3, spread

__all__ = ["MaxUnpool1d", "MaxUnpool2d", "MaxUnpool3d"]


class _MaxUnpoolNd(Module):
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]

    def _spread(self, n: int, kernel_size: Any, stride: Any, padding: Any) -> None:
        self.kernel_size = spread(kernel_size, n)
        self.stride = spread(stride if stride is not None else kernel_size, n)
        self.padding = spread(padding, n)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class MaxUnpool1d(_MaxUnpoolNd):
    """Puts the maxima of :class:`MaxPool1d` back, zeros elsewhere (torch's ``nn.MaxUnpool1d``).

    Inputs (N, C, L) or (C, L) and the indices, of that shape; output alike.

    Args:
        kernel_size: size of a window of the pooling.
        stride: steps between windows, ``kernel_size`` if None.
        padding: that of the pooling.
    """

    def __init__(self, kernel_size: Size1, stride: Size1 | None = None, padding: Size1 = 0) -> None:
        super().__init__()
        self._spread(1, kernel_size, stride, padding)

    def forward(self, input: jax.Array, indices: jax.Array, output_size: list[int] | None = None) -> jax.Array:
        return F.max_unpool1d(input, indices, self.kernel_size, self.stride, self.padding, output_size)


class MaxUnpool2d(_MaxUnpoolNd):
    """Puts the maxima of :class:`MaxPool2d` back, zeros elsewhere (torch's ``nn.MaxUnpool2d``).

    Inputs (N, C, H, W) or (C, H, W) and the indices, of that shape; output alike. Arguments as :class:`MaxUnpool1d`; sizes
    are one number, or one for each dimension.
    """

    def __init__(self, kernel_size: Size2, stride: Size2 | None = None, padding: Size2 = 0) -> None:
        super().__init__()
        self._spread(2, kernel_size, stride, padding)

    def forward(self, input: jax.Array, indices: jax.Array, output_size: list[int] | None = None) -> jax.Array:
        return F.max_unpool2d(input, indices, self.kernel_size, self.stride, self.padding, output_size)


class MaxUnpool3d(_MaxUnpoolNd):
    """Puts the maxima of :class:`MaxPool3d` back, zeros elsewhere (torch's ``nn.MaxUnpool3d``).

    Inputs (N, C, D, H, W) or (C, D, H, W) and the indices, of that shape; output alike. Arguments as :class:`MaxUnpool2d`.
    """

    def __init__(self, kernel_size: Size3, stride: Size3 | None = None, padding: Size3 = 0) -> None:
        super().__init__()
        self._spread(3, kernel_size, stride, padding)

    def forward(self, input: jax.Array, indices: jax.Array, output_size: list[int] | None = None) -> jax.Array:
        return F.max_unpool3d(input, indices, self.kernel_size, self.stride, self.padding, output_size)
