"""The pure form: ``transform`` and its family, Haiku's documented ``init``/``apply`` over torch-like modules.

``params`` and ``state`` are two-level dicts, module path to name to array; ``transforms/naming.py`` has the rules.
"""

from __future__ import annotations

import functools
import inspect
import types
from typing import Any

import jax

from objnet.core.capture import Capture
from objnet.core.variable import Buffer, Parameter
from objnet.transforms.binding import PureFrame, evaluate
from objnet.transforms.jit import Compiled
from objnet.transforms.pure_function import (
    Params,
    PartialEntries,
    PureFunction,
    State,
    Transformed,
    TransformedWithState,
    checked_key,
    is_module,
    is_module_class,
    two_levels,
)
from objnet.transforms.signatures import with_empty_state, without_apply_rng, without_state

__all__ = [
    "Params",
    "PureFunction",
    "State",
    "Transformed",
    "TransformedWithState",
    "transform",
    "transform_with_state",
    "with_empty_state",
    "without_apply_rng",
    "without_state",
]


def transform_with_state(function: Any) -> TransformedWithState:
    """Turn a function that builds and calls modules into two pure functions (Haiku's ``transform_with_state``).

    Args:
        function: a function, a Module class (built without arguments and called), or a live Module, whose
            ``init(None, ...)`` gives its current values. Modules that exist already and that a function reaches take part
            as well: ``init`` gives their current values, ``apply`` leaves them as they are.

    Returns:
        ``init(rng, *args, **kwargs) -> (params, state)`` and
        ``apply(params, state, rng, *args, **kwargs) -> (out, state)``. ``rng`` is a key, an int seed, or None where no
        random number is needed. ``init`` gives the initial state.

    Raises:
        TypeError: if ``function`` cannot be called, or is a class whose constructor needs arguments. ValueError: if it is
        already compiled. From init and apply: StructureMismatchError listing every missing, unknown or unfitting entry;
        MissingRngError; ValueError for a bad rng; TypeError for params that are no mapping.
    """
    if not callable(function):
        raise TypeError(f"transform takes a function, a Module class or a Module, got {type(function).__name__}")
    if _is_compiled(function):
        raise ValueError(
            "transform was given an already jitted (or pmapped) function, which is not pure yet: transform first, then "
            "compile what you get back, jax.jit(objnet.transform(f).apply)"
        )
    if is_module_class(function):
        try:
            inspect.signature(function).bind()
        except TypeError as error:
            name = function.__name__
            raise TypeError(
                f"{name}() takes arguments ({error}): transform a function that builds it, lambda x: {name}(...)(x)"
            ) from None
    return TransformedWithState(
        PureFunction(functools.partial(_init, function), ("rng",), function),
        PureFunction(functools.partial(apply_function, function), ("params", "state", "rng"), function),
    )


def transform(function: Any) -> Transformed:
    """:func:`transform_with_state` for functions without state: ``init(rng, *args)`` and ``apply(params, rng, *args)``.

    Raises:
        NonEmptyStateError: from init and apply, if the function holds buffers or other state.
    """
    return without_state(transform_with_state(function))


def _init(function: Any, rng: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Params, State]:
    key = checked_key(rng, "init", "first", "init(rng, *args, **kwargs)")
    if is_module(function):
        if key is not None:
            raise ValueError(
                "a live module's init takes rng=None and gives the module's current values; fresh values come from "
                f"transforming its class or a function: objnet.transform_with_state({type(function).__name__})"
            )
        return evaluate(lambda _: None, None, [function], function)[1:]
    return evaluate(lambda inner: _call(inner, function, args, kwargs), key, reached(function))[1:]


def apply_function(
    function: Any, params: Any, state: Any, rng: Any, args: tuple[Any, ...], kwargs: dict[str, Any], partial: bool = False
) -> tuple[Any, State]:
    """The body of an ``apply``; with ``partial`` it may be given entries that it has no use for."""
    given: Any = two_levels(params, "params") or {}, two_levels(state, "state")
    key = checked_key(rng, "apply", "third", "apply(params, state, rng, *args, **kwargs)")
    root = function if is_module(function) else None
    partial = partial or isinstance(params, PartialEntries)
    out, _, state = evaluate(lambda inner: _call(inner, function, args, kwargs), key, reached(function), root, given, partial)
    return out, state


def _call(inner: PureFrame, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if is_module_class(function):
        inner.names.root = function = function()
    return function(*args, **kwargs)


def reached(function: Any) -> list[Any]:
    """The modules and parameters that exist already and that ``function`` leads to."""
    if is_module(function):
        return [function]
    if is_module_class(function):
        return []
    reach = _Reach()
    reach.walk(function, ())
    return [*filter(is_module, reach.objects), *(v for v in reach.variables if isinstance(v, (Parameter, Buffer)))]


class _Reach(Capture):
    """A walk that does not enter other pure functions, which have parameters of their own."""

    def visit(self, value: Any) -> Any:
        return None if isinstance(value, PureFunction) else super().visit(value)


def _is_compiled(function: Any) -> bool:
    while isinstance(function, (types.MethodType, functools.partial)):
        function = function.__func__ if isinstance(function, types.MethodType) else function.func
    pmapped = hasattr(function, "lower") and hasattr(function, "__wrapped__")
    return isinstance(function, (Compiled, jax.stages.Wrapped)) or pmapped
