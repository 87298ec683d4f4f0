"""Pooling against torch: windows, ties, NaN, indices, gradients of every order, dtypes, refusals."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from objnet.nn import functional as ours  # noqa: E402
from tests.nn.functional.outcome import assert_same_outcome, integers, normal  # noqa: E402
from tests.nn.parity import assert_close, assert_derivatives, assert_parity, assert_same_error, to_jax  # noqa: E402

F = torch.nn.functional
INF, NAN = float("inf"), float("nan")


def both(name, *arguments, **options):
    return tuple(lambda x, f=getattr(m, name): f(x, *arguments, **options) for m in (ours, F))


WINDOWS = [
    ((2, 3, 6, 8), {"kernel_size": 2}),
    ((3, 5, 7), {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0)}),
    ((2, 3, 7, 8), {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}),
    ((1, 2, 9, 5), {"kernel_size": 2, "stride": (3, 2), "padding": 1, "ceil_mode": True}),
]


@pytest.mark.parametrize("name", ["max_pool2d", "avg_pool2d"])
@pytest.mark.parametrize(("shape", "options"), WINDOWS)
def test_values_and_gradients(name, shape, options):
    assert_parity(*both(name, **options), normal(*shape))


@pytest.mark.parametrize("name", ["max_pool1d", "avg_pool1d", "max_pool3d", "avg_pool3d"])
def test_other_dimensions(name):
    shape = (2, 3, 11) if "1d" in name else (2, 2, 5, 4, 6)
    assert_parity(*both(name, 3, 2, 1, ceil_mode=True), integers(*shape))


def spread(draw, values, n):
    return draw(st.one_of(values, st.tuples(*[values] * n), st.tuples(values)))


@st.composite
def problems(draw):
    n = draw(st.sampled_from([1, 2, 2, 3]))
    kernel = spread(draw, st.integers(1, 4), n)
    stride = draw(st.sampled_from([None, None, ()])) if draw(st.booleans()) else spread(draw, st.integers(1, 3), n)
    padding = spread(draw, st.sampled_from([0, 0, 0, 1, 1, 2]), n)
    batch = draw(st.sampled_from([(), (1,), (2,), (0,)]))
    shape = (*batch, draw(st.sampled_from([1, 2, 3, 0])), *draw(st.tuples(*[st.integers(1, 7)] * n)))
    return n, shape, {"kernel_size": kernel, "stride": stride, "padding": padding, "ceil_mode": draw(st.booleans())}


@settings(max_examples=12, deadline=None, derandomize=True)
@given(problems(), st.data())
def test_max_outcome_for_any_arguments(problem, data):
    n, shape, options = problem
    if n > 1:
        options["dilation"] = spread(data.draw, st.sampled_from([1, 1, 2, 3]), n)
    assert_same_outcome(*both(f"max_pool{n}d", return_indices=data.draw(st.booleans()), **options), integers(*shape))


@settings(max_examples=12, deadline=None, derandomize=True)
@given(problems(), st.data())
def test_avg_outcome_for_any_arguments(problem, data):
    n, shape, options = problem
    assume(n != 3 or options["padding"] in (0, (0,), (0, 0, 0)) or not options["ceil_mode"])
    options["count_include_pad"] = data.draw(st.booleans())
    if n > 1:
        options["divisor_override"] = data.draw(st.sampled_from([None, None, 3, -2]))
    assert_same_outcome(*both(f"avg_pool{n}d", **options), integers(*shape))


# -- which of equal maxima ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"stride": 1, "padding": 1}, {"stride": 2, "dilation": 2}, {"stride": 2, "ceil_mode": True}]
)
@pytest.mark.parametrize("shape", [(5, 2, 9, 8), (2, 1, 5, 5, 5)])
def test_gradient_of_equal_maxima_goes_to_the_first(options, shape):
    assert_parity(*both(f"max_pool{len(shape) - 2}d", 3, **options), integers(*shape, low=0, high=2))


@settings(max_examples=6, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from([0.0, 1.0, NAN, NAN, -INF, INF]), min_size=30, max_size=30))
def test_nan_and_infinities(values):
    x = jnp.asarray(values).reshape(1, 5, 6)
    options = {"stride": 2, "padding": 1}
    assert_parity(*both("max_pool2d", 3, **options), x)
    y, indices = jax.jit(lambda x: ours.max_pool2d(x, 3, **options, return_indices=True))(x)
    expected = F.max_pool2d(torch.tensor(values).reshape(1, 5, 6), 3, **options, return_indices=True)
    assert_close(y, expected[0])
    assert_close(indices, expected[1])


def test_minus_infinity_beats_padding():
    assert_parity(*both("max_pool2d", 2, padding=1), jnp.full((1, 3, 3), -INF))


@pytest.mark.parametrize("kernel", [9, 16, 23])
@pytest.mark.parametrize("options", [{}, {"stride": 3, "padding": 4, "ceil_mode": True}, {"stride": 1}])
@pytest.mark.slow
def test_long_windows(kernel, options):
    x = integers(2, 2, 40, low=0, high=3)
    x = x.at[0, 0, 17].set(NAN)
    assert_parity(*both("max_pool1d", kernel, **options), x)
    assert_parity(*both("avg_pool1d", kernel, **options), normal(2, 2, 40))
    y, indices = ours.max_pool1d(x, kernel, **options, return_indices=True)
    expected = F.max_pool1d(torch.tensor(np.asarray(x)), kernel, **options, return_indices=True)
    assert_close(y, expected[0])
    assert_close(indices, expected[1])


def test_long_dilated_windows():
    assert_parity(*both("max_pool2d", (1, 10), dilation=(1, 3), stride=2), integers(1, 3, 40))


def test_window_over_everything_stays_small():
    # 12 doublings, not 4,000 comparisons
    jaxpr = str(jax.make_jaxpr(lambda x: ours.max_pool1d(x, x.shape[-1]))(jnp.zeros((1, 1, 4000))))
    assert jaxpr.count(" gt ") < 30


def test_indices_have_the_default_integer_dtype():
    x = integers(1, 2, 4, 4)
    assert ours.max_pool2d(x, 2, return_indices=True)[1].dtype == jnp.int32
    with jax.enable_x64(True):
        assert ours.max_pool2d(x, 2, return_indices=True)[1].dtype == jnp.int64


# -- adaptive ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "shape", "size"),
    [
        (1, (2, 3, 8), 3),
        (1, (3, 8), (4,)),
        (2, (2, 3, 7, 7), 1),
        (2, (2, 3, 8, 6), (3, 2)),
        (2, (2, 3, 8, 6), (None, 4)),
        (2, (3, 5, 6), [7, None]),
        (2, (2, 3, 3, 2), (5, 8)),
        (2, (0, 3, 4, 5), 2),
        (3, (2, 2, 5, 6, 4), (2, None, 3)),
        (3, (2, 5, 6, 4), 2),
    ],
)
def test_adaptive(n, shape, size):
    assert_parity(*both(f"adaptive_avg_pool{n}d", size), normal(*shape))


def test_adaptive_without_windows():
    assert assert_same_outcome(*both("adaptive_avg_pool2d", (0, 2)), normal(2, 3, 4, 5))


@settings(max_examples=8, deadline=None, derandomize=True)
@given(st.integers(1, 30), st.integers(1, 30))
def test_adaptive_windows(length, count):
    assert_same_outcome(*both("adaptive_avg_pool1d", count), normal(1, 2, length))


def test_adaptive_windows_do_not_share_nan_and_infinity():
    x = normal(1, 1, 7).at[0, 0, 3].set(INF).at[0, 0, 6].set(NAN)
    assert_parity(*both("adaptive_avg_pool1d", 4), x, gradients=[])


@pytest.mark.parametrize("size", [None, (3,), (1, 2, 3), (), -1, (2, -1), 2.0, True, (2.0, 1), "2"])
def test_adaptive_refuses_sizes(size):
    x = normal(2, 3, 4, 5)
    assert_same_error(lambda: ours.adaptive_avg_pool2d(x, size), lambda: F.adaptive_avg_pool2d(torch.zeros(2, 3, 4, 5), size))


@pytest.mark.parametrize("size", [None, (None,), (3, 2), (), -1])
def test_adaptive_1d_refuses_sizes(size):
    x = normal(2, 3, 4)
    assert_same_error(lambda: ours.adaptive_avg_pool1d(x, size), lambda: F.adaptive_avg_pool1d(torch.zeros(2, 3, 4), size))


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("shape", ["", "NCLLLL", "0L", "N0", "C0"])
def test_adaptive_refuses_shapes(n, shape):
    sizes = {"": (3,) * n, "NCLLLL": (1,) * (n + 3), "0L": (2, 0, *[3] * n), "N0": (2, 3, *[0] * n), "C0": (0, *[3] * n)}[shape]
    assert_same_outcome(*both(f"adaptive_avg_pool{n}d", 2), jnp.zeros(sizes))


# -- orders, transforms, dtypes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("max_pool2d", {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}),
        ("avg_pool2d", {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True, "count_include_pad": False}),
        ("adaptive_avg_pool2d", {"output_size": (3, 2)}),
    ],
)
def test_derivatives_of_every_order_and_vmap(name, options):
    f = both(name, **options)[0]
    with jax.enable_x64(True):
        assert_derivatives(lambda x: jnp.sin(f(x)), normal(2, 5, 6, dtype="float64"))
    xs = normal(3, 2, 5, 6)
    np.testing.assert_allclose(jax.vmap(f)(xs), f(xs), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
@pytest.mark.parametrize("name", ["max_pool2d", "avg_pool2d", "adaptive_avg_pool2d"])
def test_dtypes(name, dtype):
    with jax.enable_x64(dtype == "float64"):
        assert_parity(*both(name, 3), normal(2, 2, 7, 6, dtype=dtype))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
def test_max_of_integers(dtype):
    x = integers(2, 2, 5, 5, low=0, dtype=dtype)
    assert assert_same_outcome(*both("max_pool2d", 2, padding=1, return_indices=True), x)
    assert assert_same_outcome(*both("max_pool3d", 2, padding=1), x[None])
    lowest = jnp.full((1, 4, 4), jnp.iinfo(dtype).min, dtype)
    assert assert_same_outcome(*both("max_pool2d", 2, padding=1, return_indices=True), lowest)


def test_mean_of_int64_is_truncated():
    with jax.enable_x64(True):
        x = integers(2, 2, 5, 5, low=-9, high=9, dtype="int64")
        assert assert_same_outcome(*both("avg_pool2d", 2, padding=1), x)


def test_bfloat16_is_summed_in_float32():
    x = jnp.ones((1, 1, 32, 32), "bfloat16")
    assert ours.avg_pool2d(x, 32).item() == ours.adaptive_avg_pool2d(x, 1).item() == 1


@pytest.mark.parametrize("name", ["max_pool1d", "max_pool2d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool2d"])
def test_dtypes_refused(name):
    for dtype in ("bool", "complex64", "int8"):
        taken = assert_same_outcome(*both(name, 2), jnp.zeros((2, 2, *[4] * int(name[-2])), dtype))
        assert taken == ((name, dtype) == ("max_pool2d", "int8"))


# -- refusals -----------------------------------------------------------------------------------------------------------------

SIZES = {
    "kernel, 3 numbers": {"kernel_size": (2, 2, 2)},
    "kernel, no number": {"kernel_size": ()},
    "kernel None": {"kernel_size": None},
    "kernel 0": {"kernel_size": 0},
    "kernel negative": {"kernel_size": -1},
    "kernel float": {"kernel_size": 2.0},
    "kernel bool": {"kernel_size": True},
    "kernel too large": {"kernel_size": 9},
    "stride, 3 numbers": {"kernel_size": 2, "stride": (1, 1, 1)},
    "stride 0": {"kernel_size": 2, "stride": 0},
    "stride negative": {"kernel_size": 2, "stride": (1, -1)},
    "stride float": {"kernel_size": 2, "stride": 1.5},
    "padding more than half": {"kernel_size": 3, "padding": 2},
    "padding negative": {"kernel_size": 2, "padding": -1},
    "padding, 3 numbers": {"kernel_size": 2, "padding": (1, 1, 1)},
    "padding string": {"kernel_size": 2, "padding": "same"},
}


@pytest.mark.parametrize("name", ["max_pool2d", "avg_pool2d"])
@pytest.mark.parametrize("case", SIZES)
def test_sizes_refused(name, case):
    x, options = jnp.zeros((2, 4, 8, 8)), SIZES[case]
    assert_same_error(lambda: both(name, **options)[0](x), lambda: both(name, **options)[1](torch.zeros(2, 4, 8, 8)))


@pytest.mark.parametrize("dilation", [0, -1, (2, 1, 1), 8, 1.0])
def test_dilations_refused(dilation):
    f, g = both("max_pool2d", 2, dilation=dilation)
    assert_same_error(lambda: f(jnp.zeros((2, 4, 8, 8))), lambda: g(torch.zeros(2, 4, 8, 8)))


@pytest.mark.parametrize("divisor", [0, 2.0, True])
def test_divisors_refused(divisor):
    f, g = both("avg_pool2d", 2, divisor_override=divisor)
    assert_same_error(lambda: f(jnp.zeros((2, 4, 8, 8))), lambda: g(torch.zeros(2, 4, 8, 8)))


def test_avg_pool3d_wants_an_input_as_large_as_a_window():
    assert not assert_same_outcome(*both("avg_pool3d", 4, 1, 2), jnp.zeros((1, 1, 3, 4, 4)))


@pytest.mark.parametrize("name", ["max_pool1d", "avg_pool1d", "max_pool2d", "avg_pool2d", "max_pool3d", "avg_pool3d"])
def test_shapes_refused(name):
    n = int(name[-2])
    for shape in ((1, 2, 3, *[4] * n), (2, 0, *[4] * n), (2, 4, *[0] * n), (0, *[4] * n)):
        assert not assert_same_outcome(*both(name, 2), jnp.zeros(shape))
    with pytest.raises(RuntimeError, match="dimensions"):  # torch's average raises IndexError
        getattr(ours, name)(jnp.zeros((4,) * n), 2)


def test_numpy_arrays_are_taken_and_tensors_refused():
    x = np.arange(16.0, dtype=np.float32).reshape(1, 4, 4)
    assert ours.max_pool2d(x, 2).shape == ours.avg_pool2d(x, 2).shape == ours.adaptive_avg_pool2d(x, 2).shape == (1, 2, 2)
    with pytest.raises(TypeError, match=r"torch\.Tensor"):
        ours.max_pool2d(torch.tensor(x), 2)
    assert to_jax(F.max_pool2d(torch.tensor(x), 2)).tolist() == ours.max_pool2d(x, 2).tolist()
