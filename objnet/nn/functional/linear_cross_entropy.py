"""Cross-entropy of a linear projection, whole or in chunks of rows, of which only one has its logits in memory.

A chunk's logits are of no use once its gradient is known.  The sum over chunks therefore computes value and gradient in one
pass and keeps the gradient, three products in all; losses that are not summed need their cotangents first, and the backward
pass computes the logits again.  Both are rules for forward mode, so that every derivative of every order works.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from objnet.core.arrays import as_array
from objnet.core.autocast import full_precision
from objnet.core.precision import matmul_precision
from objnet.nn.functional._common import resolve_reduction
from objnet.nn.functional._loss import exists, is_class, log_total, picked
from objnet.nn.functional.class_loss import checked_classes, cross_entropy, target_weights
from objnet.nn.functional.linear import linear

__all__ = ["linear_cross_entropy"]

_NAME = "linear_cross_entropy"


@full_precision
def linear_cross_entropy(
    input: jax.Array,
    linear_weight: jax.Array,
    target: jax.Array,
    *,
    linear_bias: jax.Array | None = None,
    weight: jax.Array | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: Any = None,
) -> jax.Array:
    """``cross_entropy(linear(input, linear_weight, linear_bias), target)`` (torch's ``F.linear_cross_entropy``).

    Args:
        input: shape (N, in_features) or (in_features,).
        linear_weight: shape (C, in_features), or (C, d1, ..., in_features) for logits (N, C, d1, ...).
        target: classes or probabilities, as :func:`cross_entropy` takes them.
        linear_bias: shape of ``linear_weight`` without its last dimension.
        weight, reduction, label_smoothing: as there.
        ignore_index: the class that counts nothing, -100 if None; not with probabilities.
        options: a ``LinearCrossEntropyOptions``, which has the rows done in chunks. It takes classes, a ``linear_weight`` of
            two dimensions and no smoothing; anything else is done whole, with a warning.

    Returns:
        0-d, or the shape of ``target`` (of classes) for ``"none"``; dtype of ``input``.

    Raises:
        RuntimeError: shapes or dtypes that do not fit, ``ignore_index`` with probabilities.
        ValueError: options at odds; and what :func:`cross_entropy` raises.
    """
    input, linear_weight, target = as_array(input), as_array(linear_weight), as_array(target)
    linear_bias = None if linear_bias is None else as_array(linear_bias)
    if input.ndim not in (1, 2):
        raise RuntimeError(f"{_NAME} needs an input with 1 or 2 dimensions, got {input.shape}")
    if linear_weight.ndim < 2:
        raise RuntimeError(f"{_NAME} needs a linear_weight with 2 dimensions or more, got {linear_weight.shape}")
    if input.shape[-1] != linear_weight.shape[-1]:
        raise RuntimeError(f"{_NAME}: the last sizes of input {input.shape} and linear_weight {linear_weight.shape} differ")
    outputs, extra = linear_weight.shape[:-1], linear_weight.shape[1:-1]
    if linear_bias is not None and linear_bias.shape != outputs:
        raise RuntimeError(f"{_NAME}: linear_bias must have the shape {outputs}, got {linear_bias.shape}")
    if extra and input.ndim == 1:
        raise RuntimeError(f"{_NAME}: a linear_weight of shape {linear_weight.shape} needs an input with a batch")
    shape = (*input.shape[:-1], *outputs)
    if target.shape == shape and ignore_index is not None:
        raise RuntimeError(f"{_NAME}: ignore_index does not work with probabilities as the target")
    ignore_index = -100 if ignore_index is None else ignore_index
    if options is not None:
        by_class = jnp.issubdtype(target.dtype, jnp.integer)
        if by_class and not extra and label_smoothing == 0.0:
            return _chunked(input, linear_weight, target, linear_bias, weight, reduction, ignore_index, options)
        warnings.warn(
            f"{_NAME}: options are ignored: they need classes, a 2-d linear_weight and no label_smoothing, got a target of "
            f"{target.dtype}, linear_weight {linear_weight.shape} and label_smoothing={label_smoothing}",
            UserWarning,
            stacklevel=3,
        )
    flat = math.prod(outputs)
    logits = linear(
        input,
        linear_weight.reshape(flat, linear_weight.shape[-1]),
        None if linear_bias is None else linear_bias.reshape(flat),
    ).reshape(shape)
    return cross_entropy(logits, target, weight, ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing)


class _Plan(NamedTuple):
    """How the chunks are done: rows of each; dtypes of logits, of their gradient, and of the weight's gradient as it grows."""

    rows: int
    logits: Any
    slope: Any
    sums: Any


class _Head(NamedTuple):
    """The projection, (C, in_features) and (C,)."""

    weight: jax.Array
    bias: jax.Array | None


def _chunked(
    input: jax.Array,
    linear_weight: jax.Array,
    target: jax.Array,
    linear_bias: jax.Array | None,
    weight: Any,
    reduction: str,
    ignore_index: int,
    options: Any,
) -> jax.Array:
    reduction, weight = resolve_reduction(reduction), None if weight is None else as_array(weight)
    plan = _plan(options, math.prod(input.shape[:-1]), *linear_weight.shape[::-1], input.dtype)
    logits = jax.eval_shape(linear, input, linear_weight, linear_bias)  # and what linear and cross_entropy refuse
    if target.shape == logits.shape != (1,):  # class probabilities, as cross_entropy understands them
        raise RuntimeError(f"{_NAME}: a target of the logits' shape {target.shape} holds probabilities, got {target.dtype}")
    target, _ = checked_classes(_NAME, logits, target, weight, ignore_index)
    x, t = (input, target) if input.ndim == 2 else (input[None], target[None])
    classes = linear_weight.shape[0]
    scores = jax.ShapeDtypeStruct((*t.shape, classes), plan.logits)
    factors = target_weights(t, weight, scores, 1, ignore_index)
    ignored = t == ignore_index
    # from here on -1 is what counts nothing; a class that does not exist has the factor NaN
    t, head = jnp.where(ignored, -1, jnp.where(exists(t, classes), t, 0)), _Head(linear_weight, linear_bias)
    factors = jnp.where(ignored, 0.0, factors)
    if reduction == "none":
        losses = (_each(plan, x, head, t) * factors).astype(input.dtype)
        return losses if input.ndim == 2 else losses[0]
    loss = _total(plan, x, head, factors, t)
    if reduction == "mean":
        divisor = jnp.sum(factors)
        # a mean over nothing is NaN, but its gradient is zero, as in cross_entropy
        loss = jnp.where(divisor == 0, jnp.nan, loss / jnp.where(divisor == 0, 1.0, divisor))
    return loss.astype(input.dtype)


def _plan(options: Any, rows: int, features: int, classes: int, dtype: Any) -> _Plan:
    """The options with every choice made, for a problem of this size and dtype on the default device."""
    half = jnp.dtype(dtype).itemsize < 4
    emulated = half and jax.default_backend() == "cpu"
    policy, method, size = options.acc_policy, options.chunking_method, options.batch_chunk_size
    if policy == "auto":
        policy = "accurate" if emulated else "compact"
    if method == "auto":
        method = None if size is not None else "aspect_ratio" if emulated else "aspect_ratio:2"
    chosen = min(size or rows, rows)
    if method is not None:
        # as many rows as give logits the size of the input, in powers of two, over the number after the colon
        wanted = _divided(rows, _divided(classes, features))
        chosen = min((1 << (wanted - 1).bit_length()) // int(method.partition(":")[2] or 1), rows)
        if size not in (None, chosen):
            raise ValueError(f"{_NAME}: batch_chunk_size={size} and chunking_method={method!r}, which gives {chosen}: pass one")
    accumulated = options.acc_dtype
    if accumulated is None:
        accumulated = jnp.float32 if options.acc_policy == "auto" and half else dtype
    accumulated = jnp.dtype(accumulated)
    if accumulated != dtype and not (half and accumulated == jnp.float32):
        raise RuntimeError(
            f"{_NAME}: acc_dtype {accumulated} does not go with inputs of {dtype}: only float32 with half precision"
        )
    slope = accumulated if policy == "accurate" else dtype
    return _Plan(max(chosen, 1), accumulated, slope, dtype if policy == "compact" else accumulated)


def _divided(a: int, b: int) -> int:
    return -(-a // b)


def _over_chunks(step: Callable[..., Any], carry: Any, rows: int, *arrays: jax.Array) -> tuple[Any, Any]:
    """``lax.scan`` of ``step`` over chunks of rows; a last and shorter one comes after it."""
    count, total = arrays[0].shape[0] // rows, arrays[0].shape[0]
    outputs = []
    if count:
        stacked = [a[: count * rows].reshape(count, rows, *a.shape[1:]) for a in arrays]
        carry, out = lax.scan(lambda c, chunk: step(c, *chunk), carry, stacked)
        outputs.append(jax.tree.map(lambda o: o.reshape(count * rows, *o.shape[2:]), out))
    if total > count * rows or not count:
        carry, out = step(carry, *(a[count * rows :] for a in arrays))
        outputs.append(out)
    return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts), *outputs)


def _product(x: jax.Array, y: jax.Array, contracted: tuple[int, int], dtype: Any) -> jax.Array:
    """A matrix product of the first argument's dtype that is accumulated, and given, in ``dtype``."""
    dimensions = (((contracted[0],), (contracted[1],)), ((), ()))
    precision = matmul_precision(x)
    return lax.dot_general(x, y.astype(x.dtype), dimensions, precision=precision, preferred_element_type=dtype)


def _logits(plan: _Plan, x: jax.Array, head: _Head) -> jax.Array:
    logits = _product(x, head.weight, (1, 1), plan.logits)
    return logits if head.bias is None else logits + head.bias.astype(plan.logits)


def _losses(logits: jax.Array, t: jax.Array) -> jax.Array:
    peak, total = log_total(logits, 1)
    return jnp.where(t < 0, 0.0, total - (picked(logits, t, 1) - peak))


def _slopes(logits: jax.Array, t: jax.Array) -> jax.Array:
    peak, total = log_total(logits, 1)
    share = jnp.exp(logits - jnp.expand_dims(peak + total, 1))
    return jnp.where(jnp.expand_dims(t < 0, 1), 0.0, share - is_class(t, logits.shape, 1).astype(logits.dtype))


# -- the sum -----------------------------------------------------------------------------------------------------------


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _total(plan: _Plan, x: jax.Array, head: _Head, factors: jax.Array, t: jax.Array) -> jax.Array:
    def step(total: jax.Array, x: jax.Array, factors: jax.Array, t: jax.Array) -> tuple[jax.Array, None]:
        return total + jnp.sum(factors * _losses(_logits(plan, x, head), t)), None

    return _over_chunks(step, jnp.zeros((), plan.logits), plan.rows, x, factors, t)[0]


@partial(_total.defjvp, symbolic_zeros=True)
def _total_jvp(plan: _Plan, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[jax.Array, Any]:
    x, head, factors, t = primals
    moved = [None if isinstance(d, SymbolicZero) else d for d in (tangents[0], *tangents[1], tangents[2])]
    dx, dweight, dbias, dfactors = moved

    def step(sums: Any, x: jax.Array, factors: jax.Array, t: jax.Array) -> tuple[Any, Any]:
        total, of_weight, of_bias = sums
        logits = _logits(plan, x, head)
        losses = _losses(logits, t)
        slopes = jnp.expand_dims(factors, 1) * _slopes(logits, t)
        if of_bias is not None:
            of_bias = of_bias + jnp.sum(slopes, 0)
        slopes = slopes.astype(plan.slope)
        if of_weight is not None:
            of_weight = of_weight + _product(slopes, x, (0, 0), plan.sums)
        of_x = None if dx is None else _product(slopes, head.weight, (1, 0), plan.logits)
        return (total + jnp.sum(factors * losses), of_weight, of_bias), (of_x, None if dfactors is None else losses)

    start = (
        jnp.zeros((), plan.logits),
        None if dweight is None else jnp.zeros(head.weight.shape, plan.sums),
        None if dbias is None else jnp.zeros(head.bias.shape, plan.logits),
    )
    (total, of_weight, of_bias), (of_x, of_factors) = _over_chunks(step, start, plan.rows, x, factors, t)
    pairs = [(of_x, dx), (of_weight, dweight), (of_bias, dbias), (of_factors, dfactors)]
    tangent = [jnp.sum(slope * d.astype(slope.dtype)).astype(plan.logits) for slope, d in pairs if d is not None]
    return total, sum(tangent, jnp.zeros((), plan.logits))


# -- each --------------------------------------------------------------------------------------------------------------


def _each(plan: _Plan, x: jax.Array, head: _Head, t: jax.Array) -> jax.Array:
    again = jax.checkpoint(lambda x, head, t: _chunk(plan, x, head, t))
    return _over_chunks(lambda carry, x, t: (carry, again(x, head, t)), (), plan.rows, x, t)[1]


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _chunk(plan: _Plan, x: jax.Array, head: _Head, t: jax.Array) -> jax.Array:
    return _losses(_logits(plan, x, head), t)


@_chunk.defjvp
def _chunk_jvp(plan: _Plan, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[jax.Array, jax.Array]:
    (x, head, t), (dx, dhead, _) = primals, tangents
    logits = _logits(plan, x, head)
    slopes = _slopes(logits, t)
    narrow = slopes.astype(plan.slope)
    tangent = jnp.sum(_product(narrow, head.weight, (1, 0), plan.logits) * dx.astype(plan.logits), 1)
    tangent += jnp.sum(narrow * _product(x.astype(plan.slope), dhead.weight, (1, 1), plan.slope), 1).astype(plan.logits)
    if dhead.bias is not None:
        tangent += jnp.sum(slopes * dhead.bias.astype(plan.logits), 1)
    return _losses(logits, t), tangent
