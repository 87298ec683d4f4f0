"""Where two keys of a capture differ, in the user's terms: globals, closure variables, attributes by module path, modes."""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax

from objnet.core.capture import Capture, Identity
from objnet.core.reads import Reads
from objnet.core.variable import Parameter, Variable, path_of
from objnet.transforms.arguments import is_dynamic, leaf_names

_ABSENT = object()
_SETTINGS = ("float32 matmul precision", "attention kernels", "policies and interceptors", "phase of a pure function")


class Cause(NamedTuple):
    """One reason for a trace.

    Attributes:
        kind: ``"first call"``, ``"argument"`` (shape, dtype or structure), ``"static argument"``, ``"attribute"``, ``"mode"``,
            ``"variable"``, ``"module"``, ``"hook"``, ``"global"``, ``"closure"``, ``"class"``, ``"code"``, ``"setting"``,
            ``"identity"``, ``"unreachable"``, ``"layout"`` or ``"jax"``.
        where: the name or path.
        before, now: what was there at the nearest trace before, and what is there now.
    """

    kind: str
    where: str
    before: str
    now: str

    def __str__(self) -> str:
        words = {"closure": "closure variable", "code": "the code of", "first call": "first call of", "setting": "global setting"}
        head = f"{words.get(self.kind, self.kind)} {self.where}"
        if self.before and self.now:
            return f"{head} was {self.before}, is {self.now}"
        return f"{head}: {self.now or 'was ' + self.before}" if self.now or self.before else head


class NamedCapture(Capture):
    """A capture that remembers which object each part of its key describes."""

    def __init__(self, ignored: dict[Any, Any] | None = None, reads: Reads | None = None) -> None:
        super().__init__(ignored, reads)
        self._described: dict[int, tuple[Any, Any]] = {}

    def _describe(self, value: Any, kind: type) -> Any:
        key = super()._describe(value, kind)
        self._described[id(key)] = (key, value)  # the key is kept, so that its id stays its own
        return key

    def object_of(self, key: Any) -> Any:
        """What ``key``, a part of this capture's key, describes; None for a scalar."""
        return self._described.get(id(key), (None, None))[1]


def differences(old: Any, new: Any, capture: NamedCapture, function: Any, statics: Iterable[str]) -> list[Cause]:
    """Why ``new``, the arguments' shape and the facts of ``capture``, is not ``old``; ``statics`` names the static arguments."""
    (old_shape, old_facts), (new_shape, new_facts) = old, new
    walk = _Walk(capture)
    found = list(_arguments(old_shape, new_shape, function))
    for setting, before, now in zip(_SETTINGS, old_facts[0], new_facts[0], strict=True):
        if before != now:
            found.append(Cause("setting", setting, *map(_setting, (before, now))))
    found += walk.compare(old_facts[1], new_facts[1], "code", "")
    if len(old_facts[2]) == len(new_facts[2]):
        for before, now, name in zip(old_facts[2], new_facts[2], statics, strict=True):
            found += walk.compare(before, now, "static argument", name)
    # Positions of things met before shift with any other difference: only alone do they mean something.
    telling = [c for c in found if c.kind != "identity"]
    return _merged(telling or found[:1]) or [Cause("code", "the function", "", "differs")]


def _merged(causes: list[Cause]) -> list[Cause]:
    """Modes of many modules as one cause, and every cause once."""
    modes = [c for c in causes if c.kind == "mode"]
    merged = list(dict.fromkeys(c for c in causes if c.kind != "mode"))
    for before, now in dict.fromkeys((c.before, c.now) for c in modes):
        same = [c.where for c in modes if (c.before, c.now) == (before, now)]
        more = f" and {len(same) - 1} more modules" if len(same) > 1 else ""
        merged.append(Cause("mode", f"of {same[0]}{more}", before, now))
    return merged


def _arguments(old: Any, new: Any, function: Any) -> Iterator[Cause]:
    if old == new:
        return
    before, now = (_by_name(shape, function) for shape in (old, new))
    for name in dict.fromkeys([*before, *now]):
        kinds = before.get(name, _ABSENT), now.get(name, _ABSENT)
        if kinds[0] != kinds[1]:
            static = any(kind not in (None, _ABSENT) and not is_dynamic(kind) for kind in kinds)
            yield Cause("static argument" if static else "argument", name, *map(_argument, kinds))
    if before == now:
        yield Cause("argument", "containers", *map(_containers, (old, new)))


def _has_structure(shape: Any) -> bool:
    return isinstance(shape, tuple) and len(shape) == 2 and isinstance(shape[0], jax.tree_util.PyTreeDef)


def _containers(shape: Any) -> str:
    return str(shape[0]) if _has_structure(shape) else "jax arrays by position alone"


def _by_name(shape: Any, function: Any) -> dict[str, Any]:
    """From each argument leaf's name to its kind, of the part of a key that tells the structure of the arguments."""
    if not _has_structure(shape):
        kinds = (None,) * shape if isinstance(shape, int) else shape
        shape = jax.tree.structure(((0,) * len(kinds), {})), kinds
    return dict(zip(leaf_names(function, shape[0]), shape[1], strict=True))


def _argument(kind: Any) -> str:
    if kind is _ABSENT:
        return "absent"
    if kind is None:
        return "an array"
    if len(kind) != 2:
        return "an object"
    if isinstance(kind[0], tuple):
        return f"{getattr(kind[1], 'name', kind[1])}[{','.join(map(str, kind[0]))}]"
    return repr(kind[1])


class _Walk:
    """Lays one key beside another; ``core.capture`` says how keys are built."""

    def __init__(self, capture: NamedCapture):
        self._capture = capture

    def compare(self, old: Any, new: Any, kind: str, path: str) -> Iterator[Cause]:
        if old == new:
            return
        tag = new[0] if isinstance(new, tuple) and new else None
        if isinstance(tag, tuple) and isinstance(old, tuple):
            yield from self._pairs(old, new, kind, path)
        elif not isinstance(new, tuple) or not isinstance(old, tuple) or not old or tag is None or old[0] != tag:
            tags = (tag, old[0] if isinstance(old, tuple) and old else None)
            again = "again" in tags and type(None) not in tags
            yield Cause("identity" if again else kind, path, _show(old), _show(new))
        elif tag == "again":
            yield Cause("identity", path, "another object met before", "one met before")
        elif tag == "function":
            yield from self._function(old, new, kind, path)
        elif tag == "method":
            yield from self.compare(old[1], new[1], kind, path)
            yield from self.compare(old[2], new[2], "attribute", path or "self")
        elif isinstance(tag, Identity) and len(new) == 4:
            yield from self._object(old, new, path or _class_name(tag))
        elif isinstance(tag, type) and issubclass(tag, Variable):
            yield from self._variable(old, new, path_of(self._capture.object_of(new)) or path)
        elif isinstance(tag, type) and len(new) == 2 and isinstance(new[1], tuple) and isinstance(old[1], tuple):
            yield from self._container(old[1], new[1], issubclass(tag, dict), kind, path)
        elif isinstance(tag, type) or tag in ("numpy", "value", "constant", "long"):
            yield Cause(kind, path, _show(old), _show(new))
        elif tag in ("object", "slots", "class", "proxy"):
            yield from self._plain(old, new, kind, path)
        elif tag == "partial":
            for label, before, now in zip(("", "args", "keywords"), old[1:], new[1:], strict=True):
                yield from self.compare(before, now, kind, _join(path, label))
        else:
            yield from self._pairs(old, new, kind, path)

    def _function(self, old: Any, new: Any, kind: str, path: str) -> Iterator[Cause]:
        code = new[1]._ref()
        name = getattr(code, "co_qualname", "a function")
        if old[1] != new[1]:
            yield Cause("code", path or name, f"{_code_name(old[1])}", f"{_code_name(new[1])}")
            return
        cells = code.co_freevars
        width = len(new[2]) // len(cells) if cells and len(new[2]) % len(cells) == 0 else 1
        for i, (before, now) in enumerate(zip(old[2], new[2], strict=False)):
            cell = cells[i // width] if i // width < len(cells) else "?"
            if width == 2 and i % 2:
                yield from self._members(before, now, cell)
            else:
                yield from self.compare(before, now, "closure", cell)
        for label, before, now in zip(("defaults", "keyword defaults"), old[3:5], new[3:5], strict=True):
            yield from self.compare(before, now, "closure", f"{label} of {name}")
        yield from self._members(old[5], new[5], "")

    def _members(self, old: Any, new: Any, path: str) -> Iterator[Cause]:
        """Globals of a function, or members of a module of the user's: (name, key, members) or (name, members)."""
        before = {entry[0]: entry for entry in old}
        now = {entry[0]: entry for entry in new}
        for name in dict.fromkeys([*before, *now]):
            where = _join(path, name)
            if name not in before or name not in now:
                yield Cause("global", where, "absent" if name not in before else "there", "there" if name in now else "absent")
                continue
            a, b = before[name], now[name]
            if len(a) == len(b) == 3:
                yield from self.compare(a[1], b[1], "global", where)
            if a[-1] != b[-1]:
                yield from self._members(a[-1], b[-1], where)

    def _object(self, old: Any, new: Any, path: str) -> Iterator[Cause]:
        yield from self._class(old[1], new[1], new[0])
        thing = self._capture.object_of(new)
        yield from self._named(old[2], new[2], "attribute", path)
        if not hasattr(thing, "named_modules"):
            yield from self._pairs(old[3], new[3], "attribute", path)
            return
        for kind, before, now in zip(("variable", "variable", "variable", "module"), old[3], new[3], strict=False):
            yield from self._named(before, now, kind, path)
        if old[3][4] != new[3][4]:
            yield Cause("hook", f"on {path} ({type(thing).__name__})", _count(old[3][4]), _count(new[3][4]))

    def _class(self, old: Any, new: Any, kind: Any) -> Iterator[Cause]:
        named = [tuple(fact for fact in facts if isinstance(fact[0], str) and len(fact) == 2) for facts in (old, new)]
        yield from self._named(*named, "class", _class_name(kind))
        rest = [[fact for fact in facts if fact not in names] for facts, names in zip((old, new), named, strict=True)]
        for before, now in zip(*rest, strict=False):
            yield from self.compare(before, now, "class", _class_name(kind))

    def _variable(self, old: Any, new: Any, path: str) -> Iterator[Cause]:
        if issubclass(new[0], Parameter):
            if old[1] != new[1]:
                yield Cause("attribute", f"{path}.requires_grad", str(old[1]), str(new[1]))
            if old[2] != new[2]:
                yield Cause("attribute", f"of parameter {path}", _show(old[2]), _show(new[2]))
        elif old[2] != new[2]:
            yield Cause("variable", path, *("None" if none else "an array" for none in (old[2], new[2])))
        else:
            yield Cause("variable", f"{path}.persistent", str(old[1]), str(new[1]))

    def _container(self, old: Any, new: Any, mapping: bool, kind: str, path: str) -> Iterator[Cause]:
        if mapping:
            items = [tuple((_show(k), v) for k, v in entries) for entries in (old, new)]
            yield from self._named(*items, kind, path, "[{}]")
        elif len(old) != len(new):
            yield Cause(kind, path, f"{len(old)} items", f"{len(new)} items")
        else:
            for i, (before, now) in enumerate(zip(old, new, strict=True)):
                yield from self.compare(before, now, kind, f"{path}[{i}]")

    def _plain(self, old: Any, new: Any, kind: str, path: str) -> Iterator[Cause]:
        if new[0] == "proxy":
            yield from self._container(old[1], new[1], True, kind, path)
        elif old[1] != new[1]:
            yield Cause(kind, path, _show(old), _show(new))
        else:
            yield from self._class(old[2], new[2], new[1])
            for entries in zip(old[3:], new[3:], strict=True):
                yield from self._named(*(tuple((_label(k), v) for k, v in items) for items in entries), "attribute", path)

    def _named(self, old: Any, new: Any, kind: str, path: str, form: str = "") -> Iterator[Cause]:
        """Entries (name, ..., key)."""
        before = {entry[0]: entry for entry in old}
        now = {entry[0]: entry for entry in new}
        for name in dict.fromkeys([*before, *now]):
            where = path + form.format(name) if form else _join(path, name)
            if name not in before:
                yield Cause(kind, where, "absent", _show(now[name][-1]))
            elif name not in now:
                yield Cause(kind, where, _show(before[name][-1]), "absent")
            elif name == "training" and kind == "attribute" and now[name] != before[name]:
                modes = ["train" if _truth(entry[-1]) else "eval" for entry in (before[name], now[name])]
                yield Cause("mode", path or "the model", *modes)
            else:
                yield from self.compare(before[name][-1], now[name][-1], kind, where)
                if before[name][1:-1] != now[name][1:-1]:
                    yield Cause(kind, f"{where}.persistent", *("no" if e[1] else "yes" for e in (before[name], now[name])))

    def _pairs(self, old: Any, new: Any, kind: str, path: str) -> Iterator[Cause]:
        """A tuple of no known form: entry by entry."""
        if all(isinstance(e, tuple) and len(e) == 2 and isinstance(e[0], str) for e in (*old, *new)):
            yield from self._named(old, new, kind, path)
        elif len(old) != len(new):
            yield Cause(kind, path, f"{len(old)} entries", f"{len(new)} entries")
        else:
            for before, now in zip(old, new, strict=True):
                yield from self.compare(before, now, kind, path)


def _setting(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(f"{kind} {_show(key)}" for kind, key in value) or "none"
    return str(value)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name


def _label(key: Any) -> str:
    return str(key[1]) if isinstance(key, tuple) and len(key) == 2 else str(key)


def _truth(key: Any) -> bool:
    return bool(key[1])


def _count(hooks: Any) -> str:
    count = sum(len(found) for _, found in hooks[0]) if hooks else 0
    return f"{count or 'no'} hook{'' if count == 1 else 's'}"


def _class_name(kind: Any) -> str:
    return getattr(kind._ref(), "__name__", "an object")


def _code_name(code: Identity) -> str:
    found = code._ref()
    return f"{found.co_qualname} at line {found.co_firstlineno}" if isinstance(found, types.CodeType) else "code that is gone"


def _show(key: Any) -> str:
    """A key in a few words."""
    if isinstance(key, Identity):
        return f"one {type(key._ref()).__name__} object" if key._ref() is not None else "an object that is gone"
    if not isinstance(key, tuple) or not key:
        return repr(key)
    tag = key[0]
    if isinstance(tag, Identity):
        return f"a {_class_name(tag)}"
    if isinstance(tag, type) and issubclass(tag, Variable):
        return f"a {tag.__name__}"
    if isinstance(tag, type) and len(key) == 2:
        if isinstance(key[1], tuple):
            return f"a {tag.__name__} of {len(key[1])}"
        return str(key[1]) if tag in (float, complex, slice) else repr(key[1])
    words = {
        "function": lambda: f"function {_code_name(key[1])}",
        "numpy": lambda: f"numpy {key[2]}[{','.join(map(str, key[1]))}] with other content",
        "constant": lambda: "one jax array",
        "value": lambda: repr(key[1]),
        "long": lambda: f"a container of {key[2]}",
        "object": lambda: f"a {_class_name(key[1])}",
        "slots": lambda: f"a {_class_name(key[1])}",
        "class": lambda: f"class {_class_name(key[1])}",
        "again": lambda: "an object met before",
    }
    return words[tag]() if isinstance(tag, str) and tag in words else "something else"
