"""Local response normalisation."""

from __future__ import annotations

import jax

from objnet.nn import functional as F
from objnet.nn.functional.response_norm import cross_map_lrn2d
from objnet.nn.module import Module

__all__ = ["CrossMapLRN2d", "LocalResponseNorm"]


class _ResponseNorm(Module):
    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        super().__init__()
        self.size = size
        self.alpha = alpha
        self.beta = beta
        self.k = k

    def extra_repr(self) -> str:
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"


class LocalResponseNorm(_ResponseNorm):
    """``input / (k + alpha * mean of squares of size channels) ** beta`` (Krizhevsky et al. 2012; torch's).

    Input (N, C, ...) of three dimensions or more, output the same shape and dtype.

    Args:
        size: the number of neighbouring channels.
        alpha, beta, k: the constants.
    """

    def forward(self, input: jax.Array) -> jax.Array:
        return F.local_response_norm(input, self.size, self.alpha, self.beta, self.k)


class CrossMapLRN2d(_ResponseNorm):
    """Local response normalisation of (N, C, H, W) with the windows and gradients of torch's ``nn.CrossMapLRN2d``.

    Those are not what the formula says; see :func:`objnet.nn.functional.response_norm.cross_map_lrn2d`.
    """

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1) -> None:
        super().__init__(size, alpha, beta, k)

    def forward(self, input: jax.Array) -> jax.Array:
        return cross_map_lrn2d(input, self.size, self.alpha, self.beta, self.k)
