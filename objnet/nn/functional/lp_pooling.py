"""Power-average pooling: the p-norm of each window."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from objnet.core.arrays import as_array
from objnet.nn.functional._common import absolute, is_floating, widen
from objnet.nn.functional._spatial import sizes
from objnet.nn.functional.pooling import Size, avg_pool1d, avg_pool2d, avg_pool3d, max_pool1d, max_pool2d, max_pool3d

__all__ = ["lp_pool1d", "lp_pool2d", "lp_pool3d"]


def lp_pool1d(
    input: jax.Array, norm_type: float, kernel_size: int, stride: Size | None = None, ceil_mode: bool = False
) -> jax.Array:
    """The ``norm_type``-th root of the sum of powers of each window (torch's ``lp_pool1d``).

    Powers are of the elements, not of their absolute values. The root of a sum of 0 has gradient 0.

    Args:
        input: (N, C, L) or (C, L), floating point.
        norm_type: the exponent; infinity takes the largest absolute value, minus infinity the smallest.
        kernel_size: elements in a window; for more dimensions one int, or one each.
        stride: steps between windows, ``kernel_size`` if None.
        ceil_mode: count a last window that reaches over the end; its mean is taken for the missing elements.

    Returns:
        (N, C, L') or (C, L') of the input's dtype.

    Raises:
        RuntimeError: as :func:`objnet.nn.functional.avg_pool1d`.
        TypeError: sizes that are no integers; here also a ``kernel_size`` that is a tuple.
        ZeroDivisionError: ``norm_type`` is 0.
    """
    if isinstance(kernel_size, (tuple, list)):
        raise TypeError(f"lp_pool1d: kernel_size must be an int, got {kernel_size!r}")
    return _lp_pool("lp_pool1d", 1, avg_pool1d, max_pool1d, input, norm_type, kernel_size, stride, ceil_mode)


def lp_pool2d(
    input: jax.Array, norm_type: float, kernel_size: Size, stride: Size | None = None, ceil_mode: bool = False
) -> jax.Array:
    """The p-norm of each window of an input (N, C, H, W) or (C, H, W) (torch's ``lp_pool2d``), as in :func:`lp_pool1d`."""
    return _lp_pool("lp_pool2d", 2, avg_pool2d, max_pool2d, input, norm_type, kernel_size, stride, ceil_mode)


def lp_pool3d(
    input: jax.Array, norm_type: float, kernel_size: Size, stride: Size | None = None, ceil_mode: bool = False
) -> jax.Array:
    """The p-norm of each window of an input (N, C, D, H, W) or (C, D, H, W) (torch's ``lp_pool3d``), as in :func:`lp_pool1d`."""
    return _lp_pool("lp_pool3d", 3, avg_pool3d, max_pool3d, input, norm_type, kernel_size, stride, ceil_mode)


def _lp_pool(
    function: str,
    n: int,
    mean: Callable[..., jax.Array],
    maximum: Callable[..., Any],
    input: Any,
    norm_type: float,
    kernel_size: Any,
    stride: Any,
    ceil_mode: bool,
) -> jax.Array:
    x = as_array(input)
    kernel = sizes(function, "kernel_size", kernel_size, n)
    if norm_type in (math.inf, -math.inf):
        number = x == x  # NaN has no sign, hence no gradient
        magnitude = jnp.where(number, absolute(jnp.where(number, x, jnp.zeros_like(x))), lax.stop_gradient(x))
        sign = 1 if norm_type > 0 else -1
        return sign * maximum(sign * magnitude, kernel_size, stride, 0, 1, ceil_mode)
    root = 1.0 / norm_type
    whole = not jnp.issubdtype(x.dtype, jnp.inexact)
    if x.dtype == jnp.bool_ or (whole and isinstance(norm_type, float)):
        x = x.astype(jnp.result_type(float))  # as torch's pow promotes
    sums = widen(mean(_power(widen(x), norm_type), kernel_size, stride, 0, ceil_mode))
    if not is_floating(sums):  # of whole powers of int64, rounded down
        x = sums = sums.astype(jnp.result_type(float))
    sums = sums * math.prod(kernel)
    if root == 1:  # NaN has no sign, hence no gradient; other roots give it NaN
        sums = jnp.where(sums == sums, sums, lax.stop_gradient(sums))
    zero = sums == 0  # kept out of the root, whose slope there is infinite
    roots = jnp.where(zero, jnp.zeros((), sums.dtype) ** root, _power(jnp.where(zero, jnp.ones((), sums.dtype), sums), root))
    return roots.astype(x.dtype)


def _power(x: jax.Array, exponent: Any) -> jax.Array:
    if isinstance(exponent, (int, float)):
        if exponent == 0.5:
            return jnp.sqrt(x)
        if float(exponent).is_integer():
            return jnp.power(x, int(exponent))  # by multiplications
    return jnp.power(x, jnp.asarray(exponent, x.dtype))
