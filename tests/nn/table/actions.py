"""The rows of what is neither a layer nor a functional: the same lines run in both worlds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tests.nn.table.columns import Result, attempt, described
from tests.nn.two_worlds import same

ACTIONS: dict[str, list[Callable[[Any], Any]]] = {}


def row(name: str, ours: Any, theirs: Any) -> dict[str, Result]:
    """Each action gives the same in both worlds: a value, or an error of one class."""
    results: dict[str, Result] = {}
    for action in ACTIONS[name]:
        found = attempt(lambda action=action: same(action))
        if results.get("forward") is None:
            results["forward"] = found
    return results


def refusal(ours: Any, name: str) -> Result:
    """A name without a meaning in JAX raises one error that says what to use instead."""
    try:
        ours(*[torch.zeros(1).numpy()] * 2)
    except NotImplementedError as error:
        return None if "use" in str(error) or "instead" in str(error) else f"says no way out: {error}"
    except Exception as error:
        return described(error)
    return "gives a result"
