"""Llama (Touvron et al. 2023) with the keys, configuration and initial values of transformers' ``LlamaModel``.

RMS normalisation, rotary positions, grouped queries and a gated perceptron; token ids (B, S) of int32 or int64 go in.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import numpy as np

import objnet.nn.functional as F
from objnet import nn
from objnet.models._cache import KVCache, LayerCache, advanced, check_room, layer_of, make_cache, store
from objnet.models._config import Config
from objnet.models._generation import GenerationMixin
from objnet.models._outputs import BaseModelOutput, CausalLMOutput
from objnet.models._pretrained import PreTrainedModel
from objnet.models._rotary import RopeParameters, rotary, rotate
from objnet.models._transformer import activation, causal_lm_loss, causal_mask, embedded, merge_heads, positions, split_heads

__all__ = ["LlamaConfig", "LlamaForCausalLM", "LlamaModel"]


@dataclasses.dataclass(frozen=True)
class LlamaConfig(Config):
    """The fields of transformers' ``LlamaConfig`` that shape the model; the defaults are the 7 B model's.

    ``rope_parameters`` may be a dict; the older ``rope_theta`` and ``rope_scaling`` of a dict given to
    :meth:`from_config` go into it.
    """

    model_type: ClassVar[str] = "llama"
    supported: ClassVar[dict[str, tuple[Any, ...]]] = {"pretraining_tp": (1, None), "sliding_window": (None,)}

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: Any = None  # num_attention_heads if None
    hidden_act: str = "silu"
    max_position_embeddings: int = 2048
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    pad_token_id: int | None = None
    tie_word_embeddings: bool = False
    rope_parameters: Any = None
    attention_bias: bool = False
    attention_dropout: float = 0.0
    mlp_bias: bool = False
    head_dim: Any = None  # hidden_size / num_attention_heads if None

    def __post_init__(self) -> None:
        complete: dict[str, Any] = {
            "num_key_value_heads": self.num_key_value_heads or self.num_attention_heads,
            "head_dim": self.head_dim or self.hidden_size // self.num_attention_heads,
            "rope_parameters": RopeParameters.of(self.rope_parameters, self.max_position_embeddings),
        }
        for name, value in complete.items():
            object.__setattr__(self, name, value)
        if self.num_attention_heads % complete["num_key_value_heads"]:
            raise ValueError(
                f"num_attention_heads ({self.num_attention_heads}) must be a multiple of num_key_value_heads "
                f"({self.num_key_value_heads})"
            )

    @classmethod
    def _values(cls, config: Any) -> dict[str, Any]:
        values = super()._values(config)
        if not values.get("rope_parameters"):
            old = values.get("rope_scaling") or {}
            theta = {} if values.get("rope_theta") is None else {"rope_theta": values["rope_theta"]}
            values["rope_parameters"] = {**old, **theta}
        return values


class LlamaRMSNorm(nn.Module):
    """Root mean square 1 over the last dimension, in float32, then ``* weight`` in the input's dtype."""

    weight: Any

    def __init__(self, hidden_size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(np.ones(hidden_size, np.float32))
        self.variance_epsilon = eps

    def forward(self, x: jax.Array) -> jax.Array:
        return self.weight * F.rms_norm(x, (x.shape[-1],), eps=self.variance_epsilon)

    def extra_repr(self) -> str:
        return f"{self.weight.shape}, eps={self.variance_epsilon}"


class LlamaAttention(nn.Module):
    """Causal self-attention with rotary positions; several heads of queries share one of keys and values."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        size, bias = config.hidden_size, config.attention_bias
        self.head_dim = config.head_dim
        self.attention_dropout = config.attention_dropout
        self.q_proj = nn.Linear(size, config.num_attention_heads * self.head_dim, bias=bias)
        self.k_proj = nn.Linear(size, config.num_key_value_heads * self.head_dim, bias=bias)
        self.v_proj = nn.Linear(size, config.num_key_value_heads * self.head_dim, bias=bias)
        self.o_proj = nn.Linear(config.num_attention_heads * self.head_dim, size, bias=bias)

    def forward(
        self,
        x: jax.Array,
        angles: tuple[jax.Array, jax.Array],
        mask: jax.Array | None,
        is_causal: bool,
        cache: LayerCache | None,
    ) -> tuple[jax.Array, LayerCache | None]:
        q, k, v = (split_heads(layer(x), self.head_dim) for layer in (self.q_proj, self.k_proj, self.v_proj))
        q, k = rotate(q, *angles), rotate(k, *angles)
        k, v, cache = store(cache, k, v)
        dropout = self.attention_dropout if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal, enable_gqa=True)
        return self.o_proj(merge_heads(x)), cache


class LlamaMLP(nn.Module):
    """A perceptron whose hidden layer is gated (Shazeer 2020)."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)
        self.act_fn = activation(config.hidden_act)

    def forward(self, x: jax.Array) -> jax.Array:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class LlamaDecoderLayer(nn.Module):
    """Attention and the perceptron, each after a normalisation and around a shortcut."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.self_attn = LlamaAttention(config)
        self.mlp = LlamaMLP(config)
        self.input_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, x: jax.Array, *rest: Any) -> tuple[jax.Array, LayerCache | None]:
        attended, cache = self.self_attn(self.input_layernorm(x), *rest)
        x = x + attended
        return x + self.mlp(self.post_attention_layernorm(x)), cache


class LlamaPreTrainedModel(PreTrainedModel):
    """What the Llama models share."""

    config_class = LlamaConfig
    base_model_prefix = "model"
    constant = r"rotary_emb\.inv_freq$"


class LlamaModel(LlamaPreTrainedModel):
    """The decoder without a head (transformers' ``LlamaModel``)."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        config = self.config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.layers = nn.ModuleList([LlamaDecoderLayer(config) for _ in range(config.num_hidden_layers)])
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self._initialize_weights()

    def make_cache(self, batch_size: int, max_length: int) -> KVCache:
        """An empty cache for ``max_length`` tokens."""
        config, dtype = self.config, self.embed_tokens.weight.dtype
        heads = config.num_key_value_heads
        return make_cache(config.num_hidden_layers, batch_size, heads, max_length, config.head_dim, dtype)

    def forward(
        self,
        input_ids: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
        position_ids: jax.Array | None = None,
        cache: KVCache | None = None,
        inputs_embeds: jax.Array | None = None,
    ) -> BaseModelOutput:
        """The hidden states (B, S, hidden_size).

        Args:
            input_ids: (B, S); or give ``inputs_embeds``, (B, S, hidden_size), in their place.
            attention_mask: (B, S), with a cache (B, max_length); 0 where a token is padding. See
                :func:`~objnet.models._transformer.attention_mask_4d` for others.
            position_ids: (B, S); by default those that follow the cache's past.
            cache: the past, from :meth:`make_cache` or the last call.

        Raises:
            ValueError: both or none of the inputs, shapes that do not fit.
            IndexError: in eager code, ids out of range, or a full cache.
        """
        x = embedded(self.embed_tokens, input_ids, inputs_embeds)
        batch, steps = x.shape[:2]
        if cache is not None:
            check_room(cache, batch, steps)
        angles = rotary(positions(position_ids, steps, cache), self.config.head_dim, self.config.rope_parameters, x.dtype)
        mask, is_causal = causal_mask(attention_mask, batch, steps, cache)
        layers = []
        for index, decoder_layer in enumerate(self.layers):
            x, layer = decoder_layer(x, angles, mask, is_causal, layer_of(cache, index))
            layers.append(layer)
        return BaseModelOutput(self.norm(x), None if cache is None else advanced(cache, layers, steps))


class LlamaForCausalLM(GenerationMixin, LlamaPreTrainedModel):
    """The decoder and a linear head (transformers' ``LlamaForCausalLM``)."""

    tied = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        config = self.config
        self.model = LlamaModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self._initialize_weights()
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def make_cache(self, batch_size: int, max_length: int) -> KVCache:
        """An empty cache for ``max_length`` tokens."""
        return self.model.make_cache(batch_size, max_length)

    def forward(
        self,
        input_ids: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
        position_ids: jax.Array | None = None,
        cache: KVCache | None = None,
        inputs_embeds: jax.Array | None = None,
        labels: jax.Array | None = None,
        logits_to_keep: int = 0,
    ) -> CausalLMOutput:
        """Logits (B, S, vocab_size), and the loss of the next tokens if there are ``labels``.

        ``labels`` (B, S) are not shifted, and -100 does not count; ``logits_to_keep`` computes only the last ones. Other
        arguments and errors as :meth:`LlamaModel.forward`.
        """
        hidden, cache = self.model(input_ids, attention_mask, position_ids, cache, inputs_embeds)
        logits = self.lm_head(hidden[:, -logits_to_keep:])
        return CausalLMOutput(logits, causal_lm_loss(logits, labels), cache)
