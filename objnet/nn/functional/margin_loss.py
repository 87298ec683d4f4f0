"""Losses that stop at a margin, for targets of 1 or -1 and for classes."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from objnet.core.arrays import as_array
from objnet.core.autocast import full_precision
from objnet.nn.functional._common import is_floating, reduced, require_floating, resolve_reduction, widen
from objnet.nn.functional._loss import (
    as_classes,
    broadcast,
    check_values,
    clamped,
    comparable,
    exists,
    float_dtype,
    is_class,
    picked,
    refuse_complex,
    wide_dtype,
)
from objnet.nn.functional.activation import softplus

__all__ = [
    "hinge_embedding_loss",
    "margin_ranking_loss",
    "multi_margin_loss",
    "multilabel_margin_loss",
    "soft_margin_loss",
]


@full_precision
def margin_ranking_loss(
    input1: jax.Array,
    input2: jax.Array,
    target: jax.Array,
    margin: float = 0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """``max(0, margin - target * (input1 - input2))`` (torch's ``F.margin_ranking_loss``).

    Args:
        input1, input2: scores.
        target: 1 where the first should rank higher, -1 where the second should.  All three have as many dimensions and
            broadcast.
        margin: how much higher.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        0-d, or the broadcast shape for ``"none"``; the dtype all arguments promote to, float32 for integers.

    Raises:
        ValueError: an unknown ``reduction``.
        RuntimeError: shapes that do not fit, booleans.
        NotImplementedError: complex numbers.
    """
    reduction = resolve_reduction(reduction, size_average, reduce)
    arrays = [as_array(input1), as_array(input2), as_array(target)]
    if len({x.ndim for x in arrays}) > 1:
        shapes = ", ".join(str(x.shape) for x in arrays)
        raise RuntimeError(f"margin_ranking_loss: the arguments must have as many dimensions, got {shapes}")
    _refuse_booleans("margin_ranking_loss", *arrays)
    refuse_complex("margin_ranking_loss", *arrays)
    result = float_dtype(*arrays)
    first, second, t = (x.astype(wide_dtype(result)) for x in broadcast("margin_ranking_loss", *arrays))
    return reduced(clamped(float(margin) - t * (first - second)), reduction).astype(result)


@full_precision
def hinge_embedding_loss(
    input: jax.Array,
    target: jax.Array,
    margin: float = 1.0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """``input`` where the target is 1, ``max(0, margin - input)`` where it is -1 (torch's ``F.hinge_embedding_loss``).

    Args:
        input: distances.
        target: 1 or -1; broadcasts with ``input``.  Any other value adds both terms, as in torch.
        margin: the distance that is far enough; truncated for integers.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        0-d, or the broadcast shape for ``"none"``; dtype of ``input``.

    Raises:
        ValueError: an unknown ``reduction``.
        RuntimeError: shapes that do not broadcast, a boolean input, the mean of integers.
        NotImplementedError: complex numbers.
    """
    reduction = resolve_reduction(reduction, size_average, reduce)
    input, target = broadcast("hinge_embedding_loss", input, comparable(as_array(target)))
    _refuse_booleans("hinge_embedding_loss", input)
    refuse_complex("hinge_embedding_loss", input)
    if reduction == "mean" and not is_floating(input):
        raise RuntimeError(f"hinge_embedding_loss: a mean needs a floating point argument, got {input.dtype}")
    x = widen(input)
    limit = float(margin) if is_floating(x) else int(margin)
    far = jnp.where(target != 1, clamped(limit - x), jnp.zeros((), x.dtype))
    return reduced(far + jnp.where(target != -1, x, jnp.zeros((), x.dtype)), reduction).astype(input.dtype)


@full_precision
def soft_margin_loss(
    input: jax.Array,
    target: jax.Array,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """``log(1 + exp(-target * input))`` (torch's ``F.soft_margin_loss``).

    Computed without overflow: where torch's is infinite, from ``-target * input`` = 89 on in float32, this one is not.

    Args:
        input: any shape, floating point.
        target: 1 or -1; broadcasts to the shape of ``input``.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        0-d, or the shape of ``input`` for ``"none"``; dtype of ``input``.

    Raises:
        ValueError: an unknown ``reduction``.
        RuntimeError: a target that does not broadcast to the input, an input that is not floating point.
        NotImplementedError: complex numbers.
    """
    reduction = resolve_reduction(reduction, size_average, reduce)
    input, target = as_array(input), as_array(target)
    refuse_complex("soft_margin_loss", input, target)
    if not is_floating(input):
        raise RuntimeError(f"soft_margin_loss needs a floating point input, got {input.dtype}")
    x, t = broadcast("soft_margin_loss", input, target)
    if x.shape != input.shape:
        raise RuntimeError(f"soft_margin_loss: the target's shape {target.shape} does not broadcast to {input.shape}")
    dtype = wide_dtype(float_dtype(input, target))
    losses = softplus(-t.astype(dtype) * x.astype(dtype), threshold=float("inf"))
    return reduced(losses, reduction).astype(input.dtype)


@full_precision
def multi_margin_loss(
    input: jax.Array,
    target: jax.Array,
    p: int = 1,
    margin: float = 1.0,
    weight: jax.Array | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """``sum(max(0, margin - input[target] + input[i]) ** p) / C`` over the other classes i (torch's).

    Args:
        input: scores, shape (N, C) or (C,), floating point.
        target: classes, shape (N,), () or (1,).
        p: 1 or 2.
        margin: how much higher the target's score should be.
        weight: shape (C,), a weight for each class; dtype of ``input``.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        0-d, or the shape of ``target`` for ``"none"``; dtype of ``input``.

    Raises:
        ValueError: ``p``, a weight that is not 1-d, an unknown ``reduction``.
        RuntimeError: shapes or dtypes that do not fit; a class that does not exist (in compiled code, where that cannot be
            seen, its loss is NaN and so are its gradients).
        NotImplementedError: an input that is not floating point.
    """
    reduction, name = resolve_reduction(reduction, size_average, reduce), "multi_margin_loss"
    if p not in (1, 2):
        raise ValueError(f"{name}: p must be 1 or 2, got {p}")
    input, target = as_array(input), as_array(target)
    weight = None if weight is None else as_array(weight)
    if weight is not None and weight.ndim != 1:
        raise ValueError(f"{name}: the weight must have one dimension, got {weight.ndim}")
    _check_scores(name, input)
    rows = input.reshape(-1, input.shape[-1] if input.ndim else 1)
    samples, classes = rows.shape
    if target.ndim > 1 or target.size != samples:
        raise RuntimeError(f"{name}: an input of shape {input.shape} takes {samples} classes, got a target {target.shape}")
    require_floating(name, input)
    shape, target = target.shape, as_classes(name, target).reshape(samples)
    message = f"{name}: target out of range: class {{}} does not exist, the input has {classes} classes"
    check_values(target, lambda values: exists(values, classes), message, RuntimeError)
    x, factor = widen(rows), jnp.where(exists(target, classes), 1.0 / classes, jnp.nan).astype(widen(rows).dtype)
    if weight is not None:
        if weight.shape != (classes,) or weight.dtype != input.dtype:
            wanted, got = f"{input.dtype}({classes})", f"{weight.dtype}{weight.shape}"
            raise RuntimeError(f"{name}: the weight must be one number a class, {wanted}, got {got}")
        factor = factor * widen(weight).at[jnp.where(exists(target, classes), target, 0)].get(mode="fill")
    excess = float(margin) - jnp.expand_dims(picked(x, target, 1), 1) + x
    counts = (excess > 0) & ~is_class(target, x.shape, 1)
    hinges = jnp.where(counts, excess if p == 1 else excess * excess, 0.0)
    return reduced((jnp.sum(hinges, 1) * factor).reshape(shape), reduction).astype(input.dtype)


@full_precision
def multilabel_margin_loss(
    input: jax.Array,
    target: jax.Array,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """``sum(max(0, 1 - input[j] + input[i])) / C`` over target classes j and other classes i (torch's).

    Args:
        input: scores, shape (N, C) or (C,), floating point.
        target: classes, the shape of ``input``; in each row those before the first -1 count.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        0-d, or (N,) for ``"none"`` and a 2-d input; dtype of ``input``.

    Raises:
        ValueError: an unknown ``reduction``.
        RuntimeError: shapes or dtypes that do not fit; a number that is no class and not -1 (in compiled code, where that
            cannot be seen, the loss of its row is NaN and so are its gradients).
        NotImplementedError: an input that is not floating point.
    """
    reduction, name = resolve_reduction(reduction, size_average, reduce), "multilabel_margin_loss"
    input, target = as_array(input), as_array(target)
    _check_scores(name, input)
    rows = input.reshape(-1, input.shape[-1] if input.ndim else 1)
    classes = rows.shape[1]
    if target.shape != input.shape and not (input.ndim < 2 and target.ndim < 2 and target.size == classes):
        raise RuntimeError(f"{name}: the target's shape {target.shape} is not the input's {input.shape}")
    require_floating(name, input)
    target = as_classes(name, target).reshape(rows.shape)
    message = f"{name}: target out of range: {{}} is neither -1 nor one of the {classes} classes of the input"
    check_values(target, lambda values: (values >= -1) & (values < classes), message, RuntimeError)
    x, known = widen(rows), jnp.all((target >= -1) & (target < classes), 1)
    listed = jnp.cumprod((target >= 0).astype(target.dtype), 1)
    # How often a class is listed, instead of looking its score up: the pairs of classes are then plain broadcasting.
    often = jnp.sum(jnp.expand_dims(listed, 2) * is_class(target, (*target.shape, classes), 2).astype(target.dtype), 1)
    excess = 1.0 - jnp.expand_dims(x, 2) + jnp.expand_dims(x, 1)
    counts = (excess > 0) & (jnp.expand_dims(often, 2) > 0) & (jnp.expand_dims(often, 1) == 0)
    hinges = jnp.where(counts, excess * jnp.expand_dims(often, 2).astype(x.dtype), 0.0)
    losses = jnp.sum(hinges, (1, 2)) * jnp.where(known, 1.0 / classes, jnp.nan).astype(x.dtype)
    return reduced(losses.reshape(input.shape[:-1]), reduction).astype(input.dtype)


def _check_scores(function: str, input: jax.Array) -> None:
    if input.ndim > 2 or (input.ndim and not input.shape[-1]):
        raise RuntimeError(f"{function} needs an input of shape (N, C) or (C,) with at least a class, got {input.shape}")


def _refuse_booleans(function: str, *arrays: jax.Array) -> None:
    if any(x.dtype == jnp.bool_ for x in arrays):
        raise RuntimeError(f"{function} takes no booleans: convert them to 1 and -1")
