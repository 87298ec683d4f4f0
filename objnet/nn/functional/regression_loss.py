"""Losses of differences between numbers."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from objnet.core.arrays import as_array
from objnet.core.autocast import full_precision
from objnet.nn.functional._common import (
    absolute,
    common_dtype,
    is_floating,
    reduced,
    require_floating,
    resolve_reduction,
)
from objnet.nn.functional._loss import broadcast

__all__ = ["huber_loss", "l1_loss", "mse_loss", "smooth_l1_loss"]


@full_precision
def mse_loss(
    input: jax.Array,
    target: jax.Array,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: jax.Array | None = None,
) -> jax.Array:
    """Squared differences (torch's ``F.mse_loss``).

    Args:
        input, target: the same shape; others are broadcast, with torch's warning.
        reduction: ``"none"``, ``"sum"`` or ``"mean"``, which with ``weight`` divides by the sum of the weights.
        weight: shape of ``input``, a factor for each element.

    Returns:
        0-d, or the broadcast shape for ``"none"``; the dtype both arguments promote to.

    Raises:
        ValueError: an unknown ``reduction``, a weight of another shape.
        RuntimeError: shapes that do not broadcast.
        NotImplementedError: two integer or boolean arguments.
    """
    reduction, weight = resolve_reduction(reduction, size_average, reduce), _element_weight(weight, input)
    input, target = _pair("mse_loss", input, target)
    require_floating("mse_loss", input)
    return _averaged(jnp.square(input - target), weight, reduction)


@full_precision
def l1_loss(
    input: jax.Array,
    target: jax.Array,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: jax.Array | None = None,
) -> jax.Array:
    """Absolute differences, with gradient 0 where they are 0 (torch's ``F.l1_loss``).

    Arguments, result and errors as :func:`mse_loss`, but integers are taken unless their mean is asked for, and
    booleans raise ``RuntimeError``.
    """
    reduction, weight = resolve_reduction(reduction, size_average, reduce), _element_weight(weight, input)
    if any(as_array(x).dtype == jnp.bool_ for x in (input, target)):
        raise RuntimeError("l1_loss takes no booleans")
    input, target = _pair("l1_loss", input, target)
    if jnp.issubdtype(input.dtype, jnp.complexfloating):
        raise NotImplementedError("l1_loss is not implemented for complex numbers")
    if reduction == "mean" and weight is None and not is_floating(input):
        raise RuntimeError(f"l1_loss: a mean needs a floating point argument, got {input.dtype}")
    return _averaged(absolute(input - target), weight, reduction)


@full_precision
def smooth_l1_loss(
    input: jax.Array,
    target: jax.Array,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    beta: float = 1.0,
) -> jax.Array:
    """``d**2 / (2 * beta)`` for differences d below ``beta``, ``abs(d) - beta / 2`` beyond (Girshick 2015).

    Arguments, result and errors as :func:`mse_loss`; ``beta`` 0 is :func:`l1_loss`.

    Raises:
        RuntimeError: a negative ``beta``.
    """
    reduction = resolve_reduction(reduction, size_average, reduce)
    if beta < 0:
        raise RuntimeError(f"smooth_l1_loss takes no negative beta, got {beta}")
    input, target = _pair("smooth_l1_loss", input, target)
    if beta == 0:
        return l1_loss(input, target, reduction=reduction)
    require_floating("smooth_l1_loss", input)
    return reduced(_huber(input - target, float(beta)) / float(beta), reduction)


@full_precision
def huber_loss(
    input: jax.Array,
    target: jax.Array,
    reduction: str = "mean",
    delta: float = 1.0,
    weight: jax.Array | None = None,
) -> jax.Array:
    """``d**2 / 2`` for differences d below ``delta``, ``delta * (abs(d) - delta / 2)`` beyond (Huber 1964).

    Arguments and errors as :func:`mse_loss`, except that a weighted mean divides by the number of elements and that the
    result without weight has the dtype of ``input``, both as in torch.

    Raises:
        RuntimeError: ``delta`` is not positive; an integer input with a floating point target.
    """
    reduction, weight = resolve_reduction(reduction), _element_weight(weight, input)
    if delta <= 0:
        raise RuntimeError(f"huber_loss takes no delta that is not positive, got {delta}")
    dtype = as_array(input).dtype
    input, target = _pair("huber_loss", input, target)
    require_floating("huber_loss", input)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise RuntimeError(f"huber_loss: the result cannot have the dtype {dtype} of the input")
    losses = _huber(input - target, float(delta)).astype(dtype)
    return reduced(losses if weight is None else _weighted(losses, weight), reduction)


def _pair(function: str, input: Any, target: Any) -> tuple[jax.Array, jax.Array]:
    """Both in their common dtype and broadcast shape."""
    input, target = as_array(input), as_array(target)
    if input.shape != target.shape:
        message = f"{function}: the target's shape {target.shape} is not the input's {input.shape}; broadcasting them"
        warnings.warn(f"{message} is rarely meant", UserWarning, stacklevel=4)
    input, target = broadcast(function, input, target)
    dtype = common_dtype(input, target)
    return input.astype(dtype), target.astype(dtype)


def _element_weight(weight: Any, input: Any) -> jax.Array | None:
    if weight is None:
        return None
    weight, input = as_array(weight), as_array(input)
    if weight.shape != input.shape:
        raise ValueError(f"the weight must have the input's shape {input.shape}, got {weight.shape}")
    return weight


def _weighted(losses: jax.Array, weight: jax.Array) -> jax.Array:
    dtype = common_dtype(losses, weight)
    return losses.astype(dtype) * jnp.broadcast_to(weight, losses.shape).astype(dtype)


def _averaged(losses: jax.Array, weight: jax.Array | None, reduction: str) -> jax.Array:
    if weight is None:
        return reduced(losses, reduction)
    losses = _weighted(losses, weight)
    if reduction != "mean":
        return reduced(losses, reduction)
    return jnp.sum(losses) / jnp.sum(weight).astype(losses.dtype)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _huber(difference: jax.Array, delta: float) -> jax.Array:
    clipped = jnp.clip(difference, -delta, delta)
    return clipped * (difference - 0.5 * clipped)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _huber(difference: jax.Array, delta: float) -> jax.Array:
    clipped = jnp.clip(difference, -delta, delta)
    return clipped * (difference - 0.5 * clipped)


@_huber.defjvp
def _huber_jvp(delta: float, primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    # the slope autodiff finds too, but without its 0 * inf at an infinite difference
    (difference,), (tangent,) = primals, tangents
    return _huber(difference, delta), tangent * jnp.clip(difference, -delta, delta)
