"""Fractional max pooling: windows at pseudo-random places, so that sizes shrink by a ratio that is no integer (Graham 2014).

One random number for each channel and dimension places all of its windows.  Their elements are gathered one by one,
a dimension after the other, and compared as in the other max poolings.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, reduce
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from objnet.core.arrays import as_array
from objnet.core.random import rand
from objnet.nn.functional._common import require_floating
from objnet.nn.functional._spatial import batched, size
from objnet.nn.functional._windows import beats, flat_indices
from objnet.nn.functional.pooling import MaxPooled, Size, check_not_empty

__all__ = [
    "fractional_max_pool2d",
    "fractional_max_pool2d_with_indices",
    "fractional_max_pool3d",
    "fractional_max_pool3d_with_indices",
]

Ratio: TypeAlias = float | Sequence[float]
Pair: TypeAlias = tuple[jax.Array, jax.Array]


def fractional_max_pool2d(
    input: jax.Array,
    kernel_size: Size,
    output_size: Size | None = None,
    output_ratio: Sequence[float] | None = None,
    return_indices: bool = False,
    _random_samples: jax.Array | None = None,
) -> MaxPooled:
    """The largest elements of windows at random places (torch's ``fractional_max_pool2d``).

    Args:
        input: (N, C, H, W) or (C, H, W), floating point.
        kernel_size: elements in a window, one int or one for each dimension.
        output_size: the number of windows, one int or one for each dimension.
        output_ratio: in its place, the number of windows for each element of the input, one for each dimension.
        return_indices: give also where in the flattened spatial dimensions each maximum was.
        _random_samples: numbers in [0, 1) that place the windows, shape (N, C, 2), of the input's dtype; drawn if None,
            outside of traces from torch's stream.

    Returns:
        (N, C, *output_size) or (C, *output_size) of the input's dtype, or a pair of that and the indices, in the default
        integer dtype. NaN counts as the largest. The gradient goes to the first of equal maxima.

    Raises:
        ValueError: neither ``output_size`` nor ``output_ratio``, too many ratios.
        RuntimeError: an input of the wrong rank or with an empty dimension other than the first, sizes that are not
            positive, of the wrong length or too large for the input, samples of the wrong shape or dtype.
        TypeError: a size that is no integer.
        IndexError: too few ratios, an input without channels.
        NotImplementedError: integers, booleans and complex numbers.
    """
    if output_size is None and isinstance(output_ratio, (int, float)):
        raise TypeError(f"fractional_max_pool2d: output_ratio must be a tuple of 2 numbers, got {output_ratio!r}")
    if output_size is None and output_ratio is not None and len(output_ratio) > 2:
        raise ValueError(f"fractional_max_pool2d: output_ratio must be a tuple of 2 numbers, got {output_ratio!r}")
    args = kernel_size, output_size, output_ratio, _random_samples
    pooled = _fractional_max_pool("fractional_max_pool2d", 2, input, *args)
    return pooled if return_indices else pooled[0]


def fractional_max_pool2d_with_indices(
    input: jax.Array,
    kernel_size: Size,
    output_size: Size | None = None,
    output_ratio: Sequence[float] | None = None,
    return_indices: bool = False,
    _random_samples: jax.Array | None = None,
) -> Pair:
    """:func:`fractional_max_pool2d` with ``return_indices=True``, whatever ``return_indices`` is."""
    return fractional_max_pool2d(input, kernel_size, output_size, output_ratio, True, _random_samples)


def fractional_max_pool3d(
    input: jax.Array,
    kernel_size: Size,
    output_size: Size | None = None,
    output_ratio: Ratio | None = None,
    return_indices: bool = False,
    _random_samples: jax.Array | None = None,
) -> MaxPooled:
    """The largest elements of windows at random places of (N, C, D, H, W) or (C, D, H, W) (torch's ``fractional_max_pool3d``).

    ``output_ratio`` may be one number for all dimensions. As in torch, the windows and their number together must be
    smaller than the input. The rest is as in :func:`fractional_max_pool2d`, with samples (N, C, 3).
    """
    args = kernel_size, output_size, output_ratio, _random_samples
    pooled = _fractional_max_pool("fractional_max_pool3d", 3, input, *args)
    return pooled if return_indices else pooled[0]


def fractional_max_pool3d_with_indices(
    input: jax.Array,
    kernel_size: Size,
    output_size: Size | None = None,
    output_ratio: Ratio | None = None,
    return_indices: bool = False,
    _random_samples: jax.Array | None = None,
) -> Pair:
    """:func:`fractional_max_pool3d` with ``return_indices=True``, whatever ``return_indices`` is."""
    return fractional_max_pool3d(input, kernel_size, output_size, output_ratio, True, _random_samples)


def _fractional_max_pool(
    function: str, n: int, input: Any, kernel_size: Any, output_size: Any, output_ratio: Any, samples: Any
) -> Pair:
    x = as_array(input)
    if output_size is None and output_ratio is None:
        raise ValueError(f"{function}: give output_size or output_ratio")
    if x.ndim == n:
        raise IndexError(f"{function} takes an input of {n + 1} or {n + 2} dimensions, got shape {x.shape}")
    if samples is None:
        require_floating(function, x)
    x, unbatched = batched(function, x, n)
    lengths = x.shape[2:]
    if output_size is None:
        output_size = _ratios(function, n, output_ratio, lengths)
    kernel, counts = _each(function, "kernel_size", kernel_size, n, 1), _each(function, "output_size", output_size, n, 0)
    # torch lets a batch be empty, and without one the channels
    check_not_empty(function, as_array(input).shape, 1)
    for length, window, count in zip(lengths, kernel, counts, strict=True):
        spare = length - (window + count - 1)
        if spare < (1 if n == 3 else 0):
            raise RuntimeError(f"{function}: {count} windows of {window} are too large for {length} elements")
    if samples is None:
        samples = rand(*x.shape[:2], n, dtype=x.dtype)
    samples = _checked_samples(function, n, x, as_array(samples))
    require_floating(function, x)
    best = x, flat_indices(x)
    # torch's kernel takes the samples of an image from the last dimension on
    order = reversed(range(n)) if n == 2 else range(n)
    for axis, sample in sorted(zip(range(2, n + 2), order, strict=True), reverse=True):
        starts = _starts(samples[..., sample], lengths[axis - 2], counts[axis - 2], kernel[axis - 2])
        best = _largest(best, axis, starts, kernel[axis - 2])
    return unbatched(best[0]), unbatched(best[1])


def _ratios(function: str, n: int, ratio: Any, lengths: tuple[int, ...]) -> tuple[int, ...]:
    ratios = (ratio,) * n if isinstance(ratio, (int, float)) else tuple(ratio)
    if len(ratios) < n:
        raise IndexError(f"{function}: output_ratio must have {n} entries, got {ratio!r}")
    return tuple(int(length * r) for length, r in zip(lengths, ratios))


def _each(function: str, name: str, value: Any, n: int, at_least: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,) * n
    if len(values) != n:
        raise RuntimeError(f"{function}: {name} must be one int or {n}, got {values}")
    numbers = tuple(size(function, name, v) for v in values)
    if min(numbers) < at_least:
        raise RuntimeError(f"{function}: {name} must be at least {at_least}, got {numbers}")
    return numbers


def _checked_samples(function: str, n: int, x: jax.Array, samples: jax.Array) -> jax.Array:
    batch, channels = x.shape[:2]
    if samples.dtype != x.dtype:
        raise RuntimeError(f"{function}: _random_samples must be {x.dtype} as the input, got {samples.dtype}")
    if samples.ndim != 3 or samples.shape[0] < batch or samples.shape[1:] != (channels, n):
        raise RuntimeError(f"{function}: _random_samples must have shape {(batch, channels, n)}, got {samples.shape}")
    return lax.stop_gradient(samples[:batch])


def _starts(sample: jax.Array, length: int, count: int, kernel: int) -> jax.Array:
    """Where windows start, (N, C, count): a random step from the last one, the last window at the end."""
    last = jnp.full((*sample.shape, min(count, 1)), length - kernel, jnp.int32)
    if count < 2:
        return last
    # every result is rounded to the dtype, in which torch computes; half precision would otherwise be kept in float32
    info = jnp.finfo(sample.dtype)
    rounded = partial(lax.reduce_precision, exponent_bits=info.nexp, mantissa_bits=info.nmant)
    dtype = sample.dtype
    step = rounded(jnp.asarray(length - kernel, dtype) / jnp.asarray(count - 1, dtype))
    moved = rounded(rounded(jnp.arange(count - 1).astype(dtype) + sample[..., None]) * step)
    first = rounded(sample * step)[..., None]
    return jnp.concatenate([moved.astype(jnp.int32) - first.astype(jnp.int32), last], -1)


def _largest(best: Pair, axis: int, starts: jax.Array, kernel: int) -> Pair:
    """Of each window along ``axis`` the first of the largest elements, or the last NaN, and its index."""
    shape = [*starts.shape[:2], *([1] * (best[0].ndim - 2))]
    shape[axis] = starts.shape[2]
    starts = starts.reshape(shape)

    def at(offset: int) -> Pair:
        return jax.tree.map(lambda x: jnp.take_along_axis(x, starts + offset, axis, mode="clip"), best)

    def combine(earlier: Pair, later: Pair) -> Pair:
        return jax.tree.map(partial(jnp.where, beats(later[0], earlier[0])), later, earlier)

    return reduce(combine, map(at, range(kernel)))
