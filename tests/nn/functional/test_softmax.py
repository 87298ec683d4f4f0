"""softmin against torch, and gumbel_softmax as a distribution; softmax and log_softmax are tested with the activations."""

from __future__ import annotations

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import objnet.nn.functional as ours  # noqa: E402
from objnet.core import rng  # noqa: E402
from tests.nn.functional.outcome import normal  # noqa: E402
from tests.nn.parity import assert_close, assert_parity, assert_same_error, to_torch  # noqa: E402

F = torch.nn.functional


@pytest.fixture(autouse=True)
def seeded():
    rng.manual_seed(0)


def test_softmin():
    assert_parity(lambda x: ours.softmin(x, 1), lambda x: F.softmin(x, 1), normal(2, 3, 2))
    for x in (jnp.arange(3), jnp.asarray([1, 2], jnp.uint8), normal(3, dtype="bfloat16")):
        mine, theirs = ours.softmin(x, 0, dtype="float32"), F.softmin(to_torch(x), 0, dtype=torch.float32)
        assert_close(mine, theirs, rtol=1e-6)
    with pytest.warns(UserWarning, match="softmin without dim") as caught:
        ours.softmin(normal(2, 3))
    assert caught[0].filename == __file__
    for x in (jnp.ones(2, bool), jnp.ones(2, int), jnp.ones(2, complex)):
        assert_same_error(lambda: ours.softmin(x, 0), lambda: F.softmin(to_torch(x), 0))
    x = jnp.ones(2, bool)
    assert_same_error(lambda: ours.softmin(x, 0, dtype="float32"), lambda: F.softmin(to_torch(x), 0, dtype=torch.float32))


def test_gumbel_softmax_draws_each_as_often_as_its_probability():
    probability = jnp.asarray([0.1, 0.2, 0.7])
    logits = jnp.broadcast_to(jnp.log(probability), (20000, 3))
    hard = ours.gumbel_softmax(logits, hard=True)
    assert set(np.unique(hard)) == {0.0, 1.0}
    np.testing.assert_array_equal(hard.sum(1), 1)
    np.testing.assert_allclose(hard.mean(0), probability, atol=0.015)
    soft = np.asarray(ours.gumbel_softmax(logits, tau=0.5))
    np.testing.assert_allclose(soft.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose([(soft.argmax(1) == i).mean() for i in range(3)], probability, atol=0.015)
    # a lower temperature is closer to one-hot
    assert ours.gumbel_softmax(logits, tau=0.1).max(1).mean() > soft.max(1).mean() + 0.05


def test_gumbel_softmax_gradient_is_that_of_the_soft_draw(monkeypatch):
    x, weights = normal(4, 3), normal(4, 3, seed=1)
    module = importlib.import_module("objnet.nn.functional.softmax")  # the package's attribute of that name is the function
    monkeypatch.setattr(module, "next_rng_key", lambda: jax.random.key(3))

    def loss(x, hard):
        return jnp.sum(ours.gumbel_softmax(x, 0.7, hard, dim=0) * weights)

    np.testing.assert_allclose(jax.grad(loss)(x, True), jax.grad(loss)(x, False), rtol=1e-6)


def test_gumbel_softmax_edges():
    for x in (jnp.asarray(1.0), jnp.ones((0, 2)), normal(3, dtype="bfloat16")):
        for hard in (False, True):
            result = ours.gumbel_softmax(x, hard=hard)
            assert result.shape == x.shape and result.dtype == x.dtype
    with pytest.warns(UserWarning, match="eps"):
        ours.gumbel_softmax(normal(3), eps=1e-3)
    assert_same_error(lambda: ours.gumbel_softmax(normal(2, 3), dim=2), lambda: F.gumbel_softmax(torch.randn(2, 3), dim=2))
    assert_same_error(lambda: ours.gumbel_softmax(jnp.arange(3)), lambda: F.gumbel_softmax(torch.arange(3)))
    empty = jnp.ones((2, 0))
    assert_same_error(lambda: ours.gumbel_softmax(empty, hard=True), lambda: F.gumbel_softmax(to_torch(empty), hard=True))
