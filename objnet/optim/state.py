"""``optimizer.state``: the arrays an optimizer keeps for each parameter, to read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax

from objnet.core.variable import Parameter
from objnet.optim.cells import Cells


class State(Mapping[Parameter, dict[str, jax.Array]]):
    """``optimizer.state``: from each parameter that has been stepped to its arrays by torch's names. Read-only.

    As in torch a parameter has no state before its first step (but for Adagrad): it is not in the mapping, and indexing gives
    an empty dict.
    """

    def __init__(self, optimizer: Any):
        self._optimizer = optimizer

    def _stepped(self) -> dict[Parameter, Cells]:
        """The cells of each parameter that has state. Inside a program that is a matter of data: all count as stepped."""
        held = {p: cells for p in self._optimizer._held() if (cells := self._optimizer._cells.get(p))}
        if self._optimizer._begins_with_state:
            return held
        clocks = list({id(cells["step"]): cells["step"] for cells in held.values()}.values())
        steps = [clock._read() for clock in clocks]
        if not any(isinstance(s, jax.core.Tracer) for s in steps):
            steps = jax.device_get(steps)
        begun = {id(clock) for clock, s in zip(clocks, steps, strict=True) if isinstance(s, jax.core.Tracer) or s > 0}
        return {p: cells for p, cells in held.items() if id(cells["step"]) in begun}

    def __getitem__(self, parameter: Parameter) -> dict[str, jax.Array]:
        cells = self._stepped().get(parameter)
        if cells is not None:
            return self._optimizer._report(cells)
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
        return {p: self._optimizer._report(cells) for p, cells in self._stepped().items()}.items()

    def values(self) -> Any:
        """The arrays of each parameter, all read at once."""
        return dict(self.items()).values()

    def __repr__(self) -> str:
        return repr(dict(self.items()))
