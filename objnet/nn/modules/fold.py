"""Blocks of images as columns, and back."""

from __future__ import annotations

import jax

from objnet.nn import functional as F
from objnet.nn.module import Module
from objnet.nn.modules._sizes import SizeAny

__all__ = ["Fold", "Unfold"]


class Fold(Module):
    """An image from its sliding blocks, which add up where they overlap (torch's ``nn.Fold``).

    Input (N, C * KH * KW, L) or (C * KH * KW, L), output (N, C, *output_size) or (C, *output_size).

    Args:
        output_size: height and width of the image.
        kernel_size: size of the blocks; it and the others are one int, or one for height and width.
        dilation: steps between the elements of a block.
        padding: how far blocks reach over the edges of the image; what lies there is dropped.
        stride: steps between blocks.

    Raises:
        RuntimeError, TypeError, NotImplementedError: from a call, as :func:`objnet.nn.functional.fold`.
    """

    def __init__(
        self, output_size: SizeAny, kernel_size: SizeAny, dilation: SizeAny = 1, padding: SizeAny = 0, stride: SizeAny = 1
    ) -> None:
        super().__init__()
        self.output_size = output_size
        self.kernel_size = kernel_size
        self.dilation = dilation
        self.padding = padding
        self.stride = stride

    def forward(self, input: jax.Array) -> jax.Array:
        return F.fold(input, self.output_size, self.kernel_size, self.dilation, self.padding, self.stride)  # type: ignore[arg-type]

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, kernel_size={self.kernel_size}, dilation={self.dilation}, padding={self.padding}, "
            f"stride={self.stride}"
        )


class Unfold(Module):
    """Every sliding block of an image as a column (torch's ``nn.Unfold``).

    Input (N, C, H, W) or (C, H, W), output (N, C * KH * KW, L) or (C * KH * KW, L) with L blocks.

    Args:
        kernel_size: size of the blocks; it and the others are one int, or one for height and width.
        dilation: steps between the elements of a block.
        padding: zeros around the image.
        stride: steps between blocks.

    Raises:
        RuntimeError, TypeError, NotImplementedError: from a call, as :func:`objnet.nn.functional.unfold`.
    """

    def __init__(self, kernel_size: SizeAny, dilation: SizeAny = 1, padding: SizeAny = 0, stride: SizeAny = 1) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.dilation = dilation
        self.padding = padding
        self.stride = stride

    def forward(self, input: jax.Array) -> jax.Array:
        return F.unfold(input, self.kernel_size, self.dilation, self.padding, self.stride)  # type: ignore[arg-type]

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, dilation={self.dilation}, padding={self.padding}, stride={self.stride}"
