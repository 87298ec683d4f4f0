"""Softmax and its relatives as modules."""

from __future__ import annotations

import jax

from objnet.core.arrays import as_array
from objnet.nn import functional as F
from objnet.nn.module import Module

__all__ = ["LogSoftmax", "Softmax", "Softmax2d", "Softmin"]

# How far a deprecation warning of the functional has to climb to reach the line that calls the module.
_CALLER = 7


class Softmax(Module):
    """``exp(input)`` scaled to sum to one along ``dim``; None guesses it, with a warning (torch's ``nn.Softmax``)."""

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: jax.Array) -> jax.Array:
        return F.softmax(input, self.dim, _stacklevel=_CALLER)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class LogSoftmax(Module):
    """The logarithm of :class:`Softmax`, without overflow (torch's ``nn.LogSoftmax``)."""

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: jax.Array) -> jax.Array:
        return F.log_softmax(input, self.dim, _stacklevel=_CALLER)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class Softmin(Module):
    """:class:`Softmax` of ``-input`` (torch's ``nn.Softmin``)."""

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: jax.Array) -> jax.Array:
        return F.softmin(input, self.dim, _stacklevel=_CALLER)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class Softmax2d(Module):
    """:class:`Softmax` over the channels of every pixel of (N, C, H, W) or (C, H, W) (torch's ``nn.Softmax2d``).

    Raises:
        ValueError: from a call: another number of dimensions.
    """

    def forward(self, input: jax.Array) -> jax.Array:
        input = as_array(input)
        if input.ndim not in (3, 4):
            raise ValueError(f"Softmax2d: expected input to be 3D or 4D, got {input.ndim}D instead")
        return F.softmax(input, -3)
