"""Modules among arguments that are taken apart row by row: each run of the function gets its own row of their Variables.

In the place of such a module a pytree of arguments holds the values of its Variables, so that ``in_axes`` of ``vmap`` and the
leading axis of ``scan`` mean the same for it as for an array.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from objnet.core import errors, frame
from objnet.core.capture import Capture
from objnet.core.variable import UNSET, Gradient, Variable


def is_module(leaf: Any) -> bool:
    """Whether a leaf of arguments is a module, an optimizer or another object of Variables."""
    return hasattr(type(leaf), "__objnet_capture__") and not isinstance(leaf, Variable)


def is_leaf(leaf: Any) -> bool:
    """Modules, and None, for which a prefix of axes may have an entry too."""
    return leaf is None or is_module(leaf)


def refuse_modules(tree: Any, what: str) -> None:
    """Refuse modules where a program passes arrays.

    Raises:
        ModuleAsArrayError: there is one.
    """
    for leaf in jax.tree.leaves(tree, is_leaf=is_module):
        if is_module(leaf):
            raise errors.ModuleAsArrayError(
                f"a {type(leaf).__name__} module was given as {what}{errors.where()}, which is arrays. Let the functions reach the module by "
                "themselves (a closure, a global, self): what they write to it is threaded all the same."
            )


def spread(prefix: Any, tree: Any, is_leaf: Callable[[Any], bool]) -> list[Any]:
    """The entries of a prefix tree of axes or specs, one for each leaf of ``tree``.

    Raises:
        ValueError: of jax, where the prefix does not fit.
    """
    entries, structure = jax.tree.flatten(prefix, is_leaf=is_leaf)
    parts = structure.flatten_up_to(tree)
    return [entry for entry, part in zip(entries, parts, strict=True) for _ in jax.tree.leaves(part, is_leaf=is_leaf)]


def reach(thing: Any) -> Capture:
    """What a module or an optimizer reaches."""
    capture = Capture()
    capture.visit(thing)
    return capture


def variables_of(thing: Any) -> list[Variable]:
    """The Variables of a module or an optimizer that hold a value, but for gradients."""
    found = [v for v in dict.fromkeys(reach(thing).variables) if not isinstance(v, Gradient)]
    return [v for v in found if v._peek() is not UNSET and v._peek() is not None]


class Layers:
    """Equal modules as one leaf of arguments: row ``i`` of it is the ``i``-th module.

    Args:
        modules: at least one; all of one structure.

    Raises:
        RuntimeError: they differ in structure, settings, or the shapes of their arrays, or one is there twice.
    """

    def __init__(self, modules: Sequence[Any], what: str = "Layers"):
        self.modules = list(modules)
        check_alike(self.modules, what)

    def __objnet_capture__(self, visit: Callable[[Any], Any]) -> Any:
        return tuple(map(visit, self.modules))

    def columns(self) -> list[tuple[Variable, ...]]:
        """The Variables of all modules that belong together."""
        return list(zip(*map(variables_of, self.modules), strict=True))


def check_alike(modules: Sequence[Any], what: str) -> None:
    """Refuse modules that cannot be the rows of one.

    Raises:
        RuntimeError: as :class:`Layers` says.
    """
    if not modules:
        raise RuntimeError(f"{what} needs at least one module")
    first, *others = [(Capture().visit(m), [_shapes(v) for v in variables_of(m)]) for m in modules]
    for i, (key, shapes) in enumerate(others, 1):
        if key != first[0] or shapes != first[1]:
            raise RuntimeError(
                f"{what}: module {i} differs from module 0 in {_difference(modules[0], modules[i])}, so that they cannot be rows of one"
            )
    cells = [v for m in modules for v in variables_of(m)]
    if len(set(cells)) < len(cells):
        raise RuntimeError(
            f"{what}: two modules share a parameter or buffer, or one is given twice, so that they cannot be rows of one"
        )


def _difference(a: Any, b: Any) -> str:
    """The first thing that two modules differ in, as far as it is easy to name."""
    if type(a) is not type(b):
        return f"its class ({type(b).__name__}, not {type(a).__name__})"
    ours, theirs = dict(a.named_modules()), dict(b.named_modules())
    if ours.keys() != theirs.keys():
        return f"its structure (the submodules {sorted(ours.keys() ^ theirs.keys())})"
    for name, (one, other) in ((n, (ours[n], theirs[n])) for n in ours):
        where = f" of {name}" if name else ""
        if type(one) is not type(other):
            return f"the class{where} ({type(other).__name__}, not {type(one).__name__})"
        if one.training != other.training:
            return f"the mode{where} (train or eval)"
        if repr(one) != repr(other):
            return f"the settings{where}: {repr(other).splitlines()[0]}, not {repr(one).splitlines()[0]}"
    return "its settings, attributes or hooks, or in the shapes of its arrays"


def _shapes(variable: Variable) -> Any:
    return jax.tree.map(lambda a: (a.shape, a.dtype), frame.get(variable))


class Taken:
    """Arguments with each module replaced by the values of its Variables.

    Args:
        tree: any pytree; modules and None are leaves.
        keep: which leaves, by position, stay as they are.
    """

    def __init__(self, tree: Any, keep: Callable[[int], bool] = lambda position: False):
        self.leaves, self._structure = jax.tree.flatten(tree, is_leaf=is_leaf)
        self._variables: dict[int, list[Variable]] = {}  # a Variable of two modules is taken from the first
        self._owners: dict[int, int] = {}
        self._position: dict[Variable, int] = {}
        self.values = list(self.leaves)
        self._layers: dict[Variable, tuple[Variable, ...]] = {}
        for i, leaf in enumerate(self.leaves):
            if isinstance(leaf, Layers):
                columns = leaf.columns()
                self._variables[i] = [column[0] for column in columns]
                self._position.update(dict.fromkeys(self._variables[i], i))
                self._layers.update(zip(self._variables[i], columns, strict=True))
                self.values[i] = [jax.tree.map(lambda *a: jnp.stack(a), *map(frame.get, column)) for column in columns]
                self.leaves[i] = leaf.modules[0]
            elif is_module(leaf) and not keep(i):
                self._owners.update((id(o), i) for o in reach(leaf).objects if id(o) not in self._owners)
                self._variables[i] = [v for v in variables_of(leaf) if v not in self._position]
                self._position.update(dict.fromkeys(self._variables[i], i))
                self.values[i] = [frame.get(v) for v in self._variables[i]]

    def put_back(self, values: list[Any]) -> tuple[Any, dict[Variable, Any]]:
        """The arguments with their modules again, and the values of the modules' Variables."""
        rows: dict[Variable, Any] = {}
        leaves = list(values)
        for i, variables in self._variables.items():
            leaves[i] = self.leaves[i]
            rows.update(zip(variables, values[i], strict=True))
        return jax.tree.unflatten(self._structure, leaves), rows

    def store(self, variable: Variable, rows: Any) -> None:
        """Write the rows of a Variable that was taken apart."""
        if variable not in self._layers:
            frame.set(variable, rows)
        for i, own in enumerate(self._layers.get(variable, ())):
            frame.set(own, jax.tree.map(lambda a, i=i: a[i], rows))

    def home(self, variable: Variable) -> int | None:
        """The position of the module that a Variable was taken from, or, if it is new, that it was put into."""
        if variable in self._position:
            return self._position[variable]
        owner = variable._home[0]() if variable._home else None
        return self._owners.get(id(owner))

    @property
    def modules(self) -> bool:
        """Whether any module was taken apart."""
        return bool(self._variables)
