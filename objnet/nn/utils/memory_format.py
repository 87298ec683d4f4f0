"""Memory formats, which jax arrays do not have."""

from __future__ import annotations

from typing import Any, NoReturn

from objnet.nn.torch_only import refuse

__all__ = ["convert_conv2d_weight_memory_format", "convert_conv3d_weight_memory_format"]


def convert_conv2d_weight_memory_format(module: Any, memory_format: Any) -> NoReturn:
    """Has no meaning here: raises TorchOnlyError."""
    raise refuse("memory format", "the compiler lays arrays out for the convolutions of each program; leave the call out instead")


def convert_conv3d_weight_memory_format(module: Any, memory_format: Any) -> NoReturn:
    """Has no meaning here: raises TorchOnlyError."""
    convert_conv2d_weight_memory_format(module, memory_format)
