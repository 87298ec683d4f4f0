"""The encoder-decoder transformer (Vaswani et al. 2017): stacks of layers, and the whole model.

Nested tensors, by which torch skips the padding in evaluation, do not exist here: ``enable_nested_tensor`` is kept, with
its warnings, and changes nothing.  What torch then writes at padded positions, zeros, is the only difference.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import jax

from objnet.core.arrays import as_array
from objnet.nn import functional as F
from objnet.nn import init
from objnet.nn.functional._attention_masks import canonical, causal_mask, is_causal_mask
from objnet.nn.module import Module
from objnet.nn.modules._parameters import float_dtype
from objnet.nn.modules.container import ModuleList
from objnet.nn.modules.normalization import LayerNorm
from objnet.nn.modules.transformer_layer import TransformerDecoderLayer, TransformerEncoderLayer

__all__ = ["Transformer", "TransformerDecoder", "TransformerDecoderLayer", "TransformerEncoder", "TransformerEncoderLayer"]


class TransformerEncoder(Module):
    """A stack of encoder layers (torch's ``nn.TransformerEncoder``).

    Args:
        encoder_layer: the layer, which is copied ``num_layers`` times with its values.
        num_layers: number of copies.
        norm: applied at the end, or None.
        enable_nested_tensor: changes nothing but the warning about layers torch could not use it with.
        mask_check: changes nothing.
    """

    def __init__(
        self,
        encoder_layer: Module,
        num_layers: int,
        norm: Module | None = None,
        enable_nested_tensor: bool = True,
        mask_check: bool = True,
    ) -> None:
        super().__init__()
        self.layers = _copies(encoder_layer, num_layers)
        self.num_layers = num_layers
        self.norm = norm
        self.enable_nested_tensor = enable_nested_tensor
        self.use_nested_tensor = enable_nested_tensor
        self.mask_check = mask_check
        reason = _why_not_nested(encoder_layer)
        if enable_nested_tensor and reason:
            message = f"enable_nested_tensor is True, but self.use_nested_tensor is False because {reason}"
            warnings.warn(message, UserWarning, stacklevel=3)
            self.use_nested_tensor = False

    def forward(
        self,
        src: jax.Array,
        mask: jax.Array | None = None,
        src_key_padding_mask: jax.Array | None = None,
        is_causal: bool | None = None,
    ) -> jax.Array:
        """The encoded sequence, of the shape of ``src``.

        Args:
            src: shape (S, N, E), (N, S, E) with ``batch_first``, or (S, E).
            mask: shape (S, S) or (N * nhead, S, S), True or minus infinity where nothing must be seen.
            src_key_padding_mask: shape (N, S) or (S,), True or minus infinity at padding.
            is_causal: whether ``mask`` hides the later positions; None looks at its values, where they are known.
        """
        padding, mask = canonical(src_key_padding_mask, mask, "src_key_padding_mask", "mask", as_array(src).dtype)
        causal = is_causal_mask(mask, is_causal, _length(src, self.layers[0].self_attn.batch_first))
        output = src
        for layer in self.layers:
            output = layer(output, src_mask=mask, is_causal=causal, src_key_padding_mask=padding)
        return output if self.norm is None else self.norm(output)


class TransformerDecoder(Module):
    """A stack of decoder layers (torch's ``nn.TransformerDecoder``).

    Args:
        decoder_layer: the layer, which is copied ``num_layers`` times with its values.
        num_layers: number of copies.
        norm: applied at the end, or None.
    """

    def __init__(self, decoder_layer: Module, num_layers: int, norm: Module | None = None) -> None:
        super().__init__()
        self.layers = _copies(decoder_layer, num_layers)
        self.num_layers = num_layers
        self.norm = norm

    def forward(
        self,
        tgt: jax.Array,
        memory: jax.Array,
        tgt_mask: jax.Array | None = None,
        memory_mask: jax.Array | None = None,
        tgt_key_padding_mask: jax.Array | None = None,
        memory_key_padding_mask: jax.Array | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> jax.Array:
        """The decoded sequence, of the shape of ``tgt``; arguments as :class:`TransformerDecoderLayer` takes them.

        ``tgt_is_causal=None`` looks at the values of ``tgt_mask``, where they are known.
        """
        mask = None if tgt_mask is None else as_array(tgt_mask)
        causal = is_causal_mask(mask, tgt_is_causal, _length(tgt, self.layers[0].self_attn.batch_first))
        output = tgt
        for layer in self.layers:
            output = layer(
                output,
                memory,
                tgt_mask=tgt_mask,
                memory_mask=memory_mask,
                tgt_key_padding_mask=tgt_key_padding_mask,
                memory_key_padding_mask=memory_key_padding_mask,
                tgt_is_causal=causal,
                memory_is_causal=memory_is_causal,
            )
        return output if self.norm is None else self.norm(output)


class Transformer(Module):
    """Encoder and decoder (torch's ``nn.Transformer``). All matrices start Xavier uniform.

    Args:
        d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first, bias: of each layer,
            as :class:`TransformerEncoderLayer` takes them.
        num_encoder_layers: layers of the encoder.
        num_decoder_layers: layers of the decoder.
        custom_encoder, custom_decoder: modules to take instead.
        device: where the parameters live, as in :meth:`Module.to`.
        dtype: their dtype.
    """

    def __init__(
        self,
        d_model: int = 512,
        nhead: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Callable[[jax.Array], jax.Array] = F.relu,
        custom_encoder: Any = None,
        custom_decoder: Any = None,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        options = (dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first, bias, device, dtype)
        if custom_encoder is not None:
            self.encoder = custom_encoder
        else:
            layer = TransformerEncoderLayer(d_model, nhead, *options)
            norm = LayerNorm(d_model, eps=layer_norm_eps, bias=bias, device=device, dtype=dtype)
            self.encoder = TransformerEncoder(layer, num_encoder_layers, norm)
        if custom_decoder is not None:
            self.decoder = custom_decoder
        else:
            layer = TransformerDecoderLayer(d_model, nhead, *options)
            norm = LayerNorm(d_model, eps=layer_norm_eps, bias=bias, device=device, dtype=dtype)
            self.decoder = TransformerDecoder(layer, num_decoder_layers, norm)
        self._reset_parameters()
        self.d_model = d_model
        self.nhead = nhead
        self.batch_first = batch_first

    def forward(
        self,
        src: jax.Array,
        tgt: jax.Array,
        src_mask: jax.Array | None = None,
        tgt_mask: jax.Array | None = None,
        memory_mask: jax.Array | None = None,
        src_key_padding_mask: jax.Array | None = None,
        tgt_key_padding_mask: jax.Array | None = None,
        memory_key_padding_mask: jax.Array | None = None,
        src_is_causal: bool | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> jax.Array:
        """The decoded sequence, of the shape of ``tgt``; arguments as encoder and decoder take them.

        Raises:
            RuntimeError: batch sizes of ``src`` and ``tgt`` that differ, features that are not ``d_model``.
        """
        batch_axis = 0 if self.batch_first else 1
        if src.ndim == 3 and src.shape[batch_axis] != tgt.shape[batch_axis]:
            raise RuntimeError(f"the batch number of src and tgt must be equal, got shapes {src.shape} and {tgt.shape}")
        if src.shape[-1] != self.d_model or tgt.shape[-1] != self.d_model:
            shapes = f"{src.shape} and {tgt.shape}"
            raise RuntimeError(f"the feature number of src and tgt must be equal to d_model={self.d_model}, got {shapes}")
        memory = self.encoder(src, mask=src_mask, src_key_padding_mask=src_key_padding_mask, is_causal=src_is_causal)
        return self.decoder(
            tgt,
            memory,
            tgt_mask=tgt_mask,
            memory_mask=memory_mask,
            tgt_key_padding_mask=tgt_key_padding_mask,
            memory_key_padding_mask=memory_key_padding_mask,
            tgt_is_causal=tgt_is_causal,
            memory_is_causal=memory_is_causal,
        )

    @staticmethod
    def generate_square_subsequent_mask(sz: int, device: Any = None, dtype: Any = None) -> jax.Array:
        """The mask that hides later positions: (sz, sz), minus infinity above the diagonal and zero elsewhere."""
        mask = causal_mask(sz, float_dtype(dtype))
        return mask if device is None else jax.device_put(mask, device)

    def _reset_parameters(self) -> None:
        for parameter in self.parameters():
            if parameter.ndim > 1:
                init.xavier_uniform_(parameter)


def _copies(layer: Module, number: int) -> ModuleList:
    return ModuleList([copy.deepcopy(layer) for _ in range(number)])


def _length(x: jax.Array, batch_first: bool) -> int:
    return x.shape[1 if x.ndim == 3 and batch_first else 0]


def _why_not_nested(layer: Module) -> str:
    """Why torch could not pass nested tensors through this encoder layer; empty if it could."""
    if not isinstance(layer, TransformerEncoderLayer):
        return "encoder_layer was not TransformerEncoderLayer"
    attention = layer.self_attn
    if layer.norm_first:
        return "encoder_layer.norm_first was True"
    if not attention.batch_first:
        return "encoder_layer.self_attn.batch_first was not True(use batch_first for better inference performance)"
    if not attention._qkv_same_embed_dim:
        return "encoder_layer.self_attn._qkv_same_embed_dim was not True"
    if attention.in_proj_bias is None:
        return "encoder_layer.self_attn was passed bias=False"
    if not layer.activation_relu_or_gelu:
        return "encoder_layer.activation_relu_or_gelu was not True"
    if layer.norm1.eps != layer.norm2.eps:
        return "encoder_layer.norm1.eps was not equal to encoder_layer.norm2.eps"
    return "encoder_layer.self_attn.num_heads is odd" if attention.num_heads % 2 else ""
