"""Memory formats, which jax arrays do not have."""

from __future__ import annotations

from typing import Any, NoReturn

__all__ = ["convert_conv2d_weight_memory_format", "convert_conv3d_weight_memory_format"]


def convert_conv2d_weight_memory_format(module: Any, memory_format: Any) -> NoReturn:
    """Has no meaning here: raises NotImplementedError."""
    raise NotImplementedError(
        "a jax array has no memory format: the compiler lays arrays out for the convolutions of each program. Leave the call out."
    )


def convert_conv3d_weight_memory_format(module: Any, memory_format: Any) -> NoReturn:
    """Has no meaning here: raises NotImplementedError."""
    convert_conv2d_weight_memory_format(module, memory_format)
