"""Clipping and shrinking: functions made of straight pieces, with torch's gradients where they meet."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from objnet.nn.functional._common import widen
from objnet.nn.functional._pointwise import floating, number_like, pointwise, real, written

__all__ = ["hardshrink", "hardsigmoid", "hardswish", "hardtanh", "relu6", "softshrink"]


def hardtanh(input: jax.Array, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> jax.Array:
    """``input`` clipped to the range, with gradient 0 at both ends (torch's ``F.hardtanh``).

    Integer inputs stay integers; the limits are then truncated towards zero.

    Raises:
        ValueError: ``min_val`` is above ``max_val``.
        RuntimeError: booleans; an integer dtype that cannot hold a limit.
        NotImplementedError: complex numbers.
    """
    if min_val > max_val:
        raise ValueError(f"min_val cannot be greater than max_val, got {min_val} and {max_val}")
    array = real("hardtanh", input)
    low, high = (number_like("hardtanh", limit, array.dtype) for limit in (min_val, max_val))
    return written(input, jnp.where(array <= low, low, jnp.where(array >= high, high, array)), inplace)


def relu6(input: jax.Array, inplace: bool = False) -> jax.Array:
    """``input`` clipped to 0 and 6, with gradient 0 at both ends (torch's ``F.relu6``).

    Raises:
        RuntimeError: booleans.
        NotImplementedError: complex numbers.
    """
    return hardtanh(input, 0, 6, inplace)


def hardsigmoid(input: jax.Array, inplace: bool = False) -> jax.Array:
    """``input / 6 + 1/2`` clipped to 0 and 1, with gradient 0 at both ends (torch's ``F.hardsigmoid``).

    Raises:
        NotImplementedError: dtypes that are not floating point.
    """
    array = floating("hardsigmoid", input)
    wide = widen(array)
    line = (wide + 3.0) * (1 / 6)
    output = jnp.where(wide <= -3.0, 0.0, jnp.where(wide >= 3.0, 1.0, line))
    return written(input, output.astype(array.dtype), inplace)


_hardswish = pointwise(
    lambda x: x * jnp.clip(x + 3.0, 0.0, 6.0) * (1 / 6),
    lambda x: jnp.where(x <= -3.0, 0.0, jnp.where(x >= 3.0, 1.0, x * (1 / 3) + 0.5)),
)


def hardswish(input: jax.Array, inplace: bool = False) -> jax.Array:
    """``input * hardsigmoid(input)`` (Howard et al. 2019; torch's ``F.hardswish``).

    Raises:
        NotImplementedError: dtypes that are not floating point.
    """
    return written(input, _hardswish(floating("hardswish", input)), inplace)


def hardshrink(input: jax.Array, lambd: float = 0.5) -> jax.Array:
    """``input``, but 0 from ``-lambd`` to ``lambd``, where the gradient is 0 too (torch's ``F.hardshrink``).

    Raises:
        NotImplementedError: dtypes that are not floating point.
    """
    array, lambd = floating("hardshrink", input), float(lambd)
    return jnp.where((array >= -lambd) & (array <= lambd), 0.0, array)


def softshrink(input: jax.Array, lambd: float = 0.5) -> jax.Array:
    """``input`` moved towards 0 by ``lambd``, and 0 where that reaches it (torch's ``F.softshrink``).

    Raises:
        RuntimeError: ``lambd`` is negative, NaN, or above what the dtype can hold.
        NotImplementedError: dtypes that are not floating point.
    """
    array, lambd = floating("softshrink", input), float(lambd)
    limit = float(jnp.finfo(array.dtype).max)
    if not 0 <= lambd <= limit:
        raise RuntimeError(f"softshrink: lambd must lie between 0 and {limit} for {array.dtype}, got {lambd}")
    shrunk = jnp.where(array > 0, array - lambd, array + lambd)
    return jnp.where((array >= -lambd) & (array <= lambd), 0.0, shrunk)
