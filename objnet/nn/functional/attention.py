"""Scaled dot-product attention (Vaswani et al. 2017)."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from objnet.core.arrays import as_array
from objnet.core.autocast import low_precision
from objnet.core.rng import next_rng_key
from objnet.nn.functional._attention import at_once, by_cudnn, by_head, cudnn_takes, pays_by_head
from objnet.nn.functional._common import is_floating

__all__ = ["scaled_dot_product_attention"]


@low_precision
def scaled_dot_product_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    attn_mask: jax.Array | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> jax.Array:
    """``softmax(query @ key.T * scale + mask) @ value`` (torch's ``F.scaled_dot_product_attention``).

    A query that may see no key gives zeros.  The dropout is always active: pass ``dropout_p=0.0`` in evaluation.

    Args:
        query: shape (..., L, E), floating point.
        key: shape (..., S, E), dtype of ``query``.
        value: shape (..., S, Ev), dtype of ``query``; leading dimensions broadcast.
        attn_mask: broadcasts to (..., L, S). Boolean: True takes part. Floating point, float32 or the dtype of
            ``query``: added to the logits.
        dropout_p: probability with which a weight is dropped.
        is_causal: query ``i`` sees keys up to ``i``; takes no ``attn_mask``.
        scale: multiplies the logits; None is ``1 / sqrt(E)``.
        enable_gqa: the heads, third dimension from the end, of ``key`` and of ``value`` may be fewer: each then serves
            as many heads of ``query`` in a row as it takes (Ainslie et al. 2023).

    Returns:
        Shape (..., L, Ev), dtype of ``query``.

    Raises:
        RuntimeError: shapes or dtypes that do not fit, ``attn_mask`` together with ``is_causal``, ``dropout_p`` outside
            of [0, 1].
        IndexError: ``enable_gqa`` without a dimension for heads.
        NotImplementedError: complex numbers.
    """
    query, key, value = as_array(query), as_array(key), as_array(value)
    mask = None if attn_mask is None else as_array(attn_mask)
    _check_arrays(query, key, value)
    if mask is not None:
        _check_mask(mask, query, is_causal)
    if not 0.0 <= dropout_p <= 1.0:
        raise RuntimeError(f"the probability of dropout must be between 0 and 1, got dropout_p={dropout_p}")
    dropout_p = float(dropout_p)
    if scale is None:
        scale = 1.0 / math.sqrt(query.shape[-1]) if query.shape[-1] else 1.0
    if enable_gqa:
        _check_heads(query, key, value)
    if mask is None and dropout_p == 0 and cudnn_takes(query, key, value, is_causal):
        if enable_gqa or query.shape[1] == key.shape[1]:
            return by_cudnn(query, key, value, is_causal, scale)
    heads = query.shape[-3] if enable_gqa else None
    grouped = enable_gqa and key.shape[-3] == value.shape[-3] != heads
    if grouped:
        # one more dimension, along which keys and values broadcast: they are not copied
        query, key, value = _grouped(query, key.shape[-3]), key[..., None, :, :], value[..., None, :, :]
        if mask is not None and mask.ndim > 2:
            mask = _grouped(mask, key.shape[-4]) if mask.shape[-3] > 1 else mask[..., None, :, :]
    elif enable_gqa:
        key, value = (jnp.repeat(x, heads // x.shape[-3], -3) for x in (key, value))
    lead = _broadcast("the leading dimensions of query, key and value", query.shape[:-2], key.shape[:-2], value.shape[:-2])
    logits = (*lead, query.shape[-2], key.shape[-2])
    if mask is not None and _broadcast("attn_mask and the logits", mask.shape, logits) != logits:
        raise RuntimeError(f"attn_mask of shape {attn_mask.shape} does not broadcast to (..., L, S) = {logits}")
    rows = jnp.arange(query.shape[-2]) if is_causal else None
    rng = next_rng_key() if dropout_p > 0 else None
    attend = by_head if pays_by_head(query, key) else at_once
    output = attend(query, key, value, mask, rows, scale, dropout_p, rng)
    return output.reshape(*output.shape[:-4], heads, *output.shape[-2:]) if grouped else output


def _check_arrays(query: jax.Array, key: jax.Array, value: jax.Array) -> None:
    name = "scaled_dot_product_attention"
    shapes = f"query {query.shape}, key {key.shape}, value {value.shape}"
    if min(query.ndim, key.ndim, value.ndim) < 2:
        raise RuntimeError(f"{name} needs at least 2 dimensions, got {shapes}")
    if not query.dtype == key.dtype == value.dtype:
        raise RuntimeError(f"{name} needs one dtype, got query {query.dtype}, key {key.dtype}, value {value.dtype}")
    if not is_floating(query):
        error = NotImplementedError if jnp.issubdtype(query.dtype, jnp.complexfloating) else RuntimeError
        raise error(f"{name} needs floating point arrays, got {query.dtype}")
    if query.shape[-1] != key.shape[-1]:
        raise RuntimeError(f"{name}: the last dimensions of query and key must be equal, got {shapes}")
    if key.shape[-2] != value.shape[-2]:
        raise RuntimeError(f"{name}: key and value must have one length, their second-last dimension, got {shapes}")


def _check_mask(mask: jax.Array, query: jax.Array, is_causal: bool) -> None:
    if is_causal:
        raise RuntimeError("scaled_dot_product_attention takes attn_mask or is_causal=True, not both")
    if mask.dtype not in (jnp.bool_, jnp.float32, query.dtype):
        raise RuntimeError(f"attn_mask must be bool, float32 or of the query's dtype {query.dtype}, got {mask.dtype}")


def _check_heads(query: jax.Array, key: jax.Array, value: jax.Array) -> None:
    if min(query.ndim, key.ndim, value.ndim) < 3:
        raise IndexError(f"enable_gqa needs heads as third dimension from the end, got query of shape {query.shape}")
    for name, x in (("key", key), ("value", value)):
        if x.shape[-3] == 0 or query.shape[-3] % x.shape[-3]:
            raise RuntimeError(f"the heads of {name} ({x.shape[-3]}) must divide the heads of query ({query.shape[-3]})")


def _broadcast(what: str, *shapes: tuple[int, ...]) -> tuple[int, ...]:
    try:
        return jnp.broadcast_shapes(*shapes)
    except ValueError:
        raise RuntimeError(f"{what} do not broadcast: {', '.join(map(str, shapes))}") from None


def _grouped(x: jax.Array, groups: int) -> jax.Array:
    *lead, heads, length, size = x.shape
    return x.reshape(*lead, groups, heads // groups, length, size)
