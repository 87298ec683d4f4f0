"""Weight normalisation by a hook before forward, torch's older form of ``parametrizations.weight_norm``."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import jax

from objnet.core import scope
from objnet.core.arrays import as_array
from objnet.core.variable import Parameter
from objnet.nn.module import Module
from objnet.nn.utils._normalised import norm_except, weight_normalised

__all__ = ["WeightNorm", "remove_weight_norm", "weight_norm"]

_M = TypeVar("_M", bound=Module)


class WeightNorm:
    """The hook: it computes the weight ``name`` from ``name_g`` and ``name_v`` before each forward.

    Args:
        dim: the dimension along which there is one norm for each index; -1 or None takes one for all.
    """

    def __init__(self, name: str, dim: int | None) -> None:
        self.name = name
        self.dim = -1 if dim is None else dim

    def compute_weight(self, module: Module) -> jax.Array:
        """The weight that magnitude and direction give now."""
        g, v = (as_array(getattr(module, self.name + suffix)) for suffix in ("_g", "_v"))
        return weight_normalised(v, g, self.dim)

    @staticmethod
    def apply(module: Module, name: str, dim: int | None) -> WeightNorm:
        """Split a parameter and register the hook; see :func:`weight_norm`."""
        message = "nn.utils.weight_norm is deprecated in favor of nn.utils.parametrizations.weight_norm"
        warnings.warn(message, FutureWarning, stacklevel=3)
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, WeightNorm) and hook.name == name:
                raise RuntimeError(f"Cannot register two weight_norm hooks on the same parameter {name}")
        hook = WeightNorm(name, dim)
        with scope.entered(scope.BUILD):
            weight = getattr(module, name)
            if not isinstance(weight, Parameter):
                raise TypeError(
                    f"weight_norm splits a Parameter, and {name} of {type(module).__name__} is {type(weight).__name__}"
                )
            value = as_array(weight)
            norm = norm_except(value, hook.dim)
            delattr(module, name)
            module.register_parameter(name + "_g", Parameter(norm))
            module.register_parameter(name + "_v", Parameter(value))
            setattr(module, name, hook.compute_weight(module))
        module.register_forward_pre_hook(hook)
        return hook

    def remove(self, module: Module) -> None:
        """Make the weight as it is now a parameter again; the hook itself stays."""
        with scope.entered(scope.BUILD):
            weight = self.compute_weight(module)
            for suffix in ("", "_g", "_v"):
                delattr(module, self.name + suffix)
            setattr(module, self.name, Parameter(weight))

    def __call__(self, module: Module, inputs: Any) -> None:
        setattr(module, self.name, self.compute_weight(module))

    def __objnet_capture__(self, visit: Callable[[Any], Any]) -> Any:
        return self.name, self.dim


def weight_norm(module: _M, name: str = "weight", dim: int = 0) -> _M:
    """Split a parameter into ``weight_g``, its magnitude, and ``weight_v``, its direction (torch; deprecated there).

    ``weight`` is an array from then on, computed before each forward. ``parametrizations.weight_norm`` computes it where it
    is read, which keeps it out of the state that compiled functions carry.

    Args:
        module: changed in place, and returned.
        dim: the magnitude has one entry for each index along it; None takes one for all.

    Raises:
        AttributeError, TypeError: there is no such parameter. IndexError: no such dimension. RuntimeError: it is split already.
    """
    WeightNorm.apply(module, name, dim)
    return module


def remove_weight_norm(module: _M, name: str = "weight") -> _M:
    """Take back :func:`weight_norm`: the weight as it is now is a parameter again.

    Raises:
        ValueError: there is none of that name.
    """
    for key, hook in module._forward_pre_hooks.items():
        if isinstance(hook, WeightNorm) and hook.name == name:
            hook.remove(module)
            del module._forward_pre_hooks[key]
            return module
    raise ValueError(f"weight_norm of '{name}' not found in {module}")
