"""Gradients of convolutions as functions of their own (torch's ``nn.grad``).

Each is the transpose of a convolution that is linear in the argument asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from objnet.core.arrays import as_array
from objnet.nn import functional as F

__all__ = ["conv1d_input", "conv1d_weight", "conv2d_input", "conv2d_weight", "conv3d_input", "conv3d_weight"]


def _of_input(convolution: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    def gradient(
        input_size: Any, weight: Any, grad_output: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
    ) -> jax.Array:
        weight, grad_output = as_array(weight), as_array(grad_output)
        like = jax.ShapeDtypeStruct(tuple(input_size), weight.dtype)
        return _transposed(lambda x: convolution(x, weight, None, stride, padding, dilation, groups), like, grad_output)

    return _named(
        gradient, convolution, "input", "input_size, the shape of the input; weight and grad_output as in the forward pass"
    )


def _of_weight(convolution: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    def gradient(
        input: Any, weight_size: Any, grad_output: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
    ) -> jax.Array:
        input, grad_output = as_array(input), as_array(grad_output)
        like = jax.ShapeDtypeStruct(tuple(weight_size), input.dtype)
        return _transposed(lambda w: convolution(input, w, None, stride, padding, dilation, groups), like, grad_output)

    return _named(
        gradient, convolution, "weight", "weight_size, the shape of the weight; input and grad_output as in the forward pass"
    )


def _transposed(linear: Callable[[Any], jax.Array], like: jax.ShapeDtypeStruct, grad_output: jax.Array) -> jax.Array:
    expected = jax.eval_shape(linear, like)
    if expected.shape != grad_output.shape:
        raise RuntimeError(f"grad_output of shape {grad_output.shape}: a convolution of these sizes gives {expected.shape}")
    (gradient,) = jax.linear_transpose(linear, like)(grad_output)
    return gradient


def _named(gradient: Any, convolution: Any, argument: str, takes: str) -> Any:
    gradient.__name__ = gradient.__qualname__ = f"{convolution.__name__}_{argument}"
    gradient.__doc__ = f"""The gradient of ``F.{convolution.__name__}`` with respect to its {argument} (torch's ``nn.grad``).

    Takes {takes}; strides, padding, dilation and groups as there.

    Raises:
        RuntimeError: shapes that do not belong together.
    """
    return gradient


conv1d_input, conv1d_weight = _of_input(F.conv1d), _of_weight(F.conv1d)
conv2d_input, conv2d_weight = _of_input(F.conv2d), _of_weight(F.conv2d)
conv3d_input, conv3d_weight = _of_input(F.conv3d), _of_weight(F.conv3d)
