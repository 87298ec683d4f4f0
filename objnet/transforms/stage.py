"""``eval_shape``, ``make_jaxpr``, ``checkify``: looking at a function instead of running it, and checks inside it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import checkify as _checkify

from objnet.core import frame
from objnet.core.once import Written, once
from objnet.transforms.arguments import is_root
from objnet.transforms.threaded import arrays

user_checks, nan_checks, index_checks, div_checks, float_checks, automatic_checks, all_checks = (
    getattr(_checkify, name)
    for name in ("user_checks", "nan_checks", "index_checks", "div_checks", "float_checks", "automatic_checks", "all_checks")
)


class _Arguments:
    """Arguments taken apart: what has a shape and a dtype, or is a number, is traced; all else is part of the function."""

    def __init__(self, args: Any, kwargs: Any):
        self._leaves, self._structure = jax.tree.flatten((args, kwargs), is_leaf=is_root)
        self._traced = [i for i, leaf in enumerate(self._leaves) if _traceable(leaf)]
        self.traced = [self._leaves[i] for i in self._traced]

    def again(self, values: Any) -> Any:
        leaves = list(self._leaves)
        for i, value in zip(self._traced, values, strict=True):
            leaves[i] = value
        return jax.tree.unflatten(self._structure, leaves)


def _traceable(leaf: Any) -> bool:
    if is_root(leaf) or isinstance(leaf, bool):
        return False
    return isinstance(leaf, (int, float, complex, np.generic)) or (hasattr(leaf, "shape") and hasattr(leaf, "dtype"))


def _look(transform: Callable[[Any], Any], function: Any, args: Any, kwargs: Any) -> Any:
    """``transform`` of ``function`` as a function of arrays, from which nothing that it writes gets out."""
    given = _Arguments(args, kwargs)

    def attempt(inner: frame.Frame, token: bool) -> Any:
        def pure(values: Any) -> Any:
            with inner.open(token):
                again, named = given.again(values)
                result = arrays(function(*again, **named))
                inner.rollback()
                inner.close()
            return result

        return transform(pure)(given.traced)

    return once(attempt, _Looking)


class _Looking(frame.Frame):
    """The frame of a function that is traced and never run."""

    repeats = True  # nothing is drawn on the host


def eval_shape(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The shapes and dtypes of ``function(*args, **kwargs)``, without computing it (``jax.eval_shape``).

    Nothing that it writes is kept and no random number is consumed.

    Args:
        function: may read and write any module; a module itself is one.
        args, kwargs: arrays or ``jax.ShapeDtypeStruct``; other objects are passed as they are.

    Returns:
        ``jax.ShapeDtypeStruct`` in the structure of the result.
    """
    return _look(lambda pure: functools.partial(jax.eval_shape, pure), function, args, kwargs)


def make_jaxpr(function: Any = None, *, axis_env: Any = None, return_shape: bool = False) -> Any:
    """A function that gives the jaxpr of ``function`` (``jax.make_jaxpr``): its result only, with today's state as constants.

    Nothing that it writes is kept. Bools, strings, None, modules and other objects among the arguments are part of the jaxpr.
    """
    if function is None:
        return functools.partial(make_jaxpr, axis_env=axis_env, return_shape=return_shape)

    @functools.wraps(function, updated=())
    def maker(*args: Any, **kwargs: Any) -> Any:
        return _look(lambda pure: jax.make_jaxpr(pure, axis_env=axis_env, return_shape=return_shape), function, args, kwargs)

    return maker


def checkify(function: Any = None, errors: Any = user_checks) -> Any:
    """A function that gives the pair (error, result) of ``function`` (``jax.experimental.checkify``); ``error.throw()`` raises.

    What the function writes is written, also where a check failed: under ``objnet.jit`` nothing can stop in the middle.

    Args:
        function: may read and write any module, and call ``checkify.check``. Left out, a decorator is returned.
        errors: which errors to look for: ``user_checks``, ``nan_checks``, ``index_checks``, ... of ``jax.experimental.checkify``.
    """
    if function is None:
        return functools.partial(checkify, errors=errors)

    @functools.wraps(function, updated=())
    def checked(*args: Any, **kwargs: Any) -> Any:
        given = _Arguments(args, kwargs)

        def attempt(inner: frame.Frame, token: bool) -> Any:
            written = Written()

            def pure(values: Any) -> Any:
                with inner.open(token):
                    again, named = given.again(values)
                    return arrays(function(*again, **named)), written.pack(inner)

            error, (result, states) = _checkify.checkify(pure, errors=errors)(given.traced)
            written.hand_over(inner, states)
            return error, result

        return once(attempt)

    return checked
