"""A nested dict of another library's arrays as a tree of modules, so that each array is a Variable under a dotted name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from objnet.core.variable import Buffer, Parameter, Variable
from objnet.interop.keys import Path
from objnet.nn.module import Module

__all__ = ["Collection"]

_REGISTRIES = ("_parameters", "_buffers", "_arrays")


class Collection(Module):
    """The arrays of one collection of another library's variables, by that library's names.

    Arrays of the trainable collection are Parameters, other arrays Buffers, and what is a pytree is state that is in no state dict. It
    has no forward: :class:`Lifted` reads it.
    """

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("a collection holds the arrays of a lifted module and computes nothing: call the lifted module")

    def extra_repr(self) -> str:
        cells = ((name, cell) for kind in _REGISTRIES for name, cell in self.__dict__[kind].items() if cell is not None)
        return ", ".join(f"{name}={_shapes(cell._peek())}" for name, cell in cells)


def _shapes(value: Any) -> Any:
    shape = getattr(value, "shape", None)
    return tuple(shape) if shape is not None else jax.tree.map(jnp.shape, value)


def cells(node: Collection, path: Path = ()) -> Iterator[tuple[Path, Variable]]:
    """(path, Variable) for everything a collection holds."""
    for kind in _REGISTRIES:
        for name, cell in node.__dict__[kind].items():
            if cell is not None:
                yield (*path, name), cell
    for name, child in node._modules.items():
        yield from cells(child, (*path, name))


def hold(node: Collection, entries: Iterable[tuple[Path, Any]], trainable: bool) -> None:
    """Give a collection these (path, value) pairs, in the cells it has, or in new ones.

    Names of the other library may be those of Module's own methods, so they go to the registries directly.
    """
    for path, value in entries:
        inner = node
        for part in path[:-1]:
            if part not in inner._modules:
                inner._link("_modules", part, Collection())
            inner = inner._modules[part]
        name = path[-1]
        cell = next((inner.__dict__[kind][name] for kind in _REGISTRIES if name in inner.__dict__[kind]), None)
        if cell is not None:
            cell._set(value)
        elif not isinstance(value, (jax.Array, np.ndarray, np.generic, int, float, complex)):
            inner._link("_arrays", name, Variable(value))
        elif trainable:
            array = jnp.asarray(value)
            inner._link("_parameters", name, Parameter(array, requires_grad=jnp.issubdtype(array.dtype, jnp.inexact)))
        else:
            inner._link("_buffers", name, Buffer(value))
