"""Elements moved between channels and space, or between channels: reshapes and transpositions, which compile to one copy."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from objnet.core.arrays import as_array
from objnet.nn.functional._spatial import size

__all__ = ["channel_shuffle", "native_channel_shuffle", "pixel_shuffle", "pixel_unshuffle"]


def pixel_shuffle(input: jax.Array, upscale_factor: int) -> jax.Array:
    """Spread groups of channels over squares of pixels (torch's ``pixel_shuffle``, Shi et al. 2016).

    Args:
        input: (\\*, C * r * r, H, W), any dtype.
        upscale_factor: r.

    Returns:
        (\\*, C, H * r, W * r) of the input's dtype.

    Raises:
        RuntimeError: fewer than 3 dimensions, r below 1, channels that r * r does not divide.
        TypeError: r is no integer.
    """
    x, r = _checked("pixel_shuffle", "upscale_factor", input, upscale_factor)
    *batch, channels, height, width = x.shape
    if channels % (r * r):
        raise RuntimeError(f"pixel_shuffle: {channels} channels are not divisible by {r * r} (input of shape {x.shape})")
    x = x.reshape(*batch, channels // (r * r), r, r, height, width)
    return _last_five(x, 0, 3, 1, 4, 2).reshape(*batch, channels // (r * r), height * r, width * r)


def pixel_unshuffle(input: jax.Array, downscale_factor: int) -> jax.Array:
    """Gather squares of pixels into channels, the inverse of :func:`pixel_shuffle` (torch's ``pixel_unshuffle``).

    Args:
        input: (\\*, C, H * r, W * r), any dtype.
        downscale_factor: r.

    Returns:
        (\\*, C * r * r, H, W) of the input's dtype.

    Raises:
        RuntimeError: fewer than 3 dimensions, r below 1, a height or width that r does not divide.
        TypeError: r is no integer.
    """
    x, r = _checked("pixel_unshuffle", "downscale_factor", input, downscale_factor)
    *batch, channels, height, width = x.shape
    if height % r or width % r:
        raise RuntimeError(f"pixel_unshuffle: height {height} and width {width} must be divisible by {r}")
    x = x.reshape(*batch, channels, height // r, r, width // r, r)
    return _last_five(x, 0, 2, 4, 1, 3).reshape(*batch, channels * r * r, height // r, width // r)


def channel_shuffle(input: jax.Array, groups: int) -> jax.Array:
    """Deal the channels of each group out in turns (torch's ``channel_shuffle``, Zhang et al. 2017).

    Args:
        input: (N, C, \\*), at least 3 dimensions, any dtype.
        groups: how many runs of neighbouring channels there are before.

    Returns:
        The same shape and dtype.

    Raises:
        RuntimeError: fewer than 3 dimensions, ``groups`` below 1 or not dividing the channels.
        TypeError: ``groups`` is no integer.
    """
    x, groups = _checked("channel_shuffle", "groups", input, groups)
    batch, channels, *rest = x.shape
    if channels % groups:
        raise RuntimeError(f"channel_shuffle: {channels} channels are not divisible by {groups} groups")
    return jnp.swapaxes(x.reshape(batch, groups, channels // groups, *rest), 1, 2).reshape(x.shape)


def native_channel_shuffle(input: jax.Array, groups: int) -> jax.Array:
    """:func:`channel_shuffle`, under the name torch gives its CPU kernel."""
    return channel_shuffle(input, groups)


def _checked(function: str, name: str, input: Any, number: Any) -> tuple[jax.Array, int]:
    x, number = as_array(input), size(function, name, number)
    if x.ndim < 3:
        raise RuntimeError(f"{function} takes an input of at least 3 dimensions, got shape {x.shape}")
    if number < 1:
        raise RuntimeError(f"{function}: {name} must be positive, got {number}")
    return x, number


def _last_five(x: jax.Array, *order: int) -> jax.Array:
    first = x.ndim - 5
    return x.transpose(*range(first), *(first + axis for axis in order))
