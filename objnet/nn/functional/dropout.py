"""Dropout, of elements and of whole channels.

One key is drawn a call, none when there is nothing to decide: not training, ``p`` 0 or 1, an empty input.  jax
generates random bits in words of 32, and a word is split: an element takes 8 bits where ``p`` is a multiple of 1/256
(0.5, 0.25); 16 bits, which meet ``p`` to within 2**-17, where that is also within 1/1024 of ``p`` and of ``1 - p``;
else all 32.  Jitted forward and backward on CPU at (8, 128, 1024), against ``jax.random.bernoulli``: 16 bits 0.55 of
the time, 8 bits 0.3; asking jax for bits of a narrow dtype saves nothing.
"""

from __future__ import annotations

import math
import warnings
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from objnet.core.arrays import as_array
from objnet.core.rng import next_rng_key
from objnet.nn.functional._common import require_floating
from objnet.nn.functional._pointwise import written

__all__ = ["alpha_dropout", "dropout", "dropout1d", "dropout2d", "dropout3d", "feature_alpha_dropout"]

# The limit of SELU at minus infinity: what alpha_dropout sets elements to (Klambauer et al. 2017).
_SATURATION = -1.7580993408473766


def dropout(input: jax.Array, p: float = 0.5, training: bool = True, inplace: bool = False) -> jax.Array:
    """Zero elements with probability ``p`` and multiply the others by ``1 / (1 - p)`` (Hinton et al. 2012).

    Args:
        input: any shape, floating point.
        p: a Python number in [0, 1].
        training: False returns the input.
        inplace: write to ``input`` and return it, if it is a Parameter, Buffer or view; a jax array is immutable.

    Raises:
        ValueError: ``p`` outside of [0, 1].
        RuntimeError: integers and booleans, in training.
        NotImplementedError: complex numbers, in training.
    """
    return written(input, _dropped("dropout", as_array(input), p, training, features=False), inplace)


def alpha_dropout(input: jax.Array, p: float = 0.5, training: bool = False, inplace: bool = False) -> jax.Array:
    """Set elements to SELU's negative limit with probability ``p``; scale and shift to keep mean and variance.

    Arguments and errors as :func:`dropout`, but ``training`` is False unless given (Klambauer et al. 2017).
    """
    return written(input, _dropped("alpha_dropout", as_array(input), p, training, features=False, alpha=True), inplace)


def feature_alpha_dropout(input: jax.Array, p: float = 0.5, training: bool = False, inplace: bool = False) -> jax.Array:
    """:func:`alpha_dropout` of whole channels: one decision for each of the first two dimensions (torch's).

    Raises:
        RuntimeError: fewer than two dimensions, in training. Other errors as :func:`dropout`.
    """
    return written(input, _dropped("feature_alpha_dropout", as_array(input), p, training, features=True, alpha=True), inplace)


def dropout1d(input: jax.Array, p: float = 0.5, training: bool = True, inplace: bool = False) -> jax.Array:
    """:func:`dropout` of whole channels of shape (L,): input (N, C, L) or (C, L) (Tompson et al. 2015).

    Raises:
        RuntimeError: any other number of dimensions. Other errors as :func:`dropout`.
    """
    array = as_array(input)
    _check_probability(p)
    if array.ndim not in (2, 3):
        raise RuntimeError(f"dropout1d takes an input of 2 or 3 dimensions, (C, L) or (N, C, L), got {array.shape}")
    return written(input, _channels_dropped("dropout1d", array, p, training, batched=array.ndim == 3), inplace)


def dropout2d(input: jax.Array, p: float = 0.5, training: bool = True, inplace: bool = False) -> jax.Array:
    """:func:`dropout` of whole channels of shape (H, W): input (N, C, H, W) (Tompson et al. 2015).

    A 3-d input is taken as (N, C, L), with torch's warning; other numbers of dimensions warn too.

    Raises:
        RuntimeError: fewer than two dimensions, in training. Other errors as :func:`dropout`.
    """
    array = as_array(input)
    _check_probability(p)
    if array.ndim == 3:
        message = "dropout2d takes a 3-d input as (N, C, L), not (C, H, W): use dropout1d for that, or add a dimension"
        warnings.warn(message, UserWarning, stacklevel=2)
    elif array.ndim != 4:
        _warn_dimensions("dropout2d", array)
    return written(input, _channels_dropped("dropout2d", array, p, training, batched=True), inplace)


def dropout3d(input: jax.Array, p: float = 0.5, training: bool = True, inplace: bool = False) -> jax.Array:
    """:func:`dropout` of whole channels of shape (D, H, W): input (N, C, D, H, W) or (C, D, H, W).

    As in torch, any input that is not 5-d counts as unbatched; other numbers of dimensions than 4 and 5 warn.

    Raises:
        RuntimeError: a 0-d input, in training. Other errors as :func:`dropout`.
    """
    array = as_array(input)
    _check_probability(p)
    if array.ndim not in (4, 5):
        _warn_dimensions("dropout3d", array)
    return written(input, _channels_dropped("dropout3d", array, p, training, batched=array.ndim == 5), inplace)


def _check_probability(p: float) -> None:
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"the probability of dropout must be between 0 and 1, got {p}")


def _warn_dimensions(function: str, input: jax.Array) -> None:
    message = f"{function} with a {input.ndim}-d input is deprecated: use dropout to drop single elements"
    warnings.warn(message, UserWarning, stacklevel=3)


def _channels_dropped(function: str, input: jax.Array, p: float, training: bool, *, batched: bool) -> jax.Array:
    array = input if batched else input[None]
    return _dropped(function, array, p, training, features=True).reshape(input.shape)


def _dropped(function: str, input: jax.Array, p: float, training: bool, *, features: bool, alpha: bool = False) -> jax.Array:
    _check_probability(p)
    if not training or p == 0 or input.size == 0:
        return input
    if features and input.ndim < 2:
        raise RuntimeError(f"{function} needs at least 2 dimensions, got {input.ndim}")
    if p == 1:
        return input * 0  # not zeros: NaN stays NaN, as in torch
    if jnp.issubdtype(input.dtype, jnp.integer) or input.dtype == jnp.bool_:
        raise RuntimeError(f"{function} in training needs a floating point input, got {input.dtype}")
    require_floating(function, input)
    p = float(p)
    kept = _kept(next_rng_key(), input.shape[:2] if features else input.shape, p)
    kept = kept.reshape(*kept.shape, *[1] * (input.ndim - kept.ndim))
    if not alpha:
        return _masked(input, kept, 1 / (1 - p))
    # kept elements are scaled by a, all are shifted, so that standard normal inputs keep mean 0 and variance 1
    a = 1 / math.sqrt((_SATURATION**2 * p + 1) * (1 - p))
    shift = jnp.where(kept, -a * _SATURATION * p, a * _SATURATION * (1 - p)).astype(input.dtype)
    return _masked(input, kept, a) + jnp.broadcast_to(shift, input.shape)


def _kept(key: jax.Array, shape: tuple[int, ...], p: float) -> jax.Array:
    """Booleans, False with probability ``p``; see the module docstring for how exactly."""
    if not all(isinstance(n, int) for n in shape):
        bits = 32  # of a symbolic shape: XLA cannot tell how many pieces its words make
    elif (p * 2**8).is_integer():
        bits = 8
    else:
        bits = 16 if abs(round(p * 2**16) / 2**16 - p) <= min(p, 1 - p) / 1024 else 32
    dtype = np.dtype(f"uint{bits}")
    threshold = dtype.type(min(round(p * 2**bits), 2**bits - 1))
    *lead, last = shape or (1,)
    words = jax.random.bits(key, (*lead, -(-last * bits // 32)), jnp.uint32)
    pieces = words if bits == 32 else lax.bitcast_convert_type(words, dtype).reshape(*lead, -1)[..., :last]
    return (pieces >= threshold).reshape(shape)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _masked(x: jax.Array, kept: jax.Array, scale: float) -> jax.Array:
    """``x`` times ``scale`` or 0, which makes NaN of infinities as in torch; the backward pass keeps only the mask."""
    return x * jnp.where(kept, scale, 0.0).astype(x.dtype)


@_masked.defjvp
def _masked_jvp(scale: float, primals: tuple[Any, Any], tangents: tuple[Any, Any]) -> tuple[jax.Array, jax.Array]:
    x, kept = primals
    return _masked(x, kept, scale), jnp.where(kept, tangents[0] * scale, 0.0)
