"""Dicts of hooks and the handles that remove them, for modules, parameters and optimizers alike."""

from __future__ import annotations

import functools
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import jax

from objnet.core import epoch
from objnet.core.tensor import TensorMethods


class HookDict(OrderedDict[int, Any]):
    """Hooks by the id of their handle, in the order they run; compiled calls notice whatever changes it."""

    def __objnet_capture__(self, visit: Callable[[Any], Any]) -> Any:
        return tuple(visit(hook) for hook in self.values())  # not the ids: an equal model has others


def _noticed(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def change(self: HookDict, *args: Any, **kwargs: Any) -> Any:
        epoch.advance()
        return method(self, *args, **kwargs)

    return change


for _name in ("__setitem__", "__delitem__", "pop", "popitem", "clear", "move_to_end"):
    setattr(HookDict, _name, _noticed(getattr(OrderedDict, _name)))


class RemovableHandle:
    """Removes its hook: by :meth:`remove`, or on leaving a ``with`` block (torch's class of that name).

    Args:
        hooks_dict: the dict the hook is in, or is about to be put in, under :attr:`id`.
        extra_dict: a dict, or a list of dicts, that may have an entry of that id too.
    """

    id: int
    next_id: int = 0

    def __init__(self, hooks_dict: Any, *, extra_dict: Any = None):
        self.hooks_dict_ref: Callable[[], Any] = weakref.ref(hooks_dict)
        self.id = RemovableHandle.next_id
        RemovableHandle.next_id += 1
        extra = extra_dict if isinstance(extra_dict, list) else [extra_dict] if isinstance(extra_dict, dict) else []
        self.extra_dict_ref = tuple(weakref.ref(d) for d in extra)

    def remove(self) -> None:
        """Remove the hook; a second time does nothing."""
        refs: tuple[Callable[[], Any], ...] = (self.hooks_dict_ref, *self.extra_dict_ref)
        for ref in refs:
            hooks = ref()
            if hooks is not None and self.id in hooks:
                del hooks[self.id]

    def __getstate__(self) -> tuple[Any, int, tuple[Any, ...]]:
        return self.hooks_dict_ref(), self.id, tuple(ref() for ref in self.extra_dict_ref)

    def __setstate__(self, state: tuple[Any, int, tuple[Any, ...]]) -> None:
        hooks, self.id, extra = state
        self.hooks_dict_ref = weakref.ref(HookDict() if hooks is None else hooks)  # of nothing, if the dict is gone
        self.extra_dict_ref = tuple(weakref.ref(d) for d in extra if d is not None)
        RemovableHandle.next_id = max(RemovableHandle.next_id, self.id + 1)

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *_: Any) -> None:
        self.remove()


def register(hooks: HookDict, hook: Any, *, prepend: bool = False, flags: list[HookDict] | None = None) -> RemovableHandle:
    """Add ``hook`` to ``hooks``, and True under its id to each of ``flags``.

    Args:
        prepend: whether it runs before those already there.
    """
    handle = RemovableHandle(hooks, extra_dict=flags)
    hooks[handle.id] = hook
    for flag in flags or ():
        flag[handle.id] = True
    if prepend:
        hooks.move_to_end(handle.id, last=False)
    return handle


# -- gradient hooks ----------------------------------------------------------------------------------------------------


def run_gradient_hooks(hooks: HookDict | None, gradient: jax.Array) -> jax.Array:
    """``gradient``, or what the hooks, called one after the other, returned in its place."""
    for hook in list(hooks.values()) if hooks else ():
        result = hook(gradient)
        if result is not None:
            gradient = checked(hook, result, gradient)
    return gradient


def with_gradient_hooks(hooks: HookDict | None, value: jax.Array) -> jax.Array:
    """``value``, whose gradient in any jax transform goes through the hooks."""
    if not hooks:
        return value

    @jax.custom_vjp
    def identity(value: jax.Array) -> jax.Array:
        return value

    identity.defvjp(lambda value: (value, None), lambda _, gradient: (run_gradient_hooks(hooks, gradient),))
    return identity(value)


def checked(hook: Any, new: Any, kind: Any) -> Any:
    """A gradient that a hook gave, where one of this shape and dtype belongs; None stands for none.

    Raises:
        TypeError: it is no array. RuntimeError: it has another shape or dtype.
    """
    if new is None or kind is None:
        return None
    if isinstance(new, TensorMethods):
        new = new._read()
    name = getattr(hook, "__name__", type(hook).__name__)
    if not isinstance(new, jax.Array):
        raise TypeError(f"expected an array, but hook {name!r} returned {type(new).__name__!r}")
    if new.shape != kind.shape:
        raise RuntimeError(f"hook {name!r} has changed the size of value: the gradient is {kind.shape}, it returned {new.shape}")
    if new.dtype != kind.dtype:
        raise RuntimeError(f"hook {name!r} has changed the type of value (was {kind.dtype} got {new.dtype})")
    return new
