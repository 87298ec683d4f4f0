"""Matching the gradients a user hands to ``optimizer.step(grads)`` with the optimizer's parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax

from objnet.core import errors
from objnet.core.arrays import as_array
from objnet.core.variable import Parameter
from objnet.optim.groups import ParamGroup
from objnet.transforms.autodiff import Gradients


def match(grads: Any, groups: Sequence[ParamGroup]) -> dict[Parameter, jax.Array]:
    """The gradient of each parameter that has one; None stands for no gradient.

    Args:
        grads: what ``value_and_grad`` gave, a list or tuple along the optimizer's parameters, or a dict by their names.

    Raises:
        TypeError: for anything else.
        StructureMismatchError: listing every gradient that is missing, unknown, or of another shape or dtype.
    """
    held = [p for group in groups for p in group.params]
    given: list[tuple[str, Parameter | None, Any]]
    if isinstance(grads, Gradients):
        given = list(zip(grads, grads.parameters, grads.values(), strict=True))
        missing = _missing(held, grads.parameters)
    elif isinstance(grads, Mapping):
        by_name = _names(groups)
        given = [(name, by_name.get(name), gradient) for name, gradient in grads.items()]
        missing = _missing(held, [p for name, p in by_name.items() if name in grads])
    elif isinstance(grads, (list, tuple)):
        if len(grads) != len(held):
            raise errors.StructureMismatchError(
                f"got {len(grads)} gradients{errors.where()}, and the optimizer holds {len(held)} parameters: a list runs along "
                "all of them, None standing for no gradient."
            )
        given = [(f"[{i}] ({p.describe()})", p, gradient) for i, (p, gradient) in enumerate(zip(held, grads, strict=True))]
        missing = []
    else:
        raise TypeError(
            f"step takes a closure that returns the loss, gradients, or nothing; got {type(grads).__name__}{errors.where()}. "
            "Arrays record no graph: write optimizer.step(lambda: criterion(model(x), y)), or pass what value_and_grad gave."
        )
    known = {id(p) for p in held}
    found: dict[Parameter, jax.Array] = {}
    problems = [f"missing: {p.describe()}" for p in missing]
    for name, p, gradient in given:
        if id(p) not in known:
            problems.append(f"unknown: {name} is no parameter of this optimizer")
        elif p is not None and gradient is not None:
            found[p] = as_array(gradient)
            fault = mismatch(p, found[p])
            if fault:
                problems.append(f"{name}: {fault}")
    if problems:
        listed = "\n  ".join(problems)
        raise errors.StructureMismatchError(f"the gradients do not fit the optimizer{errors.where()}:\n  {listed}")
    return found


def mismatch(p: Parameter, gradient: jax.Array) -> str:
    """What is wrong with a gradient for ``p``, or the empty string."""
    if gradient.shape != p.shape:
        return f"the gradient has shape {gradient.shape}, the parameter {p.shape}"
    if gradient.dtype != p.dtype:
        return f"the gradient has dtype {gradient.dtype}, the parameter {p.dtype}"
    return ""


def _missing(held: Iterable[Parameter], given: Iterable[Parameter]) -> list[Parameter]:
    there = {id(p) for p in given}
    return [p for p in held if p.requires_grad and id(p) not in there]


def _names(groups: Sequence[ParamGroup]) -> dict[str, Parameter]:
    by_name: dict[str, Parameter] = {}
    for group in groups:
        names = group.names()
        if names is None:
            raise errors.StructureMismatchError(
                f"gradients by name were given{errors.where()}, and the optimizer does not know its parameters' names: build it "
                "from model.parameters() or model.named_parameters(), or pass what objnet.value_and_grad(..., wrt=model) gave."
            )
        for name, p in zip(names, group.params, strict=True):
            if name in by_name:
                raise errors.StructureMismatchError(
                    f"gradients by name were given{errors.where()}, and two parameters of the optimizer are named {name!r}: "
                    "pass a list along its parameters instead."
                )
            by_name[name] = p
    return by_name
