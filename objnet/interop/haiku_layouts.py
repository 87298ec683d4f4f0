"""How Haiku holds the layers that objnet has too."""

from __future__ import annotations

from typing import Any

import numpy as np

from objnet import nn
from objnet.interop.layouts import (
    Arrays,
    Layout,
    Unconvertible,
    add_to_forget,
    conv_lstm,
    flipped,
    gates,
    kernel_first,
    kernel_last,
    refused,
    renamed,
    transposed,
)

# -- moving averages: Haiku keeps the sum beside the average that it evaluates with, torch only the average -----------


def _average(running: Any, decay: float, count: Any, zero_debias: bool, prefix: str) -> Arrays:
    """Haiku's state of an average: with the sum that leads to it after ``count`` steps."""
    running, count = np.asarray(running), np.asarray(count)
    share = 1 - np.asarray(decay, running.dtype) ** count.astype(running.dtype) if zero_debias else np.ones((), running.dtype)
    return {f"{prefix}counter": count, f"{prefix}average": running, f"{prefix}hidden": running * share}


def _batch_norm_to_torch(module: Any, theirs: Arrays) -> Arrays:
    ours = _SCALED.to_torch(module, theirs)
    if not module.track_running_stats:
        return ours
    count = theirs.pop("state.mean_ema.counter")
    theirs.pop("state.var_ema.counter")
    for name in ("mean", "var"):
        theirs.pop(f"state.{name}_ema.hidden")
        ours[f"running_{name}"] = theirs.pop(f"state.{name}_ema.average")
    return ours | {"num_batches_tracked": count}


def _batch_norm_from_torch(module: Any, ours: Arrays, wanted: frozenset[str]) -> Arrays:
    if not module.track_running_stats:
        raise Unconvertible("it tracks no running statistics, which Haiku's BatchNorm always does")
    if module.momentum is None:
        raise Unconvertible("momentum=None averages all batches alike, which Haiku's BatchNorm, an exponential average, cannot")
    count = ours.pop("num_batches_tracked")
    theirs = _SCALED.from_torch(module, ours, wanted)
    for name in ("mean", "var"):
        theirs |= _average(ours.pop(f"running_{name}"), 1 - module.momentum, count, True, f"state.{name}_ema.")
    return theirs


def _ema(prefix: str) -> Layout:
    def to_torch(module: Any, theirs: Arrays) -> Arrays:
        theirs.pop(f"{prefix}hidden")
        return {"counter": theirs.pop(f"{prefix}counter"), "average": theirs.pop(f"{prefix}average")}

    def from_torch(module: Any, ours: Arrays, wanted: frozenset[str]) -> Arrays:
        return _average(ours.pop("average"), module.decay, ours.pop("counter"), module.zero_debias, prefix)

    return Layout(to_torch, from_torch)


def _quantizer_to_torch(module: Any, theirs: Arrays) -> Arrays:
    ours = {"weight": np.asarray(theirs.pop("state.embeddings")).T}
    for name in ("ema_cluster_size", "ema_dw"):
        average = _ema(f"state.{name}.").to_torch(None, theirs)
        ours |= {f"{name}.counter": average["counter"], f"{name}.average": np.asarray(average["average"]).T}
    return ours


def _quantizer_from_torch(module: Any, ours: Arrays, wanted: frozenset[str]) -> Arrays:
    theirs = {"state.embeddings": np.asarray(ours.pop("weight")).T}
    for name in ("ema_cluster_size", "ema_dw"):
        average = {"average": np.asarray(ours.pop(f"{name}.average")).T, "counter": ours.pop(f"{name}.counter")}
        theirs |= _ema(f"state.{name}.").from_torch(getattr(module, name), average, wanted)
    return theirs


# -- recurrent cells ---------------------------------------------------------------------------------------------------


def _lstm_to_torch(module: Any, theirs: Arrays) -> Arrays:
    """One matrix (input and state, gates i, g, f, o) and one bias, to which Haiku adds one for f."""
    if "params.linear.b" not in theirs:
        raise Unconvertible("params.linear.b is not held there")
    weight = gates(np.asarray(theirs.pop("params.linear.w")).T, "igfo", "ifgo")
    bias = add_to_forget(gates(theirs.pop("params.linear.b"), "igfo", "ifgo"), 1)
    inputs = weight.shape[1] - module.hidden_size
    ours = {"weight_ih": weight[:, :inputs], "weight_hh": weight[:, inputs:]}
    return ours | {"bias_ih": bias, "bias_hh": np.zeros_like(bias)}


def _lstm_from_torch(module: Any, ours: Arrays, wanted: frozenset[str]) -> Arrays:
    weight = np.concatenate([np.asarray(ours.pop("weight_ih")), np.asarray(ours.pop("weight_hh"))], axis=1)
    bias = ours.pop("bias_ih") + ours.pop("bias_hh") if "bias_ih" in ours else np.zeros(weight.shape[0], weight.dtype)
    return {
        "params.linear.w": gates(weight, "ifgo", "igfo").T,
        "params.linear.b": gates(add_to_forget(bias, -1), "ifgo", "igfo"),
    }


def _rnn_to_torch(module: Any, theirs: Arrays) -> Arrays:
    _check_relu(module)
    ours = {"weight_ih": transposed(theirs.pop("params.linear.w")), "weight_hh": transposed(theirs.pop("params.linear_1.w"))}
    bias = theirs.pop("params.linear.b")
    return ours | {"bias_ih": bias, "bias_hh": theirs.pop("params.linear_1.b", np.zeros_like(bias))}


def _rnn_from_torch(module: Any, ours: Arrays, wanted: frozenset[str]) -> Arrays:
    _check_relu(module)
    theirs = {
        "params.linear.w": transposed(ours.pop("weight_ih")),
        "params.linear_1.w": transposed(ours.pop("weight_hh")),
    }
    zeros = np.zeros(theirs["params.linear.w"].shape[1], theirs["params.linear.w"].dtype)
    first, second = ours.pop("bias_ih", zeros), ours.pop("bias_hh", zeros)
    if "params.linear_1.b" in wanted:  # double_bias
        return theirs | {"params.linear.b": first, "params.linear_1.b": second}
    return theirs | {"params.linear.b": first + second}


def _check_relu(module: Any) -> None:
    if module.nonlinearity != "relu":
        raise Unconvertible(f"Haiku's VanillaRNN applies relu, this one {module.nonlinearity}")


_GRU = refused(
    "Haiku's GRU is another cell: it applies the reset gate to the state before the matrix product, torch's after it, so that no weights "
    "make them equal"
)

# -- attention ---------------------------------------------------------------------------------------------------------


def _attention_to_torch(module: Any, theirs: Arrays) -> Arrays:
    names = ("query", "key", "value")
    weights = [transposed(theirs.pop(f"params.{name}.w")) for name in names]
    ours = {"out_proj.weight": transposed(theirs.pop("params.linear.w"))}
    if module._qkv_same_embed_dim:
        ours["in_proj_weight"] = np.concatenate(weights)
    else:
        ours |= {f"{letter}_proj_weight": weight for letter, weight in zip("qkv", weights, strict=True)}
    if "params.query.b" in theirs:
        ours["in_proj_bias"] = np.concatenate([np.asarray(theirs.pop(f"params.{name}.b")) for name in names])
        ours["out_proj.bias"] = theirs.pop("params.linear.b")
    return ours


def _attention_from_torch(module: Any, ours: Arrays, wanted: frozenset[str]) -> Arrays:
    names = ("query", "key", "value")
    if "in_proj_weight" in ours:
        weights = np.split(np.asarray(ours.pop("in_proj_weight")), 3)
    else:
        weights = [ours.pop(f"{letter}_proj_weight") for letter in "qkv"]
    theirs = {f"params.{name}.w": transposed(weight) for name, weight in zip(names, weights, strict=True)}
    theirs["params.linear.w"] = transposed(ours.pop("out_proj.weight"))
    if "in_proj_bias" in ours:
        biases = np.split(np.asarray(ours.pop("in_proj_bias")), 3)
        theirs |= {f"params.{name}.b": bias for name, bias in zip(names, biases, strict=True)}
        theirs["params.linear.b"] = ours.pop("out_proj.bias")
    return theirs


# -- the table ---------------------------------------------------------------------------------------------------------


def _transposed_last(weight: Any) -> Any:
    """(in, out, *kernel) as (*kernel, out, in), flipped."""
    return kernel_last(flipped(weight))


def _transposed_first(weight: Any) -> Any:
    return flipped(kernel_first(weight))


_BIAS = ("bias", "params.b")
_CONV = renamed(("weight", "params.w", kernel_last, kernel_first), _BIAS)
_CONV_TRANSPOSE = renamed(("weight", "params.w", _transposed_last, _transposed_first), _BIAS)
_SCALED = renamed(("weight", "params.scale"), ("bias", "params.offset"))
_BATCH_NORM = Layout(_batch_norm_to_torch, _batch_norm_from_torch)
_LSTM = Layout(_lstm_to_torch, _lstm_from_torch)
_RNN = Layout(_rnn_to_torch, _rnn_from_torch)
_SEPARABLE = renamed(
    ("0.weight", "params.depthwise_conv2_d.w", kernel_last, kernel_first),
    ("1.weight", "params.depthwise_conv2_d_1.w", kernel_last, kernel_first),
    ("1.bias", "params.depthwise_conv2_d_1.b"),
)

TABLE: dict[type, Layout] = {
    nn.Linear: renamed(("weight", "params.w", transposed, transposed), _BIAS),
    nn.Bias: renamed(_BIAS),
    nn.Embedding: renamed(("weight", "params.embeddings")),
    nn.MultiheadAttention: Layout(_attention_to_torch, _attention_from_torch),
    nn.SeparableDepthwiseConv2d: _SEPARABLE,
    nn.RNNCell: _RNN,
    nn.RNN: _RNN,
    nn.LSTMCell: _LSTM,
    nn.LSTM: _LSTM,
    nn.GRUCell: _GRU,
    nn.GRU: _GRU,
    nn.ExponentialMovingAverage: _ema("state."),
    nn.VectorQuantizer: renamed(("weight", "params.embeddings", transposed, transposed)),
    nn.VectorQuantizerEMA: Layout(_quantizer_to_torch, _quantizer_from_torch),
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _CONV),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), _CONV_TRANSPOSE),
    **dict.fromkeys(
        (nn.ConvLSTM1dCell, nn.ConvLSTM2dCell, nn.ConvLSTM3dCell), conv_lstm("input_to_hidden", "hidden_to_hidden", "w", "b")
    ),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm), _BATCH_NORM),
    **dict.fromkeys((nn.LayerNorm, nn.GroupNorm, nn.RMSNorm), _SCALED),
    **dict.fromkeys((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d), _SCALED),
}
