"""Scaling to unit norm, and distances and angles between vectors."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from objnet.core.arrays import as_array
from objnet.core.autocast import full_precision
from objnet.nn.functional._common import common_dtype, is_floating, normalise_dim, widen
from objnet.nn.functional._norm import check_norm, vector_norm

__all__ = ["cosine_similarity", "normalize", "pairwise_distance", "pdist"]


@full_precision
def normalize(
    input: jax.Array,
    p: float = 2.0,
    dim: int | tuple[int, ...] | None = 1,
    eps: float = 1e-12,
    out: None = None,
) -> jax.Array:
    """``input`` divided by its p-norm along ``dim``, or by ``eps`` where the norm is smaller (torch's ``F.normalize``).

    Args:
        input: any shape, floating point or complex.
        p: any number, infinite ones too.
        dim: one dimension or several, which are taken together; None or () takes all.
        eps: the smallest divisor.
        out: not supported, arrays are immutable.

    Raises:
        IndexError: there is no dimension ``dim``.
        RuntimeError: integers and booleans, a dimension named twice, an infinite or negative ``p`` with an empty one.
        NotImplementedError: ``out``.
    """
    if out is not None:
        raise NotImplementedError("normalize(out=...): arrays are immutable, use the result")
    input, p, eps = as_array(input), float(p), float(eps)
    if not jnp.issubdtype(input.dtype, jnp.inexact):
        raise RuntimeError(f"normalize needs a floating point or complex input, got {input.dtype}")
    dims = dim if isinstance(dim, tuple | list) else () if dim is None else (dim,)
    axes = tuple(normalise_dim(d, input.ndim) for d in dims) or tuple(range(input.ndim))
    if len(set(axes)) != len(axes):
        raise RuntimeError(f"normalize: a dimension appears more than once in dim={dim}")
    array = widen(input.reshape(1) if input.ndim == 0 else input)
    axes = axes or (0,)
    check_norm("normalize", p, [array.shape[axis] for axis in axes])
    norm = vector_norm(array, p, axes)
    return (array / jnp.where(norm < eps, eps, norm).astype(array.dtype)).astype(input.dtype).reshape(input.shape)


@full_precision
def cosine_similarity(x1: jax.Array, x2: jax.Array, dim: int = 1, eps: float = 1e-8) -> jax.Array:
    """The cosine of the angle between vectors along ``dim`` (torch's ``F.cosine_similarity``).

    Args:
        x1, x2: shapes that broadcast, floating point; one of them may be of integers.
        dim: the dimension of the vectors, after broadcasting; the result lacks it.
        eps: the smallest norm to divide by.

    Returns:
        The dtype torch promotes the arguments to. A norm below ``eps`` counts as ``eps``, with its own gradient.

    Raises:
        IndexError: there is no dimension ``dim``.
        RuntimeError: shapes that do not broadcast, no floating point array, complex numbers, a negative ``eps``.
    """
    x1, x2, eps = as_array(x1), as_array(x2), float(eps)
    dtype = common_dtype(x1, x2)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise RuntimeError(f"cosine_similarity needs floating point arrays, got {x1.dtype} and {x2.dtype}")
    if eps < 0:
        raise RuntimeError(f"cosine_similarity: eps must not be negative, got {eps}")
    shape = _broadcast("cosine_similarity", x1, x2)
    axis = normalise_dim(dim, len(shape))
    units = []
    for x in (x1, x2):
        wide = jnp.broadcast_to(widen(x.astype(dtype)), shape or (1,))
        norm = vector_norm(wide, 2.0, (axis,))
        # torch clamps the norm unseen by autograd: the gradient of a small one is that of the norm itself
        units.append(wide / (norm + lax.stop_gradient(jnp.where(norm < eps, eps - norm, 0.0))))
    return jnp.sum(units[0] * units[1], axis).astype(dtype)


@full_precision
def pairwise_distance(x1: jax.Array, x2: jax.Array, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> jax.Array:
    """The p-norm of ``x1 - x2 + eps`` along the last dimension (torch's ``F.pairwise_distance``).

    Args:
        x1, x2: shapes that broadcast; any numbers. Integers give float32, complex numbers a real distance.
        p: any number, infinite ones too.
        eps: added to every difference.
        keepdim: keep the last dimension, with size 1.

    Raises:
        RuntimeError: shapes that do not broadcast, booleans, an infinite or negative ``p`` with an empty last dimension.
    """
    x1, x2, p = as_array(x1), as_array(x2), float(p)
    if jnp.bool_ in (x1.dtype, x2.dtype):
        raise RuntimeError("pairwise_distance takes no booleans: cast them to a floating point dtype")
    shape = _broadcast("pairwise_distance", x1, x2)
    common = common_dtype(x1, x2)
    dtype = common if jnp.issubdtype(common, jnp.inexact) else np.dtype(np.float32)
    # integers are subtracted as such, as in torch; half precision numbers in float32
    difference = widen(x1.astype(common)) - widen(x2.astype(common))
    difference = (difference if common == dtype else difference.astype(dtype)) + float(eps)
    difference = difference.reshape(shape or (1,))
    check_norm("pairwise_distance", p, difference.shape[-1:])
    norm = vector_norm(difference, p, (difference.ndim - 1,))
    real = norm.dtype if jnp.issubdtype(dtype, jnp.complexfloating) else dtype
    return (norm.reshape(*shape[:-1], 1) if keepdim and shape else norm.reshape(shape[:-1])).astype(real)


@full_precision
def pdist(input: jax.Array, p: float = 2.0) -> jax.Array:
    """The p-norm distances between every two rows, in the order (0, 1), (0, 2), ..., (1, 2), ... (torch's ``F.pdist``).

    Args:
        input: shape (N, M), floating point.
        p: not negative; infinite takes the largest difference, 0 counts the differences.

    Returns:
        Shape (N * (N - 1) / 2,). The gradient of a distance 0 is 0.

    Raises:
        RuntimeError: another shape or dtype, a negative ``p`` or NaN.
    """
    input, p = as_array(input), float(p)
    if input.ndim != 2:
        raise RuntimeError(f"pdist needs an input of shape (N, M), got {input.shape}")
    if not is_floating(input):
        raise RuntimeError(f"pdist needs a floating point input, got {input.dtype}")
    if not p >= 0:
        raise RuntimeError(f"pdist: p must not be negative, got {p}")
    rows, columns = np.triu_indices(input.shape[0], 1)
    if input.size == 0:
        return jnp.zeros(rows.shape, input.dtype)
    wide = widen(input)
    # All N * N pairs, of which half are kept: the difference and the norm fuse into one loop that stores no (N, N, M) array,
    # forward and backward; a gather of the rows would store two, and scatter them back.
    difference = wide[:, None, :] - wide[None, :, :]
    table = _largest(difference) if math.isinf(p) else vector_norm(difference, p, (2,))[:, :, 0]
    return table[rows, columns].astype(input.dtype)


@jax.custom_jvp
def _largest(x: jax.Array) -> jax.Array:
    """The largest magnitude along the last dimension; in ``pdist`` every equal one has the whole gradient, as in torch."""
    return jnp.max(jnp.abs(x), -1)


@_largest.defjvp
def _largest_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (tangent,) = primals, tangents
    y = _largest(x)
    return y, jnp.sum(jnp.where(jnp.abs(x) == y[..., None], jnp.sign(x), 0.0) * tangent, -1)


def _broadcast(function: str, x1: jax.Array, x2: jax.Array) -> tuple[int, ...]:
    try:
        return np.broadcast_shapes(x1.shape, x2.shape)
    except ValueError:
        raise RuntimeError(f"{function}: the shapes {x1.shape} and {x2.shape} do not broadcast") from None
