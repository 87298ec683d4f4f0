"""cosine_similarity, pairwise_distance, pdist and normalize of complex numbers, against torch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

import objnet.nn.functional as ours  # noqa: E402
from tests.nn.functional.outcome import integers, normal  # noqa: E402
from tests.nn.parity import assert_close, assert_parity, assert_same_error, to_torch  # noqa: E402

F = torch.nn.functional
INF, NAN = float("inf"), float("nan")


def same(function, *arrays, tolerances={}, **options):
    mine, theirs = getattr(ours, function), getattr(F, function)
    assert_parity(lambda *a: mine(*a, **options), lambda *a: theirs(*a, **options), *arrays, **tolerances)


def refused(function, *arrays, **options):
    mine, theirs = getattr(ours, function), getattr(F, function)
    assert_same_error(lambda: mine(*arrays, **options), lambda: theirs(*map(to_torch, arrays), **options))


@settings(max_examples=5, deadline=None)
@given(
    shapes=st.sampled_from([((2, 3), (2, 3)), ((2, 1, 3), (4, 3)), ((3,), (2, 3)), ((2, 1), (2, 3)), ((0, 3), (0, 3)), ((2, 0), (2, 0))]),
    dim=st.sampled_from([-1, 0]),
    eps=st.sampled_from([1e-8, 1.5]),
    dtypes=st.sampled_from([("float32", "float32"), ("bfloat16", "bfloat16"), ("bfloat16", "float32")]),
)  # fmt: skip
def test_cosine_similarity(shapes, dim, eps, dtypes):
    arrays = (normal(*s, seed=i, dtype=d) for i, (s, d) in enumerate(zip(shapes, dtypes)))
    loose = {} if dtypes[0] == dtypes[1] else {"rtol": 3e-2, "atol": 3e-2}  # of two dtypes torch rounds to the narrower
    same("cosine_similarity", *arrays, tolerances=loose, dim=dim, eps=eps)


def test_cosine_similarity_edges():
    for row in ([0.0, 0, 0], [1e30, 1e30, 1e30], [1e-20, 0, 0]):
        same("cosine_similarity", jnp.asarray([row]), jnp.asarray([[1.0, 2, 3]]))
    same("cosine_similarity", jnp.asarray(2.0), jnp.asarray(-3.0), dim=0)
    assert_close(
        ours.cosine_similarity(jnp.ones((2, 3), int), normal(2, 3)),
        F.cosine_similarity(torch.ones(2, 3).int(), to_torch(normal(2, 3))),
    )


def test_cosine_similarity_refusals():
    for dtype in ("int32", "bool", "complex64"):
        refused("cosine_similarity", *[jnp.ones((2, 3), dtype)] * 2)
    refused("cosine_similarity", normal(2, 3), normal(2, 4))
    refused("cosine_similarity", normal(3), normal(3))
    refused("cosine_similarity", normal(2, 3), normal(2, 3), eps=-1.0)


@settings(max_examples=6, deadline=None)
@given(
    shapes=st.sampled_from([((2, 3), (2, 3)), ((2, 1, 3), (4, 3)), ((3,), (2, 3)), ((2, 1), (2, 3)), ((0, 3), (0, 3)), ((), (3,))]),
    p=st.sampled_from([0.5, 1.0, 1.5, 2.0, 3.0, INF, -1.0, -INF]),
    eps=st.sampled_from([0.0, 1e-6]),
    keepdim=st.booleans(),
)  # fmt: skip
def test_pairwise_distance(shapes, p, eps, keepdim):
    arrays = (integers(*s, seed=i) for i, s in enumerate(shapes))  # some differences are 0, some are equal
    same("pairwise_distance", *arrays, p=p, eps=eps, keepdim=keepdim)


def test_pairwise_distance_edges():
    same("pairwise_distance", jnp.asarray(1.0), jnp.asarray(4.0), keepdim=True)
    same("pairwise_distance", normal(2, 3, dtype="bfloat16"), normal(2, 3, dtype="bfloat16", seed=1))
    assert_close(ours.pairwise_distance(normal(2, 3), normal(2, 3, seed=1), p=0), F.pairwise_distance(
        to_torch(normal(2, 3)), to_torch(normal(2, 3, seed=1)), p=0))  # fmt: skip
    for dtype in ("int32", "complex64"):
        x, y = jnp.asarray([[1, 2, 3]], dtype), jnp.asarray([[3, 2, 2]], dtype)
        assert_close(ours.pairwise_distance(x, y), F.pairwise_distance(to_torch(x), to_torch(y)))
    refused("pairwise_distance", normal(2, 3), normal(2, 4))
    refused("pairwise_distance", *[jnp.ones((2, 3), bool)] * 2)
    refused("pairwise_distance", jnp.ones((2, 0)), jnp.ones((2, 0)), p=INF)


@pytest.mark.parametrize("p", [0.0, 0.5, 1.5, 2.0, INF])
def test_pdist(p):
    x = jnp.asarray([[0.0, 0, 3], [0, 0, 3], [1, 2, 5], [0, 2, 4]])  # equal rows, equal differences
    same("pdist", x, p=p)


def test_pdist_edges():
    for shape in ((0, 3), (1, 3), (3, 0)):  # torch's backward pass of an empty one crashes
        assert_close(ours.pdist(jnp.ones(shape)), F.pdist(torch.ones(shape)))
    x = jnp.asarray([[NAN, 1], [1, 2.0], [3, INF]])
    np.testing.assert_array_equal(ours.pdist(x), F.pdist(to_torch(x)).numpy())
    refused("pdist", normal(3))
    refused("pdist", normal(2, 3, 4))
    refused("pdist", jnp.ones((2, 3), int))
    refused("pdist", normal(2, 3), p=-1.0)
    refused("pdist", normal(2, 3), p=NAN)


@pytest.mark.parametrize("p", [2.0, 3.0])
def test_normalize_complex(p):
    x = jax.lax.complex(normal(2, 3), normal(2, 3, seed=1))
    assert_close(ours.normalize(x, p), F.normalize(to_torch(x), p), rtol=1e-5)
