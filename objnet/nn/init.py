"""Initial values of parameters: the public surface of ``torch.nn.init``, and its numbers for the same seed.

Every function fills its ``tensor`` in place and returns it.  ``tensor`` is a Parameter, a Buffer or a writable view of
one (``weight.data``, ``bias[n:2 * n]``); a bare ``jax.Array`` cannot be changed in place and is refused.  The values are those of
:mod:`objnet.nn.initializers`, which gives them as arrays; errors about values are described there.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from objnet.core.abstract import skips
from objnet.core.generator import Generator
from objnet.core.rng import initialising
from objnet.core.tensor import TensorMethods
from objnet.nn import initializers
from objnet.nn.initializers import calculate_gain
from objnet.nn.initializers.scales import fan, fans

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


def uniform_(tensor: Any, a: float = 0.0, b: float = 1.0, generator: Generator | None = None) -> Any:
    """Fill with samples of the uniform distribution on ``[a, b)`` (torch).

    Raises:
        RuntimeError: ``a > b``, or they do not fit the dtype.
        NotImplementedError: the dtype is not floating point or complex.
    """
    return _fill(tensor, initializers.uniform(a, b), generator)


def normal_(tensor: Any, mean: float = 0.0, std: float = 1.0, generator: Generator | None = None) -> Any:
    """Fill with samples of the normal distribution (torch).

    Raises:
        RuntimeError: ``std`` is negative.
        NotImplementedError: the dtype is not floating point or complex.
    """
    return _fill(tensor, initializers.normal(mean, std), generator)


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
    return _fill(tensor, initializers.trunc_normal(mean, std, a, b), generator)


def constant_(tensor: Any, val: Any) -> Any:
    """Fill with the number ``val`` (torch).

    Raises:
        TypeError: ``val`` is no number.
        RuntimeError: it does not fit the dtype, or is an array with axes.
    """
    return _fill(tensor, initializers.constant(val))


def ones_(tensor: Any) -> Any:
    """Fill with ones (torch)."""
    return _fill(tensor, initializers.ones())


def zeros_(tensor: Any) -> Any:
    """Fill with zeros (torch)."""
    return _fill(tensor, initializers.zeros())


def eye_(tensor: Any) -> Any:
    """Fill a matrix with the identity: ones on the diagonal, also of a rectangular one (torch).

    Raises:
        ValueError: ``tensor`` has not 2 dimensions.
    """
    return _fill(tensor, initializers.eye())


def dirac_(tensor: Any, groups: int = 1) -> Any:
    """Fill a convolution's weight so that input channels pass unchanged, within each of the groups (torch).

    Args:
        tensor: of shape (out channels, in channels per group, 1 to 3 spatial sizes).
        groups: must divide the number of output channels.

    Raises:
        ValueError: another number of dimensions, or ``groups`` does not divide.
        IndexError: a spatial size is zero.
    """
    return _fill(tensor, initializers.dirac(groups))


def xavier_uniform_(tensor: Any, gain: float = 1.0, generator: Generator | None = None) -> Any:
    """Fill from the uniform distribution of variance ``gain**2 * 2 / (fan_in + fan_out)`` (Glorot and Bengio, 2010).

    Raises:
        ValueError: ``tensor`` has fewer than 2 dimensions.
    """
    return _fill(tensor, initializers.xavier_uniform(gain), generator)


def xavier_normal_(tensor: Any, gain: float = 1.0, generator: Generator | None = None) -> Any:
    """Fill from the normal distribution of variance ``gain**2 * 2 / (fan_in + fan_out)`` (Glorot and Bengio, 2010).

    Raises:
        ValueError: ``tensor`` has fewer than 2 dimensions.
    """
    return _fill(tensor, initializers.xavier_normal(gain), generator)


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
    return _fill(tensor, initializers.kaiming_uniform(a, mode, nonlinearity), generator)


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
    return _fill(tensor, initializers.kaiming_normal(a, mode, nonlinearity), generator)


def orthogonal_(tensor: Any, gain: float = 1, generator: Generator | None = None) -> Any:
    """Fill with ``gain`` times a random matrix of orthonormal rows or columns, whichever are fewer (Saxe et al., 2013).

    Dimensions after the first are taken as one.

    Raises:
        ValueError: ``tensor`` has fewer than 2 dimensions.
        NotImplementedError: the dtype is neither float32 nor float64.
    """
    return _fill(tensor, initializers.orthogonal(gain), generator)


def sparse_(tensor: Any, sparsity: float, std: float = 0.01, generator: Generator | None = None) -> Any:
    """Fill a matrix with normal samples, a fraction ``sparsity`` of every column zero (Martens, 2010).

    As in torch, ``generator`` draws the samples, and the default stream which of them become zero.

    Raises:
        ValueError: ``tensor`` has not 2 dimensions.
    """
    return _fill(tensor, initializers.sparse(sparsity, std), generator)


def _calculate_fan_in_and_fan_out(tensor: Any) -> tuple[int, int]:
    """How many numbers enter and leave a unit of a weight of shape (out, in, spatial sizes...).

    Raises:
        ValueError: ``tensor`` has fewer than 2 dimensions.
    """
    return fans(tensor.shape[len(_rows(tensor)) :])


def _calculate_correct_fan(tensor: Any, mode: str) -> int:
    """The fan that ``mode`` names, in any case of letters.

    Raises:
        ValueError: ``mode`` is neither ``"fan_in"`` nor ``"fan_out"``.
    """
    return fan(tensor.shape[len(_rows(tensor)) :], mode)


def _fill(tensor: Any, initializer: initializers.Initializer, generator: Generator | None = None) -> Any:
    """Replace the whole of ``tensor`` by what ``initializer`` draws."""
    _require_target(tensor)
    if skips(tensor):
        return tensor
    with initialising(tensor):
        rows = _rows(tensor)
        if rows:  # of modules that were stacked: each is initialised as if it stood alone
            shape = tensor.shape[len(rows) :]
            drawn = [initializer(generator, shape, tensor.dtype) for _ in range(math.prod(rows))]
            tensor._set(jnp.stack(drawn).reshape(tensor.shape))
        else:
            tensor._set(initializer(generator, tensor.shape, tensor.dtype))
    return tensor


def _rows(tensor: Any) -> tuple[int, ...]:
    """The leading sizes that come from stacking modules (:func:`objnet.nn.stack_modules`)."""
    owner = tensor._owner() if isinstance(tensor, TensorMethods) else tensor
    rows = getattr(owner, "stacked", ())
    return rows if rows and tensor.shape == owner.shape and tensor.shape[: len(rows)] == rows else ()


def _require_target(tensor: Any) -> None:
    if isinstance(tensor, TensorMethods):
        return
    if isinstance(tensor, jax.Array):
        raise TypeError(
            "nn.init functions fill in place, and a jax array cannot be changed: pass the Parameter itself. "
            "`module.weight` is one everywhere but inside forward; nn.Parameter(array) makes one of an array."
        )
    raise TypeError(f"nn.init functions fill a Parameter, a Buffer or a view of one, got {type(tensor).__name__}")


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
