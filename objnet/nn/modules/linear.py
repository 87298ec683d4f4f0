"""Linear layers."""

from __future__ import annotations

import math
from typing import Any

import jax

from objnet.nn import functional as F
from objnet.nn import init
from objnet.nn.module import Module
from objnet.nn.modules._parameters import blank, place, reset_fan_in

__all__ = ["Bilinear", "Identity", "Linear"]


class Identity(Module):
    """Gives its input back (torch's ``nn.Identity``). Any arguments are taken, so that it can stand in for another class."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def forward(self, input: Any) -> Any:
        return input


class Linear(Module):
    """``input @ weight.T + bias`` (torch's ``nn.Linear``).

    Input (..., in_features), output (..., out_features). ``weight`` (out_features, in_features) and ``bias`` (out_features,)
    start uniform within ``1 / sqrt(in_features)``.

    Args:
        in_features: size of the last dimension of the input.
        out_features: size of the last dimension of the output.
        bias: whether there is a bias.
        device: where the parameters live, as in :meth:`Module.to`.
        dtype: their dtype.
    """

    weight: Any
    bias: Any

    def __init__(self, in_features: int, out_features: int, bias: bool = True, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.weight = blank(out_features, in_features, dtype=dtype)
        if bias:
            self.bias = blank(out_features, dtype=dtype)
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()
        place(self, device)

    def reset_parameters(self) -> None:
        """Draw new initial values."""
        reset_fan_in(self.weight, self.bias)

    def forward(self, input: jax.Array) -> jax.Array:
        return F.linear(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class Bilinear(Module):
    """``input1 @ weight[k] @ input2 + bias[k]`` for every output k (torch's ``nn.Bilinear``).

    Inputs (..., in1_features) and (..., in2_features), output (..., out_features). ``weight`` (out_features, in1_features,
    in2_features) and ``bias`` (out_features,) start uniform within ``1 / sqrt(in1_features)``.

    Args:
        in1_features: size of the last dimension of the first input.
        in2_features: size of the last dimension of the second.
        out_features: size of the last dimension of the output.
        bias: whether there is a bias.
        device: where the parameters live, as in :meth:`Module.to`.
        dtype: their dtype.

    Raises:
        ValueError: ``in1_features`` is 0.
    """

    weight: Any
    bias: Any

    def __init__(
        self,
        in1_features: int,
        in2_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.in1_features = in1_features
        self.in2_features = in2_features
        self.out_features = out_features
        self.weight = blank(out_features, in1_features, in2_features, dtype=dtype)
        if bias:
            self.bias = blank(out_features, dtype=dtype)
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()
        place(self, device)

    def reset_parameters(self) -> None:
        """Draw new initial values."""
        if self.in1_features <= 0:
            raise ValueError(f"in1_features must be positive, got {self.in1_features}")
        bound = 1 / math.sqrt(self.in1_features)
        for parameter in (self.weight, self.bias):
            if parameter is not None:
                init.uniform_(parameter, -bound, bound)

    def forward(self, input1: jax.Array, input2: jax.Array) -> jax.Array:
        return F.bilinear(input1, input2, self.weight, self.bias)

    def extra_repr(self) -> str:
        return (
            f"in1_features={self.in1_features}, in2_features={self.in2_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}"
        )
