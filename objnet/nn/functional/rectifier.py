"""Rectifiers: the identity for positive numbers, something smaller for the others.

Gradients at the kink are torch's.  Functions that torch can compute in place take ``inplace``: a Parameter, Buffer or view
is then written to and returned; a jax array is immutable, and the result is returned either way.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from objnet.core.arrays import as_array
from objnet.core.autocast import low_precision
from objnet.core.rng import next_rng_key
from objnet.nn.functional._common import widen
from objnet.nn.functional._pointwise import floating, number_like, real, written

__all__ = ["celu", "elu", "leaky_relu", "prelu", "relu", "rrelu", "selu", "threshold"]

# Fixed point of mean 0 and variance 1 (Klambauer et al. 2017).
_SELU_ALPHA = 1.6732632423543772
_SELU_SCALE = 1.0507009873554805


def relu(input: jax.Array, inplace: bool = False) -> jax.Array:
    """``max(input, 0)``, with gradient 0 at 0 (torch's ``F.relu``). Any shape; floating point or integer.

    Raises:
        RuntimeError: booleans.
        NotImplementedError: complex numbers.
    """
    array = real("relu", input)
    return written(input, jnp.where(array <= 0, 0, array), inplace)


def threshold(input: jax.Array, threshold: float, value: float, inplace: bool = False) -> jax.Array:
    """``input`` where it is above ``threshold``, else ``value`` (torch's ``F.threshold``). Any shape.

    Integer inputs stay integers; ``threshold`` and ``value`` are then truncated towards zero.

    Raises:
        RuntimeError: an integer dtype that cannot hold ``threshold`` or ``value``.
        NotImplementedError: booleans and complex numbers.
    """
    array = as_array(input)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        array = floating("threshold", array)
    limit, value = (number_like("threshold", number, array.dtype) for number in (threshold, value))
    return written(input, jnp.where(array <= limit, value, array), inplace)


def leaky_relu(input: jax.Array, negative_slope: float = 0.01, inplace: bool = False) -> jax.Array:
    """``input`` where positive, else ``negative_slope * input``; the gradient at 0 is ``negative_slope`` (torch's).

    Raises:
        NotImplementedError: dtypes that are not floating point.
    """
    array = floating("leaky_relu", input)
    return written(input, jnp.where(array > 0, array, array * float(negative_slope)), inplace)


def rrelu(
    input: jax.Array, lower: float = 1.0 / 8, upper: float = 1.0 / 3, training: bool = False, inplace: bool = False
) -> jax.Array:
    """:func:`leaky_relu` with a slope drawn for every element (Xu et al. 2015; torch's ``F.rrelu``).

    Args:
        input: any shape, floating point.
        lower, upper: the slopes are uniform between them; Python numbers.
        training: False takes their mean for every element.
        inplace: write to a Variable.

    Raises:
        RuntimeError: ``lower`` above ``upper``, or one that is not finite.
        NotImplementedError: dtypes that are not floating point.
    """
    lower, upper = float(lower), float(upper)
    if not (math.isfinite(lower) and math.isfinite(upper)):
        raise RuntimeError(f"rrelu: lower and upper must be finite, got {lower} and {upper}")
    if lower > upper:
        raise RuntimeError(f"rrelu: lower ({lower}) must not be above upper ({upper})")
    if not training or lower == upper:
        return leaky_relu(input, (lower + upper) / 2, inplace)
    array = floating("rrelu", input)
    wide = widen(array)
    slopes = jax.random.uniform(next_rng_key(), array.shape, wide.dtype, lower, upper)
    return written(input, (wide * jnp.where(wide <= 0, slopes, 1.0)).astype(array.dtype), inplace)


@low_precision
def prelu(input: jax.Array, weight: jax.Array) -> jax.Array:
    """``input`` where positive, else ``weight * input`` (He et al. 2015; torch's ``F.prelu``).

    Args:
        input: any shape, floating point; the channels are dimension 1, or there is one channel if there is none.
        weight: one slope, shape () or (1,), or one a channel, shape (C,); the dtype of ``input``.

    Raises:
        RuntimeError: a ``weight`` of another shape or dtype.
        NotImplementedError: dtypes that are not floating point.
    """
    input, weight = as_array(input), as_array(weight)
    if weight.dtype != input.dtype:
        raise RuntimeError(f"prelu: input and weight must have one dtype, got {input.dtype} and {weight.dtype}")
    if weight.ndim > 1:
        raise RuntimeError(f"prelu: weight must have the shape () or (C,), got {weight.shape}")
    channels = input.shape[1] if input.ndim > 1 else 1
    if weight.size not in (1, channels) or (weight.size == 0 and channels != 0):
        raise RuntimeError(f"prelu: weight must hold 1 slope or one a channel, {channels}; got {weight.size}")
    floating("prelu", input)
    if weight.ndim:
        weight = weight.reshape(-1, *[1] * (input.ndim - 2)) if input.ndim > 1 else weight.reshape(())
    # the inner where keeps an infinite positive element out of the gradient of the weight
    positive = input > 0
    return jnp.where(positive, input, jnp.broadcast_to(weight, input.shape) * jnp.where(positive, 0, input))


def elu(input: jax.Array, alpha: float = 1.0, inplace: bool = False) -> jax.Array:
    """``input`` where positive, else ``alpha * (exp(input) - 1)``, with gradient ``alpha`` at 0 (Clevert et al. 2015).

    Raises:
        NotImplementedError: dtypes that are not floating point.
    """
    return _exponential("elu", input, inplace, alpha=float(alpha))


def celu(input: jax.Array, alpha: float = 1.0, inplace: bool = False) -> jax.Array:
    """``input`` where positive, else ``alpha * (exp(input / alpha) - 1)``: smooth at 0 (Barron 2017; torch's ``F.celu``).

    Raises:
        RuntimeError: ``alpha`` is 0.
        NotImplementedError: dtypes that are not floating point.
    """
    if alpha == 0:
        raise RuntimeError("celu: alpha must not be 0, it divides the input")
    return _exponential("celu", input, inplace, alpha=float(alpha), rate=1 / float(alpha))


def selu(input: jax.Array, inplace: bool = False) -> jax.Array:
    """:func:`elu` scaled so that mean 0 and variance 1 are kept from layer to layer (Klambauer et al. 2017).

    Raises:
        NotImplementedError: dtypes that are not floating point.
    """
    return _exponential("selu", input, inplace, alpha=_SELU_ALPHA, scale=_SELU_SCALE)


def _exponential(name: str, input: Any, inplace: bool, *, alpha: float, rate: float = 1.0, scale: float = 1.0) -> jax.Array:
    array = floating(name, input)
    wide = widen(array)
    low = wide <= 0
    # the inner where keeps an overflow of exp in the branch not taken out of the gradient
    tail = (alpha * scale) * jnp.expm1(jnp.where(low, wide, 0.0) * rate)
    return written(input, jnp.where(low, tail, wide * scale).astype(array.dtype), inplace)
