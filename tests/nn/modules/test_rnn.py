"""Recurrent layers and cells against torch's."""

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


@pytest.mark.parametrize(
    ("name", "options", "inputs"),
    [
        ("GRU", {"bidirectional": True}, (torch.randn(3, 2, 3), torch.randn(2, 2, 4))),
        ("RNN", {"batch_first": True}, (torch.randn(2, 3, 3),)),
        ("RNN", {"nonlinearity": "relu", "bias": False}, (torch.randn(3, 3), torch.randn(1, 4))),
    ],
)
def test_one_state(name, options, inputs):
    check_module(name, 3, 4, inputs=inputs, **options)


@pytest.mark.slow
def test_packed():
    def padded(module, utils, x, lengths, hx):
        packed = utils.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        output, last = module(packed, hx)
        return *utils.pad_packed_sequence(output, batch_first=True, padding_value=-1), last

    pair = build("LSTM", 3, 4, bidirectional=True, batch_first=True)
    x, lengths = torch.randn(3, 5, 3), torch.tensor([2, 5, 3])
    hx = states(2, (3,), 4)
    expected = jax.tree.leaves(padded(pair.theirs, torch.nn.utils.rnn, x, lengths, hx), is_leaf=torch.is_tensor)
    of_x, of_lengths, of_hx = converted((x, lengths, hx))
    run = jit(lambda x, lengths, hx: padded(pair.ours, nn.utils.rnn, x, lengths, hx))
    static = jit(lambda x, hx: padded(pair.ours, nn.utils.rnn, x, (2, 5, 3), hx))
    for result in (run(of_x, of_lengths, of_hx), static(of_x, of_hx)):
        for ours, theirs in zip(jax.tree.leaves(result), expected, strict=True):
            np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-5, atol=1e-5)
    # packed input and output, whose layout is static across the border, and a layout that becomes known when it leaves
    packed = nn.utils.rnn.pack_padded_sequence(of_x, [2, 5, 3], batch_first=True, enforce_sorted=False)
    late = jit(lambda x, lengths, hx: pair.ours(nn.utils.rnn.pack_padded_sequence(x, lengths, True, False), hx)[0])
    wanted, _ = pair.theirs(torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False), hx)
    for output in (jit(pair.ours)(packed, of_hx)[0], late(of_x, of_lengths, of_hx)):
        assert isinstance(output, nn.utils.rnn.PackedSequence)
        for ours, theirs in zip(output, wanted, strict=True):
            np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-5, atol=1e-5)


def test_packed_refused():
    pack = nn.utils.rnn.pack_padded_sequence
    packed = pack(jnp.ones((4, 3, 2)), [4, 2, 1])
    layer = nn.GRU(2, 3)
    for bad, error, match in (
        (pack(jnp.ones((4, 3)), [4, 2, 1]), RuntimeError, "must have 2 dimensions, got 1"),
        (pack(jnp.ones((4, 3, 5)), [4, 2, 1]), RuntimeError, "Expected 2, got 5"),
        (packed.half(), ValueError, "does not match weight dtype"),
        (packed._replace(data=packed.data[:-1]), RuntimeError, "sum up to 7 rows"),
        (packed._replace(batch_sizes=np.array([3, 1, 2, 1])), RuntimeError, "never grow"),
    ):
        with pytest.raises(error, match=match):
            layer(bad)
    with pytest.raises(RuntimeError, match="Expected hidden size"):
        layer(packed, jnp.ones((1, 2, 3)))
    with pytest.raises(RuntimeError, match="should also be 3-D"):
        layer(packed, jnp.ones((1, 3)))


def test_methods_of_torchs_subclasses():
    for name in ("LSTM", "GRU"):
        pair = build(name, 3, 4, 2, batch_first=True, bidirectional=True, **({"proj_size": 2} if name == "LSTM" else {}))
        assert pair.ours._flat_weights_names == pair.theirs._flat_weights_names
        for batch_sizes in (None, [2]):
            x = torch.zeros(*([2, 3] if batch_sizes else [2, 5, 3]))
            for method in ("get_expected_hidden_size",) + ("get_expected_cell_size",) * (name == "LSTM"):
                ours, theirs = (getattr(module, method) for module in pair)
                assert ours(converted(x), batch_sizes) == theirs(x, batch_sizes)
        state = torch.randn(4, 3, 2)
        hx = (state, state + 1) if name == "LSTM" else state
        order = torch.tensor([2, 0, 1])
        assert pair.ours.permute_hidden(converted(hx), None) is not None
        ours = jax.tree.leaves(pair.ours.permute_hidden(converted(hx), converted(order)))
        theirs = pair.theirs.permute_hidden(hx, order)
        for a, b in zip(ours, theirs if name == "LSTM" else [theirs], strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("name", "options"), [("LSTMCell", {}), ("GRUCell", {"bias": False}), ("RNNCell", {}), ("RNNCell", {"nonlinearity": "relu"})]
)
def test_cells(name, options):
    batch = () if options.get("bias") is False else (3,)
    h = torch.randn(*batch, 4)
    pair = check_module(name, 3, 4, inputs=(torch.randn(*batch, 3), (h, h + 1) if name == "LSTMCell" else h), **options)
    check_forward(pair, torch.randn(*batch, 3))


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
    check_refused("RNN", 3, 4, nonlinearity="gelu", match="Unknown nonlinearity 'gelu'")
    check_refused("RNN", 3, 4, proj_size=2, match="only supported for LSTM")
    check_refused("GRU", 3, 4, proj_size=2, match="only supported for LSTM")
    check_refused("RNN", 3, 4, inputs=(torch.randn(2, 3, 4, 3),), match="RNN: Expected input to be 2D or 3D, got 4D")
    check_refused("GRU", 3, 4, inputs=(x, torch.randn(2, 2, 4)), match="Expected hidden size (1, 2, 4), got [2, 2, 4]")
    check_refused("GRU", 3, 4, inputs=(x, torch.randn(1, 4)), match="hx should also be 3-D but got 2-D")
    check_refused("RNNCell", 3, 4, True, "gelu", inputs=(x[0],), match="Unknown nonlinearity: gelu")
    check_refused("GRUCell", 3, 4, inputs=(x[0], x), match="hidden to be 1D or 2D, got 3D")
    check_refused("GRUCell", 3, 4, inputs=(x[0], torch.randn(3, 4)))
    check_refused("RNNCell", 3, 4, inputs=(x[0, 0], torch.randn(1, 4)))
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
