"""Convolutional LSTM cells (Shi et al. 2015), which torch lacks: an LSTM whose products are convolutions.

Parameters, gate order and initial values are those of ``nn.LSTMCell`` with the shapes of ``nn.ConvNd`` weights, so that a kernel
of size 1 on one pixel is an LSTMCell.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from objnet.core.arrays import as_array
from objnet.nn import functional as F
from objnet.nn import init
from objnet.nn.module import Module
from objnet.nn.modules._parameters import blank, place
from objnet.nn.modules._sizes import spread

__all__ = ["ConvLSTM1dCell", "ConvLSTM2dCell", "ConvLSTM3dCell"]

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


class _ConvLSTMCell(Module):
    """One step of a convolutional LSTM (Shi et al. 2015).

    Input (N, input_size, *sizes) or (input_size, *sizes), and ``hx``: a pair of states (N, hidden_size, *sizes) or without N,
    zero if None. It gives the next pair. The convolutions keep the sizes: zero padding, as ``padding="same"``.

    Parameters, all starting uniform within ``1 / sqrt(hidden_size * elements of the kernel)``: ``weight_ih`` (4 * hidden_size,
    input_size, *kernel_size), ``weight_hh`` (4 * hidden_size, hidden_size, *kernel_size), ``bias_ih`` and ``bias_hh`` (4 *
    hidden_size,). The gates are in the order input, forget, cell, output.

    Args:
        input_size: channels of the input.
        hidden_size: channels of the states.
        kernel_size: one size, or one for each dimension.
        bias: whether there are biases.
        device: where the parameters live, as in :meth:`Module.to`.
        dtype: their dtype.

    Raises:
        ValueError: sizes that are not positive; from a call: an input of another rank.
        RuntimeError: from a call: shapes or dtypes that do not fit.
    """

    _dimensions: int

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        kernel_size: int | Sequence[int],
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.kernel_size = spread(kernel_size, self._dimensions)
        self.bias = bias
        if min(input_size, hidden_size, *self.kernel_size) <= 0:
            raise ValueError(f"sizes must be positive, got {input_size}, {hidden_size} and kernel_size={kernel_size}")
        gates = 4 * hidden_size
        self.weight_ih = blank(gates, input_size, *self.kernel_size, dtype=dtype)
        self.weight_hh = blank(gates, hidden_size, *self.kernel_size, dtype=dtype)
        for name in ("bias_ih", "bias_hh"):
            self.register_parameter(name, blank(gates, dtype=dtype) if bias else None)
        self.reset_parameters()
        place(self, device)

    def reset_parameters(self) -> None:
        """Draw new initial values."""
        bound = 1 / math.sqrt(self.hidden_size * math.prod(self.kernel_size))
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    def forward(self, input: jax.Array, hx: tuple[jax.Array, jax.Array] | None = None) -> tuple[jax.Array, jax.Array]:
        x = as_array(input)
        rank = self._dimensions + 1
        if x.ndim not in (rank, rank + 1):
            raise ValueError(f"{self._get_name()}: Expected input to be {rank}D or {rank + 1}D, got {x.ndim}D instead")
        shape = (*x.shape[: x.ndim - rank], self.hidden_size, *x.shape[x.ndim - self._dimensions :])
        h, c = (jnp.zeros(shape, x.dtype),) * 2 if hx is None else (as_array(hx[0]), as_array(hx[1]))
        for number, state in enumerate((h, c)):
            if state.shape != shape or state.dtype != x.dtype:
                raise RuntimeError(
                    f"{self._get_name()}: hx[{number}] must be {x.dtype} of shape {shape}, got {state.dtype} of {state.shape}"
                )
        convolve = _CONVOLUTIONS[self._dimensions]
        gates = convolve(x, self.weight_ih, self.bias_ih, padding="same") + convolve(
            h, self.weight_hh, self.bias_hh, padding="same"
        )
        i, f, g, o = jnp.split(gates, 4, -rank)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return jax.nn.sigmoid(o) * jnp.tanh(c), c

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}, kernel_size={self.kernel_size}"
        return text if self.bias else f"{text}, bias={self.bias}"


class ConvLSTM1dCell(_ConvLSTMCell):
    __doc__ = _ConvLSTMCell.__doc__
    _dimensions = 1


class ConvLSTM2dCell(_ConvLSTMCell):
    __doc__ = _ConvLSTMCell.__doc__
    _dimensions = 2


class ConvLSTM3dCell(_ConvLSTMCell):
    __doc__ = _ConvLSTMCell.__doc__
    _dimensions = 3
