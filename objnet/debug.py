"""Finding where a NaN first appears: :class:`nans`."""

from __future__ import annotations

import contextlib
import functools
import io
import traceback
from typing import Any

import jax
import jax.numpy as jnp

from objnet.core import errors, frame, scope
from objnet.nn.global_hooks import register_module_forward_hook, register_module_forward_pre_hook
from objnet.nn.running import described, running
from objnet.transforms import nonfinite

__all__ = ["nans"]


class nans(contextlib.ContextDecorator):
    """Raise where a NaN first appears, naming the module path (torch's ``detect_anomaly``, for forwards too).

    While it is on, every module's output is checked, innermost modules first, in eager code, in gradients and in compiled
    functions, whose results and written state are checked as well. State stays as it was before the failing compiled call.
    Compiled functions have a program of their own for it, without donation; plain ``jax.jit`` programs traced before know
    nothing of it. As a decorator it is on during each call.

    All runs of a loop (``scan``, ``nn.ScanSequential``, ...) are looked at together: what is named is the first module along the loop's
    body that gave a NaN in any run, which a later run may have got from an earlier one's output.

    Args:
        infs: whether infinities count too; masks of ``-inf`` are legitimate in many models.
        backward: whether gradients with respect to every module's inputs and outputs are checked as well. Forward-mode
            derivatives (``jax.jvp``) are refused by jax meanwhile.

    Raises:
        NonFiniteError: naming the module, and in eager code the operation and the line.
        CompiledCallError: entered inside a transform.
    """

    def __init__(self, *, infs: bool = False, backward: bool = False):
        self._infs = infs
        self._backward = backward

    def _recreate_cm(self) -> nans:
        return nans(infs=self._infs, backward=self._backward)

    def __enter__(self) -> nans:
        if frame.current() is not None or frame.trace_state() != frame.CLEAN:
            raise errors.CompiledCallError(
                f"objnet.debug.nans was entered inside a transform{errors.where()}: put it around the call of the transformed function."
            )
        self._outer = nonfinite.watching
        nonfinite.watching = nonfinite.Watcher(self._infs)
        options = (self._infs, self._backward)  # a part of every program's key
        self._handles = [register_module_forward_hook(functools.partial(_check_output, options), with_kwargs=True)]
        if self._backward:
            self._handles.append(register_module_forward_pre_hook(_watch_inputs))
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        watcher = nonfinite.watching
        nonfinite.watching = self._outer
        for handle in self._handles:
            handle.remove()
        if kind is None and watcher is not None:
            nonfinite.watching = watcher
            try:
                watcher.settle()
            finally:
                nonfinite.watching = self._outer


def _check_output(options: tuple[bool, bool], module: Any, args: Any, kwargs: Any, output: Any) -> Any:
    watcher = nonfinite.watching
    if watcher is None:
        return None
    flag = watcher.holds(output)
    stack = [*running(), module] if module not in running() else running()
    message = f"{watcher.what} first appeared in the output of {described(stack)}"
    if isinstance(flag, jax.core.Tracer):
        watcher.check_in_program(flag, message)
    if not frame.staged():
        watcher.settle()
        if not isinstance(flag, jax.core.Tracer) and flag:
            raise errors.NonFiniteError(message + _cause(watcher, module, args, kwargs))
    return _watched(output, f"the gradient with respect to the output of {described(stack)}") if options[1] else None


def _watch_inputs(module: Any, args: Any) -> Any:
    return tuple(_watched(a, f"the gradient with respect to the input of {described(running())}") for a in args)


def _watched(value: Any, what: str) -> Any:
    """``value``, whose gradient is checked on its way back."""

    @jax.custom_vjp
    def identity(x: jax.Array) -> jax.Array:
        return x

    def check(_: None, gradient: jax.Array) -> tuple[jax.Array]:
        watcher = nonfinite.watching
        if watcher is not None:
            flag = watcher.holds(gradient)
            message = f"{watcher.what} first appeared in {what}"
            if isinstance(flag, jax.core.Tracer):
                watcher.check_in_program(flag, message)
            elif flag:
                raise errors.NonFiniteError(message)
        return (gradient,)

    identity.defvjp(lambda x: (x, None), check)
    return jax.tree.map(lambda x: identity(x) if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.inexact) else x, value)


def _cause(watcher: nonfinite.Watcher, module: Any, args: Any, kwargs: Any) -> str:
    """What more eager code can tell: a bad input, a bad parameter, or the operation and the line."""
    if _concretely(watcher, (args, kwargs)):
        return f": its input holds one already{errors.where()}"
    for registry in (module._parameters, module._buffers, module._arrays):
        for name, cell in registry.items():
            if cell is not None and _concretely(watcher, cell._peek()):
                return f": its {type(cell).__name__.lower()} {name!r} holds one{errors.where()}"
    return _operation(watcher, module, args, kwargs) or errors.where()


def _concretely(watcher: nonfinite.Watcher, value: Any) -> bool:
    arrays = [x for x in jax.tree.leaves(value) if isinstance(x, jax.Array)]
    flag = watcher.holds(arrays)
    return not isinstance(flag, jax.core.Tracer) and bool(flag)


def _operation(watcher: nonfinite.Watcher, module: Any, args: Any, kwargs: Any) -> str:
    """The operation and the line, found by running the forward once more with jax's own checks on, and undoing it."""
    inner = frame.Frame()
    outer, nonfinite.watching = nonfinite.watching, None
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            inner.open(),
            jax.debug_nans(True),
            jax.debug_infs(watcher.infs),
            scope.entered(scope.FORWARD, module),
        ):
            try:
                module.forward(*args, **kwargs)
            except FloatingPointError as error:
                return _where(error)
            except Exception:
                return ""
            finally:
                inner.rollback()
    finally:
        inner.close()
        nonfinite.watching = outer
    return ""


def _where(error: FloatingPointError) -> str:
    name = str(error).partition("encountered in ")[2].partition(".")[0].split("\n")[0]
    lines = [f for f in traceback.extract_tb(error.__traceback__) if not errors.is_library(f.filename)]
    at = f" at {lines[-1].filename}:{lines[-1].lineno}" if lines and not lines[-1].filename == __file__ else ""
    return f", by {name or 'an operation'}{at}"
