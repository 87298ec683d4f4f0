"""Losses against torch, over their arguments; refusals; what compiled code does with values it cannot check."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

import objnet.nn.functional.loss as ours  # noqa: E402
from tests.nn.parity import (  # noqa: E402
    assert_close,
    assert_derivatives,
    assert_parity,
    assert_same_error,
    to_torch,
)

F = torch.nn.functional
INF, NAN = float("inf"), float("nan")
REDUCTIONS = st.sampled_from(["none", "mean", "sum"])
FLOATS = ["float32", "bfloat16", "float16"]
REGRESSIONS = ["mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"]
BINARY = ["binary_cross_entropy", "binary_cross_entropy_with_logits"]
DTYPES = [
    ("float32", "bfloat16"),
    ("bfloat16", "float32"),
    ("float32", "int32"),
    ("float32", "bool"),
    ("int32", "float32"),
    ("int32", "int32"),
    ("bool", "bool"),
]
CLASSES = 5
X, Y = jnp.asarray([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]]), jnp.asarray([1, 2])


def normal(*shape, dtype="float32", seed=0, scale=1.0):
    return jnp.asarray(scale * np.random.RandomState(seed).randn(*shape)).astype(dtype)


def uniform(*shape, dtype="float32", seed=0):
    return jnp.asarray(np.random.RandomState(seed).uniform(0.01, 0.99, shape)).astype(dtype)


def both(name, **options):
    return lambda *a: getattr(ours, name)(*a, **options), lambda *a: getattr(F, name)(*a, **options)


def loose(dtype):
    """Sums of half precision terms, which torch rounds one by one and we do not."""
    return {} if dtype == "float32" else {"rtol": 4e-2, "atol": 4e-2 if dtype == "bfloat16" else 5e-3}


# -- classes -----------------------------------------------------------------------------------------------------------

SHAPES = st.sampled_from([((CLASSES,), ()), ((3, CLASSES), (3,)), ((2, CLASSES, 4), (2, 4)), ((2, CLASSES, 3, 2), (2, 3, 2)),
                          ((2, CLASSES, 1, 2, 2), (2, 1, 2, 2)), ((0, CLASSES), (0,))])  # fmt: skip


def classes(shape, ignore_index, seed=0):
    random = np.random.RandomState(seed)
    drawn = random.randint(0, CLASSES, shape)
    return jnp.asarray(np.where(random.rand(*shape) < 0.3, ignore_index, drawn), jnp.int32)


@settings(max_examples=15, deadline=None)
@given(
    shapes=SHAPES,
    weighted=st.booleans(),
    ignore_index=st.sampled_from([-100, 1, 7]),
    reduction=REDUCTIONS,
    label_smoothing=st.sampled_from([0.0, 0.1, 1.0]),
    dtype=st.sampled_from(FLOATS),
    seed=st.integers(0, 3),
)
def test_cross_entropy_of_classes(shapes, weighted, ignore_index, reduction, label_smoothing, dtype, seed):
    weight = uniform(CLASSES, dtype=dtype, seed=9) if weighted else None
    target = classes(shapes[1], ignore_index, seed)
    options = {"ignore_index": ignore_index, "reduction": reduction, "label_smoothing": label_smoothing}
    assert_parity(
        lambda x, t: ours.cross_entropy(x, t, weight, **options),
        lambda x, t: F.cross_entropy(x, t, None if weight is None else to_torch(weight), **options),
        normal(*shapes[0], dtype=dtype, scale=3, seed=seed),
        target,
        **loose(dtype),
    )


@settings(max_examples=13, deadline=None)
@given(
    shape=SHAPES.map(lambda pair: pair[0]),
    weighted=st.booleans(),
    reduction=REDUCTIONS,
    label_smoothing=st.sampled_from([0.0, 0.1, 1.0]),
    dtypes=st.sampled_from([("float32",) * 3, ("bfloat16",) * 3, ("float16",) * 3, ("bfloat16", "float32", "float32"),
                            ("float32", "float32", "bfloat16")]),
)  # fmt: skip
def test_cross_entropy_of_probabilities(shape, weighted, reduction, label_smoothing, dtypes):
    arrays = [normal(*shape, dtype=dtypes[0], scale=3), uniform(*shape, dtype=dtypes[1])]
    if weighted:
        arrays.append(uniform(CLASSES, dtype=dtypes[2], seed=9))
    options = {"reduction": reduction, "label_smoothing": label_smoothing}
    narrow = "bfloat16" if "bfloat16" in dtypes else dtypes[0]
    assert_parity(*both("cross_entropy", **options), *arrays, **loose(narrow))


@settings(max_examples=13, deadline=None)
@given(
    shapes=SHAPES,
    weighted=st.booleans(),
    ignore_index=st.sampled_from([-100, 1, 7]),
    reduction=REDUCTIONS,
    dtype=st.sampled_from(FLOATS),
)
def test_nll_loss(shapes, weighted, ignore_index, reduction, dtype):
    weight = uniform(CLASSES, dtype=dtype, seed=9) if weighted else None
    options = {"ignore_index": ignore_index, "reduction": reduction}
    assert_parity(
        lambda x, t: ours.nll_loss(x, t, weight, **options),
        lambda x, t: F.nll_loss(x, t, None if weight is None else to_torch(weight), **options),
        normal(*shapes[0], dtype=dtype),
        classes(shapes[1], ignore_index),
        **loose(dtype),
    )


@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
def test_nothing_but_ignored_classes(name):
    target = jnp.full(2, -100)
    for reduction in ("mean", "sum", "none"):
        assert_parity(*both(name, reduction=reduction), X, target)
    assert_parity(*both(name, reduction="mean"), jnp.zeros((2, 3, 0)), jnp.zeros((2, 0), int))


@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint32", "int32"])
def test_any_integer_dtype(name, dtype):
    expected = getattr(F, name)(to_torch(X), to_torch(Y))
    assert_close(getattr(ours, name)(X, Y.astype(dtype)), expected)
    assert_close(getattr(ours, name)(X, np.asarray(Y, dtype)), expected)


def test_a_single_class_for_an_unbatched_input():
    for name in ("cross_entropy", "nll_loss"):
        for reduction in ("none", "mean"):
            assert_parity(*both(name, reduction=reduction), X[0], Y[:1], gradients=())  # torch has none there


def test_cross_entropy_far_out():
    rows = [[1e4, -1e4, 0.0], [1e4 + 1, 1e4, 0.0], [-INF, 0.0, 1.0], [0.0, -INF, 1.0], [NAN, 0.0, 1.0], [INF, 0.0, 1.0]]
    for smoothing in (0.0, 0.1):
        assert_parity(*both("cross_entropy", reduction="none", label_smoothing=smoothing), jnp.asarray(rows), jnp.ones(6, int))
    assert_parity(*both("cross_entropy"), jnp.asarray(rows[:3]), jnp.asarray([0, 1, -100]))
    assert_parity(*both("cross_entropy", reduction="none"), jnp.asarray([[-INF, 1.0]]), jnp.asarray([[0.0, 1.0]]))


@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 3, 4), (2, 3, 4, 2)])
@pytest.mark.parametrize("wrong", [3, -1, 100])
def test_classes_that_do_not_exist(name, shape, wrong):
    function = getattr(ours, name)
    x, weight = normal(*shape), jnp.ones(3)
    target = jnp.zeros(shape[:1] * (len(shape) > 1) + shape[2:], int).at[(0,) * max(len(shape) - 1, 0)].set(wrong)
    assert_same_error(lambda: function(x, target), lambda: getattr(F, name)(to_torch(x), to_torch(target)), str(wrong))

    for arguments in [(), (weight,)]:

        def loss(x, target):
            return function(x, target, *arguments)

        value, gradient = jax.jit(jax.value_and_grad(loss))(x, target)
        assert np.isnan(value) and np.isnan(gradient).any()
        each = jax.jit(lambda x, t: function(x, t, *arguments, reduction="none"))(x, target)
        assert np.isnan(each).sum() == 1
    # with the same class ignored all is well again
    assert jax.jit(lambda x, t: function(x, t, ignore_index=wrong, reduction="sum"))(x, target) < INF


def test_empty_class_dimension():
    x, target = jnp.zeros((2, 0)), jnp.zeros(2, int)
    assert_same_error(lambda: ours.cross_entropy(x, target), lambda: F.cross_entropy(to_torch(x), to_torch(target)))
    assert np.isnan(jax.jit(ours.cross_entropy)(x, target))


BAD_CLASSES = [
    ((2, 3), (3,), "int32"),
    ((2, 3), (), "int32"),
    ((2, 3), (2, 1), "int32"),
    ((2, 3), (2,), "float32"),
    ((2, 3), (2,), "bool"),
    ((3,), (1, 1), "int32"),
    ((3,), (8,), "float32"),
    ((3,), (8,), "int32"),
    ((), (2,), "int32"),
    ((2, 3, 4), (2, 5), "int32"),
    ((2, 3, 4), (2,), "int32"),
    ((2, 3, 4), (3, 4), "int32"),
    ((2, 3, 4, 5), (), "int32"),
    ((2, 3, 4, 5), (2, 4), "int32"),
    ((2, 3, 4, 5), (2, 4, 4), "int32"),
    ((2, 3, 4, 5), (2, 3, 4, 4), "float32"),
]


@pytest.mark.parametrize(("shape", "target", "dtype"), BAD_CLASSES)
@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
def test_targets_refused(name, shape, target, dtype):
    x, t = normal(*shape), jnp.ones(target, dtype)
    assert_same_error(lambda: getattr(ours, name)(x, t), lambda: getattr(F, name)(to_torch(x), to_torch(t)))


@pytest.mark.parametrize(
    ("name", "arguments", "options"),
    [
        ("cross_entropy", (X, X.astype(int)), {}),
        ("cross_entropy", (jnp.ones(1), jnp.zeros(1, int)), {}),
        ("cross_entropy", (jnp.asarray(1.0), jnp.asarray(1)), {}),
        ("cross_entropy", (jnp.asarray(1.0), jnp.asarray(1.0)), {}),
        ("cross_entropy", (X.astype(int), Y), {}),
        ("cross_entropy", (X, Y, jnp.ones(2)), {}),
        ("cross_entropy", (X, Y, jnp.ones((1, 3))), {}),
        ("cross_entropy", (X, Y, jnp.ones(3, jnp.bfloat16)), {}),
        ("cross_entropy", (X, Y, jnp.ones(3, jnp.bfloat16)), {"label_smoothing": 0.1}),
        ("cross_entropy", (X, X, jnp.ones(2)), {}),
        ("cross_entropy", (X, X, jnp.ones((1, 3))), {}),
        ("cross_entropy", (X, X), {"ignore_index": 1}),
        ("cross_entropy", (X, Y), {"label_smoothing": 1.1}),
        ("cross_entropy", (X, Y), {"reduction": "average"}),
        ("nll_loss", (jnp.asarray(1.0), jnp.asarray(0)), {}),
        ("nll_loss", (X[0], jnp.ones(3, int)), {}),
        ("nll_loss", (X.astype(int), Y), {}),
        ("nll_loss", (X, Y, jnp.ones(2)), {}),
        ("nll_loss", (normal(2, 3, 4, 5), jnp.zeros((2, 4, 5), int), jnp.ones(2)), {}),
        ("nll_loss", (X, Y, jnp.ones(3, jnp.float16)), {}),
        ("nll_loss", (X, Y), {"reduction": None}),
    ],
)
def test_class_losses_refuse(name, arguments, options):
    assert_same_error(
        lambda: getattr(ours, name)(*arguments, **options),
        lambda: getattr(F, name)(*map(to_torch, arguments), **options),
    )


def test_negative_label_smoothing_is_refused():
    with pytest.raises(RuntimeError, match="between 0.0 and 1.0"):  # torch ignores it without a word
        ours.cross_entropy(X, Y, label_smoothing=-0.1)


# -- legacy flags ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss", "mse_loss", "l1_loss", "smooth_l1_loss", *BINARY])
@pytest.mark.parametrize("flags", [(True, None), (False, None), (None, True), (None, False), (False, False), (True, True)])
def test_legacy_flags_decide_and_warn(name, flags):
    options = dict(zip(("size_average", "reduce"), flags), reduction="nonsense")
    x, y = (X, Y) if name in ("cross_entropy", "nll_loss") else (uniform(2, 3), uniform(2, 3, seed=1))
    with pytest.warns(UserWarning):
        expected = getattr(F, name)(to_torch(x), to_torch(y), **options)
    with pytest.warns(UserWarning, match="pass reduction=") as caught:
        result = getattr(ours, name)(x, y, **options)
    assert_close(result, expected)
    assert caught[0].filename == __file__


def test_elementwise_mean_warns():
    with pytest.warns(UserWarning, match="'mean'"):
        assert_close(ours.mse_loss(X, X + 1, reduction="elementwise_mean"), torch.tensor(1.0))


@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss", "mse_loss", "l1_loss", "smooth_l1_loss", *BINARY])
def test_positional_order(name):
    import inspect

    assert str(inspect.signature(getattr(ours, name)).parameters.keys()) == str(
        inspect.signature(getattr(F, name)).parameters.keys()
    )


# -- regression --------------------------------------------------------------------------------------------------------


@settings(max_examples=13, deadline=None)
@given(
    name=st.sampled_from(REGRESSIONS),
    shape=st.sampled_from([(), (4,), (2, 3), (0,)]),
    reduction=REDUCTIONS,
    weighted=st.booleans(),
    size=st.sampled_from([0.3, 1.0, 2.0]),
    dtype=st.sampled_from(FLOATS),
)
def test_regression(name, shape, reduction, weighted, size, dtype):
    options = {"reduction": reduction} | {"smooth_l1_loss": {"beta": size}, "huber_loss": {"delta": size}}.get(name, {})
    arrays = [normal(*shape, dtype=dtype), normal(*shape, dtype=dtype, seed=1)]
    mine, theirs = both(name, **options)
    if weighted and name != "smooth_l1_loss":
        arrays.append(uniform(*shape, dtype=dtype, seed=2))
        mine, theirs = (
            (lambda f: lambda x, y, w: f(x, y, weight=w, **options))(getattr(ours, name)),
            (lambda f: lambda x, y, w: f(x, y, weight=w, **options))(getattr(F, name)),
        )
    assert_parity(mine, theirs, *arrays, **loose(dtype))


@pytest.mark.parametrize("name", REGRESSIONS)
def test_kinks(name):
    assert_parity(*both(name, reduction="sum"), jnp.asarray([0.0, 1.0, -1.0, 0.5, INF, -INF]), jnp.zeros(6))


def test_limits_of_the_quadratic_part():
    x, y = jnp.asarray([0.0, 2.0, -3.0, 0.5]), jnp.asarray([0.0, 0.0, 1.0, 1.0])
    assert_parity(*both("smooth_l1_loss", beta=0.0), x, y)
    assert_parity(*both("smooth_l1_loss", beta=0), x, y)
    assert_parity(*both("huber_loss", delta=INF), x, y)
    assert_parity(*both("smooth_l1_loss", beta=2), x, y)


@pytest.mark.parametrize("name", REGRESSIONS)
@pytest.mark.parametrize("dtypes", [*DTYPES, ("float16", "bfloat16")])
def test_regression_dtypes(name, dtypes):
    x, y = jnp.asarray([1, 0, 1], dtypes[0]), jnp.asarray([1, 1, 0], dtypes[1])
    mine, theirs = both(name)
    try:
        expected = theirs(to_torch(x), to_torch(y))
    except Exception:
        assert_same_error(lambda: mine(x, y), lambda: theirs(to_torch(x), to_torch(y)))
    else:
        assert_close(mine(x, y), expected)


def test_l1_loss_of_integers():
    x, y = jnp.asarray([1, 2]), jnp.asarray([3, 5])
    for reduction in ("none", "sum"):
        assert_close(ours.l1_loss(x, y, reduction=reduction), F.l1_loss(to_torch(x), to_torch(y), reduction=reduction).int())


@pytest.mark.parametrize("name", REGRESSIONS)
@pytest.mark.parametrize("shapes", [((3,), (1,)), ((3,), (2, 3)), ((2, 1), (3,)), ((), (2,))])
def test_broadcasting_warns(name, shapes):
    x, y = normal(*shapes[0]), normal(*shapes[1], seed=1)
    with pytest.warns(UserWarning, match="broadcasting") as caught:
        result = getattr(ours, name)(x, y)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_close(result, getattr(F, name)(to_torch(x), to_torch(y)))
        if name != "smooth_l1_loss":
            w = uniform(*shapes[0], seed=2)
            if np.broadcast_shapes(shapes[0], shapes[1]) == np.broadcast_shapes(*shapes, shapes[0]):
                expected = getattr(F, name)(to_torch(x), to_torch(y), weight=to_torch(w))
                assert_close(getattr(ours, name)(x, y, weight=w), expected)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("name", "arguments", "options"),
    [
        *((name, (jnp.ones(3), jnp.ones(2)), {}) for name in REGRESSIONS),
        *((name, (jnp.ones(3), jnp.ones(3)), {"reduction": "average"}) for name in REGRESSIONS),
        *((name, (jnp.ones(3), jnp.ones(3)), {"weight": np.ones(1)}) for name in REGRESSIONS if name != "smooth_l1_loss"),
        *((name, (jnp.ones(3), jnp.ones(3)), {"weight": np.ones((2, 3))}) for name in ("mse_loss", "huber_loss")),
        ("smooth_l1_loss", (jnp.ones(3), jnp.ones(3)), {"beta": -1.0}),
        ("huber_loss", (jnp.ones(3), jnp.ones(3)), {"delta": 0.0}),
        ("huber_loss", (jnp.ones(3), jnp.ones(3)), {"delta": -1.0}),
        ("mse_loss", (jnp.ones(3, complex), jnp.ones(3, complex)), {}),
    ],
)
def test_regression_refuses(name, arguments, options):
    theirs = {k: torch.tensor(v) if k == "weight" else v for k, v in options.items()}
    assert_same_error(
        lambda: getattr(ours, name)(*arguments, **options),
        lambda: getattr(F, name)(*map(to_torch, arguments), **theirs),
    )


# -- binary ------------------------------------------------------------------------------------------------------------


@settings(max_examples=13, deadline=None)
@given(
    name=st.sampled_from(BINARY),
    shape=st.sampled_from([(), (4,), (2, 3), (0,)]),
    weight=st.sampled_from(["none", "full", "last", "scalar"]),
    pos_weight=st.sampled_from(["none", "full", "last", "scalar"]),
    reduction=REDUCTIONS,
    dtype=st.sampled_from(FLOATS),
)
def test_binary(name, shape, weight, pos_weight, reduction, dtype):
    drawn = {
        "none": None,
        "full": uniform(*shape, seed=2),
        "last": uniform(*shape[-1:], seed=3),
        "scalar": jnp.asarray(0.7),
    }
    factors = {"weight": drawn[weight]} | ({"pos_weight": drawn[pos_weight]} if name == BINARY[1] else {})
    factors = {k: v.astype(dtype) for k, v in factors.items() if v is not None}
    x = uniform(*shape, dtype=dtype) if name == BINARY[0] else normal(*shape, dtype=dtype, scale=3)
    y = uniform(*shape, dtype=dtype, seed=1)
    assert_parity(
        lambda x, y: getattr(ours, name)(x, y, **factors, reduction=reduction),
        lambda x, y: getattr(F, name)(x, y, **{k: to_torch(v) for k, v in factors.items()}, reduction=reduction),
        x,
        y,
        **(loose(dtype) | ({"rtol": 5e-5} if dtype == "float32" else {"rtol": 6e-2})),
    )


def test_binary_cross_entropy_at_the_ends():
    x, y = jnp.asarray([0.0, 1.0, 0.0, 1.0, 1e-20]), jnp.asarray([0.0, 1.0, 1.0, 0.0, 1.0])
    assert_parity(*both(BINARY[0], reduction="none"), x, y)


def test_binary_cross_entropy_with_logits_far_out():
    x, y = jnp.asarray([100.0, -100.0, 1e4, -1e4, 1e4, 0.3]), jnp.asarray([0.0, 1.0, 1.0, 0.0, 0.3, 2.0])
    assert_parity(*both(BINARY[1], reduction="none"), x, y)
    assert_parity(*both(BINARY[1], reduction="none"), jnp.asarray([INF, -INF]), jnp.asarray([1.0, 0.0]))


@pytest.mark.parametrize("wrong", [(1.1, 1.0), (-0.1, 1.0), (NAN, 1.0), (0.5, 2.0), (0.5, -1.0)])
def test_values_that_are_no_probabilities(wrong):
    x, y = jnp.asarray([0.5, wrong[0]]), jnp.asarray([0.5, wrong[1]])
    if not np.isnan(wrong[0]):
        with pytest.raises(RuntimeError, match="between 0 and 1"):
            ours.binary_cross_entropy(x, y)
    assert_same_error(lambda: ours.binary_cross_entropy(x, y), lambda: F.binary_cross_entropy(to_torch(x), to_torch(y)))
    each = jax.jit(lambda x, y: ours.binary_cross_entropy(x, y, reduction="none"))(x, y)
    np.testing.assert_array_equal(np.isnan(each), [False, True])
    assert np.isnan(jax.jit(jax.grad(ours.binary_cross_entropy))(x, y)[1])


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("dtypes", DTYPES)
def test_binary_dtypes(name, dtypes):
    x, y = jnp.asarray([1, 0, 1], dtypes[0]), jnp.asarray([1, 1, 0], dtypes[1])
    mine, theirs = both(name)
    try:
        expected = theirs(to_torch(x), to_torch(y))
    except Exception:
        assert_same_error(lambda: mine(x, y), lambda: theirs(to_torch(x), to_torch(y)))
    else:
        assert_close(mine(x, y), expected, rtol=1e-2)  # torch keeps bfloat16 in between


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("dtype", ["int32", "bfloat16"])
def test_binary_weights_of_other_dtypes(name, dtype):
    x, y, w = uniform(3), uniform(3, seed=1), jnp.asarray([1, 2, 0], dtype)
    assert_close(getattr(ours, name)(x, y, w), getattr(F, name)(to_torch(x), to_torch(y), to_torch(w)))


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ((jnp.ones(3), jnp.ones(1)), {}),
        ((jnp.ones(3), jnp.ones((2, 3))), {}),
        ((jnp.ones(3), jnp.ones(3), jnp.ones((2, 3))), {}),
        ((jnp.ones(3), jnp.ones(3), jnp.ones((1, 3))), {}),
        ((jnp.ones(3), jnp.ones(3), jnp.ones(2)), {}),
        ((jnp.ones(3), jnp.ones(3)), {"reduction": "average"}),
    ],
)
@pytest.mark.parametrize("name", BINARY)
def test_binary_refuses(name, arguments, options):
    assert_same_error(
        lambda: getattr(ours, name)(*arguments, **options),
        lambda: getattr(F, name)(*map(to_torch, arguments), **options),
    )


@pytest.mark.parametrize("shape", [(2, 3), (2,)])
def test_pos_weight_refused(shape):
    x, w = jnp.ones(3), jnp.ones(shape)
    assert_same_error(
        lambda: ours.binary_cross_entropy_with_logits(x, x, pos_weight=w),
        lambda: F.binary_cross_entropy_with_logits(to_torch(x), to_torch(x), pos_weight=to_torch(w)),
    )


# -- all ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*REGRESSIONS, *BINARY])
def test_derivatives_of_second_order_and_forward_mode(name):
    with jax.enable_x64(True):
        x = (uniform if name == BINARY[0] else normal)(2, 3, dtype="float64")
        y = uniform(2, 3, dtype="float64", seed=1)
        assert_derivatives(getattr(ours, name), x, y, rtol=1e-4)


def test_derivatives_of_class_losses():
    with jax.enable_x64(True):
        x, p, w = normal(2, 3, dtype="float64"), uniform(2, 3, dtype="float64"), uniform(3, dtype="float64")
        target = jnp.asarray([1, 2])
        assert_derivatives(lambda x, w: ours.cross_entropy(x, target, w), x, w)
        assert_derivatives(lambda x, w: ours.cross_entropy(x, target, w, label_smoothing=0.2), x, w)
        assert_derivatives(lambda x, p, w: ours.cross_entropy(x, p, w), x, p, w)
        assert_derivatives(lambda x: ours.nll_loss(x, target), x)


def test_curvature_where_the_difference_is_zero():
    x = jnp.zeros(2)
    for name in ("mse_loss", "smooth_l1_loss", "huber_loss"):
        scale = 2 if name == "mse_loss" else 1
        hessian = jax.hessian(lambda x: getattr(ours, name)(x, jnp.zeros(2), reduction="sum"))(x)
        np.testing.assert_array_equal(hessian, scale * np.eye(2))


@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
def test_vmap_over_the_batch(name):
    function = getattr(ours, name)
    each = jax.vmap(lambda x, t: function(x, t, ignore_index=1, reduction="none"))(X, Y)
    np.testing.assert_allclose(each, function(X, Y, ignore_index=1, reduction="none"), rtol=1e-6)
