"""What counts as an array, and the one conversion at the border of every functional."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from objnet.core import errors


def is_array(x: Any) -> bool:
    """Whether ``x`` is a jax array (concrete or traced); numpy arrays and scalars are not."""
    return isinstance(x, jax.Array)


def as_array(x: Any) -> jax.Array:
    """``x`` as a jax array: Parameters and views give their value, numpy arrays and Python numbers are converted.

    Raises:
        TypeError: for anything else, a torch tensor by name.
        IntegerRangeError: 64-bit integers that jax would wrap into 32 bits.
    """
    if isinstance(x, jax.Array):
        return x
    convert = getattr(x, "__jax_array__", None)
    if convert is not None:
        return convert()
    if isinstance(x, (np.ndarray, np.generic)):
        return jnp.asarray(narrowed(x))
    if isinstance(x, (bool, int, float, complex)):
        return jnp.asarray(x)
    if type(x).__module__.partition(".")[0] == "torch":
        raise errors.torch_tensor()
    raise TypeError(f"expected an array, got {type(x).__module__}.{type(x).__qualname__}")


def narrowed(x: Any) -> Any:
    """A numpy array or scalar in the dtype jax gives it; 64 bits are narrowed here.

    jax would keep its own narrowed copy for as long as a program holds the array, and so miss what is changed in place.

    Raises:
        IntegerRangeError: 64-bit integers that jax would wrap into 32 bits.
    """
    dtype = jax.dtypes.canonicalize_dtype(x.dtype)
    if dtype == x.dtype:
        return x
    if x.dtype.kind in "iu" and x.size:
        limits = np.iinfo(dtype)
        if int(x.min()) < limits.min or int(x.max()) > limits.max:
            raise errors.IntegerRangeError(
                f"a numpy array of {x.dtype} holds {int(x.min())} to {int(x.max())}{errors.where()}, which {dtype} cannot: jax has no "
                "64-bit integers unless jax.config.update('jax_enable_x64', True) comes first."
            )
    return x.astype(dtype)
