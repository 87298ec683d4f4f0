"""Losses of distances between embeddings."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from objnet.core.arrays import as_array
from objnet.core.autocast import full_precision
from objnet.nn.functional._common import reduced, require_reduction, resolve_reduction
from objnet.nn.functional._loss import broadcast, clamped, comparable, float_dtype, refuse_complex, wide_dtype
from objnet.nn.functional.distance import pairwise_distance

__all__ = ["cosine_embedding_loss", "triplet_margin_loss", "triplet_margin_with_distance_loss"]

_Distance = Callable[[jax.Array, jax.Array], jax.Array]


@full_precision
def cosine_embedding_loss(
    input1: jax.Array,
    input2: jax.Array,
    target: jax.Array,
    margin: float = 0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """``1 - cos`` where the target is 1, ``max(0, cos - margin)`` where it is -1 (torch's ``F.cosine_embedding_loss``).

    Args:
        input1, input2: embeddings, shapes (N, D) that broadcast, or (D,).
        target: 1 or -1, shape (N,), or () for embeddings without a batch. Any other value adds nothing, as in torch.
        margin: the cosine that is dissimilar enough.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        0-d, or the shape of ``target`` for ``"none"``; the dtype both inputs promote to, float32 for integers.

    Raises:
        ValueError: an unknown ``reduction``.
        RuntimeError: shapes that do not fit.
        NotImplementedError: complex numbers.
    """
    name, reduction = "cosine_embedding_loss", resolve_reduction(reduction, size_average, reduce)
    input1, input2, target = as_array(input1), as_array(input2), comparable(as_array(target))
    if target.ndim > 1:
        raise RuntimeError(f"{name} needs a target of shape (N,) or (), got {target.shape}")
    if input1.ndim != target.ndim + 1 or input2.ndim != target.ndim + 1:
        wanted = f"a target {target.shape} takes inputs with {target.ndim + 1} dimensions"
        raise RuntimeError(f"{name}: {wanted}, got {input1.shape} and {input2.shape}")
    refuse_complex(name, input1, input2)
    result = float_dtype(input1, input2)
    x, y = (a.astype(wide_dtype(result)) for a in broadcast(name, input1, input2))
    squares = (jnp.sum(x * x, -1) + 1e-12) * (jnp.sum(y * y, -1) + 1e-12)
    cos, target = broadcast(name, jnp.sum(x * y, -1) / jnp.sqrt(squares), target)
    nothing = jnp.zeros((), cos.dtype)
    losses = jnp.where(target == 1, 1 - cos, nothing) + jnp.where(target == -1, clamped(cos - float(margin)), nothing)
    return reduced(losses, reduction).astype(result)


@full_precision
def triplet_margin_loss(
    anchor: jax.Array,
    positive: jax.Array,
    negative: jax.Array,
    margin: float = 1.0,
    p: float = 2,
    eps: float = 1e-6,
    swap: bool = False,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """``max(0, margin + distance(anchor, positive) - distance(anchor, negative))`` (Balntas et al. 2016; torch's).

    Args:
        anchor, positive, negative: as many dimensions each, the last of them the embedding's; shapes that broadcast.
        margin: how much farther the negative should be.
        p: the norm of the distance, ``norm(x - y + eps)``.
        swap: use the distance of positive and negative where it is the smaller one.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        0-d, or the shape without the last dimension for ``"none"``; the dtype the arguments promote to, float32 for
        integers.

    Raises:
        ValueError: a ``margin`` that is not positive, an unknown ``reduction``.
        RuntimeError: shapes that do not fit, booleans.
    """
    reduction = resolve_reduction(reduction, size_average, reduce)
    _check_margin("triplet_margin_loss", margin)
    arrays = [as_array(x) for x in (anchor, positive, negative)]
    _check_dimensions("triplet_margin_loss", *arrays)
    result = float_dtype(*arrays)
    wide = [x if x.dtype == jnp.bool_ else x.astype(wide_dtype(result)) for x in arrays]
    distance = partial(pairwise_distance, p=p, eps=eps)
    losses = _triplets("triplet_margin_loss", distance, *wide, margin, swap)
    return reduced(losses, reduction).astype(jnp.finfo(result).dtype)


@full_precision
def triplet_margin_with_distance_loss(
    anchor: jax.Array,
    positive: jax.Array,
    negative: jax.Array,
    *,
    distance_function: _Distance | None = None,
    margin: float = 1.0,
    swap: bool = False,
    reduction: str = "mean",
) -> jax.Array:
    """:func:`triplet_margin_loss` with any distance (torch's ``F.triplet_margin_with_distance_loss``).

    Args:
        anchor, positive, negative: as many dimensions each.
        distance_function: takes two of them; None is ``pairwise_distance``.
        margin, swap, reduction: as there.

    Returns:
        0-d, or what the distances give for ``"none"``.

    Raises:
        ValueError: a ``margin`` that is not positive, an unknown ``reduction``.
        RuntimeError: shapes that do not fit.
    """
    name = "triplet_margin_with_distance_loss"
    require_reduction(reduction)
    _check_margin(name, margin)
    arrays = [as_array(x) for x in (anchor, positive, negative)]
    _check_dimensions(name, *arrays)
    if distance_function is None:
        return triplet_margin_loss(*arrays, margin=margin, swap=swap, reduction=reduction)
    return reduced(_triplets(name, distance_function, *arrays, margin, swap), reduction)


def _triplets(
    function: str,
    distance: _Distance,
    anchor: jax.Array,
    positive: jax.Array,
    negative: jax.Array,
    margin: float,
    swap: bool,
) -> jax.Array:
    near, far = broadcast(function, distance(anchor, positive), distance(anchor, negative))
    if swap:
        near, far, other = broadcast(function, near, far, distance(positive, negative))
        far = jnp.minimum(far, other)
    return clamped(float(margin) + near - far)


def _check_margin(function: str, margin: float) -> None:
    if margin <= 0:
        raise ValueError(f"{function}: the margin must be greater than 0, got {margin}")


def _check_dimensions(function: str, *arrays: jax.Array) -> None:
    if len({x.ndim for x in arrays}) > 1:
        shapes = ", ".join(str(x.shape) for x in arrays)
        raise RuntimeError(f"{function}: anchor, positive and negative must have as many dimensions, got {shapes}")
