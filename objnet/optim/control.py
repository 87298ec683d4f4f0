"""Control flow that is Python's outside programs and jax's inside them, so that an algorithm is written once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
from jax import lax

from objnet.core import frame
from objnet.transforms.loops import while_loop

T = TypeVar("T")


def tracing() -> bool:
    """Whether a program is being traced, in which no value decides anything in Python."""
    return frame.trace_state() != frame.CLEAN and frame.staged()


def loop(go_on: Callable[[T], jax.Array], body: Callable[[T], T], carry: T) -> T:
    """``while go_on(carry): carry = body(carry)``; ``body`` may read and write Variables."""
    if tracing():
        return while_loop(go_on, body, carry)  # type: ignore[no-any-return]
    while bool(go_on(carry)):
        carry = body(carry)
    return carry


def choose(condition: jax.Array, then: Callable[[T], T], carry: T) -> T:
    """``then(carry)`` if ``condition``, else ``carry``; ``then`` is a pure function of arrays."""
    if tracing():
        return lax.cond(condition, then, lambda same: same, carry)  # type: ignore[no-any-return]
    return then(carry) if bool(condition) else carry
