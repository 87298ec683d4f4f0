"""The stream of random words behind torch's CPU generator: MT19937 with torch's seeding, word order and state bytes."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Any, Self

import numpy as np

DEFAULT_SEED = 67280421310721
"""The seed of a generator that was never seeded (torch's ``default_rng_seed_val``)."""

_STATE_WORDS = 624

# torch.get_rng_state()'s bytes: a C struct, with the 32-bit words of the engine kept as 64-bit integers
_STATE = np.dtype(
    [
        ("seed", "<u8"),
        ("left", "<i4"),
        ("seeded", "<i4"),
        ("next", "<u8"),
        ("words", "<u8", (_STATE_WORDS,)),
        ("unused_x", "<f8"),
        ("spare", "<f8"),
        ("unused_rho", "<f8"),
        ("has_spare", "<i4"),
        ("padding", "V4"),
        ("float_spare", "V8"),  # no kernel of torch 2.13 sets or takes it
    ]
)


class WordStream:
    """A seeded stream of 32-bit words; the base of :class:`objnet.core.generator.Generator`.

    Can be copied and pickled: a copy continues from the same position, independently.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._stream = np.random.RandomState(0)
        self.manual_seed(DEFAULT_SEED)

    def manual_seed(self, seed: int) -> Self:
        """Restart from ``seed``; negative ones are taken modulo 2**64 (torch's ``Generator.manual_seed``).

        Raises:
            RuntimeError: ``seed`` is no integer.
            ValueError: it lies outside ``[-2**63, 2**64)``.
        """
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
            raise RuntimeError(f"manual_seed expects an integer, got {type(seed).__name__}")
        if not -(2**63) <= seed < 2**64:
            raise ValueError(f"manual_seed expects an integer in [-2**63, 2**64), got {seed}")
        with self._lock:
            self._seed = int(seed) % 2**64
            self._stream.seed(self._seed & 0xFFFFFFFF)
            self._untouched = True  # no word drawn yet: torch's state bytes tell this from a used-up block of words
            self._spare: float | None = None  # the second of a pair of normal samples, not yet handed out
        return self

    def seed(self) -> int:
        """Restart from a seed of the operating system's entropy, and return that seed."""
        seed = int.from_bytes(os.urandom(8), "little")
        self.manual_seed(seed)
        return seed

    def initial_seed(self) -> int:
        """The seed last set, in ``[0, 2**64)``."""
        return self._seed

    def get_state(self) -> np.ndarray:
        """The exact position in the stream, uint8 of shape (5056,): the bytes of ``torch.get_rng_state()``."""
        state = np.zeros(1, _STATE)
        with self._lock:
            engine = self._stream.get_state(legacy=False)["state"]
            words, used = engine["key"], engine["pos"]
            state["seed"], state["seeded"], state["words"] = self._seed, 1, words
            state["left"], state["next"] = _STATE_WORDS + 1 - used, 0 if self._untouched else used
            if self._spare is not None:
                state["spare"], state["has_spare"] = self._spare, 1
        return state.view(np.uint8)

    def set_state(self, state: Any) -> Self:
        """Continue from a state of :meth:`get_state`, or from torch's ``get_rng_state()``.

        Raises:
            TypeError: ``state`` is no one-dimensional uint8 array.
            RuntimeError: it has another size, or is no state of this kind of generator.
        """
        state = np.asarray(state)
        if state.dtype != np.uint8 or state.ndim != 1:
            raise TypeError(f"a random state is a one-dimensional uint8 array, got {state.dtype}{list(state.shape)}")
        if state.size != _STATE.itemsize:
            raise RuntimeError(f"the state of a CPU generator has {_STATE.itemsize} bytes, got {state.size}")
        (fields,) = np.frombuffer(state.tobytes(), _STATE)
        left, following = int(fields["left"]), int(fields["next"])
        untouched = left == 1 and following == 0
        consistent = 1 <= left <= _STATE_WORDS and left + following == _STATE_WORDS + 1
        if fields["seeded"] != 1 or not (untouched or consistent):
            raise RuntimeError("these bytes are not the state of a MT19937 generator")
        with self._lock:
            self._seed, self._untouched = int(fields["seed"]), untouched
            engine = {"key": fields["words"].astype(np.uint32), "pos": _STATE_WORDS + 1 - left}
            self._stream.set_state({"bit_generator": "MT19937", "state": engine})
            self._spare = float(fields["spare"]) if fields["has_spare"] else None
        return self

    def clone(self) -> Self:
        """An independent generator at the same position."""
        return type(self)().set_state(self.get_state())

    @contextlib.contextmanager
    def fork(self) -> Iterator[Self]:
        """Inside the ``with`` block draw freely; when it ends the generator is back where it was."""
        state = self.get_state()
        try:
            yield self
        finally:
            self.set_state(state)

    def __getstate__(self) -> np.ndarray:
        return self.get_state()

    def __setstate__(self, state: np.ndarray) -> None:
        WordStream.__init__(self)
        self.set_state(state)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(initial_seed={self._seed})"

    # Callers of the following hold the lock.

    def _words(self, count: int) -> np.ndarray:
        """The next ``count`` words, uint32."""
        if count:
            self._untouched = False
        return self._stream.randint(0, 2**32, count, np.uint32)

    def _words64(self, count: int) -> np.ndarray:
        """The next ``count`` pairs of words as uint64, the first of a pair above the second."""
        high, low = self._words(2 * count).astype(np.uint64).reshape(-1, 2).T
        return (high << np.uint64(32)) | low

    def _unit(self, count: int, dtype: np.dtype[Any]) -> np.ndarray:
        """``count`` multiples of 2**-24 (for float32) or 2**-53 (for float64) in [0, 1)."""
        if dtype == np.float32:
            return (self._words(count) & np.uint32(2**24 - 1)).astype(np.float32) * np.float32(2**-24)
        return (self._words64(count) & np.uint64(2**53 - 1)).astype(np.float64) * 2.0**-53
