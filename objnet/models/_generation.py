"""Greedy decoding and sampling as one compiled program.

The prompt is read at once; then a ``lax.while_loop`` yields a token a turn and stops early when every row has ended.  The
key-value cache is part of the loop's carry, so its arrays are updated in place.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from objnet.core.rng import next_rng_key
from objnet.models._cache import KVCache
from objnet.nn.functional._common import host, is_concrete
from objnet.transforms.jit import jit

__all__ = ["GenerationMixin"]


class GenerationMixin:
    """``generate`` for a causal language model with ``make_cache``."""

    training: bool

    def generate(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array | None = None,
        *,
        max_new_tokens: int = 20,
        do_sample: bool = False,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        eos_token_id: int | Sequence[int] | None = None,
        pad_token_id: int | None = None,
    ) -> jax.Array:
        """The prompts followed by ``max_new_tokens`` tokens, (B, S + max_new_tokens) of the ids' dtype.

        One program serves every prompt of a shape.  Unlike transformers' method of this name the result has always the
        full length: what follows a row's end is padding.

        Args:
            input_ids: (B, S), padded on the left if at all.
            attention_mask: (B, S), 0 where the prompt is padding.
            max_new_tokens: how many tokens to add.
            do_sample: draw from the distribution, with a key of objnet's stream; otherwise take the likeliest token.
            temperature: divides the logits before drawing.
            top_k: draw from this many likeliest tokens.
            top_p: draw from the fewest likeliest tokens that hold this much probability.
            eos_token_id: the token or tokens that end a row.
            pad_token_id: what follows it; the first ``eos_token_id`` if None.

        Raises:
            RuntimeError: the model is in training mode.
            ValueError: an argument out of range, or more tokens than positions.
        """
        if self.training:
            raise RuntimeError("generate needs the model in evaluation mode: call model.eval() first")
        input_ids = jnp.asarray(input_ids)
        if input_ids.ndim != 2 or not input_ids.shape[1]:
            raise ValueError(f"input_ids must have the shape (B, S) with S > 0, got {input_ids.shape}")
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be positive, got {max_new_tokens}")
        _check_sampling(temperature, top_k, top_p)
        ends = () if eos_token_id is None else tuple(int(end) for end in np.atleast_1d(eos_token_id))
        pad = pad_token_id if pad_token_id is not None else ends[0] if ends else 0
        mask = jnp.ones_like(input_ids) if attention_mask is None else jnp.asarray(attention_mask)
        if mask.shape != input_ids.shape:
            raise ValueError(f"attention_mask must have the shape {input_ids.shape} of input_ids, got {mask.shape}")
        if is_concrete(mask) and bool(np.any(np.diff(host(mask).astype(np.int8), axis=1) < 0)):
            raise ValueError("the prompts must be padded on the left: attention_mask has zeros behind ones")
        options = (float(temperature), top_k, top_p) if do_sample else (1.0, None, None)
        return _generate(self, input_ids, mask.astype(jnp.bool_), max_new_tokens, do_sample, *options, ends, pad)


@functools.partial(jit, static_argnames=("max_new_tokens", "do_sample", "top_k", "ends"))
def _generate(
    model: Any,
    input_ids: jax.Array,
    mask: jax.Array,
    max_new_tokens: int,
    do_sample: bool,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    ends: tuple[int, ...],
    pad: int,
) -> jax.Array:
    batch, prompt = input_ids.shape
    dtype = input_ids.dtype
    key = next_rng_key() if do_sample else None
    lengths = jnp.sum(mask, axis=1, dtype=jnp.int32)
    mask = jnp.pad(mask, ((0, 0), (0, max_new_tokens - 1)), constant_values=True)  # a place for all but the last token

    def follow(tokens: jax.Array, position_ids: jax.Array, cache: KVCache) -> tuple[jax.Array, KVCache]:
        output = model(tokens, cache=cache, attention_mask=mask, position_ids=position_ids, logits_to_keep=1)
        return output.logits[:, -1].astype(jnp.float32), output.cache

    def choose(logits: jax.Array, ended: jax.Array, step: Any) -> tuple[jax.Array, jax.Array]:
        if key is None:
            token = jnp.argmax(logits, -1)
        else:
            token = jax.random.categorical(jax.random.fold_in(key, step), _likeliest(logits / temperature, top_k, top_p))
        token = jnp.where(ended, pad, token).astype(dtype)
        return token, ended | jnp.isin(token, jnp.asarray(ends, dtype))

    def proceed(carry: Any) -> Any:
        step, tokens, token, ended, cache = carry
        logits, cache = follow(token[:, None], (lengths + step - 1)[:, None], cache)
        token, ended = choose(logits, ended, step)
        return step + 1, lax.dynamic_update_slice(tokens, token[:, None], (0, step)), token, ended, cache

    def goes_on(carry: Any) -> jax.Array:
        step, _, _, ended, _ = carry
        return (step < max_new_tokens) & ~jnp.all(ended)

    position_ids = jnp.maximum(jnp.cumsum(mask[:, :prompt], axis=1, dtype=jnp.int32) - 1, 0)
    logits, cache = follow(input_ids, position_ids, model.make_cache(batch, prompt + max_new_tokens - 1))
    token, ended = choose(logits, jnp.zeros(batch, bool), 0)
    tokens = jnp.full((batch, max_new_tokens), pad, dtype).at[:, 0].set(token)
    first = (jnp.ones((), jnp.int32), tokens, token, ended, cache)
    return jnp.concatenate([input_ids, lax.while_loop(goes_on, proceed, first)[1]], axis=1)


def _likeliest(logits: jax.Array, top_k: int | None, top_p: float | None) -> jax.Array:
    """Logits with minus infinity for what may not be drawn."""
    if top_k is not None:
        least = lax.top_k(logits, min(top_k, logits.shape[-1]))[0][..., -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    if top_p is not None:
        falling = jnp.sort(logits, axis=-1, descending=True)
        probabilities = jax.nn.softmax(falling)
        kept = jnp.cumsum(probabilities, -1) - probabilities < top_p  # those likelier hold less: the first always stays
        least = jnp.min(jnp.where(kept, falling, jnp.inf), axis=-1, keepdims=True)
        logits = jnp.where(logits < least, -jnp.inf, logits)
    return logits


def _check_sampling(temperature: float, top_k: int | None, top_p: float | None) -> None:
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}; for the likeliest token use do_sample=False")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be positive, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be in (0, 1], got {top_p}")
