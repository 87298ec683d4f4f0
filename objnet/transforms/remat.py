"""``checkpoint`` (``remat``): a function whose intermediate values are computed again in the backward pass."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax

from objnet.core import frame
from objnet.core.once import Written, once
from objnet.transforms.arguments import Static, join, split
from objnet.transforms.threaded import arrays


def checkpoint(
    function: Any = None,
    *,
    prevent_cse: bool = True,
    policy: Callable[..., bool] | None = None,
    static_argnums: int | tuple[int, ...] = (),
) -> Any:
    """``function`` with its intermediate values computed again in the backward pass (``jax.checkpoint``).

    State is written and random keys are drawn once: the backward pass repeats the arithmetic, not the Python.

    Args:
        function: may read and write any module; a module itself is one. Left out, a decorator is returned.
        prevent_cse: as in jax; False inside a scan, where XLA cannot undo the saving.
        policy: which values to keep, one of ``jax.checkpoint_policies``.
        static_argnums: arguments whose numbers are part of the program. Bools, strings, None and modules need not be named.
    """
    if function is None:
        return functools.partial(checkpoint, prevent_cse=prevent_cse, policy=policy, static_argnums=static_argnums)
    static = (static_argnums,) if isinstance(static_argnums, int) else tuple(static_argnums)

    @functools.wraps(function, updated=())
    def rematerialised(*args: Any, **kwargs: Any) -> Any:
        named = {n % len(args) for n in static} if args else ()
        dynamic, _, rebuild = split(tuple(Static(a) if i in named else a for i, a in enumerate(args)), kwargs, False)

        def attempt(inner: frame.Frame, token: bool) -> Any:
            written = Written()

            def pure(values: Any) -> Any:
                with inner.open(token):
                    again, named_again = join(rebuild, values)
                    return arrays(function(*again, **named_again)), written.pack(inner)

            result, states = jax.checkpoint(pure, prevent_cse=prevent_cse, policy=policy)(dynamic)
            written.hand_over(inner, states)
            return result

        return once(attempt)

    return rematerialised


remat = checkpoint
