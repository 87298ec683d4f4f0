"""Pooling: arguments checked as torch checks them; the windows are the work of :mod:`objnet.nn.functional._windows`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from objnet.core.arrays import as_array
from objnet.nn.functional._common import require_floating, widen
from objnet.nn.functional._spatial import batched, size
from objnet.nn.functional._windows import Windows, flat_indices, largest, sums, windows

__all__ = [
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "max_pool1d",
    "max_pool1d_with_indices",
    "max_pool2d",
    "max_pool2d_with_indices",
    "max_pool3d",
    "max_pool3d_with_indices",
]

Size: TypeAlias = int | Sequence[int]
MaxPooled: TypeAlias = jax.Array | tuple[jax.Array, jax.Array]


def max_pool1d(
    input: jax.Array,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> MaxPooled:
    """The largest element of each window (torch's ``max_pool1d``).

    Args:
        input: (N, C, L) or (C, L), real.
        kernel_size: elements in a window; sizes are one int, or one for each dimension.
        stride: steps between windows, ``kernel_size`` if None.
        padding: how far windows reach over either end, at most half of a window.
        dilation: steps between the elements of a window.
        ceil_mode: count a last window that reaches over the end, if it starts before it.
        return_indices: give also where in the flattened spatial dimensions each maximum was.

    Returns:
        (N, C, L') or (C, L') of the input's dtype, or a pair of that and the indices, in the default integer dtype. NaN
        counts as the largest. The gradient goes to the first of equal maxima.

    Raises:
        RuntimeError: an input of the wrong rank or with an empty dimension other than the batch, sizes that are too small,
            too much padding, no room for a window.
        TypeError: a size that is no integer.
        NotImplementedError: booleans, complex numbers and, without ``return_indices``, integers.
    """
    x = as_array(input)
    if not return_indices:
        require_floating("max_pool1d", x)
    return _max_pool("max_pool1d", 1, x, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool2d(
    input: jax.Array,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> MaxPooled:
    """The largest element of each window of an input (N, C, H, W) or (C, H, W) (torch's ``max_pool2d``).

    Integers are taken too. The rest is as in :func:`max_pool1d`.
    """
    return _max_pool("max_pool2d", 2, as_array(input), kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool3d(
    input: jax.Array,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> MaxPooled:
    """The largest element of each window of an input (N, C, D, H, W) or (C, D, H, W) (torch's ``max_pool3d``).

    Integers are taken too. The rest is as in :func:`max_pool1d`.
    """
    return _max_pool("max_pool3d", 3, as_array(input), kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool1d_with_indices(
    input: jax.Array,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """:func:`max_pool1d` with ``return_indices=True``, whatever ``return_indices`` is (torch's ``max_pool1d_with_indices``)."""
    return max_pool1d(input, kernel_size, stride, padding, dilation, ceil_mode, True)


def max_pool2d_with_indices(
    input: jax.Array,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """:func:`max_pool2d` with ``return_indices=True``, whatever ``return_indices`` is (torch's ``max_pool2d_with_indices``)."""
    return max_pool2d(input, kernel_size, stride, padding, dilation, ceil_mode, True)


def max_pool3d_with_indices(
    input: jax.Array,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """:func:`max_pool3d` with ``return_indices=True``, whatever ``return_indices`` is (torch's ``max_pool3d_with_indices``)."""
    return max_pool3d(input, kernel_size, stride, padding, dilation, ceil_mode, True)


def avg_pool1d(
    input: jax.Array,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> jax.Array:
    """The mean of each window (torch's ``avg_pool1d``).

    Args:
        input: (N, C, L) or (C, L), floating point or int64.
        kernel_size: elements in a window; sizes are one int, or one for each dimension.
        stride: steps between windows, ``kernel_size`` if None.
        padding: zeros on either end, at most half of a window.
        ceil_mode: count a last window that reaches over the end, if it starts before it.
        count_include_pad: divide by the elements in the window with the padding, else without.

    Returns:
        (N, C, L') or (C, L') of the input's dtype; float16 and bfloat16 are summed in float32.

    Raises:
        RuntimeError, TypeError: as :func:`max_pool1d`.
        NotImplementedError: other dtypes.
    """
    return _avg_pool("avg_pool1d", 1, input, kernel_size, stride, padding, ceil_mode, count_include_pad, None)


def avg_pool2d(
    input: jax.Array,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> jax.Array:
    """The mean of each window of an input (N, C, H, W) or (C, H, W) (torch's ``avg_pool2d``).

    ``divisor_override`` divides the sums in place of the number of elements; it must not be 0 (RuntimeError). The rest is
    as in :func:`avg_pool1d`.
    """
    return _avg_pool("avg_pool2d", 2, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def avg_pool3d(
    input: jax.Array,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> jax.Array:
    """The mean of each window of an input (N, C, D, H, W) or (C, D, H, W) (torch's ``avg_pool3d``).

    As in torch, the input must be at least as large as a window. The rest is as in :func:`avg_pool2d`.
    """
    return _avg_pool("avg_pool3d", 3, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def _max_pool(
    function: str,
    n: int,
    x: jax.Array,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: bool,
    return_indices: bool,
) -> MaxPooled:
    if x.dtype == jnp.bool_ or jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise NotImplementedError(f"{function} is not implemented for {x.dtype}")
    x, unbatched = batched(function, x, n)
    check_not_empty(function, x.shape, 1)
    along = windows(function, x.shape[2:], kernel_size, stride, padding, dilation, ceil_mode)
    indices = flat_indices(x) if return_indices else None
    for axis in reversed(range(2, n + 2)):  # the last first: equal maxima are told apart in scan order
        x, indices = largest(x, indices, axis, along[axis - 2])
    return unbatched(x) if indices is None else (unbatched(x), unbatched(indices))


def _avg_pool(
    function: str,
    n: int,
    input: Any,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: Any,
) -> jax.Array:
    x = as_array(input)
    if x.dtype != jnp.int64:
        require_floating(function, x)
    x, unbatched = batched(function, x, n)
    check_not_empty(function, x.shape, 1)
    along = windows(function, x.shape[2:], kernel_size, stride, padding, 1, ceil_mode)
    if n == 3 and any(w.kernel > w.length for w in along):
        raise RuntimeError(f"{function}: a window of {[w.kernel for w in along]} is larger than the input {x.shape[2:]}")
    total = widen(x)
    for axis in reversed(range(2, n + 2)):
        total = sums(total, axis, along[axis - 2])
    if divisor_override is None:
        divisor = reduce(np.multiply.outer, [_elements(w, count_include_pad) for w in along])
    else:
        divisor = np.asarray(size(function, "divisor_override", divisor_override))
        if divisor == 0:
            raise RuntimeError(f"{function}: divisor_override must not be 0")
    divisors = jnp.broadcast_to(jnp.asarray(divisor, total.dtype), total.shape)
    return unbatched(lax.div(total, divisors).astype(x.dtype))  # lax.div: integers are truncated, as in torch


def _elements(along: Windows, count_include_pad: bool) -> np.ndarray:
    """How many elements each window has along a dimension; what a last window reaches beyond the padding never counts."""
    start = np.arange(along.count) * along.stride - along.padding
    end = np.minimum(start + along.kernel, along.length + along.padding)
    return end - start if count_include_pad else np.minimum(end, along.length) - np.maximum(start, 0)


def check_not_empty(function: str, shape: tuple[int, ...], first: int) -> None:
    """Refuse a shape with empty dimensions from ``first`` on.

    Raises:
        RuntimeError: there are some.
    """
    if 0 in shape[first:]:
        raise RuntimeError(f"{function}: dimensions from {first} on must not be empty, got an input of shape {shape}")
