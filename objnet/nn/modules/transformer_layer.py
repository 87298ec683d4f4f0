"""The layers of a transformer: attention and a feed-forward network, each with a residual and a norm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from objnet.core.arrays import as_array
from objnet.nn import functional as F
from objnet.nn.functional._attention_masks import canonical
from objnet.nn.module import Module
from objnet.nn.modules.activation import GELU, ReLU
from objnet.nn.modules.attention import MultiheadAttention
from objnet.nn.modules.dropout import Dropout
from objnet.nn.modules.linear import Linear
from objnet.nn.modules.normalization import LayerNorm

__all__ = ["TransformerDecoderLayer", "TransformerEncoderLayer"]

_Activation = Callable[[jax.Array], jax.Array]


class TransformerEncoderLayer(Module):
    """Self-attention and a feed-forward network (torch's ``nn.TransformerEncoderLayer``).

    Args:
        d_model: size of the features.
        nhead: heads of the attention.
        dim_feedforward: size of the hidden layer.
        dropout: probability, of weights and of activations.
        activation: ``"relu"``, ``"gelu"``, a function or a module.
        layer_norm_eps: added to the variances.
        batch_first: whether inputs are (N, S, E) and not (S, N, E); (S, E) is taken too.
        norm_first: norms before attention and network, not after the residual.
        bias: whether there are biases.
        device: where the parameters live, as in :meth:`Module.to`.
        dtype: their dtype.

    Raises:
        RuntimeError: an ``activation`` of another name.
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | _Activation = F.relu,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        placed: dict[str, Any] = {"bias": bias, "device": device, "dtype": dtype}
        super().__init__()
        self.self_attn = MultiheadAttention(d_model, nhead, dropout=dropout, batch_first=batch_first, **placed)
        self.linear1 = Linear(d_model, dim_feedforward, **placed)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, **placed)
        self.norm_first = norm_first
        self.norm1 = LayerNorm(d_model, eps=layer_norm_eps, **placed)
        self.norm2 = LayerNorm(d_model, eps=layer_norm_eps, **placed)
        self.dropout1 = Dropout(dropout)
        self.dropout2 = Dropout(dropout)
        activation = _activation(activation)
        if activation is F.relu or isinstance(activation, ReLU):
            self.activation_relu_or_gelu = 1
        elif activation is F.gelu or isinstance(activation, GELU):
            self.activation_relu_or_gelu = 2
        else:
            self.activation_relu_or_gelu = 0
        self.activation = activation

    def forward(
        self,
        src: jax.Array,
        src_mask: jax.Array | None = None,
        src_key_padding_mask: jax.Array | None = None,
        is_causal: bool = False,
    ) -> jax.Array:
        """The next representation, of the shape of ``src``.

        Args:
            src: shape (S, N, E), (N, S, E) with ``batch_first``, or (S, E).
            src_mask: shape (S, S) or (N * nhead, S, S), True or minus infinity where nothing must be seen.
            src_key_padding_mask: shape (N, S) or (S,), True or minus infinity at padding.
            is_causal: a promise that ``src_mask``, which must be given, hides the later positions.
        """
        masks = canonical(src_key_padding_mask, src_mask, "src_key_padding_mask", "src_mask", as_array(src).dtype)
        padding, mask = masks
        x = src
        if self.norm_first:
            x = x + self._sa_block(self.norm1(x), mask, padding, is_causal=is_causal)
            return x + self._ff_block(self.norm2(x))
        x = self.norm1(x + self._sa_block(x, mask, padding, is_causal=is_causal))
        return self.norm2(x + self._ff_block(x))

    def _sa_block(self, x: Any, attn_mask: Any, key_padding_mask: Any, is_causal: bool = False) -> Any:
        x, _ = self.self_attn(x, x, x, key_padding_mask, False, attn_mask, is_causal=is_causal)
        return self.dropout1(x)

    def _ff_block(self, x: Any) -> Any:
        return self.dropout2(self.linear2(self.dropout(self.activation(self.linear1(x)))))


class TransformerDecoderLayer(Module):
    """Self-attention, attention to a memory, a feed-forward network (torch's ``nn.TransformerDecoderLayer``).

    Arguments and errors as :class:`TransformerEncoderLayer`.
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | _Activation = F.relu,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        placed: dict[str, Any] = {"bias": bias, "device": device, "dtype": dtype}
        super().__init__()
        self.self_attn = MultiheadAttention(d_model, nhead, dropout=dropout, batch_first=batch_first, **placed)
        self.multihead_attn = MultiheadAttention(d_model, nhead, dropout=dropout, batch_first=batch_first, **placed)
        self.linear1 = Linear(d_model, dim_feedforward, **placed)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, **placed)
        self.norm_first = norm_first
        self.norm1 = LayerNorm(d_model, eps=layer_norm_eps, **placed)
        self.norm2 = LayerNorm(d_model, eps=layer_norm_eps, **placed)
        self.norm3 = LayerNorm(d_model, eps=layer_norm_eps, **placed)
        self.dropout1 = Dropout(dropout)
        self.dropout2 = Dropout(dropout)
        self.dropout3 = Dropout(dropout)
        self.activation = _activation(activation)

    def forward(
        self,
        tgt: jax.Array,
        memory: jax.Array,
        tgt_mask: jax.Array | None = None,
        memory_mask: jax.Array | None = None,
        tgt_key_padding_mask: jax.Array | None = None,
        memory_key_padding_mask: jax.Array | None = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> jax.Array:
        """The next representation, of the shape of ``tgt``.

        Args:
            tgt: shape (T, N, E), (N, T, E) with ``batch_first``, or (T, E).
            memory: what the encoder gave, shape (S, N, E), (N, S, E) or (S, E).
            tgt_mask: shape (T, T) or (N * nhead, T, T), True or minus infinity where nothing must be seen.
            memory_mask: shape (T, S) or (N * nhead, T, S), of the attention to the memory.
            tgt_key_padding_mask: shape (N, T) or (T,), True or minus infinity at padding.
            memory_key_padding_mask: shape (N, S) or (S,).
            tgt_is_causal: a promise that ``tgt_mask``, which must be given, hides the later positions.
            memory_is_causal: the same of ``memory_mask``.
        """
        x = tgt
        own = (tgt_mask, tgt_key_padding_mask, tgt_is_causal)
        other = (memory_mask, memory_key_padding_mask, memory_is_causal)
        if self.norm_first:
            x = x + self._sa_block(self.norm1(x), *own)
            x = x + self._mha_block(self.norm2(x), memory, *other)
            return x + self._ff_block(self.norm3(x))
        x = self.norm1(x + self._sa_block(x, *own))
        x = self.norm2(x + self._mha_block(x, memory, *other))
        return self.norm3(x + self._ff_block(x))

    def _sa_block(self, x: Any, attn_mask: Any, key_padding_mask: Any, is_causal: bool = False) -> Any:
        x, _ = self.self_attn(x, x, x, key_padding_mask, False, attn_mask, is_causal=is_causal)
        return self.dropout1(x)

    def _mha_block(self, x: Any, mem: Any, attn_mask: Any, key_padding_mask: Any, is_causal: bool = False) -> Any:
        x, _ = self.multihead_attn(x, mem, mem, key_padding_mask, False, attn_mask, is_causal=is_causal)
        return self.dropout2(x)

    def _ff_block(self, x: Any) -> Any:
        return self.dropout3(self.linear2(self.dropout(self.activation(self.linear1(x)))))


def _activation(activation: str | _Activation) -> _Activation:
    if not isinstance(activation, str):
        return activation
    if activation not in ("relu", "gelu"):
        raise RuntimeError(f"activation should be 'relu', 'gelu' or a function, not {activation!r}")
    return F.relu if activation == "relu" else F.gelu
