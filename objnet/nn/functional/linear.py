"""Linear maps."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from objnet.core.arrays import as_array
from objnet.core.precision import matmul_precision
from objnet.nn.functional._common import broadcast_into

__all__ = ["linear"]


def linear(input: jax.Array, weight: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """``input @ weight.T + bias`` (torch's ``F.linear``).

    Args:
        input: shape (..., in_features).
        weight: shape (out_features, in_features), or (in_features,), which takes no bias; dtype of ``input``.
        bias: shape (out_features,) or any other that broadcasts to the result; dtype of ``input``.

    Returns:
        Shape (..., out_features), or (...) for a 1-d weight; dtype of ``input``.

    Raises:
        RuntimeError: shapes or dtypes that do not fit.
        NotImplementedError: booleans.
    """
    input, weight = as_array(input), as_array(weight)
    if input.ndim == 0 or weight.ndim == 0:
        raise RuntimeError(f"linear needs at least 1-d arguments, got {input.ndim}-d input and {weight.ndim}-d weight")
    if weight.ndim > 2:
        raise RuntimeError(f"linear needs a weight of at most 2 dimensions, got shape {weight.shape}")
    if input.shape[-1] != weight.shape[-1]:
        raise RuntimeError(f"linear: the last dimension of the input {input.shape} is not the last of the weight {weight.shape}")
    if input.dtype != weight.dtype:
        raise RuntimeError(f"linear needs one dtype, got {input.dtype} input and {weight.dtype} weight")
    if input.dtype == jnp.bool_:
        raise NotImplementedError("linear is not implemented for booleans")
    output = jnp.matmul(input, weight.T, precision=matmul_precision(input, weight))
    if bias is None:
        return output
    bias = as_array(bias)
    if weight.ndim == 1:
        raise RuntimeError("linear with a 1-d weight takes no bias: give the weight the shape (1, in_features)")
    if bias.dtype != output.dtype:
        raise RuntimeError(f"linear needs one dtype, got {output.dtype} input and {bias.dtype} bias")
    return output + broadcast_into("the bias", bias, output.shape)
