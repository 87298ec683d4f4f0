"""The initial values of ``torch.nn.init``, as initializers."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from objnet.core import draws
from objnet.core.arrays import as_array
from objnet.core.generator import Generator
from objnet.core.tensor import TensorMethods
from objnet.nn.initializers.form import Initializer, Shape, initializer, normal_of, uniform_of
from objnet.nn.initializers.scales import kaiming_std, xavier_std

__all__ = [
    "constant",
    "dirac",
    "eye",
    "kaiming_normal",
    "kaiming_uniform",
    "normal",
    "ones",
    "orthogonal",
    "sparse",
    "trunc_normal",
    "uniform",
    "xavier_normal",
    "xavier_uniform",
    "zeros",
]


def uniform(a: float = 0.0, b: float = 1.0) -> Initializer:
    """Uniform on ``[a, b)`` (torch's ``uniform_``).

    Raises, as the other initializers do when they are called:
        RuntimeError: ``a > b``, or they do not fit the dtype.
        NotImplementedError: the dtype is not floating point or complex.
    """
    return initializer(lambda source, shape, dtype: draws.uniform(shape, a, b, dtype, source))


def normal(mean: float = 0.0, std: float = 1.0) -> Initializer:
    """Normal; complex samples have total variance ``std**2`` (torch's ``normal_``).

    Raises:
        RuntimeError: ``std`` is negative.
        NotImplementedError: the dtype is not floating point or complex.
    """
    return initializer(lambda source, shape, dtype: draws.normal(shape, mean, std, dtype, source))


def trunc_normal(mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0) -> Initializer:
    """Normal restricted to ``[a, b]`` (torch's ``trunc_normal_``).

    Raises:
        ZeroDivisionError: ``std`` is zero.
        RuntimeError: ``a > b``, or they do not fit the dtype.
        NotImplementedError: the dtype is not floating point.
    """
    return initializer(lambda source, shape, dtype: draws.trunc_normal(shape, mean, std, a, b, dtype, source))


def constant(val: Any) -> Initializer:
    """The number ``val`` everywhere (torch's ``constant_``).

    Raises:
        TypeError: ``val`` is no number.
        RuntimeError: it does not fit the dtype, or is an array with axes.
    """
    return initializer(lambda source, shape, dtype: jnp.broadcast_to(_scalar(val, dtype), shape))


def ones() -> Initializer:
    """Ones (torch's ``ones_``)."""
    return initializer(lambda source, shape, dtype: jnp.ones(shape, dtype))


def zeros() -> Initializer:
    """Zeros (torch's ``zeros_``)."""
    return initializer(lambda source, shape, dtype: jnp.zeros(shape, dtype))


def eye() -> Initializer:
    """A matrix with ones on the diagonal, also a rectangular one (torch's ``eye_``).

    Raises:
        ValueError: the shape has not 2 dimensions.
    """

    def value(source: Any, shape: Shape, dtype: Any) -> np.ndarray:
        _require_matrix(shape)
        return np.eye(*shape, dtype=dtype)

    return initializer(value)


def dirac(groups: int = 1) -> Initializer:
    """The weight of a convolution that passes its input channels unchanged, within each of the groups (torch's ``dirac_``).

    Args:
        groups: must divide the number of output channels.

    Raises:
        ValueError: another shape than (out channels, in channels per group, 1 to 3 spatial sizes), or ``groups`` does not divide.
        IndexError: a spatial size is zero.
    """

    def value(source: Any, shape: Shape, dtype: Any) -> np.ndarray:
        if len(shape) not in (3, 4, 5):
            raise ValueError(f"dirac fills tensors of 3, 4 or 5 dimensions, got {len(shape)}")
        channels, inputs, *sizes = shape
        if channels % groups:
            raise ValueError(f"dim 0 ({channels}) must be divisible by groups={groups}")
        each = channels // groups
        passed = np.arange(min(each, inputs))
        weight = np.zeros(shape, dtype)
        for group in range(groups):
            at: Any = (group * each + passed, passed, *(size // 2 for size in sizes))
            weight[at] = 1
        return weight

    return initializer(value)


def xavier_uniform(gain: float = 1.0) -> Initializer:
    """Uniform of variance ``gain**2 * 2 / (fan_in + fan_out)`` (Glorot and Bengio, 2010; torch's ``xavier_uniform_``).

    Raises:
        ValueError: the shape has fewer than 2 dimensions.
    """
    return uniform_of(lambda shape: xavier_std(shape, gain))


def xavier_normal(gain: float = 1.0) -> Initializer:
    """Normal of variance ``gain**2 * 2 / (fan_in + fan_out)`` (Glorot and Bengio, 2010; torch's ``xavier_normal_``).

    Raises:
        ValueError: the shape has fewer than 2 dimensions.
    """
    return normal_of(lambda shape: xavier_std(shape, gain))


def kaiming_uniform(a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> Initializer:
    """Uniform of variance ``gain**2 / fan`` (He et al., 2015; torch's ``kaiming_uniform_``).

    Args:
        a: the negative slope of ``"leaky_relu"``.
        mode: ``"fan_in"`` keeps the scale of the forward pass, ``"fan_out"`` that of the backward pass.
        nonlinearity: what follows the layer; see :func:`calculate_gain`.

    Raises:
        ValueError: fewer than 2 dimensions, an unknown mode or nonlinearity, or a slope that is no number.
    """
    return uniform_of(lambda shape: kaiming_std(shape, a, mode, nonlinearity))


def kaiming_normal(a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> Initializer:
    """Normal of variance ``gain**2 / fan`` (torch's ``kaiming_normal_``); arguments and errors as :func:`kaiming_uniform`."""
    return normal_of(lambda shape: kaiming_std(shape, a, mode, nonlinearity))


def orthogonal(gain: float = 1) -> Initializer:
    """``gain`` times a random matrix of orthonormal rows or columns, whichever are fewer (Saxe et al., 2013; torch's ``orthogonal_``).

    Dimensions after the first are taken as one.

    Raises:
        ValueError: the shape has fewer than 2 dimensions.
        NotImplementedError: the dtype is neither float32 nor float64.
    """

    def value(source: draws.Source, shape: Shape, dtype: Any) -> Any:
        if len(shape) < 2:
            raise ValueError(f"orthogonal fills tensors of 2 or more dimensions, got {len(shape)}")
        if 0 in shape:
            return jnp.zeros(shape, dtype)
        if dtype not in (np.float32, np.float64):
            raise NotImplementedError(
                f"orthogonal needs a QR factorisation, which {dtype} has not: initialise in float32, then cast"
            )
        rows, columns = shape[0], math.prod(shape[1:])

        def factor(tall: Any, xp: ModuleType) -> Any:
            q, r = xp.linalg.qr(tall)
            q = q * xp.sign(xp.diagonal(r))[None, :]  # makes it uniform over orthogonal matrices (Mezzadri, 2007)
            return (q.T if rows < columns else q).reshape(shape) * xp.asarray(gain, q.dtype)

        def host(g: Generator) -> np.ndarray:
            matrix = g.normal((rows, columns), dtype=dtype)
            return factor(matrix.T if rows < columns else matrix, np)

        def device(key: jax.Array) -> jax.Array:
            return factor(jax.random.normal(key, (max(rows, columns), min(rows, columns)), dtype), jnp)

        return draws.draw(host, device, shape, dtype, source)

    return initializer(value)


def sparse(sparsity: float, std: float = 0.01) -> Initializer:
    """A matrix of normal samples, a fraction ``sparsity`` of every column zero (Martens, 2010; torch's ``sparse_``).

    As in torch, a Generator draws the samples, and the default stream which of them become zero.

    Raises:
        ValueError: the shape has not 2 dimensions.
    """

    def value(source: draws.Source, shape: Shape, dtype: Any) -> jax.Array:
        _require_matrix(shape)
        rows, columns = shape
        zero = np.zeros(rows, bool)
        zero[: math.ceil(sparsity * rows)] = True

        def host(g: Generator) -> np.ndarray:
            mask = np.empty((rows, columns), bool)
            for column in range(columns):
                mask[g.permutation(rows), column] = zero
            return mask

        def device(key: jax.Array) -> jax.Array:
            return jax.random.permutation(key, jnp.broadcast_to(zero[:, None], (rows, columns)), independent=True)

        first, second = jax.random.split(source) if isinstance(source, jax.Array) else (source, None)
        values = draws.normal(shape, 0, std, dtype, first)
        return jnp.where(draws.draw(host, device, shape, bool, second), jnp.zeros_like(values), values)

    return initializer(value)


def _scalar(value: Any, dtype: Any) -> jax.Array | np.ndarray:
    """``value`` in ``dtype``: an array without axes is cast, a number has to fit (negative ones wrap if unsigned)."""
    if isinstance(value, (jax.Array, TensorMethods)):
        if value.ndim:
            raise RuntimeError(f"a tensor is filled with one number, got an array of {value.ndim} dimensions")
        return as_array(value).astype(dtype)
    if not isinstance(value, (bool, int, float, complex, np.number, np.bool_)):
        raise TypeError(f"a tensor is filled with one number, got {type(value).__name__}")
    if dtype == np.bool_:
        return np.asarray(bool(value))
    inexact = jnp.issubdtype(dtype, jnp.inexact)
    limits = jnp.finfo(dtype) if inexact else jnp.iinfo(dtype)
    largest = float(limits.max) if inexact else int(limits.max)
    least = -largest if inexact or limits.min == 0 else int(limits.min)
    parts = (value.real, value.imag)
    fits = all(least <= part <= largest or (inexact and not math.isfinite(part)) for part in parts)
    if not fits or (value.imag != 0 and not jnp.issubdtype(dtype, jnp.complexfloating)):
        raise RuntimeError(f"value {value} cannot be converted to {dtype} without overflow")
    if not inexact:
        return np.asarray(int(value.real)).astype(dtype)
    return np.asarray(value if value.imag else value.real).astype(dtype)


def _require_matrix(shape: Shape) -> None:
    if len(shape) != 2:
        raise ValueError(f"only tensors of 2 dimensions are supported, got {len(shape)}")
