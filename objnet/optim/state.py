"""The arrays an optimizer keeps for each parameter: where they come from, and ``optimizer.state`` to read them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from objnet.core import frame
from objnet.core.variable import UNSET, Parameter, Variable


def new_cell(parameter: Parameter, local: bool) -> Variable:
    """A Variable of zeros in the parameter's shape, dtype and sharding.

    Args:
        local: whether it belongs to the transform that is running. If not, it is made outside all of them, as if before
            they began, so that a compiled function takes it as an input.
    """
    if local:
        return Variable(jnp.zeros_like(parameter._read()))
    cell = Variable(UNSET)
    if parameter._value is UNSET:
        raise parameter.unset()
    with jax.ensure_compile_time_eval():
        cell._value = _zeros_like(parameter._value)
    return cell


def _zeros_like(value: jax.Array) -> jax.Array:
    if not value.is_fully_addressable:
        return jnp.zeros_like(value)
    # jnp.zeros would compile a program for every new shape.
    return jax.device_put(np.zeros(value.shape, value.dtype), value.sharding if value.committed else None)


class State(Mapping[Parameter, dict[str, jax.Array]]):
    """``optimizer.state``: from each parameter that has been stepped to its arrays by torch's names. Read-only.

    As in torch a parameter has no state before its first step: it is not in the mapping, and indexing gives an empty dict.
    """

    def __init__(self, optimizer: Any):
        self._optimizer = optimizer

    def _stepped(self) -> Iterator[tuple[Parameter, Any]]:
        """Each parameter that has state, and its steps. Inside a program that is a matter of data: all count as stepped."""
        for group in self._optimizer.param_groups:
            for p, steps in zip(group.params, _unstack(group.counts._read()), strict=True):
                if self._optimizer._cells.get(p) and (isinstance(steps, jax.core.Tracer) or steps > 0):
                    yield p, steps

    def _arrays(self, p: Parameter, steps: Any) -> dict[str, jax.Array]:
        counted = {"step": jnp.asarray(steps)} if self._optimizer._saves_steps else {}
        return counted | {name: cell._read() for name, cell in self._optimizer._cells[p].items()}

    def __getitem__(self, parameter: Parameter) -> dict[str, jax.Array]:
        for p, steps in self._stepped():
            if p is parameter:
                return self._arrays(p, steps)
        if any(p is parameter for group in self._optimizer.param_groups for p in group.params):
            return {}
        raise KeyError(f"this optimizer does not hold {getattr(parameter, 'describe', lambda: repr(parameter))()}")

    def __contains__(self, parameter: object) -> bool:
        return any(p is parameter for p, _ in self._stepped())

    def __iter__(self) -> Iterator[Parameter]:
        return (p for p, _ in self._stepped())

    def __len__(self) -> int:
        return sum(1 for _ in self._stepped())

    def items(self) -> Any:
        """(parameter, arrays) pairs, all read at once."""
        return {p: self._arrays(p, steps) for p, steps in self._stepped()}.items()

    def values(self) -> Any:
        """The arrays of each parameter, all read at once."""
        return dict(self.items()).values()

    def __repr__(self) -> str:
        return repr(dict(self.items()))


def _unstack(counts: jax.Array) -> Any:
    """The count of each parameter: numpy scalars outside programs, where slicing would compile one."""
    return jnp.unstack(counts) if isinstance(counts, jax.core.Tracer) else jax.device_get(counts)
