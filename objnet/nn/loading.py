"""How what a state dict gives becomes what a model holds."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from objnet.core.mapped import LazyMapping
from objnet.core.placement import place
from objnet.core.variable import UNSET


def cast(value: Any, dtype: Any, sharding: Any = None) -> jax.Array:
    """``value`` in ``dtype`` as torch's ``copy_`` casts; an integer that does not fit is refused, not wrapped.

    A host array goes to ``sharding``; a jax array stays where it is.

    Raises:
        OverflowError: for integers that do not fit.
    """
    canonical = jax.dtypes.canonicalize_dtype(dtype)
    if isinstance(value, np.ndarray):
        if not _integers_fit(value, canonical):
            raise OverflowError(f"integers of {value.dtype} do not fit {canonical}")
        return place(value, canonical, sharding)
    return value.astype(canonical)


def fits_exactly(module: Any, state_dict: LazyMapping, strict: bool) -> bool:
    """Whether nothing about ``state_dict`` can make loading it fail, so that the old values need not be kept for that case."""
    found = state_dict.structs()
    wanted: dict[str, Any] = {}
    for path, owner in module.named_modules(remove_duplicate=False):
        for name, target in (*owner._parameters.items(), *owner._buffers.items()):
            if target is not None and name not in owner._non_persistent_buffers_set:
                wanted[f"{path}.{name}" if path else name] = target
    if strict and wanted.keys() != found.keys():
        return False
    return all(_fits(wanted[key], found[key], state_dict, key) for key in wanted.keys() & found.keys())


def _fits(target: Any, struct: jax.ShapeDtypeStruct, state_dict: LazyMapping, key: str) -> bool:
    if (target._peek() is UNSET and target.expected is None) or tuple(target.shape) != struct.shape:
        return False
    if target.dtype == struct.dtype:
        return True
    if jnp.issubdtype(target.dtype, jnp.floating) and jnp.issubdtype(struct.dtype, jnp.floating):
        return bool(float(jnp.finfo(target.dtype).max) >= float(jnp.finfo(struct.dtype).max))
    return all(jnp.issubdtype(d, jnp.integer) for d in (target.dtype, struct.dtype)) and _integers_fit(
        state_dict[key], target.dtype
    )


def _integers_fit(value: np.ndarray[Any, Any], dtype: Any) -> bool:
    if not (jnp.issubdtype(dtype, jnp.integer) and jnp.issubdtype(value.dtype, jnp.integer) and value.size):
        return True
    limits, own = jnp.iinfo(dtype), jnp.iinfo(value.dtype)
    if limits.min <= own.min and own.max <= limits.max:
        return True
    return bool(int(value.min()) >= limits.min and int(value.max()) <= limits.max)
