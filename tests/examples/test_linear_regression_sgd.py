"""Linear regression: its data, its optimiser, and the least-squares solution that it finds."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.examples.scripts import load

regression = load("linear_regression_sgd")


def test_it_finds_the_least_squares_solution(capsys):
    pytest.importorskip("mlxtend")
    found, best = regression.main(["--epochs", "150"])
    assert best <= found < 1.002 * best
    lines = capsys.readouterr().out.splitlines()
    assert float(lines[0].split()[-1]) > 10 * found
    rows = [line.split() for line in lines[-8:-1]]
    assert [name for name, *_ in rows] == [*regression.FEATURES, "bias"]
    np.testing.assert_allclose(*(np.array([row[i] for row in rows], float) for i in (1, 2)), atol=0.2)


def test_cars_are_read():
    pytest.importorskip("mlxtend")
    x, y = regression.load_cars()
    assert x.shape == (392, 6) and y.shape == (392, 1) and x.dtype == y.dtype == np.float32
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(x.std(axis=0), 1, atol=1e-4)
    assert y.min() == 9 and y[0] == 18 and abs(np.corrcoef(x[:, 3], y[:, 0])[0, 1]) > 0.8  # heavy cars do not go far


def test_an_epoch_is_a_step_down_the_gradient_for_each_batch():
    rng = np.random.default_rng(0)
    xs, ys = rng.normal(size=(3, 4, 6)).astype(np.float32), rng.normal(size=(3, 4, 1)).astype(np.float32)
    params = regression.net.init(jax.random.key(0), xs[0])
    new, loss = regression.train_epoch(params, xs, ys, 0.1)
    w, b = (np.array(params["linear"][name], float) for name in ("weight", "bias"))
    losses = []
    for x, y in zip(xs, ys, strict=True):
        error = x @ w.T + b - y
        losses.append(np.mean(error**2))
        w, b = w - 0.1 * 2 * error.T @ x / 4, b - 0.1 * 2 * error.mean(axis=0)
    np.testing.assert_allclose(new["linear"]["weight"], w, atol=1e-5)
    np.testing.assert_allclose(new["linear"]["bias"], b, atol=1e-5)
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-5)


def test_sgd_takes_any_tree():
    new = regression.sgd({"a": jnp.ones(2), "b": [jnp.ones(())]}, {"a": jnp.array([1.0, -1.0]), "b": [jnp.ones(())]}, 0.5)
    np.testing.assert_array_equal(new["a"], [0.5, 1.5])
    assert new["b"] == [0.5]


def test_cars_are_named_where_they_are_missing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(regression.InputError, match="pip install mlxtend"):
        regression.load_cars()
