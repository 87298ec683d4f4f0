"""What functions over 1, 2 or 3 spatial dimensions share: sizes, batches and padding, with torch's errors."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Array = jax.Array


def size(function: str, name: str, value: Any) -> int:
    """``value`` as an int; numpy integers are taken, booleans, floats and arrays are not.

    Raises:
        TypeError: it is no integer.
    """
    if isinstance(value, (bool, jax.Array)) or not hasattr(value, "__index__"):
        raise TypeError(f"{function}: {name} must be an int or a tuple of ints, got {value!r}")
    return operator.index(value)


def sizes(function: str, name: str, value: Any, n: int) -> tuple[int, ...]:
    """``value``, one integer or a sequence of 1 or ``n`` of them, as a tuple of ``n``.

    Raises:
        TypeError: something in it is no integer.
        RuntimeError: it has another length.
    """
    if not isinstance(value, Sequence) or isinstance(value, str):
        return (size(function, name, value),) * n
    if len(value) not in (1, n):
        raise RuntimeError(f"{function}: {name} must be a single int or a tuple of {n}, got {tuple(value)}")
    items = tuple(size(function, name, item) for item in value)
    return items if len(items) == n else items * n


def require(function: str, name: str, values: Sequence[int], at_least: int) -> None:
    """Refuse values below a bound.

    Raises:
        RuntimeError: one is.
    """
    if any(value < at_least for value in values):
        raise RuntimeError(f"{function}: {name} must be at least {at_least}, got {tuple(values)}")


def batched(function: str, x: Array, n: int) -> tuple[Array, Callable[[Array], Array]]:
    """``x`` with a batch dimension, (N, C, *spatial), and what removes it again where ``x`` had none.

    Raises:
        RuntimeError: ``x`` is neither (C, *spatial) nor (N, C, *spatial).
    """
    if x.ndim == n + 2:
        return x, lambda y: y
    if x.ndim == n + 1:
        return x[None], lambda y: y[0]
    raise RuntimeError(f"{function} takes an input of {n + 1} (unbatched) or {n + 2} dimensions, got shape {x.shape}")


def padded(x: Array, pads: Sequence[tuple[int, int]], value: Any = 0) -> Array:
    """``x`` with ``pads``, a pair (before, after) for each of the last dimensions, filled with ``value``.

    Negative numbers take away.
    """
    if all(pair == (0, 0) for pair in pads):
        return x
    config = [(0, 0, 0)] * (x.ndim - len(pads)) + [(before, after, 0) for before, after in pads]
    return lax.pad(x, jnp.asarray(value, x.dtype), config)


def strided(x: Array, axis: int, start: int, count: int, stride: int) -> Array:
    """``count`` elements of ``x`` along ``axis``, from ``start`` on, ``stride`` apart."""
    return lax.slice_in_dim(x, start, start + (count - 1) * stride + 1, stride, axis)


def laid_along(values: np.ndarray, axis: int, ndim: int) -> Array:
    """A vector as an array of ``ndim`` dimensions that all have size 1 but ``axis``, to broadcast along the others."""
    return jnp.asarray(values).reshape([-1 if i == axis else 1 for i in range(ndim)])
