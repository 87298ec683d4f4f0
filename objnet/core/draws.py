"""Random arrays from the stream in force: torch's numbers outside every trace, from jax keys inside one.

A ``source`` of the caller's own takes its place: a Generator, which only the host can draw from, or a jax key, of which the
numbers are a pure function.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from objnet.core import errors, frame, rng
from objnet.core.generator import Generator, check_normal, check_uniform, mostly_inside

Shape = tuple[int, ...]
Source = Generator | jax.Array | None


def draw(
    host: Callable[[Generator], np.ndarray],
    device: Callable[[jax.Array], jax.Array],
    shape: Shape,
    dtype: Any,
    source: Source = None,
) -> jax.Array:
    """``host(source)`` or ``device(source)``; :func:`objnet.core.rng.draw` where no source is given.

    Raises:
        TypeError: ``source`` is neither a Generator nor a key.
        RngInTransformError: a generator is given while a program is traced, which would repeat its numbers forever.
    """
    if source is None:
        return rng.draw(host, device, shape, dtype)
    if isinstance(source, jax.Array):
        return device(source).astype(dtype)
    if not isinstance(source, Generator):
        raise TypeError(f"generator must be an objnet Generator, a jax key or None, got {type(source).__name__}")
    if rng.binding():
        return jnp.zeros(shape, dtype)
    if frame.trace_state() != frame.CLEAN and frame.staged():
        raise errors.RngInTransformError(
            f"generator= was given inside a compiled function{errors.where()}: its numbers of today would be baked in. "
            "Leave generator out there, so that a key of the function's own stream is used, or draw outside."
        )
    return jnp.asarray(host(source), dtype=dtype)


def uniform(shape: Shape, low: Any, high: Any, dtype: Any, source: Source = None) -> jax.Array:
    """Uniform on ``[low, high)``, of any 16, 32 or 64-bit float or complex dtype (``Tensor.uniform_``).

    Raises:
        TypeError: a bound is no number.
        RuntimeError, NotImplementedError: as :func:`objnet.core.generator.check_uniform`.
    """
    low, high = number("low", low), number("high", high)
    check_uniform(low, high, dtype)

    def device(key: jax.Array) -> jax.Array:
        return _by_component(lambda size, kind: _uniform(key, size, low, high, kind), shape, dtype)

    return draw(lambda g: g.uniform(shape, low, high, dtype), device, shape, dtype, source)


def normal(shape: Shape, mean: Any, std: Any, dtype: Any, source: Source = None) -> jax.Array:
    """Normal, of any 16, 32 or 64-bit float or complex dtype (``Tensor.normal_``).

    Raises:
        TypeError: ``mean`` or ``std`` is no number.
        RuntimeError, NotImplementedError: as :func:`objnet.core.generator.check_normal`.
    """
    mean, std = number("mean", mean), number("std", std)
    check_normal(std, dtype)
    spread = std / 2**0.5 if jnp.issubdtype(dtype, jnp.complexfloating) else std

    def device(key: jax.Array) -> jax.Array:
        return _by_component(lambda size, kind: _normal(key, size, mean, spread, kind), shape, dtype)

    return draw(lambda g: g.normal(shape, mean, std, dtype), device, shape, dtype, source)


def trunc_normal(shape: Shape, mean: Any, std: Any, a: Any, b: Any, dtype: Any, source: Source = None) -> jax.Array:
    """Normal within ``[a, b]``, of any 16, 32 or 64-bit float dtype (``torch.nn.init.trunc_normal_``).

    Raises:
        TypeError: an argument is no number.
        ZeroDivisionError: ``std`` is zero.
        RuntimeError, NotImplementedError: as :meth:`objnet.core.generator.Generator.trunc_normal`.
    """
    mean, std, a, b = (number(n, v) for n, v in (("mean", mean), ("std", std), ("a", a), ("b", b)))
    inside = mostly_inside(mean, std, a, b)
    check_normal(std, dtype) if inside else check_uniform(a, b, dtype)
    wide = _wide(dtype)

    def device(key: jax.Array) -> jax.Array:
        if not inside:  # far out, where float32 tells the inverse's values no longer apart
            return _reject_uniform(key, shape, mean, std, a, b, dtype)
        value = jax.random.truncated_normal(key, (a - mean) / std, (b - mean) / std, shape, wide) * std + mean
        with np.errstate(over="ignore"):
            low, high = np.asarray([a, b]).astype(dtype)
        return jnp.clip(value.astype(dtype), low, high)

    return draw(lambda g: g.trunc_normal(shape, mean, std, a, b, dtype), device, shape, dtype, source)


def number(name: str, value: Any) -> float:
    """``value`` as a float if it is a real number or an array without axes.

    Raises:
        TypeError: otherwise.
    """
    if isinstance(value, numbers.Real) or getattr(value, "ndim", None) == 0:
        return float(value)
    raise TypeError(f"{name} must be a number, got {type(value).__name__}")


def _wide(dtype: Any) -> Any:
    """The dtype to draw in: 16-bit dtypes have too few bits of their own, torch rounds float32 samples."""
    return jnp.float32 if jnp.dtype(dtype).itemsize < 4 else dtype


def _uniform(key: jax.Array, shape: Shape, low: float, high: float, dtype: Any) -> jax.Array:
    value = jax.random.uniform(key, shape, _wide(dtype), low, high).astype(dtype)
    return jnp.where(value == jnp.asarray(high, dtype), jnp.asarray(low, dtype), value)  # rounded up to the excluded bound


def _reject_uniform(key: jax.Array, shape: Shape, mean: float, std: float, a: float, b: float, dtype: Any) -> jax.Array:
    """Normal samples within ``[a, b]``: uniform ones, each redrawn until its density is above a uniform height."""
    wide = _wide(dtype)
    log_peak = -0.5 * ((max(a, min(mean, b)) - mean) / std) ** 2

    def again(state: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        key, value, pending = state
        key, now, other = jax.random.split(key, 3)
        candidate = _uniform(now, shape, a, b, dtype)
        log_density = -0.5 * ((candidate.astype(wide) - mean) / std) ** 2 - log_peak
        keep = jnp.log(jax.random.uniform(other, shape, wide)) <= log_density
        return key, jnp.where(pending, candidate, value), pending & ~keep

    start = key, jnp.zeros(shape, dtype), jnp.ones(shape, bool)
    return lax.while_loop(lambda state: state[2].any(), again, start)[1]


def _normal(key: jax.Array, shape: Shape, mean: float, std: float, dtype: Any) -> jax.Array:
    return (jax.random.normal(key, shape, _wide(dtype)) * std + mean).astype(dtype)


def _by_component(sample: Callable[[Shape, Any], jax.Array], shape: Shape, dtype: Any) -> jax.Array:
    """``sample(shape, dtype)``; for a complex dtype its real and imaginary parts alike."""
    if not jnp.issubdtype(dtype, jnp.complexfloating):
        return sample(shape, dtype)
    parts = sample((*shape, 2), jnp.finfo(dtype).dtype)
    return lax.complex(parts[..., 0], parts[..., 1])
