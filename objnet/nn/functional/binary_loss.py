"""Cross-entropy of yes-or-no targets."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from objnet.core.arrays import as_array
from objnet.core.autocast import full_precision
from objnet.nn.functional._common import (
    broadcast_into,
    common_dtype,
    host,
    is_concrete,
    is_floating,
    reduced,
    require_floating,
    require_reduction,
    resolve_reduction,
    widen,
)
from objnet.nn.functional._loss import broadcast, float_dtype, refuse_complex, wide_dtype
from objnet.nn.functional.activation import logsigmoid

__all__ = ["binary_cross_entropy", "binary_cross_entropy_with_logits", "multilabel_soft_margin_loss"]


@full_precision
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


@full_precision
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


@full_precision
def multilabel_soft_margin_loss(
    input: jax.Array,
    target: jax.Array,
    weight: jax.Array | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """The mean over classes of :func:`binary_cross_entropy_with_logits` (torch's ``F.multilabel_soft_margin_loss``).

    Args:
        input: logits, shape (..., C), floating point.
        target: 0 or 1, or probabilities; broadcasts with ``input``.
        weight: a factor for each element; broadcasts with the losses.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        0-d, or without the class dimension for ``"none"``; the dtype all arguments promote to.

    Raises:
        ValueError: an unknown ``reduction``.
        IndexError: a 0-d input.
        RuntimeError: shapes that do not broadcast, a boolean target.
        NotImplementedError: an input that is not floating point.
    """
    name, legacy = "multilabel_soft_margin_loss", size_average is not None or reduce is not None
    reduction = resolve_reduction(reduction, size_average, reduce) if legacy else require_reduction(reduction)
    input, target = as_array(input), as_array(target)
    require_floating(name, input)
    refuse_complex(name, target)
    if target.dtype == jnp.bool_:
        raise RuntimeError(f"{name} takes no boolean target: convert it to the input's dtype")
    if input.ndim == 0:
        raise IndexError(f"{name} needs an input with a class dimension, got a 0-d array")
    arrays = [input, target] if weight is None else [input, target, as_array(weight)]
    axis, classes, result = input.ndim - 1, input.shape[-1], float_dtype(*arrays)
    x, t, *factor = (x.astype(wide_dtype(result)) for x in broadcast(name, *arrays))
    losses = (1 - t) * x - logsigmoid(x)
    if factor:
        losses = losses * factor[0]
    each = jnp.sum(losses, axis) / classes if classes else jnp.full(losses.shape[:axis] + losses.shape[axis + 1 :], jnp.nan)
    return reduced(each, reduction).astype(result)


@jax.custom_jvp
def _binary_cross_entropy(x: jax.Array, t: jax.Array) -> jax.Array:
    return -(t * jnp.maximum(jnp.log(x), -100.0) + (1 - t) * jnp.maximum(jnp.log1p(-x), -100.0))


@_binary_cross_entropy.defjvp
def _(primals: tuple[Any, Any], tangents: tuple[Any, Any]) -> tuple[jax.Array, jax.Array]:
    # torch's slopes, which are finite at 0 and 1 in the input, and ignore the clamp in the target
    x, t = primals
    slope = (x - t) / jnp.maximum((1 - x) * x, 1e-12)
    return _binary_cross_entropy(x, t), slope * tangents[0] + (jnp.log1p(-x) - jnp.log(x)) * tangents[1]
