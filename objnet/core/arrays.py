"""What counts as an array, and the one conversion at the border of every functional."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def is_array(x: Any) -> bool:
    """Whether ``x`` is a jax array (concrete or traced); numpy arrays and scalars are not."""
    return isinstance(x, jax.Array)


def as_array(x: Any) -> jax.Array:
    """``x`` as a jax array: Parameters and views give their value, numpy arrays and Python numbers are converted.

    Raises:
        TypeError: for anything else, a torch tensor by name.
    """
    if isinstance(x, jax.Array):
        return x
    convert = getattr(x, "__jax_array__", None)
    if convert is not None:
        return convert()
    if isinstance(x, (np.ndarray, np.generic, bool, int, float, complex)):
        return jnp.asarray(x)
    if type(x).__module__.partition(".")[0] == "torch":
        raise TypeError("got a torch.Tensor where a jax array is wanted; pass jax.numpy.asarray(tensor.detach().numpy())")
    raise TypeError(f"expected an array, got {type(x).__module__}.{type(x).__qualname__}")
