"""What the models return: named tuples with transformers' field names; being tuples they are pytrees.

A field that was not asked for (a loss without labels, a cache without one given) is None.
"""

from __future__ import annotations

from typing import NamedTuple

import jax

from objnet.models._cache import KVCache

__all__ = ["BaseModelOutput", "BaseModelOutputWithPooling", "CausalLMOutput", "LogitsOutput"]


class BaseModelOutput(NamedTuple):
    """``last_hidden_state`` (B, S, hidden_size), and the cache that follows."""

    last_hidden_state: jax.Array
    cache: KVCache | None = None


class BaseModelOutputWithPooling(NamedTuple):
    """``last_hidden_state`` (B, S, hidden_size) and ``pooler_output`` (B, hidden_size)."""

    last_hidden_state: jax.Array
    pooler_output: jax.Array | None = None


class CausalLMOutput(NamedTuple):
    """``logits`` (B, S, vocab_size), the 0-d ``loss``, and the cache that follows."""

    logits: jax.Array
    loss: jax.Array | None = None
    cache: KVCache | None = None


class LogitsOutput(NamedTuple):
    """``logits`` and the 0-d ``loss``."""

    logits: jax.Array
    loss: jax.Array | None = None
