"""Hooks of all modules at once (``torch.nn.modules.module.register_module_*``); each runs before a module's own."""

from __future__ import annotations

from typing import Any

from objnet.core.hooks import RemovableHandle, register
from objnet.nn.attributes import REGISTRATION
from objnet.nn.hooks import GLOBAL, GLOBAL_RUNNING, non_full_hook

__all__ = [
    "register_module_backward_hook",
    "register_module_buffer_registration_hook",
    "register_module_forward_hook",
    "register_module_forward_pre_hook",
    "register_module_full_backward_hook",
    "register_module_full_backward_pre_hook",
    "register_module_module_registration_hook",
    "register_module_parameter_registration_hook",
]


def _register(kind: str, hook: Any, **flags: bool) -> RemovableHandle:
    chosen = [GLOBAL[f"{kind}_{flag}"] for flag, given in flags.items() if given]
    return register(GLOBAL[kind], hook, flags=[GLOBAL_RUNNING, *chosen])


def register_module_forward_pre_hook(hook: Any) -> RemovableHandle:
    """Run ``hook(module, args)`` before every forward; what it returns replaces the arguments."""
    return _register("_forward_pre_hooks", hook)


def register_module_forward_hook(hook: Any, *, with_kwargs: bool = False, always_call: bool = False) -> RemovableHandle:
    """Run ``hook(module, args[, kwargs], output)`` after every forward; what it returns replaces the output."""
    return _register("_forward_hooks", hook, with_kwargs=with_kwargs, always_called=always_call)


def register_module_full_backward_pre_hook(hook: Any) -> RemovableHandle:
    """Run ``hook(module, grad_output)`` for every module; see ``Module.register_full_backward_pre_hook``."""
    return _register("_backward_pre_hooks", hook)


def register_module_full_backward_hook(hook: Any) -> RemovableHandle:
    """Run ``hook(module, grad_input, grad_output)`` for every module; see ``Module.register_full_backward_hook``."""
    return _register("_backward_hooks", hook)


def register_module_backward_hook(hook: Any) -> RemovableHandle:
    """Has no meaning here: raises TorchOnlyError."""
    raise non_full_hook("register_module_full_backward_hook")


def register_module_parameter_registration_hook(hook: Any) -> RemovableHandle:
    """Run ``hook(module, name, parameter)`` whenever a parameter is registered; what it returns is registered instead."""
    return register(REGISTRATION["_parameters"], hook)


def register_module_buffer_registration_hook(hook: Any) -> RemovableHandle:
    """Run ``hook(module, name, buffer)`` whenever a buffer is registered; what it returns is registered instead."""
    return register(REGISTRATION["_buffers"], hook)


def register_module_module_registration_hook(hook: Any) -> RemovableHandle:
    """Run ``hook(module, name, submodule)`` whenever a submodule is registered; what it returns is registered instead."""
    return register(REGISTRATION["_modules"], hook)
