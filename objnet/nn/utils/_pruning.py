"""What all pruning methods are: hooks that multiply a parameter by a mask before each forward."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from objnet.core import scope
from objnet.core.arrays import as_array
from objnet.core.variable import Parameter


class BasePruningMethod(ABC):
    """A way to choose what to prune; subclasses define :meth:`compute_mask` and ``PRUNING_TYPE`` (torch).

    ``PRUNING_TYPE`` is ``"unstructured"`` (entries are chosen), ``"structured"`` (channels along ``self.dim``) or
    ``"global"``. An instance that was applied is a hook before forward.
    """

    _tensor_name: str

    def __call__(self, module: Any, inputs: Any) -> None:
        setattr(module, self._tensor_name, self.apply_mask(module))

    @abstractmethod
    def compute_mask(self, t: jax.Array, default_mask: jax.Array) -> jax.Array:
        """The mask for importance scores ``t``, where ``default_mask`` of the same shape is what has been left so far."""

    def apply_mask(self, module: Any) -> jax.Array:
        """The parameter times its mask."""
        if self._tensor_name is None:
            raise AssertionError(f"Module {module} has to be pruned")
        mask, original = (as_array(getattr(module, self._tensor_name + suffix)) for suffix in ("_mask", "_orig"))
        return mask.astype(original.dtype) * original

    @classmethod
    def apply(cls, module: Any, name: str, *args: Any, importance_scores: Any = None, **kwargs: Any) -> Any:
        """Prune a parameter of ``module``, by a method made of the other arguments; returns the hook.

        The parameter is called ``name_orig`` from then on, the mask is a buffer ``name_mask``, and ``name`` an array. If it
        is pruned already the hook is a :class:`PruningContainer` and prunes what is left.

        Args:
            importance_scores: what the mask is computed from, by default the parameter.

        Raises:
            AssertionError: scores of another shape. TypeError: ``name`` is no parameter.
        """
        with scope.entered(scope.BUILD):
            method = _compose(cls(*args, **kwargs), module, name)
            again = isinstance(method, PruningContainer)
            original = getattr(module, name)
            if not again and not isinstance(original, Parameter):
                raise TypeError(
                    f"only a Parameter can be pruned, and {name} of {type(module).__name__} is {type(original).__name__}"
                )
            value = as_array(original)
            scores = value if importance_scores is None else as_array(importance_scores)
            _check_scores(scores, value, f"parameter {name} of {module}")
            mask = as_array(getattr(module, name + "_mask")) if again else jnp.ones_like(value)
            mask = as_array(method.compute_mask(scores, default_mask=mask))
            if not again:
                delattr(module, name)
                module.register_parameter(name + "_orig", original)
            module.register_buffer(name + "_mask", mask)
            setattr(module, name, method.apply_mask(module))
            for key in _hooks_on(module, name):
                del module._forward_pre_hooks[key]
            module.register_forward_pre_hook(method)
        return method

    def prune(self, t: Any, default_mask: Any = None, importance_scores: Any = None) -> jax.Array:
        """``t`` times the mask computed for it.

        Raises:
            AssertionError: ``importance_scores`` has another shape.
        """
        t = as_array(t)
        scores = t if importance_scores is None else as_array(importance_scores)
        _check_scores(scores, t, "tensor t")
        mask = self.compute_mask(scores, default_mask=jnp.ones_like(t) if default_mask is None else as_array(default_mask))
        return t * mask.astype(t.dtype)

    def remove(self, module: Any) -> None:
        """Make the pruned values the parameter's own; the hook itself stays."""
        if self._tensor_name is None:
            raise AssertionError(f"Module {module} has to be pruned before pruning can be removed")
        name = self._tensor_name
        with scope.entered(scope.BUILD):
            weight = self.apply_mask(module)
            original = module._parameters[name + "_orig"]
            for attribute in (name, name + "_orig", name + "_mask"):
                if hasattr(module, attribute):
                    delattr(module, attribute)
            original.data = weight
            setattr(module, name, original)

    def __objnet_capture__(self, visit: Callable[[Any], Any]) -> Any:
        return tuple((key, visit(value)) for key, value in sorted(vars(self).items()))


class PruningContainer(BasePruningMethod):
    """Methods applied to one parameter one after the other, each to what the ones before have left."""

    def __init__(self, *args: Any) -> None:
        self._pruning_methods: tuple[Any, ...] = ()
        if len(args) == 1:
            self._tensor_name = args[0]._tensor_name
        for method in args:
            self.add_pruning_method(method)

    def add_pruning_method(self, method: Any) -> None:
        """Add a method on the same parameter.

        Raises:
            TypeError: it is no pruning method. ValueError: it is for another parameter.
        """
        if not isinstance(method, BasePruningMethod) and method is not None:
            raise TypeError(f"{type(method)} is not a BasePruningMethod subclass")
        if method is not None and self._tensor_name != method._tensor_name:
            raise ValueError(
                f"Can only add pruning methods acting on the parameter named '{self._tensor_name}' to PruningContainer {self}. "
                f"Found '{method._tensor_name}'"
            )
        self._pruning_methods += (method,)

    def __len__(self) -> int:
        return len(self._pruning_methods)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._pruning_methods)

    def __getitem__(self, idx: Any) -> Any:
        return self._pruning_methods[idx]

    def compute_mask(self, t: jax.Array, default_mask: jax.Array) -> jax.Array:
        """The mask with what the latest method prunes of the rest."""
        method = self._pruning_methods[-1]
        part = _left(method, t, default_mask)
        mask = default_mask.astype(t.dtype)
        return mask.at[part].set(as_array(method.compute_mask(t[part], default_mask=default_mask[part])).astype(mask.dtype))


# -- helpers -----------------------------------------------------------------------------------------------------------


def _hooks_on(module: Any, name: str) -> list[int]:
    hooks = module._forward_pre_hooks.items()
    return [key for key, hook in hooks if isinstance(hook, BasePruningMethod) and hook._tensor_name == name]


def _compose(method: BasePruningMethod, module: Any, name: str) -> BasePruningMethod:
    """``method`` for a parameter, together with the one it is pruned by already."""
    found = _hooks_on(module, name)
    if len(found) > 1:
        raise AssertionError(
            f"Avoid adding multiple pruning hooks to the same tensor {name} of module {module}. Use a PruningContainer."
        )
    method._tensor_name = name
    if not found:
        return method
    old = module._forward_pre_hooks[found[0]]
    container = PruningContainer(old)
    if isinstance(old, PruningContainer):
        container._pruning_methods = old._pruning_methods
    container.add_pruning_method(method)
    return container


def _left(method: Any, t: jax.Array, mask: jax.Array) -> Any:
    """The index of what a method may still prune."""
    if method.PRUNING_TYPE == "unstructured":
        return mask == 1
    if method.PRUNING_TYPE == "structured":
        if not hasattr(method, "dim"):
            raise AttributeError('Pruning methods of PRUNING_TYPE "structured" need to have the attribute `dim` defined.')
        if method.dim < -t.ndim:
            raise IndexError(f"Index is out of bounds for tensor with dimensions {t.ndim}")
        dim = method.dim % t.ndim if method.dim < 0 else method.dim
        kept = jnp.sum(mask, tuple(d for d in range(t.ndim) if d != dim)) != 0
        return (*(slice(None) for _ in range(dim)), jnp.nonzero(kept)[0])
    if method.PRUNING_TYPE == "global":
        return (slice(None),) * t.ndim
    raise ValueError(f"Unrecognized PRUNING_TYPE {method.PRUNING_TYPE}")


def _check_scores(scores: jax.Array, of: jax.Array, what: str) -> None:
    if scores.shape != of.shape:
        raise AssertionError(f"importance_scores should have the same shape as {what}, got {scores.shape} vs {of.shape}")
