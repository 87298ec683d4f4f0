"""Pruning methods: which entries or channels of a parameter to prune."""

from __future__ import annotations

import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from objnet.core import draws
from objnet.core.arrays import as_array
from objnet.nn.functional._common import widen
from objnet.nn.functional._norm import vector_norm
from objnet.nn.utils._pruning import BasePruningMethod


class Identity(BasePruningMethod):
    """Prunes nothing, but sets up the mask."""

    PRUNING_TYPE = "unstructured"

    def compute_mask(self, t: jax.Array, default_mask: jax.Array) -> jax.Array:
        return default_mask

    @classmethod
    def apply(cls, module: Any, name: str) -> Any:  # type: ignore[override]
        return super().apply(module, name)


class RandomUnstructured(BasePruningMethod):
    """Prunes entries at random.

    Args:
        amount: how many, or which fraction in [0, 1] if it is a float.
    """

    PRUNING_TYPE = "unstructured"

    def __init__(self, amount: float) -> None:
        check_amount(amount)
        self.amount = amount

    def compute_mask(self, t: jax.Array, default_mask: jax.Array) -> jax.Array:
        count = to_prune(self.amount, t.size)
        if count == 0:
            return default_mask  # without drawing, as torch
        return _masked(_lowest(-draws.uniform(t.shape, 0, 1, t.dtype), count), default_mask)

    @classmethod
    def apply(cls, module: Any, name: str, amount: float) -> Any:  # type: ignore[override]
        return super().apply(module, name, amount=amount)


class L1Unstructured(BasePruningMethod):
    """Prunes the entries of smallest magnitude.

    Args:
        amount: how many, or which fraction in [0, 1] if it is a float.
    """

    PRUNING_TYPE = "unstructured"

    def __init__(self, amount: float) -> None:
        check_amount(amount)
        self.amount = amount

    def compute_mask(self, t: jax.Array, default_mask: jax.Array) -> jax.Array:
        return _masked(_lowest(abs(_host(t)), to_prune(self.amount, t.size)), default_mask)

    @classmethod
    def apply(cls, module: Any, name: str, amount: float, importance_scores: Any = None) -> Any:  # type: ignore[override]
        return super().apply(module, name, amount=amount, importance_scores=importance_scores)


class RandomStructured(BasePruningMethod):
    """Prunes channels at random.

    Args:
        amount: how many, or which fraction in [0, 1] if it is a float.
        dim: the dimension whose indices are the channels.
    """

    PRUNING_TYPE = "structured"

    def __init__(self, amount: float, dim: int = -1) -> None:
        check_amount(amount)
        self.amount = amount
        self.dim = dim

    def compute_mask(self, t: jax.Array, default_mask: jax.Array) -> jax.Array:
        channels = _channels(t, self.dim)
        count = to_prune(self.amount, channels)
        if count == 0:
            return default_mask
        return _without_channels(_lowest(draws.uniform((channels,), 0, 1, jnp.float32), count), self.dim, t, default_mask)

    @classmethod
    def apply(cls, module: Any, name: str, amount: float, dim: int = -1) -> Any:  # type: ignore[override]
        return super().apply(module, name, amount=amount, dim=dim)


class LnStructured(BasePruningMethod):
    """Prunes the channels of smallest norm.

    Args:
        amount: how many, or which fraction in [0, 1] if it is a float.
        n: the p of the norm: a number, ``"fro"``, or ``"nuc"`` for channels that are matrices.
        dim: the dimension whose indices are the channels.
    """

    PRUNING_TYPE = "structured"

    def __init__(self, amount: float, n: Any, dim: int = -1) -> None:
        check_amount(amount)
        self.amount = amount
        self.n = n
        self.dim = dim

    def compute_mask(self, t: jax.Array, default_mask: jax.Array) -> jax.Array:
        channels = _channels(t, self.dim)
        count = to_prune(self.amount, channels)
        if count == 0:
            return default_mask
        return _without_channels(_lowest(_channel_norms(t, self.n, self.dim), count), self.dim, t, default_mask)

    @classmethod
    def apply(cls, module: Any, name: str, amount: float, n: Any, dim: int, importance_scores: Any = None) -> Any:  # type: ignore[override]
        return super().apply(module, name, amount=amount, n=n, dim=dim, importance_scores=importance_scores)


class CustomFromMask(BasePruningMethod):
    """Prunes where ``mask`` is zero."""

    PRUNING_TYPE = "global"

    def __init__(self, mask: Any) -> None:
        self.mask = mask

    def compute_mask(self, t: jax.Array, default_mask: jax.Array) -> jax.Array:
        mask = as_array(self.mask)
        if mask.shape != default_mask.shape:
            raise AssertionError(f"default_mask shape {default_mask.shape} must match self.mask shape {mask.shape}")
        return default_mask * mask.astype(default_mask.dtype)

    @classmethod
    def apply(cls, module: Any, name: str, mask: Any) -> Any:  # type: ignore[override]
        return super().apply(module, name, mask=mask)


# -- helpers -----------------------------------------------------------------------------------------------------------


def check_amount(amount: Any) -> None:
    """Refuse what is neither a count nor a fraction.

    Raises:
        TypeError: it is no number. ValueError: a negative count, or a fraction outside [0, 1].
    """
    if not isinstance(amount, numbers.Real):
        raise TypeError(f"Invalid type for amount: {amount}. Must be int or float.")
    whole = isinstance(amount, numbers.Integral)
    if amount < 0 or (not whole and not 0.0 <= float(amount) <= 1.0):
        raise ValueError(f"amount={amount} should either be a float in the range [0, 1] or a non-negative integer")


def to_prune(amount: Any, size: int) -> int:
    """How many of ``size`` things to prune.

    Raises:
        ValueError: more than there are.
    """
    count = int(amount) if isinstance(amount, numbers.Integral) else round(amount * size)
    if count > size:
        raise ValueError(f"amount={count} should be smaller than the number of parameters to prune={size}")
    return count


def _channels(t: jax.Array, dim: int) -> int:
    if t.ndim <= 1:
        raise ValueError(
            "Structured pruning can only be applied to multidimensional tensors. Found tensor of shape "
            f"{tuple(t.shape)} with {t.ndim} dims"
        )
    if not -t.ndim <= dim < t.ndim:
        raise IndexError(f"Invalid index {dim} for tensor of size {tuple(t.shape)}")
    return t.shape[dim]


def _host(x: jax.Array) -> Any:
    """``x`` for numpy where it has a value: jax would compile a program for every shape."""
    return x if isinstance(x, jax.core.Tracer) else np.asarray(x)


def _lowest(scores: Any, count: int) -> Any:
    """Which are the ``count`` lowest scores."""
    scores = _host(scores)
    xp = jnp if isinstance(scores, jax.Array) else np
    ranks = xp.argsort(xp.argsort(scores.reshape(-1), stable=True), stable=True)
    return (ranks < count).reshape(scores.shape)


def _masked(pruned: Any, mask: jax.Array) -> jax.Array:
    held = _host(mask)
    xp = jnp if isinstance(held, jax.Array) or isinstance(pruned, jax.Array) else np
    return jnp.asarray(xp.where(pruned, xp.zeros((), held.dtype), held))


def _without_channels(pruned: Any, dim: int, t: jax.Array, mask: jax.Array) -> jax.Array:
    shape = [1] * t.ndim
    shape[dim] = t.shape[dim]
    return _masked(pruned.reshape(shape), mask.astype(t.dtype))


def _channel_norms(t: jax.Array, n: Any, dim: int) -> jax.Array:
    channels = jnp.moveaxis(widen(t), dim, 0)
    if n == "nuc":
        if channels.ndim != 3:
            raise RuntimeError(f"the nuclear norm is that of a matrix, and the channels have {channels.ndim - 1} dimensions")
        return jnp.sum(jnp.linalg.svd(channels, compute_uv=False), -1)
    return vector_norm(channels, 2.0 if n == "fro" else float(n), tuple(range(1, channels.ndim))).reshape(-1)
