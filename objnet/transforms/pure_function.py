"""``init`` and ``apply`` as callables: their types, their signatures, and the checks of what they are given."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from objnet.core.rng import as_key
from objnet.core.tensor import TensorMethods
from objnet.core.variable import Variable

Params = dict[str, dict[str, Any]]
State = dict[str, dict[str, Any]]


class PartialEntries(dict[str, dict[str, Any]]):
    """``params`` or ``state`` that may hold more than the function they are given to has a use for."""


jax.tree_util.register_pytree_with_keys(
    PartialEntries,
    lambda d: (tuple((jax.tree_util.DictKey(k), d[k]) for k in sorted(d)), tuple(sorted(d))),
    lambda keys, values: PartialEntries(zip(keys, values, strict=True)),
    lambda d: (tuple(d[k] for k in sorted(d)), tuple(sorted(d))),
)


class Transformed(NamedTuple):
    """Pure functions ``params = init(rng, *args)`` and ``out = apply(params, rng, *args)``."""

    init: Callable[..., Params]
    apply: Callable[..., Any]


class TransformedWithState(NamedTuple):
    """Pure functions ``params, state = init(rng, *args)`` and ``out, state = apply(params, state, rng, *args)``."""

    init: Callable[..., tuple[Params, State]]
    apply: Callable[..., tuple[Any, State]]


class MultiTransformed(NamedTuple):
    """A pure ``params = init(rng, *args)``, and a pytree of pure functions ``out = apply(params, rng, *args)``."""

    init: Callable[..., Params]
    apply: Any


class MultiTransformedWithState(NamedTuple):
    """``params, state = init(rng, *args)``, and a pytree of pure functions ``out, state = apply(params, state, rng, *args)``."""

    init: Callable[..., tuple[Params, State]]
    apply: Any


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
        self.arguments_unknown = False
        self._shared: frozenset[str] = frozenset()  # names of leading arguments that the original takes too
        try:
            own = list(inspect.signature(called(original)).parameters.values())
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

    def forget_arguments(self) -> None:
        """Have no signature, for the original does not tell which arguments are taken."""
        self.arguments_unknown = True
        self._shared = frozenset()
        self.__dict__.pop("__signature__", None)

    def __objnet_capture__(self, visit: Callable[[Any], Any]) -> Any:
        return (self._leading, visit(self._body))

    def _required(self) -> str:
        return f"{self.__name__}({', '.join(self._leading)}, *args, **kwargs)"

    def __repr__(self) -> str:
        return f"<{self._required()} of {self._original_fn!r}>"


# -- telling things apart ----------------------------------------------------------------------------------------------


def is_module(value: Any) -> bool:
    return not isinstance(value, type) and hasattr(value, "named_modules")


def is_module_class(value: Any) -> bool:
    return isinstance(value, type) and hasattr(value, "named_modules")


def original_of(transformed: Any) -> Any:
    return getattr(transformed.init, "_original_fn", transformed.init)


def called(function: Any) -> Any:
    """What says which arguments ``function`` takes: of a Module, its forward."""
    if is_module_class(function):
        return functools.partial(function.forward, None)
    return function.forward if is_module(function) else function


def two_levels(given: Any, what: str) -> Params | None:
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


def checked_key(rng: Any, function: str, position: str, signature: str) -> Any:
    if rng is None:
        return None
    try:
        return as_key(rng)
    except ValueError as error:
        raise ValueError(
            f"{function.capitalize()} must be called with an RNG as the {position} argument, the required signature is: `"
            f"{signature}`; {error}"
        ) from None
