"""Adaptive max pooling and power-average pooling against torch (adaptive means: test_pooling)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from objnet.nn import functional as ours  # noqa: E402
from tests.nn.functional.outcome import assert_same_outcome, integers, normal  # noqa: E402
from tests.nn.parity import assert_derivatives, assert_parity, assert_same_error  # noqa: E402

F = torch.nn.functional
INF, NAN = float("inf"), float("nan")


def both(name, *arguments, **options):
    return tuple(lambda x, f=getattr(m, name): f(x, *arguments, **options) for m in (ours, F))


@pytest.mark.parametrize(
    ("n", "shape", "size"),
    [
        (1, (2, 3, 8), 3),
        (1, (3, 8), (4,)),
        (2, (2, 3, 7, 6), (3, 2)),
        (2, (3, 4, 5), [7, None]),
        (3, (1, 2, 5, 3, 4), (2, None, 3)),
    ],
)
def test_values_and_gradients_at_ties(n, shape, size):
    assert_parity(*both(f"adaptive_max_pool{n}d", size), integers(*shape, low=0, high=3))
    assert assert_same_outcome(*both(f"adaptive_max_pool{n}d_with_indices", size), integers(*shape, low=0, high=3))


@settings(max_examples=10, deadline=None, derandomize=True)
@given(st.integers(1, 40), st.integers(0, 40))
def test_windows_and_indices(length, count):
    assert_same_outcome(*both("adaptive_max_pool1d", count, return_indices=True), integers(1, 2, length))


@settings(max_examples=4, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from([0.0, 1.0, NAN, NAN, -INF, INF]), min_size=35, max_size=35))
def test_nan_and_infinities(values):
    x = jnp.asarray(values).reshape(1, 5, 7)
    assert assert_same_outcome(*both("adaptive_max_pool2d", (3, 4), return_indices=True), x)


def test_derivatives_vmap_and_no_scatter():
    f = both("adaptive_max_pool2d", (3, 2))[0]
    with jax.enable_x64(True):
        assert_derivatives(lambda x: jnp.sin(f(x)), normal(1, 4, 5, dtype="float64"))
    xs = normal(2, 1, 4, 5)
    assert (jax.vmap(f)(xs) == f(xs)).all()
    assert "scatter" not in str(jax.make_jaxpr(jax.grad(lambda x: f(x).sum()))(xs))


@pytest.mark.parametrize("size", [None, (3,), (1, 2, 3), (1, 2, 3, 4), (), -1, 0, (None, None), 2.0, True, (2.0, 1), "2"])
def test_sizes(size):
    f, g = both("adaptive_max_pool2d", size)
    if size in (0, (None, None)):
        assert f(jnp.zeros((2, 3, 4, 5))).shape == g(torch.zeros(2, 3, 4, 5)).shape
    else:
        assert_same_error(lambda: f(jnp.zeros((2, 3, 4, 5))), lambda: g(torch.zeros(2, 3, 4, 5)))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_shapes_and_dtypes(n):
    for shape in ((4,) * n, (1,) * (n + 3), (2, 0, *[3] * n), (0, 3, *[3] * n), (0, *[3] * n), (2, 3, *[0] * n)):
        assert_same_outcome(*both(f"adaptive_max_pool{n}d", 2), jnp.zeros(shape))
        assert_same_outcome(*both(f"adaptive_max_pool{n}d", (2,) * n), jnp.zeros(shape))
    for dtype in ("int32", "bool", "complex64", "bfloat16"):
        assert_same_outcome(*both(f"adaptive_max_pool{n}d", 2), jnp.ones((2, *[4] * n), dtype))


# -- power-average ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "norm"), [(1, 2), (1, 1.5), (2, 2.0), (2, INF), (2, -INF), (3, 3), (1, 1), (1, -2.0)])
def test_lp(n, norm):
    x = 0.1 + abs(normal(2, 2, *[5] * n))
    assert_parity(*both(f"lp_pool{n}d", norm, 2), x, rtol=1e-4)
    assert_parity(*both(f"lp_pool{n}d", norm, 3, 2, True), x, rtol=1e-4)


@pytest.mark.parametrize("norm", [2, 1, 3.0, INF])
def test_lp_of_zeros_and_negative_sums(norm):
    assert_parity(*both("lp_pool1d", norm, 2), jnp.asarray([[[0.0, 0.0, 1.0, -1.0, 2.0, -3.0, NAN, 1.0]]]))


def test_lp_dtypes():
    for dtype in ("bfloat16", "float16"):
        assert_parity(*both("lp_pool2d", 2.0, 2), normal(1, 4, 4, dtype=dtype))
    for dtype in ("int16", "bool", "complex64"):
        for norm in (2, 2.0):
            assert_same_outcome(*both("lp_pool2d", norm, 2), jnp.ones((1, 4, 4), dtype))


@pytest.mark.parametrize("arguments", [(0, 2), (2, 0), (2, 2, 0), (2, 9), (2, 2.0), (2, (2,))])
def test_lp_refused(arguments):
    f, g = both("lp_pool1d", *arguments)
    assert_same_error(lambda: f(jnp.ones((1, 2, 4))), lambda: g(torch.ones(1, 2, 4)))
