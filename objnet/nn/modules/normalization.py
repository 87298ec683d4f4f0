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
from objnet.nn.modules.response_norm import CrossMapLRN2d, LocalResponseNorm

__all__ = ["CrossMapLRN2d", "GroupNorm", "LayerNorm", "LocalResponseNorm", "RMSNorm"]


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
        self.normalized_shape = sizes = _sizes(normalized_shape)
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


class RMSNorm(Module):
    """Mean square 1 over the last dimensions, then ``* weight`` (Zhang and Sennrich 2019; torch's ``nn.RMSNorm``).

    Input (..., *normalized_shape), output the same shape and dtype.

    Args:
        normalized_shape: the trailing sizes to normalise over together; one number is the last.
        eps: added to the mean square; None is the epsilon of float32, or of float64 for that dtype.
        elementwise_affine: whether there is a ``weight`` of ``normalized_shape``, starting at one.
        device: where it lives, as in :meth:`Module.to`.
        dtype: its dtype.
    """

    weight: Any

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.normalized_shape = sizes = _sizes(normalized_shape)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        self.register_parameter("weight", blank(*sizes, dtype=dtype) if elementwise_affine else None)
        self.reset_parameters()
        place(self, device)

    def reset_parameters(self) -> None:
        """Weight one."""
        if self.elementwise_affine:
            init.ones_(self.weight)

    def forward(self, x: jax.Array) -> jax.Array:
        return F.rms_norm(x, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class GroupNorm(Module):
    """Mean 0 and variance 1 in every group of channels of every example, then ``* weight + bias`` (Wu and He 2018; torch's).

    Input (N, C, ...), output the same shape and dtype.

    Args:
        num_groups: the number of groups, a divisor of ``num_channels``.
        num_channels: channels C.
        eps: added to the variance.
        affine: whether there are ``weight`` and ``bias`` (C,), starting at one and zero.
        device: where they live, as in :meth:`Module.to`.
        dtype: their dtype.
        bias: whether an affine layer has a bias.

    Raises:
        ValueError: ``num_groups`` does not divide ``num_channels``.
    """

    weight: Any
    bias: Any

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if num_channels % num_groups:
            raise ValueError(f"num_channels ({num_channels}) must be divisible by num_groups ({num_groups})")
        self.num_groups = num_groups
        self.num_channels = num_channels
        self.eps = eps
        self.affine = affine
        for name, wanted in (("weight", affine), ("bias", affine and bias)):
            self.register_parameter(name, blank(num_channels, dtype=dtype) if wanted else None)
        self.reset_parameters()
        place(self, device)

    def reset_parameters(self) -> None:
        """Weight one, bias zero."""
        if self.affine:
            init.ones_(self.weight)
            if self.bias is not None:
                init.zeros_(self.bias)

    def forward(self, input: jax.Array) -> jax.Array:
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}, bias={self.bias is not None}"


def _sizes(normalized_shape: int | Sequence[int]) -> tuple[int, ...]:
    if isinstance(normalized_shape, numbers.Integral):
        return (int(normalized_shape),)
    return tuple(cast(Sequence[int], normalized_shape))
