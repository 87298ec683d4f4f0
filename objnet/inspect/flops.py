"""Floating-point operations of a jaxpr, counted by hand: what the mathematics needs, before any compiler.

A multiply-add is 2; an elementwise operation (``add``, ``exp``, ``rsqrt``, ...) 1 per element of its floating result; a reduction 1 per
element it takes in, beyond the first of each result.  Moving, comparing, selecting and converting are 0.  A loop of known length counts every
turn, one of unknown length a single turn, a branch its dearest side.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import jax.numpy as jnp
from jax.extend.core import Literal

from objnet.inspect.record import inner_jaxprs, mark

ELEMENTWISE = frozenset(
    [
        "add",
        "add_any",
        "sub",
        "mul",
        "div",
        "rem",
        "max",
        "min",
        "neg",
        "abs",
        "sign",
        "floor",
        "ceil",
        "round",
        "clamp",
        "exp",
        "exp2",
        "expm1",
        "log",
        "log1p",
        "tanh",
        "tan",
        "sin",
        "cos",
        "asin",
        "acos",
        "atan",
        "atan2",
        "sinh",
        "cosh",
        "asinh",
        "acosh",
        "atanh",
        "logistic",
        "sqrt",
        "rsqrt",
        "cbrt",
        "pow",
        "integer_pow",
        "square",
        "erf",
        "erfc",
        "erf_inv",
        "lgamma",
        "digamma",
        "nextafter",
    ]
)
_REDUCTIONS = frozenset({"reduce_sum", "reduce_max", "reduce_min", "reduce_prod"})
_WINDOWS = frozenset({"reduce_window_sum", "reduce_window_max", "reduce_window_min"})
_CUMULATIVE = frozenset({"cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"})


def of_equation(equation: Any) -> Any:
    """Operations of one equation without inner jaxprs; an int, or a symbolic dimension where shapes are."""
    name = equation.primitive.name
    out = equation.outvars[0].aval if equation.outvars else None
    if not hasattr(out, "shape") or not jnp.issubdtype(out.dtype, jnp.inexact):
        return 0
    if all(isinstance(v, Literal) for v in equation.invars):  # a constant
        return 0
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        lhs = equation.invars[0].aval
        return 2 * math.prod(out.shape) * math.prod(lhs.shape[d] for d in contracted)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
        return 2 * math.prod(out.shape) * (math.prod(kernel) // features if features else 0)
    if name in ELEMENTWISE:
        return math.prod(out.shape)
    if name in _REDUCTIONS:
        return math.prod(equation.invars[0].aval.shape) - math.prod(out.shape)
    if name in _WINDOWS:
        return math.prod(out.shape) * (math.prod(equation.params["window_dimensions"]) - 1)
    if name in _CUMULATIVE:
        return math.prod(out.shape)
    return 0


def by_call(jaxpr: Any, root: int = -1) -> tuple[Counter[int], list[tuple[int, int]]]:
    """Operations of each module call itself, without the calls below, and the calls as (number, caller) in their order.

    Args:
        root: the number that stands for what is in no call.
    """
    counts: Counter[int] = Counter()
    order: list[tuple[int, int]] = []
    _count(jaxpr, [root], 1, counts, order)
    return counts, order


def _count(jaxpr: Any, stack: list[int], times: Any, counts: Counter[int], order: list[tuple[int, int]]) -> None:
    for equation in jaxpr.eqns:
        marked = mark(equation)
        if marked is not None:
            begins, number = marked
            if begins:
                order.append((number, stack[-1]))
                stack.append(number)
            elif number in stack:
                del stack[stack.index(number) :]
            continue
        inner = list(inner_jaxprs(equation))
        if not inner:
            counts[stack[-1]] += times * of_equation(equation)
        elif equation.primitive.name == "cond":
            sides = []
            for side in inner:
                sides.append(Counter[int]())
                _count(side, list(stack), times, sides[-1], order)
            counts.update(max(sides, key=lambda side: side.total()))
        else:
            turns = equation.params["length"] if equation.primitive.name == "scan" else 1
            for below in inner:
                _count(below, list(stack), times * turns, counts, order)
