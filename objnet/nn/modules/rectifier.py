"""Rectifiers as modules. ``inplace`` matters for Variables only: a jax array is immutable."""

from __future__ import annotations

from typing import Any

import jax

from objnet.nn import functional as F
from objnet.nn import init as initialise
from objnet.nn.module import Module
from objnet.nn.modules._parameters import blank, place

__all__ = ["CELU", "ELU", "SELU", "LeakyReLU", "PReLU", "RReLU", "ReLU", "Threshold"]


class InplaceActivation(Module):
    """An activation whose only option is ``inplace``: it writes to a Variable; a jax array is immutable."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def extra_repr(self) -> str:
        return "inplace=True" if self.inplace else ""


class ReLU(InplaceActivation):
    """``max(input, 0)`` (torch's ``nn.ReLU``)."""

    def forward(self, input: jax.Array) -> jax.Array:
        return F.relu(input, self.inplace)


class LeakyReLU(Module):
    """``input`` where positive, else ``negative_slope * input`` (torch's ``nn.LeakyReLU``)."""

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False) -> None:
        super().__init__()
        self.negative_slope = negative_slope
        self.inplace = inplace

    def forward(self, input: jax.Array) -> jax.Array:
        return F.leaky_relu(input, self.negative_slope, self.inplace)

    def extra_repr(self) -> str:
        return f"negative_slope={self.negative_slope}{', inplace=True' if self.inplace else ''}"


class RReLU(Module):
    """Leaky ReLU with slopes drawn between ``lower`` and ``upper`` in training, their mean in evaluation (Xu et al. 2015).

    torch's ``nn.RReLU``.
    """

    def __init__(self, lower: float = 1.0 / 8, upper: float = 1.0 / 3, inplace: bool = False) -> None:
        super().__init__()
        self.lower = lower
        self.upper = upper
        self.inplace = inplace

    def forward(self, input: jax.Array) -> jax.Array:
        return F.rrelu(input, self.lower, self.upper, self.training, self.inplace)

    def extra_repr(self) -> str:
        return f"lower={self.lower}, upper={self.upper}{', inplace=True' if self.inplace else ''}"


class PReLU(Module):
    """``input`` where positive, else ``weight * input`` (He et al. 2015; torch's ``nn.PReLU``).

    Args:
        num_parameters: the size of ``weight``: 1, or one slope a channel (dimension 1 of the input).
        init: the first value of the slopes.
        device: where they live, as in :meth:`Module.to`.
        dtype: their dtype, which is that of the input.
    """

    weight: Any

    def __init__(self, num_parameters: int = 1, init: float = 0.25, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.num_parameters = num_parameters
        self.init = init
        self.weight = blank(num_parameters, dtype=dtype)
        self.reset_parameters()
        place(self, device)

    def reset_parameters(self) -> None:
        """Every slope ``init``."""
        initialise.constant_(self.weight, self.init)

    def forward(self, input: jax.Array) -> jax.Array:
        return F.prelu(input, self.weight)

    def extra_repr(self) -> str:
        return f"num_parameters={self.num_parameters}"


class ELU(Module):
    """``input`` where positive, else ``alpha * (exp(input) - 1)`` (Clevert et al. 2015; torch's ``nn.ELU``)."""

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        super().__init__()
        self.alpha = alpha
        self.inplace = inplace

    def forward(self, input: jax.Array) -> jax.Array:
        return F.elu(input, self.alpha, self.inplace)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}{', inplace=True' if self.inplace else ''}"


class CELU(Module):
    """``input`` where positive, else ``alpha * (exp(input / alpha) - 1)`` (Barron 2017; torch's ``nn.CELU``)."""

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        super().__init__()
        self.alpha = alpha
        self.inplace = inplace

    def forward(self, input: jax.Array) -> jax.Array:
        return F.celu(input, self.alpha, self.inplace)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}{', inplace=True' if self.inplace else ''}"


class SELU(InplaceActivation):
    """ELU scaled so that mean 0 and variance 1 are kept (Klambauer et al. 2017; torch's ``nn.SELU``)."""

    def forward(self, input: jax.Array) -> jax.Array:
        return F.selu(input, self.inplace)


class Threshold(Module):
    """``input`` where it is above ``threshold``, else ``value`` (torch's ``nn.Threshold``)."""

    def __init__(self, threshold: float, value: float, inplace: bool = False) -> None:
        super().__init__()
        self.threshold = threshold
        self.value = value
        self.inplace = inplace

    def forward(self, input: jax.Array) -> jax.Array:
        return F.threshold(input, self.threshold, self.value, self.inplace)

    def extra_repr(self) -> str:
        return f"threshold={self.threshold}, value={self.value}{', inplace=True' if self.inplace else ''}"
