"""Fractional max pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from objnet.nn import functional as F
from objnet.nn.module import Module
from objnet.nn.modules._sizes import Size2, Size3, spread

__all__ = ["FractionalMaxPool2d", "FractionalMaxPool3d"]


class _FractionalMaxPoolNd(Module):
    def _set(
        self, n: int, kernel_size: Any, output_size: Any, output_ratio: Any, return_indices: bool, random_samples: Any
    ) -> None:
        name = type(self).__name__
        self.kernel_size = spread(kernel_size, n)
        self.return_indices = return_indices
        self.register_buffer("_random_samples", random_samples)
        self.output_size = None if output_size is None else spread(output_size, n)
        self.output_ratio = None if output_ratio is None else spread(output_ratio, n)
        if (output_size is None) == (output_ratio is None):
            raise ValueError(f"{name}: give one of output_size and output_ratio, and only one")
        if self.output_ratio is not None:
            for i in range(n):  # an entry that is missing is an IndexError, as in torch
                if not 0 < self.output_ratio[i] < 1:
                    raise ValueError(f"{name}: output_ratio must be between 0 and 1, got {output_ratio}")


class FractionalMaxPool2d(_FractionalMaxPoolNd):
    """The largest elements of windows at random places (torch's ``nn.FractionalMaxPool2d``, Graham 2014).

    Input (N, C, H, W) or (C, H, W), output alike; with ``return_indices`` the pair (output, indices of the largest).

    Args:
        kernel_size: size of a window, one number or one for each dimension.
        output_size: size of the output, one number or one for each dimension.
        output_ratio: in its place, what part of the input's size it is, between 0 and 1.
        return_indices: give the indices too.
        _random_samples: numbers in [0, 1) that place the windows, (N, C, 2); drawn in every forward if None.

    Raises:
        ValueError: neither or both of ``output_size`` and ``output_ratio``, a ratio that is not between 0 and 1.
    """

    def __init__(
        self,
        kernel_size: Size2,
        output_size: Size2 | None = None,
        output_ratio: float | Sequence[float] | None = None,
        return_indices: bool = False,
        _random_samples: Any = None,
    ) -> None:
        super().__init__()
        self._set(2, kernel_size, output_size, output_ratio, return_indices, _random_samples)

    def forward(self, input: jax.Array) -> Any:
        sizes = self.kernel_size, self.output_size, self.output_ratio
        return F.fractional_max_pool2d(input, *sizes, self.return_indices, _random_samples=self._random_samples)


class FractionalMaxPool3d(_FractionalMaxPoolNd):
    """The largest elements of windows at random places (torch's ``nn.FractionalMaxPool3d``).

    Input (N, C, D, H, W) or (C, D, H, W), output alike. Arguments as :class:`FractionalMaxPool2d`, with samples (N, C, 3).

    Raises:
        ValueError: as :class:`FractionalMaxPool2d`, and a ``kernel_size`` that is not positive.
    """

    def __init__(
        self,
        kernel_size: Size3,
        output_size: Size3 | None = None,
        output_ratio: float | Sequence[float] | None = None,
        return_indices: bool = False,
        _random_samples: Any = None,
    ) -> None:
        super().__init__()
        if not all(k > 0 for k in spread(kernel_size, 1)):
            raise ValueError(f"FractionalMaxPool3d: kernel_size must be greater than 0, got {kernel_size}")
        self._set(3, kernel_size, output_size, output_ratio, return_indices, _random_samples)

    def forward(self, input: jax.Array) -> Any:
        sizes = self.kernel_size, self.output_size, self.output_ratio
        return F.fractional_max_pool3d(input, *sizes, self.return_indices, _random_samples=self._random_samples)
