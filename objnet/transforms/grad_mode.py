"""``no_grad`` and its relatives: code whose results are constants to every gradient around it."""

from __future__ import annotations

import functools
from contextvars import ContextVar
from typing import Any

import jax
from jax import lax

from objnet.core import errors, frame
from objnet.core.once import once
from objnet.transforms.autodiff import GradFrame

_enabled: ContextVar[bool] = ContextVar("objnet_grad_enabled", default=True)


def is_grad_enabled() -> bool:
    """Whether the innermost grad-mode context, if any, enables gradients (torch's function of that name)."""
    return _enabled.get()


def _in_gradient() -> bool:
    state: Any = frame.trace_state()
    inner = frame.current()
    while inner is not None:
        if isinstance(inner, GradFrame) or (state is not None and state != inner.state):
            return True  # a plain jax transform lies between, which may well be a gradient
        state = None if inner.closed else inner.outside
        inner = inner.parent
    return state is not None and state != frame.CLEAN


def _stop(tree: Any) -> Any:
    def stop(leaf: Any) -> Any:
        return lax.stop_gradient(leaf) if isinstance(leaf, jax.Array) else leaf

    return jax.tree.map(stop, tree, is_leaf=lambda x: hasattr(type(x), "__objnet_capture__"))


class set_grad_enabled:
    """Context manager or decorator that says whether gradients flow (torch's class of that name).

    Args:
        mode: False for no gradient.

    Raises:
        NoGradError: on entering it as a context with ``mode=False`` inside a gradient, where it could not stop raw ``jnp``
            operations. The decorator is exact everywhere.
    """

    def __init__(self, mode: bool):
        self.mode = bool(mode)
        self._resets: list[Any] = []

    def __enter__(self) -> None:
        if not self.mode and _in_gradient():
            raise errors.NoGradError(
                f"with no_grad() was entered inside a gradient{errors.where()}, where it cannot stop raw jnp operations: wrap the "
                "values in jax.lax.stop_gradient(...), or put the code in a function decorated with @objnet.no_grad()."
            )
        self._resets.append(_enabled.set(self.mode))

    def __exit__(self, *_: Any) -> None:
        _enabled.reset(self._resets.pop())

    def __call__(self, function: Any) -> Any:
        mode = self.mode

        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            reset = _enabled.set(mode)
            try:
                return function(*args, **kwargs) if mode else _run_stopped(function, args, kwargs)
            finally:
                _enabled.reset(reset)

        return run


def _run_stopped(function: Any, args: Any, kwargs: Any) -> Any:
    """Run ``function`` so that nothing it reads, takes, writes or returns carries a gradient."""
    if frame.current() is None:
        return _stop(function(*_stop(args), **_stop(kwargs)))

    def attempt(inner: frame.Frame, token: bool) -> Any:
        with inner.open(token):
            result = _stop(function(*_stop(args), **_stop(kwargs)))
            outcome = {v: _stop(values) for v, values in inner.outcome().items()}
        inner.commit(outcome)
        return result

    return once(attempt, lambda: frame.Frame(no_grad=True))


class no_grad(set_grad_enabled):
    """No gradient: ``with no_grad():`` outside gradients, ``@no_grad()`` or ``@no_grad`` on a function anywhere."""

    def __new__(cls, function: Any = None) -> Any:
        return super().__new__(cls) if function is None else super().__new__(cls).__call__(function, False)

    def __init__(self, function: Any = None):
        super().__init__(False)

    def __call__(self, function: Any, mode: bool = False) -> Any:
        return set_grad_enabled.__call__(set_grad_enabled(mode), function)


class enable_grad(no_grad):
    """Gradients flow again; inside ``@no_grad`` values already cut off stay cut off."""

    def __new__(cls, function: Any = None) -> Any:
        return object.__new__(cls) if function is None else set_grad_enabled(True)(function)

    def __init__(self, function: Any = None):
        set_grad_enabled.__init__(self, True)

    def __call__(self, function: Any, mode: bool = True) -> Any:
        return set_grad_enabled(True)(function)


inference_mode = no_grad
