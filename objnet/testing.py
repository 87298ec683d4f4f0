"""Running the body of a test as a pure function (Haiku's ``testing``)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax

from objnet.transforms.pure import transform_with_state

__all__ = ["transform_and_run"]


def transform_and_run(
    function: Any = None,
    seed: int | None = 42,
    run_apply: bool = True,
    jax_transform: Callable[[Any], Any] | None = None,
) -> Any:
    """``function`` as a callable that runs its ``init``, and then its ``apply`` on what that gave (Haiku's).

    Args:
        function: what :func:`objnet.transform_with_state` takes; left out, a decorator is returned.
        seed: of the keys, ``PRNGKey(seed)`` for init and ``PRNGKey(seed + 1)`` for apply; None for no key.
        run_apply: whether ``apply`` runs and gives the result, or else ``init`` alone, with None for a result.
        jax_transform: such as ``jax.jit``, put around ``init`` and ``apply``.
    """
    if function is None:
        return functools.partial(transform_and_run, seed=seed, run_apply=run_apply, jax_transform=jax_transform)

    @functools.wraps(function, updated=())
    def run(*args: Any, **kwargs: Any) -> Any:
        net = transform_with_state(lambda: function(*args, **kwargs))
        wrap = jax_transform or (lambda f: f)
        keys = (None, None) if seed is None else (jax.random.PRNGKey(seed), jax.random.PRNGKey(seed + 1))
        params, state = wrap(net.init)(keys[0])
        return wrap(net.apply)(params, state, keys[1])[0] if run_apply else None

    return run
