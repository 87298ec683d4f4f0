"""``with_rng`` and its kin outside of the pure form (with Haiku they are compared in tests/transforms/test_haiku_contract.py)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import objnet
from objnet import nn


def test_initial_weights_come_from_the_key():
    before = objnet.get_rng_state()
    with objnet.with_rng(3):
        a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    with objnet.with_rng(jax.random.PRNGKey(3)):
        c = nn.Linear(2, 2)
    assert np.array_equal(a.weight, c.weight) and not np.array_equal(a.weight, b.weight)
    after = objnet.get_rng_state()
    assert np.array_equal(before["key"], after["key"]) and np.array_equal(before["generator"], after["generator"])


def test_writes_inside_the_block_last():
    norm = nn.BatchNorm1d(2)
    with objnet.with_rng(0):
        norm(jnp.arange(4.0).reshape(2, 2))
    np.testing.assert_allclose(norm.running_mean, [0.1, 0.2], rtol=1e-6)


def test_in_compiled_code_and_gradients():
    model = nn.Linear(2, 1)

    @objnet.jit
    def run(x):
        with objnet.with_rng(5):
            fixed = objnet.next_rng_key()
        return fixed, objnet.next_rng_key(), model(x)

    x = jnp.ones((1, 2))
    (a, c, _), (b, d, _) = run(x), run(x)
    assert np.array_equal(a, b) and not np.array_equal(c, d)

    def loss():
        with objnet.with_rng(1):
            return (model(x) * jax.random.normal(objnet.next_rng_key(), (1,))).sum()

    assert np.any(objnet.value_and_grad(loss, wrt=model)()[1]["weight"])


def test_keys_cannot_be_reserved_outside():
    state = objnet.maybe_get_rng_sequence_state()
    first = objnet.next_rng_key()
    objnet.replace_rng_sequence_state(state)
    objnet.reserve_rng_keys(3)
    assert np.array_equal(first, objnet.next_rng_key())
    with pytest.raises(ValueError, match="reserved"):
        objnet.replace_rng_sequence_state((first, (first,)))
    with pytest.raises(ValueError, match="key"), objnet.with_rng("nonsense"):
        pass
