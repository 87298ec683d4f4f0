"""Which attributes of the user's objects a trace reads: its program depends on these, and on no others.

A trainer's ``self.global_step`` or ``self.history`` may change between two calls of a compiled step that does not look at them.
While a trace runs, the classes of the objects it may meet have methods that tell of each read (and of each write, whose effect
depends on what was there).  A program that was traced when the attributes read had the values they have now would be traced to the
same again, so only they are part of its key (:mod:`objnet.core.capture`) and watched between calls.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

# What hands out the attributes as a whole, or to C code that takes them without asking the class.
_WHOLE = frozenset({"__dict__", "__getstate__", "__reduce__", "__reduce_ex__"})
_HEAP, _IMMUTABLE = 1 << 9, 1 << 8  # of type.__flags__: made by a class statement; attributes cannot be set
EVERYTHING = None  # in place of names
Names = Mapping[type, frozenset[str] | None]

_lock = threading.Lock()
_installed: dict[type, int] = {}  # how many recordings a class tells
_recordings: list[dict[type, set[str]]] = []
_all: weakref.WeakSet[Reads] = weakref.WeakSet()


def tell(self: Any, name: str) -> Any:
    """The ``__getattribute__`` of classes while they are recorded."""
    if name != "__dict__" or not _asked_by_objnet():  # which looks for registries there, or notes what it reads
        note(type(self), (name,))
    return object.__getattribute__(self, name)


def _asked_by_objnet() -> bool:
    return sys._getframe(2).f_globals.get("__name__", "").startswith("objnet.")


def _tell_set(self: Any, name: str, value: Any) -> None:
    note(type(self), (name,))  # what is there already when a trace sets it may not be there at the next call
    object.__setattr__(self, name, value)


def _tell_delete(self: Any, name: str) -> None:
    note(type(self), (name,))
    object.__delattr__(self, name)


_METHODS = {"__getattribute__": tell, "__setattr__": _tell_set, "__delattr__": _tell_delete}
told_by = frozenset(_METHODS.values())


def tells(method: Any) -> Any:
    """Mark a ``__setattr__`` or ``__delattr__`` that calls :func:`note` itself."""
    method._objnet_tells = True
    return method


def note(kind: type, names: Iterable[str]) -> None:
    """Count attributes of instances of ``kind`` as read, in every trace that runs now."""
    for recording in _recordings:
        if (read := recording.get(kind)) is not None:
            read.update(names)


def note_whole(kind: type) -> None:
    """Count every attribute as read."""
    note(kind, _WHOLE)


def can_tell(kind: type) -> bool:
    """Whether reads of attributes of instances of this class can be followed."""
    if not kind.__flags__ & _HEAP or kind.__flags__ & _IMMUTABLE:
        return False
    methods = ((getattr(kind, name), getattr(object, name), ours) for name, ours in _METHODS.items())
    return all(method in (plain, ours) or hasattr(method, "_objnet_tells") for method, plain, ours in methods)


@contextmanager
def recording(kinds: Iterable[type]) -> Iterator[dict[type, set[str]]]:
    """Gives, by class, the names of the attributes read meanwhile; traces may overlap, and nest."""
    found: dict[type, set[str]] = {kind: set() for kind in kinds}
    told: list[type] = []
    try:
        with _lock:
            for kind in found:
                told.append(kind)
                _installed[kind] = _installed.get(kind, 0) + 1
                if _installed[kind] == 1:
                    for name, method in _METHODS.items():
                        if getattr(kind, name) is getattr(object, name):
                            type.__setattr__(kind, name, method)
            _recordings.append(found)
        yield found
    finally:
        with _lock:
            _recordings[:] = [r for r in _recordings if r is not found]
            for kind in told:
                _installed[kind] -= 1
                if _installed[kind] == 0:
                    del _installed[kind]
                    for name, method in _METHODS.items():
                        if vars(kind).get(name) is method:
                            type.__delattr__(kind, name)


class Reads:
    """What the traces of one function have read so far: names by class."""

    def __init__(self, names: Names = MappingProxyType({})) -> None:
        self._names: weakref.WeakKeyDictionary[type, frozenset[str] | None] = weakref.WeakKeyDictionary(names)
        _all.add(self)

    def of(self, kind: type) -> frozenset[str] | None:
        """The names read on instances of a class; EVERYTHING where that is not known."""
        return self._names.get(kind, EVERYTHING)

    def add(self, found: Mapping[type, set[str]], known: Names, finished: bool = True) -> Names:
        """Add what one trace has read; what of it is beyond ``known``, which its capture looked at.

        A trace that did not get to its end tells nothing of classes none has been through with.
        """
        more: dict[type, frozenset[str] | None] = {}
        for kind, names in found.items():
            whole = not _WHOLE.isdisjoint(names)
            before = known.get(kind, EVERYTHING)
            if before is EVERYTHING and not finished:
                continue
            if before is not EVERYTHING and (whole or not names <= before):
                more[kind] = EVERYTHING if whole else names - before
            held = self._names.get(kind, frozenset())
            self._names[kind] = EVERYTHING if whole or held is EVERYTHING else frozenset({*held, *names})
        return more

    def tell_more(self, known: Names) -> bool:
        """Whether more can be left out than a capture that looked at ``known`` did."""
        return any(names is EVERYTHING and self.of(kind) is not EVERYTHING for kind, names in known.items())

    def pass_on(self) -> None:
        """Count all of it as read now: a program of these traces, which jax may not trace again, runs inside another trace."""
        for kind, names in list(self._names.items()) if _recordings else ():
            note(kind, _WHOLE if names is EVERYTHING else names)


def looked_at(kind: type, name: str) -> bool:
    """Whether a program may depend on the attribute ``name`` of instances of ``kind``."""
    known = [found._names[kind] for found in list(_all) if kind in found._names]
    return not known or any(names is EVERYTHING or name in names for names in known)
