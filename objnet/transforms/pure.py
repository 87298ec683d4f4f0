"""The pure form: ``transform`` and its family, Haiku's documented ``init``/``apply`` over torch-like modules.

``params`` and ``state`` are two-level dicts, module path to name to array; ``transforms/naming.py`` has the rules.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from objnet.core.capture import Capture
from objnet.core.errors import NonEmptyStateError
from objnet.core.rng import as_key
from objnet.core.tensor import TensorMethods
from objnet.core.variable import Buffer, Parameter, Variable
from objnet.transforms.binding import PureFrame, evaluate, stateful
from objnet.transforms.jit import Compiled

Params = dict[str, dict[str, Any]]
State = dict[str, dict[str, Any]]


class Transformed(NamedTuple):
    """Pure functions ``params = init(rng, *args)`` and ``out = apply(params, rng, *args)``."""

    init: Callable[..., Params]
    apply: Callable[..., Any]


class TransformedWithState(NamedTuple):
    """Pure functions ``params, state = init(rng, *args)`` and ``out, state = apply(params, state, rng, *args)``."""

    init: Callable[..., tuple[Params, State]]
    apply: Callable[..., tuple[Any, State]]


class PureFunction:
    """An ``init`` or ``apply``: takes leading arguments of its own, by position or by name, then the function's.

    Args:
        body: called with the leading arguments, and the tuple and the dict of the others.
        leading: the names of the leading arguments.
        original: what was transformed.
    """

    def __init__(self, body: Callable[..., Any], leading: tuple[str, ...], original: Any):
        self._body = body
        self._leading = leading
        self._original_fn = original
        self.__name__ = self.__qualname__ = "apply" if "params" in leading else "init"
        self.__doc__ = getattr(original, "__doc__", None)
        self._shared: frozenset[str] = frozenset()  # names of leading arguments that the original takes too
        try:
            own = list(inspect.signature(_called(original)).parameters.values())
        except (TypeError, ValueError):
            return
        self._shared = frozenset(leading) & {p.name for p in own}
        if not self._shared:
            first = own[0].kind if own else inspect.Parameter.POSITIONAL_OR_KEYWORD
            kind = min(first, inspect.Parameter.POSITIONAL_OR_KEYWORD)
            self.__signature__ = inspect.Signature([*(inspect.Parameter(n, kind) for n in leading), *own])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        count = len(self._leading)
        taken = list(args[:count])
        for name in self._leading[len(taken) :]:
            if name not in kwargs:
                raise TypeError(f"{self.__name__}() is missing {name!r}: the required signature is `{self._required()}`")
            if name in self._shared:
                raise TypeError(
                    f"{self.__name__}() and the transformed function both have an argument {name!r}: pass "
                    f"{self.__name__}'s own positionally, `{self._required()}`"
                )
            taken.append(kwargs.pop(name))
        return self._body(*taken, args[count:], kwargs)

    def __objnet_capture__(self, visit: Callable[[Any], Any]) -> Any:
        return (self._leading, visit(self._body))

    def _required(self) -> str:
        return f"{self.__name__}({', '.join(self._leading)}, *args, **kwargs)"

    def __repr__(self) -> str:
        return f"<{self._required()} of {self._original_fn!r}>"


# -- transforming ------------------------------------------------------------------------------------------------------


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
    if _is_module_class(function):
        try:
            inspect.signature(function).bind()
        except TypeError as error:
            name = function.__name__
            raise TypeError(
                f"{name}() takes arguments ({error}): transform a function that builds it, lambda x: {name}(...)(x)"
            ) from None
    return TransformedWithState(
        PureFunction(functools.partial(_init, function), ("rng",), function),
        PureFunction(functools.partial(_apply, function), ("params", "state", "rng"), function),
    )


def transform(function: Any) -> Transformed:
    """:func:`transform_with_state` for functions without state: ``init(rng, *args)`` and ``apply(params, rng, *args)``.

    Raises:
        NonEmptyStateError: from init and apply, if the function holds buffers or other state.
    """
    return without_state(transform_with_state(function))


def _init(function: Any, rng: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Params, State]:
    key = _key(rng, "init", "first", "init(rng, *args, **kwargs)")
    if _is_module(function):
        if key is not None:
            raise ValueError(
                "a live module's init takes rng=None and gives the module's current values; fresh values come from "
                f"transforming its class or a function: objnet.transform_with_state({type(function).__name__})"
            )
        return evaluate(lambda _: None, None, [function], function)[1:]
    return evaluate(lambda inner: _call(inner, function, args, kwargs), key, _reached(function))[1:]


def _apply(function: Any, params: Any, state: Any, rng: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, State]:
    given = _entries(params, "params") or {}, _entries(state, "state")
    key = _key(rng, "apply", "third", "apply(params, state, rng, *args, **kwargs)")
    root = function if _is_module(function) else None
    out, _, state = evaluate(lambda inner: _call(inner, function, args, kwargs), key, _reached(function), root, given)
    return out, state


def _call(inner: PureFrame, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if _is_module_class(function):
        inner.names.root = function = function()
    return function(*args, **kwargs)


def _reached(function: Any) -> list[Any]:
    """The modules and parameters that exist already and that ``function`` leads to."""
    if _is_module(function):
        return [function]
    if _is_module_class(function):
        return []
    reach = _Reach()
    reach.walk(function, ())
    return [*filter(_is_module, reach.objects), *(v for v in reach.variables if isinstance(v, (Parameter, Buffer)))]


class _Reach(Capture):
    """A walk that does not enter other pure functions, which have parameters of their own."""

    def visit(self, value: Any) -> Any:
        return None if isinstance(value, PureFunction) else super().visit(value)


# -- changing the signatures -------------------------------------------------------------------------------------------


def without_state(transformed: TransformedWithState) -> Transformed:
    """Drop the empty ``state`` from both signatures.

    Raises:
        NonEmptyStateError: from init and apply, if there is state after all.
    """
    original = _original(transformed)
    return Transformed(
        PureFunction(functools.partial(_stateless_init, transformed.init), ("rng",), original),
        PureFunction(functools.partial(_stateless_apply, transformed.apply), ("params", "rng"), original),
    )


def _stateless_init(init: Any, rng: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Params:
    params, state = init(rng, *args, **kwargs)
    _check_empty(state)
    return params


def _stateless_apply(apply: Any, params: Any, rng: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    key = _key(rng, "apply", "second", "apply(params, rng, *args, **kwargs)")
    out, state = apply(params, None, key, *args, **kwargs)
    _check_empty(state)
    return out


def _check_empty(state: Any) -> None:
    if state:
        raise stateful(f"{path}.{name}" for path, entries in state.items() for name in entries)


def with_empty_state(transformed: Transformed) -> TransformedWithState:
    """Add an empty ``state`` to both signatures.

    Raises:
        NonEmptyStateError: from apply, if it is given state.
    """
    original = _original(transformed)
    return TransformedWithState(
        PureFunction(functools.partial(_empty_state_init, transformed.init), ("rng",), original),
        PureFunction(functools.partial(_empty_state_apply, transformed.apply), ("params", "state", "rng"), original),
    )


def _empty_state_init(init: Any, rng: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Params, State]:
    return init(rng, *args, **kwargs), {}


def _empty_state_apply(
    apply: Any, params: Any, state: Any, rng: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, State]:
    if state:
        raise NonEmptyStateError(f"this function holds no state, got entries {sorted(state)}")
    return apply(params, rng, *args, **kwargs), {}


def without_apply_rng(transformed: Any) -> Any:
    """Drop ``rng`` from ``apply``, which then runs with None.

    Raises:
        TypeError: if ``transformed`` is not what a transform returned.
    """
    if not isinstance(transformed, (Transformed, TransformedWithState)):
        raise TypeError(f"without_apply_rng takes what a transform returned, got {type(transformed).__name__}")
    leading = ("params", "state") if isinstance(transformed, TransformedWithState) else ("params",)
    body = functools.partial(_rngless_apply, transformed.apply)
    return transformed._replace(apply=PureFunction(body, leading, _original(transformed)))


def _rngless_apply(apply: Any, *inputs: Any) -> Any:
    *given, args, kwargs = inputs
    return apply(*given, None, *args, **kwargs)


# -- telling things apart ----------------------------------------------------------------------------------------------


def _is_module(value: Any) -> bool:
    return not isinstance(value, type) and hasattr(value, "named_modules")


def _is_module_class(value: Any) -> bool:
    return isinstance(value, type) and hasattr(value, "named_modules")


def _is_compiled(function: Any) -> bool:
    while isinstance(function, (types.MethodType, functools.partial)):
        function = function.__func__ if isinstance(function, types.MethodType) else function.func
    pmapped = hasattr(function, "lower") and hasattr(function, "__wrapped__")
    return isinstance(function, (Compiled, jax.stages.Wrapped)) or pmapped


def _original(transformed: Any) -> Any:
    return getattr(transformed.init, "_original_fn", transformed.init)


def _called(function: Any) -> Any:
    """What says which arguments ``function`` takes: of a Module, its forward."""
    if _is_module_class(function):
        return functools.partial(function.forward, None)
    return function.forward if _is_module(function) else function


def _entries(given: Any, what: str) -> Params | None:
    """A two-level mapping in dicts of its own, with arrays for Parameters and without entries that are None."""
    if given is None:
        return None
    if not isinstance(given, Mapping) or not all(isinstance(entries, Mapping) for entries in given.values()):
        raise TypeError(
            f"{what} argument does not appear valid: it should be a two-level mapping, module path to name to array, but "
            f"is of type {type(given).__name__}"
        )
    return {path: {name: _value(v) for name, v in entries.items() if v is not None} for path, entries in given.items()}


def _value(entry: Any) -> Any:
    return entry._read() if isinstance(entry, (Variable, TensorMethods)) else entry


def _key(rng: Any, function: str, position: str, signature: str) -> Any:
    if rng is None:
        return None
    try:
        return as_key(rng)
    except ValueError as error:
        raise ValueError(
            f"{function.capitalize()} must be called with an RNG as the {position} argument, the required signature is: `"
            f"{signature}`; {error}"
        ) from None
