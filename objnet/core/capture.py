"""What a function can reach: the Variables to lift into a program's inputs, and the facts its program bakes in.

:class:`Capture` walks from a function and its arguments through closure cells, globals the code names, attributes and
containers.  It yields three things from one walk: the Variables in a fixed order; a hashable *key* of everything static, in
which objects are described by structure, so that an equal model built anew finds the same program; and what it met, for
:mod:`objnet.core.watch` to compare before the next call, so that the walk itself is rarely repeated.
"""

from __future__ import annotations

import functools
import os
import sys
import sysconfig
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from objnet.core import attention, frame, precision, reads, scope, settings
from objnet.core.names import modules, names_in
from objnet.core.reads import EVERYTHING, Names, Reads
from objnet.core.variable import Parameter, Variable

_SCALARS = frozenset({bool, int, float, complex, str, bytes, type(None), type(Ellipsis), type(NotImplemented), range, slice})
_LIBRARIES = frozenset({"jax", "jaxlib", "numpy", "scipy", "optax", "objnet", "ml_dtypes", "torch", "flax", "haiku", "builtins"})
_STDLIB = tuple(os.path.realpath(p) + os.sep for p in (sysconfig.get_paths()["stdlib"], sysconfig.get_paths()["platstdlib"]))
_NAMESPACES = (types.SimpleNamespace,)
MAX_NODES = 200_000
MAX_DEPTH = 100  # of nesting, far beyond any model's
MAX_ITEMS = 4096  # longer containers are data: known by identity and length
MAX_BYTES = 1 << 20  # larger numpy arrays are compared by a sample
EMPTY = object()


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

    Args:
        ignored: what the function itself changes while it is traced, such as a counter of traces.
        reads: the attributes of plain objects that traces of the function have read; others are left out.
        depends: whether a trace that runs now depends on all that is met.

    Attributes:
        variables: every Variable met, in the order of the walk.
        objects: every object with a ``__objnet_capture__`` method met (modules, optimizers), in the order of the walk.
    """

    def __init__(self, ignored: dict[Any, Any] | None = None, reads: Reads | None = None, depends: bool = True) -> None:
        self.ignored = ignored or {}
        self._reads = reads
        self._depends = depends
        self.kinds: dict[type, frozenset[str] | None] = {}  # the classes whose reads can be followed: what was looked at
        self.variables: list[Variable] = []
        self.objects: list[Any] = []
        self._seen: dict[int, int] = {}
        self._alive: list[Any] = []  # ids stay meaningful while the walk lasts
        self._package: str | None = None
        self._depth = 0
        self._absent: list[str] = []  # modules that code imports, not imported yet
        self.names: list[tuple[dict[str, Any], str, Any]] = []
        self.cells: list[types.CellType] = []
        self.stored: list[tuple[dict[str, Any], str, Any]] = []  # globals the code assigns without reading them
        self.slotted: list[tuple[Any, tuple[str, ...], tuple[str, ...]]] = []  # object, its slots, those looked at
        self.containers: list[Any] = []
        # plain objects, their attributes, those of them looked at
        self.instances: list[tuple[Any, dict[str, Any], frozenset[str] | None]] = []
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
        baked_in = (
            precision.get_float32_matmul_precision(),
            attention.enabled(),
            tuple((s.kind, self.visit(s.value)) for s in settings.current()),
            None if inner is None else inner.phase(),
        )
        return (baked_in, self.visit(function), tuple(self.visit(s) for s in statics))

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
            return (Identity(kind), self._class(kind), self._plain(value, kind), capture(value, self.visit))
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
        if id(value) in self.ignored:
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
        library = function.__module__ is not None and self._library(function.__module__)  # None: exec without a __name__
        closure: list[Any] = []
        entered: set[int] = set()
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            if id(cell) in self.ignored:
                continue
            if not library and name != "__class__":  # a decorator's cells are set once
                self.cells.append(cell)
            value = contents(cell)
            closure.append(self.visit(value))
            if not library:
                closure.append(self._members(value, names_in(function.__code__).attributes, entered))
        return (
            "function",
            Identity(function.__code__),
            tuple(closure),
            self.visit(function.__defaults__),
            self.visit(function.__kwdefaults__),
            () if library else self._globals(function, entered),
        )

    def _globals(self, function: types.FunctionType, entered: set[int]) -> Any:
        names, attributes, stored, imported = names_in(function.__code__)
        space = function.__globals__
        self.stored += [(space, name, space.get(name, EMPTY)) for name in stored if name not in names]
        found = []
        for name in names:
            value = space.get(name, EMPTY)
            if value is EMPTY or (id(space), name) in self.ignored:
                continue
            if isinstance(value, types.ModuleType):
                if not self._library(value.__name__):
                    self.names.append((space, name, value))
                    found.append((name, self._members(value, attributes, entered)))
                continue
            if isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType)) and self._library(value.__module__):
                continue
            self.names.append((space, name, value))
            found.append((name, self.visit(value), self._members(value, attributes, entered)))
        for level, name in imported:
            for module in modules("." * level + name, space.get("__package__")):
                if module in sys.modules:
                    found.append((module, self._members(sys.modules[module], attributes, entered)))
                else:
                    self._absent.append(module)
        return tuple(found)

    def imports(self) -> bool:
        """Whether a module that the code imports has been imported since the walk, which could not look into it."""
        return any(module in sys.modules for module in self._absent)

    def _members(self, owner: Any, attributes: tuple[str, ...], entered: set[int]) -> Any:
        """What code that loads ``attributes`` may find on a user's module or function, and on those it finds there."""
        module = isinstance(owner, types.ModuleType)
        if not module and not isinstance(owner, types.FunctionType):
            return ()
        if self._library(owner.__name__ if module else owner.__module__) or id(owner) in entered:
            return ()
        entered.add(id(owner))
        found, members = [], vars(owner)
        for name in attributes:
            value = members.get(name, EMPTY)
            if value is EMPTY or (id(members), name) in self.ignored:
                continue
            self.names.append((members, name, value))
            key = None if isinstance(value, types.ModuleType) else self.visit(value)
            found.append((name, key, self._members(value, attributes, entered)))
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
                if (id(base), name) not in self.ignored:
                    facts.append((name, self.visit(value)))
        return tuple(facts)

    def _object(self, value: Any) -> Any:
        kind = type(value)
        library = self._library(kind.__module__)
        namespace = isinstance(value, _NAMESPACES) or kind.__name__ == "Namespace"
        space = space_of(value)
        if isinstance(space, dict) and (namespace or not library):
            names = EVERYTHING if namespace else self._read(kind)
            self.instances.append((value, space, names))
            read = {k: v for k, v in space.items() if names is EVERYTHING or k in names} if len(space) <= MAX_ITEMS else {}
            slots = tuple(k for k in _slots(kind) if names is EVERYTHING or k in names)
            if slots:
                self.slotted.append((value, _slots(kind), slots))
                read |= {k: slot(value, k) for k in slots}
            return ("object", Identity(kind), self._class(kind), tuple((k, self.visit(v)) for k, v in read.items()))
        slots = () if library else _slots(kind)
        if slots and id(value) in self.ignored:
            return ("ignored",)
        if slots:
            names = self._read(kind)
            read_slots = slots if names is EVERYTHING else tuple(k for k in slots if k in names)
            self.slotted.append((value, slots, read_slots))
            return ("slots", Identity(kind), self._class(kind), tuple((k, self.visit(slot(value, k))) for k in read_slots))
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

    def _plain(self, value: Any, kind: type) -> Any:
        """The plain attributes of a module."""
        if not hasattr(kind, "__objnet_plain__"):
            return ()
        plain = value.__objnet_plain__()
        names = EVERYTHING if self._library(kind.__module__) else self._read(kind)
        # the mode is kept, which users think of as the whole model's
        return tuple((k, self.visit(plain[k])) for k in sorted(plain) if names is EVERYTHING or k in names or k == "training")

    def left_out(self, more: Names) -> bool:
        """Whether there are objects that this walk has not met under these attributes."""
        owners = [(value, space) for value, space, _ in self.instances]
        owners += [(value, value.__objnet_plain__()) for value in self.objects if hasattr(type(value), "__objnet_plain__")]
        owners += [(value, {k: slot(value, k) for k in slots}) for value, slots, _ in self.slotted]
        for value, space in owners:
            names = more.get(type(value), frozenset())
            for name in space if names is EVERYTHING else names:
                held = space.get(name)
                if not (type(held) in _SCALARS or isinstance(held, (Variable, jax.Array)) or id(held) in self._seen):
                    return True
        return False

    def _read(self, kind: type) -> frozenset[str] | None:
        """The attributes to look at on instances of a class."""
        if not reads.can_tell(kind):
            return EVERYTHING
        if kind not in self.kinds:
            self.kinds[kind] = EVERYTHING if self._reads is None else self._reads.of(kind)
            if self._reads is None and self._depends:
                reads.note_whole(kind)
        return self.kinds[kind]

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
    if isinstance(member, types.FunctionType) and member in reads.told_by:
        return []  # there for the time of a trace
    if isinstance(member, (staticmethod, classmethod)):
        member = member.__func__
    if isinstance(member, property):
        return [f for f in (member.fget, member.fset) if isinstance(f, types.FunctionType)]
    return [member] if isinstance(member, types.FunctionType) else []


def class_attributes(kind: type) -> dict[str, Any]:
    """What a class holds itself besides methods: settings, counters, caches."""
    return {k: v for k, v in vars(kind).items() if not k.startswith(("__", "_abc_")) and not _functions(v)}


def methods(kind: type) -> dict[str, Any]:
    """The functions that a class holds itself."""
    return {k: v for k, v in vars(kind).items() if _functions(v)}


def contents(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return EMPTY


def fingerprint(array: np.ndarray) -> bytes:
    """The content of a numpy array, or of an evenly spaced sample of a large one."""
    if array.nbytes <= MAX_BYTES:
        return array.tobytes()
    flat = array.reshape(-1)
    return flat[:: max(1, flat.size // MAX_ITEMS)].tobytes()


def space_of(value: Any) -> Any:
    """The ``__dict__`` of an object, unasked of a class that tells of it; None if it has none."""
    kind = type(value)
    if kind.__getattribute__ is reads.tell and kind.__dictoffset__:
        return object.__getattribute__(value, "__dict__")
    return getattr(value, "__dict__", None)


def slot(value: Any, name: str) -> Any:
    """What a slot holds, unasked of the class."""
    try:
        return object.__getattribute__(value, name)
    except AttributeError:
        return EMPTY


def _slots(kind: type) -> tuple[str, ...]:
    """The ``__slots__`` of a class and its bases."""
    names: list[str] = []
    for base in kind.__mro__:
        own = vars(base).get("__slots__", ())
        names += [own] if isinstance(own, str) else own
    return tuple(n for n in names if n not in ("__dict__", "__weakref__"))
