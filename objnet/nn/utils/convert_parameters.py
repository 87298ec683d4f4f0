"""All parameters as one vector, and back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from objnet.core.tensor import TensorMethods
from objnet.nn.functional._common import common_dtype

__all__ = ["parameters_to_vector", "vector_to_parameters"]


def parameters_to_vector(parameters: Iterable[Any]) -> jax.Array:
    """The elements of all parameters in a row (torch).

    Args:
        parameters: Parameters or arrays of any shapes; several dtypes give the one they promote to.

    Raises:
        ValueError: there are none. AttributeError: an item is neither. TypeError: they lie on different devices.
    """
    arrays = [_value(p) for p in parameters]
    if not arrays:
        raise ValueError("parameters_to_vector expected at least one parameter, got none (an iterator that was used before?)")
    _check_devices(arrays)
    dtype = common_dtype(*arrays)
    return jnp.concatenate([a.reshape(-1).astype(dtype) for a in arrays])


def vector_to_parameters(vec: Any, parameters: Iterable[Any]) -> None:
    """Cut a vector into pieces that become the values of the parameters, in order (torch).

    Args:
        vec: what :func:`parameters_to_vector` gave; its dtype becomes the parameters', elements left over are not used.
        parameters: the Parameters to write.

    Raises:
        TypeError: ``vec`` is no array. RuntimeError: it is too short, or not floating point. AttributeError: an item is no
        Parameter.
    """
    if not isinstance(vec, (jax.Array, TensorMethods)):
        raise TypeError(f"expected an array, but got: {type(vec).__name__}")
    vec = _value(vec)
    start = 0
    for parameter in parameters:
        if not isinstance(parameter, TensorMethods):
            raise AttributeError(
                f"vector_to_parameters writes Parameters, got {type(parameter).__name__}, which has no data to set"
            )
        piece = vec[start : start + parameter.numel()]
        if piece.size != parameter.numel():
            raise RuntimeError(
                f"shape '{list(parameter.shape)}' is invalid for input of size {piece.size}: vec has shape {vec.shape}"
            )
        if getattr(parameter, "requires_grad", False) and not jnp.issubdtype(vec.dtype, jnp.inexact):
            raise RuntimeError(
                f"data set to a tensor that requires gradients must be floating point or complex dtype, got {vec.dtype}"
            )
        parameter.data = piece.reshape(parameter.shape)
        start += parameter.numel()


def _value(item: Any) -> jax.Array:
    if isinstance(item, TensorMethods):
        return item._read()
    if not isinstance(item, jax.Array):
        raise AttributeError(f"expected Parameters or arrays, got {type(item).__name__}")
    return item


def _check_devices(arrays: list[jax.Array]) -> None:
    places = {frozenset(a.devices()) for a in arrays if not isinstance(a, jax.core.Tracer) and a.committed}
    if len(places) > 1:
        raise TypeError("Found two parameters on different devices, this is currently not supported.")
