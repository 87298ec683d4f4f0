"""BERT (Devlin et al. 2018) with the keys, configuration and initial values of transformers' ``BertModel``.

Token ids (B, S) of int32 or int64 go in.  The encoder only: decoders and cross-attention are refused.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

import objnet.nn.functional as F
from objnet import nn
from objnet.models._config import Config, check_heads
from objnet.models._outputs import BaseModelOutputWithPooling, LogitsOutput
from objnet.models._pretrained import PreTrainedModel
from objnet.models._transformer import (
    activation,
    attention_mask_4d,
    check_problem_type,
    classification_loss,
    embedded,
    merge_heads,
    positions,
    split_heads,
)

__all__ = ["BertConfig", "BertForMaskedLM", "BertForSequenceClassification", "BertModel"]


@dataclasses.dataclass(frozen=True)
class BertConfig(Config):
    """The fields of transformers' ``BertConfig`` that shape the model; the defaults are the base model's."""

    model_type: ClassVar[str] = "bert"
    supported: ClassVar[dict[str, tuple[Any, ...]]] = {
        "is_decoder": (False,),
        "add_cross_attention": (False,),
        "position_embedding_type": ("absolute", None),
    }

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    classifier_dropout: float | None = None
    tie_word_embeddings: bool = True
    num_labels: int = 2
    problem_type: str | None = None

    def __post_init__(self) -> None:
        check_heads(self.hidden_size, self.num_attention_heads)
        check_problem_type(self.problem_type)


class BertEmbeddings(nn.Module):
    """The sum of a token's, its position's and its segment's embedding, normalised."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        input_ids: jax.Array | None,
        token_type_ids: jax.Array | None,
        position_ids: jax.Array | None,
        inputs_embeds: jax.Array | None,
    ) -> jax.Array:
        x = embedded(self.word_embeddings, input_ids, inputs_embeds)
        if token_type_ids is None:
            token_type_ids = jnp.zeros(x.shape[:2], jnp.int32)
        x = x + self.token_type_embeddings(token_type_ids)
        x = x + self.position_embeddings(positions(position_ids, x.shape[1], None))
        return self.dropout(self.LayerNorm(x))


class BertSelfAttention(nn.Module):
    """Attention of every token to every token that is no padding."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.attention_head_size = config.hidden_size // config.num_attention_heads
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)

    def forward(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        q, k, v = (split_heads(layer(x), self.attention_head_size) for layer in (self.query, self.key, self.value))
        dropout = self.dropout.p if self.training else 0.0
        return merge_heads(F.scaled_dot_product_attention(q, k, v, mask, dropout))


class BertOutput(nn.Module):
    """A linear layer, dropout, and the normalised sum with the shortcut."""

    def __init__(self, in_features: int, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(in_features, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: jax.Array, shortcut: jax.Array) -> jax.Array:
        return self.LayerNorm(self.dropout(self.dense(x)) + shortcut)


class BertAttention(nn.Module):
    """Self-attention and its output."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.self = BertSelfAttention(config)
        self.output = BertOutput(config.hidden_size, config)

    def forward(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        return self.output(self.self(x, mask), x)


class BertIntermediate(nn.Module):
    """The wide layer."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.intermediate_act_fn = activation(config.hidden_act)

    def forward(self, x: jax.Array) -> jax.Array:
        return self.intermediate_act_fn(self.dense(x))


class BertLayer(nn.Module):
    """Attention and a perceptron, each normalised after its shortcut."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.attention = BertAttention(config)
        self.intermediate = BertIntermediate(config)
        self.output = BertOutput(config.intermediate_size, config)

    def forward(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        x = self.attention(x, mask)
        return self.output(self.intermediate(x), x)


class BertEncoder(nn.Module):
    """The layers."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList([BertLayer(config) for _ in range(config.num_hidden_layers)])

    def forward(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        for layer in self.layer:
            x = layer(x, mask)
        return x


class BertPooler(nn.Module):
    """The first token, through a linear layer and tanh."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = nn.Tanh()

    def forward(self, x: jax.Array) -> jax.Array:
        return self.activation(self.dense(x[:, 0]))


class BertPredictionHeadTransform(nn.Module):
    """A linear layer, activation and normalisation before the prediction of tokens."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.transform_act_fn = activation(config.hidden_act)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x: jax.Array) -> jax.Array:
        return self.LayerNorm(self.transform_act_fn(self.dense(x)))


class BertLMPredictionHead(nn.Module):
    """Logits of tokens; the decoder's bias has a second name, ``bias``."""

    bias: Any

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.transform = BertPredictionHeadTransform(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size, bias=True)
        self.bias = nn.Parameter(np.zeros(config.vocab_size, np.float32))

    def forward(self, x: jax.Array) -> jax.Array:
        return self.decoder(self.transform(x))


class BertOnlyMLMHead(nn.Module):
    """The head of masked language models, named as transformers names it."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.predictions = BertLMPredictionHead(config)

    def forward(self, x: jax.Array) -> jax.Array:
        return self.predictions(x)


class BertPreTrainedModel(PreTrainedModel):
    """What the BERT models share."""

    config_class = BertConfig
    base_model_prefix = "bert"
    constant = r"embeddings\.(position_ids|token_type_ids)$"
    renamed = ((r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias"))


class BertModel(BertPreTrainedModel):
    """The encoder (transformers' ``BertModel``), with or without the pooler."""

    def __init__(self, config: Any, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.embeddings = BertEmbeddings(self.config)
        self.encoder = BertEncoder(self.config)
        self.pooler = BertPooler(self.config) if add_pooling_layer else None
        self._initialize_weights()

    def forward(
        self,
        input_ids: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
        token_type_ids: jax.Array | None = None,
        position_ids: jax.Array | None = None,
        inputs_embeds: jax.Array | None = None,
    ) -> BaseModelOutputWithPooling:
        """The hidden states (B, S, hidden_size) and the pooled first one (B, hidden_size).

        Args:
            input_ids: (B, S); or give ``inputs_embeds``, (B, S, hidden_size), in their place.
            attention_mask: (B, S), 0 where a token is padding; others see
                :func:`~objnet.models._transformer.attention_mask_4d`.
            token_type_ids: (B, S), the segment of every token; the first by default.
            position_ids: (B, S); counted from 0 by default.

        Raises:
            ValueError: both or none of the inputs, a mask of another shape.
            IndexError: in eager code, ids out of range.
        """
        x = self.embeddings(input_ids, token_type_ids, position_ids, inputs_embeds)
        x = self.encoder(x, attention_mask_4d(attention_mask, *x.shape[:2]))
        return BaseModelOutputWithPooling(x, None if self.pooler is None else self.pooler(x))


class BertForMaskedLM(BertPreTrainedModel):
    """The encoder and a head that predicts tokens (transformers' ``BertForMaskedLM``)."""

    tied = {
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.bert = BertModel(self.config, add_pooling_layer=False)
        self.cls = BertOnlyMLMHead(self.config)
        self._initialize_weights()
        if self.config.tie_word_embeddings:
            head = self.cls.predictions
            head.decoder.weight = self.bert.embeddings.word_embeddings.weight
            head.decoder.bias = head.bias

    def forward(
        self,
        input_ids: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
        token_type_ids: jax.Array | None = None,
        position_ids: jax.Array | None = None,
        inputs_embeds: jax.Array | None = None,
        labels: jax.Array | None = None,
    ) -> LogitsOutput:
        """Logits (B, S, vocab_size), and the mean cross-entropy of ``labels`` (B, S) that are not -100.

        Other arguments and errors as :meth:`BertModel.forward`.
        """
        hidden = self.bert(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).last_hidden_state
        logits = self.cls(hidden)
        if labels is None:
            return LogitsOutput(logits)
        return LogitsOutput(logits, F.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)))


class BertForSequenceClassification(BertPreTrainedModel):
    """The encoder and a linear head on the pooled token (transformers' ``BertForSequenceClassification``)."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        config = self.config
        self.num_labels = config.num_labels
        self.bert = BertModel(config)
        drop = config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout
        self.dropout = nn.Dropout(drop)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self._initialize_weights()

    def forward(
        self,
        input_ids: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
        token_type_ids: jax.Array | None = None,
        position_ids: jax.Array | None = None,
        inputs_embeds: jax.Array | None = None,
        labels: jax.Array | None = None,
    ) -> LogitsOutput:
        """Logits (B, num_labels), and the loss of ``labels``: classes (B,), or floats for regression and several labels.

        Other arguments and errors as :meth:`BertModel.forward`.
        """
        pooled = self.bert(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds).pooler_output
        logits = self.classifier(self.dropout(pooled))
        return LogitsOutput(logits, classification_loss(logits, labels, self.config.problem_type))
