"""Sums, means and maxima of rows of a table, bag by bag.

Bags of one length, a 2-d input, are reduced along an axis; bags marked by offsets are segments.  Compiled code, which
cannot look at offsets and indices, gives NaN where torch refuses them.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from objnet.core.arrays import as_array
from objnet.nn.functional._common import host, is_concrete, is_floating, setter, widen
from objnet.nn.functional.sparse import embedding, renormalised

__all__ = ["embedding_bag"]


def embedding_bag(
    input: jax.Array,
    weight: jax.Array,
    offsets: jax.Array | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: jax.Array | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> jax.Array:
    """Rows of ``weight``, reduced over bags (torch's ``F.embedding_bag``). An empty bag gives zeros.

    Args:
        input: int32 or int64 indices, shape (B, N), bags of one length, or (N,) with ``offsets``.
        weight: shape (num_embeddings, embedding_dim), floating point.
        offsets: where each bag starts in a 1-d input, shape (B,), from 0 upwards.
        max_norm, norm_type: as :func:`embedding` takes them.
        scale_grad_by_freq: divide a row's gradient by the number of times its index occurs in ``input``; not for
            ``"max"``. (torch on CPU divides by the counts of other rows where an index occurs twice.)
        mode: ``"sum"``, ``"mean"`` or ``"max"``.
        sparse: not supported, gradients are dense.
        per_sample_weights: what rows are multiplied by, shape of ``input``, dtype of ``weight``; only for ``"sum"``.
        include_last_offset: the last of ``offsets`` starts no bag but ends the last one; shape (B + 1,).
        padding_idx: an index that counts for nothing; negative counts from the end.

    Returns:
        Shape (B, embedding_dim), dtype of ``weight``.

    Raises:
        ValueError: dimensions that do not fit, or another ``mode``.
        RuntimeError: dtypes that do not fit; an index, an offset or a ``padding_idx`` that does not exist: in compiled
            code NaN for a bag with a wrong index, and for all with a wrong offset.
        NotImplementedError: ``sparse=True``, ``per_sample_weights`` with another mode.
        ImmutableArrayError: ``max_norm`` with a bare array.
    """
    table, indices = as_array(weight), as_array(input)
    if table.dtype in (jnp.int32, jnp.int64) and is_floating(indices):
        message = "embedding_bag(weight, input, ...) is deprecated: the order is embedding_bag(input, weight, ...)"
        warnings.warn(message, UserWarning, stacklevel=2)
        weight, table, indices = input, indices, table
    scales = None if per_sample_weights is None else as_array(per_sample_weights)
    offsets = None if offsets is None else as_array(offsets)
    _check_arrays(indices, table, offsets, scales)
    _check_mode(mode, scale_grad_by_freq, sparse, scales)
    _check_indices(indices, table)
    if max_norm is not None:
        write = setter("embedding_bag(max_norm=...): the weight", weight, "pass the Parameter, or use nn.EmbeddingBag")
        table = renormalised(indices, table, float(max_norm), float(norm_type))
        write(table)
    bags = _bags(indices, offsets, include_last_offset)
    indices = indices.reshape(-1)
    rows = widen(embedding(indices, table, scale_grad_by_freq=scale_grad_by_freq))
    real = jnp.ones((len(indices), 1), bool)
    if padding_idx is not None:
        padding_idx = operator.index(padding_idx)
        if not -len(table) <= padding_idx < len(table):
            raise RuntimeError(f"padding_idx must be within -{len(table)} through {len(table) - 1}, got {padding_idx}")
        real = (indices != padding_idx % len(table))[:, None]
    if mode == "max":
        output = _maximum(rows, real, bags)
        if not is_concrete(indices):  # a NaN in the middle of a bag would not be seen
            missing = bags.max(((indices < 0) | (indices >= len(table)))[:, None].astype(jnp.int32))
            output = jnp.where(missing > 0, jnp.nan, output)
    else:
        rows = jnp.where(real, rows, 0.0)
        if scales is not None:
            rows = rows * widen(scales).reshape(-1, 1)
        output = bags.sum(rows)
        if mode == "mean":
            output = output / jnp.maximum(bags.sum(real.astype(rows.dtype)), 1.0)
    if bags.wrong is not None:
        output = jnp.where(bags.wrong, jnp.nan, output)
    return output.astype(table.dtype)


class _Bags(NamedTuple):
    """Reductions of (N, ...) to (B, ...), and back to each element that of its bag; whether the offsets are wrong."""

    sum: Callable[[jax.Array], jax.Array]
    max: Callable[[jax.Array], jax.Array]
    min: Callable[[jax.Array], jax.Array]
    spread: Callable[[jax.Array], jax.Array]
    wrong: jax.Array | None


def _bags(indices: jax.Array, offsets: jax.Array | None, include_last: bool) -> _Bags:
    if offsets is None:
        batch, length = indices.shape
        if length == 0:
            raise RuntimeError(f"bags of a 2-d input must not be empty, got shape {indices.shape}: pass offsets")

        def split(x: jax.Array) -> jax.Array:
            return x.reshape(batch, length, *x.shape[1:])

        return _Bags(
            lambda x: jnp.sum(split(x), 1),
            lambda x: jnp.max(split(x), 1),
            lambda x: jnp.min(split(x), 1),
            lambda x: jnp.repeat(x, length, 0),
            None,
        )
    wrong = _check_offsets(offsets, len(indices), include_last)
    number = len(offsets) - include_last
    # elements beyond the last offset belong to a bag more, which is dropped
    bag = jnp.searchsorted(offsets, jnp.arange(len(indices), dtype=offsets.dtype), side="right").astype(jnp.int32) - 1
    options = {"num_segments": number, "indices_are_sorted": True}
    return _Bags(
        lambda x: jax.ops.segment_sum(x, bag, **options),
        lambda x: jax.ops.segment_max(x, bag, **options),
        lambda x: jax.ops.segment_min(x, bag, **options),
        lambda x: x.at[bag].get(mode="fill"),
        wrong,
    )


def _maximum(rows: jax.Array, real: jax.Array, bags: _Bags) -> jax.Array:
    """The maximum of each column, whose gradient goes to the first of equals.

    As in torch NaN is the maximum only as the first of its bag: what follows is never greater than it.
    """
    number = len(rows)
    order = jnp.where(real, jnp.arange(number)[:, None], number)
    first = bags.min(order)
    empty = ~(first < number)
    values = lax.stop_gradient(rows)
    comparable = jnp.where(real & ~jnp.isnan(values), values, -jnp.inf)
    best = bags.min(jnp.where(comparable == bags.spread(bags.max(comparable)), order, number))
    if number == 0:
        return jnp.zeros((len(first), rows.shape[1]), rows.dtype)
    first = jnp.minimum(first, number - 1)
    best = jnp.where(jnp.isnan(values[first[:, 0]]), first, jnp.minimum(best, number - 1))
    return jnp.where(empty, 0.0, jnp.take_along_axis(rows, best, 0))


def _check_arrays(indices: jax.Array, table: jax.Array, offsets: jax.Array | None, scales: jax.Array | None) -> None:
    if scales is not None and scales.shape != indices.shape:
        raise ValueError(f"per_sample_weights must have the shape of the input {indices.shape}, got {scales.shape}")
    if table.ndim != 2:
        raise ValueError(f"embedding_bag needs a 2-d weight, got shape {table.shape}")
    if indices.ndim == 2 and offsets is not None:
        raise ValueError("a 2-d input is one bag a row: offsets has to be None")
    if indices.ndim == 1 and (offsets is None or offsets.ndim != 1):
        got = "None" if offsets is None else f"shape {offsets.shape}"
        raise ValueError(f"a 1-d input needs 1-d offsets, where each bag starts, got {got}")
    if indices.ndim not in (1, 2):
        raise ValueError(f"embedding_bag needs a 1-d or 2-d input, got shape {indices.shape}")
    for name, x in (("input", indices), ("offsets", offsets)):
        if x is not None and x.dtype not in (jnp.int32, jnp.int64):
            raise RuntimeError(f"embedding_bag needs int32 or int64 {name}, got {x.dtype}")
    if not is_floating(table):
        raise RuntimeError(f"embedding_bag needs a floating point weight, got {table.dtype}")
    if scales is not None and scales.dtype != table.dtype:
        raise RuntimeError(f"per_sample_weights must have the dtype of the weight {table.dtype}, got {scales.dtype}")


def _check_mode(mode: str, scale_grad_by_freq: bool, sparse: bool, scales: jax.Array | None) -> None:
    if mode not in ("sum", "mean", "max"):
        raise ValueError(f"mode has to be 'sum', 'mean' or 'max', got {mode!r}")
    if mode == "max" and (scale_grad_by_freq or sparse):
        raise ValueError("mode='max' takes neither scale_grad_by_freq nor sparse")
    if sparse:
        raise NotImplementedError("embedding_bag(sparse=True): jax has no sparse gradients, leave sparse=False")
    if scales is not None and mode != "sum":
        raise NotImplementedError(f"per_sample_weights is for mode='sum' only, got mode={mode!r}")


def _check_indices(indices: jax.Array, table: jax.Array) -> None:
    if is_concrete(indices) and indices.size:
        low, high = host(indices).min(), host(indices).max()
        if low < 0 or high >= len(table):
            wrong = low if low < 0 else high
            raise RuntimeError(f"index {wrong} is out of range for an embedding bag of {len(table)} rows")


def _check_offsets(offsets: jax.Array, number: int, include_last: bool) -> jax.Array | None:
    """None where the offsets can be seen to be right, else whether they are wrong."""
    if len(offsets) == 0:
        if include_last:
            raise RuntimeError("include_last_offset=True needs at least one offset")
        return None
    if not is_concrete(offsets):
        return (offsets[0] != 0) | (offsets[-1] > number) | jnp.any(offsets[1:] < offsets[:-1])
    values = host(offsets)
    if values[0] != 0:
        raise RuntimeError(f"offsets[0] has to be 0, where the first bag starts, got {values[0]}")
    if (values[1:] < values[:-1]).any():
        raise RuntimeError(f"offsets must not decrease, got {values}")
    if values[-1] > number:
        raise RuntimeError(f"offsets[-1] can not be greater than the length of the input {number}, got {values[-1]}")
    return None
