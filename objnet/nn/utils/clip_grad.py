"""Clipping gradients, by their norm or by value.

Each function makes one pass over all gradients, as one compiled program of its own or as part of the program around it.
``foreach``, torch's choice of an implementation, makes no difference.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from objnet.core import errors
from objnet.core.arrays import as_array
from objnet.core.tensor import TensorMethods
from objnet.core.variable import Parameter
from objnet.nn.functional._common import common_dtype, host, widen
from objnet.nn.functional._norm import vector_norm

__all__ = ["clip_grad_norm", "clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_", "get_total_norm"]

_ARRAYS = (jax.Array, np.ndarray, TensorMethods)


def clip_grad_norm_(
    parameters: Parameter | Iterable[Parameter],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> jax.Array:
    """Scale the gradients down together so that their norm is at most ``max_norm`` (torch's ``clip_grad_norm_``).

    Args:
        parameters: whose ``grad`` is replaced where it is not None.
        max_norm: a number or a 0-d array.
        norm_type: the p of the norm, any number or ``"inf"``.
        error_if_nonfinite: raise if the norm is infinite or NaN. Looks at the value, so it cannot be asked for in a trace.

    Returns:
        The norm before clipping, a 0-d array of the gradients' dtype.

    Raises:
        TypeError: an item is no Parameter.
        RuntimeError: a norm that is not finite, if asked; ``error_if_nonfinite`` in a trace (CompiledCallError).
    """
    chosen = _parameters("clip_grad_norm_", parameters)
    if isinstance(parameters, Iterator) and not chosen:
        message = "`parameters` is an iterator without items, perhaps used before: no gradient is clipped"
        warnings.warn(message, UserWarning, stacklevel=2)
    total = get_total_norm([p.grad for p in chosen if p.grad is not None], norm_type, error_if_nonfinite)
    clip_grads_with_norm_(chosen, max_norm, total)
    return total


def clip_grad_norm(
    parameters: Parameter | Iterable[Parameter],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> jax.Array:
    """Deprecated: the old name of :func:`clip_grad_norm_`."""
    message = "nn.utils.clip_grad_norm is deprecated: write nn.utils.clip_grad_norm_"
    warnings.warn(message, FutureWarning, stacklevel=2)
    return clip_grad_norm_(parameters, max_norm, norm_type, error_if_nonfinite, foreach)


def get_total_norm(
    tensors: jax.Array | Iterable[jax.Array],
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> jax.Array:
    """The norm of the norms of some arrays, which is that of all their elements together (torch's ``get_total_norm``).

    Arguments, result and errors as :func:`clip_grad_norm_`; no arrays have norm 0.

    Raises:
        RuntimeError: integer arrays, the infinite norm of an empty array.
    """
    arrays = [as_array(a) for a in ([tensors] if isinstance(tensors, _ARRAYS) else tensors)]
    norm_type = float(norm_type)
    if not arrays:
        return jnp.asarray(np.float32(0))
    for array in arrays:
        if not jnp.issubdtype(array.dtype, jnp.inexact):
            raise RuntimeError(f"get_total_norm needs floating point or complex arrays, got {array.dtype}")
        if math.isinf(norm_type) and array.size == 0:
            raise RuntimeError(f"the norm of order {norm_type} of an empty array does not exist, got shape {array.shape}")
    total = _total_norm(arrays, norm_type)
    if error_if_nonfinite:
        if isinstance(total, jax.core.Tracer):
            raise errors.CompiledCallError(
                f"error_if_nonfinite=True was asked for in a trace{errors.where()}, where the norm has no value yet: leave it "
                "out there, return the norm, and check it outside."
            )
        if not np.isfinite(host(total)):
            raise RuntimeError(
                f"The total norm of order {norm_type} for gradients from `parameters` is non-finite, so it cannot be clipped: "
                "pass error_if_nonfinite=False to scale the gradients by it anyway."
            )
    return total


def clip_grads_with_norm_(
    parameters: Parameter | Iterable[Parameter],
    max_norm: float,
    total_norm: jax.Array,
    foreach: bool | None = None,
) -> None:
    """Multiply the gradients by ``max_norm / total_norm`` where that is below 1 (torch's ``clip_grads_with_norm_``).

    Args:
        parameters: whose ``grad`` is replaced where it is not None.
        max_norm: a number or a 0-d array.
        total_norm: what :func:`get_total_norm` gave.

    Raises:
        TypeError: an item is no Parameter.
    """
    chosen = [p for p in _parameters("clip_grads_with_norm_", parameters) if p.grad is not None]
    limit = _limit(max_norm)
    if chosen:
        scaled = _scaled([p.grad for p in chosen], limit, as_array(total_norm))
        for parameter, gradient in zip(chosen, scaled, strict=True):
            parameter.grad = gradient


def clip_grad_value_(parameters: Parameter | Iterable[Parameter], clip_value: float, foreach: bool | None = None) -> None:
    """Clip every element of the gradients to [``-clip_value``, ``clip_value``] (torch's ``clip_grad_value_``).

    Args:
        parameters: whose ``grad`` is replaced where it is not None.
        clip_value: a number or a 0-d array.

    Raises:
        TypeError: an item is no Parameter.
        NotImplementedError: complex gradients.
    """
    chosen = [p for p in _parameters("clip_grad_value_", parameters) if p.grad is not None]
    gradients: list[Any] = [p.grad for p in chosen]
    if any(jnp.issubdtype(g.dtype, jnp.complexfloating) for g in gradients):
        raise NotImplementedError("clip_grad_value_ does not support complex gradients: complex numbers have no order")
    limit = _limit(clip_value)
    if chosen:
        for parameter, gradient in zip(chosen, _clamped(gradients, limit), strict=True):
            parameter.grad = gradient


def _parameters(function: str, parameters: Any) -> list[Parameter]:
    chosen = [parameters] if isinstance(parameters, Parameter) else list(parameters)
    for item in chosen:
        if not isinstance(item, Parameter):
            raise TypeError(
                f"{function} takes Parameters, whose .grad it replaces, got {type(item).__name__}: pass model.parameters() after "
                "objnet.backward; gradients you hold yourself are clipped by optax.clip_by_global_norm"
            )
    return chosen


def _limit(value: Any) -> jax.Array:
    """A number or 0-d array as an array, so that another value is no other program."""
    return as_array(value if isinstance(value, _ARRAYS) else float(value))


@functools.partial(jax.jit, static_argnums=1, inline=True)
def _total_norm(arrays: list[jax.Array], p: float) -> jax.Array:
    magnitudes = [widen(jnp.abs(a)) for a in arrays]
    if p == 2:
        total = jnp.sqrt(jnp.sum(_together([jnp.sum(jnp.square(m)) for m in magnitudes])))
    else:
        norms = [vector_norm(m, p, tuple(range(m.ndim))).reshape(()) for m in magnitudes]
        total = vector_norm(_together(norms), p, (0,)).reshape(())
    return total.astype(common_dtype(*(jnp.abs(a) for a in arrays)))


def _together(numbers: list[jax.Array]) -> jax.Array:
    kind = common_dtype(*numbers)
    return jnp.stack([n.astype(kind) for n in numbers])


@functools.partial(jax.jit, inline=True)
def _scaled(gradients: list[jax.Array], limit: jax.Array, norm: jax.Array) -> list[jax.Array]:
    norm = widen(norm)
    factor = jnp.minimum(limit.astype(norm.dtype) / (norm + 1e-6), 1.0)
    return [(widen(g) * factor.astype(widen(g).dtype)).astype(g.dtype) for g in gradients]


@functools.partial(jax.jit, inline=True)
def _clamped(gradients: list[jax.Array], limit: jax.Array) -> list[jax.Array]:
    return [jnp.clip(g, -limit.astype(g.dtype), limit.astype(g.dtype)) for g in gradients]
