"""Dropout: which elements go together, how often they go, what becomes of the others, and when no key is drawn."""

from __future__ import annotations

import importlib
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from objnet.core import rng  # noqa: E402
from objnet.core.variable import Buffer  # noqa: E402
from tests.nn.parity import assert_derivatives, to_torch  # noqa: E402

F = torch.nn.functional
ours = importlib.import_module("objnet.nn.functional.dropout")  # the package's attribute of that name is the function
PLAIN, ALPHA = ["dropout", "dropout1d", "dropout2d", "dropout3d"], ["alpha_dropout", "feature_alpha_dropout"]
NAMES = PLAIN + ALPHA
INF, NAN = float("inf"), float("nan")


@pytest.fixture(autouse=True)
def seeded():
    rng.manual_seed(0)
    torch.manual_seed(0)


@pytest.fixture
def fixed_key(monkeypatch):
    """Makes the functionals pure, so that they can be differentiated and compiled by jax alone."""
    monkeypatch.setattr(ours, "next_rng_key", lambda: jax.random.key(7))


def quiet(function, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **kwargs)


def run(name, *args, **kwargs):
    return quiet(getattr(ours, name), *args, **kwargs)


def key_state():
    return rng.get_rng_state()["key"].tolist()


@settings(max_examples=6, deadline=None)
@given(
    name=st.sampled_from(PLAIN),
    p=st.sampled_from([0.5, 0.25, 0.1, 1 / 3, 1e-4, 0.999]),
    dtype=st.sampled_from(["float32", "bfloat16", "float16"]),
)
def test_elements_are_zero_or_scaled_as_in_torch(name, p, dtype):
    x = jnp.asarray(np.random.RandomState(0).randn(3, 40, 5), dtype)
    output = np.asarray(run(name, x, p).astype(jnp.float32))
    scaled = F.dropout(torch.ones(10000, dtype=to_torch(x).dtype), p).max()  # torch's 1 / (1 - p)
    expected = (to_torch(x) * scaled).float().numpy() if p < 0.999 else np.asarray(x / (1 - p), np.float32)
    np.testing.assert_allclose(output, np.where(output == 0, 0, expected), rtol=1e-6 if dtype == "float32" else 1e-2)
    assert run(name, x, p).dtype == x.dtype


@pytest.mark.parametrize("p", [0.5, 0.25, 3 / 256, 0.1, 1 / 3, 0.9, 0.9999, 1e-3, 1e-6])
def test_how_often(p):
    n = 2**20
    dropped = int((run("dropout", jnp.ones((4, n // 4)), p) == 0).sum())
    assert abs(dropped - n * p) <= 5 * np.sqrt(n * p * (1 - p)) + 1


@pytest.mark.parametrize(
    ("p", "bits", "error"),
    [(0.5, 8, 0), (0.25, 8, 0), (3 / 256, 8, 0), (0.1, 16, 2**-17), (1 / 3, 16, 2**-17), (0.95, 16, 2**-17),
     (1e-3, 32, 2**-33), (1e-6, 32, 2**-33), (0.9999, 32, 2**-33)],
)  # fmt: skip
def test_how_exactly(monkeypatch, p, bits, error):
    """Every value of so many bits, each once, shows the probability itself."""
    asked = []

    def every_value(key, shape, dtype):
        asked.append(int(np.prod(shape)))
        if bits == 32:  # too many: those around the threshold
            words = (int(p * 2**32) + np.arange(-8, 8)).astype(np.uint32)
        else:
            words = np.arange(2**bits, dtype=f"uint{bits}").view(np.uint32)
        return jnp.asarray(words).reshape(shape)

    monkeypatch.setattr(jax.random, "bits", every_value)
    n = 2 ** min(bits, 16) if bits < 32 else 16
    dropped = int((run("dropout", jnp.ones(n), p) == 0).sum())
    assert asked == [n * bits // 32]
    if bits == 32:
        probability = (int(p * 2**32) - 8 + dropped) / 2**32
    else:
        probability = dropped / n
    assert abs(probability - p) <= error


def test_neighbours_are_independent():
    for p in (0.5, 0.1):
        gone = np.asarray(run("dropout", jnp.ones((64, 4096)), p) == 0, np.float64) - p
        for shift in (1, 2, 3, 4):
            correlation = (gone[:, shift:] * gone[:, :-shift]).mean() / (p * (1 - p))
            assert abs(correlation) < 0.012
        assert abs((gone[1:] * gone[:-1]).mean() / (p * (1 - p))) < 0.012


def test_two_calls_differ_and_a_seed_repeats_them():
    x = jnp.ones(100)
    first, second = run("dropout", x), run("dropout", x)
    assert (first != second).any()
    rng.manual_seed(0)
    np.testing.assert_array_equal(run("dropout", x), first)


def groups(output):
    """Axes along which every decision is shared, of the axes longer than one."""
    gone = np.asarray(output) == np.asarray(output).min()
    return [axis for axis in range(gone.ndim) if (gone == np.take(gone, [0], axis)).all()]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("ndim", "training"), [*((n, True) for n in range(7)), (0, False), (3, False), (6, False)])
def test_what_goes_together_and_what_is_refused(name, ndim, training):
    x = jnp.ones([8, 9, 7, 6, 2, 2][:ndim])
    with warnings.catch_warnings(record=True) as expected_warnings:
        warnings.simplefilter("always")
        try:
            expected, error = getattr(F, name)(to_torch(x), 0.5, training), None
        except Exception as caught:
            error = caught
    with warnings.catch_warnings(record=True) as our_warnings:
        warnings.simplefilter("always")
        if error is None:
            output = getattr(ours, name)(x, 0.5, training)
            assert output.shape == x.shape
            assert groups(output) == groups(expected.numpy())
        else:
            with pytest.raises(type(error)):
                getattr(ours, name)(x, 0.5, training)
    assert [w.category for w in our_warnings] == [w.category for w in expected_warnings]
    assert all(w.filename == __file__ for w in our_warnings)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_to_decide_draws_no_key(name):
    x = jnp.asarray([[[1.0, NAN, INF, -2.0]]])
    before = key_state()
    np.testing.assert_array_equal(run(name, x, 0.5, False), x)
    np.testing.assert_array_equal(run(name, x, 0.0, True), x)
    np.testing.assert_array_equal(run(name, x, 1.0, True), [[[0, NAN, NAN, 0]]])
    assert run(name, jnp.zeros((0, 3, 2)), 0.5, True).shape == (0, 3, 2)
    assert key_state() == before
    run(name, x, 0.5, True)
    assert key_state() != before


@pytest.mark.parametrize("name", NAMES)
def test_arguments_refused(name):
    x = jnp.ones((2, 3, 2))
    for p in (-0.1, 1.1, NAN):
        for training in (True, False):
            with pytest.raises(ValueError, match="between 0 and 1"):
                run(name, x, p, training)
    for dtype, error in [("int32", RuntimeError), ("bool", RuntimeError), ("complex64", NotImplementedError)]:
        y = x.astype(dtype)
        with pytest.raises(error):
            quiet(getattr(F, name), to_torch(y), 0.5, True)
        with pytest.raises(error):
            run(name, y, 0.5, True)
        np.testing.assert_array_equal(run(name, y, 0.5, False), y)


def test_default_of_training_is_torchs():
    x = jnp.ones((8, 50, 4))
    for name in NAMES:
        assert (run(name, x) == x).all() == (name in ALPHA), name


@pytest.mark.parametrize("name", ALPHA)
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_alpha_dropout_has_torchs_two_values(name, p, dtype):
    for value in (1.0, -0.3):
        x = jnp.full((30, 40, 3), value, dtype)
        output, expected = run(name, x, p, True), getattr(F, name)(to_torch(x), p, True)
        assert output.dtype == x.dtype
        tolerance = 1e-6 if dtype == "float32" else 1e-2
        np.testing.assert_allclose(
            np.unique(np.asarray(output, np.float32)),
            np.unique(expected.float().numpy()),
            rtol=tolerance,
            atol=tolerance,
        )


def test_alpha_dropout_keeps_mean_and_variance():
    x = jnp.asarray(np.random.RandomState(0).randn(1000, 500), jnp.float32)
    for p in (0.1, 0.5):
        output = np.asarray(run("alpha_dropout", x, p, True))
        assert abs(output.mean()) < 0.01 and abs(output.var() - 1) < 0.02


@pytest.mark.parametrize("name", NAMES)
def test_gradient_passes_where_the_value_does(fixed_key, name):
    x = jnp.asarray(np.random.RandomState(0).randn(3, 20, 4), jnp.float32)
    output, vjp = jax.vjp(lambda x: run(name, x, 0.25, True), x)
    slope = vjp(jnp.ones_like(x))[0]
    shift = run(name, jnp.zeros_like(x), 0.25, True)
    np.testing.assert_allclose(slope * x + shift, output, rtol=1e-6, atol=1e-6)
    assert 0 < (slope == 0).sum() < x.size
    with jax.enable_x64(True):
        assert_derivatives(lambda x: run(name, x, 0.25, True), x[:, :4].astype(jnp.float64))


def test_a_scan_stores_only_the_masks(monkeypatch):
    def layer(x, key):
        monkeypatch.setattr(ours, "next_rng_key", lambda: key)
        return ours.dropout(x, 0.1), None

    def network(x):
        return jax.lax.scan(layer, x, jax.random.split(jax.random.key(0), 5))[0].sum()

    jaxpr = str(jax.make_jaxpr(jax.grad(network))(jnp.ones((16, 16))))
    assert "bool[5,16,16]" in jaxpr and "f32[5,16,16]" not in jaxpr


def test_compiled_and_mapped(fixed_key):
    x = jnp.asarray(np.random.RandomState(0).randn(3, 20, 4), jnp.float32)
    expected = run("dropout", x, 0.1)
    np.testing.assert_allclose(jax.jit(lambda x: run("dropout", x, 0.1))(x), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(lambda y: run("dropout", x * y, 0.1))(jnp.ones(2))[1], expected, rtol=1e-6)


def test_numpy_probabilities_do_not_change_the_dtype(fixed_key):
    x = jnp.ones((2, 3, 4), jnp.bfloat16)
    for name in NAMES:
        output, vjp = jax.vjp(lambda x: run(name, x, np.float32(0.25), True), x)
        np.testing.assert_array_equal(output, run(name, x, 0.25, True))
        assert vjp(output)[0].dtype == x.dtype


def test_infinite_elements_are_not_hidden():
    assert np.isnan(run("dropout", jnp.full(1000, INF), 0.5)).any()


@pytest.mark.parametrize("name", NAMES)
def test_in_place_on_a_variable(fixed_key, name):
    x = jnp.asarray(np.random.RandomState(0).randn(3, 20, 4), jnp.float32)
    cell = Buffer(x)
    assert run(name, cell, 0.5, True, True) is cell
    np.testing.assert_array_equal(cell.value, run(name, x, 0.5, True))
    assert isinstance(run(name, cell, 0.5, True), jax.Array)
