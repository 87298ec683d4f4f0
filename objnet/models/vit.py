"""The vision transformer (Dosovitskiy et al. 2020) with the keys and configuration of transformers' ``ViTModel``.

Its twin with torchvision's keys is :class:`objnet.models.VisionTransformer`.  Images are (B, num_channels, H, W) floats.
Checkpoints from before transformers 5 (``encoder.layer.0.attention.attention.query``) load too.
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
    merge_heads,
    split_heads,
)

__all__ = ["ViTConfig", "ViTForImageClassification", "ViTModel"]


@dataclasses.dataclass(frozen=True)
class ViTConfig(Config):
    """The fields of transformers' ``ViTConfig`` that shape the model; the defaults are the base model's, patch 16."""

    model_type: ClassVar[str] = "vit"

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    image_size: Any = 224  # a number or two; kept as two
    patch_size: Any = 16
    num_channels: int = 3
    qkv_bias: bool = True
    pooler_output_size: Any = None  # hidden_size if None
    pooler_act: str = "tanh"
    num_labels: int = 2
    problem_type: str | None = None

    def __post_init__(self) -> None:
        check_heads(self.hidden_size, self.num_attention_heads)
        check_problem_type(self.problem_type)
        for name in ("image_size", "patch_size"):
            size = getattr(self, name)
            object.__setattr__(self, name, (size, size) if isinstance(size, int) else tuple(size))
        object.__setattr__(self, "pooler_output_size", self.pooler_output_size or self.hidden_size)


class ViTPatchEmbeddings(nn.Module):
    """Patches as vectors: (B, num_channels, H, W) to (B, patches, hidden_size)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.num_channels = config.num_channels
        self.num_patches = (config.image_size[0] // config.patch_size[0]) * (config.image_size[1] // config.patch_size[1])
        patch = config.patch_size
        self.projection = nn.Conv2d(config.num_channels, config.hidden_size, kernel_size=patch, stride=patch)

    def forward(self, pixel_values: jax.Array) -> jax.Array:
        x = self.projection(pixel_values)
        return x.reshape(*x.shape[:2], -1).swapaxes(1, 2)


class ViTEmbeddings(nn.Module):
    """The class token and the patches, each with its position's embedding."""

    cls_token: Any
    mask_token: Any
    position_embeddings: Any

    def __init__(self, config: ViTConfig, use_mask_token: bool = False) -> None:
        super().__init__()
        self.image_size = config.image_size
        # transformers draws and then overwrites these two: the numbers are used up here too
        self.cls_token = nn.init.normal_(nn.Parameter(np.zeros((1, 1, config.hidden_size), np.float32)))
        mask_token = nn.Parameter(np.zeros((1, 1, config.hidden_size), np.float32)) if use_mask_token else None
        self.register_parameter("mask_token", mask_token)
        self.patch_embeddings = ViTPatchEmbeddings(config)
        shape = (1, self.patch_embeddings.num_patches + 1, config.hidden_size)
        self.position_embeddings = nn.init.normal_(nn.Parameter(np.zeros(shape, np.float32)))
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, pixel_values: jax.Array, bool_masked_pos: jax.Array | None = None) -> jax.Array:
        if pixel_values.shape[-2:] != self.image_size:
            raise ValueError(f"Input image size {pixel_values.shape[-2:]} doesn't match model {self.image_size}.")
        x = self.patch_embeddings(pixel_values)
        if bool_masked_pos is not None:
            if self.mask_token is None:
                raise ValueError("bool_masked_pos needs a model built with use_mask_token=True")
            x = jnp.where(jnp.asarray(bool_masked_pos).astype(jnp.bool_)[..., None], self.mask_token, x)
        first = jnp.broadcast_to(self.cls_token, (x.shape[0], 1, x.shape[2]))
        return self.dropout(jnp.concatenate([first, x], axis=1) + self.position_embeddings)


class ViTAttention(nn.Module):
    """Attention of every patch to every patch."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.head_dim = size // config.num_attention_heads
        self.attention_dropout = config.attention_probs_dropout_prob
        self.q_proj = nn.Linear(size, size, bias=config.qkv_bias)
        self.k_proj = nn.Linear(size, size, bias=config.qkv_bias)
        self.v_proj = nn.Linear(size, size, bias=config.qkv_bias)
        self.o_proj = nn.Linear(size, size)

    def forward(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        q, k, v = (split_heads(layer(x), self.head_dim) for layer in (self.q_proj, self.k_proj, self.v_proj))
        dropout = self.attention_dropout if self.training else 0.0
        return self.o_proj(merge_heads(F.scaled_dot_product_attention(q, k, v, mask, dropout)))


class ViTMLP(nn.Module):
    """Widen, activate, narrow."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.activation_fn = activation(config.hidden_act)
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: jax.Array) -> jax.Array:
        return self.fc2(self.activation_fn(self.fc1(x)))


class ViTLayer(nn.Module):
    """Attention and a perceptron, each after a normalisation and around a shortcut."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.attention = ViTAttention(config)
        self.layernorm_before = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layernorm_after = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = ViTMLP(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        x = x + self.dropout(self.attention(self.layernorm_before(x), mask))
        return x + self.dropout(self.mlp(self.layernorm_after(x)))


class ViTPooler(nn.Module):
    """The class token, through a linear layer and an activation."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.pooler_output_size)
        self.activation = activation(config.pooler_act)

    def forward(self, x: jax.Array) -> jax.Array:
        return self.activation(self.dense(x[:, 0]))


class ViTPreTrainedModel(PreTrainedModel):
    """What the ViT models share."""

    config_class = ViTConfig
    base_model_prefix = "vit"
    renamed = (
        (r"(^|\.)encoder\.layer\.", r"\1layers."),
        (r"attention\.attention\.(query|key|value)\.", lambda found: f"attention.{found[1][0]}_proj."),
        (r"attention\.output\.dense\.", "attention.o_proj."),
        (r"(layers\.\d+)\.intermediate\.dense\.", r"\1.mlp.fc1."),
        (r"(layers\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    )

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, ViTEmbeddings):
            for parameter in (module.position_embeddings, module.cls_token):
                nn.init.trunc_normal_(parameter, mean=0.0, std=self.config.initializer_range)


class ViTModel(ViTPreTrainedModel):
    """The encoder (transformers' ``ViTModel``), with or without the pooler and a token for masked patches."""

    def __init__(self, config: Any, add_pooling_layer: bool = True, use_mask_token: bool = False) -> None:
        super().__init__(config)
        config = self.config
        self.embeddings = ViTEmbeddings(config, use_mask_token)
        self.layers = nn.ModuleList([ViTLayer(config) for _ in range(config.num_hidden_layers)])
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.pooler = ViTPooler(config) if add_pooling_layer else None
        self._initialize_weights()

    def forward(
        self,
        pixel_values: jax.Array,
        bool_masked_pos: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
    ) -> BaseModelOutputWithPooling:
        """The hidden states (B, 1 + patches, hidden_size) and the pooled class token (B, pooler_output_size).

        Args:
            pixel_values: (B, num_channels, *image_size).
            bool_masked_pos: (B, patches), where the mask token takes a patch's place.
            attention_mask: (B, 1 + patches), 0 where nothing shall look.

        Raises:
            ValueError: images of another size, a mask of another shape, a masked patch without a mask token.
        """
        x = self.embeddings(jnp.asarray(pixel_values), bool_masked_pos)
        mask = attention_mask_4d(attention_mask, *x.shape[:2])
        for layer in self.layers:
            x = layer(x, mask)
        x = self.layernorm(x)
        return BaseModelOutputWithPooling(x, None if self.pooler is None else self.pooler(x))


class ViTForImageClassification(ViTPreTrainedModel):
    """The encoder and a linear head on the class token (transformers' ``ViTForImageClassification``)."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        config = self.config
        self.num_labels = config.num_labels
        self.vit = ViTModel(config, add_pooling_layer=False)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels) if config.num_labels > 0 else nn.Identity()
        self._initialize_weights()

    def forward(
        self, pixel_values: jax.Array, labels: jax.Array | None = None, attention_mask: jax.Array | None = None
    ) -> LogitsOutput:
        """Logits (B, num_labels), and the loss of ``labels``: classes (B,), or floats for regression and several labels."""
        hidden = self.vit(pixel_values, attention_mask=attention_mask).last_hidden_state
        logits = self.classifier(hidden[:, 0])
        return LogitsOutput(logits, classification_loss(logits, labels, self.config.problem_type))
