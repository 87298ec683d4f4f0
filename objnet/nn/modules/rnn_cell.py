"""Recurrent cells: one step of a recurrent layer, for loops of one's own."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from objnet.core.arrays import as_array
from objnet.nn import functional as F
from objnet.nn.module import Module
from objnet.nn.modules._parameters import blank, place, reset_hidden

__all__ = ["GRUCell", "LSTMCell", "RNNCell", "RNNCellBase"]


class RNNCellBase(Module):
    """What the cells of recurrent layers share (torch's): ``weight_ih``, ``weight_hh``, ``bias_ih``, ``bias_hh``.

    Args:
        input_size: features of the input.
        hidden_size: features of the states.
        bias: whether there are biases.
        num_chunks: how many vectors of ``hidden_size`` the weights make.
        device: where the parameters live, as in :meth:`Module.to`.
        dtype: their dtype.
    """

    weight_ih: Any
    weight_hh: Any
    bias_ih: Any
    bias_hh: Any

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool, num_chunks: int, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        gates = num_chunks * hidden_size
        self.weight_ih = blank(gates, input_size, dtype=dtype)
        self.weight_hh = blank(gates, hidden_size, dtype=dtype)
        for name in ("bias_ih", "bias_hh"):
            self.register_parameter(name, blank(gates, dtype=dtype) if bias else None)
        self.reset_parameters()
        place(self, device)

    def reset_parameters(self) -> None:
        """Draw new initial values."""
        reset_hidden(self, self.hidden_size)

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        return text if self.bias is True else f"{text}, bias={self.bias}"

    @property
    def _weights(self) -> tuple[Any, ...]:
        return self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh

    def _checked(self, input: Any, states: dict[str, Any], count: int) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """Input and states, ``count`` zeros where none are given, as arrays.

        Raises:
            ValueError: one that is neither 1-d nor 2-d.
        """
        x, given = as_array(input), {name: as_array(state) for name, state in states.items()}
        for name, array in {"input": x, **given}.items():
            if array.ndim not in (1, 2):
                raise ValueError(f"{self._get_name()}: Expected {name} to be 1D or 2D, got {array.ndim}D instead")
        if not states:
            return x, (jnp.zeros((*x.shape[:-1], self.hidden_size), x.dtype),) * count
        return x, tuple(given.values())


class RNNCell(RNNCellBase):
    """One step of an Elman network (1990; torch's ``nn.RNNCell``), ``nonlinearity`` ``"tanh"`` or ``"relu"``.

    Input (N, input_size) or (input_size,), and ``hx`` (N, hidden_size) or (hidden_size,), zero if None. It gives the next
    state. Other arguments as :class:`RNNCellBase`.

    Raises:
        ValueError: from a call: an input or state that is neither 1-d nor 2-d.
        RuntimeError: from a call: shapes or dtypes that do not fit, another ``nonlinearity``.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 1, device, dtype)
        self.nonlinearity = nonlinearity

    def forward(self, input: jax.Array, hx: jax.Array | None = None) -> jax.Array:
        x, (state,) = self._checked(input, {} if hx is None else {"hidden": hx}, 1)
        if self.nonlinearity not in ("tanh", "relu"):
            raise RuntimeError(f"Unknown nonlinearity: {self.nonlinearity}; 'tanh' and 'relu' are known")
        step = F.rnn_tanh_cell if self.nonlinearity == "tanh" else F.rnn_relu_cell
        return step(x, state, *self._weights)

    def extra_repr(self) -> str:
        text = super().extra_repr()
        return text if self.nonlinearity == "tanh" else f"{text}, nonlinearity={self.nonlinearity}"


class LSTMCell(RNNCellBase):
    """One step of an LSTM (Hochreiter and Schmidhuber 1997; torch's ``nn.LSTMCell``).

    Input (N, input_size) or (input_size,), and ``hx``: a pair of states (N, hidden_size) or (hidden_size,), zero if None. It
    gives the next pair. Arguments as :class:`RNNCellBase`.

    Raises:
        ValueError: from a call: an input or state that is neither 1-d nor 2-d.
        RuntimeError: from a call: shapes or dtypes that do not fit.
    """

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None) -> None:
        super().__init__(input_size, hidden_size, bias, 4, device, dtype)

    def forward(self, input: jax.Array, hx: tuple[jax.Array, jax.Array] | None = None) -> tuple[jax.Array, jax.Array]:
        x, (h, c) = self._checked(input, {} if hx is None else {"hx[0]": hx[0], "hx[1]": hx[1]}, 2)
        return F.lstm_cell(x, (h, c), *self._weights)


class GRUCell(RNNCellBase):
    """One step of a gated recurrent unit (Cho et al. 2014; torch's ``nn.GRUCell``): as :class:`RNNCell`, with three gates."""

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None) -> None:
        super().__init__(input_size, hidden_size, bias, 3, device, dtype)

    def forward(self, input: jax.Array, hx: jax.Array | None = None) -> jax.Array:
        x, (state,) = self._checked(input, {} if hx is None else {"hidden": hx}, 1)
        return F.gru_cell(x, state, *self._weights)
