"""What recurrent layers share; the layers are in ``rnn.py``, their cells in ``rnn_cell.py``.

A packed sequence is computed padded, with the lengths: ``nn/_packed.py`` has the two layouts.
"""

from __future__ import annotations

import numbers
import warnings
from typing import Any

import jax

from objnet.core.arrays import as_array
from objnet.nn import functional as F
from objnet.nn._packed import PackedSequence
from objnet.nn.module import Module
from objnet.nn.modules._parameters import blank, place, reset_hidden

_GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}
_COMPUTE = {"LSTM": F.lstm, "GRU": F.gru, "RNN_TANH": F.rnn_tanh, "RNN_RELU": F.rnn_relu}
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
    def _flat_weights_names(self) -> list[str]:
        return [name for names in self._all_weights for name in names]

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

    # -- calls ---------------------------------------------------------------------------------------------------------

    def check_input(self, input: Any, batch_sizes: Any) -> None:
        """Refuse an input, (sum of the lengths, features) if there are ``batch_sizes``, else with all three dimensions.

        Raises:
            ValueError: another dtype than the weights.
            RuntimeError: another rank, or a wrong number of features.
        """
        dtype = self._flat_weights[0].dtype
        if input.dtype != dtype:
            raise ValueError(
                f"RNN input dtype ({input.dtype}) does not match weight dtype ({dtype}). Convert the input, input.astype"
                f"('{dtype}'), or the model, model.to('{input.dtype}')."
            )
        expected = 3 if batch_sizes is None else 2
        if input.ndim != expected:
            raise RuntimeError(f"input must have {expected} dimensions, got {input.ndim}")
        if input.shape[-1] != self.input_size:
            raise RuntimeError(f"input.size(-1) must be equal to input_size. Expected {self.input_size}, got {input.shape[-1]}")

    def get_expected_hidden_size(self, input: Any, batch_sizes: Any) -> tuple[int, int, int]:
        """The shape of the hidden state for such an input."""
        batch = input.shape[0 if self.batch_first else 1] if batch_sizes is None else int(batch_sizes[0])
        return (self.num_layers * self._directions, batch, self.proj_size or self.hidden_size)

    def check_hidden_size(
        self, hx: Any, expected_hidden_size: tuple[int, int, int], msg: str = "Expected hidden size {}, got {}"
    ) -> None:
        """Refuse a state of another shape.

        Raises:
            RuntimeError: ``msg`` with both shapes.
        """
        if tuple(hx.shape) != tuple(expected_hidden_size):
            raise RuntimeError(msg.format(expected_hidden_size, list(hx.shape)))

    def check_forward_args(self, input: Any, hidden: Any, batch_sizes: Any) -> None:
        """All three checks."""
        self.check_input(input, batch_sizes)
        self.check_hidden_size(hidden, self.get_expected_hidden_size(input, batch_sizes))

    def permute_hidden(self, hx: Any, permutation: Any) -> Any:
        """The state with its batch in another order; None for the same."""
        return hx if permutation is None else jax.tree.map(lambda state: state.take(permutation, 1), hx)

    def _run(self, input: Any, hx: Any) -> tuple[Any, tuple[jax.Array, ...]]:
        """The output and the last states, for an array or a packed sequence, and the arrays of a state or None.

        Raises:
            ValueError: an input that is neither 2-d nor 3-d, or of another dtype than the weights.
            RuntimeError: shapes that do not fit.
        """
        packed = input if isinstance(input, PackedSequence) else None
        x, lengths = (as_array(input), None) if packed is None else packed._padded()
        before, after = (None, None) if packed is None else packed._order
        if packed is None and x.ndim not in (2, 3):
            raise ValueError(f"{self._get_name()}: Expected input to be 2D or 3D, got {x.ndim}D instead")
        self._check_call(x, jax.tree.leaves(hx), packed is not None)
        arguments = (self._flat_weights, self.bias, self.num_layers, self.dropout, self.training, self.bidirectional)
        hx = self.permute_hidden(hx, before)
        output, *states = _COMPUTE[self.mode](x, hx, *arguments, self.batch_first and packed is None, lengths)
        return output if packed is None else packed._with(output), self.permute_hidden(tuple(states), after)

    def _check_call(self, x: jax.Array, states: list[jax.Array], packed: bool) -> None:
        rank = 3 if packed else x.ndim
        if any(state.ndim != rank for state in states):
            kinds = " and ".join(f"{state.ndim}-D" for state in states)
            raise RuntimeError(
                f"For {'batched' if rank == 3 else 'unbatched'} {rank}-D input, "
                f"{'hx' if len(states) == 1 else 'hx and cx'} should also be {rank}-D but got {kinds}"
            )
        shape = list(x.shape)
        if packed:
            shape = shape[1:]  # of one step
        elif rank == 2:
            shape.insert(0 if self.batch_first else 1, 1)
            states = [state[:, None] for state in states]
        like, batch_sizes = jax.ShapeDtypeStruct(shape, x.dtype), shape[:1] if packed else None
        if states:
            self.check_forward_args(like, states[0] if len(states) == 1 else tuple(states), batch_sizes)
        else:
            self.check_input(like, batch_sizes)

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
