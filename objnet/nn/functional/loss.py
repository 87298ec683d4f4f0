"""Losses.

``size_average`` and ``reduce`` are torch's legacy flags: where given they decide, with torch's warning.
"""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from objnet.core.arrays import as_array
from objnet.nn.functional._class_loss import cross_entropy, nll_loss
from objnet.nn.functional._common import (
    absolute,
    broadcast_into,
    common_dtype,
    host,
    is_concrete,
    is_floating,
    reduced,
    require_floating,
    resolve_reduction,
    widen,
)
from objnet.nn.functional.activation import logsigmoid

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "huber_loss",
    "l1_loss",
    "mse_loss",
    "nll_loss",
    "smooth_l1_loss",
]


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


def binary_cross_entropy(
    input: jax.Array,
    target: jax.Array,
    weight: jax.Array | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """``-(target * log(input) + (1 - target) * log(1 - input))``, logarithms clamped to -100 (torch's).

    Args:
        input: probabilities, any shape, floating point.
        target: probabilities, shape and dtype of ``input``.
        weight: a factor for each element; broadcasts to the shape of ``input``.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        0-d, or the shape of ``input`` for ``"none"``; dtype of ``input``.

    Raises:
        ValueError: two shapes, an unknown ``reduction``.
        RuntimeError: two dtypes, a weight that does not broadcast, values outside of [0, 1]; in compiled code, where
            they cannot be seen, their loss is NaN and so are their gradients.
        NotImplementedError: dtypes that are not floating point.
    """
    reduction = resolve_reduction(reduction, size_average, reduce)
    input, target = as_array(input), as_array(target)
    if input.shape != target.shape:
        raise ValueError(f"binary_cross_entropy: the target's shape {target.shape} is not the input's {input.shape}")
    if input.dtype != target.dtype:
        raise RuntimeError(f"binary_cross_entropy needs one dtype, got input {input.dtype} and target {target.dtype}")
    require_floating("binary_cross_entropy", input)
    in_range = (input >= 0) & (input <= 1) & (target >= 0) & (target <= 1)
    if is_concrete(in_range) and not host(jnp.all(in_range)):
        raise RuntimeError("binary_cross_entropy: all elements of input and target must be between 0 and 1")
    losses = _binary_cross_entropy(widen(input), widen(target)) * jnp.where(in_range, 1.0, jnp.nan)
    if weight is not None:
        losses = losses * broadcast_into("the weight", as_array(weight), losses.shape).astype(losses.dtype)
    return reduced(losses, reduction).astype(input.dtype)


def binary_cross_entropy_with_logits(
    input: jax.Array,
    target: jax.Array,
    weight: jax.Array | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: jax.Array | None = None,
) -> jax.Array:
    """:func:`binary_cross_entropy` of ``sigmoid(input)`` without overflow (torch's).

    Args:
        input: logits, any shape, floating point.
        target: probabilities, shape of ``input``, floating point; not checked to be in [0, 1], as in torch.
        weight: a factor for each element; broadcasts to the shape of ``input``.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        pos_weight: a factor for the positive term; broadcasts to the shape of ``input``.

    Returns:
        0-d, or the shape of ``input`` for ``"none"``; dtype of ``target``.

    Raises:
        ValueError: two shapes, an unknown ``reduction``.
        RuntimeError: a target that is not floating point, weights that do not broadcast.
        NotImplementedError: an input that is not floating point.
    """
    reduction = resolve_reduction(reduction, size_average, reduce)
    input, target = as_array(input), as_array(target)
    if input.shape != target.shape:
        raise ValueError(f"binary_cross_entropy_with_logits: the target's shape {target.shape} is not the input's {input.shape}")
    require_floating("binary_cross_entropy_with_logits", input)
    if not is_floating(target):
        raise RuntimeError(f"binary_cross_entropy_with_logits needs a floating point target, got {target.dtype}")
    dtype = common_dtype(widen(input), widen(target))
    x, t = input.astype(dtype), target.astype(dtype)
    positive = -logsigmoid(x)
    if pos_weight is not None:
        factor = broadcast_into("pos_weight", as_array(pos_weight), x.shape).astype(dtype)
        positive = ((factor - 1) * t + 1) * positive
    losses = (1 - t) * x + positive
    if weight is not None:
        losses = losses * broadcast_into("the weight", as_array(weight), x.shape).astype(dtype)
    return reduced(losses, reduction).astype(target.dtype)


def _pair(function: str, input: Any, target: Any) -> tuple[jax.Array, jax.Array]:
    """Both in their common dtype and broadcast shape."""
    input, target = as_array(input), as_array(target)
    if input.shape != target.shape:
        message = f"{function}: the target's shape {target.shape} is not the input's {input.shape}; broadcasting them"
        warnings.warn(f"{message} is rarely meant", UserWarning, stacklevel=3)
    try:
        shape = jnp.broadcast_shapes(input.shape, target.shape)
    except ValueError:
        raise RuntimeError(f"{function}: shapes {input.shape} and {target.shape} do not broadcast") from None
    dtype = common_dtype(input, target)
    return jnp.broadcast_to(input, shape).astype(dtype), jnp.broadcast_to(target, shape).astype(dtype)


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


@_huber.defjvp
def _huber_jvp(delta: float, primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    # the slope autodiff finds too, but without its 0 * inf at an infinite difference
    (difference,), (tangent,) = primals, tangents
    return _huber(difference, delta), tangent * jnp.clip(difference, -delta, delta)


@jax.custom_jvp
def _binary_cross_entropy(x: jax.Array, t: jax.Array) -> jax.Array:
    return -(t * jnp.maximum(jnp.log(x), -100.0) + (1 - t) * jnp.maximum(jnp.log1p(-x), -100.0))


@_binary_cross_entropy.defjvp
def _(primals: tuple[Any, Any], tangents: tuple[Any, Any]) -> tuple[jax.Array, jax.Array]:
    # torch's slopes, which are finite at 0 and 1 in the input, and ignore the clamp in the target
    x, t = primals
    slope = (x - t) / jnp.maximum((1 - x) * x, 1e-12)
    return _binary_cross_entropy(x, t), slope * tangents[0] + (jnp.log1p(-x) - jnp.log(x)) * tangents[1]
