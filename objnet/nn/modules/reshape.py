"""Other shapes for the dimensions after the batch's, which torch writes with ``Flatten`` and ``Unflatten``."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax

from objnet.core.arrays import as_array
from objnet.nn.module import Module

__all__ = ["Reshape"]


class Reshape(Module):
    """Gives the dimensions after the first ``preserve_dims`` the shape ``output_shape`` (Haiku's).

    An input without dimensions after those comes back as it is.

    Args:
        output_shape: the new sizes; one may be -1, which is what remains.
        preserve_dims: how many leading dimensions stay; negative: how many trailing ones are replaced.

    Raises:
        ValueError: ``preserve_dims`` is zero, a size below -1 or more than one -1.
        RuntimeError: from a call: sizes that do not multiply to those replaced, or fewer dimensions than are to be replaced.
    """

    def __init__(self, output_shape: Sequence[int], preserve_dims: int = 1) -> None:
        super().__init__()
        self.output_shape = tuple(output_shape)
        self.preserve_dims = preserve_dims
        if preserve_dims == 0:
            raise ValueError("preserve_dims must not be zero")
        if self.output_shape.count(-1) > 1 or any(size < -1 for size in self.output_shape):
            raise ValueError(f"output_shape takes sizes, and -1 once, got {self.output_shape}")

    def forward(self, input: jax.Array) -> jax.Array:
        input = as_array(input)
        kept = self.preserve_dims
        if kept > 0 and input.ndim <= kept:
            return input
        if kept < -input.ndim:
            raise RuntimeError(f"reshape: {-kept} trailing dimensions are to be replaced, got shape {input.shape}")
        total = math.prod(input.shape[kept:])
        known = math.prod(size for size in self.output_shape if size != -1)
        sizes = tuple(total // known if size == -1 and known else size for size in self.output_shape)
        if math.prod(sizes) != total or -1 in sizes:
            raise RuntimeError(f"reshape: the sizes {self.output_shape} do not multiply to {total}, that of {input.shape[kept:]}")
        return input.reshape(*input.shape[:kept], *sizes)

    def extra_repr(self) -> str:
        text = f"output_shape={self.output_shape}"
        return text if self.preserve_dims == 1 else f"{text}, preserve_dims={self.preserve_dims}"
