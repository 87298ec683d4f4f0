"""``optimizer.state``: what an optimizer keeps for each parameter, to read and to write as in torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from objnet.core import epoch, errors, frame
from objnet.core.arrays import narrowed
from objnet.core.foreign import to_host_or_jax
from objnet.core.variable import Parameter, Variable, settle
from objnet.optim.cells import Cells, copy_shared, named

_MISSING = object()


class State(MutableMapping[Parameter, "ParameterState"]):
    """``optimizer.state``: from each parameter that has been stepped to its arrays by torch's names.

    As in torch a parameter has no state before its first step (but for Adagrad): it is not in the mapping, and indexing gives
    an empty dict. Taking state away (``del``, ``clear``, ``state[p] = {}``) lets the parameter begin anew.
    """

    def __init__(self, optimizer: Any):
        self._optimizer = optimizer

    def _stepped(self) -> dict[Parameter, Cells]:
        """The cells of each parameter that has state. Inside a program that is a matter of data: all count as stepped."""
        held = {p: cells for p in self._optimizer._held() if (cells := self._optimizer._cells.get(p))}
        if self._optimizer._begins_with_state:
            return held
        clocks = list({id(cells["step"]): cells["step"] for cells in held.values() if "step" in cells}.values())
        steps = [clock._read() for clock in clocks]
        if not any(isinstance(s, jax.core.Tracer) for s in steps):
            steps = jax.device_get(steps)
        waiting = {id(clock) for clock, s in zip(clocks, steps, strict=True) if not _counted(s)}
        return {p: cells for p, cells in held.items() if id(cells.get("step")) not in waiting}

    def _check(self, parameter: Any, taking: bool = False) -> None:
        known = (*self._optimizer._held(), *(self._optimizer._cells if taking else ()))  # one may have left its group
        if not any(p is parameter for p in known):
            raise KeyError(f"this optimizer does not hold {getattr(parameter, 'describe', lambda: repr(parameter))()}")

    def __getitem__(self, parameter: Parameter) -> ParameterState:
        self._check(parameter, taking=True)
        return ParameterState(self._optimizer, parameter)

    def __setitem__(self, parameter: Parameter, values: Mapping[str, Any]) -> None:
        self._check(parameter)
        given = dict(values)
        self[parameter].clear()
        self[parameter].update(given)

    def __delitem__(self, parameter: Parameter) -> None:
        self._check(parameter, taking=True)
        if parameter not in self._optimizer._cells:
            raise KeyError(parameter)
        self[parameter].clear()

    def __contains__(self, parameter: object) -> bool:
        return any(parameter is p for p in self._stepped())

    def __iter__(self) -> Iterator[Parameter]:
        return iter(self._stepped())

    def __len__(self) -> int:
        return len(self._stepped())

    def read(self) -> dict[Parameter, dict[str, Any]]:
        """The arrays of each parameter, all read at once."""
        return {p: self._optimizer._report(cells) for p, cells in self._stepped().items()}

    def __repr__(self) -> str:
        return repr(self.read())


class ParameterState(MutableMapping[str, Any]):
    """``optimizer.state[p]``: arrays by torch's names, and whatever arrays and numbers an optimizer of the user's keeps there.

    Numbers are kept as 0-d arrays, so that compiled steps can count. What is first kept inside a compiled function is there
    after the call; taking away is for outside.
    """

    def __init__(self, optimizer: Any, parameter: Parameter):
        self._optimizer, self._parameter = optimizer, parameter
        self._last: Cells | None = optimizer._cells.get(parameter) or None  # which live on here once they are taken away

    def _cells(self) -> Cells:
        cells = self._optimizer._cells.get(self._parameter, {}) if (apart := self._apart()) is None else apart
        if cells and not self._begun(cells):
            return {name: cell for name, cell in cells.items() if not self._optimizer._is_own(self._parameter, name)}
        return {name: cell for name, cell in cells.items() if name != "step" or self._optimizer._saves_steps}

    def _apart(self) -> Cells | None:
        """What was seen here, if it has been taken away from the parameter since and lives on only here, as in torch."""
        return None if self._optimizer._cells.get(self._parameter) is self._last else self._last

    def _begun(self, cells: Cells) -> bool:
        """Whether the parameter has been stepped."""
        return self._optimizer._begins_with_state or "step" not in cells or _counted(cells["step"]._read())

    def __getitem__(self, name: str) -> Any:
        return self._cells()[name]._read()

    def __iter__(self) -> Iterator[str]:
        return iter(self._cells())

    def __len__(self) -> int:
        return len(self._cells())

    def __contains__(self, name: object) -> bool:
        return name in self._cells()

    def __repr__(self) -> str:
        return repr({name: cell._read() for name, cell in self._cells().items()})

    def __setitem__(self, name: str, value: Any) -> None:
        """Keep ``value`` under ``name``.

        Raises:
            TypeError: if it is no array, number, or pytree of these.
        """
        where = f"optimizer.state of {self._parameter.describe()}: {name!r}"
        held = self._optimizer._cells.get(self._parameter, {})
        array = settled(value, where)
        if (apart := self._apart()) is not None:
            apart[name] = Variable(array)
            return
        if name not in held:
            self._create(name, array)
            return
        cell = held[name]
        if self._optimizer._is_own(self._parameter, name):
            # of any shape: the parameter may be exchanged before the next step
            array = jnp.asarray(array).astype(cell._read().dtype)
        if any(cells.get(name) is cell for p, cells in self._optimizer._cells.items() if p is not self._parameter):
            apart = copy_shared(self._shared(), self._optimizer._group_of(self._parameter).local())
            self._optimizer._cells[self._parameter] |= named(self._parameter, apart)
            epoch.advance()
            cell = apart[name]
        cell._set(array)

    def _shared(self) -> Cells:
        """The cells this parameter has in common with others."""
        cells = self._optimizer._cells
        others = {id(cell) for p, held in cells.items() if p is not self._parameter for cell in held.values()}
        return {name: cell for name, cell in cells[self._parameter].items() if id(cell) in others}

    def _create(self, name: str, value: Any) -> None:
        cells = self._optimizer._cells.setdefault(self._parameter, {})
        cell = Variable(value)
        inner = frame.current()
        if inner is not None and not self._optimizer._group_of(self._parameter).local():
            place = next(i for i, p in enumerate(self._optimizer._held()) if p is self._parameter)
            inner.note_link(self._optimizer, "_cells", (place, name), _MISSING, cell)
            inner.undo.append(lambda: cells.pop(name, None))
        cells |= named(self._parameter, {name: cell})
        epoch.advance()

    def __delitem__(self, name: str) -> None:
        if name not in self._cells():
            raise KeyError(name)
        if (apart := self._apart()) is not None:
            del apart[name]
            return
        self._refuse_inside()
        del self._optimizer._cells[self._parameter][name]
        epoch.advance()

    def clear(self) -> None:
        """Let the parameter begin anew."""
        if (apart := self._apart()) is not None:
            apart.clear()
            return
        self._last = None
        if self._optimizer._cells.get(self._parameter):
            self._refuse_inside()
            del self._optimizer._cells[self._parameter]
            epoch.advance()

    def _refuse_inside(self) -> None:
        if frame.current() is not None:
            raise errors.CompiledCallError(
                f"optimizer.state of {self._parameter.describe()} was taken away inside a compiled function{errors.where()}: the "
                "program cannot repeat that. Do it outside, between calls, or fill it with zeros."
            )


def _counted(steps: Any) -> bool:
    """Whether a count of steps says that there was one; inside a program that is a matter of data."""
    return isinstance(steps, jax.core.Tracer) or np.ndim(steps) > 0 or bool(steps > 0)


def settled(value: Any, where: str, like: jax.Array | None = None) -> Any:
    """``value`` as state holds it, with jax arrays, on the devices of ``like``.

    Raises:
        TypeError: if it is no array, number, or pytree of these.
    """
    placement = like.sharding if like is not None and like.committed else None

    def leaf(x: Any) -> Any:
        array = to_host_or_jax(x)
        return array if isinstance(array, jax.Array) else jax.device_put(narrowed(np.array(array)), placement)

    try:
        found = jax.tree.map(leaf, value, is_leaf=lambda x: isinstance(x, Variable))
        if jax.tree.leaves(found):
            return settle(found)
    except TypeError:
        pass
    raise TypeError(f"{where} was given {type(value).__name__}{errors.where()}: state is an array, a number, or a pytree of them")
