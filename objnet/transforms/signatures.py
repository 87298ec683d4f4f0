"""Leaving ``state`` or ``rng`` out of the signatures of pure functions, or adding an empty state."""

from __future__ import annotations

import functools
from typing import Any

import jax

from objnet.core.errors import NonEmptyStateError
from objnet.transforms.binding import stateful
from objnet.transforms.pure_function import (
    MultiTransformed,
    MultiTransformedWithState,
    Params,
    PureFunction,
    State,
    Transformed,
    TransformedWithState,
    checked_key,
    original_of,
)


def without_state(transformed: Any) -> Any:
    """Drop the empty ``state`` from both signatures, of ``transform_with_state`` or ``multi_transform_with_state``.

    Raises:
        NonEmptyStateError: from init and apply, if there is state after all.
        TypeError: if ``transformed`` is neither.
    """
    if not isinstance(transformed, (TransformedWithState, MultiTransformedWithState)):
        raise TypeError(f"without_state takes what a transform with state returned, got {type(transformed).__name__}")
    kind = Transformed if isinstance(transformed, TransformedWithState) else MultiTransformed
    init = _adapted(_stateless_init, transformed.init, ("rng",))
    return kind(init, jax.tree.map(lambda apply: _adapted(_stateless_apply, apply, ("params", "rng")), transformed.apply))


def _adapted(body: Any, function: Any, leading: tuple[str, ...]) -> PureFunction:
    """``body`` around a pure function, with other leading arguments."""
    new = PureFunction(functools.partial(body, function), leading, getattr(function, "_original_fn", function))
    if getattr(function, "arguments_unknown", False):
        new.forget_arguments()
    return new


def _stateless_init(init: Any, rng: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Params:
    params, state = init(rng, *args, **kwargs)
    _check_empty(state)
    return params


def _stateless_apply(apply: Any, params: Any, rng: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    key = checked_key(rng, "apply", "second", "apply(params, rng, *args, **kwargs)")
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
    original = original_of(transformed)
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
    """Drop ``rng`` from ``apply``, which then runs with None; of anything that ``transform`` and its family return.

    Raises:
        TypeError: if ``transformed`` is not what a transform returned.
    """
    if not isinstance(transformed, (Transformed, TransformedWithState, MultiTransformed, MultiTransformedWithState)):
        raise TypeError(f"without_apply_rng takes what a transform returned, got {type(transformed).__name__}")
    with_state = isinstance(transformed, (TransformedWithState, MultiTransformedWithState))
    leading = ("params", "state") if with_state else ("params",)
    return transformed._replace(apply=jax.tree.map(lambda apply: _adapted(_rngless_apply, apply, leading), transformed.apply))


def _rngless_apply(apply: Any, *inputs: Any) -> Any:
    *given, args, kwargs = inputs
    return apply(*given, None, *args, **kwargs)
