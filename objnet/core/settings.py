"""Settings in force for a block of code: what intercepts modules, precision policies, autocast.

A compiled program has them baked in, so they are part of the key of every program: of objnet's by :func:`key`, of those that
plain jax caches by a user context.  Equal settings share programs.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import jax


class Setting(NamedTuple):
    """One setting: its kind, its value, and what tells it from others in the key of a program."""

    kind: str
    value: Any
    key: Hashable


_settings: ContextVar[tuple[Setting, ...]] = ContextVar("objnet_settings", default=())
_in_jax = jax.make_user_context(default_value=())
current = _settings.get


def of(kind: str) -> tuple[Any, ...]:
    """The values of this kind in force, outermost first."""
    return tuple(s.value for s in _settings.get() if s.kind == kind)


def last(kind: str, default: Any = None) -> Any:
    """The innermost value of this kind."""
    for setting in reversed(_settings.get()):
        if setting.kind == kind:
            return setting.value
    return default


def key() -> tuple[Any, ...]:
    """What the programs of code that runs here depend on; empty where no setting is in force."""
    return tuple((s.kind, s.key) for s in _settings.get())


@contextmanager
def entered(kind: str, value: Any, key: Hashable) -> Iterator[None]:
    """A setting for a ``with`` block, or for a function it decorates.

    Args:
        key: equal for settings that give equal programs.
    """
    with _replaced((*_settings.get(), Setting(kind, value, key))):
        yield


@contextmanager
def without(kind: str) -> Iterator[None]:
    """No setting of this kind."""
    with _replaced(tuple(s for s in _settings.get() if s.kind != kind)):
        yield


def replace_for_good(settings: tuple[Setting, ...]) -> None:
    """Set what holds in this thread from now on; no ``with`` block may be open."""
    _settings.set(settings)
    _in_jax(key()).__enter__()


@contextmanager
def _replaced(settings: tuple[Setting, ...]) -> Iterator[None]:
    reset = _settings.set(settings)
    try:
        with _in_jax(tuple((s.kind, s.key) for s in settings)):
            yield
    finally:
        _settings.reset(reset)
