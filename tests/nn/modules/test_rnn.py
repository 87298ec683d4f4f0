"""LSTM and LSTMCell against torch's."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from objnet import nn  # noqa: E402
from objnet.transforms.jit import jit  # noqa: E402
from tests.nn.module_parity import (  # noqa: E402
    build,
    check_attributes,
    check_forward,
    check_module,
    check_refused,
    check_signature,
    check_training,
    converted,
)

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


def states(layers, batch, hidden, proj=0):
    return torch.randn(layers, *batch, proj or hidden), torch.randn(layers, *batch, hidden)


@pytest.mark.parametrize(
    ("options", "inputs"),
    [
        ({}, (torch.randn(5, 2, 3),)),
        ({"num_layers": 2, "bidirectional": True, "batch_first": True}, (torch.randn(2, 4, 3), states(4, (2,), 4))),
        ({"bias": False, "proj_size": 3, "bidirectional": True}, (torch.randn(4, 3),)),
    ],
)
def test_lstm(options, inputs):
    check_module("LSTM", 3, 4, inputs=inputs, **options)


@settings(max_examples=3, deadline=None)
@given(
    st.integers(1, 2),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.integers(0, 3),
    st.booleans(),
    st.booleans(),
    st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_lstm_arguments(layers, bias, batch_first, bidirectional, proj, batched, with_state, dtype):
    pair = build("LSTM", 2, 4, layers, bias, batch_first, 0.0, bidirectional, proj, None, dtype)
    check_attributes(pair)
    assert [[tuple(w.shape) for w in ws] for ws in pair.ours.all_weights] == [
        [tuple(w.shape) for w in ws] for ws in pair.theirs.all_weights
    ]
    batch = (3,) if batched else ()
    x = torch.randn((3, 5, 2) if batched and batch_first else (5, *batch, 2))
    hx = states(layers * (1 + bidirectional), batch, 4, proj)
    inputs = (x.to(dtype), tuple(h.to(dtype) for h in hx)) if with_state else (x.to(dtype),)
    loose = {} if dtype == torch.float32 else {"rtol": 3e-2, "atol": 3e-2}
    check_forward(pair, *inputs, **loose)


@pytest.mark.parametrize("layers", [1, 2])
def test_dropout_between_layers(layers):
    options = {"num_layers": layers, "dropout": 0.5}
    if layers == 1:
        with pytest.warns(UserWarning, match="num_layers"):
            pair = build("LSTM", 3, 4, **options)
    else:
        pair = build("LSTM", 3, 4, **options)
    check_attributes(pair)
    x = torch.randn(6, 2, 3)
    run = jit(pair.ours)
    first, second = (np.asarray(run(converted(x))[0]) for _ in range(2))
    assert np.array_equal(first, second) == (layers == 1)
    for module in pair:
        module.eval()
    check_forward(pair, x)


def test_the_warning_names_the_callers_line():
    with pytest.warns(UserWarning, match="dropout") as caught:
        nn.LSTM(3, 4, dropout=0.5)
    assert caught[0].filename == __file__


def test_weights_can_be_replaced_and_moved():
    layer = nn.LSTM(3, 4)
    layer.flatten_parameters()
    assert layer._flat_weights[0] is layer.weight_ih_l0
    before = np.asarray(layer(jnp.ones((2, 1, 3)))[0])
    layer.weight_ih_l0 = nn.Parameter(jnp.zeros((16, 3)))
    assert layer.all_weights[0][0] is layer.weight_ih_l0
    assert not np.allclose(before, np.asarray(layer(jnp.ones((2, 1, 3)))[0]))
    assert layer.bfloat16()(jnp.ones((2, 1, 3), jnp.bfloat16))[0].dtype == jnp.bfloat16


def test_state_kept_as_an_attribute_is_threaded():
    class Language(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.LSTM(3, 4)
            self.hidden = None

        def forward(self, x):
            out, hidden = self.rnn(x, self.hidden)
            self.hidden = jax.tree.map(jax.lax.stop_gradient, hidden)
            return out

    model = Language()
    x = jnp.ones((2, 1, 3))
    whole = model.rnn(jnp.concatenate([x, x]))[0]
    run = jit(model)
    np.testing.assert_allclose(np.concatenate([run(x), run(x)]), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("bias", "batched"), [(True, True), (False, False)])
def test_lstm_cell(bias, batched):
    batch = (3,) if batched else ()
    check_module("LSTMCell", 3, 4, bias=bias, inputs=(torch.randn(*batch, 3), (torch.randn(*batch, 4), torch.randn(*batch, 4))))
    pair = build("LSTMCell", 3, 4, bias)
    check_training(pair, torch.randn(*batch, 3))


def test_bases():
    for name in ("RNNBase", "RNNCellBase"):
        assert issubclass(getattr(nn, name), nn.Module)
    check_signature("RNNBase")
    check_signature("RNNCellBase")
    for mode in ("GRU", "RNN_TANH"):
        pair = build("RNNBase", mode, 3, 4, 2, bidirectional=True)
        check_attributes(pair)
    with pytest.raises(NotImplementedError):
        pair.ours(jnp.ones(3))


def test_refusals():
    x = torch.randn(5, 2, 3)
    check_refused("LSTM", 3, 4, inputs=(torch.randn(2, 3, 4, 3),), match="Expected input to be 2D or 3D, got 4D")
    check_refused("LSTM", 3, 4, inputs=(torch.randn(2, 3, 5),), match="Expected 3, got 5")
    check_refused("LSTM", 3, 4, inputs=(x.half(),), match="does not match weight dtype")
    check_refused("LSTM", 3, 4, inputs=(x, states(1, (), 4)), match="should also be 3-D but got")
    check_refused("LSTM", 3, 4, inputs=(x[0], states(1, (2,), 4)), match="should also be 2-D but got")
    check_refused("LSTM", 3, 4, inputs=(x, states(2, (2,), 4)), match="Expected hidden[0] size (1, 2, 4), got [2, 2, 4]")
    check_refused("LSTM", 3, 4, inputs=(x, (torch.zeros(1, 2, 4), torch.zeros(1, 2, 5))), match="Expected hidden[1]")
    check_refused("LSTMCell", 3, 4, inputs=(torch.randn(2, 3, 3),), match="input to be 1D or 2D, got 3D")
    check_refused("LSTMCell", 3, 4, inputs=(x[0], (x, x)), match="hx[0] to be 1D or 2D, got 3D")
    check_refused("LSTMCell", 3, 4, inputs=(torch.randn(2, 5),))
    check_refused("RNNBase", "CNN", 3, 4, match="Unrecognized RNN mode: CNN")
    for bad in (
        {"dropout": 1.5},
        {"dropout": True},
        {"dropout": "much"},
        {"bias": 1},
        {"batch_first": None},
        {"num_layers": 0},
        {"proj_size": -1},
        {"proj_size": 4},
    ):
        check_refused("LSTM", 3, 4, **bad)
    for sizes in ((0, 4), (3, 0), (2.5, 4), (3, "4"), (3,)):
        check_refused("LSTM", *sizes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nn.LSTM(3, 4, dropout=0)
