"""Attention whose scores a function changes, and masks a function makes (``torch.nn.attention.flex_attention``).

The function sees one score and its four indices; ``jax.vmap`` makes it one over all, which XLA fuses into the softmax.
A :class:`BlockMask` keeps its function and no blocks: nothing is skipped, and results are the same.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from objnet.core.arrays import as_array
from objnet.nn.functional._attention import bias_of, exponentials, product
from objnet.nn.functional._common import common_dtype, require_floating

__all__ = [
    "AuxOutput",
    "AuxRequest",
    "BlockMask",
    "and_masks",
    "create_block_mask",
    "create_mask",
    "flex_attention",
    "noop_mask",
    "or_masks",
]


class AuxRequest(NamedTuple):
    """What :func:`flex_attention` is to return beside the output."""

    lse: bool = False
    max_scores: bool = False


class AuxOutput(NamedTuple):
    """What was asked for, each of shape (B, Hq, L): log-sum-exp of the scores, and their maximum."""

    lse: jax.Array | None = None
    max_scores: jax.Array | None = None


class BlockMask:
    """A mask by a function ``mask_mod(b, h, q_idx, kv_idx)``, as :func:`create_block_mask` makes it."""

    def __init__(self, mask_mod: Callable[..., Any], shape: tuple[int, int, int, int]) -> None:
        self.mask_mod = mask_mod
        self.shape = shape
        self.seq_lengths = shape[2:]

    def __repr__(self) -> str:
        return f"BlockMask(shape={self.shape})"


def noop_mask(batch: Any, head: Any, token_q: Any, token_kv: Any) -> jax.Array:
    """The ``mask_mod`` that hides nothing."""
    return jnp.ones((), bool)


def and_masks(*mask_mods: Callable[..., Any]) -> Callable[..., Any]:
    """A ``mask_mod`` of what all of them show."""
    return _combined(mask_mods, jnp.logical_and, True)


def or_masks(*mask_mods: Callable[..., Any]) -> Callable[..., Any]:
    """A ``mask_mod`` of what any of them shows."""
    return _combined(mask_mods, jnp.logical_or, False)


def create_mask(
    mod_fn: Callable[..., Any], B: int | None, H: int | None, Q_LEN: int, KV_LEN: int, device: Any = None
) -> jax.Array:
    """The mask of shape (B, H, Q_LEN, KV_LEN), True where ``mod_fn`` shows a key; None for B or H is 1.

    Args:
        mod_fn: a ``mask_mod`` of four indices, or a ``score_mod`` of a score and four, which hides by minus infinity.
        B, H, Q_LEN, KV_LEN: sizes.
        device: where the mask lives.
    """
    shape = (1 if B is None else B, 1 if H is None else H, Q_LEN, KV_LEN)
    if _arity(mod_fn) == 5:
        mask = _everywhere(mod_fn, shape, jnp.zeros(shape)) != -math.inf
    else:
        mask = jnp.broadcast_to(_everywhere(mod_fn, shape), shape)
    return mask if device is None else jax.device_put(mask, device)


def create_block_mask(
    mask_mod: Callable[..., Any],
    B: int | None,
    H: int | None,
    Q_LEN: int,
    KV_LEN: int,
    device: Any = None,
    BLOCK_SIZE: int | tuple[int, int] = 128,
    _compile: bool = False,
    separate_full_blocks: bool = True,
    compute_dq_write_order: bool = False,
    dq_kv_order: bool = True,
) -> BlockMask:
    """A :class:`BlockMask`. What follows ``KV_LEN`` tunes torch's kernels and makes no difference here.

    Raises:
        AssertionError: ``mask_mod`` takes a score.
    """
    if _arity(mask_mod) == 5:
        raise AssertionError(f"create_block_mask needs a mask_mod of four indices, got {mask_mod}")
    return BlockMask(mask_mod, (1 if B is None else B, 1 if H is None else H, Q_LEN, KV_LEN))


def flex_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    score_mod: Callable[..., Any] | None = None,
    block_mask: BlockMask | None = None,
    scale: float | None = None,
    enable_gqa: bool = False,
    return_lse: bool = False,
    kernel_options: Any = None,
    *,
    return_aux: AuxRequest | None = None,
) -> Any:
    """Attention with scores changed by ``score_mod(score, b, h, q_idx, kv_idx)`` (Dong et al. 2024).

    Args:
        query: shape (B, Hq, L, E), floating point.
        key, value: shapes (B, Hkv, S, E) and (B, Hkv, S, Ev), or with a batch of 1, of any floating point dtype.
        score_mod: of scalars, in jax operations; it may close over arrays. Scores are float32 at least.
        block_mask: keys not to be seen.
        scale: multiplies the scores before ``score_mod``; None is ``1 / sqrt(E)``.
        enable_gqa: Hkv may be a divisor of Hq.
        return_lse: return the log-sum-exp too, shape (B, Hq, L).
        kernel_options: tunes torch's kernels; makes no difference here.
        return_aux: return an :class:`AuxOutput` too.

    Returns:
        Shape (B, Hq, L, Ev), dtype of ``query``; a pair if more was asked for.

    Raises:
        NotImplementedError: arrays that are not 4-d, or not floating point.
        ValueError: shapes that do not fit.
    """
    query, key, value = as_array(query), as_array(key), as_array(value)
    _check(query, key, value, block_mask, enable_gqa)
    scale = 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
    repeats = query.shape[1] // key.shape[1]
    dtype, wide = query.dtype, common_dtype(query, key, value)
    query, key, value = query.astype(wide), *(jnp.repeat(x.astype(wide), repeats, 1) for x in (key, value))
    scores = product(query, jnp.swapaxes(key, -1, -2)) * scale
    if score_mod is not None:
        scores = _everywhere(score_mod, scores.shape, scores).astype(scores.dtype)
    if block_mask is not None:
        shape = tuple(1 if n == 1 else m for n, m in zip(block_mask.shape, scores.shape, strict=True))
        scores = scores + bias_of(jnp.broadcast_to(_everywhere(block_mask.mask_mod, shape), shape), scores.dtype)
    powers, total = exponentials(scores)
    output = (product(powers.astype(value.dtype), value) / total).astype(dtype)
    if not return_lse and return_aux is None:
        return output
    top = _largest(scores)
    lse = jax.nn.logsumexp(scores, -1)
    if return_aux is None:
        return output, lse
    return output, AuxOutput(lse if return_aux.lse else None, top if return_aux.max_scores else None)


def _largest(scores: jax.Array) -> jax.Array:
    """The largest along the last axis, whose gradient goes to the first of that size.

    jnp.max's compares all with the largest once more, and divides by zero where the compiler has computed them anew, to other bits.
    """
    if scores.shape[-1] == 0:
        return jnp.full(scores.shape[:-1], -math.inf, scores.dtype)
    place = jnp.argmax(lax.stop_gradient(scores), -1, keepdims=True)
    return jnp.take_along_axis(scores, place, -1)[..., 0]


def _everywhere(function: Callable[..., Any], shape: tuple[int, ...], *scores: jax.Array) -> jax.Array:
    """``function`` of each score, if there are scores, and of its four indices."""
    extra = len(scores)
    for axis in (3, 2, 1, 0):
        axes = [None] * 4
        axes[axis] = 0
        # the innermost map sees the last index vary, and of the scores the last axis still there
        function = jax.vmap(function, (*[0] * extra, *axes))
    return function(*scores, *(jnp.arange(n, dtype=jnp.int32) for n in shape))


def _arity(function: Callable[..., Any]) -> int:
    parameters = inspect.signature(function).parameters.values()
    return sum(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


def _combined(mask_mods: tuple[Callable[..., Any], ...], combine: Callable[..., Any], start: bool) -> Callable[..., Any]:
    if not all(callable(m) for m in mask_mods):
        raise RuntimeError(f"all inputs should be callable mask_mods, got {mask_mods}")

    def mask_mod(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> jax.Array:
        result = jnp.asarray(start)
        for mod in mask_mods:
            result = combine(result, mod(b, h, q_idx, kv_idx))
        return result

    return mask_mod


def _check(query: jax.Array, key: jax.Array, value: jax.Array, block_mask: BlockMask | None, enable_gqa: bool) -> None:
    shapes = f"query {query.shape}, key {key.shape}, value {value.shape}"
    require_floating("flex_attention", query, key, value)
    if not query.ndim == key.ndim == value.ndim == 4:
        raise NotImplementedError(f"flex_attention needs 4-d arrays (B, H, L, E), got {shapes}")
    if query.shape[-1] != key.shape[-1] or key.shape[1:3] != value.shape[1:3]:
        raise ValueError(f"flex_attention: sizes of heads, or heads and lengths of key and value, differ: {shapes}")
    heads, fewer = query.shape[1], key.shape[1]
    if fewer == 0 or heads % fewer or (heads != fewer and not enable_gqa):
        raise ValueError(f"flex_attention: {heads} heads of query do not go with {fewer} of key; see enable_gqa")
    if key.shape[0] not in (1, query.shape[0]) or value.shape[0] != key.shape[0]:
        raise ValueError(f"flex_attention: batch sizes differ: {shapes}")
    if block_mask is not None:
        wanted = (query.shape[0], heads, query.shape[2], key.shape[2])
        if block_mask.seq_lengths != wanted[2:] or any(n not in (1, m) for n, m in zip(block_mask.shape[:2], wanted)):
            raise ValueError(f"block_mask was made for {block_mask.shape}, the scores have shape {wanted}")
