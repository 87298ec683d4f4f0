"""Batch normalisation folded into the layer before it, for inference."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from objnet.core import scope
from objnet.core.arrays import as_array
from objnet.core.variable import Parameter
from objnet.nn.functional._common import common_dtype
from objnet.nn.module import Module

__all__ = ["fuse_conv_bn_eval", "fuse_conv_bn_weights", "fuse_linear_bn_eval", "fuse_linear_bn_weights"]

_M = TypeVar("_M", bound=Module)


def fuse_conv_bn_eval(conv: _M, bn: Any, transpose: bool = False) -> _M:
    """A convolution that gives what ``bn(conv(x))`` gives in evaluation mode (torch).

    Args:
        conv: stays as it is; a copy is changed.
        transpose: whether ``conv`` is a transposed convolution.

    Raises:
        AssertionError: one of them is in training mode, or ``bn`` keeps no running statistics.
    """
    fused: Any = _copy(conv, bn)
    fused.weight, fused.bias = fuse_conv_bn_weights(
        fused.weight, fused.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias, transpose
    )
    return fused


def fuse_conv_bn_weights(
    conv_w: Any, conv_b: Any, bn_rm: Any, bn_rv: Any, bn_eps: float, bn_w: Any, bn_b: Any, transpose: bool = False
) -> tuple[Parameter, Parameter]:
    """Weight and bias of a convolution with a batch normalisation after it folded in (torch).

    Args:
        conv_w: (channels, ...), or (..., channels, sizes) with ``transpose``; conv_b: (channels,) or None.
        bn_rm, bn_rv, bn_w, bn_b: running mean and variance, weight and bias, (channels,) each; the last two may be None.

    Returns:
        Parameters of the dtypes of ``conv_w`` and ``conv_b``, which require gradients if those do.
    """
    weight, bias, mean, scale, shift = _arrays(conv_w, conv_b, bn_rm, bn_rv, bn_eps, bn_w, bn_b)
    shape = [-1] + [1] * (weight.ndim - 1)
    if transpose:
        shape[:2] = 1, -1
    return _parameters(weight * scale.reshape(shape), (bias - mean) * scale + shift, conv_w, conv_b)


def fuse_linear_bn_eval(linear: _M, bn: Any) -> _M:
    """A linear layer that gives what ``bn(linear(x))`` gives in evaluation mode (torch).

    Raises:
        AssertionError: one of them is in training mode, ``bn`` keeps no running statistics, or its number of features is
        neither 1 nor that of ``linear``. TypeError: ``bn`` has no weight and bias.
    """
    fused: Any = _copy(linear, bn)
    if linear.out_features != bn.num_features and bn.num_features != 1:
        raise AssertionError(
            "To fuse, linear.out_features == bn.num_features or bn.num_features == 1, "
            f"got linear.out_features={linear.out_features} and bn.num_features={bn.num_features}"
        )
    fused.weight, fused.bias = fuse_linear_bn_weights(
        fused.weight, fused.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias
    )
    return fused


def fuse_linear_bn_weights(
    linear_w: Any, linear_b: Any, bn_rm: Any, bn_rv: Any, bn_eps: float, bn_w: Any, bn_b: Any
) -> tuple[Parameter, Parameter]:
    """Weight and bias of a linear layer with a batch normalisation after it folded in (torch).

    As :func:`fuse_conv_bn_weights`, for ``linear_w`` of shape (out features, in features).

    Raises:
        TypeError: ``bn_w`` or ``bn_b`` is None.
    """
    if bn_w is None or bn_b is None:
        raise TypeError("fuse_linear_bn_weights needs the weight and the bias of the batch normalisation (affine=True), got None")
    weight, bias, mean, scale, shift = _arrays(linear_w, linear_b, bn_rm, bn_rv, bn_eps, bn_w, bn_b)
    return _parameters(weight * scale[:, None], (bias - mean) * scale + shift, linear_w, linear_b)


def _copy(layer: Any, bn: Any) -> Any:
    if layer.training or bn.training:
        raise AssertionError(
            f"Fusion only for eval! call .eval() on the {type(layer).__name__} and the {type(bn).__name__} first"
        )
    if bn.running_mean is None or bn.running_var is None:
        raise AssertionError("bn.running_mean and bn.running_var must not be None")
    with scope.entered(scope.BUILD):
        return copy.deepcopy(layer)


def _arrays(weight: Any, bias: Any, mean: Any, variance: Any, eps: float, scale: Any, shift: Any) -> list[jax.Array]:
    """Weight, bias, mean, what to multiply by and what to add, of one dtype."""
    mean, variance = as_array(mean), as_array(variance)
    bias = jnp.zeros_like(mean) if bias is None else as_array(bias)
    scale = jnp.ones_like(mean) if scale is None else as_array(scale)
    shift = jnp.zeros_like(mean) if shift is None else as_array(shift)
    weight = as_array(weight)
    dtype = common_dtype(weight, bias, mean, variance, scale, shift)
    factor = scale.astype(dtype) * lax.rsqrt(variance.astype(dtype) + jnp.asarray(eps, dtype))
    return [weight.astype(dtype), bias.astype(dtype), mean.astype(dtype), factor, shift.astype(dtype)]


def _parameters(weight: jax.Array, bias: jax.Array, old_weight: Any, old_bias: Any) -> tuple[Parameter, Parameter]:
    """Parameters like the old ones; one that was not there requires no gradient."""
    kind = as_array(old_weight if old_bias is None else old_bias).dtype
    trained = [getattr(old, "requires_grad", False) for old in (old_weight, old_bias)]
    return Parameter(weight.astype(as_array(old_weight).dtype), trained[0]), Parameter(bias.astype(kind), trained[1])
