"""Why a compiled function was traced, and what its program captured: ``objnet.jit(..., explain=True)``.

A program is found by its key, the facts of :class:`~objnet.core.capture.Capture`. When none has the key of now, the key is laid
beside the nearest one seen before, and the places where they differ are the causes.  When the key is known but jax traces again,
the causes are the shapes and dtypes of arguments and Variables, laid beside those of the trace before.
"""

from __future__ import annotations

import logging
import sys
import weakref
from typing import Any, NamedTuple

import jax

from objnet.core.rng import key_stream
from objnet.core.variable import Variable, path_of
from objnet.transforms.arguments import argument_names
from objnet.transforms.differences import Cause, NamedCapture, differences

logger = logging.getLogger("objnet")
_KEYS_KEPT = 16


class Captured(NamedTuple):
    """A Variable that a program takes or gives a new value.

    Attributes:
        path: dotted, from the outermost module; of what is in no module, what it is.
        kind: the class of the Variable.
        value: dtype and shape, ``float32[8,4]``.
        access: ``"read"``; ``"written"``; ``"donated"``, which is written and its old memory is given up.
    """

    path: str
    kind: str
    value: str
    access: str


class Explanation:
    """One trace of a compiled function.

    Attributes:
        function: its name.
        number: 1 for the first trace.
        causes: why, as :class:`Cause` records; of the first one the kind is ``"first call"``.
        captured: the Variables read and written, as :class:`Captured` records; the random key stream is one of them.
        statics: the static arguments, by name.
        arguments: the array arguments, by name, as ``float32[8,4]``.
    """

    def __init__(self, function: str, number: int, causes: list[Cause]):
        self.function = function
        self.number = number
        self.causes = causes
        self.captured: list[Captured] = []
        self.statics: dict[str, Any] = {}
        self.arguments: dict[str, str] = {}

    @property
    def draws_keys(self) -> bool:
        """Whether the program draws random keys, so that every call moves the stream on."""
        return any(c.path == key_stream.describe() and c.access != "read" for c in self.captured)

    def paths(self, *access: str) -> list[str]:
        """Paths of the captured Variables with one of these kinds of access."""
        return [c.path for c in self.captured if c.access in access]

    def __str__(self) -> str:
        lines = [f"objnet.jit traced {self.function} (trace {self.number}) because:"]
        lines += [f"  - {cause}" for cause in self.causes]
        lines += [f"  {what}: {', '.join(f'{k}={v}' for k, v in given.items())}" for what, given in self._given() if given]
        for access in ("read", "written", "donated"):
            found = [c for c in self.captured if c.access == access]
            if found:
                lines.append(f"  {access} ({len(found)}): {_listed([f'{c.path} {c.value}' for c in found])}")
        return "\n".join(lines)

    def _given(self) -> list[tuple[str, dict[str, Any]]]:
        return [("arrays", self.arguments), ("static", {k: _short(v) for k, v in self.statics.items()})]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.number} of {self.function}: {'; '.join(map(str, self.causes))}>"


class Explainer:
    """Keeps a compiled function's explanations, and what the next ones are compared with."""

    def __init__(self, name: str, function: Any):
        self._name = name
        self._function = function
        self.explanations: list[Explanation] = []
        self._keys: list[Any] = []  # the last one last
        self._notes: list[Cause] = []
        self._shapes: weakref.WeakKeyDictionary[Any, dict[str, str]] = weakref.WeakKeyDictionary()
        self._untold: list[Explanation] = []

    def note(self, kind: str, where: str, before: str, now: str) -> None:
        """A cause of the next trace that no comparison would show."""
        self._notes.append(Cause(kind, where, before, now))

    def found(self, key: Any) -> None:
        """A call found a program under this key."""
        if key in self._keys:
            self._keys.remove(key)
        self._keys = [*self._keys[1 - _KEYS_KEPT :], key]

    def traced(self, key: Any, capture: NamedCapture, rebuild: Any) -> None:
        """A call found no program under this key, and traced one."""
        causes, self._notes = self._notes, []
        if not self._keys:
            causes = [Cause("first call", self._name, "", ""), *causes]
        elif key in self._keys:
            causes.append(
                Cause("unreachable", "Variables no path leads to", "", "their program is of one binding, or was evicted")
            )
        else:
            names = argument_names(self._function, rebuild)
            nearest = (differences(old, key, capture, self._function, names.statics) for old in reversed(self._keys))
            causes += min(nearest, key=len)
        self.found(key)
        self._untold.append(self._begin(causes))

    def lowered(self, binding: Any, rebuild: Any, arrays: Any, first: bool) -> None:
        """Jax traces the program of ``binding`` on ``arrays``: for the first time, or once more."""
        donated, kept, dynamic = arrays
        names = argument_names(self._function, rebuild, len(dynamic))
        arguments = dict(zip(names.arrays, map(_shape, dynamic), strict=True))
        variables = {_name(v): _shape(x) for v, x in zip((*binding.donated, *binding.kept), (*donated, *kept), strict=True)}
        shapes = {**{f"argument {k}": v for k, v in arguments.items()}, **variables}
        before = self._shapes.get(binding.program)
        self._shapes[binding.program] = shapes
        if first and self._untold:
            told = self._untold.pop()
        else:
            told = self._begin([*self._notes, *_reshaped(before, shapes)])
            self._notes = []
        told.arguments, told.statics = arguments, names.statics
        overwritten = "donated" if binding.program.donates else "written"
        told.captured = [
            *(_captured(v, overwritten, x) for v, x in zip(binding.donated, donated, strict=True)),
            *(_captured(v, "written") for v in (*binding.out[len(donated) :], *binding.constants)),
            *(_captured(v, "read", x) for v, x in zip(binding.kept, kept, strict=True)),
        ]
        if logger.isEnabledFor(logging.INFO):
            logger.info("%s", told)
        else:
            print(told, file=sys.stderr)

    def _begin(self, causes: list[Cause]) -> Explanation:
        new = Explanation(self._name, len(self.explanations) + 1, causes)
        self.explanations.append(new)
        return new


def _reshaped(before: dict[str, str] | None, now: dict[str, str]) -> list[Cause]:
    """Which shapes differ from those of the trace before."""
    if before is None:
        return [Cause("jax", "a program first traced elsewhere", "", "its shapes are new here")]
    found = []
    for name, shape in now.items():
        if before.get(name, shape) != shape:
            kind = "argument" if name.startswith("argument ") else "variable"
            found.append(Cause(kind, name.removeprefix("argument "), before[name], shape))
    return found or [Cause("jax", "jax's configuration, mesh or the transform around", "", "differs; no shape or fact does")]


def _captured(v: Variable, access: str, value: Any = None) -> Captured:
    return Captured(_name(v), type(v).__name__.lstrip("_"), "" if value is None else _shape(value), access)


def _name(v: Variable) -> str:
    return path_of(v) or v.describe()


def _shape(value: Any) -> str:
    """``float32[8,4]`` for an array, a list of those for a pytree; ``~`` marks a weak type, a Python number."""
    leaves = jax.tree.leaves(value)
    if len(leaves) != 1:
        return f"({', '.join(map(_shape, leaves))})" if leaves else "None"
    kind = jax.typeof(leaves[0])
    return f"{'~' if getattr(kind, 'weak_type', False) else ''}{kind.dtype}[{','.join(map(str, kind.shape))}]"


def _short(value: Any) -> str:
    text = repr(value).split("\n")[0]
    return text if len(text) <= 80 else text[:77] + "..."


def _listed(names: list[str], most: int = 8) -> str:
    more = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
