"""Padding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from objnet.core.arrays import as_array
from objnet.nn.functional._spatial import padded, size

__all__ = ["pad"]

_MODES = ("constant", "reflect", "replicate", "circular")
# dimensions padded: dimensions an input may have, for the modes that are not constant
_RANKS = {1: (2, 3), 2: (3, 4), 3: (4, 5)}


def pad(input: jax.Array, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> jax.Array:
    """Enlarge ``input`` at its borders, or with negative numbers cut it (torch's ``pad``).

    Args:
        input: any shape for ``"constant"``; for the other modes 1, 2 or 3 dimensions padded, behind (C,) or (N, C).
        pad: (before, after) of the last dimension, then of the one before it, and so on.
        mode: ``"constant"``, or values of the input itself: ``"reflect"`` mirrors them without repeating the border,
            ``"replicate"`` repeats the border, ``"circular"`` continues at the other end.
        value: what ``"constant"`` fills with, 0 if None.

    Returns:
        The padded input, of its dtype.

    Raises:
        RuntimeError: ``pad`` of odd length or longer than the input has dimensions, a cut or a reflection larger than the
            input, a value with another mode, a value the dtype cannot hold, an empty input (reflect, replicate).
        NotImplementedError: an unknown mode, or one that does not take this number of dimensions.
        TypeError: ``pad`` is no sequence of ints, ``value`` no real number.
    """
    x = as_array(input)
    if mode not in _MODES:
        raise NotImplementedError(f"pad: unrecognised mode {mode!r}, expected one of {_MODES}")
    pads = _pairs(x, pad)
    if mode == "constant":
        _check_cuts(x, pads)
        return padded(x, pads, 0 if value is None else _fill(x, value))
    if value:
        raise RuntimeError(f"pad: mode {mode!r} takes its values from the input, so it does not take value={value!r}")
    if x.ndim not in _RANKS.get(len(pads), ()):
        raise NotImplementedError(f"pad: mode {mode!r} does not pad {len(pads)} dimensions of an input of shape {x.shape}")
    if mode != "circular" and 0 in x.shape[x.ndim - len(pads) - 1 :]:
        raise RuntimeError(f"pad: mode {mode!r} needs an input with no empty dimension but the batch, got {x.shape}")
    _check_cuts(x, pads)
    for axis, (before, after) in enumerate(pads, x.ndim - len(pads)):
        x = _extended(x, mode, axis, before, after)
    return x


def _pairs(x: jax.Array, pad: Any) -> list[tuple[int, int]]:
    """``pad`` as pairs (before, after) for the last dimensions of ``x``, in their order."""
    if not isinstance(pad, Sequence) or isinstance(pad, str):
        raise TypeError(f"pad: pad must be a tuple of ints, got {pad!r}")
    numbers = [size("pad", "pad", item) for item in pad]
    if len(numbers) % 2:
        raise RuntimeError(f"pad: pad holds pairs (before, after), so its length must be even, got {tuple(pad)}")
    if len(numbers) > 2 * x.ndim:
        raise RuntimeError(f"pad: {len(numbers) // 2} pairs are more than the {x.ndim} dimensions of the input")
    return list(zip(numbers[::2], numbers[1::2], strict=True))[::-1]


def _fill(x: jax.Array, value: Any) -> Any:
    if isinstance(value, (str, complex)) or not hasattr(value, "__float__"):
        raise TypeError(f"pad: value must be a real number, got {value!r}")
    if jnp.issubdtype(x.dtype, jnp.integer) and not isinstance(value, jax.Array):
        limits = jnp.iinfo(x.dtype)
        if not math.isfinite(value) or not limits.min <= int(value) <= limits.max:
            raise RuntimeError(f"pad: value {value!r} does not fit an input of dtype {x.dtype}")
        return int(value)
    return value


def _check_cuts(x: jax.Array, pads: Sequence[tuple[int, int]]) -> None:
    for length, (before, after) in zip(x.shape[x.ndim - len(pads) :], pads, strict=True):
        if length + min(before, 0) + min(after, 0) < 0:
            raise RuntimeError(f"pad: ({before}, {after}) cuts more than a dimension of {length} (input of shape {x.shape})")


def _extended(x: jax.Array, mode: str, axis: int, before: int, after: int) -> jax.Array:
    cuts = (max(-before, 0), max(-after, 0))
    before, after = max(before, 0), max(after, 0)
    if mode == "circular":  # torch continues with what is left after the cut, but mirrors and repeats the uncut input
        x, cuts = _cut(x, axis, cuts), (0, 0)
    length = x.shape[axis]
    part = partial(lax.slice_in_dim, x, axis=axis)
    if mode == "replicate":
        ends = [jnp.repeat(part(at, at + 1), count, axis) for at, count in ((0, before), (length - 1, after))]
    else:
        limit = length - 1 if mode == "reflect" else length
        if max(before, after) > limit:
            raise RuntimeError(f"pad: mode {mode!r} adds at most {limit} on either side of {length}, got ({before}, {after})")
        if mode == "reflect":
            ends = [lax.rev(part(1, 1 + before), (axis,)), lax.rev(part(limit - after, limit), (axis,))]
        else:
            ends = [part(limit - before, limit), part(0, after)]
    extended = _cut(jnp.concatenate([ends[0], x, ends[1]], axis), axis, cuts)
    if extended.shape[axis] == 0 and mode != "circular":
        raise RuntimeError(f"pad: mode {mode!r} must leave something of a dimension of {length}")
    return extended


def _cut(x: jax.Array, axis: int, cuts: tuple[int, int]) -> jax.Array:
    return lax.slice_in_dim(x, cuts[0], x.shape[axis] - cuts[1], axis=axis)
