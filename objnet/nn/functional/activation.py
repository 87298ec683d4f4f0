"""Activation functions.

Functions that torch can compute in place take ``inplace`` and return the same result either way: arrays are immutable,
so the argument never changes, and a program that uses the result needs nothing else.  Gradients at kinks are torch's.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from objnet.core.arrays import as_array
from objnet.nn.functional._common import normalise_dim, require_floating, widen

__all__ = [
    "elu",
    "gelu",
    "glu",
    "hardtanh",
    "leaky_relu",
    "log_softmax",
    "logsigmoid",
    "relu",
    "relu6",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "tanh",
]

_Map = Callable[[jax.Array], jax.Array]


def _pointwise(value: _Map, slope: _Map) -> _Map:
    """An elementwise function that keeps one array for the backward pass, its slope; autodiff keeps two or three.

    A scan over layers stores, layer by layer, what is kept.  Jitted forward and backward on CPU, gelu at (8, 128, 256)
    and (16, 128, 768): 0.91-0.95 of the time of autodiff of the same formula, as a custom_vjp, and 0.6 of
    ``jax.nn.gelu``'s.
    """

    @jax.custom_jvp
    def function(x: jax.Array) -> jax.Array:
        return value(widen(x)).astype(x.dtype)

    @function.defjvp
    def _(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
        (x,), (tangent,) = primals, tangents
        return function(x), tangent * slope(widen(x)).astype(x.dtype)

    return function


def _normal_cdf(x: jax.Array) -> jax.Array:
    return 0.5 * (1.0 + lax.erf(x * math.sqrt(0.5)))


def _normal_pdf(x: jax.Array) -> jax.Array:
    return jnp.exp(-0.5 * x * x) * (1.0 / math.sqrt(2.0 * math.pi))


def _gelu_tanh_inner(x: jax.Array) -> jax.Array:
    return jnp.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x))


def _gelu_tanh_slope(x: jax.Array) -> jax.Array:
    t = _gelu_tanh_inner(x)
    inner_slope = math.sqrt(2.0 / math.pi) * (1.0 + 3.0 * 0.044715 * x * x)
    return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner_slope


def _silu_slope(x: jax.Array) -> jax.Array:
    s = lax.logistic(x)
    return s * (1.0 + x * (1.0 - s))


_gelu = _pointwise(lambda x: x * _normal_cdf(x), lambda x: _normal_cdf(x) + x * _normal_pdf(x))
_gelu_tanh = _pointwise(lambda x: 0.5 * x * (1.0 + _gelu_tanh_inner(x)), _gelu_tanh_slope)
_silu = _pointwise(lambda x: x * lax.logistic(x), _silu_slope)
# log(1 + exp(x)), without overflow
_log1p_exp = _pointwise(lambda x: jnp.maximum(x, 0.0) + jnp.log1p(jnp.exp(-jnp.abs(x))), lax.logistic)


def relu(input: jax.Array, inplace: bool = False) -> jax.Array:
    """``max(input, 0)``, with gradient 0 at 0 (torch's ``F.relu``). Any shape; floating point or integer.

    Raises:
        RuntimeError: booleans.
        NotImplementedError: complex numbers.
    """
    input = _real("relu", input)
    return jnp.where(input <= 0, 0, input)


def leaky_relu(input: jax.Array, negative_slope: float = 0.01, inplace: bool = False) -> jax.Array:
    """``input`` where positive, else ``negative_slope * input``; the gradient at 0 is ``negative_slope`` (torch's).

    Raises:
        NotImplementedError: dtypes that are not floating point.
    """
    input = _floating("leaky_relu", input)
    return jnp.where(input > 0, input, input * float(negative_slope))


def elu(input: jax.Array, alpha: float = 1.0, inplace: bool = False) -> jax.Array:
    """``input`` where positive, else ``alpha * (exp(input) - 1)``, with gradient ``alpha`` at 0 (Clevert et al. 2015).

    Raises:
        NotImplementedError: dtypes that are not floating point.
    """
    input = _floating("elu", input)
    low = input <= 0
    # the inner where keeps an overflow of exp in the branch not taken out of the gradient
    return jnp.where(low, float(alpha) * jnp.expm1(jnp.where(low, input, 0.0)), input)


def relu6(input: jax.Array, inplace: bool = False) -> jax.Array:
    """``input`` clipped to 0 and 6, with gradient 0 at both ends (torch's ``F.relu6``).

    Raises:
        RuntimeError: booleans.
        NotImplementedError: complex numbers.
    """
    return hardtanh(input, 0, 6)


def hardtanh(input: jax.Array, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> jax.Array:
    """``input`` clipped to the range, with gradient 0 at both ends (torch's ``F.hardtanh``).

    Integer inputs stay integers; the limits are then truncated towards zero.

    Raises:
        ValueError: ``min_val`` is above ``max_val``.
        RuntimeError: booleans; a negative limit with an unsigned dtype.
        NotImplementedError: complex numbers.
    """
    if min_val > max_val:
        raise ValueError(f"min_val cannot be greater than max_val, got {min_val} and {max_val}")
    input = _real("hardtanh", input)
    number = int if jnp.issubdtype(input.dtype, jnp.integer) else float
    low, high = number(min_val), number(max_val)
    if jnp.issubdtype(input.dtype, jnp.unsignedinteger) and low < 0:
        raise RuntimeError("hardtanh takes no negative limits for an unsigned dtype")
    return jnp.where(input <= low, low, jnp.where(input >= high, high, input))


def tanh(input: jax.Array) -> jax.Array:
    """The hyperbolic tangent (torch's ``F.tanh``); integers and booleans give float32."""
    return jnp.tanh(_inexact(input))


def sigmoid(input: jax.Array) -> jax.Array:
    """``1 / (1 + exp(-input))`` (torch's ``F.sigmoid``); integers and booleans give float32."""
    return lax.logistic(_inexact(input))


def gelu(input: jax.Array, *, approximate: str = "none") -> jax.Array:
    """``input`` times the normal distribution function at ``input`` (Hendrycks and Gimpel 2016).

    Args:
        input: any shape, floating point.
        approximate: ``"none"`` (by the error function) or ``"tanh"``.

    Raises:
        RuntimeError: any other ``approximate``.
        NotImplementedError: dtypes that are not floating point.
    """
    if approximate not in ("none", "tanh"):
        raise RuntimeError(f"approximate must be 'none' or 'tanh', got {approximate!r}")
    input = _floating("gelu", input)
    return _gelu(input) if approximate == "none" else _gelu_tanh(input)


def silu(input: jax.Array, inplace: bool = False) -> jax.Array:
    """``input * sigmoid(input)``, also known as swish (torch's ``F.silu``).

    Raises:
        NotImplementedError: dtypes that are not floating point.
    """
    return _silu(_floating("silu", input))


def softplus(input: jax.Array, beta: float = 1, threshold: float = 20) -> jax.Array:
    """``log(1 + exp(beta * input)) / beta``, and ``input`` itself where ``beta * input > threshold`` (torch's).

    Raises:
        NotImplementedError: dtypes that are not floating point.
    """
    input = _floating("softplus", input)
    wide = widen(input)
    scaled = wide * float(beta)
    linear = scaled > float(threshold)
    return jnp.where(linear, wide, _log1p_exp(jnp.where(linear, 0.0, scaled)) / float(beta)).astype(input.dtype)


def logsigmoid(input: jax.Array) -> jax.Array:
    """``log(sigmoid(input))`` without overflow (torch's ``F.logsigmoid``).

    Raises:
        NotImplementedError: dtypes that are not floating point.
    """
    return -_log1p_exp(-_floating("logsigmoid", input))


def glu(input: jax.Array, dim: int = -1) -> jax.Array:
    """The first half along ``dim`` times the sigmoid of the second (Dauphin et al. 2016).

    Args:
        input: floating point, of even size along ``dim``.
        dim: the dimension that is halved.

    Raises:
        RuntimeError: a 0-d input, or an odd size along ``dim``.
        IndexError: there is no dimension ``dim``.
        NotImplementedError: dtypes that are not floating point.
    """
    input = as_array(input)
    if input.ndim == 0:
        raise RuntimeError("glu needs a dimension to halve, got a 0-d array")
    axis = normalise_dim(dim, input.ndim)
    if input.shape[axis] % 2:
        raise RuntimeError(f"glu halves dimension {axis}, which must be even but is {input.shape[axis]}")
    require_floating("glu", input)
    value, gate = jnp.split(widen(input), 2, axis)
    return (value * lax.logistic(gate)).astype(input.dtype)


def softmax(input: jax.Array, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> jax.Array:
    """``exp(input)`` scaled to sum to one along ``dim`` (torch's ``F.softmax``).

    Args:
        input: any shape, floating point.
        dim: the dimension that sums to one. None guesses it from the number of dimensions, with torch's warning.
        dtype: cast the input to this dtype first.

    Raises:
        IndexError: there is no dimension ``dim``.
        NotImplementedError: dtypes that are not floating point.
    """
    return _along(lambda x, axis: jax.nn.softmax(x, axis), "softmax", input, dim, _stacklevel, dtype)


def log_softmax(input: jax.Array, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> jax.Array:
    """The logarithm of :func:`softmax`, without overflow; the same arguments and errors (torch's ``F.log_softmax``)."""
    return _along(_log_softmax, "log_softmax", input, dim, _stacklevel, dtype)


def _along(
    function: Callable[[jax.Array, int], jax.Array], name: str, input: Any, dim: int | None, stacklevel: int, dtype: Any
) -> jax.Array:
    input = as_array(input)
    if dim is None:
        dim = 0 if input.ndim in (0, 1, 3) else 1
        warnings.warn(f"{name} without dim is deprecated: pass dim={dim}", UserWarning, stacklevel=stacklevel)
    axis = normalise_dim(dim, input.ndim)
    if dtype is not None:
        input = input.astype(dtype)
    require_floating(name, input)
    column = input.reshape(1) if input.ndim == 0 else input
    return function(widen(column), axis).astype(input.dtype).reshape(input.shape)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _log_softmax(x: jax.Array, axis: int) -> jax.Array:
    shifted = x - jnp.max(x, axis, keepdims=True, initial=-jnp.inf)
    return shifted - jnp.log(jnp.sum(jnp.exp(shifted), axis, keepdims=True))


@_log_softmax.defjvp
def _log_softmax_jvp(axis: int, primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    # Jitted forward and backward of nll_loss(log_softmax(x)) on CPU, against autodiff and against jax.nn.log_softmax:
    # 0.4-0.8 of the time at (700, 10000), even at (1024, 256); log_softmax alone is even.
    (x,), (tangent,) = primals, tangents
    y = _log_softmax(x, axis)
    return y, tangent - jnp.sum(jnp.exp(y) * tangent, axis, keepdims=True)


def _floating(name: str, input: Any) -> jax.Array:
    input = as_array(input)
    require_floating(name, input)
    return input


def _real(name: str, input: Any) -> jax.Array:
    input = as_array(input)
    if input.dtype == jnp.bool_:
        raise RuntimeError(f"{name} takes no booleans")
    if jnp.issubdtype(input.dtype, jnp.complexfloating):
        raise NotImplementedError(f"{name} is not defined for complex numbers")
    return input


def _inexact(input: Any) -> jax.Array:
    input = as_array(input)
    return input if jnp.issubdtype(input.dtype, jnp.inexact) else input.astype(jnp.float32)
