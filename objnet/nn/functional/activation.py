"""Smooth activation functions.

Where torch takes ``inplace``, a Parameter, Buffer or view is written to and returned; a jax array is immutable, and the
result is returned either way.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax

from objnet.core.arrays import as_array
from objnet.core.autocast import full_precision
from objnet.nn.functional._common import absolute, normalise_dim, require_floating, widen
from objnet.nn.functional._pointwise import floating, inexact, pointwise, written

__all__ = ["gelu", "glu", "logsigmoid", "mish", "sigmoid", "silu", "softplus", "softsign", "tanh", "tanhshrink"]


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


def _mish_parts(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``e = exp(x)`` and ``n = e * (e + 2)``: tanh(softplus(x)) is n / (n + 2), which is 1 in any dtype from x = 20 on."""
    e = jnp.exp(jnp.minimum(x, 20.0))
    return e, e * (e + 2.0)


def _mish_value(x: jax.Array) -> jax.Array:
    _, n = _mish_parts(x)
    return x * (n / (n + 2.0))


def _mish_slope(x: jax.Array) -> jax.Array:
    e, n = _mish_parts(x)
    t = n / (n + 2.0)
    return t + x * (e / (1.0 + e)) * (2.0 / (n + 2.0)) * (1.0 + t)  # 1 - t * t, without cancellation


_gelu = pointwise(lambda x: x * _normal_cdf(x), lambda x: _normal_cdf(x) + x * _normal_pdf(x))
_gelu_tanh = pointwise(lambda x: 0.5 * x * (1.0 + _gelu_tanh_inner(x)), _gelu_tanh_slope)
_silu = pointwise(lambda x: x * lax.logistic(x), _silu_slope)
# one exp instead of exp, log1p and tanh
_mish = pointwise(_mish_value, _mish_slope)
# log(1 + exp(x)), without overflow
_log1p_exp = pointwise(lambda x: jnp.maximum(x, 0.0) + jnp.log1p(jnp.exp(-jnp.abs(x))), lax.logistic)


def tanh(input: jax.Array) -> jax.Array:
    """The hyperbolic tangent (torch's ``F.tanh``); integers and booleans give float32."""
    return jnp.tanh(inexact(input))


def tanhshrink(input: jax.Array) -> jax.Array:
    """``input - tanh(input)`` (torch's ``F.tanhshrink``); integers give float32.

    Raises:
        RuntimeError: booleans.
    """
    input = as_array(input)
    if input.dtype == jnp.bool_:
        raise RuntimeError("tanhshrink takes no booleans: cast them to a floating point dtype")
    wide = widen(inexact(input))
    return (wide - jnp.tanh(wide)).astype(inexact(input).dtype)


def softsign(input: jax.Array) -> jax.Array:
    """``input / (1 + abs(input))`` (torch's ``F.softsign``); integers give float32.

    Raises:
        NotImplementedError: booleans.
    """
    input = as_array(input)
    if input.dtype == jnp.bool_:
        raise NotImplementedError("softsign is not implemented for booleans")
    wide = widen(inexact(input))
    if jnp.iscomplexobj(wide):
        return wide / (1.0 + jnp.abs(wide)).astype(wide.dtype)
    return (wide / (1.0 + absolute(wide))).astype(inexact(input).dtype)


def sigmoid(input: jax.Array) -> jax.Array:
    """``1 / (1 + exp(-input))`` (torch's ``F.sigmoid``); integers and booleans give float32."""
    return lax.logistic(inexact(input))


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
    input = floating("gelu", input)
    return _gelu(input) if approximate == "none" else _gelu_tanh(input)


def silu(input: jax.Array, inplace: bool = False) -> jax.Array:
    """``input * sigmoid(input)``, also known as swish (torch's ``F.silu``). Floating point or complex.

    Raises:
        NotImplementedError: integers and booleans.
    """
    array = as_array(input)
    if jnp.iscomplexobj(array):
        return written(input, array * lax.logistic(array), inplace)
    return written(input, _silu(floating("silu", array)), inplace)


def mish(input: jax.Array, inplace: bool = False) -> jax.Array:
    """``input * tanh(softplus(input))`` (Misra 2019; torch's ``F.mish``).

    Raises:
        NotImplementedError: dtypes that are not floating point.
    """
    return written(input, _mish(floating("mish", input)), inplace)


@full_precision
def softplus(input: jax.Array, beta: float = 1, threshold: float = 20) -> jax.Array:
    """``log(1 + exp(beta * input)) / beta``, and ``input`` itself where ``beta * input > threshold`` (torch's).

    Raises:
        NotImplementedError: dtypes that are not floating point.
    """
    input = floating("softplus", input)
    wide = widen(input)
    scaled = wide * float(beta)
    linear = scaled > float(threshold)
    return jnp.where(linear, wide, _log1p_exp(jnp.where(linear, 0.0, scaled)) / float(beta)).astype(input.dtype)


@full_precision
def logsigmoid(input: jax.Array) -> jax.Array:
    """``log(sigmoid(input))`` without overflow (torch's ``F.logsigmoid``).

    Raises:
        NotImplementedError: dtypes that are not floating point.
    """
    return -_log1p_exp(-floating("logsigmoid", input))


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
