"""Averaging functions: of one array, and of lists."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from objnet.core.arrays import as_array
from objnet.core.variable import Variable

Arrays = list[jax.Array]


def get_ema_avg_fn(decay: float = 0.999) -> Callable[[Any, Any, Any], jax.Array]:
    """The function ``(averaged, current, num_averaged)`` -> ``decay * averaged + (1 - decay) * current``, of arrays.

    Raises:
        ValueError: ``decay`` is not in [0, 1].
    """
    _check_decay(decay)
    return lambda averaged, current, num_averaged: exponential([as_array(averaged)], [as_array(current)], decay)[0]


def get_swa_avg_fn() -> Callable[[Any, Any, Any], jax.Array]:
    """The function ``(averaged, current, num_averaged)`` -> the mean of ``num_averaged + 1`` models, of arrays."""
    return lambda averaged, current, num_averaged: equal_weights([as_array(averaged)], [as_array(current)], num_averaged)[0]


def get_ema_multi_avg_fn(decay: float = 0.999) -> Callable[[Sequence[Any], Sequence[Any], Any], Arrays]:
    """:func:`get_ema_avg_fn` of lists. Parameters and Buffers in the first list are changed in place; returns the new arrays.

    Raises:
        ValueError: ``decay`` is not in [0, 1].
    """
    _check_decay(decay)

    def update(averaged: Sequence[Any], current: Sequence[Any], num_averaged: Any) -> Arrays:
        return _in_place(averaged, exponential([*map(as_array, averaged)], [*map(as_array, current)], decay))

    return update


def get_swa_multi_avg_fn() -> Callable[[Sequence[Any], Sequence[Any], Any], Arrays]:
    """:func:`get_swa_avg_fn` of lists. Parameters and Buffers in the first list are changed in place; returns the new arrays."""

    def update(averaged: Sequence[Any], current: Sequence[Any], num_averaged: Any) -> Arrays:
        return _in_place(averaged, equal_weights([*map(as_array, averaged)], [*map(as_array, current)], num_averaged))

    return update


def _check_decay(decay: float) -> None:
    if decay < 0.0 or decay > 1.0:
        raise ValueError(f"Invalid decay value {decay} provided. Please provide a value in [0,1] range.")


def _in_place(targets: Sequence[Any], values: Arrays) -> Arrays:
    for target, value in zip(targets, values, strict=True):
        if isinstance(target, Variable):
            target._set(value.astype(target._read().dtype))
    return values


def _wide(x: jax.Array) -> jax.Array:
    """``x`` in the precision averages are computed in: float32 at least."""
    dtype = x.dtype
    return x if jnp.issubdtype(dtype, jnp.inexact) and dtype.itemsize >= 4 else x.astype(jnp.float32)


# One dispatch for a whole model; part of the program in a compiled step.
@functools.partial(jax.jit, static_argnums=2, inline=True)
def exponential(averaged: Arrays, current: Arrays, decay: float) -> Arrays:
    def average(old: jax.Array, new: jax.Array) -> jax.Array:
        a, b = _wide(old), _wide(new)
        if not jnp.issubdtype(old.dtype, jnp.inexact):
            return decay * a + (1 - decay) * b  # to be cut to a whole number, so in torch's very form
        # These are exact where the weight is 0 or 1, and where nothing moves.
        return (a + (1 - decay) * (b - a) if decay > 0.5 else b - decay * (b - a)).astype(old.dtype)

    return [*map(average, averaged, current)]


@functools.partial(jax.jit, inline=True)
def equal_weights(averaged: Arrays, current: Arrays, count: Any) -> Arrays:
    def average(old: jax.Array, new: jax.Array) -> jax.Array:
        a, b = _wide(old), _wide(new)
        mean = a + (b - a) / jnp.asarray(count + 1).astype(a.dtype)
        return mean.astype(old.dtype) if jnp.issubdtype(old.dtype, jnp.inexact) else mean

    return [*map(average, averaged, current)]


@functools.partial(jax.jit, inline=True)
def unless_first(count: jax.Array, current: Arrays, averages: Arrays) -> Arrays:
    return [jnp.where(count == 0, new, average) for new, average in zip(current, averages, strict=True)]
