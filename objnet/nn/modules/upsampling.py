"""Interpolation as layers."""

from __future__ import annotations

from typing import Any

import jax

from objnet.nn import functional as F
from objnet.nn.module import Module

__all__ = ["Upsample", "UpsamplingBilinear2d", "UpsamplingNearest2d"]


class Upsample(Module):
    """Makes its input larger or smaller (torch's ``nn.Upsample``).

    Input (N, C, L), (N, C, H, W) or (N, C, D, H, W), output alike with other spatial sizes.

    Args:
        size: spatial sizes of the output, one for all or one each.
        scale_factor: in place of ``size``, how many times larger, one for all or one each.
        mode: any of :func:`objnet.nn.functional.interpolate`.
        align_corners: whether the first and last elements of input and output coincide, rather than their outer edges.
        recompute_scale_factor: take the ratio of the sizes instead of ``scale_factor`` once the sizes are known.
    """

    def __init__(
        self,
        size: int | tuple[int, ...] | None = None,
        scale_factor: float | tuple[float, ...] | None = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
        recompute_scale_factor: bool | None = None,
    ) -> None:
        super().__init__()
        self.name = type(self).__name__
        self.size = size
        self.scale_factor: Any = None
        if isinstance(scale_factor, tuple):
            self.scale_factor = tuple(float(factor) for factor in scale_factor)
        elif scale_factor:
            self.scale_factor = float(scale_factor)
        self.mode = mode
        self.align_corners = align_corners
        self.recompute_scale_factor = recompute_scale_factor

    def forward(self, input: jax.Array) -> jax.Array:
        arguments = self.size, self.scale_factor, self.mode, self.align_corners, self.recompute_scale_factor
        return F.interpolate(input, *arguments)

    def extra_repr(self) -> str:
        target = f"size={self.size!r}" if self.scale_factor is None else f"scale_factor={self.scale_factor!r}"
        return f"{target}, mode={self.mode!r}"


class UpsamplingNearest2d(Upsample):
    """:class:`Upsample` of images with ``mode="nearest"`` (torch's ``nn.UpsamplingNearest2d``)."""

    def __init__(
        self, size: int | tuple[int, int] | None = None, scale_factor: float | tuple[float, float] | None = None
    ) -> None:
        super().__init__(size, scale_factor, mode="nearest")


class UpsamplingBilinear2d(Upsample):
    """:class:`Upsample` of images with ``mode="bilinear", align_corners=True`` (torch's ``nn.UpsamplingBilinear2d``)."""

    def __init__(
        self, size: int | tuple[int, int] | None = None, scale_factor: float | tuple[float, float] | None = None
    ) -> None:
        super().__init__(size, scale_factor, mode="bilinear", align_corners=True)
