"""Names for what a pure function meets: a path for every module, a place ``(path, name)`` for every Variable.

A module that stands in no other is named by its class in snake case, with ``_1``, ``_2`` for further ones, in the order
they were made; everything below it by attribute path.  Leaves that stand in no module, and those of a root that was
transformed itself, sit under ``"~"``.  A name is given when a value is first needed outside constructors, and then kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from objnet.core.errors import StructureMismatchError
from objnet.core.variable import Variable

ROOT = "~"


class Names:
    """The names of one pure call.

    Attributes:
        root: the module whose own leaves sit under ``"~"``, if one was transformed itself.
        places: of every Variable named so far.
    """

    def __init__(self, modules: list[Any], loose: list[Variable], root: Any):
        self.root = root
        self.places: dict[Variable, tuple[str, str]] = {}
        self._modules = list(modules)
        self._loose = dict.fromkeys(loose)
        self._doubtful: set[int] = set()
        self._paths: dict[int, str] = {}
        self._holders: dict[tuple[str, str], Variable] = {}
        self._tops: dict[str, Any] = {}  # modules named by their class, and the root
        self._scopes: dict[int, str] = {}  # the name scope that a module was built in
        self._reserved: set[str] = set()

    def add(self, module: Any, scope: str = "") -> None:
        """A module was built, in a name scope."""
        self._modules.append(module)
        if scope:
            self._scopes[id(module)] = scope

    def classes(self) -> set[str]:
        """The names of modules that stand in no other."""
        return set(self._tops)

    def reserve(self, base: str) -> str:
        """Take a name, ``base`` or the first free one with a number, for what is no module."""
        name = _free(base, {*self._tops, *self._reserved})
        self._reserved.add(name)
        return name

    def release(self, name: str) -> None:
        """Give a name back whose use was taken back."""
        self._reserved.discard(name)

    def put(self, variable: Variable, place: tuple[str, str]) -> None:
        """Name a Variable that is in no module."""
        self._loose.pop(variable, None)
        self.places[variable] = place

    def doubt(self, module: Any) -> None:
        """``module`` was perhaps dropped: unless another one holds it, it is named only when it is used."""
        self._doubtful.add(id(module))

    def drop(self, module: Any) -> None:
        """Forget a module whose construction was taken back."""
        self._modules.remove(module)
        self._doubtful.discard(id(module))
        self._tops.pop(self._paths.pop(id(module), ROOT), None)

    def add_loose(self, variable: Variable) -> None:
        """A Variable was created that is perhaps in no module."""
        self._loose[variable] = None

    def drop_variable(self, variable: Variable) -> None:
        """Forget a Variable whose creation was taken back."""
        self._loose.pop(variable, None)
        self.places.pop(variable, None)

    def path(self, module: Any) -> str:
        """The first key of a module's leaves; ``"~"`` for one not named yet."""
        return self._paths.get(id(module), "") or ROOT

    def update(self, wanted: Variable | None, attach: Callable[[Any, str], None]) -> None:
        """Name every module that is in no other and was not dropped, what is below, and what holds ``wanted``.

        Args:
            attach: called with a module and its path before its Variables are looked at.
        """
        held = {id(child) for module in self._modules for child in module._modules.values() if child is not None}
        for module in self._modules:
            if id(module) not in self._paths and id(module) not in held and id(module) not in self._doubtful:
                self._name_top(module)
        seen: set[int] = set()
        self._holders.clear()
        for path, module in self._tops.items():
            self._name_below(module, path, seen, attach)
        if wanted is not None and wanted not in self.places:
            holders = [m for m in self._modules if any(v is wanted for v in _variables(m))]
            if holders:
                holder = next((m for m in holders if id(m) not in held), holders[0])
                path = self._paths[id(holder)] if id(holder) in self._paths else self._name_top(holder)
                self._name_below(holder, path, seen, attach)
        for variable in self._loose:
            if variable not in self.places:
                taken = {name for path, name in self.places.values() if path == ROOT}
                self.places[variable] = (ROOT, _free(snake(type(variable).__name__), taken))

    def _name_top(self, module: Any) -> str:
        taken = {*self._tops, *self._reserved, *(self.root._modules if self.root is not None else ())}
        path = "" if module is self.root else _free(self._scopes.get(id(module), "") + snake(type(module).__name__), taken)
        self._paths[id(module)] = path
        self._tops[path] = module
        return path

    def _name_below(self, module: Any, path: str, seen: set[int], attach: Callable[[Any, str], None]) -> None:
        if id(module) in seen:
            return
        seen.add(id(module))
        path = self._paths.setdefault(id(module), path)
        attach(module, path or ROOT)
        for registry in _registries(module):
            for name, variable in registry.items():
                if variable is None:
                    continue
                place = self.places.setdefault(variable, (path or ROOT, name))
                if self._holders.setdefault(place, variable) is not variable:
                    raise StructureMismatchError(
                        f"two Variables are called {'.'.join(place)}: one was moved, or made by a forward, before the other "
                        "took its name. Set attributes in __init__, or give one of them another name."
                    )
        for name, child in module._modules.items():
            if child is not None:
                self._name_below(child, f"{path}.{name}" if path else name, seen, attach)


def _registries(module: Any) -> tuple[dict[str, Any], ...]:
    return module._parameters, module._buffers, module._arrays


def _variables(module: Any) -> Iterator[Variable | None]:
    """Everything ``module`` and the modules below hold."""
    for below in module.modules():
        for registry in _registries(below):
            yield from registry.values()


def _free(base: str, taken: set[str]) -> str:
    """``base``, or with the first number that makes it a name of its own."""
    name, number = base, 0
    while name in taken:
        number += 1
        name = f"{base}_{number}"
    return name


def snake(name: str) -> str:
    """``MultiHeadLSTM`` as ``multi_head_lstm``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
