"""``F.embedding`` and ``F.one_hot`` against torch, and what compiled code does with indices that do not exist."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from objnet.core.variable import Parameter  # noqa: E402
from objnet.errors import ImmutableArrayError  # noqa: E402
from objnet.nn.functional.sparse import embedding, one_hot, renormalised  # noqa: E402
from tests.nn.parity import assert_close, assert_parity, assert_same_error, to_torch  # noqa: E402

F = torch.nn.functional
ROWS = 6
SHAPES = st.sampled_from([(), (1,), (7,), (0, 2), (3, 4), (2, 1, 3)])
WEIGHT = jnp.asarray(np.random.RandomState(0).randn(ROWS, 3), jnp.float32)


def indices(shape, seed=0, dtype="int32"):
    return jnp.asarray(np.random.RandomState(seed).randint(0, ROWS, shape), dtype)


@settings(max_examples=13, deadline=None)
@given(
    shape=SHAPES,
    padding_idx=st.none() | st.integers(-ROWS, ROWS - 1),
    scale_grad_by_freq=st.booleans(),
    dtype=st.sampled_from(["float32", "bfloat16"]),
)
def test_rows_and_gradients(shape, padding_idx, scale_grad_by_freq, dtype):
    options = {"padding_idx": padding_idx, "scale_grad_by_freq": scale_grad_by_freq}
    assert_parity(
        lambda i, w: embedding(i, w, **options),
        lambda i, w: F.embedding(i, w, **options),
        indices(shape),
        WEIGHT.astype(dtype),
    )


def test_positional_order_is_torchs():
    with pytest.raises(NotImplementedError, match="sparse"):
        embedding(indices(3), WEIGHT, None, None, 2.0, False, True)


def test_integer_weights_and_64_bit_indices():
    table = jnp.arange(12).reshape(ROWS, 2)
    assert_parity(embedding, F.embedding, indices((2, 2)), table)
    with jax.enable_x64(True):
        assert_parity(embedding, F.embedding, indices((2, 2), dtype="int64"), WEIGHT)


def test_gradient_is_a_scatter_add_in_compiled_code():
    # a one-hot product would need rows * indices work
    jaxpr = jax.make_jaxpr(jax.grad(lambda w: embedding(indices(4), w).sum()))(WEIGHT)
    assert "scatter-add" in str(jaxpr) and "dot_general" not in str(jaxpr)


def test_the_padding_row_keeps_a_zero_gradient_whatever_comes_back():
    gradient = jax.vjp(lambda w: embedding(jnp.array([0, 1]), w, padding_idx=0), WEIGHT)[1](jnp.full((2, 3), jnp.nan))[0]
    np.testing.assert_array_equal(gradient[0], 0)
    assert np.isnan(gradient[1]).all()


@pytest.mark.parametrize("wrong", [-1, ROWS, -ROWS - 3, 1000])
def test_indices_that_do_not_exist(wrong):
    bad = jnp.array([0, wrong])
    assert_same_error(lambda: embedding(bad, WEIGHT), lambda: F.embedding(to_torch(bad), to_torch(WEIGHT)), str(wrong))

    def compiled(i, w):
        return embedding(i, w, padding_idx=1, scale_grad_by_freq=True)

    rows = jax.jit(compiled)(bad, WEIGHT)
    np.testing.assert_array_equal(rows[0], WEIGHT[0])
    assert np.isnan(rows[1]).all()
    assert np.isnan(jax.vmap(compiled, (0, None))(bad[:, None], WEIGHT)[1]).all()
    # and no other row is charged with its gradient
    gradient = jax.jit(jax.grad(lambda w, i: compiled(i, w)[:, 0].sum()))(WEIGHT, bad)
    np.testing.assert_array_equal(gradient, np.eye(ROWS, 3) * (np.arange(ROWS) == 0)[:, None])


def test_integer_rows_that_do_not_exist():
    table = jnp.arange(12).reshape(ROWS, 2)
    assert (jax.jit(embedding)(jnp.array([-1]), table) == jnp.iinfo(jnp.int32).min).all()


@pytest.mark.parametrize("dtype", ["int16", "uint8", "bool", "float32"])
def test_index_dtypes_refused(dtype):
    bad = jnp.ones(2, dtype)
    assert_same_error(lambda: embedding(bad, WEIGHT), lambda: F.embedding(to_torch(bad), to_torch(WEIGHT)))


@pytest.mark.parametrize(
    ("weight", "options"),
    [(WEIGHT[0], {}), (WEIGHT[None], {}), (WEIGHT, {"padding_idx": 6}), (WEIGHT, {"padding_idx": -7}),
     (WEIGHT, {"padding_idx": 1.0})],
)  # fmt: skip
def test_arguments_refused(weight, options):
    i = indices(2)
    assert_same_error(lambda: embedding(i, weight, **options), lambda: F.embedding(to_torch(i), to_torch(weight), **options))


@settings(max_examples=6, deadline=None)
@given(
    shape=SHAPES,
    max_norm=st.sampled_from([0.0, 0.3, 1.0, 100.0]),
    norm_type=st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0, float("inf")]),
    dtype=st.sampled_from(["float32", "bfloat16"]),
)
def test_max_norm_writes_the_weight(shape, max_norm, norm_type, dtype):
    i, weight = indices(shape), WEIGHT.astype(dtype)
    parameter, tensor = Parameter(weight), to_torch(weight)
    output = embedding(i, parameter, None, max_norm, norm_type)
    expected = F.embedding(to_torch(i), tensor, None, max_norm, norm_type)
    assert_close(output, expected)
    assert_close(parameter.value, tensor)


def test_max_norm_leaves_the_gradient_alone():
    i = jnp.array([0, 1, 0])
    tensor = to_torch(WEIGHT).requires_grad_(True)
    F.embedding(to_torch(i), tensor, max_norm=0.1).sum().backward()
    gradient = jax.grad(lambda w: embedding(i, renormalised(i, w, 0.1)).sum())(WEIGHT)
    assert_close(gradient, tensor.grad)


def test_max_norm_of_a_bare_array_is_refused():
    with pytest.raises(ImmutableArrayError, match="Parameter"):
        embedding(indices(2), WEIGHT, max_norm=1.0)


def test_max_norm_with_an_index_that_does_not_exist():
    parameter = Parameter(WEIGHT)
    with pytest.raises(IndexError):
        embedding(jnp.array([0, -1]), parameter, max_norm=0.1)
    np.testing.assert_array_equal(parameter.value, WEIGHT)
    written = jax.jit(lambda i, w: renormalised(i, w, 0.1))(jnp.array([0, -1, 99]), WEIGHT)
    np.testing.assert_array_equal(written[1:], WEIGHT[1:])


@settings(max_examples=6, deadline=None)
@given(shape=SHAPES, num_classes=st.integers(6, 8) | st.just(-1))
def test_one_hot(shape, num_classes):
    classes = indices(shape)
    if classes.size == 0:
        num_classes = abs(num_classes)
    codes = one_hot(classes, num_classes)
    assert codes.dtype == jnp.int32
    np.testing.assert_array_equal(codes, F.one_hot(to_torch(classes), num_classes).numpy())
    if num_classes > 0:
        np.testing.assert_array_equal(codes, jax.jit(one_hot, static_argnums=1)(classes, num_classes))


def test_one_hot_has_the_default_integer_dtype():
    with jax.enable_x64(True):
        assert_parity(lambda i: one_hot(i, ROWS), lambda i: F.one_hot(i, ROWS), indices(3, dtype="int64"))


@pytest.mark.parametrize(
    ("classes", "num_classes"),
    [
        ([0, 2], 2),
        ([0, 2], 0),
        ([0, 2], -2),
        ([0, -2], 3),
        ([], -1),
        ([], 0),
        ([1.0], 3),
        (np.ones(1, np.uint8), 3),
        ([1], 3.0),
    ],
)
def test_one_hot_refusals(classes, num_classes):
    classes = jnp.asarray(classes) if len(classes) else jnp.zeros(0, jnp.int32)
    assert_same_error(lambda: one_hot(classes, num_classes), lambda: F.one_hot(to_torch(classes), num_classes))


def test_one_hot_in_compiled_code():
    with pytest.raises(RuntimeError, match="pass num_classes"):
        jax.jit(one_hot)(jnp.array([0, 1]))
    codes = jax.jit(one_hot, static_argnums=1)(jnp.array([2, -1, 3]), 3)
    np.testing.assert_array_equal(codes[0], [0, 0, 1])
    assert (codes[1:] == jnp.iinfo(jnp.int32).min).all()
