"""Local response normalisation: every channel is divided by the power of its neighbours (Krizhevsky et al. 2012)."""

from __future__ import annotations

import operator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from objnet.core.arrays import as_array
from objnet.core.precision import matmul_precision
from objnet.nn.functional._common import require_floating, widen

__all__ = ["local_response_norm"]


def local_response_norm(input: jax.Array, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> jax.Array:
    """``input / (k + alpha * mean of squares of size neighbouring channels) ** beta`` (torch's ``F.local_response_norm``).

    Args:
        input: shape (N, C, ...) of three dimensions or more, floating point. Channels outside count as zero.
        size: the number of channels in a window; an even one reaches one further down than up.
        alpha, beta, k: Python numbers.

    Returns:
        Shape and dtype of ``input``.

    Raises:
        ValueError: fewer than three dimensions.
        TypeError: ``size`` is no integer.
        RuntimeError: ``size`` is not positive.
        NotImplementedError: dtypes that are not floating point.
    """
    input = as_array(input)
    if input.ndim < 3:
        raise ValueError(f"local_response_norm needs an input of 3 dimensions or more, (N, C, ...), got {input.shape}")
    if input.size == 0:
        return input
    size = operator.index(size)
    if size <= 0:
        raise RuntimeError(f"local_response_norm: size must be positive, got {size}")
    require_floating("local_response_norm", input)
    wide = widen(input)
    # Jitted forward and backward on CPU at (8, 64, 27, 27) and (8, 192, 13, 13), size 5: a sum of shifted slices takes
    # 2.8 times as long, a product with a banded matrix 1.3-1.6 times.
    rest = [1] * (input.ndim - 2)
    padding = [(0, 0), (size // 2, (size - 1) // 2), *[(0, 0) for _ in rest]]
    zero = np.zeros((), wide.dtype)
    sums = lax.reduce_window(jnp.square(wide), zero, lax.add, (1, size, *rest), (1, 1, *rest), padding)
    return (wide / (sums * (float(alpha) / size) + float(k)) ** float(beta)).astype(input.dtype)


def cross_map_lrn2d(input: jax.Array, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> jax.Array:
    """Local response normalisation as ``nn.CrossMapLRN2d`` has it, with torch's own numbers.

    torch's windows are odd: that of channel c goes from ``c - r + 1`` to ``c + r - 1``, ``r = (size - 1) // 2 + 1``, and
    channel 0, once in, is never taken out.  Its backward pass has windows of its own, so gradients are not the derivative
    of the output.  Both are kept, for results that equal torch's; :func:`local_response_norm` is free of that.

    Args:
        input: shape (N, C, H, W), floating point.
        size, alpha, beta, k: as in :func:`local_response_norm`; ``size`` enters ``alpha / size`` as well.

    Raises:
        ValueError: the input is not 4-d.
        IndexError: it has no channels.
        ZeroDivisionError: ``size`` is 0.
        RuntimeError: dtypes that are not floating point.
    """
    input = as_array(input)
    if input.ndim != 4:
        raise ValueError(f"CrossMapLRN2d: expected a 4-d input (N, C, H, W), got {input.ndim} dimensions")
    if input.shape[1] == 0:
        raise IndexError(f"CrossMapLRN2d needs at least one channel, got {input.shape}")
    if size == 0:
        raise ZeroDivisionError("CrossMapLRN2d: size must not be 0, alpha is divided by it")
    if not jnp.issubdtype(input.dtype, jnp.floating):
        raise RuntimeError(f"CrossMapLRN2d needs a floating point input, got {input.dtype}")
    return _cross_map(widen(input), size, float(alpha), float(beta), float(k)).astype(input.dtype)


@partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3, 4))
def _cross_map(x: jax.Array, size: int, alpha: float, beta: float, k: float) -> jax.Array:
    return x * _cross_map_scale(x, size, alpha, k) ** -beta


@_cross_map.defjvp
def _cross_map_jvp(
    size: int, alpha: float, beta: float, k: float, primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    # the rule whose transpose is torch's backward pass, in which channel c sums up c - first to c - first + size - 1
    (x,), (tangent,) = primals, tangents
    scale = _cross_map_scale(x, size, alpha, k)
    y = x * scale**-beta
    target, source = np.indices((x.shape[1],) * 2)
    first = min(int(size - (size - 1) / 2), size - 1)
    reached = (target - first <= source) & (source < target - first + size)
    sums = _over_channels(reached.T, x * tangent)
    return y, scale**-beta * tangent - (2 * alpha * beta / size) * (y / scale) * sums


def _cross_map_scale(x: jax.Array, size: int, alpha: float, k: float) -> jax.Array:
    reach = int((size - 1) / 2 + 1)
    target, source = np.indices((x.shape[1],) * 2)
    window = (abs(source - target) < reach) | ((source == 0) & (target >= reach))
    return _over_channels(window, jnp.square(x)) * (alpha / size) + k


def _over_channels(window: np.ndarray, x: jax.Array) -> jax.Array:
    return jnp.einsum("cd,ndhw->nchw", jnp.asarray(window, x.dtype), x, precision=matmul_precision(x))
