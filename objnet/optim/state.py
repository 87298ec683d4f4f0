"""The arrays an optimizer keeps for each parameter: where they come from, and ``optimizer.state`` to read them."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from objnet.core import frame
from objnet.core.variable import UNSET, Parameter, Variable

Cells = dict[str, Variable]


def new_cell(parameter: Parameter, local: bool) -> Variable:
    """A Variable of zeros in the parameter's shape, dtype and sharding.

    Args:
        local: whether it belongs to the transform that is running. If not, it is made outside all of them, as if before
            they began, so that a compiled function takes it as an input.
    """
    if local:
        return Variable(jnp.zeros_like(parameter._read()))
    value = parameter._value
    if value is UNSET:
        raise parameter.unset()
    with jax.ensure_compile_time_eval():
        if not value.is_fully_addressable:
            return _outside(jnp.zeros_like(value))
        # jnp.zeros would compile a program for every new shape.
        return _outside(jax.device_put(np.zeros(value.shape, value.dtype), value.sharding if value.committed else None))


def new_clock(placement: Any, local: bool) -> Variable:
    """A counter of steps at 0, for parameters that are stepped together."""
    if local:
        return Variable(jnp.zeros((), jnp.float32))
    with jax.ensure_compile_time_eval():
        return _outside(jax.device_put(np.zeros((), np.float32), placement))


def copy_clock(clock: Variable, local: bool) -> Variable:
    """A counter for parameters that part company with the others of ``clock``.

    While a program is traced the copy is made outside, of the value the program begins with. The program does not know the
    copy and is traced anew, with the parting behind it.
    """
    inner = frame.current()
    while inner is not None and not inner.closed:
        inner = inner.parent
    if local or inner is None:
        return Variable(clock._read())
    cell = _outside(clock._own())
    cell.expose()
    return cell


def named(parameter: Parameter, cells: Cells) -> Cells:
    """``cells``, which from now on say in messages whose state they are: ``fc.weight.exp_avg``."""
    for name, cell in cells.items():
        cell._home = cell._home or (weakref.ref(parameter), name)
    return cells


def _outside(value: jax.Array) -> Variable:
    cell = Variable(UNSET)
    cell._value = value
    return cell


class State(Mapping[Parameter, dict[str, jax.Array]]):
    """``optimizer.state``: from each parameter that has been stepped to its arrays by torch's names. Read-only.

    As in torch a parameter has no state before its first step: it is not in the mapping, and indexing gives an empty dict.
    """

    def __init__(self, optimizer: Any):
        self._optimizer = optimizer

    def _stepped(self) -> dict[Parameter, Cells]:
        """The cells of each parameter that has state. Inside a program that is a matter of data: all count as stepped."""
        held = {p: cells for p in self._optimizer._held() if (cells := self._optimizer._cells.get(p))}
        clocks = list({id(cells["step"]): cells["step"] for cells in held.values()}.values())
        steps = [clock._read() for clock in clocks]
        if not any(isinstance(s, jax.core.Tracer) for s in steps):
            steps = jax.device_get(steps)
        begun = {id(clock) for clock, s in zip(clocks, steps, strict=True) if isinstance(s, jax.core.Tracer) or s > 0}
        return {p: cells for p, cells in held.items() if id(cells["step"]) in begun}

    def _arrays(self, cells: Cells) -> dict[str, jax.Array]:
        return {k: cell._read() for k, cell in cells.items() if k != "step" or self._optimizer._saves_steps}

    def __getitem__(self, parameter: Parameter) -> dict[str, jax.Array]:
        cells = self._stepped().get(parameter)
        if cells is not None:
            return self._arrays(cells)
        if any(p is parameter for p in self._optimizer._held()):
            return {}
        raise KeyError(f"this optimizer does not hold {getattr(parameter, 'describe', lambda: repr(parameter))()}")

    def __contains__(self, parameter: object) -> bool:
        return parameter in self._stepped()

    def __iter__(self) -> Iterator[Parameter]:
        return iter(self._stepped())

    def __len__(self) -> int:
        return len(self._stepped())

    def items(self) -> Any:
        """(parameter, arrays) pairs, all read at once."""
        return {p: self._arrays(cells) for p, cells in self._stepped().items()}.items()

    def values(self) -> Any:
        """The arrays of each parameter, all read at once."""
        return dict(self.items()).values()

    def __repr__(self) -> str:
        return repr(dict(self.items()))
