"""Arrays of other libraries, taken in at the borders (``load_state_dict``) without importing those libraries."""

from __future__ import annotations

from typing import Any

import jax
import ml_dtypes
import numpy as np

from objnet.core.tensor import TensorMethods


def to_host_or_jax(value: Any) -> jax.Array | np.ndarray:
    """``value`` as a jax or numpy array of its own dtype; torch tensors of every dtype are taken too.

    Raises:
        TypeError: if it is no array.
    """
    if isinstance(value, (jax.Array, np.ndarray)):
        return value
    if isinstance(value, TensorMethods):
        return value._read()
    if isinstance(value, (np.generic, bool, int, float, complex)):
        return np.asarray(value)
    if is_torch_tensor(value):
        return _from_torch(value)
    raise TypeError(f"expected an array, got {type(value).__module__}.{type(value).__qualname__}")


def is_torch_tensor(value: Any) -> bool:
    """Whether ``value`` is a torch Tensor, told without importing torch."""
    return any(c.__module__ == "torch" and c.__name__ == "Tensor" for c in type(value).__mro__)


def own_dtype(dtype: Any) -> Any:
    """The name of a dtype of torch's; anything else is given back."""
    text = str(dtype)
    return text.removeprefix("torch.") if type(dtype).__module__ == "torch" and text.startswith("torch.") else dtype


def _from_torch(tensor: Any) -> np.ndarray:
    tensor = tensor.detach().cpu().contiguous()
    name = own_dtype(tensor.dtype)
    if hasattr(ml_dtypes, name):  # bfloat16 and the float8s, which numpy itself does not know
        import torch

        bits = {1: torch.uint8, 2: torch.int16}[tensor.element_size()]
        return tensor.view(bits).numpy().view(getattr(ml_dtypes, name))
    return np.array(tensor.numpy())  # a copy: the torch tensor may change later
