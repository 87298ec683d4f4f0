"""Making the parameters of a layer: blank ones, torch's common initial values, and the device they live on."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from objnet.core.variable import Parameter
from objnet.nn import init
from objnet.nn.module import Module, _check_dtype


def float_dtype(dtype: Any) -> Any:
    """``dtype``, float32 if None.

    Raises:
        TypeError: it is no dtype.
        RuntimeError: 64 bits without jax's 64-bit mode.
    """
    return _check_dtype(jnp.dtype(jnp.float32 if dtype is None else dtype))


def require_sizes(*shape: int) -> None:
    """Refuse negative sizes.

    Raises:
        RuntimeError: there is one.
    """
    if any(size < 0 for size in shape):
        raise RuntimeError(f"Trying to create tensor with negative dimension {min(shape)}: {list(shape)}")


def blank(*shape: int, dtype: Any = None, requires_grad: bool = True) -> Parameter:
    """A Parameter for ``reset_parameters`` to fill; zeros until then.

    Raises:
        RuntimeError: a negative size, a dtype that has no gradients, 64 bits without jax's 64-bit mode.
        TypeError: sizes that are no ints, or no dtype.
    """
    require_sizes(*shape)
    # made by numpy: jnp.zeros would compile a program for every shape
    return Parameter(np.zeros(shape, float_dtype(dtype)), requires_grad)


def place(module: Module, device: Any) -> None:
    """Move a new module to the ``device`` its constructor was given, if it was given one."""
    if device is not None:
        module.to(device=device)


def reset_fan_in(weight: Parameter, bias: Parameter | None) -> None:
    """torch's initial values of linear and convolutional layers: uniform within ``1 / sqrt(fan_in)``, the weight first."""
    init.kaiming_uniform_(weight, a=math.sqrt(5))
    if bias is not None:
        fan_in, _ = init._calculate_fan_in_and_fan_out(weight)
        bound = 1 / math.sqrt(fan_in) if fan_in > 0 else 0
        init.uniform_(bias, -bound, bound)


def reset_hidden(module: Module, hidden_size: int) -> None:
    """torch's initial values of recurrent layers: all uniform within ``1 / sqrt(hidden_size)``, in order of registration."""
    bound = 1.0 / math.sqrt(hidden_size) if hidden_size > 0 else 0
    for parameter in module.parameters():
        init.uniform_(parameter, -bound, bound)
