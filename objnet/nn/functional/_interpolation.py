"""Where the elements of an interpolated dimension come from, and with which weights, to the last bit as torch's CPU kernels.

Places are computed in the precision torch computes them in (float32, or float64 for float64 inputs), since a place that is
rounded to a neighbour is another element.  All of it is numpy, done once when a function is traced.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from objnet.nn.functional._taps import Taps

# The free parameter of cubic convolution (Keys 1981): torch takes the usual value of OpenCV, and that of Pillow with antialias.
_CUBIC, _CUBIC_ANTIALIAS = -0.75, -0.5
# torch's kernel for small images finds nearest neighbours by rules of its own.
_SMALL_IMAGE = 128


class Resize(NamedTuple):
    """One dimension to interpolate: its lengths, and the scale factor the user gave, None if it follows from the lengths."""

    length: int
    count: int
    factor: float | None

    def step(self, real: type[np.floating], align_corners: bool = False) -> np.floating:
        """How far apart neighbouring results are in the input."""
        if align_corners:
            return real(self.length - 1) / real(self.count - 1) if self.count > 1 else real(0)
        if self.factor is not None and self.factor > 0:
            return real(1.0 / self.factor)
        return real(self.length) / real(self.count)


def nearest(along: Resize, real: type[np.floating], small: bool) -> Taps:
    """The element at or before each place (``"nearest"``); ``small`` for images that torch's other kernel takes."""
    if small and along.count in (along.length, 2 * along.length):
        places = np.arange(along.count) // (along.count // along.length)
    else:
        real = np.float32 if small else real
        places = np.floor((np.arange(along.count).astype(real) * along.step(real)).astype(np.float32)).astype(np.int64)
    return Taps(np.minimum(places, along.length - 1)[:, None])


def nearest_exact(along: Resize, real: type[np.floating], small: bool) -> Taps:
    """The element nearest to the centre of each place (``"nearest-exact"``)."""
    real = np.float32 if small else real
    # torch multiplies and subtracts in one instruction, rounded once
    wide = np.float64 if real is np.float32 else np.longdouble
    centre = (wide(along.step(real)) * (np.arange(along.count).astype(wide) + wide(0.5)) - wide(0.5)).astype(real)
    places = np.floor((np.maximum(centre, 0) + real(0.5)).astype(np.float32)).astype(np.int64)
    return Taps(np.minimum(places, along.length - 1)[:, None])


def is_small(counts: tuple[int, ...]) -> bool:
    """Whether torch's kernel for small images makes an output of these spatial sizes."""
    return len(counts) == 2 and sum(counts) <= _SMALL_IMAGE


def linear(along: Resize, real: type[np.floating], align_corners: bool) -> Taps:
    """The two elements around each place (``"linear"``, ``"bilinear"``, ``"trilinear"``)."""
    at = np.maximum(_places(along, real, align_corners), 0)
    before = np.minimum(at.astype(np.int64), along.length - 1)
    share = np.clip(at - before.astype(real), real(0), real(1))
    after = np.minimum(before + 1, along.length - 1)
    return Taps(np.stack([before, after], 1), np.stack([1 - share, share], 1))


def cubic(along: Resize, real: type[np.floating], align_corners: bool) -> Taps:
    """The four elements around each place (``"bicubic"``), those beyond the border repeat it."""
    at = _places(along, real, align_corners)
    before = np.minimum(np.floor(at).astype(np.int64), along.length - 1)
    share = np.clip(at - before.astype(real), real(0), real(1))
    offsets = np.arange(-1, 3)
    places = np.clip(before[:, None] + offsets, 0, along.length - 1)
    return Taps(places, _cubic(np.abs(share[:, None] - offsets.astype(real)), _CUBIC))


def _places(along: Resize, real: type[np.floating], align_corners: bool) -> np.ndarray:
    steps = np.arange(along.count).astype(real)
    step = along.step(real, align_corners)
    return step * steps if align_corners else step * (steps + real(0.5)) - real(0.5)


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(1 - np.abs(x), 0)


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, np.zeros_like(x)))


def _lanczos(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), np.zeros_like(x))


class Filter(NamedTuple):
    """A kernel that averages over what a result covers, and how many elements it spans without shrinking."""

    weigh: Callable[[np.ndarray], np.ndarray]
    span: int


FILTERS = {
    "bilinear": Filter(_triangle, 2),
    "bicubic": Filter(lambda x: _cubic(x, _CUBIC_ANTIALIAS), 4),
    "lanczos": Filter(_lanczos, 6),
}


def antialiased(along: Resize, real: type[np.floating], align_corners: bool, kernel: Filter) -> Taps:
    """All elements under ``kernel``, stretched over as many as a result covers (``antialias=True``)."""
    step = along.step(real, align_corners)
    stretch = max(step, real(1))
    reach = real(kernel.span * 0.5) * stretch
    centre = step * (np.arange(along.count).astype(real) + real(0.5))
    first = np.maximum((centre - reach + real(0.5)).astype(np.int64), 0)
    taps = 2 * int(np.ceil(reach)) + 1
    taken = np.clip(np.minimum((centre + reach + real(0.5)).astype(np.int64), along.length) - first, 0, taps)
    places = first[:, None] + np.arange(taken.max(initial=0))
    inside = np.arange(places.shape[1]) < taken[:, None]
    distance = (places.astype(real) - centre[:, None] + real(0.5)) * (1 / stretch)
    weights = np.where(inside, kernel.weigh(distance), real(0)).astype(real)
    total = weights.sum(1, keepdims=True)
    return Taps(np.where(inside, places, -1), weights / np.where(total == 0, real(1), total))


def fixed_point(taps: Taps) -> tuple[Taps, int]:
    """Weights as 16-bit integers and the bits after their point: how torch interpolates uint8 images."""
    taps = taps.merged()
    largest, bits = taps.weights.max(initial=0), 0
    while bits < 22 and int(0.5 + largest * (1 << (bits + 1))) < 1 << 15:
        bits += 1
    scaled = taps.weights * (1 << bits)
    return Taps(taps.places, np.trunc(np.where(scaled < 0, scaled - 0.5, scaled + 0.5)).astype(np.int32)), bits
