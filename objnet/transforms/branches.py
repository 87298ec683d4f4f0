"""``cond`` and ``switch``: jax's conditionals over functions that read and write modules.

Whatever one branch writes comes out of all of them; the branches that leave it alone hand on what was there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax

from objnet.transforms.rows import refuse_modules
from objnet.transforms.threaded import Restructured, ThreadedFrame, compiled_outside, thread


def cond(pred: Any, true_fun: Callable[..., Any], false_fun: Callable[..., Any], *operands: Any) -> Any:
    """``true_fun(*operands) if pred else false_fun(*operands)`` as one program (``jax.lax.cond``).

    Args:
        pred: a boolean or number, traced or not.
        true_fun, false_fun: return the same structure, shapes and dtypes; both may read and write any module.
        operands: pytrees of arrays.

    Raises:
        StateStructureError: a branch creates a Variable, or gives one another structure, shape or dtype.
    """
    if not callable(true_fun) or not callable(false_fun):
        raise TypeError("cond takes a predicate, two functions, and their operands: cond(pred, true_fun, false_fun, *operands)")
    return compiled_outside(_cond, [true_fun, false_fun], jnp.asarray(pred), *operands)


def _cond(true_fun: Any, false_fun: Any, pred: Any, *operands: Any) -> Any:
    return _branch("cond", lambda branches, *args: lax.cond(pred, *branches, *args), (true_fun, false_fun), operands)


def switch(index: Any, branches: Sequence[Callable[..., Any]], *operands: Any) -> Any:
    """``branches[index](*operands)`` as one program; ``index`` is clamped to the range (``jax.lax.switch``).

    Args:
        index: an integer scalar, traced or not.
        branches: return the same structure, shapes and dtypes; all may read and write any module.
        operands: pytrees of arrays.

    Raises:
        StateStructureError: as :func:`cond`. ValueError: there is no branch.
    """
    branches = tuple(branches)
    if not branches:
        raise ValueError("Empty branch sequence")
    return compiled_outside(_switch, branches, index, *operands, count=len(branches))


def _switch(*functions_and_arguments: Any, count: int) -> Any:
    branches, (index, *operands) = functions_and_arguments[:count], functions_and_arguments[count:]
    return _branch("switch", lambda functions, *args: lax.switch(index, functions, *args), branches, operands)


def _branch(what: str, run: Callable[..., Any], functions: Sequence[Any], operands: Sequence[Any]) -> Any:
    for operand in operands:
        refuse_modules(operand, f"an operand of {what}")

    def attempt(inner: ThreadedFrame) -> Any:
        def threaded(function: Any) -> Callable[..., Any]:
            return lambda values, *args: inner.call(values, function, *args)

        result, state = run([threaded(f) for f in functions], inner.inputs, *operands)
        inner.hand_over(state)
        return result

    try:
        return thread(attempt, what)
    except Restructured as found:
        raise found.error from None
