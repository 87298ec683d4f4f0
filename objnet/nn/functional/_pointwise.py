"""What the activation functions share: checks of the dtype, a cheap backward pass, and writing in place."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from objnet.core.arrays import as_array
from objnet.core.tensor import TensorMethods
from objnet.nn.functional._common import require_floating, widen

Map = Callable[[jax.Array], jax.Array]


def pointwise(value: Map, slope: Map) -> Map:
    """An elementwise function that keeps one array for the backward pass, its slope; autodiff keeps two or three.

    A scan over layers stores, layer by layer, what is kept.  Jitted forward and backward on CPU, gelu at (8, 128, 256)
    and (16, 128, 768): 0.91-0.95 of the time of autodiff of the same formula, as a custom_vjp, and 0.6 of
    ``jax.nn.gelu``'s.
    """

    @jax.custom_jvp
    def function(x: jax.Array) -> jax.Array:
        return value(widen(x)).astype(x.dtype)

    @function.defjvp
    def _(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
        (x,), (tangent,) = primals, tangents
        return function(x), tangent * slope(widen(x)).astype(x.dtype)

    return function


def written(target: Any, value: jax.Array, inplace: bool = True) -> Any:
    """What torch's in-place spellings return: ``target`` after ``value`` was stored in it.

    Only Parameters, Buffers and their views can be written to; a jax array is immutable, and its caller gets ``value``.
    """
    return target._update(value) if inplace and isinstance(target, TensorMethods) else value


def floating(name: str, input: Any) -> jax.Array:
    """``input`` as an array.

    Raises:
        NotImplementedError: it is not floating point.
    """
    array = as_array(input)
    require_floating(name, array)
    return array


def real(name: str, input: Any) -> jax.Array:
    """``input`` as an array of integers or floating point numbers.

    Raises:
        RuntimeError: booleans.
        NotImplementedError: complex numbers.
    """
    array = as_array(input)
    if array.dtype == jnp.bool_:
        raise RuntimeError(f"{name} takes no booleans")
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise NotImplementedError(f"{name} is not defined for complex numbers")
    return array


def inexact(input: Any) -> jax.Array:
    """``input`` as an array of floating point or complex numbers; integers and booleans become float32."""
    array = as_array(input)
    return array if jnp.issubdtype(array.dtype, jnp.inexact) else array.astype(jnp.float32)


def number_like(name: str, number: float, dtype: Any) -> int | float:
    """``number`` as an element of ``dtype``; for integers it is truncated towards zero, as torch casts scalars.

    Raises:
        RuntimeError: an integer ``dtype`` that cannot hold it.
    """
    if not jnp.issubdtype(dtype, jnp.integer):
        return float(number)
    limits = jnp.iinfo(dtype)
    if not math.isfinite(number) or not limits.min <= int(number) <= limits.max:
        raise RuntimeError(f"{name}: {number} is out of the range of {jnp.dtype(dtype)}, {limits.min} to {limits.max}")
    return int(number)
