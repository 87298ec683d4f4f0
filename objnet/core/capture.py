"""What a function can reach: the Variables to lift into a program's inputs, and the facts its program bakes in.

:class:`Capture` walks from a function and its arguments through closure cells, globals the code names, attributes and
containers.  It yields three things from one walk: the Variables in a fixed order; a hashable *key* of everything static, in
which objects are described by structure, so that an equal model built anew finds the same program; and *watches*, the
identities to compare before the next call, so that the walk itself is rarely repeated.
"""

from __future__ import annotations

import dis
import functools
import os
import sys
import sysconfig
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from operator import attrgetter, itemgetter
from typing import Any

import jax
import numpy as np

from objnet.core import attention, epoch, frame, precision, scope
from objnet.core.variable import Parameter, Variable

_SCALARS = frozenset({bool, int, float, complex, str, bytes, type(None), type(Ellipsis), type(NotImplemented), range, slice})
_LIBRARIES = frozenset({"jax", "jaxlib", "numpy", "scipy", "optax", "objnet", "ml_dtypes", "torch", "flax", "haiku", "builtins"})
_STDLIB = tuple(os.path.realpath(p) + os.sep for p in (sysconfig.get_paths()["stdlib"], sysconfig.get_paths()["platstdlib"]))
_NAMESPACES = (types.SimpleNamespace,)
MAX_NODES = 200_000
MAX_DEPTH = 100  # of nesting, far beyond any model's
MAX_ITEMS = 4096  # longer containers are data: known by identity and length
MAX_BYTES = 1 << 20  # larger numpy arrays are compared by a sample
_EMPTY = object()
_CONTENTS = attrgetter("cell_contents")


class Identity:
    """A hashable stand-in for one object, equal only to itself, that does not keep it alive where it can help it."""

    __slots__ = ("_hash", "_ref")

    def __init__(self, value: Any):
        self._hash = id(value)
        try:
            self._ref: Callable[[], Any] = weakref.ref(value)
        except TypeError:
            self._ref = lambda: value

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Identity) or other._hash != self._hash:
            return False
        mine = self._ref()
        return mine is not None and mine is other._ref()


class Capture:
    """One walk over what a function and its static arguments reach.

    Attributes:
        variables: every Variable met, in the order of the walk.
        objects: every object with a ``__objnet_capture__`` method met (modules, optimizers), in the order of the walk.
    """

    def __init__(self, ignored: dict[Any, Any] | None = None) -> None:
        self._ignored = ignored or {}  # what the function itself changes while it is traced, such as a counter of traces
        self.variables: list[Variable] = []
        self.objects: list[Any] = []
        self._seen: dict[int, int] = {}
        self._alive: list[Any] = []  # ids stay meaningful while the walk lasts
        self._package: str | None = None
        self._depth = 0
        self.names: list[tuple[dict[str, Any], str, Any]] = []
        self.cells: list[types.CellType] = []
        self.stored: list[tuple[dict[str, Any], str, Any]] = []  # globals the code assigns without reading them
        self.slotted: list[tuple[Any, tuple[str, ...]]] = []
        self.containers: list[Any] = []
        self.instances: list[Any] = []  # the plain objects whose attributes are among the containers
        self.arrays: list[np.ndarray] = []
        self.classes: list[type] = []  # the user's, whose own attributes are among the facts

    def walk(self, function: Any, statics: Iterable[Any]) -> Any:
        """The key of ``function`` and the static arguments, filling the lists on the way."""
        module = getattr(function, "__module__", None) or type(function).__module__
        self._package = module.partition(".")[0]
        inner = frame.current()
        if inner is not None and inner.unbound and not scope.constructing():
            inner.bind()  # whether an attribute is None is a fact
        if self._package == "objnet":
            self._package = None
        settings = (precision.get_float32_matmul_precision(), attention.enabled())
        return (settings, self.visit(function), tuple(self.visit(s) for s in statics))

    def visit(self, value: Any) -> Any:
        """The key of one value."""
        kind = type(value)
        if kind in _SCALARS:
            return (kind, repr(value) if kind in (float, complex, slice) else value)
        index = self._seen.get(id(value))
        if index is not None:
            return ("again", index)
        if len(self._seen) > MAX_NODES or self._depth > MAX_DEPTH:
            return Identity(value)
        self._depth += 1
        try:
            return self._describe(value, kind)
        finally:
            self._depth -= 1

    def _describe(self, value: Any, kind: type) -> Any:
        self._seen[id(value)] = len(self._seen)
        self._alive.append(value)
        if isinstance(value, Variable):
            return self._variable(value)
        capture = getattr(kind, "__objnet_capture__", None)
        if capture is not None:
            self.objects.append(value)
            return (Identity(kind), self._class(kind), capture(value, self.visit))
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, types.MethodType):
            return ("method", self.visit(value.__func__), self.visit(value.__self__))
        if isinstance(value, functools.partial):
            return ("partial", self.visit(value.func), self.visit(value.args), self.visit(value.keywords))
        if isinstance(value, (dict, list, tuple, set, frozenset, deque)):
            return self._container(value)
        if isinstance(value, np.ndarray) and value.dtype != object:
            self.arrays.append(value)
            return ("numpy", value.shape, value.dtype, fingerprint(value))
        if isinstance(value, jax.Array):
            return ("constant", Identity(value))
        if isinstance(value, type):
            return ("class", Identity(value), self._class(value))
        return self._object(value)

    def _variable(self, variable: Variable) -> Any:
        self.variables.append(variable)
        if not isinstance(variable, Parameter):
            return (type(variable), getattr(variable, "persistent", None), variable._peek() is None)
        self.variables.append(variable._grad)
        extra = {k: v for k, v in variable.__dict__.items() if k not in ("_grad", "_requires_grad")}
        return (type(variable), variable.requires_grad, self.visit(extra) if extra else None)

    def _container(self, value: Any) -> Any:
        kind = type(value)
        if id(value) in self._ignored:
            return ("ignored",)
        if len(value) > MAX_ITEMS:
            return ("long", Identity(value), len(value))
        if not isinstance(value, (tuple, frozenset)):
            self.containers.append(value)
        if isinstance(value, dict):
            return (kind, tuple((self.visit(k), self.visit(v)) for k, v in value.items()))
        items = sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value
        return (kind, tuple(self.visit(v) for v in items))

    def _function(self, function: types.FunctionType) -> Any:
        library = self._library(function.__module__)
        closure = []
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            if id(cell) in self._ignored:
                continue
            if not library and name != "__class__":  # a decorator's cells are set once
                self.cells.append(cell)
            closure.append(self.visit(_contents(cell)))
        return (
            "function",
            Identity(function.__code__),
            tuple(closure),
            self.visit(function.__defaults__),
            self.visit(function.__kwdefaults__),
            () if library else self._globals(function),
            () if library else self._attributes(function),
        )

    def _attributes(self, function: types.FunctionType) -> Any:
        space, found = function.__dict__, []
        for name, value in space.items():
            if (id(space), name) not in self._ignored:
                self.names.append((space, name, value))
                found.append((name, self.visit(value)))
        return tuple(found)

    def _globals(self, function: types.FunctionType) -> Any:
        names, attributes, stored = names_in(function.__code__)
        entered: set[int] = set()
        space = function.__globals__
        self.stored += [(space, name, space.get(name, _EMPTY)) for name in stored if name not in names]
        found = []
        for name in names:
            value = function.__globals__.get(name, _EMPTY)
            if value is _EMPTY or (id(function.__globals__), name) in self._ignored:
                continue
            if isinstance(value, types.ModuleType):
                found.append((name, self._module(value, attributes, entered)))
                continue
            if isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType)) and self._library(value.__module__):
                continue
            self.names.append((function.__globals__, name, value))
            found.append((name, self.visit(value)))
        return tuple(found)

    def _module(self, module: types.ModuleType, attributes: tuple[str, ...], entered: set[int]) -> Any:
        """The members of a user's module, and of the modules in it, that code may load."""
        if self._library(module.__name__) or id(module) in entered:
            return ()
        entered.add(id(module))
        found, members = [], vars(module)
        for name in attributes:
            value = members.get(name, _EMPTY)
            if value is _EMPTY or (id(members), name) in self._ignored:
                continue
            self.names.append((members, name, value))
            inner = isinstance(value, types.ModuleType)
            found.append((name, self._module(value, attributes, entered) if inner else self.visit(value)))
        return tuple(found)

    def _class(self, kind: type) -> Any:
        """The globals and closures that the methods of a user's class name, and its own attributes, once a class."""
        facts = []
        for base in kind.__mro__:
            if self._library(base.__module__) or (id(base) in self._seen and base is not kind) or base in self.classes:
                continue
            self._seen.setdefault(id(base), len(self._seen))
            self._alive.append(base)
            self.classes.append(base)
            for member in vars(base).values():
                for function in _functions(member):
                    if id(function) not in self._seen:
                        facts.append(self.visit(function))
            for name, value in class_attributes(base).items():
                if (id(base), name) not in self._ignored:
                    facts.append((name, self.visit(value)))
        return tuple(facts)

    def _object(self, value: Any) -> Any:
        kind = type(value)
        space = getattr(value, "__dict__", None)
        if isinstance(space, dict) and (
            isinstance(value, _NAMESPACES) or kind.__name__ == "Namespace" or not self._library(kind.__module__)
        ):
            self.containers.append(space)
            self.instances.append(value)
            items = tuple((k, self.visit(v)) for k, v in space.items() if len(space) <= MAX_ITEMS)
            return ("object", Identity(kind), self._class(kind), items)
        slots = () if self._library(kind.__module__) else _slots(kind)
        if slots and id(value) in self._ignored:
            return ("ignored",)
        if slots:
            self.slotted.append((value, slots))
            return ("slots", Identity(kind), self._class(kind), tuple((k, self.visit(getattr(value, k, _EMPTY))) for k in slots))
        if isinstance(value, types.MappingProxyType):
            self.containers.append(value)
            return ("proxy", tuple((self.visit(k), self.visit(v)) for k, v in value.items()))
        if kind.__eq__ is not object.__eq__:
            try:
                hash(value)
                return ("value", value)
            except TypeError:
                pass
        return Identity(value)

    def _library(self, module: str | None) -> bool:
        if module is None or module == "__main__":
            return module is None
        package = module.partition(".")[0]
        if package == self._package:
            return False
        return package in _LIBRARIES or package in sys.stdlib_module_names or _installed(package)


@functools.cache
def _installed(package: str) -> bool:
    """Whether a package belongs to the interpreter or was installed into it, rather than being the user's own code."""
    file = getattr(sys.modules.get(package), "__file__", None)
    if file is None:
        return False
    path = os.path.realpath(file)
    return path.startswith(_STDLIB) or any(f"{os.sep}{d}{os.sep}" in path for d in ("site-packages", "dist-packages"))


def _functions(member: Any) -> list[types.FunctionType]:
    if isinstance(member, (staticmethod, classmethod)):
        member = member.__func__
    if isinstance(member, property):
        return [f for f in (member.fget, member.fset) if isinstance(f, types.FunctionType)]
    return [member] if isinstance(member, types.FunctionType) else []


def class_attributes(kind: type) -> dict[str, Any]:
    """What a class holds itself besides methods: settings, counters, caches."""
    return {k: v for k, v in vars(kind).items() if not k.startswith(("__", "_abc_")) and not _functions(v)}


@functools.lru_cache(maxsize=4096)
def names_in(code: types.CodeType) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """The globals that a code object and the code nested in it load, the attributes they load, the globals they assign."""
    names: dict[str, None] = {}
    stored: dict[str, None] = {}
    attributes: dict[str, None] = {}
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            names[instruction.argval] = None
        elif instruction.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            attributes[instruction.argval] = None
        elif instruction.opname == "STORE_GLOBAL":
            stored[instruction.argval] = None
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            inner = names_in(constant)
            names.update(dict.fromkeys(inner[0]))
            attributes.update(dict.fromkeys(inner[1]))
            stored.update(dict.fromkeys(inner[2]))
    return tuple(names), tuple(attributes), tuple(stored)


def _contents(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return _EMPTY


def fingerprint(array: np.ndarray) -> bytes:
    """The content of a numpy array, or of an evenly spaced sample of a large one."""
    if array.nbytes <= MAX_BYTES:
        return array.tobytes()
    flat = array.reshape(-1)
    return flat[:: max(1, flat.size // MAX_ITEMS)].tobytes()


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
            names = {k: v for k, v in class_attributes(kind).items() if (id(kind), k) not in capture._ignored}
            if names:
                self._names.append(
                    (itemgetter(*names, next(iter(names))), vars(kind), self._ids([*names.values(), next(iter(names.values()))]))
                )
        self._spaces = [vars(kind) for kind in capture.classes]
        self._sizes = [*map(len, self._spaces)]  # an attribute that a class gains may hide another's
        self._cells = list(capture.cells)
        self._cell_ids = self._ids(map(_contents, capture.cells))
        self._containers = [(_items(c), self._ids(_items(c)())) for c in capture.containers]
        self._alive.extend(capture.containers)
        for thing, slots in capture.slotted:
            get = functools.partial(_values, weakref.ref(thing) if _weak(thing) else functools.partial(_give, thing), slots)
            self._containers.append((get, self._ids(get())))
        self._arrays = [(self.hold(a), fingerprint(a)) for a in capture.arrays if a.flags.writeable]
        for instance in capture.instances:
            self.hold(instance)

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


def _slots(kind: type) -> tuple[str, ...]:
    """The ``__slots__`` of a class and its bases."""
    names: list[str] = []
    for base in kind.__mro__:
        own = vars(base).get("__slots__", ())
        names += [own] if isinstance(own, str) else own
    return tuple(n for n in names if n not in ("__dict__", "__weakref__"))


def _values(ref: Callable[[], Any], slots: tuple[str, ...]) -> list[Any]:
    thing = ref()
    return [getattr(thing, name, _EMPTY) for name in slots]


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


class Snapshot:
    """Shallow copies of what a :class:`Capture` met, to tell what a trace changed, and to undo it."""

    def __init__(self, capture: Capture):
        self._names = [*capture.names, *capture.stored]
        self._classes = [(kind, class_attributes(kind)) for kind in capture.classes]
        self._cells = [(cell, _contents(cell)) for cell in capture.cells]
        self._slotted = [(thing, slots, _values(lambda thing=thing: thing, slots)) for thing, slots in capture.slotted]
        objects = {id(o.__dict__): o for o in capture.instances}
        self._containers = [
            (c, c.copy(), objects.get(id(c))) for c in capture.containers if not isinstance(c, types.MappingProxyType)
        ]

    def changes(self) -> list[tuple[Any, Any, Any, Any]]:
        """What changed since: (key for ``ignored``, owner to keep alive, values now there, the plain object if it is one)."""
        found: list[tuple[Any, Any, Any, Any]] = []
        for space, name, value in self._names:
            if space.get(name, _EMPTY) is not value:
                found.append(((id(space), name), space, space.get(name), None))
        for kind, before in self._classes:
            for name, value in class_attributes(kind).items():
                if before.get(name, _EMPTY) is not value:
                    found.append(((id(kind), name), kind, value, None))
        for thing, slots, values in self._slotted:
            now = dict(zip(slots, _values(lambda thing=thing: thing, slots), strict=True))
            changed = {k: v for (k, v), old in zip(now.items(), values, strict=True) if v is not old}
            if changed:
                found.append((id(thing), thing, changed, None))
        for cell, value in self._cells:
            if _contents(cell) is not value:
                found.append((id(cell), cell, _contents(cell), None))
        for container, copy, instance in self._containers:
            if [*map(id, _items(container)())] != [*map(id, _items(copy)())]:
                now = dict(container) if isinstance(container, dict) else list(container)
                if isinstance(container, dict):
                    now = {k: v for k, v in container.items() if copy.get(k, _EMPTY) is not v}
                found.append((id(container), container, now, instance))
        return found

    def restore(self) -> None:
        """Put everything back."""
        for space, name, value in self._names:
            if space.get(name, _EMPTY) is not value and isinstance(space, dict):
                if value is _EMPTY:
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
                if value is not _EMPTY and getattr(thing, name, _EMPTY) is not value:
                    object.__setattr__(thing, name, value)
        for cell, value in self._cells:
            if value is not _EMPTY and _contents(cell) is not value:
                cell.cell_contents = value
        for container, copy, _ in self._containers:
            if [*map(id, _items(container)())] == [*map(id, _items(copy)())]:
                continue
            if isinstance(container, list):
                container[:] = copy
            else:
                container.clear()
                (container.extend if isinstance(container, deque) else container.update)(copy)
