"""Rectifiers, clipping, shrinking, the newer smooth activations, and the in-place spellings, against torch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

import objnet.nn.functional as ours  # noqa: E402
from objnet.core import rng  # noqa: E402
from objnet.core.variable import Buffer, Parameter  # noqa: E402
from tests.nn.functional.outcome import normal  # noqa: E402
from tests.nn.parity import assert_close, assert_derivatives, assert_parity, assert_same_error, to_torch  # noqa: E402

F = torch.nn.functional
INF, NAN = float("inf"), float("nan")
POINTWISE = {
    "celu": (0.7,),
    "hardshrink": (0.5,),
    "hardsigmoid": (),
    "hardswish": (),
    "mish": (),
    "rrelu": (0.2, 0.4),
    "selu": (),
    "softshrink": (0.5,),
    "softsign": (),
    "tanhshrink": (),
    "threshold": (0.5, -2.0),
}
INPLACE = {
    "relu_": (),
    "elu_": (0.3,),
    "celu_": (0.3,),
    "selu_": (),
    "leaky_relu_": (0.3,),
    "hardtanh_": (-0.2, 0.7),
    "rrelu_": (0.3, 0.3, True),
    "threshold_": (0.1, 3.0),
}


def both(name, *arguments):
    return lambda x: getattr(ours, name)(x, *arguments), lambda x: getattr(F, name)(x, *arguments)


@pytest.mark.parametrize("name", POINTWISE)
def test_values_and_gradients(name):
    kinks = [-30.0, -3.0, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 3.0, 30.0, 100.0, -100.0]
    for dtype in ("float32", "bfloat16"):
        x = jnp.concatenate([3 * normal(12), jnp.asarray(kinks)]).astype(dtype)
        assert_parity(*both(name, *POINTWISE[name]), x)
    assert_parity(*both(name, *POINTWISE[name]), jnp.asarray([INF, -INF, NAN]), gradients=[])


@pytest.mark.parametrize("name", ["celu", "hardswish", "mish"])
def test_derivatives(name):
    with jax.enable_x64(True):  # no element is near a kink
        assert_derivatives(both(name, *POINTWISE[name])[0], 1.5 * normal(2, 4, dtype="float64"))


@pytest.mark.parametrize("name", POINTWISE)
def test_other_dtypes(name):
    mine, theirs = both(name, *POINTWISE[name])
    for dtype in ("int32", "uint8", "bool", "complex64"):
        if (name, dtype) == ("threshold", "uint8"):
            continue
        x = jnp.asarray([0, 1, 1, 0], dtype)
        try:
            expected = theirs(to_torch(x))
        except Exception:
            assert_same_error(lambda: mine(x), lambda: theirs(to_torch(x)))
        else:
            assert_close(mine(x), expected.int() if expected.dtype == torch.int64 else expected, rtol=1e-5)


def test_silu_of_complex_numbers():
    x = jnp.asarray([1 + 2j, -0.5j, 0])
    assert_close(ours.silu(x), F.silu(to_torch(x)), rtol=1e-6)


@settings(max_examples=3, deadline=None)
@given(st.sampled_from([0.3, 1.0, 2.5, -1.0]), st.sampled_from([0.0, 0.25, 1.0]), st.sampled_from([-1.0, 0.0, 0.5]))
def test_options(alpha, lambd, limit):
    x = jnp.concatenate([normal(8), jnp.asarray([-1.0, -0.25, 0.0, 0.25, 0.5, 1.0])])
    assert_parity(*both("celu", alpha), x)
    assert_parity(*both("hardshrink", lambd), x)
    assert_parity(*both("softshrink", lambd), x)
    assert_parity(*both("threshold", limit, alpha), x)


def test_integers_truncate_threshold_and_value():
    x = jnp.arange(-3, 4)
    assert_close(ours.threshold(x, -1.7, 7.9), F.threshold(to_torch(x), -1.7, 7.9).int())
    for arguments in [(300, 1), (1, -300.0), (1, INF)]:
        x = jnp.asarray([1, 2], jnp.int8)
        assert_same_error(lambda: ours.threshold(x, *arguments), lambda: F.threshold(to_torch(x), *arguments))
    x = jnp.asarray([1, 2], jnp.uint8)
    assert_same_error(lambda: ours.hardtanh(x, -1, 1), lambda: F.hardtanh(to_torch(x), -1, 1))
    assert_same_error(lambda: ours.hardtanh(x, 0, INF), lambda: F.hardtanh(to_torch(x), 0, INF))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("celu", (0.0,)),
        ("softshrink", (-0.1,)),
        ("softshrink", (NAN,)),
        ("softshrink", (1e39,)),
        ("rrelu", (0.5, 0.2)),
        ("rrelu", (0.5, 0.2, True)),
        ("rrelu", (0.1, INF, True)),
    ],
)
def test_refusals(name, arguments):
    assert_same_error(lambda: both(name, *arguments)[0](normal(3)), lambda: both(name, *arguments)[1](torch.randn(3)))


# -- prelu -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "weight"),
    [((), ()), ((), (1,)), ((4,), (1,)), ((2, 3), (3,)), ((2, 3, 4), ()), ((2, 3, 2, 2), (3,)), ((0, 3), (3,))],
)
def test_prelu(shape, weight):
    assert_parity(ours.prelu, F.prelu, normal(*shape), normal(*weight, seed=1))


def test_prelu_at_the_edges():
    x = jnp.asarray([[0.0, -0.0, -1.0, INF, -INF, NAN]])
    assert_parity(ours.prelu, F.prelu, x, jnp.full(6, 0.5))
    with jax.enable_x64(True):
        assert_derivatives(ours.prelu, normal(2, 3, dtype="float64"), normal(3, dtype="float64", seed=1))


@pytest.mark.parametrize(
    ("shape", "weight", "dtypes"),
    [
        ((), (3,), ("float32", "float32")),
        ((3,), (3,), ("float32", "float32")),
        ((2, 3), (2,), ("float32", "float32")),
        ((2, 3), (1, 3), ("float32", "float32")),
        ((2, 3), (3,), ("bfloat16", "float32")),
        ((2, 3), (3,), ("int32", "int32")),
    ],
)
def test_prelu_refusals(shape, weight, dtypes):
    arrays = jnp.ones(shape, dtypes[0]), jnp.ones(weight, dtypes[1])
    assert_same_error(lambda: ours.prelu(*arrays), lambda: F.prelu(*map(to_torch, arrays)))


# -- rrelu -------------------------------------------------------------------------------------------------------------


def test_rrelu_draws_slopes():
    rng.manual_seed(0)
    x = jnp.concatenate([-jnp.ones(4000), jnp.ones(10), jnp.zeros(2)])
    first, second = (np.asarray(ours.rrelu(x, 0.2, 0.4, True)) for _ in range(2))
    slopes = -first[:4000]
    assert slopes.min() >= 0.2 and slopes.max() <= 0.4 and abs(slopes.mean() - 0.3) < 0.005 and abs(slopes.std() - 0.0577) < 0.002
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first[4000:], x[4000:])
    assert ours.rrelu(x.astype(jnp.bfloat16), 0.2, 0.4, True).dtype == jnp.bfloat16


def test_rrelu_draws_nothing_when_there_is_nothing_to_decide():
    before = rng.get_rng_state()["key"]
    ours.rrelu(normal(3), 0.2, 0.4)
    ours.rrelu(normal(3), 0.2, 0.2, True)
    np.testing.assert_array_equal(rng.get_rng_state()["key"], before)


# -- in place ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", INPLACE)
def test_in_place(name):
    arguments, x = INPLACE[name], normal(6)
    expected = getattr(F, name)(to_torch(x), *arguments)
    for cell in (Buffer(x), Parameter(x), Parameter(x).data):
        assert getattr(ours, name)(cell, *arguments) is cell
        assert_close(jnp.asarray(cell._read()), expected)
    before = np.array(x)
    assert_close(getattr(ours, name)(x, *arguments), expected)
    np.testing.assert_array_equal(x, before)
    plain = getattr(ours, name[:-1])
    cell = Buffer(x)
    assert plain(cell, *arguments, inplace=True) is cell
    assert_close(cell.value, expected)
    cell = Buffer(x)
    assert isinstance(plain(cell, *arguments), jax.Array)
    np.testing.assert_array_equal(cell.value, x)


@pytest.mark.parametrize("name", ["relu6", "hardsigmoid", "hardswish", "mish", "silu"])
def test_inplace_option(name):
    cell = Buffer(normal(6))
    expected = getattr(ours, name)(cell)
    assert getattr(ours, name)(cell, inplace=True) is cell
    np.testing.assert_array_equal(cell.value, expected)


def test_in_place_on_a_part():
    weight = Parameter(jnp.asarray([[-1.0, 1.0], [-2.0, 2.0]]))
    ours.relu_(weight[0])
    np.testing.assert_array_equal(weight.value, [[0, 1], [-2, 2]])
