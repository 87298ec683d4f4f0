"""Max unpooling against torch: what pooling gives, any indices, output sizes, refusals."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from objnet.nn import functional as ours  # noqa: E402
from tests.nn.functional.outcome import assert_same_outcome, normal  # noqa: E402
from tests.nn.parity import assert_derivatives, assert_parity, assert_same_error, to_torch  # noqa: E402

F = torch.nn.functional


def both(n, *arguments, **options):
    return tuple(lambda x, i, m=m: getattr(m, f"max_unpool{n}d")(x, i, *arguments, **options) for m in (ours, F))


@pytest.mark.parametrize(
    ("n", "shape", "pooling", "options"),
    [
        (1, (2, 3, 7), {"kernel_size": 3, "stride": 2, "padding": 1}, {}),
        (2, (3, 6, 8), {"kernel_size": 2}, {}),
        (2, (2, 3, 7, 5), {"kernel_size": 2}, {"output_size": (7, 5)}),
        (2, (2, 3, 7, 5), {"kernel_size": (3, 2), "stride": 2}, {"output_size": (2, 3, 7, 5)}),
        (3, (1, 2, 4, 6, 4), {"kernel_size": 2}, {}),
    ],
)
def test_pooled(n, shape, pooling, options):
    x, indices = getattr(ours, f"max_pool{n}d")(normal(*shape), return_indices=True, **pooling)
    assert_parity(*both(n, **pooling, **options), x, indices)


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_an_index_that_occurs_twice(one_thread):
    # the last element stays, and all of them get the gradient; torch's threads would race
    indices = jnp.array([[[0, 5, 5, 0]]])
    assert_parity(*both(1, 2), normal(1, 1, 4), indices)
    x = jnp.array([[[jnp.inf, 1.0, jnp.nan, 2.0]]])
    assert jax.grad(lambda x: jnp.sum(ours.max_unpool1d(x, indices, 2)))(x).tolist() == [[[1, 1, 1, 1]]]


@settings(max_examples=13, deadline=None, derandomize=True)
@given(st.data())
def test_outcome_for_any_arguments(data):
    n = data.draw(st.sampled_from([1, 2, 2, 3]))
    shape = (
        *data.draw(st.sampled_from([(), (2,), (0,)])),
        data.draw(st.sampled_from([2, 0])),
        *[data.draw(st.integers(0, 3)) for _ in range(n)],
    )
    spread = lambda values: data.draw(st.one_of(values, st.tuples(*[values] * n)))
    kernel, stride = spread(st.integers(1, 3)), data.draw(st.none() | st.integers(1, 3))
    output = data.draw(st.none() | st.lists(st.integers(0, 6), min_size=n, max_size=n + 2).map(tuple))
    x, indices = normal(*shape), jnp.zeros(shape, jnp.int32)
    assert_same_outcome(*both(n, kernel, stride, spread(st.integers(0, 1)), output), x, indices)


@pytest.mark.parametrize("index", [36, -1, 10**6])
def test_indices_outside(index):
    x, indices = jnp.ones((1, 2, 3, 3)), jnp.zeros((1, 2, 3, 3), jnp.int32).at[0, 1, 2, 0].set(index)
    f, g = both(2, 2)
    assert_same_error(lambda: f(x, indices), lambda: g(to_torch(x), to_torch(indices)), match="outside")
    compiled = jax.jit(f)(x, indices)
    assert np.isnan(compiled[0, 1]).all() and compiled[0, 0, 0, 0] == 1


def test_derivatives_of_every_order_and_vmap():
    indices = jnp.array([[[4, 0, 2]]])
    f = lambda x: both(1, 2)[0](x, indices)
    with jax.enable_x64(True):
        assert_derivatives(lambda x: jnp.sin(f(x)), normal(1, 1, 3, dtype="float64"))
    xs = normal(2, 1, 1, 3)
    np.testing.assert_array_equal(jax.vmap(f)(xs), jnp.stack([f(x) for x in xs]))


@pytest.mark.parametrize(
    "arguments",
    [
        (0.5,),
        (2.0,),
        ("2",),
        ((2,),),
        ((2, 2, 2),),
        (-1,),
        (2, ()),
        (2, 2, 0.5),
        (2, 2, 0, (6, 9)),
        (2, 2, 0, (6,)),
        (2, 2, 0, 6),
        (2, 2, 0, (6.0, 6.0)),
    ],
)
def test_sizes_refused(arguments):
    x, indices = jnp.ones((1, 2, 3, 3)), jnp.zeros((1, 2, 3, 3), jnp.int32)
    f, g = both(2, *arguments)
    assert_same_error(lambda: f(x, indices), lambda: g(to_torch(x), to_torch(indices)))


def test_dtypes():
    indices = jnp.zeros((1, 2, 2), jnp.int32)
    for dtype in ("float16", "bfloat16", "int32", "bool", "complex64"):
        assert_same_outcome(*both(1, 2), jnp.ones((1, 2, 2), dtype), indices)
    for wrong in (indices.astype("float32"), indices[:, :1]):
        assert not assert_same_outcome(*both(1, 2), jnp.ones((1, 2, 2)), wrong)
    assert_same_error(
        lambda: ours.max_unpool3d(jnp.ones((1, 1, 1, 1)), jnp.zeros((1, 1, 1, 1), int), 1, 0),
        lambda: F.max_unpool3d(torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1, dtype=torch.int64), 1, 0),
    )
