"""The class of a module with parametrized tensors: a subclass with a property for each.

Modules of one class with the same names parametrized share that subclass, so that equal models share compiled programs.
"""

from __future__ import annotations

import copy
import copyreg
import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax

from objnet.core import epoch, frame
from objnet.nn.module import Module

cache: ContextVar[dict[tuple[int, str], Any] | None] = ContextVar("objnet_parametrizations", default=None)


@contextmanager
def cached() -> Iterator[None]:
    """Inside, a parametrized value is computed once, at its first use, for each transform and compiled function."""
    if cache.get() is not None:
        yield
        return
    reset = cache.set({})
    epoch.advance()  # compiled functions compute otherwise from now on
    try:
        yield
    finally:
        cache.reset(reset)
        epoch.advance()


def _refuse_pickling(self: Any) -> Any:
    raise RuntimeError("Serialization of parametrized modules is only supported through state_dict(): save that.")


def _deepcopy(self: Any, memo: dict[int, Any]) -> Any:
    if id(self) in memo:
        return memo[id(self)]
    new = memo[id(self)] = self.__new__(type(self))
    Module.__setstate__(new, copy.deepcopy(Module.__getstate__(self), memo))
    for slot in copyreg._slotnames(type(self)):  # type: ignore[attr-defined]
        if slot != "_home" and hasattr(self, slot):
            setattr(new, slot, copy.deepcopy(getattr(self, slot), memo))
    return new


def _property(name: str) -> property:
    def get(self: Any) -> jax.Array:
        values = cache.get()
        if values is None:
            return self.parametrizations[name]()
        # The value belongs to the trace it was computed in: elsewhere it would be a constant, or a tracer that leaked.
        here = (self, frame.current(), frame.trace_state())
        *where, value = values.get((id(self), name), (None, None))
        if len(where) != 3 or where[0] is not self or where[1] is not here[1] or where[2] != here[2]:
            value = self.parametrizations[name]()
            values[id(self), name] = (*here, value)
        return value

    def set(self: Any, value: Any) -> None:
        self.parametrizations[name].right_inverse(value)

    return property(get, set)


@functools.cache
def _with_properties(kind: type, names: tuple[str, ...]) -> type:
    """The subclass of ``kind`` with these names parametrized."""
    space: dict[str, Any] = {"__getstate__": _refuse_pickling, **{name: _property(name) for name in names}}
    if not hasattr(kind, "__deepcopy__"):
        space["__deepcopy__"] = _deepcopy
    return type(f"Parametrized{kind.__name__}", (kind,), space)


def set_properties(module: Module, kind: type, names: Sequence[str]) -> None:
    """Give ``module``, made as a ``kind``, the class with these names parametrized; a transform that fails undoes it."""
    old = type(module)
    inner = frame.current()
    if inner is not None:
        inner.expire()
        inner.undo.append(lambda: object.__setattr__(module, "__class__", old))
    object.__setattr__(module, "__class__", _with_properties(kind, tuple(names)) if names else kind)
    epoch.advance()
