"""``python -m tests.optim.table [NAME...]``: every optimizer and scheduler against torch's, option by option, and the count.

The columns are the suite's own tests, run on every case: 50 steps of an optimizer eager and compiled, its state and texts, steps
without gradients, state dicts of one library going on in the other; 200 steps of a scheduler, and its state dicts.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax

from tests.optim import scheduler_cases, test_lbfgs, test_lr_scheduler, test_parity, test_state_dict, test_step, test_surface
from tests.optim.cases import CASES, EACH

Check = Callable[[], Any]
SURFACE = {
    "signature": test_surface.test_signatures_are_torchs,
    "defaults, repr": test_surface.test_defaults_and_texts_are_torchs,
    "refusals": test_surface.test_what_torch_refuses_is_refused,
}


def optimizers() -> Iterable[tuple[str, dict[str, list[Check]]]]:
    """The checks of each optimizer, by column."""
    for name in dict.fromkeys(name for name, _ in [*CASES, ("LBFGS", {})]):
        columns: dict[str, list[Check]] = {column: [partial(check, name)] for column, check in SURFACE.items()}
        if name == "LBFGS":
            cases = [(o, s, c) for o in test_lbfgs.OPTIONS for s in (0, 1) for c in (False, True)]
            columns["values, state"] = [partial(test_lbfgs.test_equals_torch, *case) for case in cases]
            both = [(o, c) for o in test_lbfgs.OPTIONS[:3:2] for c in (False, True)]
            columns["moving"] = [partial(test_lbfgs.test_each_library_goes_on_where_the_other_stopped, *case) for case in both]
            columns["no gradient"] = [test_lbfgs.test_frozen_unused_and_complex_parameters]
        else:
            columns["values, state"] = [partial(test_parity.test_equals_torch, case) for case in CASES if case[0] == name]
            options = dict(EACH)[name]
            ways = (
                test_state_dict.test_torch_goes_on_where_objnet_stopped,
                test_state_dict.test_objnet_goes_on_where_torch_stopped,
            )
            columns["moving"] = [partial(way, name, options, compiled) for way in ways for compiled in (False, True)]
            columns["no gradient"] = [partial(test_step.test_parameters_without_gradient_are_left_alone, name, options)]
        yield name, columns


def schedulers() -> Iterable[tuple[str, dict[str, list[Check]]]]:
    """The checks of each scheduler, by column."""
    for name in dict.fromkeys(case.name for case in scheduler_cases.CASES):
        cases = [case for case in scheduler_cases.CASES if case.name == name]
        steps, moving = test_lr_scheduler.test_equals_torch, test_lr_scheduler.test_goes_on_from_the_other_librarys_state
        yield name, {"200 steps": [partial(steps, case) for case in cases], "moving": [partial(moving, case) for case in cases]}


def row(name: str, columns: dict[str, list[Check]]) -> tuple[str, bool]:
    """A line of the table, and whether all is equal."""
    cells, faults = [], []
    for column, checks in columns.items():
        good = 0
        for check in checks:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    check()
                good += 1
            except AssertionError as fault:
                faults.append(f"    {column}: {str(fault).strip().splitlines()[0] if str(fault) else 'differs'}")
        cells.append(f"{column} {good}/{len(checks)}")
    return "\n".join([f"{name:<28} {'equal' if not faults else 'DIFFERS':<8} {', '.join(cells)}", *faults]), not faults


def main() -> None:
    """Print the rows of the names given, or of all."""
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    wanted, equal, total = sys.argv[1:], 0, 0
    for name, columns in [*optimizers(), *schedulers()]:
        if not wanted or name in wanted:
            text, same = row(name, columns)
            print(text, flush=True)
            equal, total = equal + same, total + 1
    print(f"{equal} of {total} names fully equal")


if __name__ == "__main__":
    main()
