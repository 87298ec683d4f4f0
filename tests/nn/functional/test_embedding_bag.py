"""``F.embedding_bag`` against torch, and what compiled code does with what it cannot check."""

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
from objnet.nn.functional.embedding_bag import embedding_bag  # noqa: E402
from tests.nn.functional.outcome import integers, normal  # noqa: E402
from tests.nn.module_parity import parameters_of  # noqa: E402
from tests.nn.parity import assert_close, assert_parity, assert_same_error, to_torch  # noqa: E402

theirs = torch.nn.functional.embedding_bag
ROWS = 5
IDS = jnp.array([1, 2, 4, 0, 4, 3])
OFFSETS = [[0, 3], [0], [0, 0, 2, 2, 6]]


@settings(max_examples=7, deadline=None)
@given(
    shape=st.sampled_from([(6,), (6,), (2, 3), (0, 2), (3, 1)]),
    offsets=st.sampled_from(OFFSETS),
    last=st.booleans(),
    mode=st.sampled_from(["sum", "weighted", "mean", "max"]),
    padding_idx=st.sampled_from([None, 4, -1, 0]),
    dtype=st.sampled_from(["float32", "float32", "bfloat16"]),
    ties=st.booleans(),
)
def test_values_and_gradients(shape, offsets, last, mode, padding_idx, dtype, ties):
    indices = jnp.resize(IDS, shape)
    table = (integers if ties else normal)(ROWS, 3, dtype=dtype)
    arrays = [indices, table]
    options = {"padding_idx": padding_idx, "mode": "sum" if mode == "weighted" else mode}
    if indices.ndim == 1:
        arrays.append(jnp.asarray([*offsets, 6] if last else offsets, jnp.int32))
        options["include_last_offset"] = last
    if mode == "weighted":
        arrays.append(normal(*shape, seed=2, dtype=dtype))

    def call(function):
        def result(indices, table, *rest):
            rest = list(rest)
            given = {"offsets": rest.pop(0)} if indices.ndim == 1 else {}
            return function(indices, table, per_sample_weights=rest[0] if rest else None, **given, **options)

        return result

    assert_parity(call(embedding_bag), call(theirs), *arrays)


def test_bags_that_end_before_the_input():
    table, offsets = normal(ROWS, 3), jnp.array([0, 3, 5])
    sums = embedding_bag(IDS, table, offsets, mode="sum", include_last_offset=True)
    assert_close(sums, theirs(*map(to_torch, (IDS, table, offsets)), mode="sum", include_last_offset=True))
    # torch divides the last bag's sum by 3, counting to the end of the input
    means = embedding_bag(IDS, table, offsets, include_last_offset=True)
    np.testing.assert_allclose(means, sums / jnp.array([[3.0], [2.0]]), rtol=1e-6)


def test_gradients_scaled_by_frequency():
    bags, table = jnp.array([[0, 1], [1, 1]]), normal(ROWS, 3)
    gradient = jax.grad(lambda w: embedding_bag(bags, w, scale_grad_by_freq=True, mode="sum").sum())(table)
    np.testing.assert_allclose(gradient, np.eye(ROWS, 3)[:, :1] * [1, 1, 1] + np.eye(ROWS)[:, 1:2] * np.ones(3), rtol=1e-6)


@pytest.mark.parametrize("norm_type", [2.0, 1.0])
def test_max_norm_writes_the_weight(norm_type):
    bags, table = IDS.reshape(2, 3), normal(ROWS, 3)
    parameter, tensor = Parameter(table), to_torch(table)
    output = embedding_bag(bags, parameter, max_norm=0.5, norm_type=norm_type, mode="max")
    assert_close(output, theirs(to_torch(bags), tensor, max_norm=0.5, norm_type=norm_type, mode="max"))
    assert_close(parameter.value, tensor)
    with pytest.raises(ImmutableArrayError):
        embedding_bag(bags, table, max_norm=0.5)


def test_nan_is_the_maximum_only_where_it_comes_first():
    table = jnp.array([[1.0, jnp.nan], [2.0, 2.0], [-jnp.inf, jnp.nan]])
    bags = jnp.array([[0, 1, 1], [1, 0, 0], [2, 0, 2], [2, 2, 2]])
    assert_parity(lambda i, w: embedding_bag(i, w, mode="max"), lambda i, w: theirs(i, w, mode="max"), bags, table)


def test_padding_leaks_no_nan():
    table = normal(ROWS, 3).at[4].set(jnp.nan)
    gradient = jax.grad(lambda s: embedding_bag(IDS[None], table, mode="sum", per_sample_weights=s[None], padding_idx=4).sum())(
        jnp.ones(6)
    )
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_compiled_code_gives_nan_for_what_does_not_exist(mode):
    table = normal(ROWS, 3)
    bag = jax.jit(lambda i, o: embedding_bag(i, table, o, mode=mode))
    output = bag(jnp.array([0, 1, 2, ROWS, 1, 1]), jnp.array([0, 2, 5]))
    np.testing.assert_array_equal(np.isnan(output).all(1), [False, True, False])
    for wrong in ([1, 2], [0, 3, 2], [0, 7]):
        assert np.isnan(bag(IDS, jnp.array(wrong))).all()
    assert np.isnan(jax.jit(lambda i: embedding_bag(i, table, mode=mode))(jnp.array([[0, -1]]))).all()


TABLE = normal(ROWS, 3)
ONE = jnp.array([0])


@pytest.mark.parametrize(
    ("indices", "table", "options"),
    [
        (IDS, TABLE, {}),
        (IDS, TABLE, {"offsets": ONE[None]}),
        (IDS[None], TABLE, {"offsets": ONE}),
        (IDS[None, None], TABLE, {}),
        (IDS, TABLE[0], {"offsets": ONE}),
        (IDS, TABLE, {"offsets": jnp.array([1, 2])}),
        (IDS, TABLE, {"offsets": jnp.array([0, 7])}),
        (IDS, TABLE, {"offsets": ONE[:0], "include_last_offset": True}),
        (IDS, TABLE, {"offsets": jnp.array([0.0])}),
        (IDS + 1, TABLE, {"offsets": ONE}),
        (IDS - 1, TABLE, {"offsets": ONE}),
        (IDS.astype("float32"), TABLE, {"offsets": ONE}),
        (IDS, TABLE.astype("int32"), {"offsets": ONE}),
        (IDS, TABLE, {"offsets": ONE, "mode": "min"}),
        (IDS, TABLE, {"offsets": ONE, "mode": "max", "scale_grad_by_freq": True}),
        (IDS, TABLE, {"offsets": ONE, "mode": "max", "sparse": True}),
        (IDS, TABLE, {"offsets": ONE, "padding_idx": ROWS}),
        (IDS, TABLE, {"offsets": ONE, "padding_idx": -ROWS - 1}),
        (IDS, TABLE, {"offsets": ONE, "per_sample_weights": jnp.ones(6)}),
        (IDS, TABLE, {"offsets": ONE, "mode": "sum", "per_sample_weights": jnp.ones(5)}),
        (IDS, TABLE, {"offsets": ONE, "mode": "sum", "per_sample_weights": jnp.ones(6, "bfloat16")}),
        (IDS[:0].reshape(3, 0), TABLE, {}),
    ],
)
def test_refusals(indices, table, options):
    tensors = {k: to_torch(v) if isinstance(v, jax.Array) else v for k, v in options.items()}
    assert_same_error(
        lambda: embedding_bag(indices, table, **options), lambda: theirs(to_torch(indices), to_torch(table), **tensors)
    )


def test_signature_sparse_and_the_old_order():
    assert parameters_of(embedding_bag) == parameters_of(theirs)
    with pytest.raises(NotImplementedError, match="sparse gradients"):
        embedding_bag(IDS, TABLE, ONE, sparse=True)
    with pytest.warns(UserWarning, match="deprecated") as caught:
        swapped = embedding_bag(TABLE, IDS, ONE)
    assert caught[0].filename == __file__
    assert_close(swapped, theirs(to_torch(IDS), to_torch(TABLE), to_torch(ONE)))
