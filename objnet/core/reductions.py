"""Torch's reductions and shape methods on a Parameter, where numpy has the same names with another meaning.

Called with numpy's keywords (``axis``, ``keepdims``, ``ddof``), as ``np.mean(parameter)`` does, they are numpy's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

_NUMPY = ("axis", "keepdims", "out", "ddof", "where", "initial")


class ValuesAndIndices(NamedTuple):
    """What torch's ``max``, ``min`` and ``sort`` along a dimension give."""

    values: jax.Array
    indices: jax.Array


def _numpys(options: dict[str, Any]) -> bool:
    return any(name in options for name in _NUMPY)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _reduction(function: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: Any, dim: Any = None, keepdim: bool = False, **options: Any) -> jax.Array:
        if _numpys(options):
            return function(self._read(), **_given(options))
        axis = tuple(dim) if isinstance(dim, list) else dim
        return function(self._read(), axis=axis, keepdims=keepdim, **_given(options))

    name = function.__name__
    method.__name__, method.__doc__ = name, f"``jnp.{name}`` with torch's arguments."
    return method


def _spread(function: Callable[..., Any]) -> Callable[..., Any]:
    def method(
        self: Any, dim: Any = None, unbiased: bool | None = None, keepdim: bool = False, *, correction: Any = None, **options: Any
    ) -> jax.Array:
        if _numpys(options):
            return function(self._read(), **_given(options))
        if isinstance(dim, bool):
            dim, unbiased = None, dim
        if correction is None:
            correction = 1 if unbiased is None else int(unbiased)
        return function(
            self._read(), axis=tuple(dim) if isinstance(dim, list) else dim, ddof=correction, keepdims=keepdim, **_given(options)
        )

    name = function.__name__
    method.__name__, method.__doc__ = name, f"Torch's ``{name}``, unbiased unless it says otherwise."
    return method


def _extreme(function: Callable[..., Any], where: Callable[..., Any], other: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: Any, dim: Any = None, keepdim: bool = False, **options: Any) -> Any:
        x = self._read()
        if _numpys(options):
            return function(x, **_given(options))
        if options:
            raise TypeError(f"{function.__name__}() got an unexpected keyword argument {next(iter(options))!r}")
        if dim is None:
            return function(x)
        if not isinstance(dim, int):  # another tensor
            return other(x, jnp.asarray(dim))
        return ValuesAndIndices(function(x, axis=dim, keepdims=keepdim), where(x, axis=dim, keepdims=keepdim))

    name = function.__name__
    method.__name__, method.__doc__ = name, f"Torch's ``{name}``: of all, along ``dim`` with indices, or of two tensors."
    return method


class Reductions:
    """Methods over ``_read()``."""

    __slots__ = ()

    if TYPE_CHECKING:

        def _read(self) -> Any: ...

    sum, mean, prod = _reduction(jnp.sum), _reduction(jnp.mean), _reduction(jnp.prod)
    all, any = _reduction(jnp.all), _reduction(jnp.any)
    argmax, argmin = _reduction(jnp.argmax), _reduction(jnp.argmin)
    std, var = _spread(jnp.std), _spread(jnp.var)
    max, min = _extreme(jnp.max, jnp.argmax, jnp.maximum), _extreme(jnp.min, jnp.argmin, jnp.minimum)

    def logsumexp(self, dim: Any, keepdim: bool = False) -> jax.Array:
        return jax.nn.logsumexp(self._read(), axis=dim, keepdims=keepdim)

    def sort(self, dim: int = -1, descending: bool = False, stable: bool = True) -> ValuesAndIndices:
        indices = jnp.argsort(self._read(), axis=dim, descending=descending, stable=stable)
        return ValuesAndIndices(jnp.take_along_axis(self._read(), indices, dim), indices)

    def repeat(self, *sizes: Any) -> jax.Array:
        """The whole tiled, as torch's; numpy's of that name repeats elements."""
        return jnp.tile(self._read(), sizes[0] if len(sizes) == 1 and not isinstance(sizes[0], int) else sizes)

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> jax.Array:
        x = self._read()
        first, last = start_dim % max(x.ndim, 1), end_dim % max(x.ndim, 1)
        return x.reshape(*x.shape[:first], -1, *x.shape[last + 1 :])

    def squeeze(self, dim: Any = None) -> jax.Array:
        x = self._read()
        dims = range(x.ndim) if dim is None else (dim,) if isinstance(dim, int) else dim
        return jnp.squeeze(x, tuple(d for d in dims if x.shape[d] == 1))

    def expand(self, *sizes: Any) -> jax.Array:
        x = self._read()
        sizes = tuple(sizes[0]) if len(sizes) == 1 and not isinstance(sizes[0], int) else sizes
        lead = len(sizes) - x.ndim
        return jnp.broadcast_to(x, [x.shape[i - lead] if n == -1 else n for i, n in enumerate(sizes)])

    def unbind(self, dim: int = 0) -> tuple[jax.Array, ...]:
        return tuple(jnp.moveaxis(self._read(), dim, 0))

    def split(self, split_size: Any, dim: int = 0) -> tuple[jax.Array, ...]:
        x = self._read()
        ends = range(split_size, x.shape[dim], split_size) if isinstance(split_size, int) else _ends(split_size)
        return tuple(jnp.split(x, list(ends), dim))

    def clamp(self, min: Any = None, max: Any = None) -> jax.Array:
        return jnp.clip(self._read(), min, max)


def _ends(sizes: Any) -> list[int]:
    ends = [0]
    for size in sizes[:-1]:
        ends.append(ends[-1] + size)
    return ends[1:]
