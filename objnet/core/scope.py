"""Which module is being built or run here: it decides how a parameter reads, and names modules in errors.

A scope is a linked record ``(kind, module, outer)``.  Of ``BUILD`` (a constructor), ``FORWARD`` (a forward) and ``HOOK`` the
innermost decides: inside a forward ``self.weight`` is the array, everywhere else it is the Parameter.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, NamedTuple

BUILD, FORWARD, HOOK = "build", "forward", "hook"


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


def building() -> bool:
    scope = _scope.get()
    return scope is not None and scope.kind is BUILD
