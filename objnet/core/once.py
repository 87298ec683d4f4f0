"""Running a function once, in a frame of its own: again with a token where jax could cache what it reads; and what it wrote."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from objnet.core import frame
from objnet.core.variable import Variable

T = TypeVar("T")


def once(attempt: Callable[[frame.Frame, bool], T], make: Callable[[], frame.Frame] = frame.Frame) -> T:
    """Run ``attempt(frame, token)`` for a function that jax runs once, again with a token if jax could cache what it reads."""
    token = False
    while True:
        inner = make()
        try:
            return attempt(inner, token)
        except frame.TokenNeeded as needed:
            if needed.frame is not inner:
                raise
            token = True
        finally:
            inner.rollback()  # what an attempt that failed did to attributes
            inner.close()


class Written:
    """What a function that runs once wrote: packed inside its transform, handed over after it."""

    def __init__(self) -> None:
        self._variables: list[Variable] = []
        self._sentinels: dict[int, Any] = {}

    def pack(self, inner: frame.Frame) -> list[Any]:
        """The values to leave the transform with; the frame lets go of its own."""
        outcome = inner.outcome()
        self._variables, pairs = list(outcome), list(outcome.values())
        self._sentinels = {i: pair for i, pair in enumerate(pairs) if isinstance(pair[0], frame.Sentinel)}
        inner.close()  # inside the trace, which its values must not outlive
        return [None if i in self._sentinels else pair for i, pair in enumerate(pairs)]

    def hand_over(self, inner: frame.Frame, values: Sequence[Any]) -> None:
        """Write what came out where the transform was called."""
        pairs = [self._sentinels.get(i, pair) for i, pair in enumerate(values)]
        inner.commit(dict(zip(self._variables, pairs, strict=True)))
