"""Multi-head attention as a layer."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from objnet.nn import init
from objnet.nn.functional._attention_masks import merged
from objnet.nn.functional.multihead import attend
from objnet.nn.module import Module
from objnet.nn.modules._parameters import blank, place
from objnet.nn.modules.linear import Linear

__all__ = ["MultiheadAttention", "NonDynamicallyQuantizableLinear"]


class NonDynamicallyQuantizableLinear(Linear):
    """:class:`Linear`, under the name ``nn.MultiheadAttention`` shows for its output projection in torch."""


class MultiheadAttention(Module):
    """Attention of several heads with learned projections (Vaswani et al. 2017; torch's ``nn.MultiheadAttention``).

    Inputs and outputs are (L, N, E), (N, L, E) with ``batch_first``, or (L, E) without a batch. The projections start
    Xavier uniform with zero biases, the output projection as a Linear with a zero bias.

    Args:
        embed_dim: E, size of queries and outputs.
        num_heads: heads of size E / num_heads.
        dropout: probability with which weights are dropped in training.
        bias: whether the projections have biases.
        add_bias_kv: a learned key and value more for every sequence.
        add_zero_attn: a key and value of zeros more.
        kdim: size of keys, E if None.
        vdim: size of values, E if None.
        batch_first: whether the batch comes first; makes no difference without a batch.
        device: where the parameters live, as in :meth:`Module.to`.
        dtype: their dtype.

    Raises:
        ValueError: sizes that are not positive.
        AssertionError: ``num_heads`` does not divide ``embed_dim``.
    """

    in_proj_weight: Any
    q_proj_weight: Any
    k_proj_weight: Any
    v_proj_weight: Any
    in_proj_bias: Any
    bias_k: Any
    bias_v: Any

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        if embed_dim <= 0 or num_heads <= 0:
            raise ValueError(f"embed_dim and num_heads must be greater than 0, got {embed_dim=} and {num_heads=}")
        super().__init__()
        self.embed_dim = embed_dim
        self.kdim = embed_dim if kdim is None else kdim
        self.vdim = embed_dim if vdim is None else vdim
        self._qkv_same_embed_dim = self.kdim == self.vdim == embed_dim
        self.num_heads = num_heads
        self.dropout = dropout
        self.batch_first = batch_first
        self.head_dim = embed_dim // num_heads
        if self.head_dim * num_heads != embed_dim:
            raise AssertionError(f"embed_dim must be divisible by num_heads, got {embed_dim=} and {num_heads=}")
        separate = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
        if self._qkv_same_embed_dim:
            self.in_proj_weight = blank(3 * embed_dim, embed_dim, dtype=dtype)
            for name in separate:
                self.register_parameter(name, None)
        else:
            for name, size in zip(separate, (embed_dim, self.kdim, self.vdim), strict=True):
                self.register_parameter(name, blank(embed_dim, size, dtype=dtype))
            self.register_parameter("in_proj_weight", None)
        if bias:
            self.in_proj_bias = blank(3 * embed_dim, dtype=dtype)
        else:
            self.register_parameter("in_proj_bias", None)
        self.out_proj = NonDynamicallyQuantizableLinear(embed_dim, embed_dim, bias=bias, dtype=dtype)
        self.bias_k = blank(1, 1, embed_dim, dtype=dtype) if add_bias_kv else None
        self.bias_v = blank(1, 1, embed_dim, dtype=dtype) if add_bias_kv else None
        self.add_zero_attn = add_zero_attn
        self._reset_parameters()
        place(self, device)

    def _reset_parameters(self) -> None:
        for weight in (self.in_proj_weight, self.q_proj_weight, self.k_proj_weight, self.v_proj_weight):
            if weight is not None:
                init.xavier_uniform_(weight)
        if self.in_proj_bias is not None:
            init.zeros_(self.in_proj_bias)
            init.zeros_(self.out_proj.bias)
        for bias in (self.bias_k, self.bias_v):
            if bias is not None:
                init.xavier_normal_(bias)

    def forward(
        self,
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        key_padding_mask: jax.Array | None = None,
        need_weights: bool = True,
        attn_mask: jax.Array | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[jax.Array, jax.Array | None]:
        """Output and weights, as :func:`~objnet.nn.functional.multi_head_attention_forward` describes them."""
        separate = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        return attend(
            query,
            key,
            value,
            self.embed_dim,
            self.num_heads,
            self.in_proj_weight if self._qkv_same_embed_dim else separate,
            self.in_proj_bias,
            (self.bias_k, self.bias_v),
            self.add_zero_attn,
            self.dropout if self.training else 0.0,
            (self.out_proj.weight, self.out_proj.bias),
            key_padding_mask,
            need_weights,
            attn_mask,
            average=average_attn_weights,
            is_causal=is_causal,
            batch_first=self.batch_first,
            stacklevel=8,
        )

    def merge_masks(
        self, attn_mask: jax.Array | None, key_padding_mask: jax.Array | None, query: jax.Array
    ) -> tuple[jax.Array | None, int | None]:
        """Both masks as one, and torch's number for its kind: 1 padding alone, (N, L); 2 of shape (N, num_heads, L, L).

        Args:
            attn_mask: floating point, shape (L, L) or (N * num_heads, L, L).
            key_padding_mask: floating point, shape (N, L).
            query: shape (N, L, E).
        """
        if attn_mask is None:
            return key_padding_mask, None if key_padding_mask is None else 1
        batch, length, _ = query.shape
        mask = attn_mask.reshape(-1 if attn_mask.ndim == 3 else 1, self.num_heads if attn_mask.ndim == 3 else 1, length, length)
        padding = None if key_padding_mask is None else key_padding_mask.reshape(batch, 1, 1, length)
        both = merged(mask, padding)
        return jnp.broadcast_to(both, (batch, self.num_heads, length, length)), 2
