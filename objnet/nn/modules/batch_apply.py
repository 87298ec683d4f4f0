"""Functions of batches, applied to arrays with more leading dimensions, or with none."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from objnet.nn.module import Module

__all__ = ["BatchApply", "expand_apply"]


class BatchApply(Module):
    """Applies a module or function to inputs whose leading dimensions are taken as one (Haiku's).

    Arguments are trees of arrays (*, ...) with ``num_dims`` leading dimensions, the same in all; arrays of fewer dimensions, and
    what is no array, are passed on. Every array of the result has the leading dimensions put back.

    Args:
        module: a module, or a function.
        num_dims: how many dimensions are taken as one.

    Raises:
        ValueError: ``num_dims`` below 1; from a call: no array with that many dimensions, or leading dimensions that differ.
        RuntimeError: from a call: a result without the leading dimension.
    """

    def __init__(self, module: Callable[..., Any], num_dims: int = 2) -> None:
        super().__init__()
        if num_dims < 1:
            raise ValueError(f"num_dims must be positive, got {num_dims}")
        self.module = module
        self.num_dims = num_dims

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        count = self.num_dims
        leaves = jax.tree.leaves((args, kwargs))
        leads = {leaf.shape[:count] for leaf in leaves if getattr(leaf, "ndim", 0) >= count}
        if len(leads) != 1:
            raise ValueError(
                f"BatchApply takes arrays with the same {count} leading dimensions, got {sorted(leads) or 'no array of so many'}"
            )
        (lead,) = leads
        size = math.prod(lead)

        def merge(leaf: Any) -> Any:
            return leaf.reshape(size, *leaf.shape[count:]) if getattr(leaf, "ndim", 0) >= count else leaf

        def split(leaf: Any) -> jax.Array:
            shape = jnp.shape(leaf)
            if shape[:1] != (size,):
                raise RuntimeError(f"BatchApply: a result of shape {shape} has not the leading dimension {size} of the inputs")
            return leaf.reshape(*lead, *shape[1:])

        args, kwargs = jax.tree.map(merge, (args, kwargs))
        return jax.tree.map(split, self.module(*args, **kwargs))

    def extra_repr(self) -> str:
        name = "" if isinstance(self.module, Module) else f"{getattr(self.module, '__name__', self.module)}, "
        return f"{name}num_dims={self.num_dims}"


def expand_apply(f: Callable[..., Any], dim: int = 0) -> Callable[..., Any]:
    """``f`` for arguments without the dimension ``dim``: they are given one of size 1, which is taken off the result (Haiku's).

    Args:
        f: a module or function of trees of arrays.
        dim: 0 or -1.

    Raises:
        ValueError: another ``dim``; from a call: a result whose dimension is not of size 1.
    """
    if dim not in (0, -1):
        raise ValueError(f"expand_apply takes dim 0 or -1, got {dim}")

    def run(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = jax.tree.map(lambda leaf: jnp.expand_dims(leaf, dim), (args, kwargs))
        return jax.tree.map(lambda leaf: jnp.squeeze(leaf, dim), f(*args, **kwargs))

    return run if isinstance(f, Module) else functools.wraps(f)(run)
