"""How a convolution is computed: one XLA operation, or on CPU what was measured to be faster for its shape.

XLA's CPU backend is slow at some convolutions, above all at the gradients of grouped ones.  Compared, jitted, interleaved in
one process on two AVX-512 cores with jax 0.10.2 (0.12 agrees): one operation in NCHW, the same in NHWC, im2col with one matrix
product (columns in three orders), a matrix product for each tap, multiply-add for each tap.  Milliseconds, forward + backward,
one operation against what is used here:

====================================================  ======  =====
64x1x28x28 -> 32, 3x3 (one input channel)                28     11   a matrix product a tap
32x64x32x32 -> 128, 1x1 stride 2                         39     19   a matrix product
4x3x224x224 -> 192, 16x16 stride 16 (patches)            54      6   patches by reshaping, one matrix product
16x64x32x32, 3x3, 64 groups (depthwise)                  75     20   multiply-add a tap
16x64x32x32, 3x3, 4 groups                              555     29   a convolution a group
16x128x16x16, 3x3, 32 groups                           3526     59   a matrix product a tap
64x32x26x26 -> 64, 3x3 unpadded, jax 0.10 only          131     75   kept off YNNPACK (see _dense)
32x64x32x32 -> 64, 3x3 padded (ResNet)                   84     84   one operation: nothing beat it
====================================================  ======  =====

NHWC inside made no difference above the noise; im2col lost to one operation in every ordinary 3x3 shape. The choices hold, by
less, with the compiler option ``xla_cpu_experimental_ynn_fusion_type=""``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from functools import reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from objnet.core.precision import matmul_precision
from objnet.nn.functional._common import widen
from objnet.nn.functional._spatial import Array, padded, strided

# More taps than this cost more in compilation and passes over memory than they gain.
_MATMUL_TAPS, _MULTIPLY_TAPS = 25, 49
# Each group's convolution is compiled on its own: some 0.1 s each with gradients.
_GROUPS = 16


class Window(NamedTuple):
    """Where the taps of a kernel lie; an entry a spatial dimension."""

    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]


def convolve(x: Array, w: Array, window: Window, groups: int) -> Array:
    """Cross-correlation of ``x`` (N, C, *spatial) with ``w`` (O, C / groups, *kernel): (N, O, *spatial)."""
    # half precision stays one operation: sums over taps would round in it
    if jax.default_backend() == "cpu" and x.dtype in (jnp.float32, jnp.float64):
        return _on_cpu(x, w, window, groups)
    return _direct(x, w, window, groups)


def biased(y: Array, b: Array | None) -> Array:
    """``y`` (N, O, *spatial) with ``b`` (O,), if there is one, added to every channel."""
    if b is None:
        return y
    # in float32 for half precision: the gradient of the bias sums over the whole output
    return (widen(y) + widen(b).reshape(1, -1, *[1] * (y.ndim - 2))).astype(y.dtype)


def _on_cpu(x: Array, w: Array, window: Window, groups: int) -> Array:
    channels, kernel = w.shape[1], w.shape[2:]
    taps = math.prod(kernel)
    if taps == 1:
        return _tap_by_tap(x, w, window, groups)
    if groups == 1:
        if _is_patches(kernel, window):
            return _patches(x, w)
        return _tap_by_tap(x, w, window, 1) if channels == 1 and taps <= _MATMUL_TAPS else _dense(x, w, window)
    if channels > 1 and groups <= _GROUPS:
        pairs = zip(jnp.split(x, groups, 1), jnp.split(w, groups), strict=True)
        return jnp.concatenate([_on_cpu(a, b, window, 1) for a, b in pairs], 1)
    return _tap_by_tap(x, w, window, groups) if taps <= _MULTIPLY_TAPS else _direct(x, w, window, groups)


def _direct(x: Array, w: Array, window: Window, groups: int) -> Array:
    spatial = "DHW"[-len(window.stride) :]
    return lax.conv_general_dilated(
        x,
        w,
        window.stride,
        window.padding,
        rhs_dilation=window.dilation,
        dimension_numbers=(f"NC{spatial}", f"OI{spatial}", f"NC{spatial}"),
        feature_group_count=groups,
        precision=matmul_precision(x, w),
    )


def _dense(x: Array, w: Array, window: Window) -> Array:
    """One group, one operation; on jax before 0.12 kept off a slow library.

    XLA hands 2-d float32 convolutions without padding, and no others, to YNNPACK, which there is up to four times slower
    than XLA's own.  A column of zeros that a negative padding takes away again makes it a convolution with padding; the
    barrier keeps XLA from seeing through that.
    """
    unpadded = len(window.stride) == 2 and not any(itertools.chain(*window.padding))
    if unpadded and jax.__version_info__ < (0, 12):
        x = lax.optimization_barrier(padded(x, [(0, 1)]))
        window = window._replace(padding=((0, 0), (0, -1)))
    return _direct(x, w, window, 1)


def _is_patches(kernel: tuple[int, ...], window: Window) -> bool:
    touching = kernel == window.stride and set(window.dilation) == {1}
    return touching and not any(itertools.chain(*window.padding))


def _patches(x: Array, w: Array) -> Array:
    """Windows that neither overlap nor leave gaps are a reshape away: one matrix product over them."""
    kernel = w.shape[2:]
    counts = [length // k for length, k in zip(x.shape[2:], kernel, strict=True)]
    x = lax.slice(x, (0,) * x.ndim, (*x.shape[:2], *(c * k for c, k in zip(counts, kernel, strict=True))))
    blocks = x.reshape(*x.shape[:2], *itertools.chain(*zip(counts, kernel, strict=True)))
    outer, inner = "xyz"[: len(kernel)], "ijk"[: len(kernel)]
    interleaved = "".join(map("".join, zip(outer, inner, strict=True)))
    return jnp.einsum(f"nc{interleaved},oc{inner}->no{outer}", blocks, w, precision=matmul_precision(x, w))


def _tap_by_tap(x: Array, w: Array, window: Window, groups: int) -> Array:
    """The sum over kernel positions of the shifted input times the weights there."""
    product = _multiplied if groups > 1 and w.shape[1] == 1 else _matmul

    def total(x: Array, w: Array) -> Array:
        return reduce(jnp.add, (product(part, weights, groups) for part, weights in _taps(x, w, window)))

    # keep the input for the backward pass, not every shifted copy of it; XLA may well reuse those where that is cheap
    output = jax.checkpoint(total, prevent_cse=False)(x, w)
    return output.reshape(x.shape[0], w.shape[0], *output.shape[3:])


def _taps(x: Array, w: Array, window: Window) -> Iterator[tuple[Array, Array]]:
    """For each kernel position, the input under it in every window, (N, C, *out), and its weights, (O, C / groups)."""
    x = padded(x, window.padding)
    kernel = w.shape[2:]
    spans = [length - (k - 1) * d for length, k, d in zip(x.shape[2:], kernel, window.dilation, strict=True)]
    counts = [(span - 1) // s + 1 for span, s in zip(spans, window.stride, strict=True)]
    for position in itertools.product(*map(range, kernel)):
        part = x
        for axis, p in enumerate(position):
            part = strided(part, axis + 2, p * window.dilation[axis], counts[axis], window.stride[axis])
        yield part, w[(..., *position)]


def _matmul(x: Array, w: Array, groups: int) -> Array:
    """(N, C, *out) by (O, C / groups): (N, groups, O / groups, *out)."""
    columns = x.reshape(x.shape[0], groups, w.shape[1], -1)
    rows = w.reshape(groups, -1, w.shape[1])
    product = jnp.einsum("goc,ngcl->ngol", rows, columns, precision=matmul_precision(x, w))
    return product.reshape(*product.shape[:3], *x.shape[2:])


def _multiplied(x: Array, w: Array, groups: int) -> Array:
    """(N, groups, *out) by (O, 1): (N, groups, O / groups, *out)."""
    return x[:, :, None] * w.reshape(1, groups, -1, *[1] * (x.ndim - 2))
