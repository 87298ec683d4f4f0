"""Embeddings and one-hot codes: functions of integer indices.

An index that does not exist is an error where its value can be seen.  In compiled code, where it cannot, the result is
NaN (for integers the lowest value of the dtype), never a neighbouring row; jax's own indexing would wrap or clamp it.
"""

from __future__ import annotations

import operator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from objnet.core.arrays import as_array
from objnet.nn.functional._common import host, is_concrete, is_floating, require_floating, setter, widen
from objnet.nn.functional._norm import vector_norm

__all__ = ["embedding", "one_hot"]


def embedding(
    input: jax.Array,
    weight: jax.Array,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> jax.Array:
    """Rows of ``weight`` (torch's ``F.embedding``).

    Args:
        input: indices, any shape, int32 or int64.
        weight: shape (num_embeddings, embedding_dim).
        padding_idx: the row that receives no gradient; negative counts from the end.
        max_norm: rows looked up whose norm is larger are first scaled down to it *in* ``weight``, which must then be a
            Parameter or another Variable, not a bare array.
        norm_type: the p of that norm.
        scale_grad_by_freq: divide a row's gradient by the number of times its index occurs in ``input``.
        sparse: not supported, gradients are dense.

    Returns:
        Shape (\\*input.shape, embedding_dim), dtype of ``weight``.

    Raises:
        IndexError: an index below 0 or beyond the last row; in compiled code that row is NaN instead.
        RuntimeError: indices of another dtype, a weight that is not 2-d or has no rows.
        AssertionError: ``padding_idx`` is no row.
        ImmutableArrayError: ``max_norm`` with a bare array.
        NotImplementedError: ``sparse=True``.
    """
    if sparse:
        raise NotImplementedError("embedding(sparse=True): jax has no sparse gradients, leave sparse=False")
    input, rows = as_array(input), as_array(weight)
    if padding_idx is not None and rows.ndim and not -len(rows) <= operator.index(padding_idx) < len(rows):
        raise AssertionError(f"padding_idx must be within num_embeddings ({len(rows)}), got {padding_idx}")
    _check_lookup(input, rows)
    if max_norm is not None:
        write = setter("embedding(max_norm=...): the weight", weight, "pass the Parameter, or use nn.Embedding")
        rows = renormalised(input, rows, float(max_norm), float(norm_type))
        write(rows)
    output = _rows(rows, input)
    if scale_grad_by_freq:
        counts = jnp.zeros(rows.shape[0], input.dtype).at[input].add(1, mode="drop", wrap_negative_indices=False)
        shares = 1.0 / _rows(counts, input)[..., None].astype(jnp.float32)
        output = _scaled_gradient(output, shares.astype(rows.dtype))
    if padding_idx is not None:
        padding = (input == padding_idx % rows.shape[0])[..., None]
        output = jnp.where(padding, lax.stop_gradient(output), output)
    return output


def renormalised(indices: jax.Array, weight: jax.Array, max_norm: float, norm_type: float = 2.0) -> jax.Array:
    """``weight`` with the rows at ``indices`` scaled down to norm ``max_norm`` where theirs is larger.

    What torch does to the weight in place, under ``no_grad``: the gradient of the result is the gradient of ``weight``.

    Args:
        indices: any shape, int32 or int64.
        weight: shape (num_embeddings, embedding_dim), floating point.
        max_norm: the largest norm allowed.
        norm_type: the p of the norm.

    Raises:
        IndexError, RuntimeError: as :func:`embedding`.
    """
    indices, weight = as_array(indices), as_array(weight)
    _check_lookup(indices, weight)
    require_floating("embedding(max_norm=...)", weight)
    fixed = lax.stop_gradient(weight)
    rows = widen(_rows(fixed, indices))
    norm = vector_norm(rows, norm_type, (rows.ndim - 1,))
    rows = jnp.where(norm > max_norm, rows * (max_norm / (norm + 1e-7)), rows).astype(weight.dtype)
    return _in_place_of(weight, fixed.at[indices].set(rows, mode="drop", wrap_negative_indices=False))


def one_hot(tensor: jax.Array, num_classes: int = -1) -> jax.Array:
    """1 at each class, 0 elsewhere, along a new last dimension (torch's ``F.one_hot``).

    Args:
        tensor: classes, any shape, int32 or int64.
        num_classes: size of the new dimension; -1 takes the largest class plus one, which compiled code cannot know.

    Returns:
        Shape (\\*tensor.shape, num_classes), the default integer dtype.

    Raises:
        RuntimeError: a class below 0 or not below ``num_classes`` (in compiled code its row is the lowest integer
            instead), another dtype, or a ``num_classes`` that cannot be inferred.
    """
    tensor, num_classes = as_array(tensor), operator.index(num_classes)
    if tensor.dtype not in (jnp.int32, jnp.int64):
        raise RuntimeError(f"one_hot needs int32 or int64 classes, got {tensor.dtype}")
    if is_concrete(tensor) and tensor.size:
        low, high = int(host(tensor).min()), int(host(tensor).max())
        if low < 0:
            raise RuntimeError(f"one_hot: classes must not be negative, got {low}")
        if num_classes == -1:
            num_classes = high + 1
        if high >= num_classes:
            raise RuntimeError(f"one_hot: classes must be below num_classes={num_classes}, got {high}")
    elif num_classes < 1:
        raise RuntimeError("one_hot cannot infer num_classes from an empty array or in compiled code: pass num_classes")
    dtype = jax.dtypes.canonicalize_dtype(jnp.int64)
    classes = lax.broadcasted_iota(tensor.dtype, (*tensor.shape, num_classes), tensor.ndim)
    exists = (tensor >= 0) & (tensor < num_classes)
    return jnp.where(exists[..., None], (tensor[..., None] == classes).astype(dtype), jnp.iinfo(dtype).min)


def _check_lookup(indices: jax.Array, weight: jax.Array) -> None:
    if indices.dtype not in (jnp.int32, jnp.int64):
        raise RuntimeError(f"embedding needs int32 or int64 indices, got {indices.dtype}")
    if weight.ndim != 2:
        raise RuntimeError(f"embedding needs a 2-d weight, got shape {weight.shape}")
    if len(weight) == 0 and indices.size:
        raise RuntimeError(f"an embedding without rows has none to look up, got indices of shape {indices.shape}")
    if is_concrete(indices) and indices.size:
        values = host(indices)
        low, high = values.min(), values.max()
        if low < 0 or high >= weight.shape[0]:
            wrong = low if low < 0 else high
            raise IndexError(f"index {wrong} is out of range for an embedding of {weight.shape[0]} rows")


def _rows(table: jax.Array, indices: jax.Array) -> jax.Array:
    """A gather, whose gradient is a scatter-add.

    On CPU that was the fastest gradient at every shape tried, jitted: (700 indices, 10000 x 200) 1.0, indices sorted
    first 1.6, product with one-hot codes 130; (64, 1000 x 64) 1.0, 1.4 and 2.9; (512, 30 x 32) 1.0, 3.1 and 1.6.
    """
    fill = jnp.nan if is_floating(table) else None  # None is the lowest integer
    return table.at[indices].get(mode="fill", fill_value=fill, wrap_negative_indices=False)


@jax.custom_jvp
def _scaled_gradient(x: jax.Array, scale: jax.Array) -> jax.Array:
    return x


@_scaled_gradient.defjvp
def _(primals: tuple[Any, Any], tangents: tuple[Any, Any]) -> tuple[jax.Array, jax.Array]:
    x, scale = primals
    return _scaled_gradient(x, scale), tangents[0] * scale


@jax.custom_jvp
def _in_place_of(old: jax.Array, new: jax.Array) -> jax.Array:
    return new


@_in_place_of.defjvp
def _(primals: tuple[Any, Any], tangents: tuple[Any, Any]) -> tuple[jax.Array, jax.Array]:
    return _in_place_of(*primals), tangents[0]
