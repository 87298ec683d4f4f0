"""Weighted sums at known places against a matrix, and that they stay free of scatters and of neighbours' NaN."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objnet.nn.functional._taps import Taps, tapped


def matrix(taps, length):
    result = np.zeros((len(taps.places), length))
    for row, (places, weights) in enumerate(zip(taps.places, taps._filled())):
        for place, weight in zip(places, weights):
            if place >= 0:
                result[row, place] += weight
    return result


@st.composite
def tables(draw):
    length, count, width = draw(st.integers(1, 9)), draw(st.integers(0, 9)), draw(st.sampled_from([1, 2, 3, 40]))
    random = np.random.RandomState(draw(st.integers(0, 99)))
    places = random.randint(-1, length, (count, width))
    return length, Taps(places, random.randn(count, width) if draw(st.booleans()) else None)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(tables())
def test_sums_and_their_transpose_are_those_of_the_matrix(problem):
    length, taps = problem
    dense = matrix(taps, length)
    np.testing.assert_allclose(matrix(taps.transposed(length), len(taps.places)), dense.T, atol=1e-12)
    np.testing.assert_allclose(matrix(taps.merged(), length), dense, atol=1e-12)
    x = np.random.RandomState(1).randn(2, length, 3).astype(np.float32)
    y, vjp = jax.jit(lambda x: jax.vjp(lambda x: tapped(x, 1, taps), x))(x)
    np.testing.assert_allclose(y, np.einsum("oi,nic->noc", dense, x), atol=1e-4)
    ct = np.random.RandomState(2).randn(*y.shape).astype(np.float32)
    np.testing.assert_allclose(jax.jit(vjp)(ct)[0], np.einsum("oi,noc->nic", dense, ct), atol=1e-4)


TAPS = Taps(np.array([[0, 1], [1, 2], [-1, 2]]), np.array([[0.5, 0.5], [0.25, 0.75], [0.0, 1.0]]))


def test_every_transform():
    x = jnp.arange(1.0, 4.0)
    dense = matrix(TAPS, 3)
    f = lambda x: tapped(x, 0, TAPS)
    np.testing.assert_allclose(jax.vmap(f)(jnp.stack([x, 2 * x])), np.stack([dense @ x, 2 * dense @ x]), rtol=1e-6)
    np.testing.assert_allclose(jax.jvp(f, (x,), (x,))[1], dense @ x, rtol=1e-6)
    cubed = lambda x: jnp.sum(f(x) ** 3)
    expected = dense.T @ np.diag(6 * (dense @ x)) @ dense
    np.testing.assert_allclose(jax.hessian(cubed)(x), expected, rtol=1e-5)
    np.testing.assert_allclose(jax.jacrev(jax.grad(jax.checkpoint(cubed)))(x), expected, rtol=1e-5)


def test_there_is_no_scatter():
    assert "scatter" not in str(jax.make_jaxpr(jax.grad(lambda x: jnp.sum(tapped(x, 0, TAPS) ** 2)))(jnp.ones(3)))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_asked_for_does_not_matter(bad):
    np.testing.assert_array_equal(np.isfinite(tapped(jnp.array([bad, 1.0, 2.0]), 0, TAPS)), [False, True, True])
    assert tapped(jnp.array([1, 2, 3], "uint8"), 0, Taps(np.array([[2], [0]]))).tolist() == [3, 1]
