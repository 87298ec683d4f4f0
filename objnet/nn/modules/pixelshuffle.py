"""Pixels moved between channels and space."""

from __future__ import annotations

import jax

from objnet.nn import functional as F
from objnet.nn.module import Module

__all__ = ["PixelShuffle", "PixelUnshuffle"]


class PixelShuffle(Module):
    """Spreads channels over squares of pixels (torch's ``nn.PixelShuffle``).

    Input (\\*, C * r * r, H, W), output (\\*, C, H * r, W * r), where r is ``upscale_factor``.
    """

    def __init__(self, upscale_factor: int) -> None:
        super().__init__()
        self.upscale_factor = upscale_factor

    def forward(self, input: jax.Array) -> jax.Array:
        return F.pixel_shuffle(input, self.upscale_factor)

    def extra_repr(self) -> str:
        return f"upscale_factor={self.upscale_factor}"


class PixelUnshuffle(Module):
    """Gathers squares of pixels into channels (torch's ``nn.PixelUnshuffle``).

    Input (\\*, C, H * r, W * r), output (\\*, C * r * r, H, W), where r is ``downscale_factor``.
    """

    def __init__(self, downscale_factor: int) -> None:
        super().__init__()
        self.downscale_factor = downscale_factor

    def forward(self, input: jax.Array) -> jax.Array:
        return F.pixel_unshuffle(input, self.downscale_factor)

    def extra_repr(self) -> str:
        return f"downscale_factor={self.downscale_factor}"
