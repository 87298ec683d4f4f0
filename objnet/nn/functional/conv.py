"""Convolutions: arguments checked as torch checks them, computed by :mod:`objnet.nn.functional._convolution`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from objnet.core.arrays import as_array
from objnet.core.autocast import low_precision
from objnet.nn.functional._convolution import Window, biased, convolve
from objnet.nn.functional._spatial import batched, require, size, sizes

__all__ = ["conv1d", "conv2d", "conv3d", "conv_tbc"]


@low_precision
def conv1d(
    input: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None = None,
    stride: int | tuple[int] = 1,
    padding: int | tuple[int] | str = 0,
    dilation: int | tuple[int] = 1,
    groups: int = 1,
) -> jax.Array:
    """Cross-correlation over 1 dimension (torch's ``conv1d``).

    Args:
        input: (N, C, L) or (C, L).
        weight: (O, C / groups, K), of the input's dtype.
        bias: (O,), of the input's dtype.
        stride: steps between windows; it, padding and dilation are one int, or one for each dimension.
        padding: zeros added on both sides; ``"valid"`` adds none, ``"same"`` keeps the size for stride 1, with the odd zero
            on the right.
        dilation: steps between the taps of a window.
        groups: the channels are split into this many groups, each convolved with its own part of ``weight``.

    Returns:
        (N, O, L') or (O, L'), of the input's dtype.

    Raises:
        RuntimeError: shapes that do not fit, a kernel larger than the padded input, sizes that are too small, dtypes that
            differ, ``"same"`` with a stride, an unknown padding string.
        TypeError: a size that is no integer.
        NotImplementedError: booleans.
    """
    return _conv("conv1d", 1, input, weight, bias, stride, padding, dilation, groups)


@low_precision
def conv2d(
    input: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] | str = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
) -> jax.Array:
    """Cross-correlation over 2 dimensions (torch's ``conv2d``).

    Input (N, C, H, W) or (C, H, W), weight (O, C / groups, KH, KW). The rest is as in :func:`conv1d`.
    """
    return _conv("conv2d", 2, input, weight, bias, stride, padding, dilation, groups)


@low_precision
def conv3d(
    input: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None = None,
    stride: int | tuple[int, int, int] = 1,
    padding: int | tuple[int, int, int] | str = 0,
    dilation: int | tuple[int, int, int] = 1,
    groups: int = 1,
) -> jax.Array:
    """Cross-correlation over 3 dimensions (torch's ``conv3d``).

    Input (N, C, D, H, W) or (C, D, H, W), weight (O, C / groups, KD, KH, KW). The rest is as in :func:`conv1d`.
    """
    return _conv("conv3d", 3, input, weight, bias, stride, padding, dilation, groups)


@low_precision
def conv_tbc(input: jax.Array, weight: jax.Array, bias: jax.Array, pad: int = 0) -> jax.Array:
    """Cross-correlation over a sequence laid out (time, batch, channels) (torch's ``F.conv_tbc``).

    Args:
        input: (T, N, C).
        weight: (K, C, O), of the input's dtype.
        bias: (O,).
        pad: zeros added at both ends of the time; negative takes away.

    Returns:
        (T + 2 * pad - K + 1, N, O), of the input's dtype.

    Raises:
        RuntimeError: shapes or dtypes that do not fit.
        TypeError: no bias, or a ``pad`` that is no integer.
        NotImplementedError: booleans.
    """
    x, w, b = as_array(input), as_array(weight), as_array(bias)
    pad = size("conv_tbc", "pad", pad)
    if x.ndim != 3 or w.ndim != 3 or x.shape[2] != w.shape[1] or b.shape != w.shape[2:]:
        raise RuntimeError(
            f"conv_tbc: input {x.shape}, weight {w.shape} and bias {b.shape} do not fit: (T, N, C), (K, C, O), (O,)"
        )
    check_arrays("conv_tbc", 1, x, w, None, "(K, C, O)")
    length = x.shape[0] + 2 * pad - w.shape[0] + 1
    if length < 0:
        raise RuntimeError(f"conv_tbc: a kernel of {w.shape[0]} steps on {x.shape[0]} with pad={pad} gives {length} steps")
    if 0 in (*x.shape, *w.shape, length):
        y = jnp.zeros((x.shape[1], w.shape[2], length), x.dtype)
    else:
        y = convolve(x.transpose(1, 2, 0), w.transpose(2, 1, 0), Window((1,), ((pad, pad),), (1,)), 1)
    return biased(y, b.astype(x.dtype)).transpose(2, 0, 1)


def _conv(
    function: str, n: int, input: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: Any
) -> jax.Array:
    x, w = as_array(input), as_array(weight)
    b = None if bias is None else as_array(bias)
    if b is not None and isinstance(padding, str) and not jnp.issubdtype(b.dtype, jnp.complexfloating):
        b = b.astype(x.dtype)  # there torch takes a bias of another dtype
    check_arrays(function, n, x, w, b, "(O, C / groups, *kernel)")
    x, unbatched = batched(function, x, n)
    groups = size(function, "groups", groups)
    _check_channels(function, x, w, b, groups)
    window = _window(function, w.shape[2:], stride, padding, dilation)
    lengths = _output_lengths(function, x.shape[2:], w.shape[2:], window)
    if x.size == 0:
        # nothing to sum; without input channels torch gives no output channels either
        return unbatched(jnp.zeros((x.shape[0], w.shape[0] if x.shape[1] else 0, *lengths), x.dtype))
    return unbatched(biased(convolve(x, w, window, groups), b))


def check_arrays(function: str, n: int, x: jax.Array, w: jax.Array, b: jax.Array | None, layout: str) -> None:
    """Refuse a weight of another number of dimensions than ``layout`` says, dtypes that differ, and booleans."""
    if w.ndim != n + 2:
        raise RuntimeError(f"{function} takes a weight of {n + 2} dimensions, {layout}, got {w.shape}")
    for name, array in (("weight", w), ("bias", b)):
        if array is not None and array.dtype != x.dtype:
            kind = NotImplementedError if jnp.issubdtype(x.dtype, jnp.integer) else RuntimeError  # torch has few integer kernels
            raise kind(f"{function}: input ({x.dtype}) and {name} ({array.dtype}) must be of the same dtype")
    if x.dtype == jnp.bool_:
        raise NotImplementedError(f"{function} is not implemented for bool: convert the arrays")


def _check_channels(function: str, x: jax.Array, w: jax.Array, b: jax.Array | None, groups: int) -> None:
    require(function, "groups", (groups,), 1)
    if w.shape[0] < groups or w.shape[0] % groups:
        raise RuntimeError(f"{function}: {groups} groups must divide the output channels, got a weight of shape {w.shape}")
    if x.shape[1] != w.shape[1] * groups:
        raise RuntimeError(
            f"{function}: with groups={groups} and a weight of shape {w.shape} the input must have {w.shape[1] * groups} "
            f"channels, got {x.shape[1]} (input of shape {x.shape})"
        )
    if b is not None and b.shape != w.shape[:1]:
        raise RuntimeError(f"{function}: bias must be of shape {w.shape[:1]}, one for each output channel, got {b.shape}")


def _window(function: str, kernel: tuple[int, ...], stride: Any, padding: Any, dilation: Any) -> Window:
    n = len(kernel)
    stride, dilation = sizes(function, "stride", stride, n), sizes(function, "dilation", dilation, n)
    if padding == "same" and any(s != 1 for s in stride):
        raise RuntimeError(f"{function}: padding='same' is not supported with a stride, got stride={stride}")
    require(function, "stride", stride, 1)
    require(function, "dilation", dilation, 1)
    require(function, "the kernel's size", kernel, 1)
    if padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return Window(stride, tuple((total // 2, total - total // 2) for total in totals), dilation)
    if isinstance(padding, str):
        if padding != "valid":
            raise RuntimeError(f"{function}: padding must be ints, 'same' or 'valid', got {padding!r}")
        padding = 0
    padding = sizes(function, "padding", padding, n)
    require(function, "padding", padding, 0)
    return Window(stride, tuple((p, p) for p in padding), dilation)


def _output_lengths(function: str, lengths: tuple[int, ...], kernel: tuple[int, ...], window: Window) -> tuple[int, ...]:
    full = [length + before + after for length, (before, after) in zip(lengths, window.padding, strict=True)]
    reach = [d * (k - 1) + 1 for d, k in zip(window.dilation, kernel, strict=True)]
    if 0 in lengths or any(f < r for f, r in zip(full, reach, strict=True)):
        raise RuntimeError(
            f"{function}: the kernel reaches over {tuple(reach)}, more than the padded input of {tuple(full)} (an input of "
            f"spatial shape {lengths}, which may not be empty either)"
        )
    return tuple((f - r) // s + 1 for f, r, s in zip(full, reach, window.stride, strict=True))
