"""Interpolation against torch: places to the bit, weights, gradients, images of bytes, dtypes, refusals."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from objnet.nn import functional as ours  # noqa: E402
from objnet.nn.functional import _interpolation as kernels  # noqa: E402
from tests.nn.functional.outcome import assert_same_outcome, integers, normal  # noqa: E402
from tests.nn.parity import assert_derivatives, assert_parity, assert_same_error  # noqa: E402

F = torch.nn.functional


def both(*arguments, function="interpolate", **options):
    return tuple(lambda x, f=getattr(m, function): f(x, *arguments, **options) for m in (ours, F))


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((2, 3, 5), {"size": 8}),
        ((2, 3, 5, 4), {"scale_factor": (1.7, 0.6), "mode": "nearest-exact"}),
        ((2, 3, 5), {"scale_factor": 2.3, "mode": "linear"}),
        ((2, 3, 5, 6), {"size": (9, 4), "mode": "bilinear"}),
        ((2, 3, 5, 6), {"scale_factor": 1.7, "mode": "bilinear", "recompute_scale_factor": True}),
        ((2, 3, 5, 6), {"size": (8, 1), "mode": "bilinear", "align_corners": True}),
        ((2, 3, 5, 6), {"scale_factor": (0.6, 1.7), "mode": "bicubic"}),
        ((2, 3, 12, 9), {"size": (5, 4), "mode": "bicubic", "antialias": True}),
        ((2, 3, 12, 9), {"scale_factor": 0.6, "mode": "bilinear", "antialias": True, "align_corners": True}),
        ((1, 2, 12, 9), {"size": (5, 14), "mode": "lanczos", "antialias": True}),
        ((2, 2, 3, 4, 5), {"size": (4, 3, 7), "mode": "trilinear"}),
        ((2, 3, 5, 6), {"scale_factor": 1.7, "mode": "area"}),
    ],
)
def test_values_and_gradients(shape, options):
    assert_parity(*both(**options), normal(*shape))


def places_of_torch(n, length, **options):
    x = torch.arange(length, dtype=options.pop("dtype")).reshape(*[1] * (n + 1), length)
    return F.interpolate(x.expand(1, 2, *[1] * (n - 1), length).contiguous(), **options)[0, 0].reshape(-1).tolist()


@settings(max_examples=75, deadline=None, derandomize=True)
@given(
    st.integers(1, 150),
    st.one_of(st.integers(1, 300), st.floats(0.1, 4), st.sampled_from([1.05, 1.5, 2.0, 2.1, 1 / 3])),
    st.sampled_from([1, 2, 3]),
    st.sampled_from(["nearest", "nearest-exact"]),
    st.sampled_from(["float32", "float64"]),
)
def test_nearest_places_are_torchs(length, target, n, mode, dtype):
    count = target if isinstance(target, int) else int(length * target)
    if count < 1:
        return
    fixed, name = ([1] * (n - 1), "size") if isinstance(target, int) else ([1.0] * (n - 1), "scale_factor")
    expected = places_of_torch(n, length, mode=mode, dtype=getattr(torch, dtype), **{name: (*fixed, target)})
    along = kernels.Resize(length, count, None if isinstance(target, int) else target)
    kernel = kernels.nearest if mode == "nearest" else kernels.nearest_exact
    small = kernels.is_small((*[1] * (n - 1), count))
    assert kernel(along, getattr(np, dtype), small).places[:, 0].tolist() == expected


MODES = {1: ["nearest", "linear", "area"], 2: ["nearest-exact", "bilinear", "bicubic", "lanczos"], 3: ["nearest", "trilinear"]}


@st.composite
def problems(draw):
    n = draw(st.sampled_from([1, 2, 2, 2, 3]))
    lengths = draw(st.tuples(*[st.integers(1, 9)] * n))
    options = {"mode": draw(st.sampled_from(MODES[n]))}
    if draw(st.booleans()):
        options["size"] = draw(st.tuples(*[st.integers(2, 12)] * n))  # torch's antialias is wrong for a width of 1
    else:
        options["scale_factor"] = draw(st.tuples(*[st.floats(0.5, 2.5)] * n))
        options["recompute_scale_factor"] = draw(st.sampled_from([None, True, False]))
    if "linear" in options["mode"] or options["mode"] == "bicubic":
        options["align_corners"] = draw(st.sampled_from([None, True, False]))
    options["antialias"] = n == 2 and options["mode"] != "nearest-exact" and draw(st.booleans())
    return (2, draw(st.integers(1, 5)), *lengths), options


@settings(max_examples=10, deadline=None, derandomize=True)
@given(problems(), st.sampled_from(["float32", "bfloat16", "uint8"]))
def test_outcome_for_any_arguments(problem, dtype):
    shape, options = problem
    if options["antialias"] and shape[-1] * options.get("scale_factor", (2,))[-1] < 2:
        options["antialias"] = False
    assert_same_outcome(*both(**options), integers(*shape, low=0, high=256, dtype=dtype))


@pytest.mark.parametrize("mode", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("channels", [3, 5])
def test_images_of_bytes_are_torchs_to_the_bit(mode, channels):
    x = integers(1, channels, 40, 30, low=0, high=256, dtype="uint8")
    assert assert_same_outcome(*both((13, 45), mode=mode, antialias=mode == "lanczos"), x)


@pytest.mark.parametrize(("mode", "antialias"), [("bilinear", False), ("bilinear", True), ("bicubic", False)])
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_dimensions_that_keep_their_length(mode, antialias, dtype):
    x = integers(1, 2, 4, 4, low=0, high=50, dtype=dtype)
    assert assert_same_outcome(*both(None, (1.2, 1.6), mode=mode, antialias=antialias), x)


def test_wide_antialias_is_a_loop():
    assert_parity(*both((3, 2), mode="bicubic", antialias=True), normal(1, 1, 40, 50))


def test_derivatives_of_every_order_and_vmap():
    f = both((4, 7), mode="bicubic")[0]
    with jax.enable_x64(True):
        assert_parity(*both((4, 7), mode="bicubic"), normal(1, 2, 5, 6, dtype="float64"))
        assert_derivatives(lambda x: jnp.sin(f(x)), normal(1, 1, 3, 4, dtype="float64"))
    xs = normal(2, 1, 2, 5, 6)
    np.testing.assert_allclose(jax.vmap(f)(xs), jnp.stack([f(x) for x in xs]), rtol=1e-6)


def test_one_infinity_reaches_its_neighbours_only():
    x = normal(1, 1, 6, 6).at[0, 0, 2, 2].set(jnp.inf)
    assert_same_outcome(*both((12, 12), mode="bilinear"), x)


def test_gradient_of_nearest_is_that_of_the_function():
    # torch's backward pass takes other places than its forward pass for this factor
    x = normal(1, 1, 5)
    f = both(None, 2.1)[0]
    np.testing.assert_allclose(jax.jacobian(f)(x).reshape(10, 5) @ x.reshape(5), f(x).reshape(10), rtol=1e-6)


@pytest.mark.parametrize("name", ["upsample", "upsample_nearest", "upsample_bilinear"])
def test_deprecated_names_warn(name):
    x = normal(1, 2, 3, 4)
    with pytest.warns(UserWarning, match="interpolate"):
        result = getattr(ours, name)(x, scale_factor=2)
    with pytest.warns(UserWarning):
        expected = getattr(F, name)(torch.tensor(np.asarray(x)), scale_factor=2)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"size": 3, "scale_factor": 2.0},
        {"size": 0},
        {"size": (2, -1)},
        {"size": 2.0},
        {"size": True},
        {"size": "3"},
        {"size": (2,)},
        {"size": (2.0, 3)},
        {"scale_factor": (2.0,)},
        {"scale_factor": "2"},
        {"scale_factor": 0.1},
        {"scale_factor": -1},
        {"scale_factor": float("nan")},
        {"scale_factor": float("inf"), "recompute_scale_factor": True},
        {"scale_factor": 1e20},
        {"size": 3, "recompute_scale_factor": True},
        {"size": 3, "align_corners": False},
        {"size": 3, "mode": "area", "align_corners": True},
        {"size": -1, "mode": "area"},
        {"size": 3, "mode": "linear"},
        {"size": 3, "mode": "trilinear"},
        {"size": 3, "mode": "cubic"},
        {"size": 3, "mode": None},
        {"size": 3, "antialias": True},
        {"size": 3, "mode": "lanczos"},
        {"size": 3, "mode": "lanczos", "antialias": True, "align_corners": True},
    ],
)
def test_refused(options):
    x = normal(2, 3, 4, 5)
    assert_same_error(lambda: ours.interpolate(x, **options), lambda: F.interpolate(torch.zeros(2, 3, 4, 5), **options))


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic", "area"])
@pytest.mark.parametrize(
    "shape", [(4,), (3, 4), (3, 4, 5), (1, 1, 2, 2, 2), (1, 1, 1, 1, 1, 1), (0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5)]
)
def test_shapes(mode, shape):
    assert_same_outcome(*both(3, mode=mode), jnp.zeros(shape))


@pytest.mark.parametrize("dtype", ["int32", "bool", "complex64", "float16", "uint8"])
def test_dtypes(dtype):
    for options in ({"mode": "nearest"}, {"mode": "bilinear"}, {"mode": "area"}, {"mode": "bicubic", "antialias": True}):
        assert_same_outcome(*both(3, **options), jnp.ones((1, 2, 4, 4), dtype))
