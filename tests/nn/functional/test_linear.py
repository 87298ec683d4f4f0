"""``F.linear`` against torch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from objnet.nn.functional.linear import bilinear, linear  # noqa: E402
from tests.nn.parity import assert_parity, assert_same_error, to_torch  # noqa: E402

F = torch.nn.functional


def normal(*shape, dtype="float32", seed=0):
    return jnp.asarray(np.random.RandomState(seed).randn(*shape)).astype(dtype)


@settings(max_examples=13, deadline=None)
@given(
    lead=st.lists(st.integers(0, 3), max_size=3),
    inputs=st.integers(1, 5),
    outputs=st.integers(1, 5),
    bias=st.sampled_from([None, "out", "scalar", "one", "full"]),
    dtype=st.sampled_from(["float32", "bfloat16", "float16"]),
)
def test_result_and_gradients(lead, inputs, outputs, bias, dtype):
    shapes = {"out": (outputs,), "scalar": (), "one": (1,), "full": (*lead, outputs)}
    if bias == "full" and 0 in lead:
        bias = "out"  # torch refuses to expand the other for an empty input
    arrays = [normal(*lead, inputs, dtype=dtype), normal(outputs, inputs, dtype=dtype, seed=1)]
    if bias:
        arrays.append(normal(*shapes[bias], dtype=dtype, seed=2))
    assert_parity(linear, F.linear, *arrays)


def test_float64():
    with jax.enable_x64(True):
        assert_parity(linear, F.linear, normal(2, 3, dtype="float64"), normal(4, 3, dtype="float64"))


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 4, 3)])
def test_one_dimensional_weight(shape):
    assert_parity(linear, F.linear, normal(*shape), normal(3, seed=1))


def test_integers_wrap_like_torch():
    x, w = jnp.ones((2, 300), jnp.int8), jnp.ones((5, 300), jnp.int8)
    assert_parity(linear, F.linear, x, w)


def test_takes_numpy_arrays():
    x, w = np.ones((2, 3), np.float32), np.full((4, 3), 2.0, np.float32)
    np.testing.assert_array_equal(linear(x, w), np.full((2, 4), 6.0))


def test_large_products_keep_float32():
    x, w = normal(64, 512), normal(64, 512, seed=1)
    exact = np.asarray(x, np.float64) @ np.asarray(w, np.float64).T
    np.testing.assert_allclose(jax.jit(linear)(x, w), exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("input", "weight", "bias"),
    [
        ((), (5, 3), None),
        ((3,), (), None),
        ((2, 3), (4, 5, 3), None),
        ((2, 4), (5, 3), None),
        ((2, 3), (3,), (1,)),
        ((2, 3), (5, 3), (4,)),
        ((2, 3), (1, 3), (5,)),
        ((1, 3), (5, 3), (4, 5)),
        ((2, 3), (5, 3), (1, 1, 5)),
    ],
)
def test_shapes_refused(input, weight, bias):
    arrays = [normal(*shape) for shape in (input, weight, bias) if shape is not None]
    assert_same_error(lambda: linear(*arrays), lambda: F.linear(*map(to_torch, arrays)))


@pytest.mark.parametrize(
    "dtypes",
    [
        ("float32", "bfloat16", "float32"),
        ("float32", "float32", "float16"),
        ("int32", "float32", "float32"),
        ("bool",) * 3,
    ],
)
def test_dtypes_refused(dtypes):
    arrays = [jnp.ones(shape, dtype) for shape, dtype in zip([(2, 3), (5, 3), (5,)], dtypes)]
    assert_same_error(lambda: linear(*arrays), lambda: F.linear(*map(to_torch, arrays)))


@pytest.mark.parametrize(("input", "bias"), [((3,), (1, 4)), ((3,), (2, 4)), ((2, 3), (1, 4)), ((2, 1, 3), (2, 4))])
def test_biases_of_two_dimensions(input, bias):
    arrays = [normal(*input), normal(4, 3, seed=1), normal(*bias, seed=2)]
    try:
        F.linear(*map(to_torch, arrays))
    except RuntimeError:
        assert_same_error(lambda: linear(*arrays), lambda: F.linear(*map(to_torch, arrays)))
    else:
        assert_parity(linear, F.linear, *arrays)


@pytest.mark.parametrize("bias", [None, (6,), (6, 1, 1, 1)])
@pytest.mark.parametrize(("lead", "sizes"), [((), (4, 3)), ((2, 1), (3, 4)), ((0,), (2, 2))])
def test_bilinear(lead, sizes, bias):
    first, second = sizes
    arrays = [normal(*lead, first), normal(*lead, second, seed=1), normal(6, first, second, seed=2)]
    arrays += [] if bias is None or 0 in lead else [normal(*bias, seed=3)]
    assert_parity(bilinear, F.bilinear, *arrays)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_bilinear_in_half_precision(dtype):
    arrays = [normal(5, 4, dtype=dtype), normal(5, 3, seed=1, dtype=dtype), normal(2, 4, 3, seed=2, dtype=dtype)]
    assert_parity(bilinear, F.bilinear, *arrays, normal(2, dtype=dtype), rtol=2e-2, atol=6e-2 if dtype == "bfloat16" else 1e-2)


@pytest.mark.parametrize(
    ("shapes", "dtypes"),
    [
        (((2, 4), (3, 5), (6, 4, 5)), "fff"),
        (((4,), (1, 5), (6, 4, 5)), "fff"),
        (((), (), (6, 4, 5)), "fff"),
        (((), (5,), (6, 4, 5)), "fff"),
        (((2, 4), (2, 5), (6, 5, 4)), "fff"),
        (((2, 4), (2, 5), (4, 5)), "fff"),
        (((2, 4), (2, 5), (6, 4)), "fff"),
        (((2, 4), (2, 5), (4,)), "fff"),
        (((2, 0), (2, 5), (6, 0, 5)), "fff"),
        (((2, 4), (2, 5), (6, 4, 5), (5,)), "ffff"),
        (((2, 4), (2, 5), (6, 4, 5), (1,)), "ffff"),
        (((2, 4), (2, 5), (6, 4, 5), ()), "ffff"),
        (((3, 2, 4), (3, 2, 5), (6, 4, 5), (6, 6)), "ffff"),
        (((2, 4), (2, 5), (6, 4, 5)), "fhf"),
        (((2, 4), (2, 5), (6, 4, 5), (6,)), "fffh"),
        (((2, 4), (2, 5), (6, 4, 5)), "bbb"),
    ],
)
def test_bilinear_refuses(shapes, dtypes):
    names = {"f": "float32", "h": "float16", "b": "bool"}
    arrays = [jnp.ones(shape, names[dtype]) for shape, dtype in zip(shapes, dtypes)]
    assert_same_error(lambda: bilinear(*arrays), lambda: F.bilinear(*map(to_torch, arrays)))
