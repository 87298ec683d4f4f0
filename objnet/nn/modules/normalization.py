"""Normalisation of single examples."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any, cast

import jax

from objnet.nn import functional as F
from objnet.nn import init
from objnet.nn.module import Module
from objnet.nn.modules._parameters import blank, place

__all__ = ["LayerNorm"]


class LayerNorm(Module):
    """Mean 0 and variance 1 over the last dimensions, then ``* weight + bias`` (Ba et al. 2016; torch's ``nn.LayerNorm``).

    Input (..., *normalized_shape), output the same shape and dtype.

    Args:
        normalized_shape: the trailing sizes to normalise over together; one number is the last.
        eps: added to the variance.
        elementwise_affine: whether there are ``weight`` and ``bias`` of ``normalized_shape``, starting at one and zero.
        bias: whether there is a bias.
        device: where the parameters live, as in :meth:`Module.to`.
        dtype: their dtype.
    """

    weight: Any
    bias: Any

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if isinstance(normalized_shape, numbers.Integral):
            normalized_shape = (int(normalized_shape),)
        self.normalized_shape = sizes = tuple(cast(Sequence[int], normalized_shape))
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        for name, wanted in (("weight", elementwise_affine), ("bias", elementwise_affine and bias)):
            self.register_parameter(name, blank(*sizes, dtype=dtype) if wanted else None)
        self.reset_parameters()
        place(self, device)

    def reset_parameters(self) -> None:
        """Weight one, bias zero."""
        if self.elementwise_affine:
            init.ones_(self.weight)
            if self.bias is not None:
                init.zeros_(self.bias)

    def forward(self, input: jax.Array) -> jax.Array:
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}, bias={self.bias is not None}"
        )
