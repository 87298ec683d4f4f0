"""Weights of layers that Haiku has too: outputs are equal after conversion, and conversions undo each other."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objnet import errors, jit, nn
from tests.interop.layers import (
    CC,
    HH,
    IMAGE,
    INDICES,
    NARROW,
    SEQUENCE,
    C,
    H,
    Model,
    X,
    close,
    filled,
    image,
    last,
    normal,
    plain,
    shaped,
)

hk = pytest.importorskip("haiku")
bridge = pytest.importorskip("objnet.interop.haiku")


@pytest.fixture(autouse=True)
def _promotion():
    """Haiku mixes dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


# name: (ours, theirs, (our call, their inputs))
HAIKU = {
    "Linear": (lambda: nn.Linear(4, 3), lambda x: hk.Linear(3)(x), plain(X)),
    "Bias": (lambda: nn.Bias((4,)), lambda x: hk.Bias()(x), plain(X)),
    "Conv1d": (lambda: nn.Conv1d(4, 6, 3, padding=1), lambda x: hk.Conv1D(6, 3)(x), image(IMAGE[..., 0])),
    "Conv2d": (
        lambda: nn.Conv2d(4, 6, (3, 2), stride=2, padding=1, groups=2),
        lambda x: hk.Conv2D(6, (3, 2), 2, padding=(1, 1), feature_group_count=2)(x),
        image(IMAGE),
    ),
    "Conv2d, channels first": (lambda: nn.Conv2d(4, 6, 3, padding=1), lambda x: hk.Conv2D(6, 3, data_format="NCHW")(x), plain(IMAGE)),
    "Conv3d": (lambda: nn.Conv3d(4, 3, 2), lambda x: hk.Conv3D(3, 2, padding="VALID")(x), image(normal(1, 4, 3, 4, 5))),
    "DepthwiseConv2d": (lambda: nn.DepthwiseConv2d(4, 2, 3, padding="same"), lambda x: hk.DepthwiseConv2D(2, 3)(x), image(IMAGE)),
    "SeparableDepthwiseConv2d": (
        lambda: nn.SeparableDepthwiseConv2d(4, 2, 3, padding="same"),
        lambda x: hk.SeparableDepthwiseConv2D(2, 3)(x),
        image(IMAGE),
    ),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(4, 6, 4, 2, 1), lambda x: hk.Conv1DTranspose(6, 4, 2)(x), image(IMAGE[..., 0])),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(4, 6, 4, 2, 1), lambda x: hk.Conv2DTranspose(6, 4, 2)(x), image(IMAGE)),
    "Embedding": (lambda: nn.Embedding(7, 3), lambda i: hk.Embed(7, 3)(i), plain(INDICES)),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(4).eval(), lambda x: hk.BatchNorm(True, True, 0.9)(x, hk.running_init()), plain(X)),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(4).eval(), lambda x: hk.BatchNorm(True, True, 0.9)(x, hk.running_init()), image(IMAGE)),
    "LayerNorm": (lambda: nn.LayerNorm(4), lambda x: hk.LayerNorm(-1, True, True)(x), plain(X)),
    "RMSNorm": (lambda: nn.RMSNorm(4, eps=1e-5), lambda x: hk.RMSNorm(-1)(x), plain(X)),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), lambda x: hk.GroupNorm(2)(x), image(IMAGE)),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(4, affine=True), lambda x: hk.InstanceNorm(True, True)(x), image(IMAGE)),
    "LSTMCell": (lambda: nn.LSTMCell(4, 3), lambda x: hk.LSTM(3)(x, hk.LSTMState(H, C))[0], ((lambda m: m(X, (H, C))[0]), (X,))),
    "LSTM": (
        lambda: nn.LSTM(4, 3, batch_first=True),
        lambda x: (lambda core: hk.dynamic_unroll(core, x, core.initial_state(2), time_major=False)[0])(hk.LSTM(3)),
        ((lambda m: m(SEQUENCE)[0]), (SEQUENCE,)),
    ),
    "RNNCell": (lambda: nn.RNNCell(4, 3, nonlinearity="relu"), lambda x: hk.VanillaRNN(3)(x, H)[0], ((lambda m: m(X, H)), (X,))),
    "RNNCell, one bias": (
        lambda: nn.RNNCell(4, 3, nonlinearity="relu"),
        lambda x: hk.VanillaRNN(3, double_bias=False)(x, H)[0],
        ((lambda m: m(X, H)), (X,)),
    ),
    "ConvLSTM2dCell": (
        lambda: nn.ConvLSTM2dCell(4, 3, 3),
        lambda x: hk.Conv2DLSTM((6, 5), 3, 3)(x, hk.LSTMState(last(HH), last(CC)))[0],
        ((lambda m: last(m(IMAGE, (HH, CC))[0])), (last(IMAGE),)),
    ),
    "MultiheadAttention": (
        lambda: nn.MultiheadAttention(4, 2, batch_first=True),
        lambda x: hk.MultiHeadAttention(2, 2, w_init=jnp.ones)(x, x, x),
        ((lambda m: m(SEQUENCE, SEQUENCE, SEQUENCE)[0]), (SEQUENCE,)),
    ),
    "MultiheadAttention of other sizes": (
        lambda: nn.MultiheadAttention(4, 2, kdim=3, vdim=3, batch_first=True),
        lambda x, y: hk.MultiHeadAttention(2, 2, w_init=jnp.ones)(x, y, y),
        ((lambda m: m(SEQUENCE, NARROW, NARROW)[0]), (SEQUENCE, NARROW)),
    ),
    "VectorQuantizer": (
        lambda: nn.VectorQuantizer(7, 4, 0.2),
        lambda x: hk.nets.VectorQuantizer(4, 7, 0.2)(x, False)["loss"],
        ((lambda m: m(X).loss), (X,)),
    ),
    "VectorQuantizerEMA": (
        lambda: nn.VectorQuantizerEMA(7, 4, 0.2, 0.9),
        lambda x: hk.nets.VectorQuantizerEMA(4, 7, 0.2, 0.9)(x, True)["loss"],
        ((lambda m: m(X).loss), (X,)),
    ),
    "ExponentialMovingAverage": (
        lambda: nn.ExponentialMovingAverage((2, 4), 0.9),
        lambda x: hk.ExponentialMovingAverage(0.9)(x),
        plain(X),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HAIKU)
def test_haiku(case):
    make, function, (call, inputs) = HAIKU[case]
    net, ours = hk.transform_with_state(function), make()
    params, state = filled(jax.eval_shape(net.init, jax.random.key(0), *inputs))
    for entries in state.values():  # an average and the sum it comes from
        if "hidden" in entries:
            entries["hidden"] = entries["average"] * (1 - 0.9**3)
    ours.load_state_dict(bridge.torch_layout(ours, params, state))
    before = dict(ours.state_dict())
    wanted, after = jax.jit(net.apply)(params, state, None, *inputs)
    close(jit(lambda: call(ours))(), wanted)
    if "BatchNorm" not in case and state:  # the layers that move alike in training
        close(bridge.haiku_layout(ours, params, state)[1], after)
    ours.load_state_dict(before)
    back = bridge.haiku_layout(ours, *jax.eval_shape(lambda: (params, state)))
    assert jax.tree.structure(back) == jax.tree.structure((params, state))
    close(back, (params, state))
    close(bridge.torch_layout(make(), *back), before)


def test_haikus_batch_norm_goes_on_from_converted_statistics():
    """The debiased average after more steps is that of all the steps."""
    net = hk.transform_with_state(lambda x: hk.BatchNorm(False, False, 0.9)(x, True))
    _, state = net.init(None, X)
    ours, first = nn.BatchNorm1d(4, affine=False), None
    apply = jax.jit(net.apply)
    for seed in range(4):
        _, state = apply({}, state, None, normal(2, 4, seed=seed))
        if seed == 1:
            ours.load_state_dict(bridge.torch_layout(ours, {}, state))
            first = bridge.haiku_layout(ours, {}, state)[1]
    for seed in (2, 3):
        _, first = apply({}, first, None, normal(2, 4, seed=seed))
    close(first, state)


@settings(max_examples=15)
@given(
    st.integers(1, 2), st.integers(1, 3), st.integers(1, 3), st.lists(st.integers(1, 3), min_size=1, max_size=3), st.booleans()
)
def test_convolutions_of_any_shape_come_back(groups, inputs, outputs, kernel, transpose):
    name = f"Conv{'Transpose' if transpose else ''}{len(kernel)}d"
    layer, other = (
        getattr(nn, name)(groups * inputs, groups * outputs, tuple(kernel), groups=1 if transpose else groups) for _ in range(2)
    )
    like = {"conv": {"w": shaped(*kernel, *layer.weight.shape[1::-1]), "b": shaped(groups * outputs)}}
    close(bridge.torch_layout(other, *bridge.haiku_layout(layer, like)), dict(layer.state_dict()))


# --------------------------------------------------------------------------------------------------------- a whole model


def test_a_haiku_model():
    class Net(hk.Module):
        def __init__(self):
            super().__init__()
            self.embed = hk.Embed(7, 4, name="embed")

        def __call__(self, x):
            x = self.embed(x)
            for _ in range(2):
                x = hk.BatchNorm(True, True, 0.9)(jax.nn.relu(hk.Linear(4)(x)), hk.running_init())
            return hk.Linear(2, name="head")(x)

    net, model, x = hk.transform_with_state(lambda x: Net()(x)), Model().eval(), jnp.arange(5)
    params, state = filled(jax.eval_shape(net.init, jax.random.key(0), x))
    names = {}
    for i, suffix in enumerate(("", "_1")):
        names |= {f"blocks.{i}.0": f"net/linear{suffix}", f"blocks.{i}.2": f"net/batch_norm{suffix}"}
    model.load_state_dict(bridge.torch_layout(model, params, state, names))
    out = jit(model)(x)
    close(out, jax.jit(net.apply)(params, state, None, x)[0])
    back, kept = bridge.haiku_layout(model, params, state, names)
    close(back, params)
    close(jax.jit(net.apply)(back, kept, None, x)[0], out)


@pytest.mark.parametrize(
    ("model", "params", "message"),
    [
        (nn.GRUCell(4, 3), {"gru": {"w_h": X, "w_i": X, "b": X}}, "Haiku's GRU is another cell"),
        (nn.GRU(4, 3), {"gru": {"w_h": X, "w_i": X, "b": X}}, "no weights make them equal"),
        (nn.RNNCell(4, 3), {"vanilla_rnn/linear": {"w": X}}, "VanillaRNN applies relu, this one tanh"),
        (nn.BatchNorm1d(4, momentum=None), {"batch_norm": {"scale": X}}, "momentum=None"),
        (nn.BatchNorm1d(4, track_running_stats=False), {"batch_norm": {"scale": X}}, "tracks no running statistics"),
        (nn.Linear(4, 3), {"linear": {"w": X.T}}, "nothing is (held|wanted)"),
    ],
)  # fmt: skip
def test_haiku_refused(model, params, message):
    with pytest.raises(errors.StructureMismatchError, match=message):
        if not isinstance(model, nn.BatchNorm1d):
            bridge.torch_layout(model, params)
        bridge.haiku_layout(model, params)
    with pytest.raises(errors.StructureMismatchError, match=message):
        bridge.haiku_layout(model, params)
