"""Dropout: active in training, the identity in evaluation."""

from __future__ import annotations

import jax

from objnet.nn import functional as F
from objnet.nn.module import Module

__all__ = ["AlphaDropout", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "FeatureAlphaDropout"]


class _DropoutNd(Module):
    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
        self.p = p
        self.inplace = inplace

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace={self.inplace}"


class Dropout(_DropoutNd):
    """In training zero elements with probability ``p`` and multiply the others by ``1 / (1 - p)`` (Hinton et al. 2012).

    Any shape, floating point.

    Args:
        p: a Python number in [0, 1].
        inplace: makes no difference, arrays are immutable.

    Raises:
        ValueError: ``p`` outside of [0, 1].
    """

    def forward(self, input: jax.Array) -> jax.Array:
        return F.dropout(input, self.p, self.training, self.inplace)


class Dropout1d(_DropoutNd):
    """:class:`Dropout` of whole channels of (N, C, L) or (C, L) (Tompson et al. 2015; torch's ``nn.Dropout1d``)."""

    def forward(self, input: jax.Array) -> jax.Array:
        return F.dropout1d(input, self.p, self.training, self.inplace)


class Dropout2d(_DropoutNd):
    """:class:`Dropout` of whole channels of (N, C, H, W) (Tompson et al. 2015; torch's ``nn.Dropout2d``).

    As in torch a 3-d input is taken as (N, C, L), with a warning.
    """

    def forward(self, input: jax.Array) -> jax.Array:
        return F.dropout2d(input, self.p, self.training, self.inplace)


class Dropout3d(_DropoutNd):
    """:class:`Dropout` of whole channels of (N, C, D, H, W) or (C, D, H, W) (Tompson et al. 2015; torch's ``nn.Dropout3d``)."""

    def forward(self, input: jax.Array) -> jax.Array:
        return F.dropout3d(input, self.p, self.training, self.inplace)


class AlphaDropout(_DropoutNd):
    """In training set elements to SELU's negative limit with probability ``p``, keeping mean and variance.

    Arguments and errors as :class:`Dropout` (Klambauer et al. 2017; torch's ``nn.AlphaDropout``).
    """

    def forward(self, input: jax.Array) -> jax.Array:
        return F.alpha_dropout(input, self.p, self.training)


class FeatureAlphaDropout(_DropoutNd):
    """:class:`AlphaDropout` of whole channels of (N, C, ...) (torch's ``nn.FeatureAlphaDropout``)."""

    def forward(self, input: jax.Array) -> jax.Array:
        return F.feature_alpha_dropout(input, self.p, self.training)
