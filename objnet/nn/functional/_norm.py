"""The p-norm along dimensions, with torch's gradients where it has none."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from objnet.nn.functional._common import absolute


def vector_norm(x: jax.Array, p: float, axes: tuple[int, ...]) -> jax.Array:
    """``sum(abs(x) ** p) ** (1 / p)`` along ``axes``, which are kept with size 1 (torch's ``linalg.vector_norm``).

    ``p`` may be any number: infinite takes the largest or smallest magnitude, 0 counts what is not zero.  Elements that
    are zero, and norms that are zero, have gradient zero; equal extremes share it.  The norm of complex numbers is real.
    """
    if p == 2:
        squares = jnp.square(x.real) + jnp.square(x.imag) if jnp.iscomplexobj(x) else x * x
        return _root(jnp.sum(squares, axes, keepdims=True), p)
    magnitude = jnp.abs(x) if jnp.iscomplexobj(x) else absolute(x)
    if math.isinf(p):
        return (jnp.max if p > 0 else jnp.min)(magnitude, axes, keepdims=True)
    if p == 0:
        return jnp.sum((x != 0).astype(magnitude.dtype), axes, keepdims=True)
    if p == 1:
        return jnp.sum(magnitude, axes, keepdims=True)
    # a zero is replaced before the power and after it: the power's own gradient there is infinite for p < 1
    zero = x == 0
    powers = jnp.where(zero, 0.0 if p > 0 else math.inf, jnp.where(zero, 1.0, magnitude) ** p)
    return _root(jnp.sum(powers, axes, keepdims=True), p)


def check_norm(function: str, p: float, sizes: Sequence[int]) -> None:
    """Refuse the norms that an empty dimension does not have.

    Raises:
        RuntimeError: ``p`` is infinite or negative and one of ``sizes`` is 0.
    """
    if (math.isinf(p) or p < 0) and 0 in sizes:
        raise RuntimeError(f"{function}: the norm p={p} of an empty dimension does not exist")


def _root(total: jax.Array, p: float) -> jax.Array:
    empty = total == 0
    safe = jnp.where(empty, 1.0, total)
    return jnp.where(empty, 0.0, jnp.sqrt(safe) if p == 2 else safe ** (1.0 / p))
