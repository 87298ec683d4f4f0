"""Whether an optimizer has stepped since a scheduler was attached to it, told without a trace in compiled programs.

An eager step says so itself. A compiled one runs no Python, but leaves new arrays in the parameters: they are compared with
those there were.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax

_quiet: ContextVar[bool] = ContextVar("objnet_scheduler_starting", default=False)


class _Watch:
    """What there was when the first scheduler was attached."""

    __slots__ = ("override", "stepped", "values")

    def __init__(self, optimizer: Any):
        held = [p for group in optimizer.param_groups for p in group["params"]]
        arrays = [(p, p._value) for p in held if isinstance(p._value, jax.Array)]
        self.values = [(weakref.ref(p), weakref.ref(array)) for p, array in arrays]
        self.override = vars(optimizer).get("step")
        self.stepped = False


# Beside the optimizers, not in them: compiled programs look at their attributes.
_watched: weakref.WeakKeyDictionary[Any, _Watch] = weakref.WeakKeyDictionary()


def note(optimizer: Any) -> None:
    """An optimizer's step runs."""
    watch = _watched.get(optimizer)
    if watch is not None:
        watch.stepped = True


def begin(optimizer: Any) -> None:
    """A scheduler is attached."""
    if optimizer not in _watched:
        _watched[optimizer] = _Watch(optimizer)


def overridden(optimizer: Any) -> bool:
    """Whether ``optimizer.step`` was replaced since."""
    watch = _watched.get(optimizer)
    return watch is not None and vars(optimizer).get("step") is not watch.override


def stepped(optimizer: Any, base: type) -> bool:
    """Whether the optimizer may have stepped since; ``base`` is the class whose ``step`` calls :func:`note`."""
    watch = _watched.get(optimizer)
    if watch is None or watch.stepped or type(optimizer).step is not base.step:  # type: ignore[attr-defined]
        return True
    watch.stepped = any((p := parameter()) is not None and p._value is not old() for parameter, old in watch.values)
    return watch.stepped


@contextmanager
def starting() -> Iterator[None]:
    """While schedulers take their first step, before which no optimizer can have stepped."""
    reset = _quiet.set(True)
    try:
        yield
    finally:
        _quiet.reset(reset)


def is_starting() -> bool:
    """Whether a scheduler is taking its first step."""
    return _quiet.get()
