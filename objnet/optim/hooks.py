"""Hooks of an optimizer, as torch's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from objnet.core.hooks import HookDict, RemovableHandle, register


class OptimizerHooks:
    """Registration of hooks on an optimizer."""

    def __init__(self) -> None:
        self._hooks: dict[str, HookDict] = {}

    def _hooks_of(self, kind: str) -> list[Callable[..., Any]]:
        return list(self._hooks.get(kind, {}).values())

    def _replaced(self, kind: str, state_dict: Any) -> Any:
        """A state dict, or what the hooks of ``kind`` gave in its place."""
        for hook in self._hooks_of(kind):
            changed = hook(self, state_dict)
            state_dict = state_dict if changed is None else changed
        return state_dict

    def _register(self, kind: str, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        return register(self._hooks.setdefault(kind, HookDict()), hook, prepend=prepend)

    def register_step_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Run ``hook(optimizer, args, kwargs)`` before each step, ``args`` beginning with the optimizer.

        It returns None, or the pair (args, kwargs) to take instead. In a compiled step it is traced with it.
        """
        return self._register("step_pre", hook)

    def register_step_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Run ``hook(optimizer, args, kwargs)`` after each step. In a compiled step it is traced with it."""
        return self._register("step_post", hook)

    def register_state_dict_pre_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Run ``hook(optimizer)`` before :meth:`state_dict`."""
        return self._register("state_dict_pre", hook, prepend)

    def register_state_dict_post_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Run ``hook(optimizer, state_dict)`` after :meth:`state_dict`; a dict it returns replaces the result."""
        return self._register("state_dict_post", hook, prepend)

    def register_load_state_dict_pre_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Run ``hook(optimizer, state_dict)`` before :meth:`load_state_dict`; a dict it returns is loaded instead."""
        return self._register("load_state_dict_pre", hook, prepend)

    def register_load_state_dict_post_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Run ``hook(optimizer)`` after :meth:`load_state_dict`."""
        return self._register("load_state_dict_post", hook, prepend)
