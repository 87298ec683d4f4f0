"""``every_row``: a broadcast in value, and in every derivative too."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from objnet.nn.functional._rows import every_row


@pytest.mark.parametrize("vector, shape", [((3,), (2, 4, 3)), ((2, 3), (4, 2, 3)), ((3,), (3,)), ((3,), (0, 3)), ((0,), (2, 0))])
def test_derivatives_are_those_of_a_broadcast(vector, shape):
    rng = np.random.default_rng(0)
    x, weight = (jnp.asarray(rng.normal(size=s).astype(np.float32)) for s in (vector, shape))

    def loss(spread):
        return lambda x: jnp.sum(jnp.sin(spread(x, shape)) * weight)

    for derive in (lambda f: f, jax.grad, jax.jacfwd, jax.hessian):
        ours, theirs = (derive(loss(spread))(x) for spread in (every_row, jnp.broadcast_to))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_the_gradient_is_a_product():
    jaxpr = str(jax.make_jaxpr(jax.grad(lambda b: jnp.sum(jnp.sin(every_row(b, (8, 3))))))(jnp.ones(3)))
    assert "dot_general" in jaxpr and "reduce_sum[axes=(0,)" not in jaxpr


def test_under_vmap_and_for_integers():
    x = jnp.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(jax.vmap(lambda b: every_row(b, (4, 3)))(x), jnp.broadcast_to(x[:, None], (2, 4, 3)))
    assert every_row(jnp.arange(3), (2, 3)).dtype == jnp.arange(3).dtype
