"""What the families of functionals share: checks that raise torch's error classes, dtype rules, reductions, writes."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from objnet.core import errors


def setter(what: str, target: Any, remedy: str) -> Callable[[jax.Array], None]:
    """The write of a Variable, for arguments torch changes in place.

    Raises:
        ImmutableArrayError: ``target`` is a bare array.
    """
    write = getattr(target, "_set", None)
    if write is None:
        raise errors.ImmutableArrayError(f"{what} is written to, but a bare array{errors.where()} cannot change: {remedy}")
    return write


def is_concrete(x: jax.Array) -> bool:
    """Whether the values of ``x`` can be looked at here: no tracer, and all of it on devices of this process."""
    return not isinstance(x, jax.core.Tracer) and x.is_fully_addressable


def host(x: jax.Array) -> np.ndarray:
    """The values of a concrete array; an explicit transfer, which ``jax.transfer_guard("disallow")`` lets pass."""
    return np.asarray(jax.device_get(x))


def is_floating(x: jax.Array) -> bool:
    """Whether the dtype is real floating point."""
    return jnp.issubdtype(x.dtype, jnp.floating)


def require_floating(function: str, *arrays: jax.Array) -> None:
    """Refuse integer, boolean and complex arrays.

    Raises:
        NotImplementedError: torch's class for a kernel that does not exist.
    """
    for x in arrays:
        if not is_floating(x):
            raise NotImplementedError(f"{function} is not implemented for {x.dtype}: pass a floating point array")


def is_half(x: jax.Array) -> bool:
    """Whether the dtype is floating point and narrower than float32."""
    return is_floating(x) and x.dtype.itemsize < 4


def widen(x: jax.Array) -> jax.Array:
    """float16 and bfloat16 as float32, in which torch computes them too; anything else unchanged."""
    return x.astype(jnp.float32) if is_half(x) else x


def absolute(x: jax.Array) -> jax.Array:
    """``abs(x)`` of real numbers with gradient 0 at 0, as in torch; that of ``jnp.abs`` is 1 there."""
    return x * jnp.sign(x)


def common_dtype(*arrays: jax.Array) -> np.dtype:
    """The dtype torch promotes these to, whatever ``jax_numpy_dtype_promotion`` says."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(*(x.dtype for x in arrays))


def normalise_dim(dim: Any, ndim: int) -> int:
    """``dim`` counted from the front; a 0-d array has the dimensions 0 and -1, as in torch.

    Raises:
        TypeError: ``dim`` is no integer.
        IndexError: there is no such dimension.
    """
    if isinstance(dim, bool):
        raise TypeError("dim must be an int, got a bool")
    axis, size = operator.index(dim), max(ndim, 1)
    if not -size <= axis < size:
        raise IndexError(f"dim {axis} is out of range: an array with {ndim} dimensions takes -{size} to {size - 1}")
    return axis % size


def broadcast_into(what: str, x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """``x`` broadcast to ``shape``, which it may not enlarge.

    Raises:
        RuntimeError: the shapes do not allow it.
    """
    try:
        return jnp.broadcast_to(x, shape)
    except ValueError:
        raise RuntimeError(f"{what} of shape {x.shape} does not broadcast to {shape}") from None


def resolve_reduction(reduction: str, size_average: bool | None = None, reduce: bool | None = None) -> str:
    """``"none"``, ``"mean"`` or ``"sum"``; the two legacy flags, where given, decide with a warning, as in torch.

    Raises:
        ValueError: any other ``reduction``.
    """
    if size_average is not None or reduce is not None:
        averaged = "sum" if size_average is not None and not size_average else "mean"
        reduction = averaged if reduce is None or reduce else "none"
        message = f"size_average and reduce are deprecated: pass reduction={reduction!r}"
        warnings.warn(message, UserWarning, stacklevel=4)
    if reduction == "elementwise_mean":
        warnings.warn("reduction='elementwise_mean' is deprecated: pass reduction='mean'", UserWarning, stacklevel=4)
        return "mean"
    return require_reduction(reduction)


def require_reduction(reduction: str) -> str:
    """``reduction`` itself.

    Raises:
        ValueError: it is none of ``"none"``, ``"mean"`` and ``"sum"``.
    """
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction!r} is not a valid value for reduction: pass 'none', 'mean' or 'sum'")
    return reduction


def reduced(values: jax.Array, reduction: str) -> jax.Array:
    """``values`` as they are, their mean or their sum, in their own dtype."""
    if reduction == "none":
        return values
    return jnp.mean(values) if reduction == "mean" else jnp.sum(values)
