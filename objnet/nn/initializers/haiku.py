"""Haiku's initializers, which torch has not; in torch's layout, where outputs come first."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from objnet.core import draws
from objnet.core.arrays import as_array
from objnet.nn.initializers.form import Initializer, Shape, Value, initializer, normal_of, uniform_of
from objnet.nn.initializers.scales import fans
from objnet.nn.initializers.standard import orthogonal, uniform

__all__ = [
    "Constant",
    "Identity",
    "Orthogonal",
    "RandomNormal",
    "RandomUniform",
    "TruncatedNormal",
    "UniformScaling",
    "VarianceScaling",
]

# The standard deviation of a normal distribution of variance one cut at -2 and 2.
_CUT_STD = 0.87962566103423978


def Constant(constant: Any) -> Initializer:
    """``constant``, a number or an array that broadcasts to the shape, in the dtype asked for (Haiku)."""
    return initializer(lambda source, shape, dtype: jnp.broadcast_to(as_array(constant), shape).astype(dtype))


def RandomNormal(stddev: Any = 1.0, mean: Any = 0.0) -> Initializer:
    """Normal; ``stddev`` and ``mean`` are numbers or arrays that broadcast (Haiku)."""
    return _affine(lambda source, shape, dtype: draws.normal(shape, 0, 1, dtype, source), stddev, mean)


def RandomUniform(minval: float = 0.0, maxval: float = 1.0) -> Initializer:
    """Uniform on ``[minval, maxval)`` (Haiku): :func:`uniform`."""
    return uniform(minval, maxval)


def TruncatedNormal(stddev: Any = 1.0, mean: Any = 0.0, lower: float = -2.0, upper: float = 2.0) -> Initializer:
    """Normal restricted to ``lower`` to ``upper`` standard deviations from the mean, of which torch's bounds are no multiples (Haiku).

    ``stddev``, which is that before the restriction, and ``mean`` are numbers or arrays that broadcast.  The real and the imaginary
    part of complex samples are restricted each.
    """

    def value(source: draws.Source, shape: Shape, dtype: Any) -> jax.Array:
        if not jnp.issubdtype(dtype, jnp.complexfloating):
            return draws.trunc_normal(shape, 0, 1, lower, upper, dtype, source)
        parts = draws.trunc_normal((2, *shape), 0, 1, lower, upper, jnp.finfo(dtype).dtype, source)
        return lax.complex(parts[0], parts[1])

    return _affine(value, stddev, mean)


def VarianceScaling(
    scale: float = 1.0,
    mode: str = "fan_in",
    distribution: str = "truncated_normal",
    fan_in_axes: Sequence[int] | None = None,
) -> Initializer:
    """Mean zero and variance ``scale / fan``, at least ``scale`` if the fan is below one (Haiku).

    Args:
        scale: the variance where the fan is one.
        mode: ``"fan_in"``, ``"fan_out"`` or ``"fan_avg"``, the mean of both.
        distribution: ``"truncated_normal"`` (within two standard deviations of the normal it is cut from), ``"normal"`` or
            ``"uniform"``.
        fan_in_axes: the axes whose sizes multiply to the fan in, all others to the fan out.  None takes the shape as torch's
            (out, in, spatial sizes...), the spatial sizes in both fans; one axis is both fans.  A weight in Haiku's layout
            (..., in, out) has ``fan_in_axes=range(ndim - 1)``.

    Raises:
        ValueError: a negative scale, an unknown mode or distribution.
    """
    if not scale >= 0:
        raise ValueError(f"scale must not be negative, got {scale}")
    if mode not in ("fan_in", "fan_out", "fan_avg"):
        raise ValueError(f"mode must be 'fan_in', 'fan_out' or 'fan_avg', got {mode!r}")
    kinds = {"truncated_normal": _truncated_normal_of, "normal": normal_of, "uniform": uniform_of}
    if distribution.lower() not in kinds:
        raise ValueError(f"distribution must be one of {sorted(kinds)}, got {distribution!r}")

    def std(shape: Shape) -> float:
        if fan_in_axes is not None:
            axes = {range(len(shape))[axis] for axis in fan_in_axes}
            parts = [[size for axis, size in enumerate(shape) if (axis in axes) is inside] for inside in (True, False)]
            fan_in, fan_out = map(math.prod, parts)
        elif len(shape) < 2:
            fan_in = fan_out = math.prod(shape)
        else:
            fan_in, fan_out = fans(shape)
        fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[mode]
        return math.sqrt(scale / max(1.0, fan))

    return kinds[distribution.lower()](std)


def UniformScaling(scale: float = 1.0) -> Initializer:
    """Uniform of standard deviation ``scale / sqrt(inputs)``, the product of all sizes but the first (Haiku, in torch's layout)."""
    return uniform_of(lambda shape: scale / math.sqrt(math.prod(shape[1:]) or 1))


def Orthogonal(scale: float = 1.0, axis: int = 0) -> Initializer:
    """:func:`orthogonal` with the outputs along ``axis``, the first in torch's layout and -1 in Haiku's (Haiku)."""
    first = orthogonal(scale)

    def value(source: draws.Source, shape: Shape, dtype: Any) -> jax.Array:
        at = range(len(shape))[axis] if len(shape) > 1 else 0
        moved = (*shape[at : at + 1], *shape[:at], *shape[at + 1 :])
        return jnp.moveaxis(first(source, moved, dtype), 0, at)

    return initializer(value)


def Identity(gain: Any = 1.0) -> Initializer:
    """``gain`` times the identity in the last two axes (Haiku).

    Raises:
        ValueError: the shape has fewer than 2 dimensions.
    """

    def value(source: Any, shape: Shape, dtype: Any) -> jax.Array:
        if len(shape) < 2:
            raise ValueError(f"Identity fills arrays of 2 or more dimensions, got {len(shape)}")
        return jnp.broadcast_to(np.eye(*shape[-2:], dtype=dtype) * as_array(gain).astype(dtype), shape)

    return initializer(value)


def _truncated_normal_of(std: Callable[[Shape], float]) -> Initializer:
    """Normal of mean zero, cut so that the standard deviation is ``std(shape)``."""
    return initializer(lambda source, shape, dtype: TruncatedNormal(std(shape) / _CUT_STD)(source, shape, dtype))


def _affine(unit: Value, stddev: Any, mean: Any) -> Initializer:
    """``stddev * unit + mean``."""

    def value(source: draws.Source, shape: Shape, dtype: Any) -> jax.Array:
        real = jnp.finfo(dtype).dtype
        scaled = as_array(stddev).astype(real).astype(dtype) * unit(source, shape, dtype) + as_array(mean).astype(dtype)
        return jnp.broadcast_to(scaled, shape)

    return initializer(value)
