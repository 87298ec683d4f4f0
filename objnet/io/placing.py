"""Arrays read from files, as users get them."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from objnet.core.placement import place


def to_jax(array: np.ndarray[Any, Any], device: Any = None) -> Any:
    """A copy on a device, or the default one; in host memory where jax would narrow the dtype."""
    if jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
        return np.array(array, order="C")
    return place(array, array.dtype, device)
