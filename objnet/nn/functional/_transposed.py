"""How a transposed convolution is computed: one XLA operation, or on CPU what was measured to be faster for its shape.

It is the transpose of a convolution in its input: every element of the input puts a block, the kernel times that element,
into the output, and blocks that overlap add up.  Compared, jitted, interleaved in one process on two AVX-512 cores with jax
0.10.2, forward / forward + backward in milliseconds: one operation (a convolution of the input with gaps), a convolution
with an output channel for each position within a stride, a matrix product a tap, one matrix product and its blocks added tap
by tap, and the same one dimension at a time, stride by stride where that divides the kernel (see ``_overlap``):

===========================================  =========  =========  =======  =======  ========  =========
..                                           operation  positions  taps     blocks   by dim    torch
16x256x8x8 -> 128, 4x4 stride 2              25 / 805   19 / 2296  24 / 64  21 / 61  13 / 31   8 / 25
16x64x16x16 -> 32, 3x3 stride 2              5 / 109    5 / 269    4 / 9    4 / 9    2.6 / 6   2 / 5
4x128x32x32 -> 64, 2x2 stride 2 (U-Net)      10 / 185   6 / 15     4 / 11   4 / 10   4 / 12    6 / 12
16x64x32x32 -> 3, 4x4 stride 2               5 / 64     5 / 47     4 / 37   4 / 9    2.8 / 8   6 / 9
2x32x8x8x8 -> 16, 4x4x4 stride 2             289 / 323  4 / 67     ..       ..       4 / 9     1.7 / 5
8x32x32x32, 4x4 stride 2, 32 groups          245 / 542  1.1 / 10   12 / 12  5 / 34   12 / 53   1.7 / 62
16x64x16x16 -> 64, 3x3 stride 1              9 / 20     4 / 219    12 / 21  ..       7 / 18    2 / 11
===========================================  =========  =========  =======  =======  ========  =========

So: blocks by dimension; where each group has one input channel, positions, by multiply-add; and with stride 1 it is an
ordinary convolution with the kernel turned round (5 / 16 in the last line).
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from objnet.core.precision import matmul_precision
from objnet.nn.functional._convolution import Window, convolve
from objnet.nn.functional._overlap import Blocks, interleaved, overlap_add
from objnet.nn.functional._spatial import Array, padded

# Zeros that fill a kernel up to whole strides are worth their products up to this factor: 2x for 3x3 stride 2, they are not.
_FILLED = 1.5


class Layout(NamedTuple):
    """Where the blocks of a transposed convolution lie; an entry a spatial dimension."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    output_padding: tuple[int, ...]
    dilation: tuple[int, ...]

    def reach(self, kernel: tuple[int, ...]) -> list[int]:
        """How far a block goes beyond its first element."""
        return [d * (k - 1) for d, k in zip(self.dilation, kernel, strict=True)]

    def lengths(self, lengths: tuple[int, ...], kernel: tuple[int, ...]) -> tuple[int, ...]:
        """The sizes of the output."""
        reach = self.reach(kernel)
        every = zip(lengths, reach, self.stride, self.padding, self.output_padding, strict=True)
        return tuple((length - 1) * s - 2 * p + r + o + 1 for length, r, s, p, o in every)


def convolve_transposed(x: Array, w: Array, layout: Layout, groups: int) -> Array:
    """The transpose of a cross-correlation, of ``x`` (N, C, *spatial) with ``w`` (C, O / groups, *kernel): (N, O, *spatial)."""
    n = x.ndim - 2
    if set(layout.stride) == {1}:
        return convolve(x, _turned(w, groups), _window(w, layout), groups)
    # half precision stays one operation: sums over blocks would round in it
    if jax.default_backend() != "cpu" or x.dtype not in (jnp.float32, jnp.float64):
        spatial = "DHW"[-n:]
        return lax.conv_general_dilated(
            x,
            _turned(w, groups),
            (1,) * n,
            _window(w, layout).padding,
            lhs_dilation=layout.stride,
            rhs_dilation=layout.dilation,
            dimension_numbers=(f"NC{spatial}", f"OI{spatial}", f"NC{spatial}"),
            feature_group_count=groups,
            precision=matmul_precision(x, w),
        )
    lengths = layout.lengths(x.shape[2:], w.shape[2:])
    undilated = set(layout.dilation) == {1}
    filled = padded(w, [(0, -k % s) for k, s in zip(w.shape[2:], layout.stride, strict=True)])
    if undilated and x.shape[1] == groups:
        full = _by_position(x, filled, layout.stride)
    else:
        full = _by_block(x, filled if undilated and filled.size < _FILLED * w.size else w, layout, groups)
    given = zip(full.shape[2:], lengths, layout.padding, strict=True)
    return padded(full, [(-p, length - size + p) for size, length, p in given])


def _turned(w: Array, groups: int) -> Array:
    """The kernel of the convolution that is the transpose: (O, C / groups, *kernel), every kernel turned round."""
    w = jnp.flip(w, range(2, w.ndim)).reshape(groups, -1, *w.shape[1:]).swapaxes(1, 2)
    return w.reshape(-1, *w.shape[2:])


def _window(w: Array, layout: Layout) -> Window:
    """The window of that convolution over the input, with its gaps."""
    pads = zip(layout.reach(w.shape[2:]), layout.padding, layout.output_padding, strict=True)
    return Window((1,) * (w.ndim - 2), tuple((r - p, r - p + o) for r, p, o in pads), layout.dilation)


def _by_block(x: Array, w: Array, layout: Layout, groups: int) -> Array:
    """One matrix product gives all blocks."""
    n, kernel = x.ndim - 2, w.shape[2:]
    rows = w.reshape(groups, x.shape[1] // groups, w.shape[1], -1)
    parts = x.reshape(x.shape[0], groups, x.shape[1] // groups, -1)
    columns = jnp.einsum("gcok,ngcl->ngkol", rows, parts, precision=matmul_precision(x, w))
    columns = columns.reshape(*columns.shape[:2], *kernel, w.shape[1], *x.shape[2:])
    return overlap_add(columns, [Blocks(x.shape[2 + i], kernel[i], layout.stride[i], layout.dilation[i]) for i in range(n)])


def _by_position(x: Array, w: Array, stride: tuple[int, ...]) -> Array:
    """A convolution with stride 1 that has an output channel for each position within a stride; one input channel a group."""
    n = len(stride)
    spans = [k // s for k, s in zip(w.shape[2:], stride, strict=True)]
    w = w.reshape(*w.shape[:2], *itertools.chain(*zip(spans, stride, strict=True)))
    w = w.transpose(0, *range(3, 3 + 2 * n, 2), 1, *range(2, 2 + 2 * n, 2))  # channel, *position, output, *span
    kernels = jnp.flip(w, range(w.ndim - n, w.ndim)).reshape(-1, 1, *spans)
    window = Window((1,) * n, tuple((span - 1, span - 1) for span in spans), (1,) * n)
    y = convolve(x, kernels, window, x.shape[1])
    y = y.reshape(x.shape[0], x.shape[1], *stride, -1, *y.shape[2:])
    return interleaved(y, [length * s for length, s in zip(y.shape[-n:], stride, strict=True)])
