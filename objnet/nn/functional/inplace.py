"""The spellings of activations that torch computes in place: ``relu_`` and its like.

A Parameter, Buffer or view is written to and returned.  A jax array is immutable: its caller gets the new value and must
use it, as in ``x = F.relu_(x)``.  Dtypes and errors are those of the names without the underscore.
"""

from __future__ import annotations

from typing import Any

from objnet.nn.functional import clipping, rectifier

__all__ = ["celu_", "elu_", "hardtanh_", "leaky_relu_", "relu_", "rrelu_", "selu_", "threshold_"]


def relu_(input: Any) -> Any:
    """``relu`` written to ``input`` (torch's ``F.relu_``)."""
    return rectifier.relu(input, inplace=True)


def threshold_(input: Any, threshold: float, value: float) -> Any:
    """``threshold`` written to ``input`` (torch's ``F.threshold_``)."""
    return rectifier.threshold(input, threshold, value, inplace=True)


def leaky_relu_(input: Any, negative_slope: float = 0.01) -> Any:
    """``leaky_relu`` written to ``input`` (torch's ``F.leaky_relu_``)."""
    return rectifier.leaky_relu(input, negative_slope, inplace=True)


def rrelu_(input: Any, lower: float = 1.0 / 8, upper: float = 1.0 / 3, training: bool = False) -> Any:
    """``rrelu`` written to ``input`` (torch's ``F.rrelu_``)."""
    return rectifier.rrelu(input, lower, upper, training, inplace=True)


def elu_(input: Any, alpha: float = 1.0) -> Any:
    """``elu`` written to ``input`` (torch's ``F.elu_``)."""
    return rectifier.elu(input, alpha, inplace=True)


def celu_(input: Any, alpha: float = 1.0) -> Any:
    """``celu`` written to ``input`` (torch's ``F.celu_``)."""
    return rectifier.celu(input, alpha, inplace=True)


def selu_(input: Any) -> Any:
    """``selu`` written to ``input`` (torch's ``F.selu_``)."""
    return rectifier.selu(input, inplace=True)


def hardtanh_(input: Any, min_val: float = -1.0, max_val: float = 1.0) -> Any:
    """``hardtanh`` written to ``input`` (torch's ``F.hardtanh_``)."""
    return clipping.hardtanh(input, min_val, max_val, inplace=True)
