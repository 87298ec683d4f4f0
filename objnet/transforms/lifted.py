"""Modules and Parameters as arguments to differentiate: in the place of each stand the values of its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from objnet.core import frame
from objnet.core.variable import Parameter
from objnet.transforms.autodiff import Gradients


def _is_leaf(leaf: Any) -> bool:
    return isinstance(leaf, Parameter) or hasattr(leaf, "named_parameters")


class Lifted:
    """One argument, whose modules become :class:`Gradients` of their trainable parameters, and whose Parameters become arrays.

    Args:
        argument: any pytree.
    """

    def __init__(self, argument: Any):
        self._leaves, self._structure = jax.tree.flatten(argument, is_leaf=_is_leaf)
        self._named = {
            i: [(n, p) for n, p in leaf.named_parameters() if p.requires_grad]
            for i, leaf in enumerate(self._leaves)
            if not isinstance(leaf, Parameter) and _is_leaf(leaf)
        }

    def value(self) -> Any:
        """What jax differentiates with respect to."""
        return jax.tree.unflatten(self._structure, [self._value(i, leaf) for i, leaf in enumerate(self._leaves)])

    def _value(self, position: int, leaf: Any) -> Any:
        if position in self._named:
            return self._gradients(position, {n: frame.get(p) for n, p in self._named[position]})
        return frame.get(leaf) if isinstance(leaf, Parameter) else leaf

    def _gradients(self, position: int, values: Mapping[str, Any]) -> Gradients:
        return Gradients({n: values[n] for n, _ in self._named[position]}, [p for _, p in self._named[position]])

    def bind(self, value: Any, inner: frame.Frame) -> Any:
        """The argument again, with the values of its parameters in ``inner``."""
        values = self._structure.flatten_up_to(value)
        for i, leaf in enumerate(self._leaves):
            if i in self._named:
                inner.values.update((p, values[i][n]) for n, p in self._named[i])
            elif isinstance(leaf, Parameter):
                inner.values[leaf] = values[i]
            else:
                continue
            values[i] = leaf
        return jax.tree.unflatten(self._structure, values)

    def tangent(self, given: Any) -> Any:
        """A tangent or cotangent of the user's in the form of :meth:`value`: dicts by name serve for modules.

        Raises:
            ValueError: a dict lacks a parameter, or names one that there is not.
        """
        if not self._named:
            return given
        values = self._structure.flatten_up_to(given)
        for i, named in self._named.items():
            known = [n for n, _ in named]
            if not isinstance(values[i], Mapping) or set(values[i]) != set(known):
                got = sorted(values[i]) if isinstance(values[i], Mapping) else type(values[i]).__name__
                raise ValueError(f"for a module a dict with one entry for each trainable parameter is needed: {known}; got {got}")
            values[i] = self._gradients(i, values[i])
        return jax.tree.unflatten(self._structure, values)
