"""Weighted sums of elements along a dimension, their places known in advance: interpolation, means of uneven windows.

A gather is the fastest way forward, but its transpose, jax's own backward pass, is a scatter.  Here the transpose is a
gather too, with a table made by numpy.  jax has one public function that is told the transpose of a linear map and goes
through ``vmap``, ``jvp`` and every order of ``grad``: ``lax.custom_linear_solve``.  The "solution" is the map; where the
map changes the size, the smaller side is padded, which the compiler takes out again.  A product with a dense matrix would
be as quick up to some hundred elements, but spreads one NaN or infinity over whole rows.

Compared, bilinear, jitted, interleaved on one AVX-512 core with jax 0.10.2, forward and forward + backward in milliseconds:

- 8x16x64x64 to 96x96: here 1.7 and 16, jax's gather 2.3 and 37, dense 4.8 and 10, strided slices of each phase 7 and 64;
- 1x3x512x512 to 1024x1024: here 10 and 88, gather 6 and 201, dense 61 and 134, slices 4 and 74;
- 2x3x224x224 to 160x160: here 0.5 and 2.3, gather 0.5 and 2.2, dense 2.4 and 4.6, slices 0.9 and 10;
- one gather of all taps with a sum over them is ten times slower than one gather for each tap.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import lax

from objnet.nn.functional._common import is_floating
from objnet.nn.functional._spatial import Array

# With more taps than this a loop runs over them: the program stays small.
_UNROLLED = 24


@dataclass(frozen=True)
class Taps:
    """For each element of a result the places it comes from, (results, taps), -1 for none, and their weights, or None for 1."""

    places: np.ndarray
    weights: np.ndarray | None = None

    def merged(self) -> Taps:
        """The same with every place at most once for each result."""
        count, length = len(self.places), self.places.max(initial=0) + 1
        return _table(np.arange(count).repeat(self.places.shape[1]), self.places.ravel(), self._filled().ravel(), count, length)

    def transposed(self, length: int) -> Taps:
        """For each of ``length`` elements the results it goes to."""
        results = np.arange(len(self.places)).repeat(self.places.shape[1])
        return _table(self.places.ravel(), results, self._filled().ravel(), length, max(len(self.places), 1))

    def _filled(self) -> np.ndarray:
        return np.ones(self.places.shape) if self.weights is None else self.weights


def _table(rows: np.ndarray, columns: np.ndarray, weights: np.ndarray, count: int, width: int) -> Taps:
    """Entries of a sparse matrix (count, width), those at -1 left out and equal ones added, as taps."""
    taken = (rows >= 0) & (columns >= 0)
    keys, where = np.unique(rows[taken] * width + columns[taken], return_inverse=True)
    rows, columns = keys // width, keys % width
    first = np.searchsorted(rows, np.arange(count))
    rank = np.arange(len(keys)) - first[rows]
    places = np.full((count, rank.max(initial=0) + 1), -1)
    table = np.zeros(places.shape, weights.dtype)
    places[rows, rank] = columns
    summed = np.zeros(len(keys), weights.dtype)
    np.add.at(summed, where, weights[taken])
    table[rows, rank] = summed
    return Taps(places, table)


def tapped(x: Array, axis: int, taps: Taps) -> Array:
    """The weighted sums of ``taps`` along ``axis`` of ``x``, in the dtype of ``x``."""
    if not is_floating(x) or not x.shape[axis]:
        return _summed(x, axis, taps)
    length, count = x.shape[axis], len(taps.places)
    backward = taps.transposed(length)
    size = max(length, count)

    def forward_map(_: object, x: Array) -> Array:
        return _fit(_summed(_fit(x, axis, length), axis, taps), axis, size)

    def backward_map(_: object, ct: Array) -> Array:
        return _fit(_summed(_fit(ct, axis, count), axis, backward), axis, size)

    return _fit(lax.custom_linear_solve(lambda v: v, _fit(x, axis, size), forward_map, backward_map), axis, count)


def _summed(x: Array, axis: int, taps: Taps) -> Array:
    shape = (*x.shape[:axis], len(taps.places), *x.shape[axis + 1 :])
    if x.size == 0 or not taps.places.size:
        return jnp.zeros(shape, x.dtype)
    along = [-1 if i == axis else 1 for i in range(x.ndim)]
    weights = None if taps.weights is None else taps.weights.astype(x.dtype)
    missing = (taps.places < 0).any(0)

    def term(places: Array, weights: Array | None, masked: bool) -> Array:
        # places that are clipped here are left out below
        elements = jnp.take(x, jnp.maximum(places, 0), axis, mode="clip")
        if weights is not None:
            elements = elements * weights.reshape(along)
        return jnp.where((places >= 0).reshape(along), elements, jnp.zeros((), x.dtype)) if masked else elements

    if taps.places.shape[1] <= _UNROLLED:
        columns = range(taps.places.shape[1])
        terms = [term(taps.places[:, k], None if weights is None else weights[:, k], missing[k]) for k in columns]
        return sum(terms[1:], terms[0])
    places = jnp.asarray(taps.places.T)
    columns = None if weights is None else jnp.asarray(weights.T)

    def add(k: Array, total: Array) -> Array:
        return total + term(places[k], None if columns is None else columns[k], missing.any())

    return lax.fori_loop(0, len(places), add, jnp.zeros(shape, x.dtype))


def _fit(x: Array, axis: int, size: int) -> Array:
    """``x`` cut or filled with zeros at the end of ``axis``."""
    if x.shape[axis] == size:
        return x
    config = [(0, size - x.shape[axis] if i == axis else 0, 0) for i in range(x.ndim)]
    return lax.pad(x, jnp.zeros((), x.dtype), config)
