"""Which module is being built or run here: it decides how a parameter reads, and names modules in errors.

A scope is a linked record ``(kind, module, outer)``.  Of ``BUILD`` (a constructor), ``FORWARD`` (a forward) and ``HOOK`` the
innermost decides: inside a forward ``self.weight`` is the array, everywhere else it is the Parameter.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

BUILD, FORWARD, HOOK = "build", "forward", "hook"
_NONE = object()


class Scope(NamedTuple):
    kind: str
    module: Any
    outer: Scope | None


_scope: ContextVar[Scope | None] = ContextVar("objnet_scope", default=None)
current = _scope.get
reset = _scope.reset


def enter(kind: str, module: Any) -> Any:
    """Open a scope; hand what this returns to :func:`reset`."""
    return _scope.set(Scope(kind, module, _scope.get()))


def in_forward() -> bool:
    scope = _scope.get()
    return scope is not None and scope.kind is FORWARD


def constructing(besides: Any = _NONE) -> bool:
    """Whether a constructor (of another module than ``besides``) is running, however deep below."""
    return _any(BUILD, besides)


def running() -> bool:
    """Whether a forward is running, however deep below."""
    return _any(FORWARD, _NONE)


def _any(kind: str, besides: Any) -> bool:
    scope = _scope.get()
    while scope is not None:
        if scope.kind is kind and scope.module is not besides:
            return True
        scope = scope.outer
    return False


@contextmanager
def outside() -> Iterator[None]:
    """No scope at all: code that has nothing to do with what runs here."""
    token = _scope.set(None)
    try:
        yield
    finally:
        _scope.reset(token)


@contextmanager
def entered(kind: str, module: Any = None) -> Iterator[None]:
    """A scope for a ``with`` block; of kind ``BUILD`` for what gives first values outside a constructor."""
    token = enter(kind, module)
    try:
        yield
    finally:
        _scope.reset(token)
