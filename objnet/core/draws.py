"""Random arrays from the stream in force: torch's numbers outside every trace, from jax keys inside one.

``generator=`` names a stream of the caller's own, which only the host can draw from.
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


def draw(
    host: Callable[[Generator], np.ndarray],
    device: Callable[[jax.Array], jax.Array],
    shape: Shape,
    dtype: Any,
    generator: Generator | None = None,
) -> jax.Array:
    """``host(generator)``, or :func:`objnet.core.rng.draw` where no generator is given.

    Raises:
        TypeError: ``generator`` is something else.
        RngInTransformError: a generator is given while a program is traced, which would repeat its numbers forever.
    """
    if generator is None:
        return rng.draw(host, device, shape, dtype)
    if not isinstance(generator, Generator):
        raise TypeError(f"generator must be an objnet Generator or None, got {type(generator).__name__}")
    if rng.binding():
        return jnp.zeros(shape, dtype)
    if frame.trace_state() != frame.CLEAN and frame.staged():
        raise errors.RngInTransformError(
            f"generator= was given inside a compiled function{errors.where()}: its numbers of today would be baked in. "
            "Leave generator out there, so that a key of the function's own stream is used, or draw outside."
        )
    return jnp.asarray(host(generator), dtype=dtype)


def uniform(shape: Shape, low: Any, high: Any, dtype: Any, generator: Generator | None = None) -> jax.Array:
    """Uniform on ``[low, high)``, of any 16, 32 or 64-bit float or complex dtype (``Tensor.uniform_``).

    Raises:
        TypeError: a bound is no number.
        RuntimeError, NotImplementedError: as :func:`objnet.core.generator.check_uniform`.
    """
    low, high = number("low", low), number("high", high)
    check_uniform(low, high, dtype)

    def device(key: jax.Array) -> jax.Array:
        return _by_component(lambda size, kind: _uniform(key, size, low, high, kind), shape, dtype)

    return draw(lambda g: g.uniform(shape, low, high, dtype), device, shape, dtype, generator)


def normal(shape: Shape, mean: Any, std: Any, dtype: Any, generator: Generator | None = None) -> jax.Array:
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

    return draw(lambda g: g.normal(shape, mean, std, dtype), device, shape, dtype, generator)


def trunc_normal(
    shape: Shape, mean: Any, std: Any, a: Any, b: Any, dtype: Any, generator: Generator | None = None
) -> jax.Array:
    """Normal within ``[a, b]``, of any 16, 32 or 64-bit float dtype (``torch.nn.init.trunc_normal_``).

    Raises:
        TypeError: an argument is no number.
        ZeroDivisionError: ``std`` is zero.
        RuntimeError, NotImplementedError: as :meth:`objnet.core.generator.Generator.trunc_normal`.
    """
    mean, std, a, b = (number(n, v) for n, v in (("mean", mean), ("std", std), ("a", a), ("b", b)))
    redraw = mostly_inside(mean, std, a, b)
    check_normal(std, dtype) if redraw else check_uniform(a, b, dtype)
    log_peak = -0.5 * ((max(a, min(mean, b)) - mean) / std) ** 2

    def propose(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Candidates, and which of them to keep."""
        if redraw:
            value = _normal(key, shape, mean, std, dtype)
            return value, (value >= a) & (value <= b)
        key, other = jax.random.split(key)
        value = _uniform(key, shape, a, b, dtype)
        log_density = -0.5 * ((value.astype(_wide(dtype)) - mean) / std) ** 2 - log_peak
        return value, jnp.log(jax.random.uniform(other, shape, _wide(dtype))) <= log_density

    def again(state: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        key, value, pending = state
        key, now = jax.random.split(key)
        candidate, keep = propose(now)
        return key, jnp.where(pending, candidate, value), pending & ~keep

    def device(key: jax.Array) -> jax.Array:
        start = key, jnp.zeros(shape, dtype), jnp.ones(shape, bool)
        return lax.while_loop(lambda state: state[2].any(), again, start)[1]

    return draw(lambda g: g.trunc_normal(shape, mean, std, a, b, dtype), device, shape, dtype, generator)


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
    return jnp.where(
        value == jnp.asarray(high, dtype), jnp.asarray(low, dtype), value
    )  # rounded up to the excluded bound


def _normal(key: jax.Array, shape: Shape, mean: float, std: float, dtype: Any) -> jax.Array:
    return (jax.random.normal(key, shape, _wide(dtype)) * std + mean).astype(dtype)


def _by_component(sample: Callable[[Shape, Any], jax.Array], shape: Shape, dtype: Any) -> jax.Array:
    """``sample(shape, dtype)``; for a complex dtype its real and imaginary parts alike."""
    if not jnp.issubdtype(dtype, jnp.complexfloating):
        return sample(shape, dtype)
    parts = sample((*shape, 2), jnp.finfo(dtype).dtype)
    return lax.complex(parts[..., 0], parts[..., 1])
