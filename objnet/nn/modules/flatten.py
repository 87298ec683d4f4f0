"""Changes of shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax

from objnet.core.arrays import as_array
from objnet.nn.functional._common import normalise_dim
from objnet.nn.module import Module

__all__ = ["Flatten", "Unflatten"]


class Flatten(Module):
    """Make one dimension of those from ``start_dim`` to ``end_dim`` (torch's ``nn.Flatten``). A 0-d input becomes 1-d.

    Raises:
        IndexError: from a call: a dimension that is not there.
        RuntimeError: from a call: ``start_dim`` comes after ``end_dim``.
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim = start_dim
        self.end_dim = end_dim

    def forward(self, input: jax.Array) -> jax.Array:
        input = as_array(input)
        start, end = normalise_dim(self.start_dim, input.ndim), normalise_dim(self.end_dim, input.ndim)
        if start > end:
            raise RuntimeError(f"flatten: start_dim={self.start_dim} comes after end_dim={self.end_dim} in {input.shape}")
        merged = math.prod(input.shape[start : end + 1])
        return input.reshape(*input.shape[:start], merged, *input.shape[end + 1 :])

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Unflatten(Module):
    """Make several dimensions of one (torch's ``nn.Unflatten``).

    Args:
        dim: the dimension that is split.
        unflattened_size: its new sizes; one may be -1, which is what remains.

    Raises:
        TypeError: ``unflattened_size`` is no tuple or list of ints.
        IndexError: from a call: no such dimension.
        RuntimeError: from a call: sizes that do not multiply to the size of the dimension.
    """

    def __init__(self, dim: int, unflattened_size: Sequence[int]) -> None:
        super().__init__()
        self._require_tuple_int(unflattened_size)
        self.dim = dim
        self.unflattened_size = unflattened_size

    def _require_tuple_int(self, input: Any) -> None:
        if not isinstance(input, (tuple, list)):
            raise TypeError(f"unflattened_size must be a tuple of ints, but found type {type(input).__name__}")
        for position, size in enumerate(input):
            if not isinstance(size, int):
                raise TypeError(
                    f"unflattened_size must be tuple of ints, but found element of type {type(size).__name__} at pos {position}"
                )

    def forward(self, input: jax.Array) -> jax.Array:
        input = as_array(input)
        if not self.unflattened_size:
            raise RuntimeError("unflatten: sizes must be non-empty")
        dim = normalise_dim(self.dim, input.ndim)
        if input.ndim == 0:
            raise RuntimeError("unflatten: a 0-d array has no dimension to split")
        return input.reshape(*input.shape[:dim], *self._sizes(input.shape[dim]), *input.shape[dim + 1 :])

    def _sizes(self, total: int) -> list[int]:
        """The new sizes, with -1 worked out."""
        sizes = list(self.unflattened_size)
        known = math.prod(size for size in sizes if size != -1)
        if sizes.count(-1) == 1 and known > 0 and total % known == 0:
            sizes[sizes.index(-1)] = total // known
        if min(sizes) < 0 or math.prod(sizes) != total:
            raise RuntimeError(f"unflatten: the sizes {list(self.unflattened_size)} do not multiply up to {total}")
        return sizes

    def extra_repr(self) -> str:
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"
