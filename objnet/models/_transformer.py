"""What the transformer models share: activations by name, heads, masks and losses."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

import objnet.nn.functional as F
from objnet import nn
from objnet.models._cache import KVCache
from objnet.nn.functional._common import widen

__all__ = [
    "activation",
    "attention_mask_4d",
    "causal_lm_loss",
    "causal_mask",
    "check_problem_type",
    "classification_loss",
    "embedded",
    "merge_heads",
    "positions",
    "split_heads",
]

Function = Callable[[jax.Array], jax.Array]


def _quick_gelu(x: jax.Array) -> jax.Array:
    return x * F.sigmoid(1.702 * x)


_tanh_gelu = partial(F.gelu, approximate="tanh")
# transformers' names.  Its gelu_new, gelu_fast and gelu_pytorch_tanh are one function, computed in different orders.
ACTIVATIONS: dict[str, Function] = {
    "gelu": F.gelu,
    "gelu_fast": _tanh_gelu,
    "gelu_new": _tanh_gelu,
    "gelu_python": F.gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
    "quick_gelu": _quick_gelu,
    "relu": F.relu,
    "relu6": F.relu6,
    "sigmoid": F.sigmoid,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": F.tanh,
}


def activation(name: str) -> Function:
    """The activation that a configuration names.

    Raises:
        ValueError: there is none of this name.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"there is no activation {name!r}; those of transformers known here: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def embedded(table: nn.Embedding, input_ids: jax.Array | None, inputs_embeds: jax.Array | None) -> jax.Array:
    """The embeddings (B, S, hidden_size), looked up or given.

    Raises:
        ValueError: both are given, or none.
    """
    if (input_ids is None) == (inputs_embeds is None):
        raise ValueError("You must specify exactly one of input_ids or inputs_embeds")
    return table(input_ids) if inputs_embeds is None else inputs_embeds


def split_heads(x: jax.Array, head_dim: int) -> jax.Array:
    """(B, S, heads * head_dim) to (B, heads, S, head_dim)."""
    return x.reshape(*x.shape[:-1], -1, head_dim).swapaxes(-2, -3)


def merge_heads(x: jax.Array) -> jax.Array:
    """(B, heads, S, head_dim) to (B, S, heads * head_dim)."""
    x = x.swapaxes(-2, -3)
    return x.reshape(*x.shape[:-2], -1)


def attention_mask_4d(mask: jax.Array | None, batch_size: int, keys: int) -> jax.Array | None:
    """transformers' ``attention_mask`` for attention: (B, keys) of zeros and ones becomes (B, 1, 1, keys), boolean.

    A 4-d mask, boolean or to be added to the logits, is taken as it is.

    Raises:
        ValueError: another shape.
    """
    if mask is None:
        return None
    mask = jnp.asarray(mask)
    if mask.ndim == 4:
        return mask
    if mask.shape != (batch_size, keys):
        raise ValueError(f"attention_mask must have the shape {(batch_size, keys)}, a value for every key, got {mask.shape}")
    return mask.astype(jnp.bool_)[:, None, None, :]


def causal_mask(mask: jax.Array | None, batch_size: int, queries: int, cache: KVCache | None) -> tuple[jax.Array | None, bool]:
    """The arguments ``attn_mask`` and ``is_causal`` of causal attention, given the user's mask and the cache.

    With a cache ``mask`` has a value for each of the cache's places, filled or not.
    """
    keys = queries if cache is None else cache.max_length
    mask = attention_mask_4d(mask, batch_size, keys)
    if mask is None and cache is None:
        return None, True  # attention has a faster way for this one
    if mask is not None and mask.dtype != jnp.bool_:
        return mask, False  # 4-d and additive: the user's own
    start = 0 if cache is None else cache.length
    seen = jnp.arange(keys)[None, :] <= jnp.arange(queries)[:, None] + start
    if mask is None:
        return seen[None, None], False
    return (mask & seen if mask.shape[-2] == 1 else mask), False


def positions(position_ids: jax.Array | None, length: int, cache: KVCache | None) -> jax.Array:
    """Position ids (B or 1, S); those after the cache's past if none are given."""
    if position_ids is not None:
        return jnp.asarray(position_ids)
    ids = jnp.arange(length, dtype=jnp.int32)[None]
    return ids if cache is None else ids + cache.length


def causal_lm_loss(logits: jax.Array, labels: jax.Array | None) -> jax.Array | None:
    """Mean cross-entropy of each next token, in float32; labels of -100 do not count."""
    if labels is None:
        return None
    logits = widen(logits[:, :-1])
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1))


PROBLEMS = ("regression", "single_label_classification", "multi_label_classification")


def check_problem_type(problem_type: str | None) -> None:
    """Refuse an unknown kind of classification.

    Raises:
        ValueError: neither None nor one of ``PROBLEMS``.
    """
    if problem_type is not None and problem_type not in PROBLEMS:
        raise ValueError(f"problem_type must be None or one of {', '.join(map(repr, PROBLEMS))}, got {problem_type!r}")


def classification_loss(logits: jax.Array, labels: jax.Array | None, problem_type: str | None) -> jax.Array | None:
    """Squared error, cross-entropy or binary cross-entropy, as transformers chooses by labels and ``problem_type``."""
    if labels is None:
        return None
    classes = logits.shape[-1]
    if problem_type is None:
        problem_type = PROBLEMS[0 if classes == 1 else 1 if jnp.issubdtype(labels.dtype, jnp.integer) else 2]
    if problem_type == "single_label_classification":
        return F.cross_entropy(logits.reshape(-1, classes), labels.reshape(-1))
    if problem_type == "multi_label_classification":
        return F.binary_cross_entropy_with_logits(logits, labels)
    one = classes == 1
    return F.mse_loss(logits.reshape(-1) if one else logits, labels.reshape(-1) if one else labels)
