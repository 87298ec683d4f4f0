"""The parametrizations of one tensor, and what they compute it from."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import jax
from jax import lax

from objnet.core import scope
from objnet.core.arrays import as_array
from objnet.core.tensor import TensorMethods
from objnet.core.variable import Buffer, Parameter
from objnet.nn.module import Module
from objnet.nn.modules.container import ModuleList
from objnet.nn.utils._parametrized_class import cache


class ParametrizationList(ModuleList):
    """Parametrizations that are applied one after the other to a tensor, and that tensor (torch's class of that name).

    The tensor is called ``original``; if the ``right_inverse`` of the first parametrization gives several, they are
    ``original0``, ``original1``, ... Made by :func:`register_parametrization`.

    Args:
        modules: the parametrizations, at least one.
        original: the Parameter or Buffer that becomes parametrized.
        unsafe: whether they may change shape and dtype, which is not checked then.

    Raises:
        ValueError: there is no parametrization, or one gives no array or changes shape or dtype.
    """

    original: Any
    unsafe: bool

    def __init__(self, modules: Sequence[Module], original: Any, unsafe: bool = False) -> None:
        if len(modules) == 0:
            raise ValueError("ParametrizationList requires one or more modules.")
        super().__init__(modules)
        self.unsafe = unsafe
        value = new = as_array(original)
        for module in reversed(list(self)):
            if hasattr(module, "right_inverse"):
                with suppress(NotImplementedError):  # one that does not exist for its options
                    new = invert(module, new)
        if not isinstance(new, (jax.Array, Sequence)):
            raise ValueError(f"'right_inverse' must return a Tensor or a Sequence of tensors (list, tuple...). Got {_kind(new)}.")
        self.is_tensor = isinstance(new, jax.Array)
        self.ntensors = 1 if self.is_tensor else len(new)
        if self.is_tensor:
            if new.dtype != value.dtype:
                raise ValueError(
                    "When `right_inverse` outputs one tensor, it may not change the dtype.\n"
                    f"original.dtype: {value.dtype}\nright_inverse(original).dtype: {new.dtype}"
                )
            if new is not value:
                original._set(new)
            register(self, "original", original)
        else:
            for i, part in enumerate(new):
                if not isinstance(part, jax.Array):
                    raise ValueError(
                        "'right_inverse' must return a Tensor or a Sequence of tensors (list, tuple...). "
                        f"Got element {i} of the sequence with type {_kind(part)}."
                    )
                register(
                    self, f"original{i}", Parameter(part, original.requires_grad) if isinstance(original, Parameter) else part
                )
        if not self.unsafe:
            check_kept(
                "Registering a parametrization may not change the {what} of the tensor, unless `unsafe` flag is enabled.\n"
                "unparametrized {what}: {old}\nparametrized {what}: {new}",
                "A parametrization must return a tensor.",
                self(),
                value,
            )

    def right_inverse(self, value: Any) -> None:
        """Give the originals the values from which ``value`` is computed, by the ``right_inverse`` of each parametrization.

        Raises:
            RuntimeError: one has none. ValueError: what they give does not fit the originals.
        """
        with scope.entered(scope.BUILD):
            value = as_array(value)
            for module in reversed(list(self)):
                if not hasattr(module, "right_inverse"):
                    raise RuntimeError(f"parametrization {type(module).__name__} does not implement right_inverse.")
                value = invert(module, value)
            if self.is_tensor:
                if not isinstance(value, jax.Array):
                    raise ValueError(f"`right_inverse` should return a tensor. Got {_kind(value)}")
                original = cell_of(self, "original")
                if value.dtype != original.dtype:
                    raise ValueError(
                        f"The tensor returned by `right_inverse` has dtype {value.dtype} while `original` has dtype {original.dtype}"
                    )
                original._set(value)
                return
            if not isinstance(value, Sequence):
                raise ValueError(f"'right_inverse' must return a sequence of tensors. Got {_kind(value)}.")
            if len(value) != self.ntensors:
                raise ValueError(
                    f"'right_inverse' must return a sequence of tensors of length {self.ntensors}. Got a sequence of length "
                    f"{len(value)}."
                )
            originals = [cell_of(self, f"original{i}") for i in range(self.ntensors)]
            for i, (part, original) in enumerate(zip(value, originals, strict=True)):
                if not isinstance(part, jax.Array):
                    raise ValueError(f"'right_inverse' must return a sequence of tensors. Got element {i} of type {_kind(part)}.")
                if part.dtype != original.dtype:
                    raise ValueError(
                        f"Tensor {i} returned by `right_inverse` has dtype {part.dtype} while `original{i}` has dtype {original.dtype}"
                    )
            for part, original in zip(value, originals, strict=True):
                original._set(part)

    def forward(self) -> jax.Array:
        names = ["original"] if self.is_tensor else [f"original{i}" for i in range(self.ntensors)]
        first, *rest = self
        value = first(*(getattr(self, name) for name in names))
        for module in rest:
            value = module(value)
        return value

    def __objnet_capture__(self, visit: Any) -> Any:
        return super().__objnet_capture__(visit), cache.get() is None


def cell_of(module: Any, name: str) -> Any:
    """The Parameter or Buffer of that name."""
    return module._parameters[name] if name in module._parameters else module._buffers[name]


def originals(held: Any) -> dict[str, Any]:
    """What the parametrizations compute from, by name."""
    return {name: cell for name, cell in (*held._parameters.items(), *held._buffers.items()) if name.startswith("original")}


def register(module: Any, name: str, value: Any) -> None:
    """Register a Parameter, or else a persistent buffer."""
    if isinstance(value, Parameter):
        module.register_parameter(name, value)
    else:
        if isinstance(value, Buffer):
            value.persistent = True
        module.register_buffer(name, value)


def invert(module: Any, value: Any) -> Any:
    """``module.right_inverse(value)``, whose result is a constant to gradients."""
    with scope.entered(scope.FORWARD, module):
        result = module.right_inverse(value)
    if isinstance(result, (tuple, list)):
        return type(result)(_constant(part) for part in result)
    return _constant(result)


def _constant(value: Any) -> Any:
    value = value._read() if isinstance(value, TensorMethods) else value
    return lax.stop_gradient(value) if isinstance(value, jax.Array) else value


def check_kept(message: str, no_tensor: str, new: Any, old: Any) -> None:
    """Refuse a ``new`` value that is no array, or has not the dtype and shape of the ``old``."""
    if not isinstance(new, jax.Array):
        raise ValueError(f"{no_tensor} Got {_kind(new)}.")
    for what in ("dtype", "shape"):
        if getattr(new, what) != getattr(old, what):
            raise ValueError(message.format(what=what, old=getattr(old, what), new=getattr(new, what)))


def _kind(value: Any) -> str:
    return type(value).__name__
