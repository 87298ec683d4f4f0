"""Which values of a program for many devices are the same on all of them: a walk over its jaxpr.

State that all devices share must come out equal on each.  Jax can tell so where it also adds up gradients by itself
(``check_vma=True`` of ``shard_map``); for programs in which the user does that, as under ``pmap``, this analysis tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jax.extend.core import Literal

Axes = frozenset[str]
_NONE: Axes = frozenset()
_EQUALISE = {"psum", "psum_invariant", "pmax", "pmin", "all_gather", "all_gather_invariant", "pmean"}
_SPREAD = {"reduce_scatter", "ppermute", "all_to_all", "pgather", "pvary", "pcast"}


def _names(params: Any) -> Axes:
    for key in ("axes", "axis_name"):
        if key in params:
            names = params[key]
            return frozenset(names if isinstance(names, (tuple, list, frozenset, set)) else (names,))
    return _NONE


def varying(jaxpr: Any, inputs: Sequence[Axes]) -> list[Axes]:
    """For each output the axes along which it may differ from device to device, given the same for the inputs.

    Args:
        jaxpr: an open jaxpr; its constants are the same everywhere.
    """
    known: dict[Any, Axes] = dict(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> Axes:
        return _NONE if isinstance(atom, Literal) else known.get(atom, _NONE)

    for equation in jaxpr.eqns:
        found = [read(atom) for atom in equation.invars]
        known.update(zip(equation.outvars, _equation(equation, found), strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _open(jaxpr: Any) -> Any:
    return getattr(jaxpr, "jaxpr", jaxpr)


def _equation(equation: Any, inputs: list[Axes]) -> list[Axes]:
    name, params, count = equation.primitive.name, equation.params, len(equation.outvars)
    joined = _NONE.union(*inputs)
    if name in _EQUALISE:
        gone = _names(params) if params.get("axis_index_groups") is None else _NONE
        return [axes - gone for axes in inputs] if len(inputs) == count else [joined - gone] * count
    if name == "axis_index":
        return [_names(params)] * count
    if name in _SPREAD:
        return [joined | _names(params)] * count
    if name == "scan":
        return _scan(equation, inputs)
    if name == "while":
        return _while(params, inputs)
    if name == "cond":
        branches = [varying(_open(b), inputs[1:]) for b in params["branches"]]
        return [inputs[0].union(*parts) for parts in zip(*branches, strict=True)]
    inner = next((params[k] for k in ("jaxpr", "call_jaxpr", "fun_jaxpr") if k in params), None)
    if inner is not None:
        body = _open(inner)
        if hasattr(body, "eqns") and len(body.invars) == len(inputs) and len(body.outvars) == count:
            return varying(body, inputs)
    return [joined] * count


def _fixed_point(run: Any, carry: list[Axes]) -> list[Axes]:
    while True:
        after = [a | b for a, b in zip(carry, run(carry), strict=True)]
        if after == carry:
            return carry
        carry = after


def _scan(equation: Any, inputs: list[Axes]) -> list[Axes]:
    """Constants, then the carry, then rows: only rows have one axis more outside than inside (jax's own counts are no interface)."""
    body = _open(equation.params["jaxpr"])
    rows = sum(len(a.aval.shape) > len(b.aval.shape) for a, b in zip(equation.invars, body.invars, strict=True))
    carried = sum(len(a.aval.shape) == len(b.aval.shape) for a, b in zip(equation.outvars, body.outvars, strict=True))
    consts = len(inputs) - carried - rows
    head, carry, tail = inputs[:consts], inputs[consts : consts + carried], inputs[consts + carried :]
    carry = _fixed_point(lambda c: varying(body, [*head, *c, *tail])[:carried], carry)
    return [*carry, *varying(body, [*head, *carry, *tail])[carried:]]


def _while(params: Any, inputs: list[Axes]) -> list[Axes]:
    a, b = params["cond_nconsts"], params["body_nconsts"]
    of_cond, of_body, carry = inputs[:a], inputs[a : a + b], inputs[a + b :]

    def run(carry: list[Axes]) -> list[Axes]:
        (stops,) = varying(_open(params["cond_jaxpr"]), [*of_cond, *carry])
        return [axes | stops for axes in varying(_open(params["body_jaxpr"]), [*of_body, *carry])]

    return _fixed_point(run, carry)
