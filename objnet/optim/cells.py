"""The Variables in which an optimizer keeps its state, made where no transform can see it.

Each parameter has a dict of them by torch's names: arrays of its own, and ``step`` with other numbers that depend on the
steps alone, which parameters that were always stepped together have in common.
"""

from __future__ import annotations

import weakref
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from objnet.core import frame
from objnet.core.variable import UNSET, Parameter, Variable

Cells = dict[str, Variable]


def new_cell(parameter: Parameter, shape: tuple[int, ...], first: float, local: bool) -> Variable:
    """A Variable for an array that belongs to ``parameter``, of its dtype and sharding.

    Args:
        shape: of the array, if not the parameter's then replicated over the parameter's devices.
        first: its value everywhere; of a complex array, both parts'.
        local: whether it belongs to the transform that is running. If not, it is made outside all of them, as if before
            they began, so that a compiled function takes it as an input.
    """
    value = parameter._read() if local else parameter._value
    if value is UNSET:
        raise parameter.unset()
    fill = complex(first, first) if first and jnp.issubdtype(value.dtype, jnp.complexfloating) else first
    if local:
        return Variable(jnp.full(shape, fill, value.dtype))
    with jax.ensure_compile_time_eval():
        if not value.is_fully_addressable:
            return outside(jnp.full_like(value, fill) if shape == value.shape else jnp.full(shape, fill, value.dtype))
        # jnp.full would compile a program for every new shape.
        return outside(jax.device_put(np.full(shape, fill, value.dtype), _sharding(value, shape)))


def _sharding(value: jax.Array, shape: tuple[int, ...]) -> Any:
    if not value.committed:
        return None
    if shape != value.shape and isinstance(value.sharding, NamedSharding):
        return NamedSharding(value.sharding.mesh, PartitionSpec())
    return value.sharding


def new_shared(numbers: dict[str, float], placement: Any, local: bool) -> Cells:
    """Variables for the count of steps, at 0, and for other numbers of parameters that are stepped together."""
    numbers = {"step": 0.0, **numbers}
    if local:
        return {name: Variable(jnp.full((), number, jnp.float32)) for name, number in numbers.items()}
    with jax.ensure_compile_time_eval():
        return {name: outside(jax.device_put(np.float32(number), placement)) for name, number in numbers.items()}


def copy_shared(cells: Cells, local: bool) -> Cells:
    """Variables for parameters that part company with the others of ``cells``.

    While a program is traced the copies are made outside, of the values the program begins with. The program does not know
    the copies and is traced anew, with the parting behind it.
    """
    inner = frame.current()
    while inner is not None and not inner.closed:
        inner = inner.parent
    if local or inner is None:
        return {name: Variable(cell._read()) for name, cell in cells.items()}
    copies = {name: outside(cell._own()) for name, cell in cells.items()}
    for copy in copies.values():
        copy.expose()
    return copies


def named(parameter: Parameter, cells: Cells) -> Cells:
    """``cells``, which from now on say in messages whose state they are: ``fc.weight.exp_avg``."""
    for name, cell in cells.items():
        cell._home = cell._home or (weakref.ref(parameter), name)
    return cells


def outside(value: jax.Array) -> Variable:
    """A Variable of a concrete value, made outside every transform."""
    cell = Variable(UNSET)
    cell._value = value
    return cell
