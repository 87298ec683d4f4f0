"""Converting the weights of whole models, layer by layer, between torch's layout and another library's.

A :class:`Layout` says how one kind of layer is held elsewhere; each library has a table of them. Here is what walks a model, finds
each layer's arrays under the other library's names, and reports everything that does not fit at once.  Arrays are converted on the host:
eager jax would compile a program for every shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from objnet.core import errors
from objnet.core.foreign import to_host_or_jax
from objnet.interop.keys import Path
from objnet.nn.module import Module
from objnet.nn.modules.rnn import RNNBase

Arrays = dict[str, Any]
Names = Mapping[str, "str | Sequence[str]"]


class Unconvertible(Exception):
    """A layer has no equal in the other library; the message says why."""


class Layout(NamedTuple):
    """How one kind of layer is held elsewhere.

    Both functions take what they convert out of the dict they are given, which has the layer's own names; the other library's
    begin with the collection: ``params.kernel``.

    Attributes:
        to_torch: ``to_torch(module, theirs) -> ours``.
        from_torch: ``from_torch(module, ours, wanted) -> theirs``, ``wanted`` being the names the other library has here.
    """

    to_torch: Callable[[Any, Arrays], Arrays]
    from_torch: Callable[[Any, Arrays, frozenset[str]], Arrays]


Change = Callable[[Any], Any]


def same(array: Any) -> Any:
    return array


def renamed(*entries: tuple[str, str] | tuple[str, str, Change, Change], kept: Sequence[str] = ()) -> Layout:
    """Arrays that correspond one to one.

    Args:
        entries: our name, their name, and what makes theirs of ours, and ours of theirs.
        kept: our names that the other library has nothing for, and that stay as they are.
    """
    changes = [entry if len(entry) == 4 else (*entry, same, same) for entry in entries]

    def to_torch(module: Any, theirs: Arrays) -> Arrays:
        own = module.state_dict()
        ours = {mine: back(theirs.pop(other)) for mine, other, _, back in changes if other in theirs}
        return ours | {name: own[name] for name in kept if name in own}

    def from_torch(module: Any, ours: Arrays, wanted: frozenset[str]) -> Arrays:
        for name in kept:
            ours.pop(name, None)
        return {other: change(ours.pop(mine)) for mine, other, change, _ in changes if mine in ours}

    return Layout(to_torch, from_torch)


def transposed(array: Any) -> Any:
    """(out, in) as (in, out), and back."""
    return np.asarray(array).T


def kernel_last(weight: Any) -> Any:
    """(out, in, *kernel) as (*kernel, in, out)."""
    return np.moveaxis(np.asarray(weight), (0, 1), (-1, -2))


def kernel_first(weight: Any) -> Any:
    """(*kernel, in, out) as (out, in, *kernel)."""
    return np.moveaxis(np.asarray(weight), (-1, -2), (0, 1))


def flipped(weight: Any) -> Any:
    """Every dimension but the first two, the kernel's, from its end: transposed convolutions differ by that."""
    weight = np.asarray(weight)
    return np.flip(weight, tuple(range(2, weight.ndim)))


def gates(array: Any, order: str, wanted: str) -> Any:
    """The rows of an LSTM's gates in another order."""
    parts = dict(zip(order, np.split(np.asarray(array), len(order)), strict=True))
    return np.concatenate([parts[gate] for gate in wanted])


def conv_lstm(input: str, state: str, weight: str, bias: str) -> Layout:
    """A convolutional LSTM cell of theirs, which add one to the forget gate: its gates are i, g, f, o, torch's i, f, g, o.

    Args:
        input: the module that convolves the input; state: the one that convolves the state.
        weight: what they call a weight; bias: what they call a bias.
    """
    sides = (("ih", input), ("hh", state))

    def to_torch(module: Any, theirs: Arrays) -> Arrays:
        if f"params.{input}.{bias}" not in theirs:
            raise Unconvertible("theirs adds one to the forget gate, and has no bias that could take it over")
        ours = {f"weight_{o}": gates(kernel_first(theirs.pop(f"params.{side}.{weight}")), "igfo", "ifgo") for o, side in sides}
        biases = {o: gates(theirs.pop(f"params.{side}.{bias}"), "igfo", "ifgo") for o, side in sides}
        return ours | {"bias_ih": add_to_forget(biases["ih"], 1), "bias_hh": biases["hh"]}

    def from_torch(module: Any, ours: Arrays, wanted: frozenset[str]) -> Arrays:
        if "bias_ih" not in ours:
            raise Unconvertible("theirs adds one to the forget gate, which takes a bias to undo, and this cell has none")
        biases = {"ih": add_to_forget(ours.pop("bias_ih"), -1), "hh": ours.pop("bias_hh")}
        theirs = {f"params.{side}.{bias}": gates(biases[name], "ifgo", "igfo") for name, side in sides}
        return theirs | {
            f"params.{side}.{weight}": kernel_last(gates(ours.pop(f"weight_{o}"), "ifgo", "igfo")) for o, side in sides
        }

    return Layout(to_torch, from_torch)


def add_to_forget(bias: Any, amount: float) -> Any:
    """A bias (4 * hidden,) of gates i, f, g, o with ``amount`` added to those of f."""
    bias = np.array(bias)
    size = bias.shape[0] // 4
    bias[size : 2 * size] += amount
    return bias


def refused(why: str) -> Layout:
    """A kind of layer that has no equal."""

    def refuse(*_: Any) -> Arrays:
        raise Unconvertible(why)

    return Layout(refuse, refuse)


# -- whole models ------------------------------------------------------------------------------------------------------


class _Unit(NamedTuple):
    """One layer, or one cell of an RNN: where it is, how it is converted, and the model's key for each of its names."""

    path: str
    module: Module
    layout: Layout | None
    keys: dict[str, str]
    index: int | None  # of a cell among several


def _units(model: Module, table: Mapping[type, Layout]) -> Iterator[_Unit]:
    covered: list[str] = []
    for path, module in model.named_modules():
        if any(path == done or path.startswith(f"{done}." if done else "") for done in covered):
            continue
        prefix = f"{path}." if path else ""
        layout = next((table[kind] for kind in type(module).__mro__ if kind in table), None)
        if layout is None:
            own = [n for n, p in module._parameters.items() if p is not None]
            own += [n for n, b in module._buffers.items() if b is not None and n not in module._non_persistent_buffers_set]
            if own:
                yield _Unit(path, module, None, {name: prefix + name for name in own}, None)
            continue
        covered.append(path)
        keys = list(module.state_dict())
        if not isinstance(module, RNNBase):
            yield _Unit(path, module, layout, {name: prefix + name for name in keys}, None)
            continue
        suffixes = [f"_l{i}{r}" for i in range(module.num_layers) for r in ("", "_reverse")[: 2 if module.bidirectional else 1]]
        for index, suffix in enumerate(suffixes):
            names = {key.removesuffix(suffix): prefix + key for key in keys if key.endswith(suffix)}
            yield _Unit(path, module, layout, names, index if len(suffixes) > 1 else None)


class _Finder:
    """Where the other library holds a layer."""

    def __init__(self, held: Mapping[str, Any], names: Names | None):
        self.held = held  # collection.path.name to array
        self.names = {_plain_path(path): value for path, value in (names or {}).items()}
        self.used: set[str] = set()
        roots = {key.split(".")[1] for key in held} if all(key.count(".") >= 2 for key in held) else set()
        self.root = roots.pop() if len(roots) == 1 else ""

    def prefixes(self, unit: _Unit) -> list[str]:
        parts = unit.path.split(".") if unit.path else []
        for count in range(len(parts), -1, -1):
            head = ".".join(parts[:count])
            if head in self.names:
                self.used.add(head)
                value = self.names[head]
                if not isinstance(value, str):
                    value = self._of_cell(unit, value, count == len(parts))
                elif unit.index is not None:
                    raise Unconvertible(_several(unit))
                base = _plain_path(value)
                return [_join(base, tail) for tail in _tails(parts[count:])]
        if unit.index is not None:
            raise Unconvertible(_several(unit))
        if not parts:
            return [self.root, ""] if self.root else [""]
        return [_join(root, tail) for root in dict.fromkeys(("", self.root)) for tail in _tails(parts)]

    def _of_cell(self, unit: _Unit, paths: Sequence[str], exact: bool) -> str:
        index = unit.index or 0
        if not exact or not isinstance(unit.module, RNNBase) or index >= len(paths):
            raise Unconvertible(f"names gives {list(paths)}, but a list of paths is for the cells of one RNN, one for each")
        return paths[index]

    def find(self, unit: _Unit) -> dict[str, str]:
        """The whole names of a layer's arrays, by their names below the layer, ``collection.name``."""
        prefixes = self.prefixes(unit)
        for prefix in prefixes:
            found = {}
            for key in self.held:
                collection, _, rest = key.partition(".")
                if not prefix or rest.startswith(f"{prefix}."):
                    found[f"{collection}.{rest[len(prefix) + 1 :] if prefix else rest}"] = key
            if found:
                return found
        raise Unconvertible("nothing is held under " + " or ".join(repr(p) for p in prefixes))

    def unused(self) -> list[str]:
        return [f"names has {name!r}, which leads to no layer of the model" for name in self.names if name not in self.used]


def _several(unit: _Unit) -> str:
    return f"it has several cells: name each, names={{{unit.path!r}: [...]}}, layer by layer, forward before reverse"


def _plain_path(path: str) -> str:
    """A path of either library joined by dots, without Haiku's marks of methods."""
    return ".".join(part for part in path.replace("/", ".").split(".") if part and not part.startswith("~"))


def _join(head: str, tail: str) -> str:
    return f"{head}.{tail}" if head and tail else head or tail


def _tails(parts: Sequence[str]) -> list[str]:
    """Names a path may have: as it is, lists as ``layers_0``, and Sequentials as ``name.layers_0``."""
    listed: list[str] = []
    nested: list[str] = []
    for part in parts:
        if part.isdigit() and listed:
            listed[-1] += f"_{part}"
        else:
            listed.append(f"layers_{part}" if part.isdigit() else part)
        nested.append(f"layers_{part}" if part.isdigit() else part)
    return list(dict.fromkeys(".".join(names) for names in (parts, listed, nested)))


def _keyed(held: Mapping[Path, Any]) -> tuple[dict[str, Any], dict[str, Path]]:
    """(collection, path) as plain names, and the way back."""
    ways = {f"{path[0]}.{_plain_path('.'.join(path[1:]))}": path for path in held}
    return {name: held[path] for name, path in ways.items()}, ways


def torch_layout(model: Module, table: Mapping[type, Layout], held: Mapping[Path, Any], names: Names | None) -> dict[str, Any]:
    """The state dict of ``model`` with the values held elsewhere."""
    values, ways = _keyed(held)
    finder, problems = _Finder(values, names), []
    own, result, taken = model.state_dict(), {}, set()
    for unit in _units(model, table):
        where, found = _where(unit), {}
        try:
            found = _found(finder, unit)
            theirs = {name: np.asarray(to_host_or_jax(values[key])) for name, key in found.items() if key not in taken}
            given = set(theirs)
            ours = _layout(unit).to_torch(unit.module, theirs)
        except (Unconvertible, ValueError, TypeError, KeyError) as error:
            problems.append(f"{where}: {_reason(error)}")
            taken.update(found.values())
            continue
        taken.update(found[name] for name in given - set(theirs))
        for name, key in unit.keys.items():
            if name not in ours:
                problems.append(f"{where}: nothing is held for {key}")
                continue
            fitted = _fitted(ours.pop(name), own[key].shape)
            if fitted is None:
                problems.append(
                    f"{where}: {key} has another shape there, {_shapes(found, values)}, than {tuple(own[key].shape)} here"
                )
            result[key] = None if fitted is None else jnp.asarray(fitted)
        problems += [f"{where}: it has no {name!r}, which is held there" for name in ours]
    problems += [f"unknown: {'.'.join(ways[key])}" for key in values if key not in taken]
    _check(problems + finder.unused())
    return {key: result[key] for key in own}


def foreign_layout(
    model: Module, table: Mapping[type, Layout], like: Mapping[Path, Any], names: Names | None
) -> dict[Path, jax.Array]:
    """The values of ``model`` under the names, and in the shapes and dtypes, of ``like``."""
    shapes, ways = _keyed(like)
    finder, problems = _Finder(shapes, names), []
    own, result = model.state_dict(), {}
    for unit in _units(model, table):
        where = _where(unit)
        try:
            found = _found(finder, unit)
            ours = {name: own[key] for name, key in unit.keys.items()}
            theirs = _layout(unit).from_torch(unit.module, ours, frozenset(found))
        except (Unconvertible, ValueError, TypeError, KeyError) as error:
            problems.append(f"{where}: {_reason(error)}")
            continue
        problems += [f"{where}: {unit.keys[name]} has no counterpart there" for name in ours]
        for name, value in theirs.items():
            if name not in found:
                problems.append(f"{where}: nothing is wanted under {name!r}")
                continue
            key = found[name]
            fitted = _fitted(value, shapes[key].shape)
            if fitted is None:
                problems.append(
                    f"{where}: {'.'.join(ways[key])} has shape {tuple(shapes[key].shape)}, here it would be {value.shape}"
                )
                continue
            result[key] = jnp.asarray(fitted.astype(shapes[key].dtype))
    if not problems:
        problems = [f"unknown: {'.'.join(ways[key])}" for key in shapes if key not in result]
    _check(problems + finder.unused())
    return {ways[key]: result[key] for key in shapes}


def _found(finder: _Finder, unit: _Unit) -> dict[str, str]:
    if unit.layout is None:
        raise Unconvertible(f"no equal of {type(unit.module).__name__} with {sorted(unit.keys)} is known")
    return finder.find(unit)


def _reason(error: Exception) -> str:
    return f"{error} is not held there" if isinstance(error, KeyError) else str(error)


def _layout(unit: _Unit) -> Layout:
    assert unit.layout is not None
    return unit.layout


def _where(unit: _Unit) -> str:
    return f"{unit.path or 'the model'} ({type(unit.module).__name__})"


def _shapes(found: Mapping[str, str], values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {tuple(values[key].shape)}" for name, key in found.items())


def _fitted(array: Any, shape: Sequence[int]) -> Any:
    """``array`` in a shape that differs from its own at most by dimensions of size one; None if it does not fit."""
    array = np.asarray(array)
    if tuple(array.shape) == tuple(shape):
        return array
    if [n for n in array.shape if n != 1] != [n for n in shape if n != 1]:
        return None
    return array.reshape(tuple(shape))


def _check(problems: list[str]) -> None:
    if problems:
        raise errors.StructureMismatchError("the two models do not correspond:\n  " + "\n  ".join(problems))
