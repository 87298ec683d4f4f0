"""GPT-2 (Radford et al. 2019) with the keys, configuration and initial values of transformers' ``GPT2Model``.

Token ids (B, S) of int32 or int64 go in.  The linear layers keep OpenAI's layout, a weight of (in, out), and the head is
the token embedding.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import jax
import numpy as np

import objnet.nn.functional as F
from objnet import nn
from objnet.models._cache import KVCache, LayerCache, advanced, check_room, layer_of, make_cache, store
from objnet.models._config import Config, check_heads
from objnet.models._generation import GenerationMixin
from objnet.models._outputs import BaseModelOutput, CausalLMOutput
from objnet.models._pretrained import PreTrainedModel
from objnet.models._transformer import activation, causal_lm_loss, causal_mask, embedded, merge_heads, positions, split_heads

__all__ = ["Conv1D", "GPT2Config", "GPT2LMHeadModel", "GPT2Model"]


@dataclasses.dataclass(frozen=True)
class GPT2Config(Config):
    """The fields of transformers' ``GPT2Config`` that shape the model; the defaults are the 124 M model's."""

    model_type: ClassVar[str] = "gpt2"
    aliases: ClassVar[dict[str, str]] = {
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    }
    supported: ClassVar[dict[str, tuple[Any, ...]]] = {"add_cross_attention": (False,), "reorder_and_upcast_attn": (False,)}

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None
    activation_function: str = "gelu_new"
    resid_pdrop: float = 0.1
    embd_pdrop: float = 0.1
    attn_pdrop: float = 0.1
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    tie_word_embeddings: bool = True

    def __post_init__(self) -> None:
        check_heads(self.n_embd, self.n_head)


class Conv1D(nn.Module):
    """``x @ weight + bias``: a linear layer whose weight is (nx, nf), as OpenAI stored it; (..., nx) to (..., nf)."""

    weight: Any
    bias: Any

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf = nf
        self.nx = nx
        self.weight = nn.Parameter(np.zeros((nx, nf), np.float32))
        self.bias = nn.Parameter(np.zeros(nf, np.float32))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, x: jax.Array) -> jax.Array:
        return F.linear(x, self.weight.T, self.bias)

    def extra_repr(self) -> str:
        return f"nf={self.nf}, nx={self.nx}"


class GPT2Attention(nn.Module):
    """Causal self-attention with one projection for queries, keys and values."""

    def __init__(self, config: GPT2Config, layer_idx: int) -> None:
        super().__init__()
        self.head_dim = config.n_embd // config.n_head
        self.scaling = self.head_dim**-0.5 if config.scale_attn_weights else 1.0
        if config.scale_attn_by_inverse_layer_idx:
            self.scaling /= layer_idx + 1
        self.c_attn = Conv1D(3 * config.n_embd, config.n_embd)
        self.c_proj = Conv1D(config.n_embd, config.n_embd)
        self.attn_dropout = nn.Dropout(config.attn_pdrop)
        self.resid_dropout = nn.Dropout(config.resid_pdrop)

    def forward(
        self, x: jax.Array, mask: jax.Array | None, is_causal: bool, cache: LayerCache | None
    ) -> tuple[jax.Array, LayerCache | None]:
        width = x.shape[-1]
        qkv = self.c_attn(x)
        q, k, v = (split_heads(qkv[..., i * width : (i + 1) * width], self.head_dim) for i in range(3))
        k, v, cache = store(cache, k, v)
        dropout = self.attn_dropout.p if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal, scale=self.scaling)
        return self.resid_dropout(self.c_proj(merge_heads(x))), cache


class GPT2MLP(nn.Module):
    """Widen, activate, narrow, drop."""

    def __init__(self, intermediate_size: int, config: GPT2Config) -> None:
        super().__init__()
        self.c_fc = Conv1D(intermediate_size, config.n_embd)
        self.c_proj = Conv1D(config.n_embd, intermediate_size)
        self.act = activation(config.activation_function)
        self.dropout = nn.Dropout(config.resid_pdrop)

    def forward(self, x: jax.Array) -> jax.Array:
        return self.dropout(self.c_proj(self.act(self.c_fc(x))))


class GPT2Block(nn.Module):
    """Attention and a perceptron, each after a normalisation and around a shortcut."""

    def __init__(self, config: GPT2Config, layer_idx: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = GPT2Attention(config, layer_idx)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = GPT2MLP(4 * config.n_embd if config.n_inner is None else config.n_inner, config)

    def forward(
        self, x: jax.Array, mask: jax.Array | None, is_causal: bool, cache: LayerCache | None
    ) -> tuple[jax.Array, LayerCache | None]:
        attended, cache = self.attn(self.ln_1(x), mask, is_causal, cache)
        x = x + attended
        return x + self.mlp(self.ln_2(x)), cache


class GPT2PreTrainedModel(PreTrainedModel):
    """What the GPT-2 models share."""

    config_class = GPT2Config
    base_model_prefix = "transformer"
    constant = r"(^|\.)attn\.(bias|masked_bias)$"

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, Conv1D):
            nn.init.normal_(module.weight, mean=0.0, std=std)
            nn.init.zeros_(module.bias)
        elif isinstance(module, GPT2Attention | GPT2MLP):  # what enters the residual stream, twice a layer
            nn.init.normal_(module.c_proj.weight, mean=0.0, std=std / math.sqrt(2 * self.config.n_layer))


class GPT2Model(GPT2PreTrainedModel):
    """The decoder without a head (transformers' ``GPT2Model``)."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        config = self.config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.drop = nn.Dropout(config.embd_pdrop)
        self.h = nn.ModuleList([GPT2Block(config, layer_idx=i) for i in range(config.n_layer)])
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self._initialize_weights()

    def make_cache(self, batch_size: int, max_length: int) -> KVCache:
        """An empty cache for ``max_length`` tokens.

        Raises:
            ValueError: there are fewer positions.
        """
        config = self.config
        if max_length > config.n_positions:
            raise ValueError(f"max_length={max_length} exceeds the model's {config.n_positions} positions")
        head_dim = config.n_embd // config.n_head
        return make_cache(config.n_layer, batch_size, config.n_head, max_length, head_dim, self.wte.weight.dtype)

    def forward(
        self,
        input_ids: jax.Array | None = None,
        cache: KVCache | None = None,
        attention_mask: jax.Array | None = None,
        token_type_ids: jax.Array | None = None,
        position_ids: jax.Array | None = None,
        inputs_embeds: jax.Array | None = None,
    ) -> BaseModelOutput:
        """The hidden states (B, S, n_embd).

        Args:
            input_ids: (B, S); or give ``inputs_embeds``, (B, S, n_embd), in their place.
            cache: the past, from :meth:`make_cache` or the last call.
            attention_mask: (B, S), with a cache (B, max_length); 0 where a token is padding. See
                :func:`~objnet.models._transformer.attention_mask_4d` for others.
            token_type_ids: (B, S), rows of the token embedding to be added.
            position_ids: (B, S); by default those that follow the cache's past.

        Raises:
            ValueError: both or none of the inputs, shapes that do not fit.
            IndexError: in eager code, ids out of range, or a full cache.
        """
        x = embedded(self.wte, input_ids, inputs_embeds)
        batch, steps = x.shape[:2]
        if cache is not None:
            check_room(cache, batch, steps)
        x = x + self.wpe(positions(position_ids, steps, cache))
        if token_type_ids is not None:
            x = x + self.wte(token_type_ids)
        x = self.drop(x)
        mask, is_causal = causal_mask(attention_mask, batch, steps, cache)
        layers = []
        for index, block in enumerate(self.h):
            x, layer = block(x, mask, is_causal, layer_of(cache, index))
            layers.append(layer)
        return BaseModelOutput(self.ln_f(x), None if cache is None else advanced(cache, layers, steps))


class GPT2LMHeadModel(GenerationMixin, GPT2PreTrainedModel):
    """The decoder and a linear head, tied to the token embedding (transformers' ``GPT2LMHeadModel``)."""

    tied = {"lm_head.weight": "transformer.wte.weight"}

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        config = self.config
        self.transformer = GPT2Model(config)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self._initialize_weights()
        if config.tie_word_embeddings:
            self.lm_head.weight = self.transformer.wte.weight

    def make_cache(self, batch_size: int, max_length: int) -> KVCache:
        """An empty cache; see :meth:`GPT2Model.make_cache`."""
        return self.transformer.make_cache(batch_size, max_length)

    def forward(
        self,
        input_ids: jax.Array | None = None,
        cache: KVCache | None = None,
        attention_mask: jax.Array | None = None,
        token_type_ids: jax.Array | None = None,
        position_ids: jax.Array | None = None,
        inputs_embeds: jax.Array | None = None,
        labels: jax.Array | None = None,
        logits_to_keep: int = 0,
    ) -> CausalLMOutput:
        """Logits (B, S, vocab_size), and the loss of the next tokens if there are ``labels``.

        ``labels`` (B, S) are not shifted, and -100 does not count; ``logits_to_keep`` computes only the last ones. Other
        arguments and errors as :meth:`GPT2Model.forward`.
        """
        hidden, cache = self.transformer(input_ids, cache, attention_mask, token_type_ids, position_ids, inputs_embeds)
        logits = self.lm_head(hidden[:, -logits_to_keep:])
        return CausalLMOutput(logits, causal_lm_loss(logits, labels), cache)
