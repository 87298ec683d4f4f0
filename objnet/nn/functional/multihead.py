"""Multi-head attention with its projections (Vaswani et al. 2017)."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from objnet.core.arrays import as_array
from objnet.core.autocast import low_precision
from objnet.nn.functional._attention import bias_of, product
from objnet.nn.functional._attention_masks import canonical, merged
from objnet.nn.functional.attention import scaled_dot_product_attention
from objnet.nn.functional.dropout import dropout
from objnet.nn.functional.linear import linear

__all__ = ["multi_head_attention_forward"]


@low_precision
def multi_head_attention_forward(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: jax.Array | None,
    in_proj_bias: jax.Array | None,
    bias_k: jax.Array | None,
    bias_v: jax.Array | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: jax.Array,
    out_proj_bias: jax.Array | None,
    training: bool = True,
    key_padding_mask: jax.Array | None = None,
    need_weights: bool = True,
    attn_mask: jax.Array | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: jax.Array | None = None,
    k_proj_weight: jax.Array | None = None,
    v_proj_weight: jax.Array | None = None,
    static_k: jax.Array | None = None,
    static_v: jax.Array | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[jax.Array, jax.Array | None]:
    """What ``nn.MultiheadAttention`` computes (torch's ``F.multi_head_attention_forward``).

    Args:
        query: shape (L, N, E), or (L, E) without a batch.
        key, value: shapes (S, N, Ek) and (S, N, Ev), or (S, Ek) and (S, Ev).
        embed_dim_to_check: E.
        num_heads: H, a divisor of E.
        in_proj_weight: shape (3 * E, E), the three projections stacked; None with ``use_separate_proj_weight``.
        in_proj_bias: shape (3 * E,).
        bias_k, bias_v: E elements each, one more key and value for every sequence; both or none.
        add_zero_attn: one more key and value of zeros.
        dropout_p: dropout of the weights, in ``training``.
        out_proj_weight, out_proj_bias: shapes (E, E) and (E,).
        key_padding_mask: shape (N, S) or (S,): keys not to be seen are True, or what is added to their logits.
        need_weights: whether the weights are returned too; False is faster.
        attn_mask: shape (L, S) or (N * H, L, S), without a batch (H, L, S): True must not be seen, or what is added.
        use_separate_proj_weight: take ``q_proj_weight`` (E, E), ``k_proj_weight`` (E, Ek) and ``v_proj_weight`` (E, Ev).
        static_k, static_v: shape (N * H, S, E / H), in place of the projected keys and values.
        average_attn_weights: return the mean of the weights over the heads.
        is_causal: a promise that ``attn_mask``, which must be given, hides the later keys.

    Returns:
        The output, of the shape of ``query``; and the weights, after dropout, of shape (N, L, S) or, not averaged,
        (N, H, L, S), without N for inputs without a batch; None without ``need_weights``.

    Raises:
        AssertionError: shapes that do not fit, masks that are neither boolean nor floating point, missing weights.
        RuntimeError: dtypes that do not fit, a mask of a wrong shape, ``is_causal`` without a mask.
    """
    return attend(
        query,
        key,
        value,
        embed_dim_to_check,
        num_heads,
        (q_proj_weight, k_proj_weight, v_proj_weight) if use_separate_proj_weight else in_proj_weight,
        in_proj_bias,
        (bias_k, bias_v),
        add_zero_attn,
        dropout_p if training else 0.0,
        (out_proj_weight, out_proj_bias),
        key_padding_mask,
        need_weights,
        attn_mask,
        (static_k, static_v),
        average_attn_weights,
        is_causal,
    )


@low_precision
def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    embed_dim: int,
    num_heads: int,
    in_proj: jax.Array | tuple[jax.Array | None, ...] | None,
    in_proj_bias: jax.Array | None,
    extra: tuple[jax.Array | None, jax.Array | None],
    add_zero_attn: bool,
    dropout_p: float,
    out_proj: tuple[jax.Array, jax.Array | None],
    key_padding_mask: jax.Array | None = None,
    need_weights: bool = True,
    attn_mask: jax.Array | None = None,
    static: tuple[jax.Array | None, jax.Array | None] = (None, None),
    average: bool = True,
    is_causal: bool = False,
    batch_first: bool = False,
    stacklevel: int = 6,
) -> tuple[jax.Array, jax.Array | None]:
    """:func:`multi_head_attention_forward`, in either layout: arrays are transposed once, on their way into heads."""
    one_source, self_attention = key is value, query is key is value
    query = as_array(query)
    key = query if self_attention else as_array(key)
    value = key if one_source else as_array(value)
    padding, mask = canonical(key_padding_mask, attn_mask, "key_padding_mask", "attn_mask", query.dtype, stacklevel)
    batched = _check_dimensions(query, key, value, padding, mask, num_heads)
    batch_axis = 0 if batch_first or not batched else 1
    if not batched:  # a batch of one
        query, key, value = query[None], key[None], value[None]
        padding = None if padding is None else padding[None]
    if is_causal and mask is None:
        raise RuntimeError("is_causal says that attn_mask is causal: pass it, see Transformer.generate_square_subsequent_mask")
    _check_shapes(query, key, value, embed_dim, num_heads, in_proj, batch_axis)
    batch, length, source = query.shape[batch_axis], query.shape[1 - batch_axis], key.shape[1 - batch_axis]
    hinted = is_causal and padding is None and not need_weights
    if hinted:
        mask = None
    elif mask is not None:
        wanted = (length, source) if mask.ndim == 2 else (batch * num_heads, length, source)
        if mask.shape != wanted:
            raise RuntimeError(f"The shape of the {mask.ndim}D attn_mask is {mask.shape}, but should be {wanted}.")

    def heads(x: jax.Array) -> jax.Array:
        x = x.reshape(*x.shape[:2], num_heads, embed_dim // num_heads)
        return x.transpose(0, 2, 1, 3) if batch_axis == 0 else x.transpose(1, 2, 0, 3)

    projected = _projected(query, key, value, in_proj, in_proj_bias, one_source, self_attention)
    q, k, v = (heads(x) for x in projected)
    added = int(extra[0] is not None)
    k, v = _extended(k, v, extra, static)
    if add_zero_attn:
        k, v = (jnp.pad(x, ((0, 0), (0, 0), (0, 1), (0, 0))) for x in (k, v))
        added += 1
    if mask is not None:
        mask = mask if mask.ndim == 2 else mask.reshape(batch, num_heads, length, source)
        mask = jnp.pad(mask, [(0, 0)] * (mask.ndim - 1) + [(0, added)])
    if padding is not None:
        if padding.shape != (batch, k.shape[2] - added):
            raise AssertionError(f"key_padding_mask must have shape {(batch, k.shape[2] - added)}, got {padding.shape}")
        padding = jnp.pad(padding, ((0, 0), (0, added)))[:, None, None, :]
    seen = merged(mask, padding)
    if need_weights:
        output, weights = _weighted(q, k, v, seen, dropout_p)
        weights = jnp.mean(weights, 1) if average else weights
    else:
        output, weights = scaled_dot_product_attention(q, k, v, seen, dropout_p, hinted), None
    output = output.transpose(0, 2, 1, 3) if batch_axis == 0 else output.transpose(2, 0, 1, 3)
    output = linear(output.reshape(query.shape), *out_proj)
    if batched:
        return output, weights
    return output[0], None if weights is None else weights[0]


def _weighted(q: jax.Array, k: jax.Array, v: jax.Array, seen: jax.Array | None, dropout_p: float) -> tuple[jax.Array, jax.Array]:
    """Output and weights; a query that may see nothing gives NaN, as torch where weights are wanted."""
    logits = product(q * math.sqrt(1.0 / q.shape[-1]), jnp.swapaxes(k, -1, -2))
    if seen is not None:
        logits = logits + bias_of(seen, logits.dtype)
    weights = jax.nn.softmax(logits, -1).astype(q.dtype)
    weights = dropout(weights, dropout_p) if dropout_p > 0 else weights
    return product(weights, v).astype(q.dtype), weights


def _projected(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    weight: jax.Array | tuple[jax.Array | None, ...] | None,
    bias: jax.Array | None,
    one_source: bool,
    self_attention: bool,
) -> tuple[jax.Array, ...]:
    """Queries, keys and values; equal sources share one product."""
    size = query.shape[-1]
    bias = None if bias is None else as_array(bias)
    if bias is not None and bias.shape != (3 * size,):
        raise RuntimeError(f"in_proj_bias must have shape {(3 * size,)}, got {bias.shape}")
    if isinstance(weight, tuple):
        weights = [as_array(w) for w in weight]
        biases = [None] * 3 if bias is None else jnp.split(bias, 3)
        for name, x, w in zip("qkv", (query, key, value), weights, strict=True):
            if w.shape != (size, x.shape[-1]):
                raise AssertionError(f"expecting {name}_proj_weight of shape {(size, x.shape[-1])}, got {w.shape}")
        return tuple(linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True))
    weight = as_array(weight)
    if weight.shape[:1] != (3 * size,):
        raise RuntimeError(f"in_proj_weight must have shape {(3 * size, size)}, got {weight.shape}")
    if self_attention:
        return tuple(jnp.split(linear(query, weight, bias), 3, -1))
    cuts = [size] if one_source else [size, 2 * size]
    sources = (query, key) if one_source else (query, key, value)
    biases = [None] * 3 if bias is None else jnp.split(bias, cuts)
    outputs = [linear(x, w, b) for x, w, b in zip(sources, jnp.split(weight, cuts), biases)]
    return tuple(piece for x in outputs for piece in jnp.split(x, x.shape[-1] // size, -1))


def _extended(
    k: jax.Array, v: jax.Array, extra: tuple[jax.Array | None, ...], static: tuple[jax.Array | None, ...]
) -> tuple[jax.Array, jax.Array]:
    """Keys and values, (N, H, S, D), with the learned one at the end, or the static ones in their place."""
    if (extra[0] is None) != (extra[1] is None):
        raise AssertionError("bias_k and bias_v come together: one of them is None")
    results = []
    for name, x, one, fixed in zip("kv", (k, v), extra, static, strict=True):
        batch, heads, _, size = x.shape
        if one is not None:
            if any(s is not None for s in static):
                raise AssertionError("bias_k and bias_v cannot be added to static keys and values")
            one = as_array(one)
            if one.size != heads * size or one.dtype != x.dtype:
                raise RuntimeError(f"bias_{name} needs {heads * size} elements of {x.dtype}, got {one.shape} of {one.dtype}")
            x = jnp.concatenate([x, jnp.broadcast_to(one.reshape(heads, 1, size), (batch, heads, 1, size))], 2)
        if fixed is not None:
            fixed = as_array(fixed)
            if fixed.ndim != 3 or fixed.shape[0] != batch * heads or fixed.shape[2] != size:
                raise AssertionError(f"static_{name} must have shape ({batch * heads}, S, {size}), got {fixed.shape}")
            x = fixed.reshape(batch, heads, *fixed.shape[1:])
        results.append(x)
    return results[0], results[1]


def _check_dimensions(
    query: jax.Array, key: jax.Array, value: jax.Array, padding: jax.Array | None, mask: jax.Array | None, num_heads: int
) -> bool:
    """Whether there is a batch."""
    if query.ndim not in (2, 3):
        raise AssertionError(f"query should be unbatched 2D or batched 3D, got shape {query.shape}")
    if not query.ndim == key.ndim == value.ndim:
        raise AssertionError(f"query, key and value must all be {query.ndim}-d, got {query.shape}, {key.shape}, {value.shape}")
    if padding is not None and padding.ndim != query.ndim - 1:
        raise AssertionError(f"key_padding_mask must be {query.ndim - 1}-d for this query, got shape {padding.shape}")
    if mask is not None and mask.ndim not in (2, 3):
        raise AssertionError(f"attn_mask must be 2-d or 3-d, got shape {mask.shape}")
    if mask is not None and query.ndim == 2 and mask.ndim == 3:
        expected = (num_heads, query.shape[0], key.shape[0])
        if mask.shape != expected:
            raise AssertionError(f"Expected `attn_mask` shape to be {expected} but got {mask.shape}")
    return query.ndim == 3


def _check_shapes(
    query: jax.Array, key: jax.Array, value: jax.Array, embed_dim: int, num_heads: int, in_proj: object, batch_axis: int
) -> None:
    size = query.shape[-1]
    if size != embed_dim:
        raise AssertionError(f"was expecting embedding dimension of {embed_dim}, but got {size}")
    if num_heads < 0:
        raise RuntimeError(f"num_heads must be positive, got {num_heads}")
    if size % num_heads:
        raise AssertionError(f"embed_dim {size} not divisible by num_heads {num_heads}")
    separate = isinstance(in_proj, tuple)
    if in_proj is None or (separate and any(w is None for w in in_proj)):
        raise AssertionError("the weights of the projections are missing: in_proj_weight, or the three separate ones")
    if (key.shape[:2] if separate else key.shape) != (value.shape[:2] if separate else value.shape):
        raise AssertionError(f"key shape {key.shape} does not match value shape {value.shape}")
    if query.shape[batch_axis] != key.shape[batch_axis]:
        raise RuntimeError(f"query and key must have one batch size, got {query.shape} and {key.shape}")
