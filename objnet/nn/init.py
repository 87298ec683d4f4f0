"""Initial values of parameters: the public surface of ``torch.nn.init``, and its numbers for the same seed.

Every function fills its ``tensor`` in place and returns it.  ``tensor`` is a Parameter, a Buffer or a writable view of
one (``weight.data``, ``bias[n:2 * n]``); a bare ``jax.Array`` cannot be changed in place and is refused.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from objnet.core import draws
from objnet.core.arrays import as_array
from objnet.core.generator import Generator
from objnet.core.rng import initialising
from objnet.core.tensor import TensorMethods

__all__ = [
    "calculate_gain",
    "constant",
    "constant_",
    "dirac",
    "dirac_",
    "eye",
    "eye_",
    "kaiming_normal",
    "kaiming_normal_",
    "kaiming_uniform",
    "kaiming_uniform_",
    "normal",
    "normal_",
    "ones_",
    "orthogonal",
    "orthogonal_",
    "sparse",
    "sparse_",
    "trunc_normal_",
    "uniform",
    "uniform_",
    "xavier_normal",
    "xavier_normal_",
    "xavier_uniform",
    "xavier_uniform_",
    "zeros_",
]

_GAINS = {
    **dict.fromkeys(("linear", "conv1d", "conv2d", "conv3d"), 1),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "sigmoid"), 1),
    "tanh": 5.0 / 3,
    "relu": math.sqrt(2.0),
    "selu": 3.0 / 4,
}


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor by which a nonlinearity's weights are enlarged to keep the scale of activations (torch).

    Args:
        nonlinearity: the function's name in ``nn.functional``.
        param: the negative slope of ``"leaky_relu"``, 0.01 if None; other functions have none.

    Raises:
        ValueError: an unknown name, or a slope that is no number.
    """
    if nonlinearity == "leaky_relu":
        slope = 0.01 if param is None else param
        if isinstance(slope, bool) or not isinstance(slope, (int, float)):
            raise ValueError(f"negative_slope {slope} is not a valid number")
        return math.sqrt(2.0 / (1 + slope**2))
    if nonlinearity not in _GAINS:
        raise ValueError(f"unsupported nonlinearity {nonlinearity!r}: expected 'leaky_relu' or one of {sorted(_GAINS)}")
    return _GAINS[nonlinearity]


def uniform_(tensor: Any, a: float = 0.0, b: float = 1.0, generator: Generator | None = None) -> Any:
    """Fill with samples of the uniform distribution on ``[a, b)`` (torch).

    Raises:
        RuntimeError: ``a > b``, or they do not fit the dtype.
        NotImplementedError: the dtype is not floating point or complex.
    """
    return _fill(tensor, lambda shape, dtype: draws.uniform(shape, a, b, dtype, generator))


def normal_(tensor: Any, mean: float = 0.0, std: float = 1.0, generator: Generator | None = None) -> Any:
    """Fill with samples of the normal distribution (torch).

    Raises:
        RuntimeError: ``std`` is negative.
        NotImplementedError: the dtype is not floating point or complex.
    """
    return _fill(tensor, lambda shape, dtype: draws.normal(shape, mean, std, dtype, generator))


def trunc_normal_(
    tensor: Any,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: Generator | None = None,
) -> Any:
    """Fill with samples of the normal distribution restricted to ``[a, b]``, by redrawing (torch).

    Warns when ``mean`` is more than two ``std`` outside the interval.

    Raises:
        ZeroDivisionError: ``std`` is zero.
        RuntimeError: ``a > b``, or they do not fit the dtype.
        NotImplementedError: the dtype is not floating point.
    """
    _require_target(tensor)
    if mean < a - 2 * std or mean > b + 2 * std:
        warnings.warn(
            f"trunc_normal_: mean={mean} is more than 2 std from [{a}, {b}]; samples may not follow the distribution",
            stacklevel=2,
        )
    return _fill(tensor, lambda shape, dtype: draws.trunc_normal(shape, mean, std, a, b, dtype, generator))


def constant_(tensor: Any, val: Any) -> Any:
    """Fill with the number ``val`` (torch).

    Raises:
        TypeError: ``val`` is no number.
        RuntimeError: it does not fit the dtype, or is an array with axes.
    """
    return _fill(tensor, lambda shape, dtype: jnp.broadcast_to(_scalar(val, dtype), shape))


def ones_(tensor: Any) -> Any:
    """Fill with ones (torch)."""
    return _fill(tensor, jnp.ones)


def zeros_(tensor: Any) -> Any:
    """Fill with zeros (torch)."""
    return _fill(tensor, jnp.zeros)


def eye_(tensor: Any) -> Any:
    """Fill a matrix with the identity: ones on the diagonal, also of a rectangular one (torch).

    Raises:
        ValueError: ``tensor`` has not 2 dimensions.
    """
    _require_matrix(tensor)
    return _fill(tensor, lambda shape, dtype: np.eye(*shape, dtype=dtype))


def dirac_(tensor: Any, groups: int = 1) -> Any:
    """Fill a convolution's weight so that input channels pass unchanged, within each of the groups (torch).

    Args:
        tensor: of shape (out channels, in channels per group, 1 to 3 spatial sizes).
        groups: must divide the number of output channels.

    Raises:
        ValueError: another number of dimensions, or ``groups`` does not divide.
        IndexError: a spatial size is zero.
    """
    _require_target(tensor)
    if tensor.ndim not in (3, 4, 5):
        raise ValueError(f"dirac_ fills tensors of 3, 4 or 5 dimensions, got {tensor.ndim}")
    channels, inputs, *sizes = tensor.shape
    if channels % groups:
        raise ValueError(f"dim 0 ({channels}) must be divisible by groups={groups}")
    each = channels // groups
    passed = np.arange(min(each, inputs))
    weight = np.zeros(tensor.shape, tensor.dtype)
    for group in range(groups):
        weight[(group * each + passed, passed, *(size // 2 for size in sizes))] = 1
    return _fill(tensor, lambda shape, dtype: weight)


def xavier_uniform_(tensor: Any, gain: float = 1.0, generator: Generator | None = None) -> Any:
    """Fill from the uniform distribution of variance ``gain**2 * 2 / (fan_in + fan_out)`` (Glorot and Bengio, 2010).

    Raises:
        ValueError: ``tensor`` has fewer than 2 dimensions.
    """
    bound = math.sqrt(3.0) * _xavier_std(tensor, gain)
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: Any, gain: float = 1.0, generator: Generator | None = None) -> Any:
    """Fill from the normal distribution of variance ``gain**2 * 2 / (fan_in + fan_out)`` (Glorot and Bengio, 2010).

    Raises:
        ValueError: ``tensor`` has fewer than 2 dimensions.
    """
    return normal_(tensor, 0.0, _xavier_std(tensor, gain), generator)


def kaiming_uniform_(
    tensor: Any,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Any:
    """Fill from the uniform distribution of variance ``gain**2 / fan`` (He et al., 2015).

    Args:
        tensor: of 2 or more dimensions; without elements it stays as it is, with a warning.
        a: the negative slope of ``"leaky_relu"``.
        mode: ``"fan_in"`` keeps the scale of the forward pass, ``"fan_out"`` that of the backward pass.
        nonlinearity: what follows the layer; see :func:`calculate_gain`.
        generator: draws from this stream, not the default one.

    Raises:
        ValueError: fewer than 2 dimensions, an unknown mode or nonlinearity, or a slope that is no number.
    """
    if _is_empty(tensor):
        return tensor
    bound = math.sqrt(3.0) * _kaiming_std(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: Any,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Any:
    """Fill from the normal distribution of variance ``gain**2 / fan`` (He et al., 2015).

    Arguments and errors are those of :func:`kaiming_uniform_`.
    """
    if _is_empty(tensor):
        return tensor
    return normal_(tensor, 0, _kaiming_std(tensor, a, mode, nonlinearity), generator)


def orthogonal_(tensor: Any, gain: float = 1, generator: Generator | None = None) -> Any:
    """Fill with ``gain`` times a random matrix of orthonormal rows or columns, whichever are fewer (Saxe et al., 2013).

    Dimensions after the first are taken as one.

    Raises:
        ValueError: ``tensor`` has fewer than 2 dimensions.
        NotImplementedError: the dtype is neither float32 nor float64.
    """
    _require_target(tensor)
    if tensor.ndim < 2:
        raise ValueError(f"orthogonal_ fills tensors of 2 or more dimensions, got {tensor.ndim}")
    if 0 in tensor.shape:
        return tensor
    if tensor.dtype not in (np.float32, np.float64):
        raise NotImplementedError(
            f"orthogonal_ needs a QR factorisation, which {tensor.dtype} has not: initialise in float32, then cast"
        )
    rows, columns = tensor.shape[0], math.prod(tensor.shape[1:])

    def orthogonal(matrix: Any, xp: ModuleType) -> Any:
        q, r = xp.linalg.qr(matrix.T if rows < columns else matrix)
        q = q * xp.sign(xp.diagonal(r))[None, :]  # makes it uniform over orthogonal matrices (Mezzadri, 2007)
        return (q.T if rows < columns else q).reshape(tensor.shape) * xp.asarray(gain, q.dtype)

    def fill(shape: tuple[int, ...], dtype: Any) -> jax.Array:
        def host(g: Generator) -> np.ndarray:
            return orthogonal(g.normal((rows, columns), dtype=dtype), np)

        def device(key: jax.Array) -> jax.Array:
            return orthogonal(jax.random.normal(key, (rows, columns), dtype), jnp)

        return draws.draw(host, device, shape, dtype, generator)

    return _fill(tensor, fill)


def sparse_(tensor: Any, sparsity: float, std: float = 0.01, generator: Generator | None = None) -> Any:
    """Fill a matrix with normal samples, a fraction ``sparsity`` of every column zero (Martens, 2010).

    As in torch, ``generator`` draws the samples, and the default stream which of them become zero.

    Raises:
        ValueError: ``tensor`` has not 2 dimensions.
    """
    _require_matrix(tensor)
    rows, columns = tensor.shape
    zero = np.zeros(rows, bool)
    zero[: math.ceil(sparsity * rows)] = True

    def host(g: Generator) -> np.ndarray:
        mask = np.empty((rows, columns), bool)
        for column in range(columns):
            mask[g.permutation(rows), column] = zero
        return mask

    def device(key: jax.Array) -> jax.Array:
        return jax.random.permutation(key, jnp.broadcast_to(zero[:, None], (rows, columns)), independent=True)

    def fill(shape: tuple[int, ...], dtype: Any) -> jax.Array:
        values = draws.normal(shape, 0, std, dtype, generator)
        return jnp.where(draws.draw(host, device, shape, bool), jnp.zeros_like(values), values)

    return _fill(tensor, fill)


def _calculate_fan_in_and_fan_out(tensor: Any) -> tuple[int, int]:
    """How many numbers enter and leave a unit of a weight of shape (out, in, spatial sizes...).

    Raises:
        ValueError: ``tensor`` has fewer than 2 dimensions.
    """
    if tensor.ndim < 2:
        raise ValueError(f"fan in and fan out need a tensor of 2 or more dimensions, got {tensor.ndim}")
    field = math.prod(tensor.shape[2:])
    return tensor.shape[1] * field, tensor.shape[0] * field


def _calculate_correct_fan(tensor: Any, mode: str) -> int:
    """The fan that ``mode`` names, in any case of letters.

    Raises:
        ValueError: ``mode`` is neither ``"fan_in"`` nor ``"fan_out"``.
    """
    modes = ("fan_in", "fan_out")
    if mode.lower() not in modes:
        raise ValueError(f"mode {mode!r} is not supported, expected one of {modes}")
    return _calculate_fan_in_and_fan_out(tensor)[modes.index(mode.lower())]


def _xavier_std(tensor: Any, gain: float) -> float:
    _require_target(tensor)
    return gain * math.sqrt(2.0 / float(sum(_calculate_fan_in_and_fan_out(tensor))))


def _kaiming_std(tensor: Any, a: float, mode: str, nonlinearity: str) -> float:
    fan = _calculate_correct_fan(tensor, mode)
    return calculate_gain(nonlinearity, a) / math.sqrt(fan)


def _fill(tensor: Any, value: Callable[[tuple[int, ...], Any], Any]) -> Any:
    """Replace the whole of ``tensor`` by ``value(shape, dtype)``."""
    _require_target(tensor)
    with initialising(tensor):
        tensor._set(jnp.asarray(value(tensor.shape, tensor.dtype)))
    return tensor


def _scalar(value: Any, dtype: Any) -> jax.Array | np.ndarray:
    """``value`` in ``dtype``: an array without axes is cast, a number has to fit (negative ones wrap if unsigned)."""
    if isinstance(value, (jax.Array, TensorMethods)):
        if value.ndim:
            raise RuntimeError(f"a tensor is filled with one number, got an array of {value.ndim} dimensions")
        return as_array(value).astype(dtype)
    if not isinstance(value, (bool, int, float, complex, np.number, np.bool_)):
        raise TypeError(f"a tensor is filled with one number, got {type(value).__name__}")
    if dtype == np.bool_:
        return np.asarray(bool(value))
    inexact = jnp.issubdtype(dtype, jnp.inexact)
    limits = jnp.finfo(dtype) if inexact else jnp.iinfo(dtype)
    largest = float(limits.max) if inexact else int(limits.max)
    least = -largest if inexact or limits.min == 0 else int(limits.min)
    parts = (value.real, value.imag)
    fits = all(least <= part <= largest or (inexact and not math.isfinite(part)) for part in parts)
    if not fits or (value.imag != 0 and not jnp.issubdtype(dtype, jnp.complexfloating)):
        raise RuntimeError(f"value {value} cannot be converted to {dtype} without overflow")
    if not inexact:
        return np.asarray(int(value.real)).astype(dtype)
    return np.asarray(value if value.imag else value.real).astype(dtype)


def _require_target(tensor: Any) -> None:
    if isinstance(tensor, TensorMethods):
        return
    if isinstance(tensor, jax.Array):
        raise TypeError(
            "nn.init functions fill in place, and a jax array cannot be changed: pass the Parameter itself. "
            "`module.weight` is one everywhere but inside forward; nn.Parameter(array) makes one of an array."
        )
    raise TypeError(f"nn.init functions fill a Parameter, a Buffer or a view of one, got {type(tensor).__name__}")


def _require_matrix(tensor: Any) -> None:
    _require_target(tensor)
    if tensor.ndim != 2:
        raise ValueError(f"only tensors of 2 dimensions are supported, got {tensor.ndim}")


def _is_empty(tensor: Any) -> bool:
    _require_target(tensor)
    if 0 not in tensor.shape:
        return False
    warnings.warn("initializing a tensor without elements does nothing", stacklevel=3)
    return True


def _deprecated(function: Callable[..., Any]) -> Callable[..., Any]:
    """The old name of ``function``, without the underscore; it warns."""
    new = function.__name__
    old = new.removesuffix("_")

    def alias(*args: Any, **kwargs: Any) -> Any:
        warnings.warn(f"nn.init.{old} is deprecated: write nn.init.{new}", FutureWarning, stacklevel=2)
        return function(*args, **kwargs)

    functools.update_wrapper(alias, function)
    alias.__name__ = alias.__qualname__ = old
    alias.__doc__ = f"Deprecated: the old name of :func:`{new}`."
    return alias


uniform = _deprecated(uniform_)
normal = _deprecated(normal_)
constant = _deprecated(constant_)
eye = _deprecated(eye_)
dirac = _deprecated(dirac_)
xavier_uniform = _deprecated(xavier_uniform_)
xavier_normal = _deprecated(xavier_normal_)
kaiming_uniform = _deprecated(kaiming_uniform_)
kaiming_normal = _deprecated(kaiming_normal_)
orthogonal = _deprecated(orthogonal_)
sparse = _deprecated(sparse_)
