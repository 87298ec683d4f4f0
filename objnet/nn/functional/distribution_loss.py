"""Losses that measure a distribution: Kullback-Leibler, and the negative log-likelihoods of Poisson and Gaussian."""

from __future__ import annotations

import math
import warnings
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from objnet.core.arrays import as_array
from objnet.core.autocast import full_precision
from objnet.nn.functional._common import (
    common_dtype,
    host,
    is_concrete,
    is_floating,
    reduced,
    require_reduction,
    resolve_reduction,
)
from objnet.nn.functional._loss import broadcast, float_dtype, refuse_complex, wide_dtype

__all__ = ["gaussian_nll_loss", "kl_div", "poisson_nll_loss"]


@full_precision
def kl_div(
    input: jax.Array,
    target: jax.Array,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> jax.Array:
    """``target * (log(target) - input)``, the terms of the Kullback-Leibler divergence (torch's ``F.kl_div``).

    Args:
        input: log-probabilities, floating point.
        target: probabilities, or log-probabilities with ``log_target``; broadcasts with ``input``. A probability 0 adds 0.
        reduction: ``"none"``, ``"sum"``, ``"mean"`` over all elements (with torch's warning, since the divergence is not
            that), or ``"batchmean"``, the sum divided by the first size of ``input``.

    Returns:
        0-d, or the broadcast shape for ``"none"``; the dtype both arguments promote to. As in torch the gradient with
        respect to a target that is exactly 0 is NaN.

    Raises:
        ValueError: an unknown ``reduction``.
        RuntimeError: shapes that do not broadcast, dtypes that are not floating point.
    """
    by_batch = reduction == "batchmean"
    if size_average is not None or reduce is not None:
        reduction = resolve_reduction(reduction, size_average, reduce)
    elif by_batch:
        reduction = "sum"
    else:
        if reduction == "mean":
            message = "reduction='mean' divides by the number of elements: pass 'batchmean' for the divergence"
            warnings.warn(message, UserWarning, stacklevel=3)
        reduction = resolve_reduction(reduction)
    input, target = as_array(input), as_array(target)
    if not (is_floating(input) and is_floating(target)):
        raise RuntimeError(f"kl_div needs floating point arguments, got {input.dtype} and {target.dtype}")
    result, size = common_dtype(input, target), input.shape[:1]
    x, t = (a.astype(wide_dtype(result)) for a in broadcast("kl_div", input, target))
    losses = jnp.exp(t) * (t - x) if log_target else jnp.where(t == 0, 0.0, t * jnp.log(t)) - t * x
    loss = reduced(losses, reduction)
    if by_batch and size:
        loss = loss / size[0] if size[0] else loss * jnp.nan
    return loss.astype(result)


@full_precision
def poisson_nll_loss(
    input: jax.Array,
    target: jax.Array,
    log_input: bool = True,
    full: bool = False,
    size_average: bool | None = None,
    eps: float = 1e-8,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> jax.Array:
    """Negative log-likelihood of counts under a Poisson distribution (torch's ``F.poisson_nll_loss``).

    Args:
        input: the logarithm of the rate, or the rate itself without ``log_input``.
        target: counts; broadcasts with ``input``.
        log_input: the loss is ``exp(input) - target * input``, else ``input - target * log(input + eps)``.
        full: add Stirling's approximation of ``log(target!)`` where the target is above 1.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        0-d, or the broadcast shape for ``"none"``; the dtype both arguments promote to, float32 for integers. As in torch
        the gradient of ``full`` with respect to a target that is 0 or negative is NaN.

    Raises:
        ValueError: an unknown ``reduction``.
        RuntimeError: shapes that do not broadcast, booleans where torch cannot subtract them.
        NotImplementedError: complex numbers.
    """
    legacy = size_average is not None or reduce is not None
    reduction = resolve_reduction(reduction, size_average, reduce) if legacy else require_reduction(reduction)
    input, target = as_array(input), as_array(target)
    refuse_complex("poisson_nll_loss", input, target)
    if target.dtype == jnp.bool_ and (full or input.dtype == jnp.bool_):
        raise RuntimeError("poisson_nll_loss takes no boolean target here: convert it to the input's dtype")
    result = float_dtype(input.astype(float_dtype(input)), target)  # the exponential of an integer is a float32
    x, t = (a.astype(wide_dtype(result)) for a in broadcast("poisson_nll_loss", input, target))
    losses = jnp.exp(x) - t * x if log_input else x - t * jnp.log(x + float(eps))
    if full:
        stirling = t * jnp.log(t) - t + 0.5 * jnp.log(2 * math.pi * t)
        losses = losses + jnp.where(t > 1, stirling, 0.0)
    return reduced(losses, reduction).astype(result)


@full_precision
def gaussian_nll_loss(
    input: jax.Array,
    target: jax.Array,
    var: jax.Array | float,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> jax.Array:
    """``(log(var) + (input - target) ** 2 / var) / 2`` (Nix and Weigend 1994; torch's ``F.gaussian_nll_loss``).

    Args:
        input: means.
        target: samples; broadcasts with ``input``.
        var: variances: a Python float, or an array of the shape of ``input``, of that shape without its last dimension, or
            with one dimension of size 1. Raised to ``eps``, which its gradient does not see.
        full: add ``log(2 * pi) / 2``.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        0-d, or the broadcast shape for ``"none"``; the dtype all arguments promote to.

    Raises:
        ValueError: a variance that is negative (in compiled code, where that cannot be seen, its loss is NaN) or of another
            shape; an unknown ``reduction``.
        TypeError: a ``var`` that is no float and no array.
        RuntimeError: shapes that do not broadcast, an integer ``var``.
        NotImplementedError: complex numbers.
    """
    input, target, var = as_array(input), as_array(target), _variance(var, input)
    require_reduction(reduction)
    refuse_complex("gaussian_nll_loss", input, target, var)
    if not is_floating(var):
        raise RuntimeError(f"gaussian_nll_loss needs a floating point var, got {var.dtype}")
    result = float_dtype(input, target, var)
    x, t, v = (a.astype(wide_dtype(result)) for a in broadcast("gaussian_nll_loss", input, target, var))
    low = v < eps
    raised = jnp.where(low, v + lax.stop_gradient(jnp.where(v < 0, jnp.nan, float(eps) - v)), v)
    losses = 0.5 * (jnp.log(raised) + jnp.square(x - t) / raised)
    if full:
        losses = losses + 0.5 * math.log(2 * math.pi)
    return reduced(losses, reduction).astype(result)


def _variance(var: Any, input: jax.Array) -> jax.Array:
    if isinstance(var, int):
        raise TypeError(f"gaussian_nll_loss: var must be a float or an array, got {var!r}")
    scalar = isinstance(var, float) or (isinstance(var, jax.Array) and var.ndim == 0 and var.weak_type)
    var = as_array(var)
    if is_concrete(var) and (host(var) < 0).any():
        raise ValueError("gaussian_nll_loss: var has negative entries")
    if scalar:  # a weak type is a Python float that jit has traced
        return jnp.broadcast_to(var.astype(input.dtype if is_floating(input) else jnp.float32), input.shape)
    if var.shape == input.shape:
        return var
    if var.shape == input.shape[:-1]:
        return jnp.expand_dims(var, -1)
    if var.ndim == input.ndim and sum(n for n, m in zip(var.shape, input.shape) if n != m) == 1:
        return var
    raise ValueError(f"gaussian_nll_loss: var of shape {var.shape} does not fit the input's {input.shape}")
