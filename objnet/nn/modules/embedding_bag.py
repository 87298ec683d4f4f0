"""Reductions of embeddings over bags."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from objnet.core.variable import Parameter
from objnet.nn import functional as F
from objnet.nn import init
from objnet.nn.module import Module
from objnet.nn.modules._parameters import blank, place

__all__ = ["EmbeddingBag"]


class EmbeddingBag(Module):
    """Sums, means or maxima of rows of a table over bags of indices (torch's ``nn.EmbeddingBag``).

    Input: indices (B, N), bags of one length, or (N,) with ``offsets`` (B,), where each bag starts; output
    (B, embedding_dim). ``weight`` (num_embeddings, embedding_dim) starts normal.

    Args:
        num_embeddings: number of rows.
        embedding_dim: length of a row.
        max_norm: rows looked up are first scaled down to this norm, in ``weight``. A pure function, whose parameters are
            inputs only, refuses it.
        norm_type: the p of that norm.
        scale_grad_by_freq: divide a row's gradient by the number of times it was looked up; not for ``"max"``.
        mode: ``"sum"``, ``"mean"`` or ``"max"``.
        sparse: not supported: gradients are dense.
        include_last_offset: the last of ``offsets`` ends the last bag.
        padding_idx: a row that starts zero and counts for nothing; negative counts from the end.
        device: where the parameters live, as in :meth:`Module.to`.
        dtype: their dtype.

    Raises:
        AssertionError: ``padding_idx`` is no row, or ``_weight`` has another shape.
        NotImplementedError: ``sparse=True``.
    """

    weight: Any

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        _weight: jax.Array | np.ndarray | None = None,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if sparse:
            raise NotImplementedError(
                "EmbeddingBag(sparse=True) is not supported: jax has no sparse gradients. Leave it out; results are the same."
            )
        if padding_idx is not None:
            if not -num_embeddings <= padding_idx < num_embeddings:
                raise AssertionError(f"padding_idx must be within num_embeddings ({num_embeddings}), got {padding_idx}")
            padding_idx %= num_embeddings
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.max_norm = max_norm
        self.norm_type = norm_type
        self.scale_grad_by_freq = scale_grad_by_freq
        self.padding_idx = padding_idx
        if _weight is None:
            self.weight = blank(num_embeddings, embedding_dim, dtype=dtype)
            self.reset_parameters()
            place(self, device)
        else:
            if tuple(_weight.shape) != (num_embeddings, embedding_dim):
                raise AssertionError(
                    f"Shape of weight does not match num_embeddings and embedding_dim: {tuple(_weight.shape)}, expected "
                    f"{(num_embeddings, embedding_dim)}"
                )
            self.weight = Parameter(_weight)
        self.mode = mode
        self.sparse = sparse
        self.include_last_offset = include_last_offset

    def reset_parameters(self) -> None:
        """Draw new initial values; the padding row becomes zero."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            self.weight[self.padding_idx].fill_(0)

    def forward(
        self, input: jax.Array, offsets: jax.Array | None = None, per_sample_weights: jax.Array | None = None
    ) -> jax.Array:
        """Arguments and errors as :func:`~objnet.nn.functional.embedding_bag` describes them."""
        # max_norm changes the weight, so it takes the Parameter and not its array
        weight: Any = self.weight if self.max_norm is None else self._parameters["weight"]
        return F.embedding_bag(
            input,
            weight,
            offsets,
            self.max_norm,
            self.norm_type,
            self.scale_grad_by_freq,
            self.mode,
            self.sparse,
            per_sample_weights,
            self.include_last_offset,
            self.padding_idx,
        )

    def extra_repr(self) -> str:
        text = f"{self.num_embeddings}, {self.embedding_dim}"
        if self.max_norm is not None:
            text += f", max_norm={self.max_norm}"
        if self.norm_type != 2:
            text += f", norm_type={self.norm_type}"
        if self.scale_grad_by_freq is not False:
            text += f", scale_grad_by_freq={self.scale_grad_by_freq}"
        text += f", mode={self.mode!r}"
        if self.padding_idx is not None:
            text += f", padding_idx={self.padding_idx}"
        return text

    @classmethod
    def from_pretrained(
        cls,
        embeddings: jax.Array | np.ndarray,
        freeze: bool = True,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
    ) -> EmbeddingBag:
        """A module with this table, of shape (num_embeddings, embedding_dim), and without gradients if ``freeze``.

        Raises:
            AssertionError: ``embeddings`` is not 2-d. Other errors as the class.
        """
        if embeddings.ndim != 2:
            raise AssertionError(f"Embeddings parameter is expected to be 2-dimensional, got shape {embeddings.shape}")
        rows, columns = embeddings.shape
        bag = cls(
            num_embeddings=rows,
            embedding_dim=columns,
            _weight=embeddings,
            max_norm=max_norm,
            norm_type=norm_type,
            scale_grad_by_freq=scale_grad_by_freq,
            mode=mode,
            sparse=sparse,
            include_last_offset=include_last_offset,
            padding_idx=padding_idx,
        )
        bag.weight.requires_grad = not freeze
        return bag
