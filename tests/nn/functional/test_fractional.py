"""Fractional max pooling against torch: the same samples give the same windows, to the bit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

import objnet  # noqa: E402
from objnet.nn import functional as ours  # noqa: E402
from tests.nn.functional.outcome import assert_same_outcome, integers, normal  # noqa: E402
from tests.nn.parity import assert_parity, assert_same_error, to_torch  # noqa: E402

F = torch.nn.functional


def both(n, *arguments, **options):
    def call(m):
        return lambda x, samples: getattr(m, f"fractional_max_pool{n}d")(x, *arguments, _random_samples=samples, **options)

    return call(ours), call(F)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(st.data())
def test_windows_are_torchs(data):
    n = data.draw(st.sampled_from([2, 2, 3]))
    lengths = [data.draw(st.integers(4, 12)) for _ in range(n)]
    kernel = tuple(data.draw(st.integers(1, 3)) for _ in range(n))
    counts = tuple(data.draw(st.integers(0, length - k)) for length, k in zip(lengths, kernel))
    dtype = data.draw(st.sampled_from(["float32", "bfloat16", "float16"]))
    samples = jnp.asarray(np.random.RandomState(data.draw(st.integers(0, 9))).rand(2, 2, n)).astype(dtype)
    x = integers(2, 2, *lengths, dtype=dtype)
    assert_same_outcome(*both(n, kernel, counts, return_indices=True), x, jnp.minimum(samples, 0.99).astype(dtype))


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 3])
def test_gradients_at_ties_and_nan(n):
    x = integers(2, 2, *[7] * n, low=0, high=2).at[0, 0, 3].set(jnp.nan)
    samples = jnp.asarray(np.random.RandomState(0).rand(2, 2, n), jnp.float32)
    assert_parity(*both(n, 2, 4), x, samples, gradients=[0])
    assert_parity(*both(n, 2, output_ratio=(0.5,) * n), x[0], samples, gradients=[0])


@pytest.mark.parametrize("n", [2, 3])
def test_samples_drawn_are_torchs(n):
    x = normal(2, 3, *[6] * n)
    objnet.manual_seed(3)
    torch.manual_seed(3)
    result = getattr(ours, f"fractional_max_pool{n}d_with_indices")(x, 2, 3)
    expected = getattr(F, f"fractional_max_pool{n}d_with_indices")(to_torch(x), 2, 3)
    for array, tensor in zip(result, expected):
        np.testing.assert_array_equal(array, tensor)


def test_float64_and_vmap():
    with jax.enable_x64(True):
        samples = jnp.asarray(np.random.RandomState(0).rand(1, 2, 2))
        assert_parity(*both(2, 2, 4), normal(1, 2, 9, 8, dtype="float64"), samples, gradients=[0])
    f = both(2, 2, 3)[0]
    xs, samples = normal(2, 1, 2, 7, 7), jnp.asarray(np.random.RandomState(0).rand(2, 1, 2, 2), jnp.float32)
    np.testing.assert_array_equal(jax.vmap(f)(xs, samples), jnp.stack([f(*pair) for pair in zip(xs, samples)]))


@pytest.mark.parametrize(
    ("n", "options"),
    [
        (2, {}),
        (2, {"output_ratio": 0.5}),
        (2, {"output_ratio": (0.5,)}),
        (2, {"output_ratio": (0.5,) * 3}),
        (2, {"output_size": (3,)}),
        (2, {"output_size": -1}),
        (2, {"output_size": 2.0}),
        (2, {"output_size": True}),
        (2, {"output_size": 8}),
        (3, {"output_size": 7}),
        (3, {"output_ratio": 1.5}),
        (3, {"output_ratio": (0.5,)}),
    ],
)
def test_sizes_refused(n, options):
    x = jnp.ones((2, 3, *[8] * n))
    f, g = (getattr(m, f"fractional_max_pool{n}d") for m in (ours, F))
    assert_same_error(lambda: f(x, 2, **options), lambda: g(to_torch(x), 2, **options))


@pytest.mark.parametrize("kernel", [9, (2,), (2, 2, 2), 2.0, True])
def test_kernels_refused(kernel):
    x = jnp.ones((2, 3, 8, 8))
    assert_same_error(lambda: ours.fractional_max_pool2d(x, kernel, 1), lambda: F.fractional_max_pool2d(to_torch(x), kernel, 1))
    with pytest.raises(RuntimeError, match="at least 1"):  # torch gives minus infinity
        ours.fractional_max_pool2d(x, 0, 1)


@pytest.mark.parametrize("shape", [(2, 3), (1, 3, 2), (2, 3, 3), (2, 4, 2), (3, 3, 2)])
def test_samples_refused(shape):
    assert_same_outcome(*both(2, 2, 3), normal(2, 3, 8, 8), jnp.full(shape, 0.5))


def test_shapes_and_dtypes():
    samples = jnp.full((2, 3, 2), 0.5)
    for shape in ((8, 8), (0, 8, 8), (2, 3, 0, 8), (2, 0, 8, 8), (1, 1, 1, 1, 1)):
        fs = [lambda x, m=m: m.fractional_max_pool2d(x, 2, 3) for m in (ours, F)]
        objnet.manual_seed(0)
        torch.manual_seed(0)
        try:
            expected = fs[1](torch.zeros(shape)).shape
        except Exception as error:
            with pytest.raises(type(error)):
                fs[0](jnp.zeros(shape))
        else:
            assert fs[0](jnp.zeros(shape)).shape == expected
    for dtype in ("int32", "bool", "complex64"):
        assert not assert_same_outcome(*both(2, 2, 3), jnp.ones((2, 3, 8, 8), dtype), samples)
        assert not assert_same_outcome(*both(2, 2, 3), jnp.ones((2, 3, 8, 8), dtype), samples.astype(dtype))
    assert not assert_same_outcome(*both(2, 2, 3), jnp.ones((2, 3, 8, 8), "float16"), samples)
