"""Adaptive pooling: the size of the output is given, not that of the windows."""

from __future__ import annotations

from typing import Any

import jax

from objnet.nn import functional as F
from objnet.nn.module import Module
from objnet.nn.modules._sizes import SizeAnyOpt

__all__ = [
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d",
]


class _AdaptiveAvgPoolNd(Module):
    output_size: Any

    def __init__(self, output_size: SizeAnyOpt) -> None:
        super().__init__()
        self.output_size = output_size

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class AdaptiveAvgPool1d(_AdaptiveAvgPoolNd):
    """Means of as many windows as the output has elements (torch's ``nn.AdaptiveAvgPool1d``).

    Input (N, C, L) or (C, L), output alike with ``output_size``.
    """

    def forward(self, input: jax.Array) -> jax.Array:
        return F.adaptive_avg_pool1d(input, self.output_size)


class AdaptiveAvgPool2d(_AdaptiveAvgPoolNd):
    """Means of as many windows as the output has elements (torch's ``nn.AdaptiveAvgPool2d``).

    Input (N, C, H, W) or (C, H, W), output alike with ``output_size``: one number, or one for each dimension, where None
    keeps the input's.
    """

    def forward(self, input: jax.Array) -> jax.Array:
        return F.adaptive_avg_pool2d(input, self.output_size)


class AdaptiveAvgPool3d(_AdaptiveAvgPoolNd):
    """Means of as many windows as the output has elements (torch's ``nn.AdaptiveAvgPool3d``).

    Input (N, C, D, H, W) or (C, D, H, W), output alike with ``output_size``, as of :class:`AdaptiveAvgPool2d`.
    """

    def forward(self, input: jax.Array) -> jax.Array:
        return F.adaptive_avg_pool3d(input, self.output_size)


class _AdaptiveMaxPoolNd(Module):
    def __init__(self, output_size: SizeAnyOpt, return_indices: bool = False) -> None:
        super().__init__()
        self.output_size = output_size
        self.return_indices = return_indices

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class AdaptiveMaxPool1d(_AdaptiveMaxPoolNd):
    """The largest elements of as many windows as the output has elements (torch's ``nn.AdaptiveMaxPool1d``).

    Input (N, C, L) or (C, L), output alike with ``output_size``; with ``return_indices`` the pair (output, indices of the
    largest).
    """

    def forward(self, input: jax.Array) -> Any:
        return F.adaptive_max_pool1d(input, self.output_size, self.return_indices)


class AdaptiveMaxPool2d(_AdaptiveMaxPoolNd):
    """The largest elements of as many windows as the output has elements (torch's ``nn.AdaptiveMaxPool2d``).

    Input (N, C, H, W) or (C, H, W), output alike with ``output_size``: one number, or one for each dimension, where None
    keeps the input's. ``return_indices`` as of :class:`AdaptiveMaxPool1d`.
    """

    def forward(self, input: jax.Array) -> Any:
        return F.adaptive_max_pool2d(input, self.output_size, self.return_indices)


class AdaptiveMaxPool3d(_AdaptiveMaxPoolNd):
    """The largest elements of as many windows as the output has elements (torch's ``nn.AdaptiveMaxPool3d``).

    Input (N, C, D, H, W) or (C, D, H, W), output alike with ``output_size``, as of :class:`AdaptiveMaxPool2d`.
    """

    def forward(self, input: jax.Array) -> Any:
        return F.adaptive_max_pool3d(input, self.output_size, self.return_indices)
