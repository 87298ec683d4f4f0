"""``layer_norm``, ``rms_norm``, ``group_norm``, ``batch_norm`` and ``normalize`` against torch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from objnet.core.variable import Buffer  # noqa: E402
from objnet.errors import ImmutableArrayError  # noqa: E402
from objnet.nn.functional.batchnorm import batch_norm, batch_norm_stats  # noqa: E402
from objnet.nn.functional.distance import normalize  # noqa: E402
from objnet.nn.functional.normalization import group_norm, layer_norm, rms_norm  # noqa: E402
from tests.nn.parity import (  # noqa: E402
    assert_close,
    assert_derivatives,
    assert_parity,
    assert_same_error,
    to_torch,
    tolerance,
)

F = torch.nn.functional
INF = float("inf")
FLOATS = st.sampled_from(["float32", "bfloat16", "float16"])


def normal(*shape, dtype="float32", seed=0, scale=1.0, shift=0.0):
    return jnp.asarray(shift + scale * np.random.RandomState(seed).randn(*shape)).astype(dtype)


# -- layer_norm --------------------------------------------------------------------------------------------------------


@settings(max_examples=10, deadline=None)
@given(
    lead=st.sampled_from([(), (3,), (2, 3), (0,)]),
    shape=st.sampled_from([(4,), (2, 3), (1, 5)]),
    affine=st.sampled_from(["none", "weight", "bias", "both"]),
    dtype=FLOATS,
    wide_parameters=st.booleans(),
    eps=st.sampled_from([1e-5, 0.1]),
)
def test_layer_norm(lead, shape, affine, dtype, wide_parameters, eps):
    kind = "float32" if wide_parameters and affine != "bias" else dtype  # torch has no gradient for that one
    w, b = normal(*shape, dtype=kind, seed=1), normal(*shape, dtype=kind, seed=2)
    x = normal(*lead, *shape, dtype=dtype, scale=2, shift=1)
    arrays = [x, *{"none": [], "weight": [w], "bias": [b], "both": [w, b]}[affine]]
    sorted_in = {"none": (None, None), "weight": (0, None), "bias": (None, 0), "both": (0, 1)}[affine]

    def call(function):
        pick = lambda parameters, i: None if i is None else parameters[i]
        return lambda x, *ps: function(x, shape, pick(ps, sorted_in[0]), pick(ps, sorted_in[1]), eps)

    # a half precision gradient of a parameter adds up rounded terms
    loose = {} if dtype == "float32" else {"rtol": 5e-2, "atol": 5e-2 if dtype == "bfloat16" else 1e-2}
    assert_parity(call(layer_norm), call(F.layer_norm), *arrays, **loose)


def test_layer_norm_far_from_zero_and_degenerate():
    x = normal(3, 64, shift=1000.0)
    exact = np.asarray(x, np.float64)
    exact = (exact - exact.mean(1, keepdims=True)) / np.sqrt(exact.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(layer_norm(x, (64,)), exact, atol=2e-3)
    assert_parity(lambda x: layer_norm(x, (1,)), lambda x: F.layer_norm(x, (1,)), jnp.ones((2, 1)))
    assert np.isnan(layer_norm(jnp.ones((2, 4)), (4,), eps=0.0)).all()
    assert layer_norm(jnp.ones((2, 0)), (0,)).shape == (2, 0)


def test_layer_norm_derivatives_of_second_order_and_forward_mode():
    with jax.enable_x64(True):
        x, w, b = (normal(*s, dtype="float64", seed=i) for i, s in enumerate([(2, 3, 4), (3, 4), (3, 4)]))
        assert_derivatives(lambda x, w, b: layer_norm(x, (3, 4), w, b), x, w, b)
        assert_parity(lambda x, w, b: layer_norm(x, (3, 4), w, b), lambda x, w, b: F.layer_norm(x, (3, 4), w, b), x, w, b)


def test_layer_norm_under_vmap():
    x = normal(3, 2, 4)
    per_row = jax.vmap(jax.grad(lambda x: jnp.square(layer_norm(x, (4,))).sum(where=x > 0)))(x)
    together = jax.grad(lambda x: jnp.square(layer_norm(x, (4,))).sum(where=x > 0))(x)
    np.testing.assert_allclose(per_row, together, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "normalized_shape", "parameters"),
    [
        ((2, 3, 4), 4, []),
        ((2, 3, 4), (), []),
        ((), (), []),
        ((2, 3, 4), (3,), []),
        ((2, 3, 4), (1, 2, 3, 4), []),
        ((2, 3, 4), (4,), [((3,), "float32")]),
        ((2, 3, 4), (4,), [((1, 4), "float32")]),
        ((2, 3, 4), (4,), [((4,), "float32"), ((3,), "float32")]),
        ((2, 3, 4), (4,), [((4,), "bfloat16")]),
        ((2, 3, 4), (4,), [((4,), "float32"), ((4,), "float16")]),
    ],
)
def test_layer_norm_refusals(shape, normalized_shape, parameters):
    x, ps = normal(*shape), [jnp.ones(s, d) for s, d in parameters]
    assert_same_error(
        lambda: layer_norm(x, normalized_shape, *ps),
        lambda: F.layer_norm(to_torch(x), normalized_shape, *map(to_torch, ps)),
    )


def test_layer_norm_dtypes_refused():
    x = jnp.ones((2, 4), jnp.bfloat16)
    half_and_single = (jnp.ones(4, jnp.bfloat16), jnp.ones(4))
    assert_same_error(
        lambda: layer_norm(x, (4,), *half_and_single),
        lambda: F.layer_norm(to_torch(x), (4,), *map(to_torch, half_and_single)),
    )
    for dtype in ("int32", "complex64"):
        x = jnp.ones((2, 4), dtype)
        assert_same_error(lambda: layer_norm(x, (4,)), lambda: F.layer_norm(to_torch(x), (4,)))


# -- rms_norm ----------------------------------------------------------------------------------------------------------


@settings(max_examples=6, deadline=None)
@given(
    shape=st.sampled_from([(4,), (2, 3)]),
    affine=st.booleans(),
    eps=st.sampled_from([None, 1e-5, 0.1]),
    dtype=FLOATS,
    scale=st.sampled_from([1.0, 1e-3]),  # the smaller one shows which epsilon None is
)
def test_rms_norm(shape, affine, eps, dtype, scale):
    x = normal(2, *shape, dtype=dtype, scale=scale)
    weights = [normal(*shape, dtype=dtype, seed=1)] if affine else []
    loose = {} if dtype == "float32" else {"rtol": 5e-2, "atol": 5e-2}
    assert_parity(lambda x, *w: rms_norm(x, shape, *w, eps=eps), lambda x, *w: F.rms_norm(x, shape, *w, eps=eps), x, *weights,
                  gradients=[0] if scale == 1.0 else [], **loose)  # fmt: skip


def test_rms_norm_derivatives_and_degenerate_inputs():
    with jax.enable_x64(True):
        x, w = normal(2, 3, dtype="float64"), normal(3, dtype="float64", seed=1)
        assert_derivatives(lambda x, w: rms_norm(x, (3,), w), x, w)
        small = jnp.full((1, 3), 1e-8)
        assert_close(rms_norm(small, (3,)), F.rms_norm(to_torch(small), (3,)))
    for x in (jnp.zeros((1, 3)), jnp.zeros((0, 3))):
        assert_parity(lambda x: rms_norm(x, (3,)), lambda x: F.rms_norm(x, (3,)), x)
    x = jnp.asarray([[1 + 2j, 3, 4]])
    assert_close(rms_norm(x, (3,)), F.rms_norm(to_torch(x), (3,)), rtol=1e-5)
    x, w = normal(2, 3, dtype="bfloat16"), normal(3)
    with pytest.warns(UserWarning, match="Mismatch dtype"):
        expected = F.rms_norm(to_torch(x), (3,), to_torch(w))
    assert_close(rms_norm(x, (3,), w), expected)


def test_rms_norm_keeps_the_output_and_one_number_a_row():
    x = normal(16, 32)
    kept = jax.eval_shape(lambda x: jax.vjp(lambda x: rms_norm(x, (32,)), x)[1], x)
    assert sum(leaf.size for leaf in jax.tree.leaves(kept)) <= x.size + 2 * 16


@pytest.mark.parametrize(
    ("dtype", "normalized_shape", "weight"),
    [("float32", 3, None), ("float32", (), None), ("float32", (2,), None), ("float32", (3,), (1, 3)), ("int32", (3,), None),
     ("float32", (2, 2, 3), None), ("float32", (2, 2, 3), (3,)),
     ("bool", (3,), None)],
)  # fmt: skip
def test_rms_norm_refusals(dtype, normalized_shape, weight):
    x, ps = jnp.ones((2, 3), dtype), [] if weight is None else [jnp.ones(weight)]
    assert_same_error(
        lambda: rms_norm(x, normalized_shape, *ps), lambda: F.rms_norm(to_torch(x), normalized_shape, *map(to_torch, ps))
    )


# -- group_norm --------------------------------------------------------------------------------------------------------


@settings(max_examples=6, deadline=None)
@given(
    shape=st.sampled_from([(3, 4), (2, 4, 3), (1, 4, 2, 2), (0, 4, 3)]),
    groups=st.sampled_from([1, 2, 4]),
    affine=st.sampled_from([(), ("weight",), ("bias",), ("weight", "bias")]),
    dtype=FLOATS,
    eps=st.sampled_from([1e-5, 0.1]),
)
def test_group_norm(shape, groups, affine, dtype, eps):
    arrays = [normal(*shape, dtype=dtype, scale=2, shift=1), *(normal(4, dtype=dtype, seed=i + 1) for i, _ in enumerate(affine))]
    loose = {"atol": 1e-4} if dtype == "float32" else {"rtol": 5e-2, "atol": 0.1 if dtype == "bfloat16" else 2e-2}

    def call(function, **others):
        return lambda x, *ps: function(x, groups, eps=eps, **others, **dict(zip(affine, ps)))

    # torch itself fails in the gradient of a bias without a weight
    ones = {"weight": torch.ones(4, dtype=getattr(torch, dtype))} if affine == ("bias",) else {}
    assert_parity(call(group_norm), call(F.group_norm, **ones), *arrays, **loose)


@pytest.mark.parametrize(
    ("shape", "groups", "weight"),
    [((3,), 1, None), ((1, 3), 3, None), ((2, 3, 4), 2, None), ((2, 3, 4), 0, None), ((2, 3, 4), -1, None), ((2, 4), 2, (3,)),
     ((2, 4), 2, (4, 1))],
)  # fmt: skip
def test_group_norm_refusals(shape, groups, weight):
    assert group_norm(jnp.ones((2, 4, 0)), 2).shape == (2, 4, 0)
    x, ps = normal(*shape), [] if weight is None else [jnp.ones(weight)]
    assert_same_error(lambda: group_norm(x, groups, *ps), lambda: F.group_norm(to_torch(x), groups, *map(to_torch, ps)))


def test_group_norm_dtypes_refused():
    for dtype, parameters in [("int32", []), ("complex64", []), ("float32", ["bfloat16"]), ("bfloat16", ["bfloat16", "float32"])]:
        x, ps = jnp.ones((2, 4), dtype), [jnp.ones(4, d) for d in parameters]
        assert_same_error(lambda: group_norm(x, 2, *ps), lambda: F.group_norm(to_torch(x), 2, *map(to_torch, ps)))


# -- batch_norm --------------------------------------------------------------------------------------------------------


@settings(max_examples=13, deadline=None)
@given(
    shape=st.sampled_from([(4, 3), (2, 3, 4), (1, 2, 2, 3), (2, 2, 1, 2, 2), (0, 3)]),
    training=st.booleans(),
    tracked=st.booleans(),
    affine=st.booleans(),
    momentum=st.sampled_from([0.1, 0.0, 1.0, 0.7]),
    eps=st.sampled_from([1e-5, 0.1]),
    dtype=FLOATS,
    wide_parameters=st.booleans(),
)
def test_batch_norm(shape, training, tracked, affine, momentum, eps, dtype, wide_parameters):
    tracked = tracked or not training
    kind, channels = "float32" if wide_parameters else dtype, shape[1]
    x = normal(*shape, dtype=dtype, scale=2, shift=1)
    mean, var = normal(channels, dtype=kind, seed=3), abs(normal(channels, dtype=kind, seed=4)) + 0.5
    affines = [normal(channels, dtype=kind, seed=i) for i in (1, 2)] if affine else []
    loose = {} if dtype == "float32" else {"rtol": 5e-2, "atol": 0.1 if dtype == "bfloat16" else 2e-2}

    def call(function, mean, var):
        stats = (mean, var) if tracked else (None, None)
        return lambda x, *wb: function(x, *stats, *(wb or (None, None)), training, momentum, eps)

    assert_parity(
        lambda *a: call(batch_norm_stats, mean, var)(*a)[0],
        lambda *a: call(F.batch_norm, to_torch(mean), to_torch(var))(*a),
        x,
        *affines,
        **loose,
    )
    # the statistics, through the function that writes them
    buffers, tensors = (Buffer(mean), Buffer(var)), (to_torch(mean), to_torch(var))
    output = call(batch_norm, *buffers)(x, *affines)
    expected = call(F.batch_norm, *tensors)(to_torch(x), *map(to_torch, affines))
    assert_close(output, expected, **loose)
    for buffer, tensor in zip(buffers, tensors):
        assert_close(buffer.value, tensor, **tolerance(dtype))


def test_batch_norm_statistics_need_a_home():
    x, mean, var = normal(4, 3), jnp.zeros(3), jnp.ones(3)
    with pytest.raises(ImmutableArrayError, match="running_mean.*batch_norm_stats"):
        batch_norm(x, mean, var, training=True)
    with pytest.raises(TypeError, match="running_var"):
        batch_norm(x, Buffer(mean), var, training=True)
    assert batch_norm(x, mean, var).shape == (4, 3)  # nothing to write


def test_batch_norm_writes_nothing_when_it_refuses():
    mean, var = Buffer(jnp.zeros(3)), Buffer(jnp.ones(3))
    with pytest.raises(RuntimeError):
        batch_norm(normal(4, 3), mean, var, jnp.ones(4), training=True)
    np.testing.assert_array_equal(mean.value, 0)


def test_batch_norm_statistics_carry_no_gradient():
    def stats(x):
        _, mean, var = batch_norm_stats(x, jnp.zeros(3), jnp.ones(3), training=True)
        return (mean + var).sum()

    np.testing.assert_array_equal(jax.grad(stats)(normal(4, 3)), 0)


def test_batch_norm_takes_a_traced_momentum():
    x, mean, var = normal(4, 3), jnp.zeros(3), jnp.ones(3)
    step = jax.jit(lambda m: batch_norm_stats(x, mean, var, training=True, momentum=m)[1:])
    for ours, theirs in zip(step(jnp.asarray(0.25)), batch_norm_stats(x, mean, var, training=True, momentum=0.25)[1:]):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_derivatives_of_second_order_and_forward_mode(training):
    with jax.enable_x64(True):
        x, w, b = (
            normal(4, 3, 2, dtype="float64"),
            normal(3, dtype="float64", seed=1),
            normal(3, dtype="float64", seed=2),
        )
        stats = jnp.zeros(3), jnp.ones(3)
        assert_derivatives(lambda x, w, b: batch_norm_stats(x, *stats, w, b, training)[0], x, w, b)


def test_batch_norm_far_from_zero():
    x = normal(64, 3, shift=1000.0)
    exact = np.asarray(x, np.float64)
    exact = (exact - exact.mean(0)) / np.sqrt(exact.var(0) + 1e-5)
    np.testing.assert_allclose(batch_norm(x, None, None, training=True), exact, atol=2e-3)


@pytest.mark.parametrize(
    ("shape", "parameters", "training", "eps"),
    [
        ((4, 3), [None, None], False, 1e-5),
        ((4, 3), [3, None], False, 1e-5),
        ((4, 3), [3, None], True, 1e-5),
        ((4, 3), [None, 3], True, 1e-5),
        ((4, 3), [4, 4], False, 1e-5),
        ((4, 3), [3, 4], True, 1e-5),
        ((4, 3), [3, 3, 4], False, 1e-5),
        ((4, 3), [3, 3, 3, 4], False, 1e-5),
        ((1, 3), [3, 3], True, 1e-5),
        ((1, 3, 1), [None, None], True, 1e-5),
        ((3,), [3, 3], False, 1e-5),
        ((), [1, 1], False, 1e-5),
        ((4, 3), [3, 3], True, 0.0),
        ((4, 3), [3, 3], False, -1.0),
    ],
)
def test_batch_norm_refusals(shape, parameters, training, eps):
    x, ps = normal(*shape), [None if n is None else jnp.ones(n) for n in parameters]
    homes = [None if p is None else Buffer(p) for p in ps]
    assert_same_error(
        lambda: batch_norm(x, *homes, training=training, eps=eps),
        lambda: F.batch_norm(to_torch(x), *(p if p is None else to_torch(p) for p in ps), training=training, eps=eps),
    )


def test_batch_norm_shapes_of_parameters():
    x, flat, row = normal(4, 3), jnp.ones(3), jnp.ones((1, 3))
    for stats in [(row, flat), (flat, row)]:
        assert_same_error(lambda: batch_norm(x, *stats), lambda: F.batch_norm(*map(to_torch, (x, *stats))))
    assert_close(batch_norm(x, flat, flat, row), F.batch_norm(*map(to_torch, (x, flat, flat, row))))


@pytest.mark.parametrize(
    ("dtype", "parameters"),
    [
        ("int32", ["float32"] * 2),
        ("float32", ["bfloat16"] * 2),
        ("bfloat16", ["bfloat16", "bfloat16", "float32"]),
        ("float32", ["float32", "float32", "bfloat16"]),
    ],
)
def test_batch_norm_dtypes_refused(dtype, parameters):
    x, ps = jnp.ones((4, 3), dtype), [jnp.ones(3, d) for d in parameters]
    assert_same_error(lambda: batch_norm(x, *ps), lambda: F.batch_norm(to_torch(x), *map(to_torch, ps)))


# -- normalize ---------------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(
    shape=st.sampled_from([(2, 3), (2, 1, 3), (3, 0)]),
    p=st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, -1.0, INF, -INF]),
    dim=st.sampled_from([0, 1, -1, (0, 1), (), None]),
    eps=st.sampled_from([1e-12, 1.0]),
    holes=st.booleans(),
)
def test_normalize(shape, p, dim, eps, holes):
    x = normal(*shape)
    if holes:  # zeros, and for some norms ties
        x = jnp.where(x > 0.5, 0.0, jnp.where(x < -0.5, 2.0, x))
    if x.size == 0 and (p < 0 or p == INF):
        return
    assert_parity(
        lambda x: normalize(x, p, dim, eps), lambda x: F.normalize(x, p, dim, eps), x, rtol=2e-5 if eps == 1.0 else 1e-4
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_normalize_half(dtype):
    assert_parity(normalize, F.normalize, normal(3, 4, dtype=dtype))


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, INF])
def test_normalize_zeros_and_scalars(p):
    assert_parity(lambda x: normalize(x, p), lambda x: F.normalize(x, p), jnp.zeros((2, 3)))
    assert_parity(lambda x: normalize(x, p, 0), lambda x: F.normalize(x, p, 0), jnp.asarray(2.0))


@pytest.mark.parametrize("p", [0.5, 1.0, 2.0, 3.0])
def test_normalize_derivatives_of_second_order_and_forward_mode(p):
    with jax.enable_x64(True):
        assert_derivatives(lambda x: normalize(x, p), normal(2, 3, dtype="float64"))


@pytest.mark.parametrize(
    ("x", "arguments"),
    [
        (jnp.ones(3), ()),
        (jnp.ones((2, 2)), (2.0, 2)),
        (jnp.ones((2, 2)), (2.0, (0, 0))),
        (jnp.ones((2, 2), int), ()),
        (jnp.ones((3, 0)), (INF,)),
        (jnp.ones((3, 0)), (-1.0,)),
    ],
)
def test_normalize_refusals(x, arguments):
    assert_same_error(lambda: normalize(x, *arguments), lambda: F.normalize(to_torch(x), *arguments))


def test_normalize_has_no_out():
    with pytest.raises(NotImplementedError, match="immutable"):
        normalize(jnp.ones((2, 2)), out=jnp.ones((2, 2)))
