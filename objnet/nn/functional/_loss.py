"""What the losses share: operands of one shape and dtype, the kinks of hinges, and rules for the class that is looked up."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from objnet.core.arrays import as_array
from objnet.nn.functional._common import common_dtype, host, is_concrete, widen


def broadcast(function: str, *arrays: Any) -> list[jax.Array]:
    """The arguments in the shape they broadcast to, each in its own dtype.

    Raises:
        RuntimeError: they do not broadcast.
    """
    found = [as_array(x) for x in arrays]
    try:
        return list(jnp.broadcast_arrays(*found))
    except ValueError:
        shapes = " and ".join(str(x.shape) for x in found)
        raise RuntimeError(f"{function}: shapes {shapes} do not broadcast") from None


def float_dtype(*arrays: jax.Array) -> np.dtype:
    """The dtype these promote to, float32 where that is not inexact, as torch's operators with a Python float."""
    dtype = common_dtype(*arrays)
    return dtype if jnp.issubdtype(dtype, jnp.inexact) else jnp.dtype(jnp.float32)


def wide_dtype(dtype: Any) -> np.dtype:
    """The dtype to compute in: float32 for half precision, else ``dtype``."""
    return widen(jnp.zeros((), dtype)).dtype


def refuse_complex(function: str, *arrays: jax.Array, error: type[Exception] = NotImplementedError) -> None:
    """Refuse complex numbers with torch's class of error."""
    for x in arrays:
        if jnp.issubdtype(x.dtype, jnp.complexfloating):
            raise error(f"{function} is not defined for complex numbers, got {x.dtype}")


def clamped(x: jax.Array) -> jax.Array:
    """``max(x, 0)`` with gradient 1 at 0, that of torch's ``clamp_min``; ``relu`` has 0 there."""
    return jnp.where(x < 0, jnp.zeros((), x.dtype), x)


# -- classes -----------------------------------------------------------------------------------------------------------


def as_classes(function: str, target: Any) -> jax.Array:
    """Classes in a signed dtype.

    Raises:
        RuntimeError: the dtype is not an integer one.
    """
    target = as_array(target)
    if not jnp.issubdtype(target.dtype, jnp.integer):
        raise RuntimeError(f"{function}: classes must be integers, got {target.dtype}")
    return target.astype(jnp.int64 if target.dtype.itemsize == 8 else jnp.int32)


def comparable(target: jax.Array) -> jax.Array:
    """``target`` as numbers: booleans count as 0 and 1, as in torch's comparisons."""
    return target.astype(jnp.int32) if target.dtype == jnp.bool_ else target


def exists(target: Any, classes: int) -> Any:
    """Where the class is one of 0 to ``classes`` - 1."""
    return (target >= 0) & (target < classes)


def check_values(target: jax.Array, allowed: Callable[[np.ndarray], np.ndarray], message: str, error: type[Exception]) -> None:
    """Refuse targets that are not ``allowed`` where they can be looked at; ``message`` is formatted with the first.

    Raises:
        error: there is one.
    """
    if is_concrete(target):
        values = host(target)
        wrong = values[~allowed(values)]
        if wrong.size:
            raise error(message.format(wrong[0]))


def is_class(target: jax.Array, shape: tuple[int, ...], axis: int) -> jax.Array:
    """A mask of ``shape``: where the index along ``axis`` is the class."""
    return lax.broadcasted_iota(target.dtype, shape, axis) == jnp.expand_dims(target, axis)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def picked(x: jax.Array, target: jax.Array, axis: int) -> jax.Array:
    """``x`` at the class, at 0 where the class does not exist.  Its gradient is a mask and not a scatter.

    The mask of the backward pass fuses with what is around it.  In the forward pass a lookup is faster.
    """
    index = _existing(target, x.shape[axis])
    return jnp.squeeze(jnp.take_along_axis(x, jnp.expand_dims(index, axis), axis, mode="fill"), axis)


@picked.defjvp
def _picked_jvp(axis: int, primals: tuple[Any, Any], tangents: tuple[Any, Any]) -> tuple[jax.Array, jax.Array]:
    (x, target), tangent = primals, tangents[0]
    return picked(x, target, axis), jnp.sum(
        jnp.where(is_class(_existing(target, x.shape[axis]), x.shape, axis), tangent, 0), axis
    )


def _existing(target: jax.Array, classes: int) -> jax.Array:
    return jnp.where(exists(target, classes), target, 0)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def log_total(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """The peak along ``axis``, and the logarithm of ``sum(exp(x - peak))``.

    Their sum is ``logsumexp``; apart they keep the accuracy of ``logsumexp(x) - x`` for large ``x``.  The peak counts as a
    constant, which the sum allows.
    """
    peak = jnp.max(x, axis, initial=-jnp.inf)
    return peak, jnp.log(jnp.sum(jnp.exp(x - jnp.expand_dims(peak, axis)), axis))


@log_total.defjvp
def _log_total_jvp(axis: int, primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> Any:
    # the exponentials of the value and of its slope are the same, and computed once
    (x,), (tangent,) = primals, tangents
    peak = lax.stop_gradient(jnp.max(x, axis, initial=-jnp.inf))
    powers = jnp.exp(x - jnp.expand_dims(peak, axis))
    total = jnp.sum(powers, axis)
    slope = jnp.sum(powers / jnp.expand_dims(total, axis) * tangent, axis)
    return (peak, jnp.log(total)), (jnp.zeros_like(peak), slope)
