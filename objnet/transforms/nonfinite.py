"""Watching for NaN: what a running :class:`objnet.debug.nans` has heard from inside programs, and the check after a compiled call.

Inside a program nothing can raise: a check there reports a ticket, whose number tells which check comes first in the order of
the forward.  Whoever runs the program then settles: waits for the reports, and raises for the first.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from objnet.core.errors import NonFiniteError
from objnet.core.variable import path_of

watching: Watcher | None = None  # seen from every thread: jax reports from threads of its own
_numbers = itertools.count()


class Ticket(NamedTuple):
    """One check in a program: its place in the order of tracing, and what to say if it fails."""

    number: int
    message: str


class Watcher:
    """One running ``nans``.

    Attributes:
        infs: whether infinities count too.
    """

    def __init__(self, infs: bool):
        self.infs = infs
        self.staged = False  # whether any program holds checks of this watcher
        self._failed: list[Ticket] = []

    @property
    def what(self) -> str:
        """The word for what is looked for."""
        return "NaN or infinity" if self.infs else "NaN"

    def holds(self, value: Any) -> Any:
        """Whether any array in ``value`` holds what is looked for: a boolean array, traced where ``value`` is."""
        test = (lambda x: ~jnp.isfinite(x)) if self.infs else jnp.isnan
        flags = [
            test(x).any() for x in jax.tree.leaves(value) if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.inexact)
        ]
        return jnp.stack(flags).any() if flags else False

    def check_in_program(self, flag: Any, message: str) -> None:
        """Have the program being traced report if ``flag`` is True when it runs."""
        ticket = Ticket(next(_numbers), message)
        self.staged = True
        jax.debug.callback(lambda failed: _report(ticket, bool(failed.any())), flag)

    def settle(self) -> None:
        """Wait for what programs report, and raise for the first check that failed.

        Raises:
            NonFiniteError: one did.
        """
        if self.staged:
            jax.effects_barrier()
        failed, self._failed = self._failed, []
        if failed:
            raise NonFiniteError(min(failed).message)

    def after_call(self, function: Any, binding: Any, out: list[Any], again: Any) -> None:
        """Check a compiled call before anything it returned is written back.

        Args:
            again: runs the same call op by op, where a check can say more.
        """
        self.staged = True
        try:
            self.settle()
        except NonFiniteError:
            _try(again)
            raise
        bad = [v for v, value in zip(binding.out, out, strict=False) if bool(self.holds(value))]
        if not bad and not bool(self.holds(out[-1])):
            return
        names = ", ".join(path_of(v) or v.describe() for v in bad)
        where = f"in the new value of {names}" if bad else "in the result"
        _try(again)
        raise NonFiniteError(
            f"{self.what} appeared {where} of {function._name()}, but in no module's output: it arose in a gradient, in the update "
            "or in code outside of modules. objnet.debug.nans(backward=True) names the module whose gradient it arose in."
        )


def _try(again: Any) -> None:
    """Run a call again for a better error; one that does not come is not missed."""
    try:
        again()
    except NonFiniteError:
        raise
    except Exception:
        return


def _report(ticket: Ticket, failed: bool) -> None:
    """A check in a program reports; programs outlive the watcher they were traced for."""
    if failed and watching is not None:
        watching._failed.append(ticket)
