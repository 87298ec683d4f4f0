"""Unroll, DeepRNNCell, ResetCell and IdentityCell against Haiku's and against loops in Python."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import objnet
import objnet.nn.functional as F
from objnet import nn
from objnet.core.rng import manual_seed
from objnet.transforms.autodiff import value_and_grad
from objnet.transforms.jit import jit
from objnet.transforms.pure import transform_with_state

LENGTH, BATCH = 4, 2


def normal(*shape, seed=0):
    return jnp.asarray(np.random.RandomState(seed).randn(*shape), "float32")


def close(ours, theirs):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), ours, theirs)


def lstm_of(hk_params):
    """An LSTMCell with Haiku's weights: (in + hidden, 4 * hidden), gates i g f o, one added to the forget gate."""
    w, b = np.asarray(hk_params["w"]).T, np.asarray(hk_params["b"])
    w, b = (np.concatenate([np.split(a, 4)[k] for k in (0, 2, 1, 3)]) for a in (w, b))
    hidden = len(b) // 4
    cell = nn.LSTMCell(w.shape[1] - hidden, hidden)
    forget = (np.arange(4).repeat(hidden) == 1).astype(np.float32)
    cell.load_state_dict({"weight_ih": w[:, :-hidden], "weight_hh": w[:, -hidden:], "bias_ih": b + forget, "bias_hh": 0 * b})
    return cell


@pytest.mark.parametrize("skip", [False, True])
def test_deep_and_reset_are_haikus(skip):
    hk = pytest.importorskip("haiku")
    x = normal(LENGTH, BATCH, 3)
    reset = jnp.asarray([[True, False], [False, False], [False, True], [False, False]])

    def theirs(x, reset):
        layers = [hk.LSTM(4), hk.LSTM(2)] if skip else [hk.LSTM(4), jax.nn.relu, hk.LSTM(2)]
        core = hk.ResetCore(hk.deep_rnn_with_skip_connections(layers) if skip else hk.DeepRNN(layers))
        state = jax.tree.map(lambda s: s + 0.5, core.initial_state(BATCH))
        return hk.dynamic_unroll(core, (x, reset), state, return_all_states=True)

    net = hk.without_apply_rng(hk.transform(theirs))
    params = jax.jit(net.init)(jax.random.key(0), x, reset)
    wanted, states = jax.jit(net.apply)(params, x, reset)
    first, second = (lstm_of(params[name]) for name in ("lstm/linear", "lstm_1/linear"))
    cell = nn.ResetCell(nn.DeepRNNCell([first, second] if skip else [first, F.relu, second], skip_connections=skip))
    hx = tuple((jnp.full((BATCH, n), 0.5),) * 2 for n in (4, 2))
    for unroll in (1,) if skip else (1, True):
        layer = nn.Unroll(cell, return_all_states=True, unroll=unroll)
        output, all_states = jit(layer)((x, reset), hx)
        close(output, wanted)
        close(all_states, jax.tree.map(lambda s: s, tuple((s.hidden, s.cell) for s in states)))


def test_unrolled_cell_is_the_layer():
    layer, cell = nn.GRU(3, 4, batch_first=True), nn.GRUCell(3, 4)
    cell.load_state_dict({k.removesuffix("_l0"): v for k, v in layer.state_dict().items()})
    x = normal(BATCH, LENGTH, 3)
    whole = nn.Unroll(cell, batch_first=True, reverse=True, unroll=2)

    def by_layer(x):
        output, last = layer(x[:, ::-1])
        return output[:, ::-1], last[0]

    ours, theirs = (
        jit(value_and_grad(lambda x, f=f: sum(jnp.sum(jnp.sin(y)) for y in f(x)), argnums=0, wrt=m))(x)
        for f, m in ((whole, whole), (by_layer, layer))
    )
    close(ours[0], theirs[0])
    close(ours[1][0], theirs[1][0])
    close(list(ours[1][1].values()), list(theirs[1][1].values()))
    net = transform_with_state(whole)
    entries = net.init(None)
    rows = jax.jit(jax.vmap(lambda x: net.apply(*entries, None, x)[0]))(jnp.stack([x, x + 1]))
    close(jax.tree.map(lambda y: y[1], rows), jit(by_layer)(x + 1))


class Counting(nn.RNNCore):
    """Adds its count of calls, a buffer, and noise."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", jnp.zeros(()))

    def forward(self, input, hx=None):
        self.calls = self.calls + 1
        return input * 0 + self.calls + 0.5 * jax.random.uniform(objnet.next_rng_key(), ()), ()


@pytest.mark.parametrize("unroll", [1, True])
def test_a_cell_may_draw_keys_and_keep_buffers(unroll):
    manual_seed(0)
    layer = nn.Unroll(Counting(), unroll=unroll)
    for calls, run in ((0, layer), (3, jit(layer))):
        output, state = run(jnp.zeros(3))
        assert state == ()
        np.testing.assert_array_equal(np.floor(output), calls + np.asarray([1, 2, 3]))
        assert len(set((output - np.floor(output)).tolist())) == 3
    assert layer.cell.calls == 6


def test_a_tree_of_masks_and_unbatched_states():
    cell = nn.ResetCell(nn.LSTMCell(3, 4))
    h, c = jnp.ones(4), jnp.full(4, 2.0)
    x = jnp.ones(3)
    close(cell((x, jnp.asarray(True)), (h, c))[1], cell.cell(x))
    close(cell((x, (jnp.asarray(True), jnp.zeros(4, bool))), (h, c))[1], cell.cell(x, (jnp.zeros(4), c)))
    close(cell((x, jnp.asarray(True)))[1], cell.cell(x))


def test_identity_and_repr():
    assert nn.IdentityCell()(3) == (3, ())
    deep = nn.DeepRNNCell([nn.GRUCell(3, 4), nn.Linear(4, 2), F.relu, nn.IdentityCell()])
    output, (state, nothing) = nn.Unroll(deep)(normal(LENGTH, BATCH, 3))
    assert output.shape == (LENGTH, BATCH, 2)
    assert state.shape == (BATCH, 4)
    assert nothing == ()
    assert list(deep.state_dict())[0] == "layers.0.weight_ih"
    text = repr(nn.Unroll(nn.ResetCell(nn.IdentityCell()), batch_first=True, unroll=4))
    assert text == "Unroll(\n  batch_first=True, unroll=4\n  (cell): ResetCell(\n    (cell): IdentityCell()\n  )\n)"


def test_refused():
    gru = nn.GRUCell(3, 4)
    with pytest.raises(ValueError, match="cells only"):
        nn.DeepRNNCell([gru, F.relu], skip_connections=True)
    with pytest.raises(ValueError, match="a state for each of 1 cells, got 2"):
        nn.DeepRNNCell([gru])(jnp.ones(3), (jnp.ones(4), jnp.ones(4)))
    with pytest.raises(ValueError, match="mask of shape"):
        nn.ResetCell(gru)((jnp.ones((2, 3)), jnp.ones(3, bool)), jnp.ones((2, 4)))
    with pytest.raises(TypeError, match="boolean"):
        nn.ResetCell(gru)((jnp.ones((2, 3)), jnp.ones(2)), jnp.ones((2, 4)))
    for x in (jnp.ones((0, 2, 3)), (jnp.ones((2, 3)), jnp.ones((3, 3)))):
        with pytest.raises(RuntimeError, match="one length"):
            nn.Unroll(gru)(x)
