"""Cells made of cells, and the loop that runs any cell over a sequence; torch has them for its own layers only.

A *cell* is a Module called as ``cell(input, hx)``, ``hx`` None for a state of zeros, that gives the next state: an array, or a
tuple whose first entry is the output (torch's cells, ``ConvLSTM2dCell``...).  Where output and state differ it is an
:class:`RNNCore` and gives both.  :class:`Unroll` takes either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from objnet.core.arrays import as_array
from objnet.nn.module import Module
from objnet.nn.modules.container import ModuleList
from objnet.nn.modules.conv_lstm import _ConvLSTMCell
from objnet.nn.modules.rnn_cell import RNNCellBase
from objnet.transforms.loops import scan
from objnet.transforms.stage import eval_shape

__all__ = ["DeepRNNCell", "IdentityCell", "RNNCore", "ResetCell", "Unroll"]


class RNNCore(Module):
    """A cell whose ``forward(input, hx=None)`` gives the pair (output, next state); both may be any tree of arrays."""


class IdentityCell(RNNCore):
    """Passes its input on and has the state ``()`` (Haiku's IdentityCore): a model without memory in the same interface."""

    def forward(self, input: Any, hx: Any = None) -> tuple[Any, Any]:
        return input, ()


class DeepRNNCell(RNNCore):
    """Cells, and layers or functions between them, as one cell (Haiku's DeepRNN).

    The state is a tuple with the state of each cell.

    Args:
        layers: cells, other modules, functions; each on the output of the one before.
        skip_connections: whether a cell after the first takes the input too, joined before the output of the cell before it,
            and the output is that of all cells, joined.
        dim: the dimension to join along.

    Raises:
        ValueError: ``skip_connections`` with something that is no cell; from a call: not a state for each cell.
    """

    def __init__(self, layers: Sequence[Callable[..., Any]], skip_connections: bool = False, dim: int = -1) -> None:
        super().__init__()
        self.layers = ModuleList(layer if isinstance(layer, Module) else _Function(layer) for layer in layers)
        self.skip_connections = skip_connections
        self.dim = dim
        if skip_connections and not all(map(_is_cell, self.layers)):
            raise ValueError(f"skip_connections takes cells only, got {list(layers)}")

    def forward(self, input: Any, hx: Any = None) -> tuple[Any, tuple[Any, ...]]:
        count = sum(map(_is_cell, self.layers))
        if hx is not None and len(hx) != count:
            raise ValueError(f"DeepRNNCell takes a state for each of {count} cells, got {len(hx)}")
        before = iter((None,) * count if hx is None else hx)
        x, outputs, states = input, [], []
        for layer in self.layers:
            if not _is_cell(layer):
                x = layer(x)
                continue
            if self.skip_connections and outputs:
                x = self._join(input, x)
            x, state = _advance(layer, x, next(before))
            outputs.append(x)
            states.append(state)
        return self._join(*outputs) if self.skip_connections else x, tuple(states)

    def _join(self, *values: Any) -> Any:
        return jax.tree.map(lambda *arrays: jnp.concatenate(arrays, self.dim), *values)

    def extra_repr(self) -> str:
        return "skip_connections=True" if self.skip_connections else ""


class ResetCell(RNNCore):
    """A cell whose state is set to zero where asked, before the step (Haiku's ResetCore): episodes that end at other times.

    The input is a pair: the cell's input, and a boolean array, of the leading sizes of every array of the state (so (N,), or
    () for an unbatched one), or a tree of them like the state.

    Args:
        cell: any cell.

    Raises:
        ValueError: from a call: a mask that does not fit the state. TypeError: one that is not boolean.
    """

    def __init__(self, cell: Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, input: tuple[Any, Any], hx: Any = None) -> tuple[Any, Any]:
        x, reset = input
        if hx is None:
            return _advance(self.cell, x, None)
        one = jax.tree_util.treedef_is_leaf(jax.tree.structure(reset))
        masks = jax.tree.map(lambda _: reset, hx) if one else reset
        return _advance(self.cell, x, jax.tree.map(_zeroed, hx, masks))


class Unroll(Module):
    """Runs a cell over a sequence, as ``nn.LSTM`` runs its own (Haiku's static and dynamic unroll).

    Input: a tree of arrays (L, N, *), (N, L, *) if ``batch_first``, and ``hx``, the cell's first state, zeros if None. It gives
    the output of all steps, in the input's layout, and the last state.

    Args:
        cell: any cell. It may draw random keys, anew at each step, and write buffers, which go from step to step.
        batch_first: the layout of input and output.
        reverse: whether to run from the last step to the first.
        return_all_states: whether to give the states of all steps, stacked as the outputs are, instead of the last.
        unroll: how many steps the compiled loop does at a time; True for a loop in Python, which compiles every step.

    Raises:
        RuntimeError: from a call: an empty sequence, sequences of different lengths.
    """

    def __init__(
        self,
        cell: Module,
        batch_first: bool = False,
        reverse: bool = False,
        return_all_states: bool = False,
        unroll: int | bool = 1,
    ) -> None:
        super().__init__()
        self.cell = cell
        self.batch_first = batch_first
        self.reverse = reverse
        self.return_all_states = return_all_states
        self.unroll = unroll

    def forward(self, input: Any, hx: Any = None) -> tuple[Any, Any]:
        xs = self._swapped(jax.tree.map(as_array, input))
        lengths = {x.shape[0] for x in jax.tree.leaves(xs)}
        if len(lengths) != 1 or 0 in lengths:
            raise RuntimeError(f"Unroll takes sequences of one length, at least 1, got lengths {sorted(lengths)}")
        outputs, states, last = (self._python if self.unroll is True else self._scan)(xs, hx, *lengths)
        return self._swapped(outputs), self._swapped(states) if self.return_all_states else last

    def _swapped(self, tree: Any) -> Any:
        return jax.tree.map(lambda x: x.swapaxes(0, 1), tree) if self.batch_first else tree

    def _python(self, xs: Any, hx: Any, length: int) -> tuple[Any, Any, Any]:
        steps = []
        for t in reversed(range(length)) if self.reverse else range(length):
            output, hx = _advance(self.cell, jax.tree.map(lambda x: x[t], xs), hx)  # noqa: B023
            steps.append((output, hx))
        outputs, states = jax.tree.map(lambda *s: jnp.stack(s), *(steps[::-1] if self.reverse else steps))
        return outputs, states, hx

    def _scan(self, xs: Any, hx: Any, length: int) -> tuple[Any, Any, Any]:
        if hx is None:  # the loop's carry needs the form of the state, which one step tells
            like = eval_shape(lambda x: _advance(self.cell, x, None)[1], jax.tree.map(lambda x: x[0], xs))
            hx = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), like)

        def body(hx: Any, x: Any) -> tuple[Any, Any]:
            output, hx = _advance(self.cell, x, hx)
            return hx, (output, hx if self.return_all_states else None)

        hx, (outputs, states) = scan(body, hx, xs, length, reverse=self.reverse, unroll=int(self.unroll))
        return outputs, states, hx

    def extra_repr(self) -> str:
        options = {name: getattr(self, name) for name in ("batch_first", "reverse", "return_all_states", "unroll")}
        return ", ".join(f"{name}={value}" for name, value in options.items() if value is True or value > 1)


class _Function(Module):
    """A function among modules."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any) -> Any:
        return self.function(*args)

    def extra_repr(self) -> str:
        return getattr(self.function, "__name__", repr(self.function))


def _is_cell(layer: Any) -> bool:
    return isinstance(layer, (RNNCellBase, RNNCore, _ConvLSTMCell))


def _advance(cell: Any, x: Any, hx: Any) -> tuple[Any, Any]:
    """Output and next state of a cell of either kind."""
    return _parted(cell, cell(x, hx))


def _parted(cell: Any, result: Any) -> tuple[Any, Any]:
    if isinstance(cell, RNNCore):
        output, state = result
        return output, state
    return (result[0] if isinstance(result, tuple) else result), result


def _zeroed(state: Any, mask: Any) -> jax.Array:
    state, mask = as_array(state), as_array(mask)
    if mask.dtype != jnp.bool_:
        raise TypeError(f"ResetCell takes a boolean mask, got {mask.dtype}")
    if mask.shape != state.shape[: mask.ndim]:
        raise ValueError(f"ResetCell: a mask of shape {mask.shape} does not fit a state of shape {state.shape}")
    return jnp.where(mask.reshape(mask.shape + (1,) * (state.ndim - mask.ndim)), jnp.zeros_like(state), state)
