"""Weights divided by a norm: what weight and spectral normalisation compute, in either of their forms."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from objnet.core import draws
from objnet.nn.functional._common import widen
from objnet.nn.functional._norm import vector_norm


def norm_except(v: jax.Array, dim: int) -> jax.Array:
    """The 2-norm over all dimensions but ``dim``, which are kept with size 1; of everything, without axes, for -1.

    Raises:
        IndexError: there is no such dimension.
    """
    if dim == -1:
        return vector_norm(widen(v), 2, tuple(range(v.ndim))).reshape(()).astype(v.dtype)
    if not -v.ndim <= dim < v.ndim:
        raise IndexError(f"Dimension out of range (expected to be in range of [{-v.ndim}, {v.ndim - 1}], but got {dim})")
    axes = tuple(a for a in range(v.ndim) if a != dim % v.ndim)
    return vector_norm(widen(v), 2, axes).astype(v.dtype)


def weight_normalised(v: jax.Array, g: jax.Array, dim: int) -> jax.Array:
    """``g * v / norm``, the norm being :func:`norm_except` (Salimans and Kingma, 2016)."""
    return (widen(v) * (widen(g) / widen(norm_except(widen(v), dim)))).astype(v.dtype)


def as_matrix(weight: jax.Array, dim: int) -> jax.Array:
    """``weight`` as a matrix of ``weight.shape[dim]`` rows."""
    return jnp.moveaxis(weight, dim, 0).reshape(weight.shape[dim], -1) if weight.size else jnp.moveaxis(weight, dim, 0)


def unit(x: jax.Array, eps: float) -> jax.Array:
    """A vector divided by its 2-norm, or by ``eps`` where that is larger."""
    return x / jnp.maximum(jnp.sqrt(jnp.sum((x * jnp.conj(x)).real)), eps).astype(x.dtype)


def random_unit(size: int, dtype: Any, eps: float) -> jax.Array:
    """A random direction; torch's numbers outside every trace."""
    return unit(draws.normal((size,), 0, 1, dtype), eps)


@functools.partial(jax.jit, static_argnames=("steps", "eps", "left_first"), inline=True)
def power_method(
    matrix: jax.Array, u: jax.Array, v: jax.Array, *, steps: int, eps: float, left_first: bool
) -> tuple[jax.Array, jax.Array]:
    """``steps`` power iterations towards the first left and right singular vectors; constants to gradients."""
    matrix = lax.stop_gradient(matrix)

    def left(v: jax.Array) -> jax.Array:
        return unit(matrix @ v, eps)

    def right(u: jax.Array) -> jax.Array:
        return unit(jnp.conj(matrix.T) @ u, eps)

    def step(_: Any, pair: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        u, v = pair
        if left_first:
            u = left(v)
            return u, right(u)
        v = right(u)
        return left(v), v

    return lax.fori_loop(0, steps, step, (lax.stop_gradient(u), lax.stop_gradient(v)), unroll=steps <= 4)


def spectral_norm_of(matrix: jax.Array, u: jax.Array, v: jax.Array) -> jax.Array:
    """``u* W v``, the largest singular value if ``u`` and ``v`` are its singular vectors."""
    return jnp.vdot(lax.stop_gradient(u), matrix @ lax.stop_gradient(v))
