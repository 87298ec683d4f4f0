"""torch's CPU random number generator in numpy: the same seed gives the same numbers.

Words are consumed exactly as torch 2.13's default CPU kernels consume them, so that any sequence of draws, of any
sizes, continues where torch's would.  float32 results are those of torch on x86 bit for bit; float64 ones agree to the
last digit or two.  torch with MKL on an Intel processor takes ``bernoulli_`` and ``exponential_`` from another stream;
here those two follow torch's portable kernels, on every machine.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from objnet.core.box_muller import box_muller, fused
from objnet.core.mt19937 import WordStream

Shape = int | tuple[int, ...]

_CHUNK = 1 << 15  # elements transformed at a time: temporaries stay in the processor's cache
_WIDE_RANGE = 1 << 28  # integer ranges from here on take 64-bit words
_LARGE_PERMUTATION = (2**32 - 1) // 20  # and so do permutations of this many

_LARGEST: dict[str, float] = {
    "float16": 65504.0,
    "bfloat16": 3.3895313892515355e38,
    "float32": float(np.finfo(np.float32).max),
    "float64": sys.float_info.max,
}
_COMPONENT: dict[str, np.dtype[Any]] = {"complex64": np.dtype(np.float32), "complex128": np.dtype(np.float64)}


def check_uniform(low: float, high: float, dtype: Any) -> None:
    """Refuse bounds that torch's ``uniform_`` refuses for ``dtype``.

    Raises:
        RuntimeError: ``low > high``, or a bound or their distance does not fit the dtype.
        NotImplementedError: ``dtype`` is neither a 16, 32 or 64-bit float nor complex.
    """
    largest = _LARGEST[_component("uniform", dtype).name]
    for name, bound in (("low", low), ("high", high)):
        if not -largest <= bound <= largest:
            raise RuntimeError(f"uniform: {name}={bound} is out of bounds for {np.dtype(dtype).name}")
    if low > high:
        raise RuntimeError(f"uniform draws from [low, high), but got low={low} > high={high}")
    if high - low > largest:
        raise RuntimeError(f"uniform: high - low = {high - low} is out of bounds for {np.dtype(dtype).name}")


def check_normal(std: float, dtype: Any) -> None:
    """Refuse what torch's ``normal_`` refuses.

    Raises:
        RuntimeError: ``std`` is negative or not a number.
        NotImplementedError: ``dtype`` is neither a 16, 32 or 64-bit float nor complex.
    """
    if not std >= 0:
        raise RuntimeError(f"normal expects std >= 0, got std={std}")
    _component("normal", dtype)


def mostly_inside(mean: float, std: float, a: float, b: float) -> bool:
    """Whether ``trunc_normal`` redraws normal samples rather than rejecting uniform ones (more than 0.3 fall inside).

    Raises:
        ZeroDivisionError: ``std`` is zero, as in torch.
    """
    upper, lower = (math.erf((bound - mean) / std / math.sqrt(2.0)) for bound in (b, a))
    return (upper - lower) / 2 > 0.3


class Generator(WordStream):
    """A stream of random numbers equal to ``torch.Generator()``'s on the CPU.

    Drawing methods return numpy arrays and hold the generator's lock, so threads may share one.
    """

    def uniform(self, shape: Shape, low: float = 0.0, high: float = 1.0, dtype: Any = np.float32) -> np.ndarray:
        """Uniform samples from ``[low, high)`` (``Tensor.uniform_``): 53 random bits in float64, 24 in other dtypes.

        Raises:
            RuntimeError, NotImplementedError: as :func:`check_uniform`.
        """
        check_uniform(low, high, dtype)
        out = np.empty(shape, dtype)
        flat = out.reshape(-1).view(_component("uniform", dtype))
        wide = _compute_dtype(flat.dtype)
        start, span = wide.type(low), wide.type(high) - wide.type(low)
        lowest, highest = _narrow(np.array([low, high], np.float64), flat.dtype)
        with self._lock:
            for part in _chunks(flat):
                unit = self._unit(part.size, wide)
                part[:] = fused(unit, span, start) if wide == np.float32 else unit * span + start
                part[part == highest] = lowest  # rounded up to the excluded bound
        return out

    def normal(self, shape: Shape, mean: float = 0.0, std: float = 1.0, dtype: Any = np.float32) -> np.ndarray:
        """Normal samples (``Tensor.normal_`` on contiguous memory); complex ones have total variance ``std**2``.

        Fewer than 16 samples are drawn in pairs, in float64; an odd one out is kept for the next such call.

        Raises:
            RuntimeError, NotImplementedError: as :func:`check_normal`.
        """
        check_normal(std, dtype)
        out = np.empty(shape, dtype)
        flat = out.reshape(-1).view(_component("normal", dtype))
        if flat.dtype != out.dtype:
            std = std / math.sqrt(2)
        with self._lock:
            if flat.size < 16:
                samples = np.array([self._sample() for _ in range(flat.size)])
                flat[:] = _narrow(samples * std + mean, flat.dtype)
            else:
                self._fill_normal(flat, mean, std)
        return out

    def trunc_normal(
        self,
        shape: Shape,
        mean: float = 0.0,
        std: float = 1.0,
        a: float = -2.0,
        b: float = 2.0,
        dtype: Any = np.float32,
    ) -> np.ndarray:
        """Normal samples inside ``[a, b]`` by redrawing (``torch.nn.init.trunc_normal_`` of torch 2.13).

        Raises:
            ZeroDivisionError: ``std`` is zero.
            RuntimeError, NotImplementedError: as :func:`check_normal` and, for narrow intervals, :func:`check_uniform`.
        """
        dtype = np.dtype(dtype)
        if dtype.name not in _LARGEST:
            raise NotImplementedError(f"trunc_normal samples are real floating point numbers, not {dtype.name}")
        draw = self._redraw_normal if mostly_inside(mean, std, a, b) else self._reject_uniform
        with self._lock:
            return draw(shape, mean, std, a, b, dtype)

    def integers(self, low: int, high: int, shape: Shape, dtype: Any = np.int64) -> np.ndarray:
        """Integers from ``[low, high)`` (``torch.randint``; from ``[0, 2**63)`` it is ``Tensor.random_()``).

        Raises:
            RuntimeError: ``low >= high``, or they do not fit the dtype.
            TypeError: a bound is no integer, or ``dtype`` is not integer or bool.
        """
        low, high, dtype = operator.index(low), operator.index(high), np.dtype(dtype)
        if dtype.kind not in "iub":
            raise TypeError(f"integers draws integer or bool dtypes, got {dtype.name}")
        if low >= high:
            raise RuntimeError(f"integers draws from [low, high), but got low={low} >= high={high}")
        least, most = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, min(np.iinfo(dtype).max, 2**63 - 1))
        if low < least or high - 1 > most:
            raise RuntimeError(f"integers: [{low}, {high}) is out of bounds for {dtype.name}")
        out, span = np.empty(shape, dtype), high - low
        with self._lock:
            for part in _chunks(out.reshape(-1)):
                words = self._words64(part.size) if span >= _WIDE_RANGE else self._words(part.size).astype(np.uint64)
                if span < 2**64:
                    words = words % np.uint64(span) + np.uint64(low % 2**64)  # wraps around, as two's complement should
                part[:] = words.view(np.int64)
        return out

    def permutation(self, n: int) -> np.ndarray:
        """A permutation of ``0 .. n-1``, int64 (``torch.randperm``).

        Raises:
            RuntimeError: ``n`` is negative.
            TypeError: ``n`` is no integer.
        """
        n = operator.index(n)
        if n < 0:
            raise RuntimeError(f"cannot permute {n} elements")
        order = np.arange(n)
        swap = order.data  # twice as fast as the array, element by element
        large = n >= _LARGE_PERMUTATION
        steps = n if large else n - 1
        with self._lock:
            for start in range(0, steps, _CHUNK):
                here = np.arange(start, min(start + _CHUNK, steps))
                if large:  # each element changes places with one up to it
                    targets = self._words64(here.size) % (here + 1).astype(np.uint64)
                else:  # or with one from it on
                    targets = (self._words(here.size) % (n - here) + here).astype(np.uint64)
                for i, j in zip(here.tolist(), targets.tolist(), strict=True):
                    swap[i], swap[j] = swap[j], swap[i]
        return order

    def bernoulli(self, p: float, shape: Shape, dtype: Any = np.float32) -> np.ndarray:
        """Ones with probability ``p`` and zeros otherwise, in any dtype (``Tensor.bernoulli_`` with a number).

        Raises:
            RuntimeError: ``p`` is outside ``[0, 1]``.
        """
        if not 0 <= p <= 1:
            raise RuntimeError(f"bernoulli expects p in [0, 1], got p={p}")
        out = np.empty(shape, dtype)
        with self._lock:
            for part in _chunks(out.reshape(-1)):
                part[:] = self._unit(part.size, np.dtype(np.float64)) < p
        return out

    def exponential(self, shape: Shape, lambd: float = 1.0, dtype: Any = np.float32) -> np.ndarray:
        """Exponential samples of rate ``lambd`` (``Tensor.exponential_``).

        Raises:
            RuntimeError: ``lambd`` is not positive, or ``dtype`` is no 16, 32 or 64-bit float.
        """
        if not lambd > 0:
            raise RuntimeError(f"exponential expects lambd > 0, got lambd={lambd}")
        if np.dtype(dtype).name not in _LARGEST:
            raise RuntimeError(f"exponential samples are floating point, got {np.dtype(dtype).name}")
        out = np.empty(shape, dtype)
        with self._lock:
            for part in _chunks(out.reshape(-1)):
                unit = self._unit(part.size, np.dtype(np.float64))
                part[:] = _narrow(-1 / lambd * np.log1p(-unit), part.dtype)
        return out

    def _sample(self) -> float:
        """One standard normal number, from the pair begun last time if there is one."""
        if self._spare is not None:
            sample, self._spare = self._spare, None
            return sample
        u1, u2 = self._unit(2, np.dtype(np.float64)).tolist()
        radius, angle = math.sqrt(-2 * math.log1p(-u2)), 2 * math.pi * u1
        self._spare = radius * math.sin(angle)
        return radius * math.cos(angle)

    def _fill_normal(self, out: np.ndarray, mean: float, std: float) -> None:
        """At least 16 samples in blocks of 16; a last block drawn anew overwrites the end if one does not fit."""
        wide, rest = _compute_dtype(out.dtype), out.size % 16
        for part in _chunks(out[: out.size - rest]):
            part[:] = box_muller(self._unit(part.size, wide), mean, std)
        if rest:
            if wide == out.dtype:  # torch draws the numbers of the last block twice, except for 16-bit dtypes
                self._unit(rest, wide)
            out[-16:] = box_muller(self._unit(16, wide), mean, std)

    def _redraw_normal(self, shape: Shape, mean: float, std: float, a: float, b: float, dtype: np.dtype[Any]) -> np.ndarray:
        with np.errstate(over="ignore"):
            low, high = _narrow(np.array([a, b], np.float64), dtype)
        out = self.normal(shape, mean, std, dtype)
        while (outside := (out < low) | (out > high)).any():
            out = np.where(outside, self.normal(shape, mean, std, dtype), out)
        return out

    def _reject_uniform(self, shape: Shape, mean: float, std: float, a: float, b: float, dtype: np.dtype[Any]) -> np.ndarray:
        wide = _compute_dtype(dtype)
        mode = max(a, min(mean, b))
        log_peak = -0.5 * ((mode - mean) / std) ** 2

        def stepwise(x: np.ndarray, operation: Any, *operand: float) -> np.ndarray:
            """torch rounds to the tensor's dtype after each operation."""
            return operation(x.astype(wide), *(wide.type(o) for o in operand)).astype(dtype)

        out, pending = np.zeros(shape, dtype), np.ones(shape, bool)
        while True:
            candidates = self.uniform(shape, a, b, dtype)
            out = np.where(pending, candidates, out)
            score = stepwise(stepwise(candidates, np.subtract, mean), np.divide, std)
            score = stepwise(stepwise(stepwise(score, np.square), np.multiply, -0.5), np.subtract, log_peak)
            with np.errstate(divide="ignore"):
                threshold = stepwise(self.uniform(shape, dtype=dtype), np.log)
            pending &= threshold > score
            if not pending.any():
                return out


def _component(what: str, dtype: Any) -> np.dtype[Any]:
    """The float dtype of a float or complex dtype's numbers."""
    dtype = np.dtype(dtype)
    if dtype.name not in _LARGEST and dtype.name not in _COMPONENT:
        raise NotImplementedError(f"{what} samples are float or complex, not {dtype.name}")
    return _COMPONENT.get(dtype.name, dtype)


def _compute_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def _narrow(values: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """float64 ``values`` as ``dtype``; torch goes to 16 bits by way of float32."""
    return values.astype(_compute_dtype(dtype)).astype(dtype)


def _chunks(flat: np.ndarray) -> Iterator[np.ndarray]:
    """Consecutive views of a one-dimensional array."""
    return (flat[start : start + _CHUNK] for start in range(0, flat.size, _CHUNK))
