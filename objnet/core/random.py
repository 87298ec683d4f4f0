"""torch's drawing functions: ``rand``, ``randn``, ``randint``, ``randperm``, ``normal``, ``bernoulli`` and in-place fills.

Outside every trace the numbers are torch's for the same seed; inside one they come from the jax key stream.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from objnet.core import draws, rng
from objnet.core.arrays import as_array
from objnet.core.generator import Generator

__all__ = [
    "bernoulli",
    "normal",
    "rand",
    "rand_like",
    "randint",
    "randint_like",
    "randn",
    "randn_like",
    "randperm",
]


def _shape(size: tuple[Any, ...]) -> tuple[int, ...]:
    if len(size) == 1 and isinstance(size[0], (tuple, list)):
        size = tuple(size[0])
    for n in size:
        if isinstance(n, bool) or not isinstance(n, (int, np.integer)):
            raise TypeError(f"sizes are ints, got {n!r}")
        if n < 0:
            raise RuntimeError(f"Trying to create tensor with negative dimension {n}: {list(size)}")
    return tuple(int(n) for n in size)


def _float_dtype(dtype: Any) -> Any:
    dtype = jnp.dtype(dtype if dtype is not None else jnp.float32)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise RuntimeError(f"random floats need a floating point dtype, got {dtype}")
    return dtype


def rand(*size: Any, generator: Generator | None = None, dtype: Any = None) -> jax.Array:
    """Uniform on [0, 1): array of shape ``size`` (torch's ``rand``)."""
    shape, dtype = _shape(size), _float_dtype(dtype)
    return draws.uniform(shape, 0.0, 1.0, dtype, generator)


def randn(*size: Any, generator: Generator | None = None, dtype: Any = None) -> jax.Array:
    """Standard normal: array of shape ``size`` (torch's ``randn``)."""
    shape, dtype = _shape(size), _float_dtype(dtype)
    return draws.normal(shape, 0.0, 1.0, dtype, generator)


def rand_like(input: Any, *, dtype: Any = None) -> jax.Array:
    """:func:`rand` with the shape and dtype of ``input``."""
    return rand(*input.shape, dtype=dtype or input.dtype)


def randn_like(input: Any, *, dtype: Any = None) -> jax.Array:
    """:func:`randn` with the shape and dtype of ``input``."""
    return randn(*input.shape, dtype=dtype or input.dtype)


def randint(low: int, high: Any = None, size: Any = None, *, generator: Any = None, dtype: Any = None) -> jax.Array:
    """Integers of [low, high): array of shape ``size`` (torch's ``randint``, both call forms). int32, or int64 under x64."""
    if size is None:
        low, high, size = 0, low, high
    if high is None:
        low, high = 0, low
    if not low < high:
        raise RuntimeError(f"random_ expects 'from' to be less than 'to', but got from={low} >= to={high}")
    shape = _shape((size,))
    dtype = jnp.dtype(dtype if dtype is not None else jax.dtypes.canonicalize_dtype(np.int64))
    limits = jnp.iinfo(dtype) if jnp.issubdtype(dtype, jnp.integer) else None
    if limits is not None and (low < limits.min or high - 1 > limits.max):
        raise RuntimeError(f"randint bounds [{low}, {high}) do not fit {dtype}")
    return draws.draw(
        lambda g: g.integers(low, high, shape),
        lambda k: jax.random.randint(k, shape, low, high, dtype if limits is not None else jnp.int32).astype(dtype),
        shape,
        dtype,
        generator,
    )


def randint_like(input: Any, low: int, high: Any = None, *, dtype: Any = None) -> jax.Array:
    """:func:`randint` with the shape and dtype of ``input``."""
    low, high = (0, low) if high is None else (low, high)
    return randint(low, high, tuple(input.shape), dtype=dtype or input.dtype)


def randperm(n: int, *, generator: Generator | None = None, dtype: Any = None) -> jax.Array:
    """A random permutation of 0..n-1: shape (n,) (torch's ``randperm``). int32, or int64 under x64."""
    if n < 0:
        raise RuntimeError(f"n must be non-negative, got {n}")
    dtype = jnp.dtype(dtype if dtype is not None else jax.dtypes.canonicalize_dtype(np.int64))
    return draws.draw(lambda g: g.permutation(n), lambda k: jax.random.permutation(k, n), (n,), dtype, generator)


def normal(mean: Any = 0.0, std: Any = 1.0, size: Any = None, *, generator: Generator | None = None) -> jax.Array:
    """Normal numbers with these means and standard deviations, scalars or arrays (torch's ``normal``)."""
    arrays = [as_array(a) for a in (mean, std) if not isinstance(a, (int, float))]
    shape = _shape((size,)) if size is not None else jnp.broadcast_shapes(*(a.shape for a in arrays)) if arrays else ()
    sample = randn(*shape, generator=generator, dtype=arrays[0].dtype if arrays else None)
    return sample * jnp.asarray(std, sample.dtype) + jnp.asarray(mean, sample.dtype)


def bernoulli(input: Any, *, generator: Generator | None = None) -> jax.Array:
    """0 or 1 with probability ``input`` (floats in [0, 1]) elementwise, in its shape and dtype (torch's ``bernoulli``)."""
    p = as_array(input)
    if not jnp.issubdtype(p.dtype, jnp.floating):
        raise RuntimeError(f"bernoulli needs floating point probabilities, got {p.dtype}")
    return (rand(*p.shape, generator=generator, dtype=p.dtype) < p).astype(p.dtype)


def fill(target: Any, kind: str, arguments: tuple[Any, ...], generator: Generator | None) -> Any:
    """Draw over the whole of ``target`` in place: the body of ``uniform_``, ``normal_`` and ``bernoulli_``."""
    from objnet.core.abstract import skips

    if skips(target):
        return target
    with rng.initialising(target):
        shape, dtype = target.shape, target.dtype
        if kind == "uniform":
            value = draws.uniform(shape, *arguments, dtype, generator)
        elif kind == "normal":
            value = draws.normal(shape, *arguments, dtype, generator)
        else:
            (p,) = arguments
            value = draws.draw(
                lambda g: g.bernoulli(p, shape), lambda k: jax.random.bernoulli(k, p, shape), shape, dtype, generator
            )
        target._set(value)
    return target
