"""Calling a module with other parameters and buffers than its own (``torch.nn.utils.stateless``).

The values live in a frame that is open during the call, so that nothing on the module changes. Where a value is not for a
Variable but for one of its names (tied weights told apart, a parametrized name), the name is given a Variable of its own for
the time of the call.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import jax
import numpy as np

from objnet.core import frame
from objnet.core.arrays import as_array
from objnet.core.once import once
from objnet.core.tensor import TensorMethods
from objnet.core.variable import UNSET, Buffer, Variable, settle
from objnet.nn.module import Module
from objnet.nn.utils._parametrized_class import set_properties
from objnet.nn.utils.parametrize import is_parametrized, type_before_parametrizations

__all__ = ["functional_call"]

_alone = threading.RLock()  # names of a module change during a call


def functional_call(
    module: Module,
    parameters_and_buffers: dict[str, Any],
    args: Any = None,
    kwargs: dict[str, Any] | None = None,
    *,
    tie_weights: bool = True,
    strict: bool = False,
) -> Any:
    """Call ``module`` with these values in place of its parameters and buffers (torch's).

    It works under every transform of jax: ``jax.grad(lambda p: loss(functional_call(model, p, x)))(params)``. What the call
    writes to a buffer that was given is written to the dict.

    Args:
        module: the module to call.
        parameters_and_buffers: names, as in ``named_parameters``, to arrays; the module's own serve for the rest.
        args: the arguments, a tuple, or one argument.
        kwargs: keyword arguments.
        tie_weights: whether a value for one name of a tied parameter holds for its other names.
        strict: whether every name must be given, and no other.

    Raises:
        RuntimeError: ``strict``, and names are missing or unknown; all are listed.
        ValueError: ``tie_weights``, and two names of one parameter are given different values.
        TypeError: a value is no array, or a name is not that of one. AttributeError: a path leads nowhere.
    """
    args = () if args is None else args if isinstance(args, tuple) else (args,)
    given = {name: _checked(name, value) for name, value in parameters_and_buffers.items()}
    names = _names_of_cells(module)
    if tie_weights:
        _check_ties(names, parameters_and_buffers)
    if strict:
        _check_names(module, names, given, tie_weights)
    cells, replaced = _targets(module, names, given, tie_weights)

    def attempt(inner: frame.Frame, token: bool) -> Any:
        inner.values.update((cell, given[name]) for name, cell in cells.items())
        with ExitStack() as changes:
            for name in replaced:
                cells[name] = changes.enter_context(_replaced(module, name, given[name], inner))
            with inner.open(token):
                result = module(*args, **(kwargs or {}))
                result = jax.tree.map(lambda x: x, result)  # Parameters become arrays
                outcome = inner.outcome()
        ours = set(cells.values())
        inner.commit({v: values for v, values in outcome.items() if v not in ours})
        parameters_and_buffers.update((name, outcome[cell][0]) for name, cell in cells.items() if cell in outcome)
        return result

    return once(attempt)


def _checked(name: str, value: Any) -> Any:
    if value is not None and not isinstance(value, (jax.Array, np.ndarray, TensorMethods)):
        raise TypeError(f"{value} is not an array: functional_call was given it for {name!r}")
    return None if value is None else settle(as_array(value))


def _names_of_cells(module: Module) -> dict[Variable, list[str]]:
    """Every parameter and buffer, with all its names."""
    names: dict[Variable, list[str]] = {}
    for members in (lambda m: m._parameters.items(), lambda m: m._buffers.items()):
        for name, cell in module._named_members(members, remove_duplicate=False):
            names.setdefault(cell, []).append(name)
    return names


def _check_ties(names: Mapping[Variable, list[str]], given: Mapping[str, Any]) -> None:
    for tied in names.values():
        values = {id(given[name]) for name in tied if name in given}
        if len(values) > 1:
            raise ValueError(
                f"functional_call got multiple values for keys {sorted(tied)}, which are tied. Consider using tie_weights=False"
            )


def _check_names(module: Module, names: Mapping[Variable, list[str]], given: Mapping[str, Any], tie_weights: bool) -> None:
    known = {name for tied in names.values() for name in tied}
    covered = set(given)
    if tie_weights:
        covered |= {name for tied in names.values() if any(n in given for n in tied) for name in tied}
    problems = {"Unexpected": sorted(set(given) - known), "Missing": sorted(known - covered)}
    lines = [f"{what} key(s): {', '.join(map(repr, keys))}." for what, keys in problems.items() if keys]
    if lines:
        raise RuntimeError("Error(s) in reparametrizing for {}:\n\t{}".format(module._get_name(), "\n\t".join(lines)))


def _targets(
    module: Module, names: Mapping[Variable, list[str]], given: Mapping[str, Any], tie_weights: bool
) -> tuple[dict[str, Variable], list[str]]:
    """The Variables that take a value for this call, by name, and the names that need a Variable of their own."""
    cells: dict[str, Variable] = {}
    replaced: list[str] = []
    for name, value in given.items():
        owner, attribute = _owner(module, name)
        cell = next((r[attribute] for r in (owner._parameters, owner._buffers, owner._arrays) if attribute in r), None)
        tied = names.get(cell, [name]) if cell is not None else []
        alone = tie_weights or all(n in given and given[n] is value for n in tied)
        if cell is not None and value is not None and alone:
            cells[name] = cell
        else:
            known = attribute in owner._parameters or attribute in owner._buffers
            held = None if known else getattr(owner, attribute, None)
            if held is not None and not isinstance(held, (jax.Array, TensorMethods)):
                raise TypeError(f"attribute `{attribute}`: {held} is not an array")
            replaced.append(name)
    return cells, replaced


def _owner(module: Module, name: str) -> tuple[Any, str]:
    """The module that holds a name, and the last part of the name."""
    *path, attribute = name.split(".")
    if attribute == "":
        raise KeyError('tensor name can\'t be empty string ""')
    owner: Any = module
    for i, part in enumerate(path):
        if not hasattr(owner, part):
            raise AttributeError(f"{owner._get_name()} has no attribute `{part}`")
        owner = getattr(owner, part)
        if not isinstance(owner, Module):
            raise TypeError(f"submodule `{'.'.join(path[: i + 1])}`: {owner} is not an nn.Module")
    return owner, attribute


@contextmanager
def _replaced(module: Module, name: str, value: Any, inner: frame.Frame) -> Iterator[Any]:
    """Put a Variable of its own under a name; its value is in the frame."""
    owner, attribute = _owner(module, name)
    registry = owner._buffers if attribute in owner._buffers else owner._parameters
    cell = None
    if value is not None:
        cell = Buffer.__new__(Buffer)
        Variable.__init__(cell, UNSET)
        cell.persistent = True
        inner.values[cell] = value
    with _alone:
        kind, parametrized = type_before_parametrizations(owner), is_parametrized(owner, attribute)
        old = registry.get(attribute, UNSET)
        if parametrized:
            set_properties(owner, kind, [n for n in owner.parametrizations if n != attribute])
        registry[attribute] = cell
        try:
            yield cell
        finally:
            if old is UNSET:
                del registry[attribute]
            else:
                registry[attribute] = old
            if parametrized:
                set_properties(owner, kind, list(owner.parametrizations))
