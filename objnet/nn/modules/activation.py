"""Activation functions as modules: the smooth ones, and under one roof with them, as in torch, all the others."""

from __future__ import annotations

import jax

from objnet.nn import functional as F
from objnet.nn.module import Module
from objnet.nn.modules.attention import MultiheadAttention
from objnet.nn.modules.clipping import Hardshrink, Hardsigmoid, Hardswish, Hardtanh, ReLU6, Softshrink
from objnet.nn.modules.rectifier import CELU, ELU, SELU, InplaceActivation, LeakyReLU, PReLU, ReLU, RReLU, Threshold
from objnet.nn.modules.softmax import LogSoftmax, Softmax, Softmax2d, Softmin

__all__ = [
    "CELU",
    "ELU",
    "GELU",
    "GLU",
    "SELU",
    "Hardshrink",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "LeakyReLU",
    "LogSigmoid",
    "LogSoftmax",
    "Mish",
    "MultiheadAttention",
    "PReLU",
    "RReLU",
    "ReLU",
    "ReLU6",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softmax2d",
    "Softmin",
    "Softplus",
    "Softshrink",
    "Softsign",
    "Tanh",
    "Tanhshrink",
    "Threshold",
]


class Sigmoid(Module):
    """``1 / (1 + exp(-input))`` (torch's ``nn.Sigmoid``)."""

    def forward(self, input: jax.Array) -> jax.Array:
        return F.sigmoid(input)


class Tanh(Module):
    """The hyperbolic tangent (torch's ``nn.Tanh``)."""

    def forward(self, input: jax.Array) -> jax.Array:
        return F.tanh(input)


class Tanhshrink(Module):
    """``input - tanh(input)`` (torch's ``nn.Tanhshrink``)."""

    def forward(self, input: jax.Array) -> jax.Array:
        return F.tanhshrink(input)


class Softsign(Module):
    """``input / (1 + abs(input))`` (torch's ``nn.Softsign``)."""

    def forward(self, input: jax.Array) -> jax.Array:
        return F.softsign(input)


class LogSigmoid(Module):
    """``log(sigmoid(input))`` (torch's ``nn.LogSigmoid``)."""

    def forward(self, input: jax.Array) -> jax.Array:
        return F.logsigmoid(input)


class Softplus(Module):
    """``log(1 + exp(beta * input)) / beta``, ``input`` itself where ``beta * input > threshold`` (torch's ``nn.Softplus``)."""

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        super().__init__()
        self.beta = beta
        self.threshold = threshold

    def forward(self, input: jax.Array) -> jax.Array:
        return F.softplus(input, self.beta, self.threshold)

    def extra_repr(self) -> str:
        return f"beta={self.beta}, threshold={self.threshold}"


class GELU(Module):
    """``input`` times the normal distribution function at ``input`` (Hendrycks and Gimpel 2016; torch's ``nn.GELU``).

    ``approximate`` is ``"none"`` or ``"tanh"``; anything else raises RuntimeError from a call.
    """

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = approximate

    def forward(self, input: jax.Array) -> jax.Array:
        return F.gelu(input, approximate=self.approximate)

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


class SiLU(InplaceActivation):
    """``input * sigmoid(input)`` (torch's ``nn.SiLU``)."""

    def forward(self, input: jax.Array) -> jax.Array:
        return F.silu(input, self.inplace)


class Mish(InplaceActivation):
    """``input * tanh(softplus(input))`` (Misra 2019; torch's ``nn.Mish``)."""

    def forward(self, input: jax.Array) -> jax.Array:
        return F.mish(input, self.inplace)


class GLU(Module):
    """The first half along ``dim`` times the sigmoid of the second (Dauphin et al. 2016; torch's ``nn.GLU``)."""

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: jax.Array) -> jax.Array:
        return F.glu(input, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"
