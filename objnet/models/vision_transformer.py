"""The vision transformer (Dosovitskiy et al. 2020) with the keys, arguments and initial values of torchvision's.

Its twin with transformers' keys is :class:`objnet.models.ViTModel`.  Images are (N, 3, image_size, image_size) floats, the
result is (N, num_classes).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from objnet import nn
from objnet.models._common import Conv2dNormActivation, Layer, no_download
from objnet.models.mlp import MLP

__all__ = ["ConvStemConfig", "VisionTransformer", "vit_b_16", "vit_b_32", "vit_h_14", "vit_l_16", "vit_l_32"]

_layer_norm = partial(nn.LayerNorm, eps=1e-6)


class ConvStemConfig(NamedTuple):
    """One convolution of a stem that stands in for the patches' projection (Xiao et al. 2021)."""

    out_channels: int
    kernel_size: int
    stride: int
    norm_layer: Layer = nn.BatchNorm2d
    activation_layer: Layer = nn.ReLU


class MLPBlock(MLP):
    """A transformer's perceptron: (..., in_dim) to the same."""

    _version = 2

    def __init__(self, in_dim: int, mlp_dim: int, dropout: float) -> None:
        super().__init__(in_dim, [mlp_dim, in_dim], activation_layer=nn.GELU, dropout=dropout)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.normal_(module.bias, std=1e-6)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any) -> None:
        version = local_metadata.get("version")
        if version is None or version < 2:  # the layers had names of their own then
            for old, new in (("linear_1", "0"), ("linear_2", "3")):
                for kind in ("weight", "bias"):
                    if f"{prefix}{old}.{kind}" in state_dict:
                        state_dict[f"{prefix}{new}.{kind}"] = state_dict.pop(f"{prefix}{old}.{kind}")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)


class EncoderBlock(nn.Module):
    """Attention and a perceptron, each after a normalisation and around a shortcut: (N, S, hidden_dim) to the same."""

    def __init__(
        self,
        num_heads: int,
        hidden_dim: int,
        mlp_dim: int,
        dropout: float,
        attention_dropout: float,
        norm_layer: Layer = _layer_norm,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.ln_1 = norm_layer(hidden_dim)
        self.self_attention = nn.MultiheadAttention(hidden_dim, num_heads, dropout=attention_dropout, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.ln_2 = norm_layer(hidden_dim)
        self.mlp = MLPBlock(hidden_dim, mlp_dim, dropout)

    def forward(self, input: jax.Array) -> jax.Array:
        x = self.ln_1(input)
        x, _ = self.self_attention(x, x, x, need_weights=False)
        x = input + self.dropout(x)
        return x + self.mlp(self.ln_2(x))


class Encoder(nn.Module):
    """Position embeddings, blocks and a normalisation: (N, seq_length, hidden_dim) to the same."""

    pos_embedding: Any

    def __init__(
        self,
        seq_length: int,
        num_layers: int,
        num_heads: int,
        hidden_dim: int,
        mlp_dim: int,
        dropout: float,
        attention_dropout: float,
        norm_layer: Layer = _layer_norm,
    ) -> None:
        super().__init__()
        self.pos_embedding = nn.Parameter(np.zeros((1, seq_length, hidden_dim), np.float32))
        nn.init.normal_(self.pos_embedding, std=0.02)
        self.dropout = nn.Dropout(dropout)
        blocks: OrderedDict[str, nn.Module] = OrderedDict()
        for index in range(num_layers):
            block = EncoderBlock(num_heads, hidden_dim, mlp_dim, dropout, attention_dropout, norm_layer)
            blocks[f"encoder_layer_{index}"] = block
        self.layers = nn.Sequential(blocks)
        self.ln = norm_layer(hidden_dim)

    def forward(self, input: jax.Array) -> jax.Array:
        return self.ln(self.layers(self.dropout(input + self.pos_embedding)))


class VisionTransformer(nn.Module):
    """A transformer encoder over the patches of an image and a class token (torchvision's ``VisionTransformer``).

    Args:
        image_size, patch_size: sides, of which the second divides the first.
        num_layers, num_heads, hidden_dim, mlp_dim: of the encoder.
        dropout, attention_dropout: probabilities.
        num_classes: number of logits.
        representation_size: width of a tanh layer before the logits; None leaves it out.
        norm_layer: makes a normalisation from a size.
        conv_stem_configs: convolutions in place of the one that projects the patches.

    Raises:
        ValueError: ``patch_size`` does not divide ``image_size``. From a call: an image of another size.
    """

    class_token: Any

    def __init__(
        self,
        image_size: int,
        patch_size: int,
        num_layers: int,
        num_heads: int,
        hidden_dim: int,
        mlp_dim: int,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        num_classes: int = 1000,
        representation_size: int | None = None,
        norm_layer: Layer = _layer_norm,
        conv_stem_configs: Sequence[ConvStemConfig] | None = None,
    ) -> None:
        super().__init__()
        if image_size % patch_size:
            raise ValueError(f"patch_size={patch_size} must divide image_size={image_size}")
        self.image_size = image_size
        self.patch_size = patch_size
        self.hidden_dim = hidden_dim
        self.mlp_dim = mlp_dim
        self.attention_dropout = attention_dropout
        self.dropout = dropout
        self.num_classes = num_classes
        self.representation_size = representation_size
        self.norm_layer = norm_layer
        if conv_stem_configs is None:
            self.conv_proj: nn.Module = nn.Conv2d(3, hidden_dim, kernel_size=patch_size, stride=patch_size)
        else:
            self.conv_proj = _conv_stem(conv_stem_configs, hidden_dim)
        self.class_token = nn.Parameter(np.zeros((1, 1, hidden_dim), np.float32))
        self.seq_length = (image_size // patch_size) ** 2 + 1
        self.encoder = Encoder(
            self.seq_length, num_layers, num_heads, hidden_dim, mlp_dim, dropout, attention_dropout, norm_layer
        )
        head: OrderedDict[str, nn.Module] = OrderedDict()
        if representation_size is not None:
            head["pre_logits"] = nn.Linear(hidden_dim, representation_size)
            head["act"] = nn.Tanh()
        head["head"] = nn.Linear(representation_size or hidden_dim, num_classes)
        self.heads = nn.Sequential(head)
        self._initialize_weights()

    def _initialize_weights(self) -> None:
        if isinstance(self.conv_proj, nn.Conv2d):
            fan_in = 3 * self.patch_size**2
            nn.init.trunc_normal_(self.conv_proj.weight, std=math.sqrt(1 / fan_in))
            nn.init.zeros_(self.conv_proj.bias)
        else:
            last = self.conv_proj.conv_last
            nn.init.normal_(last.weight, mean=0.0, std=math.sqrt(2.0 / last.out_channels))
            nn.init.zeros_(last.bias)
        if self.representation_size is not None:
            nn.init.trunc_normal_(self.heads.pre_logits.weight, std=math.sqrt(1 / self.heads.pre_logits.in_features))
            nn.init.zeros_(self.heads.pre_logits.bias)
        nn.init.zeros_(self.heads.head.weight)
        nn.init.zeros_(self.heads.head.bias)

    def forward(self, x: jax.Array) -> jax.Array:
        if x.shape[-2:] != (self.image_size, self.image_size):
            raise ValueError(f"Wrong image size! Expected {(self.image_size, self.image_size)} but got {x.shape[-2:]}!")
        x = self.conv_proj(x)
        x = x.reshape(x.shape[0], self.hidden_dim, -1).swapaxes(1, 2)
        token = jnp.broadcast_to(self.class_token, (x.shape[0], 1, self.hidden_dim))
        x = self.encoder(jnp.concatenate([token, x], axis=1))
        return self.heads(x[:, 0])


def _conv_stem(configs: Sequence[ConvStemConfig], hidden_dim: int) -> nn.Sequential:
    stem: OrderedDict[str, nn.Module] = OrderedDict()
    channels = 3
    for index, config in enumerate(configs):
        stem[f"conv_bn_relu_{index}"] = Conv2dNormActivation(
            channels,
            config.out_channels,
            config.kernel_size,
            config.stride,
            norm_layer=config.norm_layer,
            activation_layer=config.activation_layer,
        )
        channels = config.out_channels
    stem["conv_last"] = nn.Conv2d(channels, hidden_dim, kernel_size=1)
    return nn.Sequential(stem)


def _vit(patch: int, layers: int, heads: int, hidden: int, mlp: int, weights: Any, kwargs: dict[str, Any]) -> VisionTransformer:
    no_download(weights)
    return VisionTransformer(kwargs.pop("image_size", 224), patch, layers, heads, hidden, mlp, **kwargs)


def vit_b_16(*, weights: None = None, **kwargs: Any) -> VisionTransformer:
    """ViT-B/16 for images of 224, or of ``image_size``; ``kwargs`` go to :class:`VisionTransformer`, ``weights`` is None."""
    return _vit(16, 12, 12, 768, 3072, weights, kwargs)


def vit_b_32(*, weights: None = None, **kwargs: Any) -> VisionTransformer:
    """ViT-B/32; arguments as :func:`vit_b_16`."""
    return _vit(32, 12, 12, 768, 3072, weights, kwargs)


def vit_l_16(*, weights: None = None, **kwargs: Any) -> VisionTransformer:
    """ViT-L/16; arguments as :func:`vit_b_16`."""
    return _vit(16, 24, 16, 1024, 4096, weights, kwargs)


def vit_l_32(*, weights: None = None, **kwargs: Any) -> VisionTransformer:
    """ViT-L/32; arguments as :func:`vit_b_16`."""
    return _vit(32, 24, 16, 1024, 4096, weights, kwargs)


def vit_h_14(*, weights: None = None, **kwargs: Any) -> VisionTransformer:
    """ViT-H/14; arguments as :func:`vit_b_16`."""
    return _vit(14, 32, 16, 1280, 5120, weights, kwargs)
