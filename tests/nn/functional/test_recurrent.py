"""Recurrent layers and cells against torch: every option, gradients of every order, random numbers, dtypes, refusals."""

from __future__ import annotations

import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from objnet.core.precision import set_float32_matmul_precision  # noqa: E402
from objnet.core.rng import manual_seed  # noqa: E402
from objnet.nn.functional import recurrent as ours  # noqa: E402
from objnet.nn.functional.dropout import dropout  # noqa: E402
from tests.nn.functional.outcome import normal  # noqa: E402
from tests.nn.parity import assert_derivatives, assert_parity, assert_same_error, to_torch  # noqa: E402

INPUT, HIDDEN, LENGTH, BATCH = 3, 4, 5, 2


def weights(layers=1, directions=1, bias=True, proj=0, dtype="float32"):
    """Parameters in torch's order."""
    features, made = proj or HIDDEN, []
    for layer in range(layers):
        for _ in range(directions):
            shapes = [(4 * HIDDEN, features * directions if layer else INPUT), (4 * HIDDEN, features)]
            shapes += [(4 * HIDDEN,)] * (2 * bias) + [(proj, HIDDEN)] * bool(proj)
            made += [normal(*shape, seed=len(made) + i, dtype=dtype) / 2 for i, shape in enumerate(shapes)]
    return made


def problem(layers=1, directions=1, bias=True, batch_first=False, proj=0, batched=True, dtype="float32"):
    """Input, h, c and parameters, and the functions of them to compare, whose three results are joined."""
    rows = (BATCH,) if batched else ()
    x = normal(*((BATCH, LENGTH) if batch_first and batched else (LENGTH, *rows)), INPUT, dtype=dtype)
    h = normal(layers * directions, *rows, proj or HIDDEN, seed=1, dtype=dtype)
    c = normal(layers * directions, *rows, HIDDEN, seed=2, dtype=dtype)

    def mine(x, h, c, *params):
        results = ours.lstm(x, (h, c), params, bias, layers, 0.0, False, directions == 2, batch_first)
        return jnp.concatenate([y.reshape(-1) for y in results])

    def theirs(x, h, c, *params):
        module = torch.nn.LSTM(
            INPUT, HIDDEN, layers, bias, batch_first, bidirectional=directions == 2, proj_size=proj, dtype=x.dtype
        )
        for names, start in zip(module._all_weights, range(0, len(params), len(module._all_weights[0]))):
            for i, name in enumerate(names):
                delattr(module, name)
                setattr(module, name, params[start + i])
        module._flat_weights = list(params)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on projections without oneDNN
            output, states = module(x, (h, c))
        return torch.cat([y.reshape(-1) for y in (output, *states)])

    return (x, h, c, *weights(layers, directions, bias, proj, dtype)), mine, theirs


@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    st.fixed_dictionaries(
        {
            "layers": st.integers(1, 3),
            "directions": st.integers(1, 2),
            "bias": st.booleans(),
            "batch_first": st.booleans(),
            "proj": st.sampled_from([0, 0, 1, 3]),
            "batched": st.booleans(),
        }
    )
)
def test_every_option(options):
    arrays, mine, theirs = problem(**options)
    assert_parity(mine, theirs, *arrays)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_dtypes(dtype):
    with jax.enable_x64(dtype == "float64"):
        arrays, mine, theirs = problem(2, dtype=dtype)
        assert_parity(mine, theirs, *arrays, **({} if dtype == "float64" else {"atol": 0.2, "rtol": 0.05}))


def test_zeros_unless_states_are_given_and_shapes():
    params = weights(2, 2, proj=3)
    x = normal(LENGTH, BATCH, INPUT)
    h, c = jnp.zeros((4, BATCH, 3)), jnp.zeros((4, BATCH, HIDDEN))
    options = (True, 2, 0.0, False, True, False)
    results, expected = ours.lstm(x, None, params, *options), ours.lstm(x, (h, c), params, *options)
    assert [r.shape for r in results] == [(LENGTH, BATCH, 6), h.shape, c.shape]
    for result, other in zip(results, expected):
        np.testing.assert_array_equal(result, other)


def test_derivatives_of_every_order():
    with jax.enable_x64(True):
        arrays, mine, _ = problem(directions=2, proj=2, dtype="float64")
        assert_derivatives(mine, *arrays, rtol=1e-4)


def test_vmap_over_everything():
    arrays, mine, _ = problem()
    stacked = [jnp.stack([a, a / 2, a + 1]) for a in arrays]

    def gradients(*arrays):
        return jax.grad(lambda *arrays: jnp.sum(jnp.sin(mine(*arrays))), range(len(arrays)))(*arrays)

    for f in (mine, gradients):
        together, one_by_one = jax.jit(lambda *a: (jax.vmap(f)(*a), jax.lax.map(lambda a: f(*a), a)))(*stacked)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), together, one_by_one)


def test_weight_gradient_is_no_part_of_the_loop():
    arrays, mine, _ = problem()
    jaxpr = jax.make_jaxpr(jax.grad(lambda *arrays: jnp.sum(mine(*arrays)), 4))(*arrays)
    w_hh = arrays[4]
    scans = [e for e in jaxpr.jaxpr.eqns if e.primitive.name == "scan"]
    assert len(scans) == 2
    for scan in scans:
        assert all(v.aval.shape != w_hh.shape for v in scan.outvars)


def test_a_compiled_loop_takes_one_product_a_step():
    arrays, mine, _ = problem()
    rules = [e for e in jax.make_jaxpr(mine)(*arrays).jaxpr.eqns if "custom_jvp" in e.primitive.name]
    (scan,) = [e for e in rules if "scan[" in str(e)]
    assert str(scan).count("dot_general[") == 1


def test_precision_follows_the_setting():
    arrays, mine, _ = problem()
    jaxprs = {}
    try:
        for level in ("highest", "medium", "highest"):
            set_float32_matmul_precision(level)
            # a new function each time: jax does not trace an old one again
            jaxprs[level] = str(jax.make_jaxpr(jax.grad(lambda *arrays: jnp.sum(mine(*arrays)), 4))(*arrays))
    finally:
        set_float32_matmul_precision("highest")
    assert "HIGHEST" in jaxprs["highest"]
    assert "HIGHEST" not in jaxprs["medium"]


# -- dropout ------------------------------------------------------------------------------------------------------------------


def run(params, layers, p, train):
    return ours.lstm(normal(LENGTH, BATCH, INPUT), None, params, True, layers, p, train, False, False)


def test_dropout_is_between_layers():
    params = weights(2)
    manual_seed(0)
    dropped = run(params, 2, 0.5, True)[0]
    first = run(params[:4], 1, 0.5, True)[0]
    manual_seed(0)
    between = dropout(first, 0.5)
    assert (between == 0).any() and not (between == 0).all()
    np.testing.assert_array_equal(dropped, ours.lstm(between, None, params[4:], True, 1, 0.0, True, False, False)[0])


def test_everything_dropped_as_in_torch():
    def theirs(x):
        return torch.lstm(x, (torch.zeros(2, BATCH, HIDDEN),) * 2, params, True, 2, 1.0, True, False, False)[0]

    params = [torch.tensor(np.asarray(w)) for w in weights(2)]
    assert_parity(
        lambda x: ours.lstm(x, None, weights(2), True, 2, 1.0, True, False, False)[0], theirs, normal(LENGTH, BATCH, INPUT)
    )


@pytest.mark.parametrize(
    ("layers", "p", "train", "keys"), [(3, 0.5, True, 2), (3, 0.5, False, 0), (3, 0.0, True, 0), (1, 0.5, True, 0)]
)
def test_one_key_between_layers(layers, p, train, keys, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        sys.modules[dropout.__module__], "next_rng_key", lambda: drawn.append(jax.random.key(len(drawn))) or drawn[-1]
    )
    run(weights(layers), layers, p, train)
    assert len(drawn) == keys


# -- the others ---------------------------------------------------------------------------------------------------------------

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
OTHERS = ["gru", "rnn_tanh", "rnn_relu"]


def others(name, layers, directions, bias=True, dtype="float32"):
    """Parameters in torch's order of a kind with one state."""
    rows, made = GATES[name] * HIDDEN, []
    for layer in range(layers):
        for _ in range(directions):
            shapes = [(rows, HIDDEN * directions if layer else INPUT), (rows, HIDDEN)] + [(rows,)] * (2 * bias)
            made += [normal(*shape, seed=len(made) + i, dtype=dtype) / 2 for i, shape in enumerate(shapes)]
    return made


def joined(results):
    """The results flat; arrays or tensors."""
    return (torch.cat if isinstance(results[0], torch.Tensor) else jnp.concatenate)([y.reshape(-1) for y in results])


@settings(max_examples=3, deadline=None, derandomize=True)
@given(
    st.sampled_from(OTHERS),
    st.integers(1, 2),
    st.integers(1, 2),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["float32", "float32", "bfloat16", "float64"]),
)
def test_every_option_of_the_others(name, layers, directions, bias, batch_first, dtype):
    with jax.enable_x64(dtype == "float64"):
        x = normal(*((BATCH, LENGTH) if batch_first else (LENGTH, BATCH)), INPUT, dtype=dtype)
        h = normal(layers * directions, BATCH, HIDDEN, seed=1, dtype=dtype)
        options = (bias, layers, 0.0, False, directions == 2, batch_first)
        assert_parity(
            lambda x, h, *params: joined(getattr(ours, name)(x, h, params, *options)),
            lambda x, h, *params: joined(getattr(torch, name)(x, h, params, *options)),
            *(x, h, *others(name, layers, directions, bias, dtype)),
            **({"atol": 0.2, "rtol": 0.05} if dtype == "bfloat16" else {}),
        )


@pytest.mark.slow
def test_derivatives_of_every_order_of_gru_with_lengths():
    with jax.enable_x64(True):
        arrays = (normal(LENGTH, BATCH, INPUT, dtype="float64"), normal(2, BATCH, HIDDEN, seed=1, dtype="float64"))
        lengths = jnp.asarray([2, 4])

        def mine(x, h, *params):
            return joined(ours.gru(x, h, params, True, 1, 0.0, False, True, False, lengths))

        assert_derivatives(mine, *arrays, *others("gru", 1, 2, dtype="float64"), rtol=1e-4)


def test_the_product_of_an_unfinished_gate_is_no_part_of_the_loop():
    params, x = others("gru", 1, 1), normal(LENGTH, BATCH, INPUT)

    def loss(w_hh):
        return jnp.sum(ours.gru(x, None, [params[0], w_hh, *params[2:]], True, 1, 0.0, False, False, False)[0])

    scans = [e for e in jax.make_jaxpr(jax.grad(loss))(params[1]).jaxpr.eqns if e.primitive.name == "scan"]
    assert len(scans) == 2
    assert all(v.aval.shape != params[1].shape for scan in scans for v in scan.outvars)


# -- lengths ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_lengths_make_every_row_a_sequence_of_its_own(name):
    lengths, params = [3, 5, 1], weights(2, 2) if name == "lstm" else others(name, 2, 2)
    x = normal(LENGTH, 3, INPUT)
    padded = x.at[3:, 0].set(jnp.nan).at[1:, 2].set(jnp.inf)
    options = (params, True, 2, 0.0, False, True, False)
    states = (normal(4, 3, HIDDEN, seed=1), normal(4, 3, HIDDEN, seed=2))
    hx = states if name == "lstm" else states[0]

    def run(x, lengths):
        results = getattr(ours, name)(x, hx, *options, lengths=lengths)
        return sum(jnp.sum(jnp.sin(r)) for r in results), results

    (_, results), gradient = jax.jit(jax.value_and_grad(run, has_aux=True))(padded, jnp.asarray(lengths, "uint8"))
    results, gradient = jax.tree.map(np.asarray, (results, gradient))
    of_torch = jax.tree.map(to_torch, params)
    for i, length in enumerate(lengths):
        one = [to_torch(state[:, i : i + 1]) for state in states]
        row = to_torch(x[:length, i : i + 1]).requires_grad_()
        wanted = getattr(torch, name)(row, one if name == "lstm" else one[0], of_torch, *options[1:])
        sum(y.sin().sum() for y in wanted).backward()
        np.testing.assert_allclose(results[0][:length, i], wanted[0][:, 0].detach(), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(gradient[:length, i], row.grad[:, 0], rtol=1e-5, atol=1e-5)
        assert not results[0][length:, i].any()
        assert not gradient[length:, i].any()
        for last, expected in zip(results[1:], wanted[1:], strict=True):
            np.testing.assert_allclose(last[:, i], expected[:, 0].detach(), rtol=1e-5, atol=1e-5)


def test_lengths_refused():
    x, params = normal(LENGTH, BATCH, INPUT), others("gru", 1, 1)
    for lengths in (jnp.asarray([1]), jnp.asarray([1.0, 2.0]), jnp.asarray([-1, 2]), jnp.asarray([1, LENGTH + 1])):
        with pytest.raises(RuntimeError, match="lengths must be"):
            ours.gru(x, None, params, True, 1, 0.0, False, False, False, lengths)


# -- cells --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rows", "biases"),
    [("lstm", (), 1), ("lstm", (3,), 2), ("gru", (0,), 0), ("gru", (), 1), ("rnn_tanh", (3,), 2), ("rnn_relu", (3,), 0)],
)
def test_cell(name, rows, biases):
    params = (weights() if name == "lstm" else others(name, 1, 1))[: 2 + biases]
    states = [normal(*rows, HIDDEN, seed=1), normal(*rows, HIDDEN, seed=2)][: 1 + (name == "lstm")]

    def mine(x, *arrays):
        hx, params = arrays[: len(states)], arrays[len(states) :]
        return joined(getattr(ours, f"{name}_cell")(x, hx, *params) if name == "lstm" else [mine_of_one(x, *hx, *params)])

    def mine_of_one(*arrays):
        return getattr(ours, f"{name}_cell")(*arrays)

    def theirs(x, *arrays):
        two = (lambda x: x) if rows else (lambda x: x[None])
        hx, params = [two(h) for h in arrays[: len(states)]], arrays[len(states) :]
        result = getattr(torch, f"{name}_cell")(two(x), hx if name == "lstm" else hx[0], *params)
        return joined(result if name == "lstm" else [result])

    assert_parity(mine, theirs, normal(*rows, INPUT), *states, *params)


def test_gates_are_in_torchs_order():
    # with large biases the gates are open or shut: i, f, g, o
    def cell(i, f, g, o):
        bias = jnp.asarray([i, f, g, o], jnp.float32) * 100
        return ours.lstm_cell(jnp.zeros((1, 1)), (jnp.zeros((1, 1)), jnp.full((1, 1), 0.3)), *jnp.zeros((2, 4, 1)), bias)

    assert cell(-1, 1, 1, 1)[1].item() == pytest.approx(0.3)
    assert cell(1, -1, 1, 1)[1].item() == pytest.approx(1.0)
    assert cell(1, -1, -1, 1)[1].item() == pytest.approx(-1.0)
    assert cell(1, 1, 1, -1)[0].item() == pytest.approx(0.0)


# -- refusals -----------------------------------------------------------------------------------------------------------------

Z = jnp.zeros
GOOD = {"x": (LENGTH, BATCH, INPUT), "h": (2, BATCH, HIDDEN), "c": (2, BATCH, HIDDEN)}
SHAPES = {
    "rank 1": {"x": (INPUT,)},
    "rank 4": {"x": (1, LENGTH, BATCH, INPUT)},
    "features": {"x": (LENGTH, BATCH, 7)},
    "no steps": {"x": (0, BATCH, INPUT)},
    "h, features": {"h": (2, BATCH, 7)},
    "h, layers": {"h": (1, BATCH, HIDDEN)},
    "c, features": {"c": (2, BATCH, 7)},
    "h, batch": {"h": (2, 1, HIDDEN)},
    "states without batch": {"h": (2, HIDDEN), "c": (2, HIDDEN)},
    "input without batch": {"x": (LENGTH, INPUT)},
}


@pytest.mark.parametrize("case", SHAPES)
def test_shapes_refused(case):
    shapes = GOOD | SHAPES[case]
    module = torch.nn.LSTM(INPUT, HIDDEN, 2)
    assert_same_error(
        lambda: ours.lstm(Z(shapes["x"]), (Z(shapes["h"]), Z(shapes["c"])), weights(2), True, 2, 0.0, False, False, False),
        lambda: module(torch.zeros(shapes["x"]), (torch.zeros(shapes["h"]), torch.zeros(shapes["c"]))),
    )


def test_dtypes_refused():
    x, module = Z(GOOD["x"], "bfloat16"), torch.nn.LSTM(INPUT, HIDDEN, 2)
    assert_same_error(
        lambda: ours.lstm(x, None, weights(2), True, 2, 0.0, False, False, False),
        lambda: module(torch.zeros(GOOD["x"], dtype=torch.bfloat16)),
    )
    states = tuple(Z(GOOD["h"], "bfloat16") for _ in range(2))
    with pytest.raises(RuntimeError, match="dtype"):
        ours.lstm(Z(GOOD["x"]), states, weights(2), True, 2, 0.0, False, False, False)


@pytest.mark.parametrize("params", [weights(2)[:-1], weights(1), weights(2, bias=False), weights(3), []])
def test_wrong_number_of_params(params):
    with pytest.raises(RuntimeError, match="params"):
        ours.lstm(Z(GOOD["x"]), None, params, True, 2, 0.0, False, False, False)


@pytest.mark.parametrize("which", range(8))
def test_params_of_another_shape(which):
    params = weights(2)
    params[which] = params[which][:-1]
    with pytest.raises(RuntimeError, match="must be of shape"):
        ours.lstm(Z(GOOD["x"]), None, params, True, 2, 0.0, False, False, False)
    narrow = weights(2)
    narrow[which] = narrow[which][..., :-1]
    with pytest.raises(RuntimeError, match="must be of shape"):
        ours.lstm(Z(GOOD["x"]), None, narrow, True, 2, 0.0, False, False, False)


def test_cell_refuses():
    cell = torch.nn.LSTMCell(INPUT, HIDDEN)
    shapes = [
        ((2, 7), (2, HIDDEN), (2, HIDDEN)),
        ((1, 2, INPUT), (2, HIDDEN), (2, HIDDEN)),
        ((2, INPUT), (2, 7), (2, HIDDEN)),
        ((2, INPUT), (2, HIDDEN), (2, 7)),
        ((2, INPUT), (1, HIDDEN), (1, HIDDEN)),
        ((2, INPUT), (HIDDEN,), (HIDDEN,)),
    ]
    for x, h, c in shapes:
        assert_same_error(
            lambda: ours.lstm_cell(Z(x), (Z(h), Z(c)), *weights()),
            lambda: cell(torch.zeros(x), (torch.zeros(h), torch.zeros(c))),
        )
    assert_same_error(
        lambda: ours.lstm_cell(Z((2, INPUT), "bfloat16"), (Z((2, HIDDEN)),) * 2, *weights()),
        lambda: cell(torch.zeros(2, INPUT, dtype=torch.bfloat16), (torch.zeros(2, HIDDEN),) * 2),
    )
