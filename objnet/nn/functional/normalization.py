"""Normalisation of single examples: over features and over groups of channels.

float16 and bfloat16 are normalised in float32, as in torch; their weights and biases may then be float32 too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from objnet.core.arrays import as_array
from objnet.core.autocast import full_precision
from objnet.nn.functional._common import is_half, require_floating, widen
from objnet.nn.functional._rows import every_row

__all__ = ["group_norm", "layer_norm", "rms_norm"]


@full_precision
def layer_norm(
    input: jax.Array,
    normalized_shape: Sequence[int],
    weight: jax.Array | None = None,
    bias: jax.Array | None = None,
    eps: float = 1e-5,
) -> jax.Array:
    """Mean 0 and variance 1 over the last dimensions, then ``* weight + bias`` (Ba et al. 2016).

    Args:
        input: shape (..., \\*normalized_shape), floating point.
        normalized_shape: the trailing dimensions to normalise over together.
        weight, bias: shape ``normalized_shape``.
        eps: added to the variance.

    Returns:
        Shape and dtype of ``input``.

    Raises:
        TypeError: ``normalized_shape`` is no sequence.
        RuntimeError: shapes or dtypes that do not fit.
        NotImplementedError: dtypes that are not floating point.
    """
    input = as_array(input)
    parameters = {name: as_array(x) for name, x in (("weight", weight), ("bias", bias)) if x is not None}
    axes = _trailing_axes("layer_norm", input, normalized_shape, parameters)
    require_floating("layer_norm", input)
    check_dtypes("layer_norm", input, parameters)
    output = _standardised(widen(input), axes, float(eps), True)
    if "weight" in parameters:
        output = output * every_row(widen(parameters["weight"]), input.shape)
    if "bias" in parameters:
        output = output + every_row(widen(parameters["bias"]), input.shape)
    return output.astype(input.dtype)


@full_precision
def rms_norm(
    input: jax.Array, normalized_shape: Sequence[int], weight: jax.Array | None = None, eps: float | None = None
) -> jax.Array:
    """Mean square 1 over the last dimensions, then ``* weight`` (Zhang and Sennrich 2019; torch's ``F.rms_norm``).

    Args:
        input: shape (..., \\*normalized_shape), floating point or complex (then by the mean of squares, not of magnitudes).
        normalized_shape: the trailing dimensions to normalise over together.
        weight: shape ``normalized_shape``, of any dtype; it is cast.
        eps: added to the mean square; None is the epsilon of float32, or of float64 for that dtype.

    Returns:
        Shape and dtype of ``input``.

    Raises:
        TypeError: ``normalized_shape`` is no sequence.
        ValueError: the input has fewer dimensions than ``normalized_shape``.
        RuntimeError: shapes that do not fit.
        NotImplementedError: integers and booleans.
    """
    input = as_array(input)
    parameters = {} if weight is None else {"weight": as_array(weight)}
    axes = _trailing_axes("rms_norm", input, normalized_shape, parameters)
    if not jnp.iscomplexobj(input):
        require_floating("rms_norm", input)
    wide = widen(input)
    output = _standardised(wide, axes, float(jnp.finfo(wide.dtype).eps if eps is None else eps), False)
    for x in parameters.values():
        output = output * every_row(x.astype(wide.dtype), input.shape)
    return output.astype(input.dtype)


@full_precision
def group_norm(
    input: jax.Array,
    num_groups: int,
    weight: jax.Array | None = None,
    bias: jax.Array | None = None,
    eps: float = 1e-5,
) -> jax.Array:
    """Mean 0 and variance 1 in every group of channels of every example, then ``* weight + bias`` (Wu and He 2018).

    Args:
        input: shape (N, C, ...), floating point.
        num_groups: the number of groups, a divisor of C.
        weight, bias: shape (C,).
        eps: added to the variance.

    Returns:
        Shape and dtype of ``input``.

    Raises:
        ValueError: a single value a group and a single example.
        ZeroDivisionError: no groups.
        RuntimeError: shapes, dtypes or a number of groups that do not fit.
        NotImplementedError: dtypes that are not floating point.
    """
    input = as_array(input)
    parameters = {name: as_array(x) for name, x in (("weight", weight), ("bias", bias)) if x is not None}
    _check_groups(input, num_groups, parameters)
    require_floating("group_norm", input)
    check_dtypes("group_norm", input, parameters)
    batch, channels = input.shape[:2]
    if input.size == 0:
        return input
    groups = widen(input).reshape(batch, num_groups, channels // num_groups, -1)
    columns = {name: widen(x).reshape(1, num_groups, -1, 1) for name, x in parameters.items()}
    # One factor a channel, left to autodiff.  Jitted forward and backward on CPU, against the analytic rule of layer_norm
    # with weight and bias after it: 0.66-0.97 of the time at (8, 64, 32, 32), (32, 32, 16, 16) and (16, 128, 8, 8).
    centred = groups - jnp.mean(groups, (2, 3), keepdims=True)
    factor = lax.rsqrt(jnp.mean(jnp.square(centred), (2, 3), keepdims=True) + float(eps))
    if "weight" in columns:
        factor = columns["weight"] * factor
    output = centred * factor
    if "bias" in columns:
        output = output + columns["bias"]
    return output.astype(input.dtype).reshape(input.shape)


def check_dtypes(function: str, input: jax.Array, parameters: dict[str, jax.Array]) -> None:
    """Parameters of one dtype: that of ``input``, or float32 for a half precision input.

    Raises:
        RuntimeError: they have another.
    """
    dtypes = {x.dtype for x in parameters.values()}
    if len(dtypes) > 1 or not dtypes <= {input.dtype, jnp.dtype(jnp.float32) if is_half(input) else input.dtype}:
        found = ", ".join(f"{name} {x.dtype}" for name, x in parameters.items())
        raise RuntimeError(f"{function}: dtypes do not fit: input {input.dtype}, {found}")


@partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def _standardised(x: jax.Array, axes: tuple[int, ...], eps: float, centre: bool) -> jax.Array:
    """``x`` scaled to mean square 1 along ``axes``, with ``centre`` after its mean is taken away."""
    return _standardise(x, axes, eps, centre)[0]


@_standardised.defjvp
def _standardised_jvp(
    axes: tuple[int, ...], eps: float, centre: bool, primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    # Scaling the tangent first puts the factor last in the transposed rule, so the additions of the residual stream do
    # not fuse into it; the barrier keeps XLA from computing the output again for the backward pass.  Jitted forward and
    # backward on CPU, against autodiff: four times x + linear(layer_norm(x)) takes 0.71 of the time at (8, 128, 256),
    # 0.96 at (32, 128, 768); layer_norm alone 0.93 and 0.62.  A custom_vjp with the same rule is no faster.
    (x,), (tangent,) = primals, tangents
    y, scale = lax.optimization_barrier(_standardise(x, axes, eps, centre))
    mean = partial(jnp.mean, axis=axes, keepdims=True)
    scaled = tangent * scale
    slope = scaled - y * mean(y * scaled)
    return y, slope - mean(scaled) if centre else slope


def _standardise(x: jax.Array, axes: tuple[int, ...], eps: float, centre: bool) -> tuple[jax.Array, jax.Array]:
    if centre:
        x = x - jnp.mean(x, axes, keepdims=True)
    scale = lax.rsqrt(jnp.mean(jnp.square(x), axes, keepdims=True) + eps)
    return x * scale, scale


def _trailing_axes(
    function: str, input: jax.Array, normalized_shape: Sequence[int], parameters: dict[str, jax.Array]
) -> tuple[int, ...]:
    if not isinstance(normalized_shape, Sequence):
        raise TypeError(f"{function}: normalized_shape must be a sequence of ints, got {normalized_shape!r}")
    shape = tuple(normalized_shape)
    if not shape:
        raise RuntimeError(f"{function}: normalized_shape must name at least one dimension, got an empty one")
    for name, x in parameters.items():
        if x.shape != shape:
            raise RuntimeError(f"{function}: {name} must have the shape {shape} of normalized_shape, got {x.shape}")
    if input.shape[-len(shape) :] != shape:
        error = ValueError if function == "rms_norm" and input.ndim < len(shape) else RuntimeError  # torch's classes
        raise error(f"{function}: normalized_shape={shape} needs an input of shape (*, {shape}), got {input.shape}")
    return tuple(range(input.ndim - len(shape), input.ndim))


def _check_groups(input: jax.Array, num_groups: int, parameters: dict[str, jax.Array]) -> None:
    if input.ndim < 2:
        raise RuntimeError(f"group_norm needs an input of shape (N, C, ...), got {input.shape}")
    batch, channels = input.shape[:2]
    if num_groups == 0:
        raise ZeroDivisionError("group_norm: num_groups must be positive, got 0")
    # torch's own condition: it counts the groups of all examples together
    if math.prod(input.shape[2:], start=batch * channels // num_groups) == 1:
        raise ValueError(f"group_norm: expected more than 1 value per group, got {input.shape} and {num_groups} groups")
    if num_groups < 0 or channels % num_groups:
        raise RuntimeError(f"group_norm: num_groups={num_groups} must be a positive divisor of the {channels} channels")
    for name, x in parameters.items():
        if x.shape != (channels,):
            raise RuntimeError(f"group_norm: {name} must have the shape ({channels},), one a channel, got {x.shape}")
