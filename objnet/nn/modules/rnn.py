"""Recurrent layers: LSTM, GRU and the plain network of Elman."""

from __future__ import annotations

from typing import Any

import jax

from objnet.core.arrays import as_array
from objnet.nn.modules._rnn_base import RNNBase

__all__ = ["GRU", "LSTM", "RNN", "RNNBase"]


class LSTM(RNNBase):
    """Long short-term memory (Hochreiter and Schmidhuber 1997; torch's ``nn.LSTM``).

    Input (L, N, input_size), (N, L, input_size) if ``batch_first``, or (L, input_size), and ``hx``: a pair of states (layers *
    directions, N, features), without N for an unbatched input, zero if None. It gives the pair (output, (h_n, c_n)). For a
    :class:`PackedSequence` the output is one too, and the last states are those at each sequence's end.

    Parameters, all starting uniform within ``1 / sqrt(hidden_size)``: ``weight_ih_l0`` (4 * hidden_size, input_size),
    ``weight_hh_l0`` (4 * hidden_size, features), ``bias_ih_l0`` and ``bias_hh_l0`` (4 * hidden_size,), and with projections
    ``weight_hr_l0`` (proj_size, hidden_size); then ``..._l0_reverse``, ``..._l1`` and so on. The gates are in the order input,
    forget, cell, output. Arguments as :class:`RNNBase`.

    Raises:
        ValueError: from a call: an input that is neither 2-d nor 3-d, or of another dtype than the weights.
        RuntimeError: from a call: shapes that do not fit.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            "LSTM", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, device, dtype
        )

    def get_expected_cell_size(self, input: Any, batch_sizes: Any) -> tuple[int, int, int]:
        """The shape of the cell state for such an input."""
        return (*self.get_expected_hidden_size(input, batch_sizes)[:2], self.hidden_size)

    def check_forward_args(self, input: Any, hidden: Any, batch_sizes: Any) -> None:
        self.check_input(input, batch_sizes)
        expected = (self.get_expected_hidden_size(input, batch_sizes), self.get_expected_cell_size(input, batch_sizes))
        for number, (state, size) in enumerate(zip(hidden, expected, strict=True)):
            self.check_hidden_size(state, size, f"Expected hidden[{number}] size {{}}, got {{}}")

    def forward(self, input: Any, hx: tuple[jax.Array, jax.Array] | None = None) -> tuple[Any, tuple[jax.Array, jax.Array]]:
        output, (h_n, c_n) = self._run(input, None if hx is None else (as_array(hx[0]), as_array(hx[1])))
        return output, (h_n, c_n)


class _OneState(RNNBase):
    """What layers with one state share."""

    def forward(self, input: Any, hx: jax.Array | None = None) -> tuple[Any, jax.Array]:
        output, (h_n,) = self._run(input, None if hx is None else as_array(hx))
        return output, h_n


class GRU(_OneState):
    """Gated recurrent units (Cho et al. 2014; torch's ``nn.GRU``, which resets after the product with ``weight_hh``).

    As :class:`LSTM`, but for one state ``hx``, (layers * directions, N, hidden_size), in the pair (output, h_n) too, 3 *
    hidden_size rows of gates in the order reset, update, new, and no projections.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        _refuse_projections(proj_size)
        super().__init__("GRU", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0, device, dtype)


class RNN(_OneState):
    """An Elman network (1990; torch's ``nn.RNN``), ``nonlinearity`` ``"tanh"`` or ``"relu"``.

    As :class:`GRU`, but for one row of gates.

    Raises:
        ValueError: another ``nonlinearity``.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        _refuse_projections(proj_size)
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"Unknown nonlinearity {nonlinearity!r}. Select from 'tanh' or 'relu'.")
        mode = f"RNN_{nonlinearity.upper()}"
        super().__init__(mode, input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0, device, dtype)
        self.nonlinearity = nonlinearity


def _refuse_projections(proj_size: int) -> None:
    if proj_size != 0:
        raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")
