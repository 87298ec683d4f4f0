"""Interpolation: an input made larger or smaller along its spatial dimensions, one dimension after the other."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from objnet.core.arrays import as_array
from objnet.nn.functional import _interpolation as kernels
from objnet.nn.functional._common import host, is_concrete, is_floating, is_half, widen
from objnet.nn.functional._interpolation import FILTERS, Resize
from objnet.nn.functional._spatial import size as as_size
from objnet.nn.functional._taps import Taps, tapped
from objnet.nn.functional.adaptive_pooling import adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d

__all__ = ["interpolate", "upsample", "upsample_bilinear", "upsample_nearest"]

# mode: spatial dimensions it takes
_MODES = {
    "nearest": (1, 2, 3),
    "nearest-exact": (1, 2, 3),
    "area": (1, 2, 3),
    "linear": (1,),
    "bilinear": (2,),
    "bicubic": (2,),
    "trilinear": (3,),
    "lanczos": (2,),
}
_UNALIGNED = ("nearest", "nearest-exact", "area")
_AREA = {1: adaptive_avg_pool1d, 2: adaptive_avg_pool2d, 3: adaptive_avg_pool3d}


def interpolate(
    input: jax.Array,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> jax.Array:
    """Make ``input`` larger or smaller (torch's ``interpolate``).

    Args:
        input: (N, C, L), (N, C, H, W) or (N, C, D, H, W), floating point; images of the modes ``"nearest"``,
            ``"nearest-exact"``, ``"bilinear"``, ``"bicubic"`` and ``"lanczos"`` may be uint8.
        size: spatial sizes of the output, one for all or one each.
        scale_factor: in place of ``size``, how many times larger, one for all or one each.
        mode: ``"nearest"``, ``"nearest-exact"``, ``"area"`` for any input, ``"linear"`` for one spatial dimension,
            ``"bilinear"``, ``"bicubic"``, ``"lanczos"`` for two, ``"trilinear"`` for three.
        align_corners: whether the first and last elements of input and output coincide, rather than their outer edges.
        recompute_scale_factor: take the ratio of the sizes instead of ``scale_factor`` once the sizes are known.
        antialias: average over all that an element of the output covers; ``"bilinear"``, ``"bicubic"``, ``"lanczos"`` only.

    Returns:
        (N, C, *sizes) of the input's dtype. The gradient is that of this function; torch's differs from its own forward
        pass for ``"nearest"`` with a ``scale_factor`` that gives twice or once the input's size without being 2 or 1.

    Raises:
        ValueError: neither or both of ``size`` and ``scale_factor``, or of another length than the spatial dimensions;
            options that do not go together.
        NotImplementedError: a mode that is unknown, or does not take this number of dimensions or this dtype.
        RuntimeError: an empty input or output.
        TypeError: sizes that are no integers, factors that are no numbers.
    """
    x = as_array(input)
    if mode in _UNALIGNED and align_corners is not None:
        raise ValueError(f"interpolate: align_corners does nothing in mode {mode!r}: leave it None")
    n = x.ndim - 2
    counts, factors = _target(x.shape[2:], size, scale_factor, bool(recompute_scale_factor) or mode == "area")
    if recompute_scale_factor and size is not None:
        raise ValueError("interpolate: recompute_scale_factor=True goes with scale_factor, not with size")
    if antialias and (mode not in FILTERS or x.ndim != 4):
        raise ValueError(f"interpolate: antialias=True takes modes {tuple(FILTERS)} and (N, C, H, W), got {mode!r}, {x.shape}")
    if n not in _MODES.get(mode, ()):
        takes = f"takes {_MODES[mode]} spatial dimensions" if mode in _MODES else f"is none of {tuple(_MODES)}"
        raise NotImplementedError(f"interpolate: mode {mode!r} {takes}, got an input of shape {x.shape}")
    if mode == "lanczos" and (align_corners or not antialias):
        raise ValueError("interpolate: mode 'lanczos' takes antialias=True and not align_corners=True")
    if mode == "area":
        return _AREA[n](x, counts)
    _check(x, counts, mode, antialias)
    # torch leaves a dimension that keeps its length alone, whatever the factor, but for these
    every = mode.startswith("nearest") or (mode == "bicubic" and not antialias and is_floating(x))
    along = [Resize(*numbers) for numbers in zip(x.shape[2:], counts, factors, strict=True)]
    return _resized(x, along, _kernel(mode, bool(align_corners), antialias, counts), every)


def upsample(
    input: jax.Array,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
) -> jax.Array:
    """:func:`interpolate` under an older name, with a warning (torch's ``upsample``)."""
    _deprecated("upsample")
    return interpolate(input, size, scale_factor, mode, align_corners)


def upsample_nearest(
    input: jax.Array, size: int | Sequence[int] | None = None, scale_factor: float | Sequence[float] | None = None
) -> jax.Array:
    """:func:`interpolate` with ``mode="nearest"``, with a warning (torch's ``upsample_nearest``)."""
    _deprecated("upsample_nearest")
    return interpolate(input, size, scale_factor, mode="nearest")


def upsample_bilinear(
    input: jax.Array, size: int | Sequence[int] | None = None, scale_factor: float | Sequence[float] | None = None
) -> jax.Array:
    """:func:`interpolate` with ``mode="bilinear", align_corners=True``, with a warning (torch's ``upsample_bilinear``)."""
    _deprecated("upsample_bilinear")
    return interpolate(input, size, scale_factor, mode="bilinear", align_corners=True)


def _deprecated(function: str) -> None:
    warnings.warn(f"{function} is deprecated: call interpolate", UserWarning, stacklevel=3)


def _target(
    lengths: tuple[int, ...], size: Any, scale_factor: Any, recompute: bool
) -> tuple[tuple[int, ...], tuple[float | None, ...]]:
    """The sizes of the output, and the factors that decide where its elements come from."""
    if (size is None) == (scale_factor is None):
        raise ValueError("interpolate: give one of size and scale_factor, and only one")
    if size is not None:
        return tuple(_whole(s) for s in _each("size", size, lengths)), (None,) * len(lengths)
    factors = tuple(_real(f) for f in _each("scale_factor", scale_factor, lengths))
    if not recompute and not all(abs(n * f) < 2**63 for n, f in zip(lengths, factors, strict=True)):
        raise RuntimeError(f"interpolate: scale_factor {scale_factor} makes a size that is no 64-bit integer")
    counts = tuple(int(n * f) for n, f in zip(lengths, factors, strict=True))
    return counts, (None,) * len(lengths) if recompute else factors


def _each(name: str, value: Any, lengths: tuple[int, ...]) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        return (value,) * len(lengths)
    if len(value) != len(lengths):
        raise ValueError(f"interpolate: {name} needs one entry for each spatial dimension {lengths}, got {tuple(value)}")
    return tuple(value)


def _whole(value: Any) -> int:
    if isinstance(value, (jax.Array, np.ndarray)) and value.ndim == 0 and jnp.issubdtype(value.dtype, jnp.integer):
        value = operator.index(host(value)) if isinstance(value, np.ndarray) or is_concrete(value) else value
    return as_size("interpolate", "size", value)


def _real(value: Any) -> float:
    if isinstance(value, str) or not hasattr(value, "__float__"):
        raise TypeError(f"interpolate: scale_factor must be a number or a tuple of numbers, got {value!r}")
    return float(value)


def _check(x: jax.Array, counts: tuple[int, ...], mode: str, antialias: bool) -> None:
    if min(*x.shape[2:], *counts) < 1:
        raise RuntimeError(f"interpolate: spatial sizes must be at least 1, got an input {x.shape} and an output {counts}")
    if x.shape[1] == 0:
        raise RuntimeError(f"interpolate: mode {mode!r} needs an input with channels, got shape {x.shape}")
    image = x.dtype == jnp.uint8 and mode not in ("linear", "trilinear")
    if not image and (not is_floating(x) or (antialias and is_half(x))):
        raise NotImplementedError(f"interpolate: mode {mode!r}, antialias={antialias} is not implemented for {x.dtype}")


def _kernel(
    mode: str, align_corners: bool, antialias: bool, counts: tuple[int, ...]
) -> Callable[[Resize, type[np.floating]], Taps]:
    small = kernels.is_small(counts)
    if mode.startswith("nearest"):
        return partial(kernels.nearest if mode == "nearest" else kernels.nearest_exact, small=small)
    if antialias:
        return partial(kernels.antialiased, align_corners=align_corners, kernel=FILTERS[mode])
    return partial(kernels.cubic if mode == "bicubic" else kernels.linear, align_corners=align_corners)


def _resized(x: jax.Array, along: list[Resize], kernel: Callable[[Resize, type[np.floating]], Taps], every: bool) -> jax.Array:
    wide = widen(x)
    real = np.float64 if x.dtype == jnp.float64 else np.float32
    # from the last dimension to the first, as torch goes where it rounds in between, which is for uint8
    for axis, resize in reversed(list(enumerate(along, 2))):
        if resize.count == resize.length and not every:
            continue
        taps = kernel(resize, real)
        if taps.weights is None or is_floating(x):
            wide = tapped(wide, axis, taps)
        else:
            wide = _tapped_bytes(wide, axis, *kernels.fixed_point(kernel(resize, np.float64)))
    return wide.astype(x.dtype)


def _tapped_bytes(x: jax.Array, axis: int, taps: Taps, bits: int) -> jax.Array:
    total = tapped(x.astype(jnp.int32), axis, taps) + (1 << (bits - 1))
    return jnp.clip(total >> bits, 0, 255).astype(jnp.uint8)
