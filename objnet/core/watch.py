"""Whether what a capture met has changed: between calls (:class:`Watch`), and through a trace (:class:`Snapshot`)."""

from __future__ import annotations

import functools
import itertools
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from operator import attrgetter, itemgetter
from typing import Any

from objnet.core import epoch
from objnet.core.capture import EMPTY, Capture, class_attributes, contents, fingerprint, methods, slot, space_of
from objnet.core.reads import EVERYTHING

_CONTENTS = attrgetter("cell_contents")


class Watch:
    """Tells cheaply whether anything a :class:`Capture` met has changed since.

    It compares identities, grouped so that each group is one pass in C, and forgets everything when an object it would
    otherwise keep alive is gone: it is not valid from then on.
    """

    def __init__(self, capture: Capture):
        self._epoch: int | None = epoch.current()
        self.on_end: Callable[[], None] | None = None
        self._alive: list[Any] = []
        self._refs: list[Any] = []
        spaces: dict[int, tuple[Any, dict[str, Any]]] = {}
        for space, name, value in capture.names:
            spaces.setdefault(id(space), (space, {}))[1][name] = value
        self._names = [
            (itemgetter(*names, next(iter(names))), space, self._ids(names.values())) for space, names in spaces.values()
        ]
        for _, _, ids in self._names:
            ids.append(ids[0])  # one name too many makes itemgetter give a tuple even for one
        for kind in capture.classes:
            names = {k: v for k, v in class_attributes(kind).items() if (id(kind), k) not in capture.ignored}
            names.update(methods(kind))
            if names:
                self._names.append(
                    (itemgetter(*names, next(iter(names))), vars(kind), self._ids([*names.values(), next(iter(names.values()))]))
                )
        self._spaces = [vars(kind) for kind in capture.classes]
        self._sizes = [*map(len, self._spaces)]  # an attribute that a class gains may hide another's
        self._cells = list(capture.cells)
        self._cell_ids = self._ids(map(contents, capture.cells))
        self._containers = [(_items(c), self._ids(_items(c)())) for c in capture.containers]
        self._alive.extend(capture.containers)
        for instance, space, read in capture.instances:
            ref = weakref.ref(instance) if _weak(instance) else functools.partial(_give, instance)
            get = functools.partial(_attributes, ref, None if read is EVERYTHING else tuple(read))
            self._containers.append((get, self._ids(get())))
            self._alive.append(space)
            self.hold(instance)
        for thing, _, slots in capture.slotted:
            get = functools.partial(_values, weakref.ref(thing) if _weak(thing) else functools.partial(_give, thing), slots)
            self._containers.append((get, self._ids(get())))
        self._arrays = [(self.hold(a), fingerprint(a)) for a in capture.arrays if a.flags.writeable]

    def _ids(self, values: Iterable[Any]) -> list[int]:
        values = list(values)
        for value in values:
            self.hold(value)
        return [*map(id, values)]

    def hold(self, value: Any) -> Any:
        """Keep an identity meaningful: by a weak reference that reports its end, or else by keeping the value."""
        try:
            self._refs.append(weakref.ref(value, self._end))
            return self._refs[-1]
        except TypeError:
            self._alive.append(value)
            return lambda: value

    def _end(self, _: Any) -> None:
        self._epoch = None
        self._alive.clear()
        self._names, self._cells, self._containers, self._arrays, self._spaces = [], [], [], [], []
        if self.on_end is not None:
            self.on_end()

    def valid(self) -> bool:
        """Whether nothing has changed."""
        if epoch._epoch != self._epoch:
            return False
        if [*map(len, self._spaces)] != self._sizes:
            return False
        try:
            for get, space, ids in self._names:
                if [*map(id, get(space))] != ids:
                    return False
            if self._cells and [*map(id, map(_CONTENTS, self._cells))] != self._cell_ids:
                return False
        except (KeyError, ValueError):
            return False  # a global was deleted, or an enclosing variable
        for items, ids in self._containers:
            if [*map(id, items())] != ids:
                return False
        for array, content in self._arrays:
            held = array()
            if held is None or fingerprint(held) != content:
                return False
        return True


class Snapshot:
    """Shallow copies of what a :class:`Capture` met, to tell what a trace changed, and to undo it."""

    def __init__(self, capture: Capture):
        self._names = [*capture.names, *capture.stored]
        self._classes = [(kind, class_attributes(kind)) for kind in capture.classes]
        self._cells = [(cell, contents(cell)) for cell in capture.cells]
        self._slotted = [(thing, slots, _values(lambda thing=thing: thing, slots)) for thing, slots, _ in capture.slotted]
        self._containers: list[tuple[Any, Any, Any]] = [
            *((c, c.copy(), None) for c in capture.containers if not isinstance(c, types.MappingProxyType)),
            *((space, space.copy(), instance) for instance, space, _ in capture.instances),
        ]

    def changes(self) -> list[tuple[Any, Any, Any, Any]]:
        """What changed since: (key for ``ignored``, owner to keep alive, values now there, the plain object if it is one)."""
        found: list[tuple[Any, Any, Any, Any]] = []
        for space, name, value in self._names:
            if space.get(name, EMPTY) is not value:
                found.append(((id(space), name), space, space.get(name), None))
        for kind, before in self._classes:
            for name, value in class_attributes(kind).items():
                if before.get(name, EMPTY) is not value:
                    found.append(((id(kind), name), kind, value, None))
        for thing, slots, values in self._slotted:
            now = dict(zip(slots, _values(lambda thing=thing: thing, slots), strict=True))
            changed = {k: v for (k, v), old in zip(now.items(), values, strict=True) if v is not old}
            if changed:
                found.append((id(thing), thing, changed, None))
        for cell, value in self._cells:
            if contents(cell) is not value:
                found.append((id(cell), cell, contents(cell), None))
        for container, copy, instance in self._containers:
            if [*map(id, _items(container)())] != [*map(id, _items(copy)())]:
                now = dict(container) if isinstance(container, dict) else list(container)
                if isinstance(container, dict):
                    now = {k: v for k, v in container.items() if copy.get(k, EMPTY) is not v}
                found.append((id(container), container, now, instance))
        return found

    def restore(self) -> None:
        """Put everything back."""
        for space, name, value in self._names:
            if space.get(name, EMPTY) is not value and isinstance(space, dict):
                if value is EMPTY:
                    del space[name]
                else:
                    space[name] = value
        for kind, before in self._classes:
            for name, value in class_attributes(kind).items():
                if name not in before:
                    delattr(kind, name)
                elif before[name] is not value:
                    setattr(kind, name, before[name])
        for thing, slots, values in self._slotted:
            for name, value in zip(slots, values, strict=True):
                if value is not EMPTY and slot(thing, name) is not value:
                    object.__setattr__(thing, name, value)
        for cell, value in self._cells:
            if value is not EMPTY and contents(cell) is not value:
                cell.cell_contents = value
        for container, copy, _ in self._containers:
            if [*map(id, _items(container)())] == [*map(id, _items(copy)())]:
                continue
            if isinstance(container, list):
                container[:] = copy
            else:
                container.clear()
                (container.extend if isinstance(container, deque) else container.update)(copy)


def _values(ref: Callable[[], Any], slots: tuple[str, ...]) -> list[Any]:
    thing = ref()
    return [slot(thing, name) for name in slots]


def _attributes(ref: Callable[[], Any], names: tuple[str, ...] | None) -> list[Any]:
    """The class of a plain object, and its attributes of these names, or all with theirs; both may be exchanged as a whole."""
    thing = ref()
    space = space_of(thing) or {}
    if names is None:
        return [type(thing), *space, *space.values()]
    return [type(thing), *map(space.get, names, itertools.repeat(EMPTY))]


def _weak(thing: Any) -> bool:
    return getattr(type(thing), "__weakrefoffset__", 0) > 0


def _give(thing: Any) -> Any:
    return thing


def _items(container: Any) -> Callable[[], Iterable[Any]]:
    if isinstance(container, (dict, types.MappingProxyType)):
        keys, values = container.keys(), container.values()
        return lambda: (*keys, *values)
    if isinstance(container, set):
        return lambda: sorted(container, key=id)
    return lambda: container
