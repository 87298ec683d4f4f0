"""Padding as layers: a base class for each mode, and for each number of dimensions a class that spreads one number."""

from __future__ import annotations

from typing import Any, ClassVar

import jax

from objnet.core.arrays import as_array
from objnet.nn import functional as F
from objnet.nn.module import Module
from objnet.nn.modules._sizes import Size2, Size4, Size6, spread

__all__ = [
    "CircularPad1d",
    "CircularPad2d",
    "CircularPad3d",
    "ConstantPad1d",
    "ConstantPad2d",
    "ConstantPad3d",
    "ReflectionPad1d",
    "ReflectionPad2d",
    "ReflectionPad3d",
    "ReplicationPad1d",
    "ReplicationPad2d",
    "ReplicationPad3d",
    "ZeroPad1d",
    "ZeroPad2d",
    "ZeroPad3d",
]


class _PadNd(Module):
    """Pads with values of the input.

    Args:
        padding: how much on every side, or (left, right), then (top, bottom), then (front, back); negative numbers cut.
    """

    padding: tuple[int, ...]
    _mode: ClassVar[str]

    def _pad(self, input: Any) -> jax.Array:
        return F.pad(input, self.padding, self._mode)

    def forward(self, input: jax.Array) -> jax.Array:
        return self._pad(input)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class _CircularPadNd(_PadNd):
    _mode = "circular"

    def forward(self, input: jax.Array) -> jax.Array:
        n, ndim = len(self.padding) // 2, as_array(input).ndim
        if ndim not in (n + 1, n + 2):
            raise ValueError(f"{type(self).__name__} takes an input of {n + 1} or {n + 2} dimensions, got {ndim}")
        return self._pad(input)


class CircularPad1d(_CircularPadNd):
    """Continues (N, C, L) or (C, L) at the other end (torch's ``nn.CircularPad1d``)."""

    def __init__(self, padding: Size2) -> None:
        super().__init__()
        self.padding = spread(padding, 2)


class CircularPad2d(_CircularPadNd):
    """Continues (N, C, H, W) or (C, H, W) at the other end (torch's ``nn.CircularPad2d``)."""

    def __init__(self, padding: Size4) -> None:
        super().__init__()
        self.padding = spread(padding, 4)


class CircularPad3d(_CircularPadNd):
    """Continues (N, C, D, H, W) or (C, D, H, W) at the other end (torch's ``nn.CircularPad3d``)."""

    def __init__(self, padding: Size6) -> None:
        super().__init__()
        self.padding = spread(padding, 6)


class _ConstantPadNd(_PadNd):
    """Pads with ``value``; the arguments are ``padding``, as of :class:`_PadNd`, and ``value``."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def _pad(self, input: Any) -> jax.Array:
        return F.pad(input, self.padding, "constant", self.value)

    def extra_repr(self) -> str:
        return f"padding={self.padding}, value={self.value}"


class ConstantPad1d(_ConstantPadNd):
    """Pads the last dimension with ``value`` (torch's ``nn.ConstantPad1d``)."""

    def __init__(self, padding: Size2, value: float) -> None:
        super().__init__(value)
        self.padding = spread(padding, 2)


class ConstantPad2d(_ConstantPadNd):
    """Pads the last two dimensions with ``value`` (torch's ``nn.ConstantPad2d``)."""

    def __init__(self, padding: Size4, value: float) -> None:
        super().__init__(value)
        self.padding = spread(padding, 4)


class ConstantPad3d(_ConstantPadNd):
    """Pads the last three dimensions with ``value`` (torch's ``nn.ConstantPad3d``)."""

    def __init__(self, padding: Size6, value: float) -> None:
        super().__init__(value)
        self.padding = spread(padding, 6)


class _ReflectionPadNd(_PadNd):
    _mode = "reflect"


class ReflectionPad1d(_ReflectionPadNd):
    """Mirrors (N, C, L) or (C, L) at its ends (torch's ``nn.ReflectionPad1d``)."""

    def __init__(self, padding: Size2) -> None:
        super().__init__()
        self.padding = spread(padding, 2)


class ReflectionPad2d(_ReflectionPadNd):
    """Mirrors (N, C, H, W) or (C, H, W) at its borders (torch's ``nn.ReflectionPad2d``)."""

    def __init__(self, padding: Size4) -> None:
        super().__init__()
        self.padding = spread(padding, 4)


class ReflectionPad3d(_ReflectionPadNd):
    """Mirrors (N, C, D, H, W) or (C, D, H, W) at its borders (torch's ``nn.ReflectionPad3d``)."""

    def __init__(self, padding: Size6) -> None:
        super().__init__()
        self.padding = spread(padding, 6)


class _ReplicationPadNd(_PadNd):
    _mode = "replicate"


class ReplicationPad1d(_ReplicationPadNd):
    """Repeats the ends of (N, C, L) or (C, L) (torch's ``nn.ReplicationPad1d``)."""

    def __init__(self, padding: Size2) -> None:
        super().__init__()
        self.padding = spread(padding, 2)


class ReplicationPad2d(_ReplicationPadNd):
    """Repeats the borders of (N, C, H, W) or (C, H, W) (torch's ``nn.ReplicationPad2d``)."""

    def __init__(self, padding: Size4) -> None:
        super().__init__()
        self.padding = spread(padding, 4)


class ReplicationPad3d(_ReplicationPadNd):
    """Repeats the borders of (N, C, D, H, W) or (C, D, H, W) (torch's ``nn.ReplicationPad3d``)."""

    def __init__(self, padding: Size6) -> None:
        super().__init__()
        self.padding = spread(padding, 6)


class ZeroPad1d(ConstantPad1d):
    """Pads the last dimension with 0 (torch's ``nn.ZeroPad1d``)."""

    def __init__(self, padding: Size2) -> None:
        super().__init__(padding, 0.0)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class ZeroPad2d(ConstantPad2d):
    """Pads the last two dimensions with 0 (torch's ``nn.ZeroPad2d``)."""

    def __init__(self, padding: Size4) -> None:
        super().__init__(padding, 0.0)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class ZeroPad3d(ConstantPad3d):
    """Pads the last three dimensions with 0 (torch's ``nn.ZeroPad3d``)."""

    def __init__(self, padding: Size6) -> None:
        super().__init__(padding, 0.0)

    def extra_repr(self) -> str:
        return f"{self.padding}"
