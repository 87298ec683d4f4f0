"""Activations against torch: values, gradients at kinks and far out, dtypes, refusals; derivatives of every order."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

import objnet.nn.functional as ours  # noqa: E402
from tests.nn.parity import assert_close, assert_derivatives, assert_parity, assert_same_error, to_torch  # noqa: E402

F = torch.nn.functional
INF, NAN = float("inf"), float("nan")
FLOATS = ["float32", "bfloat16", "float16"]
POINTWISE = [
    "elu",
    "gelu",
    "hardtanh",
    "leaky_relu",
    "logsigmoid",
    "relu",
    "relu6",
    "sigmoid",
    "silu",
    "softplus",
    "tanh",
]
INPLACE = ["elu", "hardtanh", "leaky_relu", "relu", "relu6", "silu"]
HALVING = ["glu"]
ALONG = ["softmax", "log_softmax"]


def normal(*shape, dtype="float32", seed=0, scale=3.0):
    return jnp.asarray(scale * np.random.RandomState(seed).randn(*shape)).astype(dtype)


def both(name, **options):
    return lambda x: getattr(ours, name)(x, **options), lambda x: getattr(F, name)(x, **options)


@pytest.mark.parametrize("name", POINTWISE)
@pytest.mark.parametrize("dtype", FLOATS)
def test_values_and_gradients(name, dtype):
    kinks = [-6.0, -1.0, -0.0, 0.0, 1.0, 6.0, 30.0, -30.0]
    x = jnp.concatenate([normal(40, dtype=dtype), jnp.asarray(kinks, dtype)]).reshape(6, 8)
    assert_parity(*both(name), x)


@pytest.mark.parametrize("name", POINTWISE)
def test_not_finite(name):
    # at infinity torch's gelu and silu have NaN slopes, and NaN values where the limit is 0
    x = jnp.asarray([NAN] if name in ("gelu", "silu") else [NAN, INF, -INF])
    assert_parity(*both(name), x)


@pytest.mark.parametrize("name", POINTWISE + HALVING + ALONG)
def test_float64_empty_and_scalar(name):
    options = {"dim": 0} if name in ALONG else {}
    with jax.enable_x64(True):
        assert_parity(*both(name, **options), normal(4, dtype="float64"))
    assert_parity(*both(name, **options), jnp.zeros((0, 4)))
    if name not in HALVING:
        assert_parity(*both(name, **options), jnp.asarray(0.7))


@settings(max_examples=6, deadline=None)
@given(slope=st.sampled_from([0.0, 0.01, 0.5, 2.0, -0.5]), alpha=st.sampled_from([0.0, 0.3, 1.0, 2.0, -1.0]))
def test_slopes(slope, alpha):
    x = jnp.concatenate([normal(10), jnp.zeros(2)])
    assert_parity(*both("leaky_relu", negative_slope=slope), x)
    assert_parity(*both("elu", alpha=alpha), x)


@settings(max_examples=6, deadline=None)
@given(low=st.sampled_from([-INF, -2.0, 0.0, 0.5]), width=st.sampled_from([0.0, 1.0, INF]), beta=st.sampled_from(
    [0.5, 1, 2.0, -1.0]), threshold=st.sampled_from([-1.0, 1.0, 20]))  # fmt: skip
def test_limits(low, width, beta, threshold):
    x = jnp.concatenate([normal(10), jnp.asarray([-2.0, 0.0, 0.5, 1.0, 1.5])])
    if not np.isnan(low + width):
        assert_parity(*both("hardtanh", min_val=low, max_val=low + width), x)
    assert_parity(*both("softplus", beta=beta, threshold=threshold), x)


@pytest.mark.parametrize("dtype", FLOATS)
def test_gelu_tanh(dtype):
    assert_parity(*both("gelu", approximate="tanh"), normal(50, dtype=dtype))


@pytest.mark.parametrize("name", [n for n in POINTWISE if n not in ("gelu", "logsigmoid", "sigmoid", "tanh")])
def test_positional_arguments(name):
    arguments = {"hardtanh": (-0.5, 0.5), "softplus": (2, 3), "leaky_relu": (0.3,), "elu": (0.3,)}.get(name, ())
    x = normal(10)
    inplace = (True,) if name in INPLACE else ()
    expected = getattr(F, name)(to_torch(x), *arguments, *inplace)
    assert_close(getattr(ours, name)(x, *arguments, *inplace), expected)


@pytest.mark.parametrize("name", INPLACE)
def test_inplace_leaves_the_argument(name):
    x = normal(10)
    before = np.array(x)
    np.testing.assert_array_equal(getattr(ours, name)(x, inplace=True), getattr(ours, name)(x))
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("name", POINTWISE + HALVING + ALONG)
@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool", "complex64"])
def test_other_dtypes(name, dtype):
    x = jnp.asarray([0, 1, 1, 0], dtype)
    options = {"dim": 0} if name in HALVING + ALONG else {}
    mine, theirs = both(name, **options)
    if dtype == "complex64" and name == "silu":
        pytest.skip("torch's silu takes complex numbers, ours refuses them")
    try:
        expected = theirs(to_torch(x))
    except Exception:
        assert_same_error(lambda: mine(x), lambda: theirs(to_torch(x)))
        return
    if dtype == "int32" and expected.dtype == torch.int64:
        expected = expected.int()
    assert_close(mine(x), expected, rtol=1e-6)


def test_integers_truncate_the_limits():
    x = jnp.arange(-4, 5)
    assert_close(ours.hardtanh(x, -1.5, 2.5), F.hardtanh(to_torch(x), -1.5, 2.5).int())


@pytest.mark.parametrize(
    ("name", "options", "shape"),
    [
        ("gelu", {"approximate": "erf"}, (3,)),
        ("hardtanh", {"min_val": 1.0, "max_val": 0.0}, (3,)),
        ("glu", {}, ()),
        ("glu", {}, (3,)),
        ("glu", {"dim": 2}, (2, 4)),
        ("softmax", {"dim": 2}, (2, 3)),
        ("softmax", {"dim": -3}, (2, 3)),
        ("softmax", {"dim": 1.0}, (2, 3)),
        ("log_softmax", {"dim": 1}, ()),
        ("softmax", {"dim": 0, "dtype": "int32"}, (3,)),
    ],
)
def test_refusals(name, options, shape):
    x = normal(*shape)
    theirs = options | ({"dtype": torch.int32} if "dtype" in options else {})
    assert_same_error(lambda: getattr(ours, name)(x, **options), lambda: getattr(F, name)(to_torch(x), **theirs))


def test_gelu_takes_approximate_by_name_only():
    with pytest.raises(TypeError):
        ours.gelu(normal(3), "tanh")


@settings(max_examples=6, deadline=None)
@given(
    name=st.sampled_from(ALONG),
    shape=st.sampled_from([(5,), (2, 3), (2, 0), (2, 4, 3), (2, 1, 3, 2)]),
    dim=st.integers(-4, 3),
    dtype=st.sampled_from(FLOATS),
)
def test_softmax(name, shape, dim, dtype):
    dim = dim % len(shape) - (len(shape) if dim < 0 else 0)
    assert_parity(*both(name, dim=dim), normal(*shape, dtype=dtype))


@pytest.mark.parametrize("name", ALONG)
def test_softmax_far_out(name):
    rows = [[1e4, -1e4, 0.0], [INF, 0.0, 1.0], [-INF, 0.0, 1.0], [-INF, -INF, -INF], [NAN, 0.0, 1.0]]
    assert_parity(*both(name, dim=1), jnp.asarray(rows))


@pytest.mark.parametrize("name", ALONG)
@pytest.mark.parametrize("shape", [(), (4,), (2, 3), (2, 3, 4), (2, 3, 4, 5)])
def test_softmax_without_dim_warns(name, shape):
    x = normal(*shape)
    with pytest.warns(UserWarning, match="pass dim=") as caught:
        result = getattr(ours, name)(x)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_close(result, getattr(F, name)(to_torch(x)))


@pytest.mark.parametrize("name", ALONG)
def test_softmax_casts_first(name):
    x = normal(2, 3, dtype="bfloat16")
    assert_parity(
        lambda x: getattr(ours, name)(x, 1, dtype=jnp.float32), lambda x: getattr(F, name)(x, 1, dtype=torch.float32), x
    )
    assert getattr(ours, name)(jnp.arange(3), 0, dtype="float16").dtype == jnp.float16


@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("dtype", FLOATS)
def test_glu(dim, dtype):
    assert_parity(*both("glu", dim=dim), normal(4, 6, dtype=dtype))


@pytest.mark.parametrize("name", [*POINTWISE, "gelu_tanh", *HALVING, *ALONG])
def test_derivatives_of_second_order_and_forward_mode(name):
    function = {
        "gelu_tanh": lambda x: ours.gelu(x, approximate="tanh"),
        "softmax": lambda x: ours.softmax(x, 1),
        "log_softmax": lambda x: ours.log_softmax(x, 1),
    }.get(name) or getattr(ours, name)
    with jax.enable_x64(True):
        assert_derivatives(function, normal(2, 4, dtype="float64", scale=1.5))  # no element is near a kink


@pytest.mark.parametrize("name", ["gelu", "silu", "logsigmoid"])
def test_the_backward_pass_keeps_one_array(name):
    x = normal(16, 16)
    kept = jax.eval_shape(lambda x: jax.vjp(getattr(ours, name), x)[1], x)
    assert sum(leaf.size for leaf in jax.tree.leaves(kept)) == x.size


@pytest.mark.parametrize("name", POINTWISE)
def test_vmap(name):
    x = normal(3, 4)
    function = getattr(ours, name)
    gradient = jax.grad(lambda x: function(x).sum())
    np.testing.assert_allclose(jax.vmap(gradient)(x), gradient(x), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "arguments"), [("leaky_relu", (0.5,)), ("elu", (0.5,)), ("hardtanh", (-0.5, 0.5)), ("softplus", (0.5, 3))]
)
def test_numpy_numbers_do_not_change_the_dtype(name, arguments):
    x, function = normal(10, dtype="bfloat16"), getattr(ours, name)
    np.testing.assert_array_equal(function(x, *map(np.float32, arguments)), function(x, *arguments))
    assert function(x, *map(np.float32, arguments)).dtype == x.dtype
