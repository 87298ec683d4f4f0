"""Recurrent layers and cells: the computation behind ``nn.RNN``, ``nn.LSTM``, ``nn.GRU`` and their cells.

The functions check their arguments and bring them into one layout; ``_recurrent.py`` computes.  ``lengths`` is what packed
sequences are for in torch: steps past a sequence's end are as good as absent, in both directions and in the gradients, at the
price of computing them.  Lengths may be traced, for shapes do not depend on them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from objnet.core.arrays import as_array
from objnet.core.autocast import low_precision
from objnet.nn.functional import _recurrent
from objnet.nn.functional._common import host, is_concrete
from objnet.nn.functional._recurrent import Cell, State, Weights

__all__ = ["gru", "gru_cell", "lstm", "lstm_cell", "rnn_relu", "rnn_relu_cell", "rnn_tanh", "rnn_tanh_cell"]

Array = jax.Array


@low_precision
def lstm_cell(
    input: Array,
    hx: tuple[Array, Array],
    w_ih: Array,
    w_hh: Array,
    b_ih: Array | None = None,
    b_hh: Array | None = None,
) -> tuple[Array, Array]:
    """One step of an LSTM (Hochreiter and Schmidhuber 1997; torch's ``lstm_cell``).

    Args:
        input: (N, I) or (I,).
        hx: the states h and c, (N, H) or (H,).
        w_ih: (4 * H, I), gates in the order input, forget, cell, output.
        w_hh: (4 * H, H).
        b_ih: (4 * H,) or None.
        b_hh: (4 * H,) or None.

    Returns:
        The next h and c, of the input's shape and dtype but for the features.

    Raises:
        ValueError: an input that is neither 1-d nor 2-d.
        RuntimeError: shapes or dtypes that do not fit.
    """
    h, c = _cell("lstm_cell", _recurrent.LSTM, input, hx, (w_ih, w_hh, b_ih, b_hh))
    return h, c


@low_precision
def gru_cell(input: Array, hx: Array, w_ih: Array, w_hh: Array, b_ih: Array | None = None, b_hh: Array | None = None) -> Array:
    """One step of a gated recurrent unit (Cho et al. 2014; torch's ``gru_cell``, with the reset gate after the product).

    As :func:`lstm_cell`, but for one state ``hx``, (N, H) or (H,), and three gates: reset, update, new.
    """
    return _cell("gru_cell", _recurrent.GRU, input, (hx,), (w_ih, w_hh, b_ih, b_hh))[0]


@low_precision
def rnn_tanh_cell(
    input: Array, hx: Array, w_ih: Array, w_hh: Array, b_ih: Array | None = None, b_hh: Array | None = None
) -> Array:
    """One step of an Elman network (1990; torch's ``rnn_tanh_cell``): as :func:`gru_cell`, with one row of gates."""
    return _cell("rnn_tanh_cell", _recurrent.RNN_TANH, input, (hx,), (w_ih, w_hh, b_ih, b_hh))[0]


@low_precision
def rnn_relu_cell(
    input: Array, hx: Array, w_ih: Array, w_hh: Array, b_ih: Array | None = None, b_hh: Array | None = None
) -> Array:
    """As :func:`rnn_tanh_cell`, with a ReLU (torch's ``rnn_relu_cell``)."""
    return _cell("rnn_relu_cell", _recurrent.RNN_RELU, input, (hx,), (w_ih, w_hh, b_ih, b_hh))[0]


@low_precision
def lstm(
    input: Array,
    hx: tuple[Array, Array] | None,
    params: Sequence[Array],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
    lengths: Array | None = None,
) -> tuple[Array, Array, Array]:
    """A stack of LSTM layers (Hochreiter and Schmidhuber 1997; torch's ``torch.lstm``, with projections Sak et al. 2014).

    Args:
        input: (L, N, I), (N, L, I) if ``batch_first``, or (L, I).
        hx: the states h, (layers * directions, N, P), and c, (layers * directions, N, H), without N for an input without;
            zeros if None. P is H without projections.
        params: for every layer and direction w_ih (4 * H, features), w_hh (4 * H, P), then, if ``has_biases``, b_ih and b_hh
            (4 * H,), then, with projections, w_hr (P, H). The gates are in the order input, forget, cell, output.
        has_biases: whether ``params`` holds biases.
        num_layers: layers, each on the output of the one before.
        dropout: probability, if ``train``, of zeroing an element between layers; a key is drawn for each.
        train: whether to drop.
        bidirectional: whether each layer runs from both ends; their outputs are joined.
        batch_first: the layout of input and output.
        lengths: (N,) whole numbers from 0 to L, the steps of each sequence; all L of them if None. The reverse direction
            starts at a sequence's own end, the last states are those there, and the output is zero after it.

    Returns:
        The output (L, N, P * directions), in the input's layout, and the last states h_n and c_n, shaped as in ``hx``.

    Raises:
        ValueError: an input that is neither 2-d nor 3-d, or of another dtype than the weights.
        RuntimeError: shapes that do not fit, a wrong number of params, an empty sequence, lengths that do not fit.
    """
    output, (h_n, c_n) = _layers(
        "lstm",
        _recurrent.LSTM,
        input,
        hx,
        params,
        (has_biases, num_layers, dropout if train else 0.0, bidirectional, batch_first),
        lengths,
    )
    return output, h_n, c_n


def _one_state(name: str, cell: Cell, doc: str) -> Callable[..., tuple[Array, Array]]:
    """The function of a stack of layers with one state, ``hx``."""

    def layers(
        input: Array,
        hx: Array | None,
        params: Sequence[Array],
        has_biases: bool,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool,
        lengths: Array | None = None,
    ) -> tuple[Array, Array]:
        options = (has_biases, num_layers, dropout if train else 0.0, bidirectional, batch_first)
        output, (h_n,) = _layers(name, cell, input, None if hx is None else (hx,), params, options, lengths)
        return output, h_n

    layers.__name__ = layers.__qualname__ = name
    layers.__doc__ = f"""{doc}

    As :func:`lstm`, but for one state ``hx``, (layers * directions, N, H), {cell.gates} * H rows of gates, no projections, and
    two results: output and h_n.
    """
    return low_precision(layers)


gru = _one_state(
    "gru",
    _recurrent.GRU,
    "A stack of gated recurrent units (Cho et al. 2014; torch's ``torch.gru``), gates in the order reset, update, new.",
)
rnn_tanh = _one_state("rnn_tanh", _recurrent.RNN_TANH, "A stack of Elman layers (1990; torch's ``torch.rnn_tanh``).")
rnn_relu = _one_state("rnn_relu", _recurrent.RNN_RELU, "A stack of Elman layers with a ReLU (torch's ``torch.rnn_relu``).")


def _cell(function: str, cell: Cell, input: Any, hx: Sequence[Any], params: Sequence[Any]) -> State:
    x = as_array(input)
    state = _states(function, x.dtype, hx)
    weights = Weights(*(None if p is None else as_array(p) for p in params), None)
    if x.ndim not in (1, 2):
        raise ValueError(f"{function} takes an input of 1 or 2 dimensions, got {x.shape}")
    hidden = weights.w_hh.shape[-1]
    _check_dtypes(function, x.dtype, weights, RuntimeError)
    _check_weights(function, weights, cell.gates, x.shape[-1], hidden, hidden)
    for name, array in zip("hc", state):
        _check_shape(function, name, array, (*x.shape[:-1], hidden))
    return _recurrent.advance(cell, x, state, weights)


def _layers(
    function: str,
    cell: Cell,
    input: Any,
    hx: Sequence[Any] | None,
    params: Sequence[Any],
    options: tuple[bool, int, float, bool, bool],
    lengths: Any,
) -> tuple[Array, State]:
    has_biases, num_layers, dropout, bidirectional, batch_first = options
    x = as_array(input)
    directions = 2 if bidirectional else 1
    layers = _grouped(function, cell, params, has_biases, num_layers * directions)
    hidden = layers[0].w_ih.shape[0] // cell.gates
    features = hidden if layers[0].w_hr is None else layers[0].w_hr.shape[0]
    _check_dtypes(function, x.dtype, [weight for weights in layers for weight in weights], ValueError)
    x, states, leave = _enter(function, x, hx, len(layers), (features, hidden)[: cell.states], batch_first)
    for number, weights in enumerate(layers):
        inputs = x.shape[-1] if number < directions else features * directions
        _check_weights(function, weights, cell.gates, inputs, features, hidden)
    mask = None if lengths is None else _mask(function, as_array(lengths), *x.shape[:2])
    output, last = _recurrent.stack(cell, x, states, layers, directions, dropout, mask)
    return leave(output, batch_first), tuple(leave(state) for state in last)


def _grouped(function: str, cell: Cell, params: Sequence[Any], has_biases: bool, count: int) -> list[Weights]:
    """``params``, in torch's order, as the weights of ``count`` layers and directions."""
    arrays = [as_array(p) for p in params]
    plain = 4 if has_biases else 2
    width, rest = divmod(len(arrays), count)
    if rest or width not in (plain, plain + (cell is _recurrent.LSTM)):
        projections = f", or {(plain + 1) * count} with projections" if cell is _recurrent.LSTM else ""
        raise RuntimeError(
            f"{function}: {count} layers and directions need {plain * count} params{projections}, got {len(arrays)}"
        )
    layers = []
    for start in range(0, len(arrays), width):
        w_ih, w_hh, *others = arrays[start : start + width]
        b_ih, b_hh = others[:2] if has_biases else (None, None)
        layers.append(Weights(w_ih, w_hh, b_ih, b_hh, others[-1] if width > plain else None))
    return layers


def _enter(
    function: str, x: Array, hx: Sequence[Any] | None, count: int, features: Sequence[int], batch_first: bool
) -> tuple[Array, State, Callable[..., Array]]:
    """The input as (L, N, I), the states as (count, N, features), and what undoes that for output and states."""
    if x.ndim not in (2, 3):
        raise ValueError(f"{function} takes an input of 2 or 3 dimensions, got {x.shape}")
    one = x.ndim == 2
    x = x[:, None] if one else x.swapaxes(0, 1) if batch_first else x
    length, batch = x.shape[:2]
    if length == 0:
        raise RuntimeError(f"{function} needs at least one step, got an input of no length")
    if hx is None:
        states = tuple(jnp.zeros((count, batch, size), x.dtype) for size in features)
    else:
        states = _states(function, x.dtype, hx)
        for number, (state, size) in enumerate(zip(states, features, strict=True)):
            _check_shape(function, f"hx[{number}]", state, (count, size) if one else (count, batch, size))
        states = tuple(state[:, None] for state in states) if one else states

    def leave(y: Array, swap: bool = False) -> Array:
        if one:
            return y[:, 0]
        return y.swapaxes(0, 1) if swap else y

    return x, states, leave


def _states(function: str, dtype: Any, hx: Sequence[Any]) -> State:
    """The states, of this dtype; a cell state of whole numbers is converted, as torch's product with a gate does."""
    first, *others = (as_array(state) for state in hx)
    states = (first, *(state if jnp.issubdtype(state.dtype, jnp.inexact) else state.astype(dtype) for state in others))
    _check_dtypes(function, dtype, states, RuntimeError)
    return states


def _mask(function: str, lengths: Array, length: int, batch: int) -> Array:
    """(L, N, 1): whether the step exists."""
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise RuntimeError(f"{function}: lengths must be whole numbers, got {lengths.dtype}")
    _check_shape(function, "lengths", lengths, (batch,))
    if is_concrete(lengths) and batch and (host(lengths).min() < 0 or host(lengths).max() > length):
        raise RuntimeError(f"{function}: lengths must be from 0 to {length}, got {host(lengths).tolist()}")
    steps = jnp.arange(length)[:, None]
    return (steps < lengths.astype(steps.dtype)[None])[..., None]


def _check_weights(function: str, weights: Weights, count: int, inputs: int, features: int, hidden: int) -> None:
    gates = count * hidden
    shapes = ((gates, inputs), (gates, features), (gates,), (gates,), (features, hidden))
    for name, weight, shape in zip(Weights._fields, weights, shapes, strict=True):
        if weight is not None:
            _check_shape(function, name, weight, shape)


def _check_shape(function: str, name: str, x: Array, shape: tuple[int, ...]) -> None:
    if x.shape != shape:
        raise RuntimeError(f"{function}: {name} must be of shape {shape}, got {x.shape}")


def _check_dtypes(function: str, dtype: Any, others: Sequence[Array | None], error: type[Exception]) -> None:
    for other in others:
        if other is not None and other.dtype != dtype:
            raise error(f"{function}: the input is {dtype}, a weight or state {other.dtype}: they must be of one dtype")
