"""Losses over classes.

Targets may have any integer dtype (torch: int64 and uint8).  A class that does not exist raises ``IndexError`` where
its value can be seen; in compiled code, where it cannot, its loss is NaN and so are its gradients.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from objnet.core.arrays import as_array
from objnet.core.autocast import full_precision
from objnet.nn.functional._common import common_dtype, is_floating, reduced, require_floating, resolve_reduction, widen
from objnet.nn.functional._loss import as_classes, check_values, exists, log_total, picked, wide_dtype
from objnet.nn.functional.softmax import log_softmax

__all__ = ["cross_entropy", "nll_loss"]


@full_precision
def cross_entropy(
    input: jax.Array,
    target: jax.Array,
    weight: jax.Array | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> jax.Array:
    """Negative log-likelihood of ``target`` under the softmax of ``input`` (torch's ``F.cross_entropy``).

    Args:
        input: logits, shape (C,), (N, C) or (N, C, d1, ...), floating point.
        target: classes, the shape of ``input`` without C, or probabilities, floating point of the shape of ``input``.
        weight: shape (C,), a weight for each class; dtype of ``input`` if the target holds classes.
        ignore_index: the class that counts nothing; classes only.
        reduction: ``"none"``, ``"sum"`` or ``"mean"``, which for classes divides by the sum of the targets' weights.
        label_smoothing: the share of the uniform distribution in the target, in [0, 1].

    Returns:
        0-d, or the shape of ``input`` without C for ``"none"``; dtype of ``input``. A mean over nothing is NaN.

    Raises:
        IndexError: a class that does not exist.
        ValueError: another batch size than the target's, an unknown ``reduction``.
        RuntimeError: other shapes or dtypes that do not fit, ``label_smoothing`` out of range, ``ignore_index`` with
            probabilities.
        NotImplementedError: an input that is not floating point.
    """
    reduction = resolve_reduction(reduction, size_average, reduce)
    input, target = as_array(input), as_array(target)
    weight = None if weight is None else as_array(weight)
    label_smoothing = float(label_smoothing)
    if not 0.0 <= label_smoothing <= 1.0:
        raise RuntimeError(f"label_smoothing must be between 0.0 and 1.0, got {label_smoothing}")
    if target.shape == input.shape:
        return _soft_cross_entropy(input, target, weight, ignore_index, reduction, label_smoothing)
    if input.ndim == 0:
        raise IndexError("cross_entropy needs an input with a class dimension, got a 0-d array")
    target, axis = checked_classes("cross_entropy", input, target, weight, ignore_index)
    logits = widen(input)
    weights = target_weights(target, weight, logits, axis, ignore_index)
    # Jitted forward and backward on CPU, against autodiff of the same formula, whose lookup scatters: even at (64, 10) and
    # (700, 10000), 0.83-1.0 of the time at (1024, 50257).  A masked sum in place of the lookup takes twice as long from 10,000
    # classes on, a lookup in log_softmax three times.
    peak, total = log_total(logits, axis)
    losses = weights * (total - (picked(logits, target, axis) - peak))
    if label_smoothing:
        surprise = jnp.expand_dims(total, axis) - (logits - jnp.expand_dims(peak, axis))
        if weight is not None:
            surprise = surprise * _along_classes(widen(weight), surprise, axis)
        uniform = jnp.sum(surprise, axis) / max(input.shape[axis], 1)
        losses = (1 - label_smoothing) * losses + label_smoothing * uniform
    return reduced_classes(losses, weights, target == ignore_index, reduction).astype(input.dtype)


@full_precision
def nll_loss(
    input: jax.Array,
    target: jax.Array,
    weight: jax.Array | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """``-input`` at the class of ``target`` (torch's ``F.nll_loss``).

    Args:
        input: log-probabilities, shape (C,), (N, C) or (N, C, d1, ...), floating point.
        target: classes, the shape of ``input`` without C.
        weight: shape (C,), a weight for each class; dtype of ``input``.
        ignore_index: the class that counts nothing.
        reduction: ``"none"``, ``"sum"`` or ``"mean"``, which divides by the sum of the targets' weights.

    Returns:
        0-d, or the shape of ``target`` for ``"none"``; dtype of ``input``. A mean over nothing is NaN.

    Raises:
        IndexError: a class that does not exist.
        ValueError: a 0-d input, another batch size than the target's, an unknown ``reduction``.
        RuntimeError: other shapes or dtypes that do not fit.
        NotImplementedError: an input that is not floating point.
    """
    reduction = resolve_reduction(reduction, size_average, reduce)
    input, target = as_array(input), as_array(target)
    weight = None if weight is None else as_array(weight)
    target, axis = checked_classes("nll_loss", input, target, weight, ignore_index)
    scores = widen(input)
    weights = target_weights(target, weight, scores, axis, ignore_index)
    losses = -picked(scores, target, axis) * weights
    return reduced_classes(losses, weights, target == ignore_index, reduction).astype(input.dtype)


def _soft_cross_entropy(
    input: jax.Array,
    target: jax.Array,
    weight: jax.Array | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
) -> jax.Array:
    if not is_floating(target):
        raise RuntimeError(f"cross_entropy: a target of the input's shape holds probabilities, got {target.dtype}")
    if input.ndim == 0:
        raise IndexError("cross_entropy needs an input with a class dimension, got a 0-d array")
    if ignore_index >= 0:
        raise RuntimeError("cross_entropy: ignore_index does not work with probabilities as the target")
    require_floating("cross_entropy", input)
    axis = min(input.ndim - 1, 1)
    result = common_dtype(*(x for x in (input, target, weight) if x is not None))
    dtype = wide_dtype(result)
    share = target.astype(dtype)
    if label_smoothing:
        share = share * (1 - label_smoothing) + label_smoothing / max(input.shape[axis], 1)
    if weight is not None:
        _check_class_weight("cross_entropy", weight, input.shape[axis])
        share = share * _along_classes(weight.astype(dtype), input, axis)
    losses = -jnp.sum(log_softmax(input.astype(dtype), axis) * share, axis)
    return reduced(losses, reduction).astype(result)


def checked_classes(
    function: str, input: jax.Array, target: jax.Array, weight: jax.Array | None, ignore_index: int
) -> tuple[jax.Array, int]:
    """The target in a signed dtype and in the shape of ``input`` without the class axis, and that axis."""
    if input.ndim == 0:
        raise ValueError(f"{function} needs an input with a class dimension, got a 0-d array")
    axis = min(input.ndim - 1, 1)
    shape = input.shape[:axis] + input.shape[axis + 1 :]
    if input.ndim == 1 and target.ndim == 1:
        target = as_classes(function, target)
        if target.shape != (1,):
            raise ValueError(f"{function}: an input of shape {input.shape} takes a single class, got {target.shape}")
        target = target[0]
    if input.ndim > 1 and target.shape[:1] != shape[:1]:
        raise ValueError(f"{function}: the batch sizes differ: input {input.shape}, target {target.shape}")
    if target.shape != shape:
        raise RuntimeError(f"{function}: input {input.shape} takes classes of shape {shape}, got {target.shape}")
    require_floating(function, input)
    target, classes = as_classes(function, target), input.shape[axis]
    if weight is not None:
        _check_class_weight(function, weight, classes)
        if weight.dtype != input.dtype:
            raise RuntimeError(f"{function}: the weight must have the input's dtype {input.dtype}, got {weight.dtype}")
    check_values(
        target,
        lambda values: exists(values, classes) | (values == ignore_index),
        f"{function}: class {{}} does not exist, the input has {classes} classes",
        IndexError,
    )
    return target, axis


def _check_class_weight(function: str, weight: jax.Array, classes: int) -> None:
    if weight.shape != (classes,):
        raise RuntimeError(f"{function}: the weight must have one element a class, ({classes},), got {weight.shape}")


def _along_classes(weight: jax.Array, like: jax.Array, axis: int) -> jax.Array:
    return weight.reshape([-1 if i == axis else 1 for i in range(like.ndim)])


def target_weights(target: jax.Array, weight: jax.Array | None, scores: jax.Array, axis: int, ignore_index: int) -> jax.Array:
    """The weight of each target's class, NaN for classes that do not exist; dtype of ``scores``."""
    known = exists(target, scores.shape[axis])
    weights = jnp.where(known | (target == ignore_index), 1.0, jnp.nan).astype(scores.dtype)
    if weight is None:
        return weights
    return weights * widen(weight).at[jnp.where(known, target, 0)].get(mode="fill")


def reduced_classes(losses: jax.Array, weights: jax.Array, ignored: jax.Array, reduction: str) -> jax.Array:
    losses = jnp.where(ignored, 0.0, losses)
    if reduction == "mean":
        return jnp.sum(losses) / jnp.sum(jnp.where(ignored, 0.0, weights))
    return reduced(losses, reduction)
