"""Hooks of an optimizer, and the handles that remove them, as torch's."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from objnet.core import epoch

_ids = itertools.count()


class HookHandle:
    """Removes its hook: by :meth:`remove`, or on leaving a ``with`` block."""

    def __init__(self, hooks: OrderedDict[int, Any]):
        self.id = next(_ids)
        self._hooks = hooks

    def remove(self) -> None:
        """Remove the hook; a second time does nothing."""
        if self._hooks.pop(self.id, None) is not None:
            epoch.advance()

    def __enter__(self) -> HookHandle:
        return self

    def __exit__(self, *_: Any) -> None:
        self.remove()


class OptimizerHooks:
    """Registration of hooks on an optimizer."""

    def __init__(self) -> None:
        self._hooks: dict[str, OrderedDict[int, Any]] = {}

    def _hooks_of(self, kind: str) -> list[Callable[..., Any]]:
        return list(self._hooks.get(kind, {}).values())

    def _register(self, kind: str, hook: Callable[..., Any], prepend: bool = False) -> HookHandle:
        hooks = self._hooks.setdefault(kind, OrderedDict())
        handle = HookHandle(hooks)
        hooks[handle.id] = hook
        hooks.move_to_end(handle.id, last=not prepend)
        epoch.advance()
        return handle

    def register_step_pre_hook(self, hook: Callable[..., Any]) -> HookHandle:
        """Run ``hook(optimizer, args, kwargs)`` before each step, ``args`` beginning with the optimizer.

        It returns None, or the pair (args, kwargs) to take instead. In a compiled step it is traced with it.
        """
        return self._register("step_pre", hook)

    def register_step_post_hook(self, hook: Callable[..., Any]) -> HookHandle:
        """Run ``hook(optimizer, args, kwargs)`` after each step. In a compiled step it is traced with it."""
        return self._register("step_post", hook)

    def register_state_dict_pre_hook(self, hook: Callable[..., Any], prepend: bool = False) -> HookHandle:
        """Run ``hook(optimizer)`` before :meth:`state_dict`."""
        return self._register("state_dict_pre", hook, prepend)

    def register_state_dict_post_hook(self, hook: Callable[..., Any], prepend: bool = False) -> HookHandle:
        """Run ``hook(optimizer, state_dict)`` after :meth:`state_dict`; a dict it returns replaces the result."""
        return self._register("state_dict_post", hook, prepend)

    def register_load_state_dict_pre_hook(self, hook: Callable[..., Any], prepend: bool = False) -> HookHandle:
        """Run ``hook(optimizer, state_dict)`` before :meth:`load_state_dict`; a dict it returns is loaded instead."""
        return self._register("load_state_dict_pre", hook, prepend)

    def register_load_state_dict_post_hook(self, hook: Callable[..., Any], prepend: bool = False) -> HookHandle:
        """Run ``hook(optimizer)`` after :meth:`load_state_dict`."""
        return self._register("load_state_dict_post", hook, prepend)
