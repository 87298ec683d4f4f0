"""Pruning: parameters held at zero by masks (``torch.nn.utils.prune``).

Every function changes a module in place and returns it: the parameter ``weight`` is called ``weight_orig``, its mask is the
buffer ``weight_mask``, and ``weight`` an array computed before each forward. :func:`remove` makes it permanent.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import jax.numpy as jnp

from objnet.core import scope
from objnet.core.arrays import as_array
from objnet.nn.module import Module
from objnet.nn.utils._pruning import BasePruningMethod, PruningContainer
from objnet.nn.utils._pruning_methods import (
    CustomFromMask,
    Identity,
    L1Unstructured,
    LnStructured,
    RandomStructured,
    RandomUnstructured,
)
from objnet.nn.utils.convert_parameters import parameters_to_vector

__all__ = [
    "BasePruningMethod",
    "CustomFromMask",
    "Identity",
    "L1Unstructured",
    "LnStructured",
    "PruningContainer",
    "RandomStructured",
    "RandomUnstructured",
    "custom_from_mask",
    "global_unstructured",
    "identity",
    "is_pruned",
    "l1_unstructured",
    "ln_structured",
    "random_structured",
    "random_unstructured",
    "remove",
]

_M = TypeVar("_M", bound=Module)


def identity(module: _M, name: str) -> _M:
    """Set up a mask of ones."""
    Identity.apply(module, name)
    return module


def random_unstructured(module: _M, name: str, amount: float) -> _M:
    """Prune random entries: ``amount`` of them, or that fraction if it is a float. torch's choice for the same seed.

    Raises:
        TypeError, ValueError: ``amount`` is no number, negative, or too large.
    """
    RandomUnstructured.apply(module, name, amount)
    return module


def l1_unstructured(module: _M, name: str, amount: float, importance_scores: Any = None) -> _M:
    """Prune the entries of smallest magnitude, or of smallest score: ``amount`` of them, or that fraction if it is a float.

    Raises:
        TypeError, ValueError: ``amount`` is no number, negative, or too large. AssertionError: scores of another shape.
    """
    L1Unstructured.apply(module, name, amount=amount, importance_scores=importance_scores)
    return module


def random_structured(module: _M, name: str, amount: float, dim: int) -> _M:
    """Prune random channels along ``dim``: ``amount`` of them, or that fraction if it is a float. torch's choice for the same seed.

    Raises:
        TypeError, ValueError: ``amount`` is no number, negative, or too large; a vector. IndexError: no such dimension.
    """
    RandomStructured.apply(module, name, amount, dim)
    return module


def ln_structured(module: _M, name: str, amount: float, n: Any, dim: int, importance_scores: Any = None) -> _M:
    """Prune the channels along ``dim`` of smallest norm: ``amount`` of them, or that fraction if it is a float.

    Args:
        n: the p of the norm: a number, ``"fro"``, or ``"nuc"`` for channels that are matrices.
        importance_scores: what the norm is taken of, by default the parameter.

    Raises:
        TypeError, ValueError: ``amount`` is no number, negative, or too large; a vector. IndexError: no such dimension.
    """
    LnStructured.apply(module, name, amount, n, dim, importance_scores=importance_scores)
    return module


def custom_from_mask(module: _M, name: str, mask: Any) -> _M:
    """Prune where ``mask`` is zero.

    Raises:
        RuntimeError: the mask has another shape.
    """
    CustomFromMask.apply(module, name, mask)
    return module


def global_unstructured(
    parameters: Iterable[tuple[Module, str]], pruning_method: Any, importance_scores: Any = None, **kwargs: Any
) -> None:
    """Prune entries of several parameters, compared with each other, by a method of type ``"unstructured"``.

    Args:
        parameters: pairs of a module and a name.
        pruning_method: the class, such as :class:`L1Unstructured`; ``kwargs`` are its arguments.
        importance_scores: a dict from such pairs to arrays that stand in for the parameters.

    Raises:
        TypeError: ``parameters`` is no iterable, the scores are no dict, or the method is of another type.
    """
    if not isinstance(parameters, Iterable):
        raise TypeError("global_unstructured(): parameters is not an Iterable")
    if importance_scores is not None and not isinstance(importance_scores, dict):
        raise TypeError("global_unstructured(): importance_scores must be of type dict")
    pairs = list(parameters)
    with scope.entered(scope.BUILD):
        values = [as_array(getattr(module, name)) for module, name in pairs]
        scores = parameters_to_vector(
            [(importance_scores or {}).get(pair, value) for pair, value in zip(pairs, values, strict=True)]
        )
        masks = [getattr(m, name + "_mask", jnp.ones_like(value)) for (m, name), value in zip(pairs, values, strict=True)]
        method = pruning_method(**kwargs)
        method._tensor_name = "temp"
        if method.PRUNING_TYPE != "unstructured":
            raise TypeError(
                f'Only "unstructured" PRUNING_TYPE supported for the `pruning_method`. Found method {pruning_method} of type '
                f"{method.PRUNING_TYPE}"
            )
        mask = PruningContainer(method).compute_mask(scores, parameters_to_vector(masks))
        start = 0
        for (module, name), value in zip(pairs, values, strict=True):
            custom_from_mask(module, name, mask[start : start + value.size].reshape(value.shape))
            start += value.size


def remove(module: _M, name: str) -> _M:
    """Make the pruned values the parameter's own, and the mask and the hook disappear.

    Raises:
        ValueError: it is not pruned.
    """
    for key, hook in module._forward_pre_hooks.items():
        if isinstance(hook, BasePruningMethod) and hook._tensor_name == name:
            hook.remove(module)
            del module._forward_pre_hooks[key]
            return module
    raise ValueError(f"Parameter '{name}' of module {module} has to be pruned before pruning can be removed")


def is_pruned(module: Module) -> bool:
    """Whether ``module`` or one below it has a pruning hook."""
    return any(isinstance(hook, BasePruningMethod) for m in module.modules() for hook in m._forward_pre_hooks.values())
