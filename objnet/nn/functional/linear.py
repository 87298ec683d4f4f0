"""Linear and bilinear maps."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from objnet.core.arrays import as_array
from objnet.core.autocast import low_precision, widest_precision
from objnet.core.precision import matmul_precision
from objnet.nn.functional._common import broadcast_into, widen
from objnet.nn.functional._rows import every_row

__all__ = ["bilinear", "linear"]


@low_precision
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
    # As one matrix: with more dimensions XLA copies the transposed gradient for the weight's.  Jitted forward and backward on
    # CPU, x + down(gelu(up(x))) at (8, 128, 256): 0.58-1.0 of the time.
    rows = input.reshape(-1, input.shape[-1]) if input.ndim > 2 and input.size else input
    output = jnp.matmul(rows, weight.T, precision=matmul_precision(input, weight))
    output = output.reshape(*input.shape[:-1], *weight.shape[:-1])
    if bias is None:
        return output
    bias = as_array(bias)
    if weight.ndim == 1:
        raise RuntimeError("linear with a 1-d weight takes no bias: give the weight the shape (1, in_features)")
    if bias.dtype != output.dtype:
        raise RuntimeError(f"linear needs one dtype, got {output.dtype} input and {bias.dtype} bias")
    if bias.shape == (1, *output.shape):
        bias = bias[0]  # torch treats a 1-d input as a batch of one
    # in float32 for half precision: the bias's gradient sums over all rows
    wide = widen(bias)
    spread = every_row if bias.shape == output.shape[-1:] else partial(broadcast_into, "the bias")
    return (widen(output) + spread(wide, output.shape)).astype(output.dtype)


@widest_precision
def bilinear(input1: jax.Array, input2: jax.Array, weight: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """``input1 @ weight[k] @ input2 + bias[k]`` for every output k (torch's ``F.bilinear``).

    Args:
        input1: shape (..., in1_features).
        input2: shape (..., in2_features), with the same leading dimensions.
        weight: shape (out_features, in1_features, in2_features).
        bias: shape (out_features,), or another whose first dimension is that and that is broadcast with the result.

    Returns:
        Shape (..., out_features); all arguments have one dtype, and so has the result.

    Raises:
        RuntimeError: shapes or dtypes that do not fit.
        IndexError: arguments without a dimension, a weight with too few.
        NotImplementedError: booleans.
    """
    x, y, w = as_array(input1), as_array(input2), as_array(weight)
    b = None if bias is None else as_array(bias)
    arrays = {"input1": x, "input2": y, "weight": w} | ({} if b is None else {"bias": b})
    _check_bilinear(arrays, x, y, w, b)
    # the smaller of the two ways round between the products; in float32 for half precision
    first, second = (x, y) if w.shape[1] >= w.shape[2] else (y, x)
    order = "oij" if first is x else "oji"
    precision = matmul_precision(x, w)
    between = jnp.einsum(f"...i,{order}->...oj", widen(first), widen(w), precision=precision)
    output = jnp.einsum("...oj,...j->...o", between, widen(second), precision=precision)
    if b is None:
        return output.astype(x.dtype)
    try:
        return (output + widen(b)).astype(x.dtype)
    except (TypeError, ValueError):
        raise RuntimeError(f"bilinear: a bias of shape {b.shape} does not broadcast with the result, {output.shape}") from None


def _check_bilinear(arrays: dict[str, jax.Array], x: jax.Array, y: jax.Array, w: jax.Array, b: jax.Array | None) -> None:
    if len({array.dtype for array in arrays.values()}) > 1:
        raise RuntimeError(f"bilinear needs one dtype, got {', '.join(f'{k}: {v.dtype}' for k, v in arrays.items())}")
    if x.dtype == jnp.bool_:
        raise NotImplementedError("bilinear is not implemented for booleans")
    if x.ndim != y.ndim or x.shape[:-1] != y.shape[:-1]:
        raise RuntimeError(f"bilinear: the inputs must agree in all dimensions but the last, got {x.shape} and {y.shape}")
    for name, array in arrays.items():
        if array.ndim == 0:
            raise IndexError(f"bilinear: {name} has no dimensions")
    if w.ndim == 1 or (w.ndim == 2 and w.shape[1] == x.shape[-1]):
        raise IndexError(
            f"bilinear: the weight must have 3 dimensions, (out_features, in1_features, in2_features), got {w.shape}"
        )
    if w.ndim != 3 or w.shape[1:] != (x.shape[-1], y.shape[-1]) or 0 in w.shape[1:]:
        raise RuntimeError(
            f"bilinear: inputs of shapes {x.shape} and {y.shape} need a weight of shape (out_features, {x.shape[-1]}, {y.shape[-1]}) "
            f"with features in both, got {w.shape}"
        )
    if b is not None and b.shape[0] != w.shape[0]:
        raise RuntimeError(f"bilinear: the bias must be of shape {w.shape[:1]}, got {b.shape}")
