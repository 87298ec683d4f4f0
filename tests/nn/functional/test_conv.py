"""Convolutions against torch: every formulation, gradients of every order, dtypes, batches, refusals."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from objnet.core.precision import set_float32_matmul_precision  # noqa: E402
from objnet.nn.functional import conv as ours  # noqa: E402
from tests.nn.functional.outcome import assert_same_outcome, integers, normal  # noqa: E402
from tests.nn.parity import assert_derivatives, assert_parity, assert_same_error  # noqa: E402

F = torch.nn.functional

# name: (input, weight, options, how many convolution operations it becomes on CPU)
FORMULATIONS = {
    "padded": ((2, 3, 6, 7), (4, 3, 3, 2), {"padding": (1, 0)}, 1),
    "unpadded": ((2, 3, 6, 7), (4, 3, 3, 2), {}, 1),
    "unpadded, strides, dilation": ((2, 3, 8, 9), (4, 3, 3, 2), {"stride": (2, 3), "dilation": (2, 1)}, 1),
    "1 dimension": ((2, 3, 9), (4, 3, 3), {"stride": 2}, 1),
    "3 dimensions": ((2, 3, 4, 5, 4), (4, 3, 2, 3, 2), {"padding": 1}, 1),
    "1x1": ((2, 3, 5, 4), (4, 3, 1, 1), {}, 0),
    "1x1, stride, padding, groups": ((2, 4, 5, 4), (6, 2, 1, 1), {"stride": 2, "padding": 1, "groups": 2}, 0),
    "one channel": ((2, 1, 6, 7), (4, 1, 3, 2), {"padding": 1, "stride": (2, 1)}, 0),
    "one channel, large kernel": ((1, 1, 9, 9), (2, 1, 6, 5), {}, 1),
    "patches": ((2, 3, 7, 8), (4, 3, 3, 2), {"stride": (3, 2)}, 0),
    "patches, 1 dimension": ((2, 3, 7), (4, 3, 3), {"stride": 3}, 0),
    "padded patches": ((2, 3, 6, 6), (4, 3, 2, 2), {"stride": 2, "padding": 1}, 1),
    "depthwise": ((2, 4, 6, 5), (8, 1, 3, 2), {"groups": 4, "padding": 1, "stride": (1, 2)}, 0),
    "depthwise, dilation": ((2, 3, 9), (3, 1, 3), {"groups": 3, "dilation": 2}, 0),
    "depthwise, large kernel": ((1, 2, 9, 9), (2, 1, 8, 7), {"groups": 2}, 1),
    "2 groups": ((2, 4, 6, 5), (6, 2, 3, 2), {"groups": 2, "padding": (0, 1)}, 2),
    "17 groups": ((1, 34, 4, 3), (34, 2, 2, 2), {"groups": 17}, 0),
}


def function(module, weight_shape):
    return getattr(module, f"conv{len(weight_shape) - 2}d")


def both(weight_shape, **options):
    return tuple(lambda *arrays, f=function(m, weight_shape): f(*arrays, **options) for m in (ours, F))


def operations(f, *arrays):
    return str(jax.make_jaxpr(f)(*arrays)).count("conv_general_dilated[")


@pytest.mark.parametrize("case", FORMULATIONS)
def test_formulations(case):
    x, w, options, expected = FORMULATIONS[case]
    arrays = (normal(*x), normal(*w, seed=1), normal(w[0], seed=2))
    assert operations(both(w, **options)[0], *arrays) == expected
    assert_parity(*both(w, **options), *arrays)


@pytest.mark.parametrize("case", ["unpadded, strides, dilation", "one channel", "patches", "depthwise", "2 groups"])
def test_derivatives_of_every_order(case):
    x, w, options, _ = FORMULATIONS[case]
    with jax.enable_x64(True):
        arrays = (normal(*x, dtype="float64"), normal(*w, seed=1, dtype="float64"))
        assert_derivatives(both(w, **options)[0], *arrays)


@pytest.mark.parametrize("case", ["unpadded", "1x1, stride, padding, groups", "one channel", "depthwise", "2 groups"])
def test_other_platforms_take_one_operation(case, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    x, w, options, _ = FORMULATIONS[case]
    arrays = (normal(*x), normal(*w, seed=1), normal(w[0], seed=2))
    assert operations(both(w, **options)[0], *arrays) == 1
    assert_parity(*both(w, **options), *arrays)


@pytest.mark.parametrize("case", ["unpadded", "1x1", "one channel", "patches", "depthwise", "2 groups"])
def test_vmap(case):
    x, w, options, _ = FORMULATIONS[case]
    xs, ws = normal(3, *x), normal(3, *w, seed=1)
    f = both(w, **options)[0]
    gradient = jax.grad(lambda x, w: jnp.sum(jnp.sin(f(x, w))), 1)
    results = jax.jit(lambda xs, ws: [(jax.vmap(g)(xs, ws), jax.lax.map(lambda a: g(*a), (xs, ws))) for g in (f, gradient)])
    for together, one_by_one in results(xs, ws):
        np.testing.assert_allclose(together, one_by_one, rtol=1e-5, atol=1e-5)


def test_backward_pass_keeps_no_shifted_copies():
    x, w = normal(2, 8, 16, 16), normal(8, 1, 5, 5)
    _, vjp = jax.vjp(lambda x, w: ours.conv2d(x, w, padding=2, groups=8), x, w)
    assert sum(leaf.size for leaf in jax.tree.leaves(vjp)) <= 2 * x.size


@pytest.mark.parametrize("case", ["padded", "1x1", "one channel", "patches", "2 groups"])
def test_precision_follows_the_setting(case):
    x, w, options, _ = FORMULATIONS[case]
    arrays = (normal(*x), normal(*w))
    jaxprs = {}
    try:
        for level in ("highest", "medium", "highest"):
            set_float32_matmul_precision(level)
            jaxprs[level] = str(jax.make_jaxpr(both(w, **options)[0])(*arrays))
    finally:
        set_float32_matmul_precision("highest")
    assert "HIGHEST" in jaxprs["highest"]
    assert "HIGHEST" not in jaxprs["medium"]


@st.composite
def problems(draw):
    """Shapes and options, some of which do not fit together."""
    n = draw(st.sampled_from([1, 1, 2, 2, 3]))
    small = st.integers(1, 3)

    def spread(values):
        return draw(st.one_of(values, st.tuples(*[values] * n), st.tuples(values)))

    groups = draw(st.sampled_from([1, 1, 2, 3]))
    kernel = draw(st.tuples(*[small] * n))
    channels, outputs = draw(small), draw(small)
    padding = draw(st.sampled_from(["same", "valid"])) if draw(st.booleans()) else spread(st.integers(0, 2))
    stride = 1 if padding == "same" and draw(st.booleans()) else spread(small)
    batch = draw(st.sampled_from([(), (1,), (2,), (2,), (0,)]))
    x = (*batch, channels * groups, *draw(st.tuples(*[st.integers(2, 6)] * n)))
    options = {"stride": stride, "padding": padding, "dilation": spread(st.integers(1, 2)), "groups": groups}
    return x, (outputs * groups, channels, *kernel), draw(st.booleans()), options


@settings(max_examples=14, deadline=None, derandomize=True)
@given(problems())
@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
def test_outcome_for_any_arguments(problem):
    x, w, with_bias, options = problem
    arrays = [integers(*x), integers(*w, seed=1)] + [integers(w[0], seed=2)] * with_bias
    assert_same_outcome(*both(w, **options), *arrays)


@settings(max_examples=6, deadline=None, derandomize=True)
@given(problems().filter(lambda problem: problem[3]["padding"] != "same" and 0 not in problem[0]))
def test_gradients_for_any_arguments(problem):
    x, w, with_bias, options = problem
    arrays = [normal(*x), normal(*w, seed=1)] + [normal(w[0], seed=2)] * with_bias
    kernel = np.array(w[2:])
    options = options | {"padding": int(kernel.max())}  # so that it fits
    assert_parity(*both(w, **options), *arrays)


@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
@pytest.mark.parametrize("dilation", [1, 3])
def test_same_puts_the_odd_zero_on_the_right(dilation):
    x, w = jnp.arange(1.0, 9.0).reshape(1, 8), jnp.ones((1, 1, 2))
    y = ours.conv1d(x, w, padding="same", dilation=dilation)
    assert_parity(*both(w.shape, padding="same", dilation=dilation), x, w)
    assert y.shape == (1, 8) and y[0, -1] == (8 if dilation == 1 else 7)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64", "int32", "int8", "complex64"])
@pytest.mark.parametrize("case", ["padded", "one channel", "1x1"])
def test_dtypes(dtype, case):
    x, w, options, _ = FORMULATIONS[case]
    with jax.enable_x64(dtype == "float64"):
        arrays = [integers(*s, seed=i, dtype=dtype) for i, s in enumerate((x, w, w[:1]))]
        if dtype == "int32":  # which parity takes to torch as int64
            y, exact = (both(w, **options)[0](*(a.astype(d) for a in arrays)) for d in (dtype, "float32"))
            assert y.dtype == dtype and jnp.array_equal(y.astype("float32"), exact)
        else:
            assert_parity(*both(w, **options), *arrays)


def test_half_precision_sums_in_one_operation():
    f = both((4, 1, 3, 3))[0]
    assert operations(f, normal(1, 1, 5, 5, dtype="bfloat16"), normal(4, 1, 3, 3, dtype="bfloat16")) == 1


@pytest.mark.parametrize(("x", "w"), [((0, 4, 5, 5), (6, 4, 3, 3)), ((2, 0, 5, 5), (6, 0, 3, 3))])
def test_nothing_to_convolve(x, w):
    arrays = (jnp.zeros(x), jnp.zeros(w), normal(w[0]))
    assert_parity(*both(w), *arrays, gradients=[0, 1])


X, W = (2, 4, 8, 8), (6, 4, 3, 3)
REFUSED = {
    "channels": (X, (6, 3, 3, 3), {}),
    "rank of the input": ((8, 8), W, {}),
    "rank of the input, more": ((1, *X), W, {}),
    "rank of the weight": (X, (6, 4, 3), {}),
    "large kernel": (X, (6, 4, 9, 9), {}),
    "large dilated kernel": (X, W, {"dilation": 4}),
    "large kernel, no batch": ((0, 4, 2, 2), W, {}),
    "empty": ((2, 4, 0, 8), W, {"padding": 2}),
    "same, stride": (X, W, {"padding": "same", "stride": 2}),
    "unknown padding": (X, W, {"padding": "full"}),
    "negative padding": (X, W, {"padding": -1}),
    "padding, 3 numbers": (X, W, {"padding": (1, 1, 1)}),
    "padding, no number": (X, W, {"padding": ()}),
    "padding None": (X, W, {"padding": None}),
    "stride 0": (X, W, {"stride": 0}),
    "negative stride": (X, W, {"stride": (1, -1)}),
    "stride, 3 numbers": (X, W, {"stride": (1, 1, 1)}),
    "stride, float": (X, W, {"stride": 1.0}),
    "stride, bool": (X, W, {"stride": True}),
    "dilation 0": (X, W, {"dilation": 0}),
    "negative dilation": (X, W, {"dilation": -1}),
    "groups 0": (X, W, {"groups": 0}),
    "groups, float": (X, W, {"groups": 1.0}),
    "groups, channels": (X, (6, 2, 3, 3), {"groups": 3}),
    "groups, outputs": (X, (5, 2, 3, 3), {"groups": 2}),
    "more groups than outputs": (X, (1, 2, 3, 3), {"groups": 2}),
    "no outputs": (X, (0, 4, 3, 3), {}),
    "empty kernel": (X, (6, 4, 0, 3), {}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    x, w, options = REFUSED[case]
    assert_same_error(
        lambda: ours.conv2d(jnp.zeros(x), jnp.zeros(w), **options), lambda: F.conv2d(torch.zeros(x), torch.zeros(w), **options)
    )


@pytest.mark.parametrize("shape", [(5,), (6, 1), (1,), ()])
def test_bias_of_another_shape(shape):
    x, w = normal(*X), normal(*W)
    assert_same_error(
        lambda: ours.conv2d(x, w, jnp.zeros(shape)),
        lambda: F.conv2d(torch.zeros(X), torch.zeros(W), torch.zeros(shape)),
        match="bias",
    )


@pytest.mark.parametrize(
    "dtypes", [("float32", "bfloat16", "float32"), ("float32", "float32", "float16"), ("int32", "float32", "int32")]
)
def test_dtypes_that_differ(dtypes):
    arrays = [jnp.zeros(shape, dtype) for shape, dtype in zip((X, W, (6,)), dtypes)]
    tensors = [torch.zeros(shape, dtype=getattr(torch, dtype)) for shape, dtype in zip((X, W, (6,)), dtypes)]
    assert_same_error(lambda: ours.conv2d(*arrays), lambda: F.conv2d(*tensors), match="dtype")


def test_booleans():
    x, w = jnp.zeros(X, bool), jnp.zeros(W, bool)
    assert_same_error(lambda: ours.conv2d(x, w), lambda: F.conv2d(torch.zeros(X).bool(), torch.zeros(W).bool()))


def test_numpy_arrays_are_taken_and_tensors_refused():
    x, w = np.ones((1, 2, 4, 4), np.float32), np.ones((3, 2, 3, 3), np.float32)
    assert ours.conv2d(x, w).shape == (1, 3, 2, 2)
    with pytest.raises(TypeError, match=r"torch\.Tensor"):
        ours.conv2d(torch.tensor(x), w)


def test_a_string_for_padding_takes_a_bias_of_another_dtype():
    x, w, b = normal(1, 2, 5), normal(3, 2, 3, seed=1), integers(3, dtype="int32")
    assert_same_outcome(lambda *a: ours.conv1d(*a, padding="same"), lambda *a: F.conv1d(*a, padding="same"), x, w, b)


@pytest.mark.parametrize("pad", [0, 2, -1])
def test_time_first(pad):
    arrays = normal(6, 2, 3), normal(4, 3, 5, seed=1), normal(5, seed=2)
    assert_parity(
        lambda *a: ours.conv_tbc(*a, pad), lambda *a: F.conv_tbc(*a, pad), *arrays, gradients=[0, 1, 2] if pad >= 0 else []
    )


@pytest.mark.parametrize(
    ("x", "w", "b", "pad"),
    [
        ((6, 2, 3), (7, 3, 5), (5,), 0),
        ((6, 2, 3), (8, 3, 5), (5,), 0),
        ((6, 2), (4, 3, 5), (5,), 0),
        ((6, 2, 3), (4, 3), (5,), 0),
        ((6, 2, 3), (4, 2, 5), (5,), 0),
        ((6, 2, 3), (4, 3, 5), (4,), 0),
        ((6, 2, 3), (4, 3, 5), (1, 5), 0),
        ((6, 2, 3), (4, 3, 5), (5,), 1.0),
        ((0, 2, 3), (4, 3, 5), (5,), 2),
        ((6, 0, 3), (4, 3, 5), (5,), 0),
        ((6, 2, 0), (4, 0, 5), (5,), 0),
    ],
)
def test_outcome_for_time_first(x, w, b, pad):
    arrays = [integers(*shape, seed=i) for i, shape in enumerate((x, w, b))]
    assert_same_outcome(lambda *a: ours.conv_tbc(*a, pad), lambda *a: F.conv_tbc(*a, pad), *arrays)
