"""Hooks of modules: registration, and running the forward ones.

A module's own hooks stand in its dicts, those for all modules in :data:`GLOBAL`, which run first. Backward hooks are
identities around a forward (``nn/backward_hooks.py``).
"""

from __future__ import annotations

import warnings
from typing import Any

import jax.numpy as jnp

from objnet.core import errors, frame, scope
from objnet.core.capture import Identity
from objnet.core.hooks import HookDict, RemovableHandle, register
from objnet.nn.backward_hooks import BackwardHooks
from objnet.nn.torch_only import refuse

# What a program is made of.
_RUNNING = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_FLAGS = ("_forward_pre_hooks_with_kwargs", "_forward_hooks_with_kwargs", "_forward_hooks_always_called")
HOOKS = (
    *_RUNNING,
    *_FLAGS,
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)
GLOBAL = {kind: HookDict() for kind in (*_RUNNING, *_FLAGS)}
GLOBAL_RUNNING = HookDict()  # the id of every hook in GLOBAL, so that a call looks in one place


def new_hooks() -> dict[str, HookDict]:
    """Empty dicts for every kind of hook."""
    return {kind: HookDict() for kind in HOOKS}


class Hooks:
    """Registration of hooks, and running the forward ones."""

    __slots__ = ()

    def _register(self, kind: str, hook: Any, prepend: bool = False, **flags: bool) -> RemovableHandle:
        chosen = [self.__dict__[f"{kind}_{flag}"] for flag, given in flags.items() if given]
        return register(self.__dict__[kind], hook, prepend=prepend, flags=chosen)

    def register_forward_pre_hook(self, hook: Any, *, prepend: bool = False, with_kwargs: bool = False) -> RemovableHandle:
        """Run ``hook(module, args[, kwargs])`` before forward; what it returns replaces the arguments."""
        return self._register("_forward_pre_hooks", hook, prepend, with_kwargs=with_kwargs)

    def register_forward_hook(
        self, hook: Any, *, prepend: bool = False, with_kwargs: bool = False, always_call: bool = False
    ) -> RemovableHandle:
        """Run ``hook(module, args[, kwargs], output)`` after forward; what it returns replaces the output.

        With ``always_call`` it runs even if forward (then with None) or a hook before it raised.
        """
        return self._register("_forward_hooks", hook, prepend, with_kwargs=with_kwargs, always_called=always_call)

    def register_full_backward_pre_hook(self, hook: Any, prepend: bool = False) -> RemovableHandle:
        """Run ``hook(module, grad_output)`` when the gradients of the outputs are there; a tuple it returns replaces them.

        See :meth:`register_full_backward_hook`.
        """
        return self._register("_backward_pre_hooks", hook, prepend)

    def register_full_backward_hook(self, hook: Any, prepend: bool = False) -> RemovableHandle:
        """Run ``hook(module, grad_input, grad_output)`` when the gradients of the inputs are there (torch).

        Both are tuples along the positional inputs and the outputs, None where there is no array or no gradient. A tuple the
        hook returns replaces ``grad_input``. Eager gradients give it values, which it may keep. In a compiled function, and
        under ``vmap``, ``scan`` and the like, it gets traced arrays and runs when the backward pass is traced. Where no
        input is differentiated it runs once the outputs' gradients are there, with None for every input. While a module has
        backward hooks, forward-mode derivatives of it (``jax.jvp``) are refused by jax.
        """
        return self._register("_backward_hooks", hook, prepend)

    def register_backward_hook(self, hook: Any) -> RemovableHandle:
        """Has no meaning here: raises TorchOnlyError."""
        raise non_full_hook("register_full_backward_hook")

    # -- running -------------------------------------------------------------------------------------------------------

    def _captured_hooks(self, visit: Any) -> Any:
        """What a program bakes in of the hooks; see ``core.capture``."""
        kinds = [kind for kind in _RUNNING if GLOBAL[kind] or self.__dict__[kind]]
        if not kinds:
            return ()
        found = tuple((kind, tuple((visit(hook), *flags) for hook, *flags, _ in _hooks(self, kind))) for kind in kinds)
        # A backward hook is handed this module itself when a program is differentiated later: no other one may share it.
        return found, Identity(self) if kinds[-1].startswith("_backward") else None

    def _call_with_hooks(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        called = set()
        output = None
        try:
            for hook, with_kwargs, _, _ in _hooks(self, "_forward_pre_hooks"):
                if with_kwargs:
                    result = _run(self, hook, self, args, kwargs)
                    if result is not None:
                        if not (isinstance(result, tuple) and len(result) == 2):
                            raise RuntimeError(
                                f"forward pre-hook must return None or a tuple of (new_args, new_kwargs), but got {result}."
                            )
                        args, kwargs = result
                else:
                    result = _run(self, hook, self, args)
                    if result is not None:
                        args = result if isinstance(result, tuple) else (result,)
            before = [hook for hook, *_ in _hooks(self, "_backward_pre_hooks")]
            after = [hook for hook, *_ in _hooks(self, "_backward_hooks")]
            backward = BackwardHooks(self, before, after) if before or after else None
            if backward is not None:
                args = backward.watch_inputs(args)
            output = self.forward(*args, **kwargs)  # type: ignore[attr-defined]
            for hook, with_kwargs, _, key in _hooks(self, "_forward_hooks"):
                called.add(key)
                result = _run(self, hook, self, args, kwargs, output) if with_kwargs else _run(self, hook, self, args, output)
                if result is not None:
                    output = result
            return output if backward is None else backward.watch_outputs(output)
        except Exception:
            for hook, with_kwargs, always, key in _hooks(self, "_forward_hooks"):
                if always and key not in called:
                    try:
                        result = _run(self, hook, *((self, args, kwargs, output) if with_kwargs else (self, args, output)))
                    except Exception as second:  # the first error is the one to see
                        message = f"a forward hook with always_call=True raised {second!r}, silenced because forward had failed"
                        warnings.warn(message, UserWarning, stacklevel=3)
                    else:
                        output = output if result is None else result
            raise


def non_full_hook(instead: str) -> errors.TorchOnlyError:
    """The error of a hook that is not "full"."""
    return refuse(
        "backward hook that is not full",
        f"it gets the gradients of a module's last operation, which jax does not record; use {instead} instead, whose hook gets the "
        "gradients of the module's inputs and outputs",
    )


def _hooks(module: Any, kind: str) -> list[tuple[Any, bool, bool, int]]:
    """(hook, with kwargs, always called, id), the global ones first."""
    return [
        (hook, i in space.get(f"{kind}_with_kwargs", ()), i in space.get(f"{kind}_always_called", ()), i)
        for space in (GLOBAL, module.__dict__)
        for i, hook in space[kind].items()
    ]


def _run(module: Any, hook: Any, *args: Any) -> Any:
    """Call a hook in its own scope, where ``module.weight`` is the Parameter, as in a script."""
    reset = scope.enter(scope.HOOK, module)
    try:
        return hook(*args)
    finally:
        scope.reset(reset)


class _LeftoverBackward:
    """What ``loss.backward`` finds on a jax array: still an AttributeError, but one that says what to write."""

    def __get__(self, array: Any, owner: Any = None) -> Any:
        raise errors.leftover_backward()


_installed = False


def install_backward_error() -> None:
    """Make a leftover ``loss.backward()`` explain itself; ``hasattr(array, "backward")`` stays False."""
    global _installed
    if _installed or frame.trace_state() != frame.CLEAN:
        return
    _installed = True
    kind = type(jnp.zeros(()))
    if "backward" not in vars(kind):
        kind.backward = _LeftoverBackward()  # type: ignore[attr-defined]
