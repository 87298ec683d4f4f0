"""Adaptive pooling: as many windows as asked for, spread evenly, so that they may overlap and differ in length.

Window ``i`` of ``count`` over ``length`` elements goes from ``floor(i * length / count)`` to ``ceil((i + 1) * length / count)``.
Where ``count`` divides ``length`` these are ordinary windows (:mod:`objnet.nn.functional._windows`).  Means of others are
weighted sums at known places (:mod:`objnet.nn.functional._taps`).  For maxima the lengths of windows differ by one at most,
so that each is covered by two windows of the same length, a power of 2, which are made by doubling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import numpy as np

from objnet.core.arrays import as_array
from objnet.nn.functional._common import require_floating, widen
from objnet.nn.functional._spatial import batched, require, size
from objnet.nn.functional._taps import Taps, tapped
from objnet.nn.functional._windows import Windows, flat_indices, largest, largest_at, sums
from objnet.nn.functional.pooling import MaxPooled, Size, check_not_empty

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "adaptive_max_pool1d",
    "adaptive_max_pool1d_with_indices",
    "adaptive_max_pool2d",
    "adaptive_max_pool2d_with_indices",
    "adaptive_max_pool3d",
    "adaptive_max_pool3d_with_indices",
]

Sizes: TypeAlias = int | Sequence[int | None]


def adaptive_avg_pool1d(input: jax.Array, output_size: Size) -> jax.Array:
    """Means of as many windows as asked for, spread evenly (torch's ``adaptive_avg_pool1d``).

    Args:
        input: (N, C, L) or (C, L), floating point.
        output_size: the number of windows; for more dimensions one for all or one each, where None keeps the size.

    Returns:
        (N, C, output_size) or (C, output_size) of the input's dtype; float16 and bfloat16 are summed in float32.

    Raises:
        RuntimeError: an input of the wrong rank or with an empty spatial dimension, an output size that is negative or of
            the wrong length.
        TypeError: an output size that is no integer.
        NotImplementedError: integers, booleans and complex numbers.
    """
    return _adaptive_avg_pool("adaptive_avg_pool1d", 1, input, output_size)


def adaptive_avg_pool2d(input: jax.Array, output_size: Sizes) -> jax.Array:
    """Means of as many windows as asked for, of an input (N, C, H, W) or (C, H, W) (torch's ``adaptive_avg_pool2d``).

    The rest is as in :func:`adaptive_avg_pool1d`.
    """
    return _adaptive_avg_pool("adaptive_avg_pool2d", 2, input, output_size)


def adaptive_avg_pool3d(input: jax.Array, output_size: Sizes) -> jax.Array:
    """Means of as many windows as asked for, of an input (N, C, D, H, W) or (C, D, H, W) (torch's ``adaptive_avg_pool3d``).

    The rest is as in :func:`adaptive_avg_pool1d`.
    """
    return _adaptive_avg_pool("adaptive_avg_pool3d", 3, input, output_size)


def adaptive_max_pool1d(input: jax.Array, output_size: Size, return_indices: bool = False) -> MaxPooled:
    """The largest elements of as many windows as asked for, spread evenly (torch's ``adaptive_max_pool1d``).

    Args:
        input: (N, C, L) or (C, L), floating point.
        output_size: the number of windows; for more dimensions one for all or one each, where None keeps the size.
        return_indices: give also where in the flattened spatial dimensions each maximum was.

    Returns:
        (N, C, output_size) or (C, output_size) of the input's dtype, or a pair of that and the indices, in the default
        integer dtype. NaN counts as the largest. The gradient goes to the first of equal maxima.

    Raises:
        RuntimeError: an input of the wrong rank or with an empty dimension other than the first, an output size that is
            negative or of the wrong length.
        TypeError: an output size that is no integer.
        NotImplementedError: integers, booleans and complex numbers.
    """
    return _adaptive_max_pool("adaptive_max_pool1d", 1, input, output_size, return_indices)


def adaptive_max_pool2d(input: jax.Array, output_size: Sizes, return_indices: bool = False) -> MaxPooled:
    """The largest elements of as many windows as asked for, of (N, C, H, W) or (C, H, W) (torch's ``adaptive_max_pool2d``).

    The rest is as in :func:`adaptive_max_pool1d`.
    """
    return _adaptive_max_pool("adaptive_max_pool2d", 2, input, output_size, return_indices)


def adaptive_max_pool3d(input: jax.Array, output_size: Sizes, return_indices: bool = False) -> MaxPooled:
    """The largest elements of as many windows as asked for, of (N, C, D, H, W) or (C, D, H, W) (torch's ``adaptive_max_pool3d``).

    The rest is as in :func:`adaptive_max_pool1d`.
    """
    return _adaptive_max_pool("adaptive_max_pool3d", 3, input, output_size, return_indices)


def adaptive_max_pool1d_with_indices(
    input: jax.Array, output_size: Size, return_indices: bool = False
) -> tuple[jax.Array, jax.Array]:
    """:func:`adaptive_max_pool1d` with ``return_indices=True``, whatever ``return_indices`` is."""
    return adaptive_max_pool1d(input, output_size, True)


def adaptive_max_pool2d_with_indices(
    input: jax.Array, output_size: Sizes, return_indices: bool = False
) -> tuple[jax.Array, jax.Array]:
    """:func:`adaptive_max_pool2d` with ``return_indices=True``, whatever ``return_indices`` is."""
    return adaptive_max_pool2d(input, output_size, True)


def adaptive_max_pool3d_with_indices(
    input: jax.Array, output_size: Sizes, return_indices: bool = False
) -> tuple[jax.Array, jax.Array]:
    """:func:`adaptive_max_pool3d` with ``return_indices=True``, whatever ``return_indices`` is."""
    return adaptive_max_pool3d(input, output_size, True)


def _adaptive_avg_pool(function: str, n: int, input: Any, output_size: Any) -> jax.Array:
    x = _checked(function, n, input, output_size)
    # torch lets channels be empty, for 3 dimensions the first dimension whatever it is
    check_not_empty(function, x.shape, 1 if n == 3 else x.ndim - n)
    x, unbatched = batched(function, x, n)
    mean = widen(x)
    for axis, count in enumerate(_output_sizes(function, output_size, x.shape[2:]), 2):
        mean = _spread_means(mean, axis, count)
    return unbatched(mean.astype(x.dtype))


def _adaptive_max_pool(function: str, n: int, input: Any, output_size: Any, return_indices: bool) -> MaxPooled:
    x = _checked(function, n, input, output_size)
    check_not_empty(function, x.shape, 1)
    x, unbatched = batched(function, x, n)
    counts = _output_sizes(function, output_size, x.shape[2:])
    indices = flat_indices(x) if return_indices else None
    for axis in reversed(range(2, n + 2)):  # the last first: equal maxima are told apart in scan order
        x, indices = _spread_maxima(x, indices, axis, counts[axis - 2])
    return unbatched(x) if indices is None else (unbatched(x), unbatched(indices))


def _checked(function: str, n: int, input: Any, output_size: Any) -> jax.Array:
    x = as_array(input)
    if n > 1 and isinstance(output_size, (tuple, list)) and x.ndim <= len(output_size):
        raise ValueError(f"{function}: output_size {tuple(output_size)} has as many entries as the input {x.shape}, or more")
    require_floating(function, x)
    return x


def _output_sizes(function: str, output_size: Any, lengths: tuple[int, ...]) -> tuple[int, ...]:
    n = len(lengths)
    if not isinstance(output_size, Sequence) or isinstance(output_size, str):
        output_size = (size(function, "output_size", output_size),) * n
    if len(output_size) != n:
        raise RuntimeError(f"{function}: output_size must be one int or {n}, got {tuple(output_size)}")
    pairs = zip(output_size, lengths, strict=True)
    counts = tuple(length if s is None and n > 1 else size(function, "output_size", s) for s, length in pairs)
    require(function, "output_size", counts, 0)
    return counts


def _bounds(length: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each of ``count`` windows starts and ends."""
    places = np.arange(count)
    return places * length // max(count, 1), -(-(places + 1) * length // max(count, 1))


def _even(length: int, count: int) -> Windows:
    return Windows(length, length // count, length // count, 0, 1, count)


def _spread_means(x: jax.Array, axis: int, count: int) -> jax.Array:
    length = x.shape[axis]
    if count and length % count == 0:
        return sums(x, axis, _even(length, count)) / (length // count)
    start, end = _bounds(length, count)
    places = start[:, None] + np.arange((end - start).max(initial=0))
    inside = places < end[:, None]
    return tapped(x, axis, Taps(np.where(inside, places, -1), inside / (end - start)[:, None]))


def _spread_maxima(x: jax.Array, indices: jax.Array | None, axis: int, count: int) -> tuple[jax.Array, jax.Array | None]:
    length = x.shape[axis]
    if count and length % count == 0:
        return largest(x, indices, axis, _even(length, count))
    start, end = _bounds(length, count)
    # the largest power of 2 that fits into every window: two such windows cover any
    kernel = 1 << (int((end - start).min(initial=length)).bit_length() - 1)
    x, indices = largest(x, indices, axis, Windows(length, kernel, 1, 0, 1, length - kernel + 1))
    return largest_at(x, indices, axis, (start, end - kernel))
