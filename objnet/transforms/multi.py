"""``multi_transform``: several pure functions over the modules they share, with one ``init``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax

from objnet.core.rng import nothing_drawn
from objnet.transforms.binding import evaluate
from objnet.transforms.pure import apply_function, reached, transform_with_state
from objnet.transforms.pure_function import MultiTransformed, MultiTransformedWithState, PureFunction, is_module
from objnet.transforms.signatures import without_state


def multi_transform_with_state(function: Callable[[], tuple[Any, Any]]) -> MultiTransformedWithState:
    """Turn functions that share modules into one ``init`` and a pytree of ``apply`` (Haiku's ``multi_transform_with_state``).

    Args:
        function: without arguments; builds modules and returns ``(template, functions)``: a function that uses them all, of
            which ``init`` is made, and a pytree of functions or modules.

    Returns:
        ``init(rng, *args) -> (params, state)`` with the arguments of the template, and a pytree like ``functions`` of
        ``apply(params, state, rng, *args) -> (out, state)``. Each may use a part of ``params`` and ``state``; state it has no
        use for is returned as it is.

    Raises:
        TypeError: ``function`` does not return such a pair.
    """
    if not callable(function):
        raise TypeError(f"multi_transform takes a function, got {type(function).__name__}")
    structure = _structure(function)
    applies = [
        PureFunction(
            functools.partial(apply_function, functools.partial(_call, function, i), partial=True),
            ("params", "state", "rng"),
            function,
        )
        for i in range(structure.num_leaves)
    ]
    for apply in applies:
        apply.forget_arguments()
    init = transform_with_state(functools.partial(_template, function)).init  # its arguments are the template's
    return MultiTransformedWithState(init, jax.tree.unflatten(structure, applies))


def multi_transform(function: Callable[[], tuple[Any, Any]]) -> MultiTransformed:
    """:func:`multi_transform_with_state` for functions without state: ``init(rng, *args)`` and ``apply(params, rng, *args)``.

    Raises:
        NonEmptyStateError: from init and apply, if the functions hold state after all.
    """
    return without_state(multi_transform_with_state(function))


def _template(function: Any, *args: Any, **kwargs: Any) -> Any:
    return _pair(function)[0](*args, **kwargs)


def _call(function: Any, index: int, *args: Any, **kwargs: Any) -> Any:
    return jax.tree.leaves(_pair(function)[1], is_leaf=is_module)[index](*args, **kwargs)


def _pair(function: Any) -> tuple[Any, Any]:
    pair = function()
    if not isinstance(pair, tuple) or len(pair) != 2 or not callable(pair[0]):
        raise TypeError(
            "multi_transform takes a function that returns a pair (template, functions): a function that uses every module, "
            f"and a pytree of functions; it returned {type(pair).__name__}"
        )
    return pair


def _structure(function: Any) -> Any:
    """The structure of the pytree of functions, found without computing anything."""
    found: list[Any] = []

    def build(_: Any) -> Any:
        functions = _pair(function)[1]
        leaves, structure = jax.tree.flatten(functions, is_leaf=is_module)
        for leaf in leaves:
            if not callable(leaf):
                raise TypeError(f"multi_transform's second value is a pytree of functions, got {type(leaf).__name__} in it")
        found.append(structure)

    def run() -> None:
        evaluate(build, jax.random.PRNGKey(42), reached(function))

    if reached(function):
        with nothing_drawn():
            run()
    else:
        jax.eval_shape(run)
    return found[0]
