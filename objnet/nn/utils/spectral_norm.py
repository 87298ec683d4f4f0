"""Spectral normalisation by a hook before forward, torch's older form of ``parametrizations.spectral_norm``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from objnet.core import scope
from objnet.core.arrays import as_array
from objnet.core.foreign import to_host_or_jax
from objnet.core.variable import Parameter
from objnet.nn.module import Module
from objnet.nn.modules.conv_transpose import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from objnet.nn.utils._normalised import as_matrix, power_method, random_unit, spectral_norm_of

__all__ = [
    "SpectralNorm",
    "SpectralNormLoadStateDictPreHook",
    "SpectralNormStateDictHook",
    "remove_spectral_norm",
    "spectral_norm",
]

_M = TypeVar("_M", bound=Module)


class SpectralNorm:
    """The hook: it computes the weight ``name`` from ``name_orig`` before each forward; ``name_u`` and ``name_v`` are buffers.

    Args:
        n_power_iterations: iterations before each forward in training mode.
        dim: the dimension of outputs.
        eps: lower bound of the norms that are divided by.

    Raises:
        ValueError: no iterations.
    """

    _version = 1  # of what state dicts hold

    def __init__(self, name: str = "weight", n_power_iterations: int = 1, dim: int = 0, eps: float = 1e-12) -> None:
        if n_power_iterations <= 0:
            raise ValueError(f"Expected n_power_iterations to be positive, but got n_power_iterations={n_power_iterations}")
        self.name = name
        self.dim = dim
        self.n_power_iterations = n_power_iterations
        self.eps = eps

    def reshape_weight_to_matrix(self, weight: jax.Array) -> jax.Array:
        """The weight as a matrix with a row for each output."""
        return as_matrix(as_array(weight), self.dim)

    def compute_weight(self, module: Module, do_power_iteration: bool) -> jax.Array:
        """The weight divided by its largest singular value, estimated anew if asked."""
        weight, u, v = (as_array(getattr(module, self.name + suffix)) for suffix in ("_orig", "_u", "_v"))
        matrix = self.reshape_weight_to_matrix(weight)
        if do_power_iteration:
            u, v = power_method(matrix, u, v, steps=self.n_power_iterations, eps=self.eps, left_first=False)
            setattr(module, self.name + "_u", u)
            setattr(module, self.name + "_v", v)
        return weight / spectral_norm_of(matrix, u, v)

    @staticmethod
    def apply(module: Module, name: str, n_power_iterations: int, dim: int, eps: float) -> SpectralNorm:
        """Rename the parameter and register the hooks; see :func:`spectral_norm`."""
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, SpectralNorm) and hook.name == name:
                raise RuntimeError(f"Cannot register two spectral_norm hooks on the same parameter {name}")
        hook = SpectralNorm(name, n_power_iterations, dim, eps)
        weight = module._parameters[name]
        if weight is None:
            raise ValueError(f"`SpectralNorm` cannot be applied as parameter `{name}` is None")
        with scope.entered(scope.BUILD):
            value = as_array(weight)
            if not 0 <= dim < value.ndim:
                raise RuntimeError(f"{name} has {value.ndim} dimensions, and dim={dim} is none of them, counted from 0")
            matrix = hook.reshape_weight_to_matrix(value)
            u, v = (random_unit(size, value.dtype, eps) for size in matrix.shape)
            delattr(module, name)
            module.register_parameter(name + "_orig", weight)
            setattr(module, name, value)
            module.register_buffer(name + "_u", u)
            module.register_buffer(name + "_v", v)
        module.register_forward_pre_hook(hook)
        module._register_state_dict_hook(SpectralNormStateDictHook(hook))
        module._register_load_state_dict_pre_hook(SpectralNormLoadStateDictPreHook(hook))
        return hook

    def remove(self, module: Module) -> None:
        """Make the weight as it is now a parameter again; the hooks stay."""
        with scope.entered(scope.BUILD):
            weight = self.compute_weight(module, do_power_iteration=False)
            for suffix in ("", "_u", "_v", "_orig"):
                delattr(module, self.name + suffix)
            module.register_parameter(self.name, Parameter(weight))

    def __call__(self, module: Module, inputs: Any) -> None:
        setattr(module, self.name, self.compute_weight(module, do_power_iteration=module.training))

    def __objnet_capture__(self, visit: Callable[[Any], Any]) -> Any:
        return self.name, self.dim, self.n_power_iterations, self.eps


class SpectralNormLoadStateDictPreHook:
    """Reads state dicts of torch 0.4, which held the normalised weight and no ``weight_v``."""

    def __init__(self, fn: SpectralNorm) -> None:
        self.fn = fn

    def __call__(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        version = local_metadata.get("spectral_norm", {}).get(f"{self.fn.name}.version")
        if version is not None and version >= 1:
            return
        key = prefix + self.fn.name
        if version is None and key not in state_dict and all(key + suffix in state_dict for suffix in ("_orig", "_u", "_v")):
            return  # of now, without its metadata
        missing = [key + suffix for suffix in ("_orig", "", "_u") if key + suffix not in state_dict]
        if missing:
            missing_keys.extend(missing if strict else [])
            return
        original, weight, u = (jnp.asarray(to_host_or_jax(state_dict[key + suffix])) for suffix in ("_orig", "", "_u"))
        del state_dict[key]
        state_dict[key + "_v"] = _right_vector(self.fn.reshape_weight_to_matrix(original), u, jnp.mean(original / weight))


def _right_vector(matrix: jax.Array, u: jax.Array, sigma: jax.Array) -> jax.Array:
    """The ``v`` with ``matrix @ v`` along ``u`` (by least squares) and ``u @ matrix @ v`` equal to ``sigma``."""
    v = jnp.linalg.pinv(matrix.T @ matrix) @ (matrix.T @ u)
    return v * (sigma / (u @ (matrix @ v)))


class SpectralNormStateDictHook:
    """Notes the version in a state dict's metadata."""

    def __init__(self, fn: SpectralNorm) -> None:
        self.fn = fn

    def __call__(self, module: Module, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any]) -> None:
        versions = local_metadata.setdefault("spectral_norm", {})
        key = f"{self.fn.name}.version"
        if key in versions:
            raise RuntimeError(f"Unexpected key in metadata['spectral_norm']: {key}")
        versions[key] = self.fn._version


def output_dim(module: Module) -> int:
    """The dimension of a module's weight that belongs to its outputs."""
    return 1 if isinstance(module, (ConvTranspose1d, ConvTranspose2d, ConvTranspose3d)) else 0


def spectral_norm(
    module: _M, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None
) -> _M:
    """Divide a weight by its largest singular value (torch; Miyato et al., 2018).

    ``weight`` is an array from then on, computed before each forward from the parameter ``weight_orig``.
    ``parametrizations.spectral_norm`` computes it where it is read.

    Args:
        module: changed in place, and returned.
        n_power_iterations: iterations before each forward in training mode.
        eps: lower bound of the norms that are divided by.
        dim: the dimension of outputs: 1 for transposed convolutions, else 0.

    Raises:
        KeyError: there is no such parameter. ValueError: it is None, or there are no iterations.
        RuntimeError: there is no such dimension, or it is normalised already.
    """
    SpectralNorm.apply(module, name, n_power_iterations, output_dim(module) if dim is None else dim, eps)
    return module


def remove_spectral_norm(module: _M, name: str = "weight") -> _M:
    """Take back :func:`spectral_norm`: the weight as it is now is a parameter again.

    Raises:
        ValueError: there is none of that name.
    """
    for key, hook in module._forward_pre_hooks.items():
        if isinstance(hook, SpectralNorm) and hook.name == name:
            hook.remove(module)
            del module._forward_pre_hooks[key]
            break
    else:
        raise ValueError(f"spectral_norm of '{name}' not found in {module}")
    for key, hook in list(module._state_dict_hooks.items()):
        if isinstance(hook, SpectralNormStateDictHook) and hook.fn.name == name:
            del module._state_dict_hooks[key]
    for key, hook in list(module._load_state_dict_pre_hooks.items()):
        if isinstance(hook, SpectralNormLoadStateDictPreHook) and hook.fn.name == name:
            del module._load_state_dict_pre_hooks[key]
    return module
