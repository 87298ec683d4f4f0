"""Grid sampling and affine grids against torch: modes, borders, gradients of both arguments, refusals."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from objnet.nn import functional as ours  # noqa: E402
from tests.nn.functional.outcome import assert_same_outcome, normal  # noqa: E402
from tests.nn.parity import assert_derivatives, assert_parity  # noqa: E402

F = torch.nn.functional
MODES, BORDERS = ["bilinear", "nearest", "bicubic"], ["zeros", "border", "reflection"]


def both(*options):
    return tuple(lambda x, grid, m=m: m.grid_sample(x, grid, *options) for m in (ours, F))


def grid_of(*shape, seed=1):
    """Places inside and outside of the input, some of them exactly on elements, borders and reflections of them."""
    grid = 1.6 * normal(*shape, seed=seed)
    exact = np.random.RandomState(seed).choice([-1, 1, 0, -0.5, 0.5, 2, -2, 3, -3, 1.25, 7], 24)
    return grid.reshape(-1).at[:24].set(exact).reshape(shape)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("border", BORDERS)
def test_values_and_gradients(mode, border):
    align_corners = MODES.index(mode) == BORDERS.index(border)
    assert_parity(*both(mode, border, align_corners), normal(2, 3, 4, 5), grid_of(2, 4, 7, 2), rtol=1e-4)


@pytest.mark.parametrize(("mode", "border", "align_corners"), [("bilinear", "zeros", False), ("nearest", "reflection", True)])
def test_volumes(mode, border, align_corners):
    assert_parity(*both(mode, border, align_corners), normal(2, 2, 4, 5, 3), grid_of(2, 3, 4, 2, 3), rtol=1e-4)


@pytest.mark.parametrize("border", BORDERS)
def test_inputs_of_one_element(border):
    for align_corners in (False, True):
        assert_same_outcome(*both("bilinear", border, align_corners), normal(1, 2, 1, 1), grid_of(1, 4, 5, 2))


def test_derivatives_of_every_order_and_vmap():
    mode = "bilinear"
    f = both(mode, "zeros", True)[0]
    with jax.enable_x64(True):
        x, grid = normal(1, 1, 3, 4, dtype="float64"), 0.7 * normal(1, 2, 2, 2, dtype="float64", seed=3)
        assert_derivatives(f, x, grid[:, :1])
        assert_parity(*both(mode, "reflection", True), x, grid)
    xs, grids = normal(2, 1, 2, 3, 4), normal(2, 1, 3, 3, 2, seed=2)
    np.testing.assert_allclose(jax.vmap(f)(xs, grids), [f(*pair) for pair in zip(xs, grids)], rtol=1e-5)


@pytest.mark.parametrize("border", BORDERS)
def test_places_that_are_no_numbers(border):
    # torch reads outside of the input there
    grid = jnp.zeros((1, 1, 2, 2)).at[0, 0, 0, 0].set(jnp.nan)
    for mode in MODES:
        result = jax.jit(both(mode, border, False)[0])(jnp.ones((1, 1, 3, 3)), grid)
        np.testing.assert_array_equal(np.isnan(result[0, 0, 0]), [True, False])


def test_places_far_away():
    grid = jnp.asarray([3e9, -1e20]).reshape(1, 1, 1, 2)
    for mode in MODES:
        assert_same_outcome(*both(mode, "zeros", False), jnp.ones((1, 1, 3, 3)), grid)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int32", "complex64"])
def test_dtypes(dtype):
    x, grid = jnp.ones((1, 2, 4, 4)).astype(dtype), (0.5 * normal(1, 2, 2, 2)).astype(dtype)
    assert_same_outcome(*both("bilinear", "border", True), x, grid)


@pytest.mark.parametrize(
    ("shape", "grid"),
    [
        ((3, 4, 5), (6, 7, 2)),
        ((2, 3, 4, 5), (1, 6, 7, 2)),
        ((2, 3, 4, 5), (2, 6, 7, 1)),
        ((2, 3, 4, 5), (2, 6, 7, 2, 3)),
        ((2, 3, 4, 5, 6), (2, 6, 7, 2)),
        ((2, 3, 0, 5), (2, 6, 7, 2)),
        ((2, 0, 4, 5), (2, 6, 7, 2)),
        ((0, 3, 4, 5), (0, 6, 7, 2)),
        ((2, 3, 4, 5), (2, 0, 7, 2)),
        ((1, 1, 2, 2, 2), (1, 1, 1, 1, 3)),
    ],
)
@pytest.mark.parametrize("mode", ["nearest", "bicubic"])
def test_shapes(mode, shape, grid):
    assert_same_outcome(*both(mode, "zeros", False), jnp.ones(shape), jnp.zeros(grid))


def test_modes_and_mixed_dtypes_refused():
    x, grid = jnp.ones((1, 1, 2, 2)), jnp.zeros((1, 1, 1, 2))
    for options in (("cubic", "zeros", False), (None, "zeros", False), ("nearest", "wrap", False)):
        assert not assert_same_outcome(*both(*options), x, grid)
    assert not assert_same_outcome(*both("nearest", "zeros", False), x, grid.astype("float16"))
    assert ours.GRID_SAMPLE_INTERPOLATION_MODES == F.GRID_SAMPLE_INTERPOLATION_MODES
    assert ours.GRID_SAMPLE_PADDING_MODES == F.GRID_SAMPLE_PADDING_MODES


def test_default_of_align_corners_warns():
    with pytest.warns(UserWarning, match="align_corners"):
        y = ours.grid_sample(jnp.ones((1, 1, 2, 2)), jnp.full((1, 1, 1, 2), -1.0))
    assert y.item() == 0.25
    with pytest.warns(UserWarning, match="align_corners"):
        assert ours.affine_grid(jnp.eye(2, 3)[None], (1, 1, 1, 2))[0, 0, 0].tolist() == [-0.5, 0]


def affine(size, align_corners):
    return tuple(lambda theta, m=m: m.affine_grid(theta, size, align_corners) for m in (ours, F))


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(2, 3, 4, 5), (2, 1, 2, 3, 4)])
def test_affine_grids(size, align_corners):
    n = len(size) - 2
    assert_parity(*affine(size, align_corners), normal(2, n, n + 1))
    assert_parity(*affine(size, align_corners), normal(2, n, n + 1, dtype="bfloat16"))


@settings(max_examples=13, deadline=None, derandomize=True)
@given(
    st.lists(st.sampled_from([0, 1, 2, 3]), min_size=2, max_size=6),
    st.sampled_from([(2, 2, 3), (2, 3, 4), (2, 3)]),
    st.booleans(),
)
def test_affine_outcome_for_any_size(size, shape, align_corners):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_same_outcome(*affine(tuple(size), align_corners), jnp.ones(shape))


def test_affine_refusals():
    assert not assert_same_outcome(*affine((2, 1, 2, 2), False), jnp.ones((2, 2, 3), "int32"))
    for size in ((2, 1, 2.0, 2), (True, 1, 2, 2)):
        assert not assert_same_outcome(*affine(size, False), jnp.ones((2, 2, 3)))
    with pytest.warns(UserWarning, match="size 1"):
        ours.affine_grid(jnp.ones((1, 2, 3)), (1, 1, 1, 2), True)
