"""The windows of pooling: how many there are, and what is in them combined.

Windows are combined one dimension at a time, the last first, from strided slices of the input.  For max pooling that gives
torch's gradients exactly: all of it to the first maximum in scan order, or to the last NaN.  ``lax.reduce_window`` finds the
first maximum too, but not NaN, and its backward pass is slow on CPU.  Compared, jitted, interleaved in one process on two
AVX-512 cores with jax 0.10.2, forward + backward in milliseconds:

- max, 2x2 windows of 32x64x32x32: reduce_window 92, here 4, by reshaping 3, slices of both dimensions at once 6, argmax and
  mask 12, argmax and gather 21;
- max, 3x3 windows with stride 2 of 8x64x112x112: reduce_window 244, here 100, slices of both dimensions at once 172;
- average, 2x2 windows of 32x64x32x32: reduce_window 9, here 2.4, by reshaping 6.

Windows that lie side by side are taken apart by reshaping, with the same result: 0.45-0.50 of the time of strided slices for
2x2 windows of 64x64x24x24 and 32x64x32x32.  A maximum over the reshaped input takes 0.14-0.30, but shares the gradient between
equal maxima.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from objnet.nn.functional._common import is_floating
from objnet.nn.functional._spatial import Array, laid_along, padded, require, sizes, strided
from objnet.nn.functional._taps import Taps, tapped

T = TypeVar("T")
# Windows up to this long are combined element by element, longer ones by doubling.
_SHORT = 8


@dataclass(frozen=True)
class Windows:
    """The windows along one dimension."""

    length: int
    kernel: int
    stride: int
    padding: int
    dilation: int
    count: int

    @property
    def pads(self) -> tuple[int, int]:
        """What to add on either side so that every window is inside: nothing where windows end early."""
        end = (self.count - 1) * self.stride + (self.kernel - 1) * self.dilation + 1
        return self.padding, max(end - self.length - self.padding, 0)

    @property
    def tiled(self) -> bool:
        """Whether windows lie side by side and are short: then they are taken by reshaping."""
        return self.stride == self.kernel <= _SHORT and self.dilation == 1 and self.pads == (0, 0)


def windows(
    function: str,
    lengths: Sequence[int],
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: bool,
) -> list[Windows]:
    """The windows along each dimension.

    Raises:
        RuntimeError, TypeError: as torch's pooling functions.
    """
    n = len(lengths)
    kernel = sizes(function, "kernel_size", kernel_size, n)
    omitted = stride is None or (isinstance(stride, Sequence) and len(stride) == 0)
    steps = kernel if omitted else sizes(function, "stride", stride, n)
    padding, dilation = sizes(function, "padding", padding, n), sizes(function, "dilation", dilation, n)
    for name, values, at_least in (
        ("kernel_size", kernel, 1),
        ("stride", steps, 1),
        ("dilation", dilation, 1),
        ("padding", padding, 0),
    ):
        require(function, name, values, at_least)
    return [
        Windows(*numbers, _count(function, *numbers, ceil_mode))
        for numbers in zip(lengths, kernel, steps, padding, dilation, strict=True)
    ]


def _count(function: str, length: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    reach = (kernel - 1) * dilation + 1
    if padding > reach // 2:
        raise RuntimeError(f"{function}: padding may be at most half of a window, {reach // 2}, got {padding}")
    room = length + 2 * padding - reach
    count = (room + (stride - 1 if ceil_mode else 0)) // stride + 1
    if ceil_mode and (count - 1) * stride >= length + padding:
        count -= 1  # the last window would start in the padding after the input
    if count < 1:
        raise RuntimeError(f"{function}: a window of {reach} does not fit into {length} elements with padding {padding}")
    return count


def combined(x: T, along: Windows, take: Callable[[T, int, int, int], T], combine: Callable[[T, T], T]) -> T:
    """What ``combine(earlier, later)`` makes of the elements of each window, with ``x`` padded.

    ``take(x, start, count, stride)`` slices ``x`` along the dimension.
    """

    def elements(kernel: int, count: int, stride: int) -> T:
        if kernel <= _SHORT:
            return reduce(combine, [take(x, i * along.dilation, count, stride) for i in range(kernel)])
        half = kernel // 2
        shift = half * along.dilation
        halves = elements(half, (count - 1) * stride + shift + 1, 1)
        both = combine(take(halves, 0, count, stride), take(halves, shift, count, stride))
        return combine(both, take(x, 2 * shift, count, stride)) if kernel % 2 else both

    return elements(along.kernel, along.count, along.stride)


def phases(x: Array, axis: int, along: Windows) -> list[Array]:
    """The first element of each window, the second, ..., where windows are tiled."""
    whole = lax.slice_in_dim(x, 0, along.count * along.kernel, axis=axis)
    return list(jnp.unstack(whole.reshape(*x.shape[:axis], along.count, along.kernel, *x.shape[axis + 1 :]), axis=axis + 1))


def sums(x: Array, axis: int, along: Windows) -> Array:
    """The sum of each window along a dimension; padding counts as 0."""
    if along.tiled:
        return reduce(jnp.add, phases(x, axis, along))

    def take(x: Array, start: int, count: int, stride: int) -> Array:
        return strided(x, axis, start, count, stride)

    return combined(padded(x, _at(x, axis, along.pads)), along, take, jnp.add)


class Best(NamedTuple):
    """The largest elements so far; where they were, or None; and where along the dimension that is not only padding."""

    values: Array
    indices: Array | None
    valid: np.ndarray


def beats(later: Array, earlier: Array) -> Array:
    """Where the later of two elements counts as the larger one: it is larger, or it is NaN."""
    return (later > earlier) | (later != later) if is_floating(later) else later > earlier


def flat_indices(x: Array) -> Array:
    """Where each element is in the flattened spatial dimensions of ``x``, (N, C, \\*spatial), in the default integer dtype."""
    return jnp.broadcast_to(jnp.arange(math.prod(x.shape[2:])).reshape(1, 1, *x.shape[2:]), x.shape)


def largest_at(values: Array, indices: Array | None, axis: int, places: Sequence[np.ndarray]) -> tuple[Array, Array | None]:
    """The first of the largest elements, or the last NaN, of those at each of ``places``, and its entry of ``indices``."""

    def at(places: np.ndarray) -> tuple[Array, Array | None]:
        return jax.tree.map(lambda x: tapped(x, axis, Taps(places[:, None])), (values, indices))

    def combine(earlier: tuple[Array, Array | None], later: tuple[Array, Array | None]) -> tuple[Array, Array | None]:
        return jax.tree.map(partial(jnp.where, beats(later[0], earlier[0])), later, earlier)

    return reduce(combine, map(at, places))


def largest(values: Array, indices: Array | None, axis: int, along: Windows) -> tuple[Array, Array | None]:
    """The first of the largest elements, or the last NaN, of each window along a dimension, and its entry of ``indices``."""

    def take(best: Best, start: int, count: int, stride: int) -> Best:
        values, indices = jax.tree.map(lambda x: strided(x, axis, start, count, stride), best[:2])
        return Best(values, indices, best.valid[start : start + (count - 1) * stride + 1 : stride])

    def combine(earlier: Best, later: Best) -> Best:
        first = later.valid & ~earlier.valid  # even minus infinity beats padding
        wins = beats(later.values, earlier.values)
        if first.any():
            wins |= laid_along(first, axis, wins.ndim)
        values, indices = jax.tree.map(partial(jnp.where, wins), later[:2], earlier[:2])
        return Best(values, indices, earlier.valid | later.valid)

    if along.tiled:
        ours = phases(values, axis, along)
        theirs = [None] * len(ours) if indices is None else phases(indices, axis, along)
        every = np.ones(along.count, bool)
        best = reduce(combine, [Best(a, b, every) for a, b in zip(ours, theirs, strict=True)])
        return best.values, best.indices
    pads = _at(values, axis, along.pads)
    lowest = -jnp.inf if is_floating(values) else jnp.iinfo(values.dtype).min
    best = Best(
        padded(values, pads, lowest),
        None if indices is None else padded(indices, pads),
        np.pad(np.ones(along.length, bool), along.pads),
    )
    best = combined(best, along, take, combine)
    return best.values, best.indices


def _at(x: Array, axis: int, pads: tuple[int, int]) -> list[tuple[int, int]]:
    return [pads if i == axis else (0, 0) for i in range(x.ndim)]
