"""How linen holds the layers that objnet has too."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from objnet import nn
from objnet.interop.layouts import (
    Arrays,
    Layout,
    Unconvertible,
    conv_lstm,
    flipped,
    kernel_first,
    kernel_last,
    renamed,
    transposed,
)


def _transposed_kernel(weight: Any) -> Any:
    """(in, out, *kernel) as (*kernel, in, out), flipped."""
    return np.moveaxis(flipped(weight), (0, 1), (-2, -1))


def _transposed_weight(kernel: Any) -> Any:
    return flipped(np.moveaxis(np.asarray(kernel), (-2, -1), (0, 1)))


# -- recurrent cells: linen has a Dense for each gate, and one bias where torch has two --------------------------------


def _cell(order: str, main: str, own: str = "") -> Layout:
    """A cell with these gates, in the order of torch's rows; ``""`` for a cell without gates.

    Args:
        order: the letters of the gates.
        main: ``"i"`` or ``"h"``: on which side linen keeps the bias.
        own: gates that have a bias on the other side as well.
    """
    letters = list(order) or [""]

    def bias_name(gate: str, second: bool) -> str:
        side = main if not second else "h" if main == "i" else "i"
        return f"params.{side}{gate}.bias"

    def to_torch(module: Any, theirs: Arrays) -> Arrays:
        def take(name: str) -> Any:
            if name not in theirs:
                raise Unconvertible(f"{name!r} is not held there")
            return np.asarray(theirs.pop(name))

        def stacked(side: str) -> Any:
            return np.concatenate([take(f"params.{side}{gate}.kernel").T for gate in letters])

        ours = {"weight_ih": stacked("i"), "weight_hh": stacked("h")}
        if any(name.endswith(".bias") for name in theirs):
            first = [take(bias_name(gate, False)) for gate in letters]
            second = [
                take(bias_name(g, True)) if g and g in own else np.zeros_like(b) for g, b in zip(letters, first, strict=True)
            ]
            biases = first, second
            for side, bias in zip(("ih", "hh"), biases if main == "i" else biases[::-1], strict=True):
                ours[f"bias_{side}"] = np.concatenate(bias)
        return ours

    def from_torch(module: Any, ours: Arrays, wanted: frozenset[str]) -> Arrays:
        count = len(letters)
        theirs = {}
        for side in "ih":
            parts = np.split(np.asarray(ours.pop(f"weight_{side}h")), count)
            theirs.update({f"params.{side}{gate}.kernel": part.T for gate, part in zip(letters, parts, strict=True)})
        if "bias_ih" in ours:
            sides = {side: np.split(np.asarray(ours.pop(f"bias_{side}h")), count) for side in "ih"}
            for i, gate in enumerate(letters):
                first, second = (sides[side][i] for side in (main, "h" if main == "i" else "i"))
                if gate and gate in own:
                    theirs[bias_name(gate, True)] = second
                else:
                    first = first + second
                theirs[bias_name(gate, False)] = first
        return theirs

    return Layout(to_torch, from_torch)


def _below(prefix: str, layout: Layout) -> Layout:
    """A layer that may be held in a module of its own there: linen's ``RNN`` keeps its cell under ``cell``."""

    def to_torch(module: Any, theirs: Arrays) -> Arrays:
        if not any(name.startswith(prefix) for name in theirs):
            return layout.to_torch(module, theirs)
        inner = {f"params.{name.removeprefix(prefix)}": theirs.pop(name) for name in list(theirs) if name.startswith(prefix)}
        ours = layout.to_torch(module, inner)
        theirs.update({name.replace("params.", prefix, 1): value for name, value in inner.items()})
        return ours

    def from_torch(module: Any, ours: Arrays, wanted: frozenset[str]) -> Arrays:
        theirs = layout.from_torch(module, ours, wanted)
        if not any(name.startswith(prefix) for name in wanted):
            return theirs
        return {name.replace("params.", prefix, 1): value for name, value in theirs.items()}

    return Layout(to_torch, from_torch)


# -- attention: a kernel of (in, heads, head size) each for query, key and value, where torch may keep the three as one ----


def _attention_to_torch(module: Any, theirs: Arrays) -> Arrays:
    names = ("query", "key", "value")
    weights = [_rows(theirs.pop(f"params.{name}.kernel"), 1) for name in names]
    ours = {"out_proj.weight": _rows(theirs.pop("params.out.kernel"), 2)}
    if module._qkv_same_embed_dim:
        ours["in_proj_weight"] = np.concatenate(weights)
    else:
        ours |= {f"{letter}_proj_weight": weight for letter, weight in zip("qkv", weights, strict=True)}
    if "params.query.bias" in theirs:
        ours["in_proj_bias"] = np.concatenate([np.asarray(theirs.pop(f"params.{name}.bias")).reshape(-1) for name in names])
        ours["out_proj.bias"] = theirs.pop("params.out.bias")
    return ours


def _rows(kernel: Any, inputs: int) -> Any:
    """A kernel whose first ``inputs`` dimensions are the input's, as a weight (out, in)."""
    kernel = np.asarray(kernel)
    return kernel.reshape(math.prod(kernel.shape[:inputs]), -1).T


def _attention_from_torch(module: Any, ours: Arrays, wanted: frozenset[str]) -> Arrays:
    names, heads = ("query", "key", "value"), module.num_heads
    if "in_proj_weight" in ours:
        weights = np.split(np.asarray(ours.pop("in_proj_weight")), 3)
    else:
        weights = [np.asarray(ours.pop(f"{letter}_proj_weight")) for letter in "qkv"]
    theirs = {f"params.{name}.kernel": w.T.reshape(w.shape[1], heads, -1) for name, w in zip(names, weights, strict=True)}
    out = np.asarray(ours.pop("out_proj.weight"))
    theirs["params.out.kernel"] = out.T.reshape(heads, -1, out.shape[0])
    if "in_proj_bias" in ours:
        biases = np.split(np.asarray(ours.pop("in_proj_bias")), 3)
        theirs |= {f"params.{name}.bias": bias.reshape(heads, -1) for name, bias in zip(names, biases, strict=True)}
        theirs["params.out.bias"] = ours.pop("out_proj.bias")
    return theirs


# -- the table ---------------------------------------------------------------------------------------------------------

_BIAS = ("bias", "params.bias")
_CONV = renamed(("weight", "params.kernel", kernel_last, kernel_first), _BIAS)
_CONV_TRANSPOSE = renamed(("weight", "params.kernel", _transposed_kernel, _transposed_weight), _BIAS)
_SCALED = renamed(("weight", "params.scale"), _BIAS)
_BATCH_NORM = renamed(
    ("weight", "params.scale"),
    _BIAS,
    ("running_mean", "batch_stats.mean"),
    ("running_var", "batch_stats.var"),
    kept=("num_batches_tracked",),
)
_RNN = _below("params.cell.", _cell("", "i"))
_LSTM = _below("params.cell.", _cell("ifgo", "h"))
_GRU = _below("params.cell.", _cell("rzn", "i", own="n"))

TABLE: dict[type, Layout] = {
    nn.Linear: renamed(("weight", "params.kernel", transposed, transposed), _BIAS),
    nn.Embedding: renamed(("weight", "params.embedding")),
    nn.PReLU: renamed(("weight", "params.negative_slope")),
    nn.MultiheadAttention: Layout(_attention_to_torch, _attention_from_torch),
    nn.RNNCell: _RNN,
    nn.RNN: _RNN,
    nn.LSTMCell: _LSTM,
    nn.LSTM: _LSTM,
    nn.GRUCell: _GRU,
    nn.GRU: _GRU,
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _CONV),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), _CONV_TRANSPOSE),
    **dict.fromkeys((nn.ConvLSTM1dCell, nn.ConvLSTM2dCell, nn.ConvLSTM3dCell), conv_lstm("ih", "hh", "kernel", "bias")),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm), _BATCH_NORM),
    **dict.fromkeys((nn.LayerNorm, nn.GroupNorm, nn.RMSNorm), _SCALED),
    **dict.fromkeys((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d), _SCALED),
}
