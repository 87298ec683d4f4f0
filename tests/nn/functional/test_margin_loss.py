"""Losses with margins, of embeddings and of distributions against torch, over their arguments; refusals; kinks."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

import objnet.nn.functional as ours  # noqa: E402
from tests.nn.parity import assert_close, assert_derivatives, assert_parity, assert_same_error, to_torch  # noqa: E402

F = torch.nn.functional
INF, NAN = float("inf"), float("nan")
REDUCTIONS = st.sampled_from(["none", "mean", "sum"])
X, Y, Z = (jnp.asarray(np.random.RandomState(s).randn(3, 4), jnp.float32) for s in range(3))
P = jnp.asarray(np.random.RandomState(4).uniform(0.1, 0.9, (3, 4)), jnp.float32)
SIGN = jnp.where(X > 0, 1.0, -1.0)
CLASSES = jnp.asarray([0, 3, 2])
LISTS = jnp.asarray([[3, 0, -1, 1], [0, -1, -1, -1], [-1, 2, 2, 0]])
VARIANCE = jnp.abs(Z) + 0.1

# each with arguments for every option it has
CASES = {
    "margin_ranking_loss": ((X, Y, SIGN), {"margin": [0, 0.5]}),
    "hinge_embedding_loss": ((X, SIGN), {"margin": [1.0, 0.3]}),
    "soft_margin_loss": ((X, SIGN), {}),
    "multi_margin_loss": ((X, CLASSES), {"p": [1, 2], "margin": [1.0, 0.2], "weight": [None, P[0]]}),
    "multilabel_margin_loss": ((X, LISTS), {}),
    "multilabel_soft_margin_loss": ((X, P), {"weight": [None, P[0], P[:, :1]]}),
    "cosine_embedding_loss": ((X, Y, SIGN[:, 0]), {"margin": [0, 0.1, -0.2]}),
    "triplet_margin_loss": ((X, Y, Z), {"margin": [1.0, 0.1], "p": [2, 1, 3.5, INF], "eps": [1e-6, 0.1], "swap": [False, True]}),
    "triplet_margin_with_distance_loss": ((X, Y, Z), {"margin": [1.0, 0.1], "swap": [False, True]}),
    "kl_div": ((X, P), {"log_target": [False, True], "reduction": ["batchmean", "none", "sum"]}),
    "poisson_nll_loss": ((X, 4 * P), {"log_input": [True], "full": [False, True], "eps": [1e-8, 0.1]}),
    "gaussian_nll_loss": ((X, Y, VARIANCE), {"full": [False, True], "eps": [1e-6, 0.5]}),
}


def both(name, **options):
    theirs = {k: to_torch(v) if isinstance(v, jax.Array) else v for k, v in options.items()}
    return lambda *a: getattr(ours, name)(*a, **options), lambda *a: getattr(F, name)(*a, **theirs)


@settings(max_examples=12, deadline=None)
@given(data=st.data(), name=st.sampled_from(list(CASES)), reduction=REDUCTIONS, dtype=st.sampled_from(["float32", "bfloat16"]))
def test_options(data, name, reduction, dtype):
    arrays, choices = CASES[name]
    options = {"reduction": reduction} | {k: data.draw(st.sampled_from(v), label=k) for k, v in choices.items()}
    if dtype == "bfloat16" and ("multi_margin" in name or "multilabel_margin" in name):
        dtype = "float32"  # torch has no other on CPU
    arrays = [a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a for a in arrays]
    options = {k: v.astype(dtype) if isinstance(v, jax.Array) else v for k, v in options.items()}
    tolerances = {} if dtype == "float32" else {"rtol": 6e-2, "atol": 6e-2}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gradients = [i for i, a in enumerate(arrays) if a.dtype == dtype and not (a is arrays[-1] and name in SIGNED)]
        assert_parity(*both(name, **options), *arrays, gradients=gradients, **tolerances)


SIGNED = ("hinge_embedding_loss", "soft_margin_loss", "cosine_embedding_loss")  # whose targets torch has no gradient for


@pytest.mark.parametrize(
    ("name", "arrays"),
    [
        ("margin_ranking_loss", (X, Y[:1], SIGN)),
        ("margin_ranking_loss", (X[0, 0], Y[0, 0], SIGN[0, 0])),
        ("hinge_embedding_loss", (X, SIGN[0])),
        ("hinge_embedding_loss", (X[0], SIGN)),
        ("soft_margin_loss", (X, SIGN[0])),
        ("multi_margin_loss", (X[0], CLASSES[0])),
        ("multi_margin_loss", (X[0], CLASSES[:1])),
        ("multi_margin_loss", (X[:1], CLASSES[0])),
        ("multi_margin_loss", (X[0, 0], CLASSES[0])),
        ("multilabel_margin_loss", (X[0], LISTS[0])),
        ("multilabel_margin_loss", (X[0, 0], LISTS[1, :1] * 0)),
        ("multilabel_soft_margin_loss", (X[0], P)),
        ("multilabel_soft_margin_loss", (X[:, :0], P[:, :0])),
        ("cosine_embedding_loss", (X[0], Y[0], SIGN[0, 0])),
        ("cosine_embedding_loss", (X, Y[:1], SIGN[:, 0])),
        ("cosine_embedding_loss", (X * 0, Y * 0, SIGN[:, 0])),
        ("triplet_margin_loss", (X, Y[:1], Z)),
        ("triplet_margin_loss", (X[0], Y[0], Z[0])),
        ("triplet_margin_loss", (X, X, X)),
        ("gaussian_nll_loss", (X, Y, VARIANCE[:, 0])),
        ("gaussian_nll_loss", (X, Y, VARIANCE[:1])),
        ("gaussian_nll_loss", (X, Y[0], VARIANCE * 0)),
        ("poisson_nll_loss", (X, P[0])),
        ("kl_div", (X[0], P)),
    ],
)
def test_shapes(name, arrays):
    differentiated = range(len(arrays) - (name in SIGNED or arrays[-1].dtype == jnp.int32))
    assert_parity(*both(name, reduction="none"), *arrays, gradients=list(differentiated))


@pytest.mark.parametrize("name", [n for n in CASES if n not in ("multi_margin_loss", "multilabel_margin_loss")])
def test_mean_over_nothing(name):
    arrays = [a[:0] for a in CASES[name][0]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_parity(*both(name), *arrays, gradients=())


def test_mean_over_no_samples_of_classes():
    for name in ("multi_margin_loss", "multilabel_margin_loss"):  # torch gives what was in memory
        x, t = (a[:0] for a in CASES[name][0])
        assert np.isnan(getattr(ours, name)(x, t))
        assert getattr(ours, name)(x, t, reduction="sum") == 0


def test_kinks():
    """A hinge has slope 1 where it begins, as torch's clamp; those of the two class losses have none."""
    half, one = jnp.full((2, 2), 0.5), jnp.ones((2, 2))
    assert_parity(*both("margin_ranking_loss", margin=1.0, reduction="sum"), one, half * 0, one, gradients=(0, 1))
    assert_parity(*both("hinge_embedding_loss", margin=0.5, reduction="sum"), half, -one, gradients=(0,))
    assert_parity(*both("hinge_embedding_loss", reduction="none"), half, jnp.asarray([[0.0, 7.0], [1.0, -1.0]]), gradients=(0,))
    assert_parity(*both("multi_margin_loss", margin=0.5, reduction="sum"), jnp.asarray([[0.5, 0.0]]), jnp.asarray([0]))
    assert_parity(*both("multilabel_margin_loss", reduction="sum"), jnp.asarray([[1.0, 0.0]]), jnp.asarray([[0, -1]]))
    assert_parity(*both("cosine_embedding_loss", margin=0.0, reduction="sum"), one[:1], jnp.asarray([[1.0, -1.0]]), -one[0, :1],
                  gradients=(0, 1))  # fmt: skip


def test_far_out():
    x = jnp.asarray([30.0, -30.0, 1e-3, 80.0, -80.0])
    assert_parity(*both("soft_margin_loss", reduction="none"), x, jnp.ones(5), gradients=(0,))
    value, gradient = jax.value_and_grad(ours.soft_margin_loss)(jnp.asarray([-200.0]), jnp.ones(1))
    assert (value, gradient) == (200, -1)  # infinite and NaN in torch
    assert_parity(*both("multilabel_soft_margin_loss", reduction="none"), jnp.stack([x * 4]), jnp.asarray([[1.0, 0, 0, 1, 0]]))
    logs, probabilities = jnp.asarray([-1.0, -1.0, -1.0, -INF, -INF]), jnp.asarray([-0.5, 0.0, NAN, 0.0, 1.0])
    assert_parity(*both("kl_div", reduction="none"), logs, probabilities)


def test_small_counts():
    x, t = jnp.zeros(5), jnp.asarray([0.0, 1.0, 1.5, 3.0, -1.0])
    assert_parity(*both("poisson_nll_loss", full=True, reduction="none"), x, t)  # NaN gradients too
    assert_parity(*both("poisson_nll_loss", log_input=False, reduction="none"), t + 1, t)


def test_scalar_variances():
    for variance in (0.5, np.float64(0.5), 0.0):
        assert_close(ours.gaussian_nll_loss(X, Y, variance), F.gaussian_nll_loss(to_torch(X), to_torch(Y), float(variance)))
    assert_close(jax.jit(ours.gaussian_nll_loss)(X, Y, 0.5), F.gaussian_nll_loss(to_torch(X), to_torch(Y), 0.5))
    assert np.isnan(jax.jit(ours.gaussian_nll_loss)(X, Y, -VARIANCE))


DTYPES = ["float32", "bfloat16", "int32", "bool", "complex64"]
PAIRS = [(a, b) for a in DTYPES for b in DTYPES]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["margin_ranking_loss", "hinge_embedding_loss", "kl_div", "poisson_nll_loss",
                                  "cosine_embedding_loss", "multilabel_soft_margin_loss", "soft_margin_loss"])  # fmt: skip
def test_dtypes(name):
    """The same dtypes taken, with the same result; complex numbers are refused wherever torch's own result is complex."""
    rows = 2 * jnp.eye(2)
    for first, second in PAIRS:
        arrays = [rows.astype(first)] * (2 if "input2" in getattr(F, name).__annotations__ else 1)
        arrays.append(jnp.ones(2 if "cosine" in name else (2, 2)).astype(second))
        mine, theirs = both(name, reduction="none")
        try:
            expected = theirs(*map(to_torch, arrays))
        except Exception:
            assert_same_error(lambda: mine(*arrays), lambda: theirs(*map(to_torch, arrays)))
            continue
        if expected.is_complex():
            with pytest.raises(NotImplementedError):
                mine(*arrays)
        else:
            assert_close(mine(*arrays), expected.int() if expected.dtype == torch.int64 else expected, rtol=1e-2)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("name", "arguments", "options"),
    [
        *((name, CASES[name][0], {"reduction": "average"}) for name in CASES),
        ("poisson_nll_loss", (X, P), {"reduction": "elementwise_mean"}),
        ("gaussian_nll_loss", (X, Y, VARIANCE), {"reduction": "elementwise_mean"}),
        ("multilabel_soft_margin_loss", (X, P), {"reduction": "elementwise_mean"}),
        ("triplet_margin_with_distance_loss", (X, Y, Z), {"reduction": "elementwise_mean"}),
        ("margin_ranking_loss", (X, Y[0], SIGN), {}),
        ("margin_ranking_loss", (X, Y[:2], SIGN), {}),
        ("hinge_embedding_loss", (X, SIGN[:2]), {}),
        ("hinge_embedding_loss", (X.astype(int), SIGN), {}),
        ("soft_margin_loss", (X, SIGN[:2]), {}),
        ("soft_margin_loss", (X[0], SIGN), {}),
        ("soft_margin_loss", (X.astype(int), SIGN), {}),
        ("multi_margin_loss", (X, CLASSES + 1), {}),
        ("multi_margin_loss", (X, CLASSES - 1), {}),
        ("multi_margin_loss", (X, CLASSES[:2]), {}),
        ("multi_margin_loss", (X, CLASSES[:, None]), {}),
        ("multi_margin_loss", (X, CLASSES.astype(float)), {}),
        ("multi_margin_loss", (X.astype(int), CLASSES), {}),
        ("multi_margin_loss", (X[None], CLASSES), {}),
        ("multi_margin_loss", (X[:, :0], CLASSES), {}),
        ("multi_margin_loss", (X, CLASSES), {"p": 3}),
        ("multi_margin_loss", (X, CLASSES), {"weight": X}),
        ("multi_margin_loss", (X, CLASSES), {"weight": X[0, :3]}),
        ("multi_margin_loss", (X, CLASSES), {"weight": X[0].astype(jnp.bfloat16)}),
        ("multilabel_margin_loss", (X, LISTS + 1), {}),
        ("multilabel_margin_loss", (X, LISTS - 1), {}),
        ("multilabel_margin_loss", (X, LISTS[:, :3]), {}),
        ("multilabel_margin_loss", (X, LISTS.astype(float)), {}),
        ("multilabel_margin_loss", (X.astype(int), LISTS), {}),
        ("multilabel_margin_loss", (X[None], LISTS[None]), {}),
        ("multilabel_soft_margin_loss", (X[0, 0], P[0, 0]), {}),
        ("multilabel_soft_margin_loss", (X, P), {"weight": X[0, :2]}),
        ("multilabel_soft_margin_loss", (X, P > 0), {}),
        ("multilabel_soft_margin_loss", (X.astype(int), P), {}),
        ("cosine_embedding_loss", (X, Y, SIGN), {}),
        ("cosine_embedding_loss", (X, Y, SIGN[0, 0]), {}),
        ("cosine_embedding_loss", (X, Y[0], SIGN[:, 0]), {}),
        ("cosine_embedding_loss", (X, Y[:, :3], SIGN[:, 0]), {}),
        ("cosine_embedding_loss", (X, Y, SIGN[:2, 0]), {}),
        ("triplet_margin_loss", (X, Y[0], Z), {}),
        ("triplet_margin_loss", (X, Y[:2], Z), {}),
        ("triplet_margin_loss", (X, Y, Z), {"margin": 0}),
        ("triplet_margin_with_distance_loss", (X, Y[0], Z), {}),
        ("triplet_margin_with_distance_loss", (X, Y, Z), {"margin": -1.0}),
        ("kl_div", (X, P[:2]), {}),
        ("kl_div", (X.astype(int), P), {}),
        ("poisson_nll_loss", (X, P[:2]), {}),
        ("gaussian_nll_loss", (X, Y, VARIANCE[0]), {}),
        ("gaussian_nll_loss", (X, Y, VARIANCE[:1, :1]), {}),
        ("gaussian_nll_loss", (X, Y, -VARIANCE), {}),
        ("gaussian_nll_loss", (X, Y, VARIANCE.astype(int)), {}),
        ("gaussian_nll_loss", (X, Y[:2], VARIANCE), {}),
    ],
)
def test_refusals(name, arguments, options):
    mine, theirs = both(name, **options)
    assert_same_error(lambda: mine(*arguments), lambda: theirs(*map(to_torch, arguments)))


def test_variances_refused():
    for variance in (-0.5, 1, True):
        assert_same_error(
            lambda: ours.gaussian_nll_loss(X, Y, variance), lambda: F.gaussian_nll_loss(to_torch(X), to_torch(Y), variance)
        )


@pytest.mark.parametrize(("name", "target"), [("multi_margin_loss", CLASSES), ("multilabel_margin_loss", LISTS)])
def test_classes_that_do_not_exist_in_compiled_code(name, target):
    wrong = target.at[(1,) * target.ndim].set(4)
    loss = lambda x, t: getattr(ours, name)(x, t, reduction="none")
    np.testing.assert_array_equal(np.isnan(jax.jit(loss)(X, wrong)), [False, True, False])
    gradient = jax.jit(jax.grad(lambda x, t: loss(x, t).sum()))(X, wrong)
    np.testing.assert_array_equal(np.isnan(gradient).any(1), [False, True, False])


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", [n for n in CASES if n not in ("gaussian_nll_loss", "triplet_margin_with_distance_loss")])
def test_legacy_flags(name):
    for flags in [(True, None), (False, None), (None, False), (False, True)]:
        options = dict(zip(("size_average", "reduce"), flags), reduction="batchmean" if name == "kl_div" else "nonsense")
        mine, theirs = both(name, **options)
        arrays = CASES[name][0]
        assert_close(mine(*arrays), theirs(*map(to_torch, arrays)))
        with pytest.warns(UserWarning, match="pass reduction="):
            mine(*arrays)


def test_the_mean_of_a_divergence_warns():
    with pytest.warns(UserWarning, match="batchmean") as caught:
        assert_close(ours.kl_div(X, P), F.kl_div(to_torch(X), to_torch(P)))
    assert caught[0].filename == __file__


def test_any_distance():
    taxi, module = lambda x, y: abs(x - y).sum(-1), torch.nn.PairwiseDistance(p=1)
    options = {"swap": True, "margin": 0.3}
    assert_parity(
        lambda *a: ours.triplet_margin_with_distance_loss(*a, distance_function=taxi, **options),
        lambda *a: F.triplet_margin_with_distance_loss(*a, distance_function=module, **options),
        X, Y, Z, rtol=1e-4, atol=1e-4,
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", list(CASES))
def test_derivatives(name):
    with jax.enable_x64(True):
        arrays = [a.astype("float64") if a.dtype == jnp.float32 else a for a in CASES[name][0]]
        moving = arrays[: 2 if name in ("margin_ranking_loss", "cosine_embedding_loss") else 3 if "triplet" in name else 1]
        assert_derivatives(lambda *a: getattr(ours, name)(*a, *arrays[len(a) :], reduction="none"), *moving, rtol=1e-4)
