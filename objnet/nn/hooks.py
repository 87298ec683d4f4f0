"""Forward hooks and the handles that remove them."""

from __future__ import annotations

import itertools
import warnings
import weakref
from collections import OrderedDict
from typing import Any

import jax.numpy as jnp

from objnet.core import epoch, errors, frame, scope

_ids = itertools.count()


class RemovableHandle:
    """Removes its hook: by :meth:`remove`, or on leaving a ``with`` block (torch's class of that name)."""

    def __init__(self, hooks: OrderedDict[int, Any]):
        self.id = next(_ids)
        self._hooks = weakref.ref(_HookDict.of(hooks))

    def remove(self) -> None:
        """Remove the hook; a second time does nothing."""
        hooks = self._hooks()
        if hooks is not None and self.id in hooks:
            del hooks[self.id]
            epoch.advance()

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *_: Any) -> None:
        self.remove()


class _HookDict(OrderedDict[int, Any]):
    """An ordered dict that can be referenced weakly."""

    @staticmethod
    def of(hooks: OrderedDict[int, Any]) -> _HookDict:
        assert isinstance(hooks, _HookDict)
        return hooks


HOOKS = (
    "_forward_pre_hooks",
    "_forward_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


def new_hooks() -> dict[str, _HookDict]:
    """Empty dicts for every kind of hook."""
    return {kind: _HookDict() for kind in HOOKS}


class Hooks:
    """Registration of hooks, and running the forward ones."""

    __slots__ = ()

    def _register(self, kind: str, hook: Any, prepend: bool = False) -> RemovableHandle:
        hooks = self.__dict__[kind]
        handle = RemovableHandle(hooks)
        hooks[handle.id] = hook
        if prepend:
            hooks.move_to_end(handle.id, last=False)
        epoch.advance()
        return handle

    def register_forward_pre_hook(self, hook: Any, *, prepend: bool = False, with_kwargs: bool = False) -> RemovableHandle:
        """Run ``hook(module, args[, kwargs])`` before forward; what it returns replaces the arguments."""
        return self._register("_forward_pre_hooks", (hook, with_kwargs, False), prepend)

    def register_forward_hook(
        self, hook: Any, *, prepend: bool = False, with_kwargs: bool = False, always_call: bool = False
    ) -> RemovableHandle:
        """Run ``hook(module, args[, kwargs], output)`` after forward; what it returns replaces the output.

        With ``always_call`` it runs even if forward (then with None) or a hook before it raised.
        """
        return self._register("_forward_hooks", (hook, with_kwargs, always_call), prepend)

    def register_full_backward_hook(self, hook: Any, prepend: bool = False) -> RemovableHandle:
        """Not there yet: raises NotImplementedError."""
        raise NotImplementedError(
            "backward hooks are not supported yet: take gradients with objnet.value_and_grad or objnet.backward and use them there"
        )

    register_backward_hook = register_full_backward_hook
    register_full_backward_pre_hook = register_full_backward_hook

    def _call_with_hooks(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        called = set()
        output = None
        try:
            for hook, with_kwargs, _ in list(self._forward_pre_hooks.values()):  # type: ignore[attr-defined]
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
            output = self.forward(*args, **kwargs)  # type: ignore[attr-defined]
            for key, (hook, with_kwargs, _) in list(self._forward_hooks.items()):  # type: ignore[attr-defined]
                called.add(key)
                result = _run(self, hook, self, args, kwargs, output) if with_kwargs else _run(self, hook, self, args, output)
                if result is not None:
                    output = result
            return output
        except Exception:
            for key, (hook, with_kwargs, always) in list(self._forward_hooks.items()):  # type: ignore[attr-defined]
                if always and key not in called:
                    try:
                        result = _run(self, hook, *((self, args, kwargs, output) if with_kwargs else (self, args, output)))
                    except Exception as second:  # the first error is the one to see
                        message = f"a forward hook with always_call=True raised {second!r}, silenced because forward had failed"
                        warnings.warn(message, UserWarning, stacklevel=3)
                    else:
                        output = output if result is None else result
            raise


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
