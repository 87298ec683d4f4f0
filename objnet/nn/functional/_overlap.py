"""Blocks that slide over spatial dimensions: taking them out of an array, and adding them back where they were.

Both go one dimension at a time, so that a block of 7x7 costs 7 + 7 operations.  Where the stride divides the block, the
parts that a block shares with its neighbours are whole strides: they are shifted slices, and what is left is a reshape.
Other dimensions go tap by tap, from strided slices, or into gaps of zeros.  Neither direction scatters, nor does its gradient:
blocks are taken apart by ``jnp.split``, whose gradient is one concatenation (that of indexing adds up an array for each index).
Only dimensions with very many taps gather and scatter, to keep compilation short.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import reduce
from operator import add, mul
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from objnet.nn.functional._spatial import Array, padded, strided

# More parts than this gather and scatter.
_PARTS = 64
# Blocks longer than this are filled up to whole strides: tap by tap has an operation for each element.
_TAPS = 16


class Blocks(NamedTuple):
    """The blocks along one dimension: ``count`` of them, ``stride`` apart, each of ``kernel`` taps ``dilation`` apart."""

    count: int
    kernel: int
    stride: int
    dilation: int

    @property
    def reach(self) -> int:
        """From the first element of the first block to the last of the last."""
        return (self.count - 1) * self.stride + (self.kernel - 1) * self.dilation + 1

    @property
    def whole(self) -> bool:
        """Whether to go stride by stride, not tap by tap."""
        return self.dilation == 1 and (self.kernel % self.stride == 0 or self.kernel > _TAPS)

    @property
    def strides(self) -> int:
        """How many strides a block spans, the last perhaps in part."""
        return -(-self.kernel // self.stride)


def overlap_add(columns: Array, blocks: Sequence[Blocks]) -> Array:
    """The sum of the blocks, each where it was taken: (N, G, *kernel, C, *count) to (N, G * C, *reach)."""
    n = len(blocks)
    for i, along in enumerate(blocks):
        columns = _summed(columns, 2 + i, 3 + n + i, along)
    return interleaved(columns, [along.reach for along in blocks])


def interleaved(parts: Array, lengths: Sequence[int]) -> Array:
    """(N, G, *inner, C, *outer) to (N, G * C, *lengths), whose position ``outer * len(inner) + inner`` each entry takes."""
    n = len(lengths)
    inner, outer = parts.shape[2 : 2 + n], parts.shape[3 + n :]
    order = (0, 1, 2 + n, *itertools.chain(*((3 + n + i, 2 + i) for i in range(n))))
    whole = parts.transpose(order).reshape(parts.shape[0], parts.shape[1] * parts.shape[2 + n], *map(mul, outer, inner))
    return padded(whole, [(0, length - given) for length, given in zip(lengths, whole.shape[2:], strict=True)])


def _summed(columns: Array, taps: int, axis: int, along: Blocks) -> Array:
    """The blocks of one dimension added up; the axis ``taps`` keeps the positions within a stride, or is 1."""
    if along.whole:
        pads = [(0, along.strides * along.stride - along.kernel if i == taps else 0) for i in range(columns.ndim)]
        columns, count, step, dilation = padded(columns, pads), along.strides, 1, 1
    else:
        count, step, dilation = along.kernel, along.stride, along.dilation
    total = (along.count - 1) * step + (count - 1) * dilation + 1
    if count > _PARTS:
        return _scattered(columns, taps, axis, count, total, step, dilation)

    def placed(part: Array, start: int) -> Array:
        config = [(0, 0, 0)] * part.ndim
        config[axis] = (start, total - start - (along.count - 1) * step - 1, step - 1)
        return lax.pad(part, jnp.zeros((), part.dtype), config)

    return reduce(add, [placed(part, j * dilation) for j, part in enumerate(jnp.split(columns, count, taps))])


def _scattered(columns: Array, taps: int, axis: int, count: int, total: int, step: int, dilation: int) -> Array:
    where = np.arange(count)[:, None] * dilation + np.arange(columns.shape[axis]) * step
    columns = jnp.moveaxis(
        columns.reshape(*columns.shape[:taps], count, -1, *columns.shape[taps + 1 :]), (taps, axis + 1), (0, 1)
    )
    sums = jnp.zeros((total, *columns.shape[2:]), columns.dtype).at[where].add(columns)
    return jnp.moveaxis(sums, 0, axis)


def sliding(x: Array, blocks: Sequence[Blocks]) -> Array:
    """The blocks of ``x``: (N, C, *lengths) to (N, C, *kernel, *count); what lies behind the last block is left out."""
    for i, along in enumerate(blocks):
        x = _taken(x, 2 + i, 2 + 2 * i, along)
    return x


def _taken(x: Array, taps: int, axis: int, along: Blocks) -> Array:
    """The blocks along ``axis``, their elements along a new axis ``taps``."""
    if along.whole:
        periods = along.count + along.strides - 1
        x = padded(x, [(0, periods * along.stride - x.shape[axis] if i == axis else 0) for i in range(x.ndim)])
        x = jnp.moveaxis(x.reshape(*x.shape[:axis], periods, along.stride, *x.shape[axis + 1 :]), axis + 1, taps)
        count, step, dilation = along.strides, 1, 1
    else:
        x = jnp.expand_dims(x, taps)
        count, step, dilation = along.kernel, along.stride, along.dilation
    if count > _PARTS:
        where = np.arange(count)[:, None] * dilation + np.arange(along.count) * step
        parts = jnp.moveaxis(jnp.take(x, where, axis + 1), axis + 1, taps)
        x = parts.reshape(*parts.shape[:taps], math.prod(parts.shape[taps : taps + 2]), *parts.shape[taps + 2 :])
    else:
        x = jnp.concatenate([strided(x, axis + 1, j * dilation, along.count, step) for j in range(count)], taps)
    return lax.slice_in_dim(x, 0, along.kernel, axis=taps)
