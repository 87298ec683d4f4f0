"""The arithmetic of a loss scale: pure functions, compiled alone or as part of the program around them."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp


@jax.jit
def scaled(outputs: jax.Array, scale: jax.Array) -> jax.Array:
    """``outputs * scale``, in torch's dtype: a scalar's is float32 at least, other floating arrays keep theirs."""
    wide = at_least_float32(outputs.dtype)  # a scale beyond float16's range multiplies small numbers well
    narrow = outputs.ndim > 0 and jnp.issubdtype(outputs.dtype, jnp.inexact)
    return (outputs.astype(wide) * scale.astype(wide)).astype(outputs.dtype if narrow else wide)


@functools.partial(jax.jit, static_argnums=0)
def moved(
    factors: tuple[float, float, int], scale: jax.Array, tracker: jax.Array, checks: list[tuple[jax.Array, jax.Array]]
) -> tuple[jax.Array, jax.Array]:
    """The scale and the count of good steps after these checks, of which each was made or not, and found something or not."""
    growth, backoff, interval = factors
    made = functools.reduce(jnp.logical_or, [m for m, _ in checks])
    found = functools.reduce(jnp.logical_or, [m & f for m, f in checks])
    count = tracker + 1
    grown = scale * growth
    full = count == interval
    better = jnp.where(full & jnp.isfinite(grown), grown, scale)  # growth never ends in infinity
    scale = jnp.where(made, jnp.where(found, scale * backoff, better), scale)
    return scale, jnp.where(made, jnp.where(found | full, 0, count), tracker)


@jax.jit
def unscaled(
    grads: list[jax.Array], scale: jax.Array, done: jax.Array | None, before: jax.Array
) -> tuple[list[jax.Array], jax.Array]:
    """The gradients over ``scale`` in their dtypes, and whether any was not finite; if ``done``, what is and was there."""
    inverse = 1 / scale
    found = ~functools.reduce(jnp.logical_and, [jnp.isfinite(g).all() for g in grads])
    if done is not None:
        inverse, found = jnp.where(done, 1.0, inverse), jnp.where(done, before, found)

    def unscale(g: jax.Array) -> jax.Array:
        wide = at_least_float32(g.dtype)
        return (g.astype(wide) * inverse.astype(wide)).astype(g.dtype)

    return [unscale(g) for g in grads], found


def at_least_float32(dtype: Any) -> Any:
    """float32 in place of a narrower floating dtype or an integer one."""
    return dtype if jnp.issubdtype(dtype, jnp.inexact) and dtype.itemsize >= 4 else jnp.dtype(jnp.float32)
