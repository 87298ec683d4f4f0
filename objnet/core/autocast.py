"""``objnet.autocast``: matrix products and convolutions in half precision, what needs range in float32 (``torch.autocast``)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from objnet.core import settings
from objnet.core.foreign import own_dtype
from objnet.core.tensor import TensorMethods

_F = TypeVar("_F", bound=Callable[..., Any])
_KIND = "autocast"


def autocast(
    device_type: Any = None, dtype: Any = None, enabled: bool = True, cache_enabled: bool | None = None
) -> AbstractContextManager[None]:
    """Run functionals, and with them layers, each in the precision it is safe in (``torch.autocast``).

    Linear maps, convolutions, attention, recurrent layers and ``prelu`` take their floating arguments in ``dtype``; softmax,
    normalisation over features and losses in float32; ``bilinear`` and ``grid_sample`` in the widest that is given; everything
    else, operations of ``jnp`` among it, as it comes. Parameters stay as they are. Holds in eager code, in compiled
    functions (inside or around) and in the pure form, for forward passes; gradients follow.

    Args:
        device_type: taken for torch's sake: ``"cuda"`` or ``"gpu"`` makes float16 the default dtype. A dtype may stand here.
        dtype: ``jnp.bfloat16``, the default, or ``jnp.float16``.
        enabled: False turns an enclosing autocast off.
        cache_enabled: taken for torch's sake: XLA shares equal casts by itself.

    Raises:
        RuntimeError: another dtype.
    """
    if device_type is not None and not isinstance(device_type, str):
        device_type, dtype = None, device_type
    if dtype is None:
        dtype = jnp.float16 if str(device_type).partition(":")[0] in ("cuda", "gpu") else jnp.bfloat16
    dtype = jnp.dtype(own_dtype(dtype))
    if dtype not in (jnp.bfloat16, jnp.float16):
        raise RuntimeError(f"autocast computes in bfloat16 or float16, got {dtype}")
    value = dtype if enabled else None
    return settings.entered(_KIND, value, value)


def is_autocast_enabled() -> bool:
    """Whether :func:`autocast` holds here (torch)."""
    return settings.last(_KIND) is not None


def get_autocast_dtype() -> Any:
    """The dtype of the :func:`autocast` that holds here, or None."""
    return settings.last(_KIND)


def low_precision(function: _F) -> _F:
    """A functional that takes its floating arguments in autocast's dtype."""
    return _casting(function, lambda dtype, _: dtype)


def full_precision(function: _F) -> _F:
    """A functional that takes its half-precision arguments in float32 under autocast."""
    return _casting(function, lambda _, found: jnp.dtype(jnp.float32))


def widest_precision(function: _F) -> _F:
    """A functional that takes its floating arguments in the widest of their dtypes under autocast."""
    return _casting(function, lambda _, found: max(found, key=lambda d: (d.itemsize, d.name), default=None))


def _casting(function: _F, choose: Callable[[Any, list[Any]], Any]) -> _F:
    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        if settings.current() and (dtype := settings.last(_KIND)) is not None:
            found: list[Any] = []
            _visit((args, kwargs), found.append)
            dtype = choose(dtype, found)
            args, kwargs = _visit((args, kwargs), None, dtype)
        return function(*args, **kwargs)

    return run  # type: ignore[return-value]


def _visit(value: Any, note: Callable[[Any], None] | None, dtype: Any = None) -> Any:
    """Note the dtypes of floating arrays, or cast them."""
    if isinstance(value, (jax.Array, np.ndarray, TensorMethods)):
        if jnp.issubdtype(value.dtype, jnp.floating) and value.dtype.itemsize <= 4:
            if note is not None:
                note(value.dtype)
            elif value.dtype != dtype:
                return (value._read() if isinstance(value, TensorMethods) else value).astype(dtype)
        return value
    if isinstance(value, dict):
        return {k: _visit(v, note, dtype) for k, v in value.items()}
    if type(value) in (tuple, list):
        return type(value)([_visit(v, note, dtype) for v in value])
    return value
