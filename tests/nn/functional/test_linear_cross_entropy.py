"""``linear_cross_entropy`` against torch's, whole and in chunks: values, gradients of every order, memory, refusals."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from objnet.nn import LinearCrossEntropyOptions as Options  # noqa: E402
from objnet.nn import functional as ours  # noqa: E402
from objnet.nn.functional.linear_cross_entropy import _plan  # noqa: E402
from tests.nn.parity import assert_close, assert_derivatives, assert_parity, assert_same_error, to_torch  # noqa: E402

F = torch.nn.functional
RANDOM = np.random.RandomState(0)
X, W, B, C = (jnp.asarray(RANDOM.randn(*s), jnp.float32) for s in [(7, 3), (5, 3), (5,), (5,)])
C = jnp.abs(C)
Y = jnp.asarray([0, 4, -100, 2, 2, 1, 3])


def check(x, w, target, bias=None, options=None, gradients=None, **kwargs):
    arrays = [x, w] if bias is None else [x, w, bias]
    given = {k: v for k, v in kwargs.items() if v is not None}
    theirs = {k: to_torch(v) if isinstance(v, jax.Array) else v for k, v in given.items()}
    assert_parity(
        lambda x, w, *b: ours.linear_cross_entropy(x, w, target, linear_bias=b[0] if b else None, options=options, **given),
        lambda x, w, *b: F.linear_cross_entropy(x, w, to_torch(target), linear_bias=b[0] if b else None, **theirs),
        *arrays,
        gradients=gradients,
    )


@settings(max_examples=8, deadline=None)
@given(
    options=st.sampled_from([None, Options(), Options(batch_chunk_size=3), Options(chunking_method=None)]),
    reduction=st.sampled_from(["none", "mean", "sum"]),
    bias=st.booleans(),
    weight=st.booleans(),
    ignore_index=st.sampled_from([None, 2]),
)
def test_whole_and_in_chunks(options, reduction, bias, weight, ignore_index):
    target = Y if ignore_index is None else jnp.where(Y < 0, 1, Y)
    check(
        X, W, target, B if bias else None, options, reduction=reduction, weight=C if weight else None, ignore_index=ignore_index
    )


def test_shapes():
    check(X[0], W, Y[0], B, Options())
    check(X[0], W, Y[0], reduction="none")
    deep = jnp.stack([W, W[::-1]], 1)
    check(X, deep, jnp.stack([Y, Y], 1))
    probabilities = jax.nn.softmax(jnp.asarray(RANDOM.randn(7, 5), jnp.float32))
    check(X, W, probabilities, label_smoothing=0.1)
    for options in (None, Options()):
        for reduction in ("mean", "none"):
            check(X[:0], W, Y[:0], options=options, reduction=reduction)
        check(X, W, jnp.full(7, -100), options=options)


def test_class_weights_have_gradients():
    for reduction in ("mean", "none"):
        loss = lambda c, options: ours.linear_cross_entropy(X, W, Y, weight=c, reduction=reduction, options=options).sum()
        chunked, whole = (jax.jit(jax.grad(lambda c, o=o: loss(c, o)))(C) for o in (Options(batch_chunk_size=2), None))
        np.testing.assert_allclose(chunked, whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_derivatives_of_chunks(reduction):
    with jax.enable_x64(True):
        arrays = [a.astype("float64") for a in (X, W, B)]
        options = Options(batch_chunk_size=3)
        assert_derivatives(
            lambda x, w, b: ours.linear_cross_entropy(x, w, Y, linear_bias=b, reduction=reduction, options=options), *arrays
        )


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_logits_are_never_whole_in_memory(reduction):
    x, w, y = jnp.zeros((512, 8)), jnp.zeros((1024, 8)), jnp.zeros(512, int)
    loss = lambda x, w: ours.linear_cross_entropy(x, w, y, reduction=reduction, options=Options(batch_chunk_size=16)).sum()
    program = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(x, w).compile()
    assert program.memory_analysis().temp_size_in_bytes < 512 * 1024 * 4 / 4


@pytest.mark.parametrize("policy", ["auto", "accurate", "balanced", "compact"])
def test_precision(policy):
    """Every policy is near, with the dtypes it promises."""
    x, w = X.astype(jnp.bfloat16), W.astype(jnp.bfloat16)
    options = Options(acc_policy=policy, acc_dtype=jnp.float32, batch_chunk_size=4)
    function = jax.value_and_grad(lambda x, w: ours.linear_cross_entropy(x, w, Y, options=options), (0, 1))
    value, gradients = jax.jit(function)(x, w)
    tensors = [to_torch(a).requires_grad_() for a in (X, W)]
    expected = F.linear_cross_entropy(*tensors, to_torch(Y))
    expected.backward()
    assert value.dtype == gradients[0].dtype == gradients[1].dtype == jnp.bfloat16
    np.testing.assert_allclose(float(value), expected.item(), rtol=2e-2)
    for gradient, tensor in zip(gradients, tensors):
        np.testing.assert_allclose(gradient.astype(jnp.float32), tensor.grad, atol=2e-2)
    plan = _plan(options, 7, 3, 5, x.dtype)
    assert (plan.rows, plan.logits) == (4, jnp.float32)
    assert plan.slope == (jnp.bfloat16 if policy in ("balanced", "compact") else jnp.float32)
    assert plan.sums == (jnp.bfloat16 if policy == "compact" else jnp.float32)


def test_classes_that_do_not_exist():
    with pytest.raises(IndexError, match="class 5"):
        ours.linear_cross_entropy(X, W, Y.at[0].set(5), options=Options())
    for reduction in ("none", "mean"):
        loss = jax.jit(lambda y: ours.linear_cross_entropy(X, W, y, options=Options(), reduction=reduction))
        np.testing.assert_array_equal(np.isnan(loss(Y.at[0].set(-1))), [True] + [False] * 6 if reduction == "none" else True)


@pytest.mark.parametrize(
    ("arguments", "kwargs"),
    [
        ((X[None], W, Y), {}),
        ((X[0, 0], W, Y), {}),
        ((X, W[0], Y), {}),
        ((X, W[:, :2], Y), {}),
        ((X, W, Y), {"linear_bias": B[:2]}),
        ((X[0], jnp.stack([W, W], 1), Y[:2]), {}),
        ((X, W, jnp.ones((7, 5))), {"ignore_index": 1}),
        ((X, W.astype(jnp.bfloat16), Y), {}),
        ((X, W, Y), {"reduction": "average"}),
        ((X, W, Y), {"label_smoothing": 2.0}),
    ],
)
def test_refusals(arguments, kwargs):
    theirs = {k: to_torch(v) if isinstance(v, jax.Array) else v for k, v in kwargs.items()}
    assert_same_error(
        lambda: ours.linear_cross_entropy(*arguments, **kwargs),
        lambda: F.linear_cross_entropy(*map(to_torch, arguments), **theirs),
    )


def test_options_that_do_not_apply_warn():
    deep = jnp.stack([W, W], 1)
    for w, y, kwargs in [(W, jax.nn.softmax(X @ W.T), {}), (W, Y, {"label_smoothing": 0.1}), (deep, jnp.stack([Y, Y], 1), {})]:
        with pytest.warns(UserWarning, match="options are ignored") as caught:
            loss = ours.linear_cross_entropy(X, w, y, options=Options(), **kwargs)
        assert caught[0].filename == __file__
        assert_close(loss, F.linear_cross_entropy(to_torch(X), to_torch(w), to_torch(y), **kwargs))


@pytest.mark.parametrize(
    "fields",
    [{"acc_policy": "x"}, {"chunking_method": "x"}, {"chunking_method": "aspect_ratio:0"}, {"chunking_method": "aspect_ratio:"},
     {"batch_chunk_size": 0}, {"batch_chunk_size": 2.0}, {"acc_dtype": "int32"}],
)  # fmt: skip
def test_options_refused(fields):
    theirs = {k: torch.int32 if k == "acc_dtype" else v for k, v in fields.items()}
    assert_same_error(lambda: Options(**fields), lambda: torch.nn.LinearCrossEntropyOptions(**theirs))


def test_options_at_odds():
    x, w, y = jnp.zeros((9, 3)), jnp.zeros((12, 3)), jnp.zeros(9, int)
    both = {"batch_chunk_size": 3, "chunking_method": "aspect_ratio"}
    assert_same_error(
        lambda: ours.linear_cross_entropy(x, w, y, options=Options(**both)),
        lambda: F.linear_cross_entropy(*map(to_torch, (x, w, y)), options=torch.nn.LinearCrossEntropyOptions(**both)),
    )
    for options in (Options(acc_dtype=jnp.float64), Options(acc_dtype="bfloat16")):
        with pytest.raises(RuntimeError, match="acc_dtype"):
            ours.linear_cross_entropy(x, w, y, options=options)
    assert repr(Options(batch_chunk_size=3)) == repr(torch.nn.LinearCrossEntropyOptions(batch_chunk_size=3))
    assert hash(Options()) == hash(Options())


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(0, 300), features=st.integers(1, 40), classes=st.integers(1, 300), divisor=st.integers(1, 4))
def test_sizes_of_chunks(rows, features, classes, divisor):
    method = f"aspect_ratio:{divisor}"
    theirs = torch.nn.LinearCrossEntropyOptions(chunking_method=method)._adjust(rows, features, classes, torch.float32)
    assert _plan(Options(chunking_method=method), rows, features, classes, jnp.dtype("float32")).rows == theirs.batch_chunk_size
