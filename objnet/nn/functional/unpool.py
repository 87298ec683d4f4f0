"""Max unpooling: maxima put back where ``return_indices=True`` found them, zeros elsewhere.

The indices may be anything, so this is a scatter; compared on CPU with a product with one-hot codes (slower beyond a few
hundred elements, and NaN spreads) and with sorting.  The backward pass is a gather.  Where an index occurs twice the last element stays
and, as in torch, the gradient of what it overwrote is the gradient there, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from objnet.core.arrays import as_array
from objnet.nn.functional._common import host, is_concrete, require_floating
from objnet.nn.functional._spatial import batched, size
from objnet.nn.functional.pooling import Size, check_not_empty

__all__ = ["max_unpool1d", "max_unpool2d", "max_unpool3d"]


def max_unpool1d(
    input: jax.Array,
    indices: jax.Array,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    output_size: Sequence[int] | None = None,
) -> jax.Array:
    """The inverse of ``max_pool1d``, with zeros for all that were no maxima (torch's ``max_unpool1d``).

    Args:
        input: (N, C, L) or (C, L), floating point.
        indices: where in the flattened spatial dimensions of the output each element goes; same shape, int32 or int64.
        kernel_size: of the pooling; sizes are one int, or one for each dimension.
        stride: of the pooling, ``kernel_size`` if None.
        padding: of the pooling.
        output_size: the spatial sizes (or all sizes) of the output, less than a stride away from the default
            ``(L - 1) * stride + kernel_size - 2 * padding``.

    Returns:
        (N, C, output_size) or (C, output_size) of the input's dtype.

    Raises:
        RuntimeError: an input of the wrong rank or with an empty dimension other than the first, indices of another shape
            or dtype, an index that is outside of the output; in compiled code that channel is NaN instead.
        ValueError: an ``output_size`` that is too small, too large or of the wrong length, a negative default size.
        TypeError: sizes that are no integers.
        IndexError: sizes of the wrong length.
        NotImplementedError: integers, booleans and complex numbers.
    """
    return _max_unpool("max_unpool1d", 1, input, indices, kernel_size, stride, padding, output_size)


def max_unpool2d(
    input: jax.Array,
    indices: jax.Array,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    output_size: Sequence[int] | None = None,
) -> jax.Array:
    """The inverse of ``max_pool2d`` on (N, C, H, W) or (C, H, W) (torch's ``max_unpool2d``), as :func:`max_unpool1d`."""
    return _max_unpool("max_unpool2d", 2, input, indices, kernel_size, stride, padding, output_size)


def max_unpool3d(
    input: jax.Array,
    indices: jax.Array,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    output_size: Sequence[int] | None = None,
) -> jax.Array:
    """The inverse of ``max_pool3d`` on (N, C, D, H, W) or (C, D, H, W) (torch's ``max_unpool3d``), as :func:`max_unpool1d`.

    As in torch, a stride must be positive (RuntimeError).
    """
    return _max_unpool("max_unpool3d", 3, input, indices, kernel_size, stride, padding, output_size)


def _max_unpool(
    function: str, n: int, input: Any, indices: Any, kernel_size: Any, stride: Any, padding: Any, output_size: Any
) -> jax.Array:
    x, places = as_array(input), as_array(indices)
    counts = _output_sizes(function, n, x.shape, kernel_size, stride, padding, output_size)
    if places.dtype not in (jnp.int32, jnp.int64):
        raise RuntimeError(f"{function}: indices must be int32 or int64, got {places.dtype}")
    if x.ndim not in (n + 1, n + 2) or places.shape != x.shape:
        raise RuntimeError(f"{function} takes (N, C, ...) or (C, ...) and indices of that shape, got {x.shape}, {places.shape}")
    check_not_empty(function, x.shape, 1)
    require_floating(function, x)
    x, unbatched = batched(function, x, n)
    flat, places = x.reshape(*x.shape[:2], -1), places.reshape(*x.shape[:2], -1)
    total = math.prod(counts)
    y = _put(flat, places, total)
    if is_concrete(places):
        values = host(places)
        wrong = values[(values < 0) | (values >= total)]
        if wrong.size:
            raise RuntimeError(f"{function}: index {wrong[0]} is outside of an output of {counts}: pass the right output_size")
    else:
        outside = (places < 0) | (places >= total)
        y = jnp.where(outside.any(2, keepdims=True), jnp.full((), jnp.nan, y.dtype), y)
    return unbatched(y.reshape(*x.shape[:2], *counts))


def _put(values: jax.Array, places: jax.Array, total: int) -> jax.Array:
    """``values`` at ``places`` along the last of 3 dimensions, the last of those with the same place."""
    rows, columns = (jnp.arange(count, dtype=places.dtype) for count in values.shape[:2])
    where = rows[:, None, None], columns[None, :, None], places
    blank = jnp.zeros((*values.shape[:2], total), values.dtype)

    @jax.custom_jvp
    def put(values: jax.Array) -> jax.Array:
        return blank.at[where].set(values, mode="drop", wrap_negative_indices=False)

    @put.defjvp
    def put_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
        # the transpose of an addition is a gather, which reaches the elements that were overwritten too
        return put(*primals), blank.at[where].add(tangents[0], mode="drop", wrap_negative_indices=False)

    return put(values)


def _output_sizes(
    function: str, n: int, shape: tuple[int, ...], kernel_size: Any, stride: Any, padding: Any, output_size: Any
) -> tuple[int, ...]:
    kernel = _each(function, "kernel_size", kernel_size, n)
    steps = kernel if stride is None else _each(function, "stride", stride, n)
    pads = _each(function, "padding", padding, n)
    if len(shape) < n:
        raise RuntimeError(f"{function} takes an input of {n + 1} or {n + 2} dimensions, got shape {shape}")
    lengths = shape[len(shape) - n :]
    default = tuple((l - 1) * s + k - 2 * p for l, s, k, p in zip(lengths, steps, kernel, pads, strict=True))
    counts = default if output_size is None else tuple(output_size)
    if len(counts) == n + 2:
        counts = counts[2:]
    if len(counts) != n:
        raise ValueError(f"{function}: output_size must have {n} or {n + 2} entries, got {tuple(output_size)}")
    for count, usual, step in zip(counts, default, steps, strict=True):
        if output_size is not None and not usual - step < count < usual + step:
            raise ValueError(f"{function}: output_size {counts} must be less than {steps} away from {default}")
        if count < 0:
            raise ValueError(f"{function}: the output would have negative sizes {counts}")
    if n == 3 and min(steps) < 1:
        raise RuntimeError(f"{function}: stride must be positive, got {steps}")
    return tuple(size(function, "output_size", count) for count in counts)


def _each(function: str, name: str, value: Any, n: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,) * n
    if len(values) != n:
        short = name == "kernel_size" and 0 < len(values) < n  # torch then finds too few output sizes
        raise (RuntimeError if short else IndexError)(f"{function}: {name} must be one int or {n}, got {values}")
    return tuple(size(function, name, v) for v in values)
