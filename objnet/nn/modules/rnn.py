"""Recurrent layers."""

from __future__ import annotations

import numbers
import warnings
from typing import Any

import jax
import jax.numpy as jnp

from objnet.core.arrays import as_array
from objnet.nn import functional as F
from objnet.nn.module import Module
from objnet.nn.modules._parameters import blank, place, reset_hidden

__all__ = ["LSTM", "LSTMCell", "RNNBase", "RNNCellBase"]

_GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}
_USER = 5  # how far a warning of RNNBase.__init__ climbs to the line that builds an LSTM


class RNNBase(Module):
    """What recurrent layers share: arguments, parameters, and the checks and shapes around the computation (torch's).

    Args:
        mode: ``"LSTM"``, ``"GRU"``, ``"RNN_TANH"`` or ``"RNN_RELU"``.
        input_size: features of the input.
        hidden_size: features of the state.
        num_layers: layers, each on the output of the one before.
        bias: whether there are biases.
        batch_first: whether input and output are (N, L, ...) instead of (L, N, ...).
        dropout: probability, in training, of zeroing an element between layers.
        bidirectional: whether each layer runs from both ends.
        proj_size: features the hidden state is projected to; 0 for no projection.
        device: where the parameters live, as in :meth:`Module.to`.
        dtype: their dtype.

    Raises:
        TypeError, ValueError: arguments torch refuses.
    """

    def __init__(
        self,
        mode: str,
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
        super().__init__()
        self.mode = mode
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        self.proj_size = proj_size
        if not isinstance(dropout, numbers.Number) or isinstance(dropout, bool) or not 0 <= self.dropout <= 1:
            raise ValueError(f"dropout should be a number in range [0, 1], the probability of zeroing, got {dropout!r}")
        if self.dropout > 0 and num_layers == 1:
            message = f"dropout is applied between recurrent layers, so dropout={dropout} does nothing with num_layers=1"
            warnings.warn(message, UserWarning, stacklevel=_USER)
        self._check_arguments()
        features = proj_size or hidden_size
        gates = _GATES[mode] * hidden_size
        for position, names in enumerate(self._all_weights):
            first = position < self._directions
            shapes = {
                "weight_ih": (gates, input_size if first else features * self._directions),
                "weight_hh": (gates, features),
                "bias_ih": (gates,),
                "bias_hh": (gates,),
                "weight_hr": (proj_size, hidden_size),
            }
            for name in names:
                setattr(self, name, blank(*shapes[name.partition("_l")[0]], dtype=dtype))
        self.reset_parameters()
        place(self, device)

    def _check_arguments(self) -> None:
        for name, kind in (("bias", bool), ("batch_first", bool), ("input_size", int), ("hidden_size", int)):
            value = getattr(self, name)
            if not isinstance(value, kind):
                raise TypeError(f"{name} should be of type {kind.__name__}, got: {type(value).__name__}")
        for name in ("input_size", "hidden_size", "num_layers"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be greater than zero, got {getattr(self, name)}")
        if not 0 <= self.proj_size < self.hidden_size:
            raise ValueError(
                "proj_size should be zero (no projection) or positive and smaller than hidden_size, got "
                f"{self.proj_size} and {self.hidden_size}"
            )
        if self.mode not in _GATES:
            raise ValueError(f"Unrecognized RNN mode: {self.mode}, expected one of {tuple(_GATES)}")

    # -- parameters ----------------------------------------------------------------------------------------------------

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def _all_weights(self) -> list[list[str]]:
        """The names of the parameters, a list for every layer and direction."""
        kinds = ["weight_ih", "weight_hh"]
        if self.bias:
            kinds += ["bias_ih", "bias_hh"]
        if self.proj_size:
            kinds += ["weight_hr"]
        suffixes = ("", "_reverse")[: self._directions]
        return [[f"{kind}_l{layer}{suffix}" for kind in kinds] for layer in range(self.num_layers) for suffix in suffixes]

    @property
    def all_weights(self) -> list[list[Any]]:
        """The parameters, a list for every layer and direction."""
        return [[getattr(self, name) for name in names] for names in self._all_weights]

    @property
    def _flat_weights(self) -> list[Any]:
        return [weight for weights in self.all_weights for weight in weights]

    def flatten_parameters(self) -> None:
        """Does nothing: it is there for torch code, where it joins the weights in memory."""

    def reset_parameters(self) -> None:
        """Draw new initial values."""
        reset_hidden(self, self.hidden_size)

    def _check_call(self, input: jax.Array, states: tuple[jax.Array, ...], sizes: tuple[int, ...]) -> None:
        """Refuse an input or states (of these features each) that do not fit the module.

        Raises:
            ValueError: an input that is neither 2-d nor 3-d, or of another dtype than the weights.
            RuntimeError: shapes that do not fit.
        """
        if input.ndim not in (2, 3):
            raise ValueError(f"{self._get_name()}: Expected input to be 2D or 3D, got {input.ndim}D instead")
        batched = input.ndim == 3
        if any(state.ndim != input.ndim for state in states):
            given = ", ".join(f"{state.ndim}-D" for state in states)
            which = "hx" if len(sizes) == 1 else "hx and cx"
            raise RuntimeError(
                f"For {'batched' if batched else 'unbatched'} {input.ndim}-D input, {which} should also be {input.ndim}-D but "
                f"got {given}"
            )
        dtype = self._flat_weights[0].dtype
        if input.dtype != dtype:
            raise ValueError(
                f"RNN input dtype ({input.dtype}) does not match weight dtype ({dtype}). Convert the input, input.astype"
                f"('{dtype}'), or the model, model.to('{input.dtype}')."
            )
        if input.shape[-1] != self.input_size:
            raise RuntimeError(f"input.size(-1) must be equal to input_size. Expected {self.input_size}, got {input.shape[-1]}")
        batch = (input.shape[0 if self.batch_first else 1],) if batched else ()
        for number, (state, size) in enumerate(zip(states, sizes, strict=bool(states))):
            expected = (self.num_layers * self._directions, *batch, size)
            if state.shape != expected:
                which = "hidden" if len(sizes) == 1 else f"hidden[{number}]"
                raise RuntimeError(f"Expected {which} size {expected}, got {list(state.shape)}")

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        if self.proj_size != 0:
            text += f", proj_size={self.proj_size}"
        if self.num_layers != 1:
            text += f", num_layers={self.num_layers}"
        if self.bias is not True:
            text += f", bias={self.bias}"
        if self.batch_first is not False:
            text += f", batch_first={self.batch_first}"
        if self.dropout != 0:
            text += f", dropout={self.dropout}"
        if self.bidirectional is not False:
            text += f", bidirectional={self.bidirectional}"
        return text


class LSTM(RNNBase):
    """Long short-term memory (Hochreiter and Schmidhuber 1997; torch's ``nn.LSTM``).

    Input (L, N, input_size), (N, L, input_size) if ``batch_first``, or (L, input_size), and ``hx``: a pair of states (layers *
    directions, N, features), without N for an unbatched input, zero if None. It gives the pair (output, (h_n, c_n)).

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

    def forward(
        self, input: jax.Array, hx: tuple[jax.Array, jax.Array] | None = None
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        input = as_array(input)
        states = None if hx is None else (as_array(hx[0]), as_array(hx[1]))
        self._check_call(input, states or (), (self.proj_size or self.hidden_size, self.hidden_size))
        output, h_n, c_n = F.lstm(
            input,
            states,
            self._flat_weights,
            self.bias,
            self.num_layers,
            self.dropout,
            self.training,
            self.bidirectional,
            self.batch_first,
        )
        return output, (h_n, c_n)


class RNNCellBase(Module):
    """What the cells of recurrent layers share (torch's): ``weight_ih``, ``weight_hh``, ``bias_ih``, ``bias_hh``."""

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


class LSTMCell(RNNCellBase):
    """One step of an LSTM (Hochreiter and Schmidhuber 1997; torch's ``nn.LSTMCell``).

    Input (N, input_size) or (input_size,), and ``hx``: a pair of states (N, hidden_size) or (hidden_size,), zero if None. It
    gives the next pair.

    Args:
        input_size: features of the input.
        hidden_size: features of the states.
        bias: whether there are biases.
        device: where the parameters live, as in :meth:`Module.to`.
        dtype: their dtype.

    Raises:
        ValueError: from a call: an input or state that is neither 1-d nor 2-d.
        RuntimeError: from a call: shapes or dtypes that do not fit.
    """

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None) -> None:
        super().__init__(input_size, hidden_size, bias, 4, device, dtype)

    def forward(self, input: jax.Array, hx: tuple[jax.Array, jax.Array] | None = None) -> tuple[jax.Array, jax.Array]:
        input = as_array(input)
        states = () if hx is None else (as_array(hx[0]), as_array(hx[1]))
        for name, array in (("input", input), *((f"hx[{i}]", state) for i, state in enumerate(states))):
            if array.ndim not in (1, 2):
                raise ValueError(f"LSTMCell: Expected {name} to be 1D or 2D, got {array.ndim}D instead")
        if not states:
            states = (jnp.zeros((*input.shape[:-1], self.hidden_size), input.dtype),) * 2
        return F.lstm_cell(input, states, self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
