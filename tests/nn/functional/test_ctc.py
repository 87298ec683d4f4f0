"""Connectionist temporal classification against torch, over lengths, layouts of targets and options; against enumeration."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import objnet.nn.functional as ours  # noqa: E402
from tests.nn.parity import assert_close, assert_derivatives, assert_parity, assert_same_error, to_torch  # noqa: E402

F = torch.nn.functional
CLASSES, FRAMES, SAMPLES, LABELS = 4, 6, 3, 3
LP = jax.nn.log_softmax(jnp.asarray(np.random.RandomState(0).randn(FRAMES, SAMPLES, CLASSES), jnp.float32) * 2)
T = jnp.asarray([[1, 2, 1], [3, 3, 1], [2, 1, 0]])
FULL, SOME = (6, 6, 6), (3, 2, 1)


@pytest.mark.parametrize(
    ("blank", "reduction", "zero_infinity", "row"), [(0, "none", False, False), (2, "mean", True, True), (3, "sum", True, False)]
)
def test_lengths(blank, reduction, zero_infinity, row):
    """One program for all lengths, impossible ones too; repeats among the labels."""
    options = {"blank": blank, "reduction": reduction, "zero_infinity": zero_infinity}

    @jax.jit
    def program(x, targets, frames, counts, cotangent):
        loss, vjp = jax.vjp(lambda x: ours.ctc_loss(x, targets, frames, counts, **options), x)
        return loss, vjp(cotangent)[0]

    for seed in range(20):
        random = np.random.RandomState(seed)
        labels = (blank + random.randint(1, CLASSES, (SAMPLES, LABELS))) % CLASSES
        frames = random.randint(0, FRAMES + 1, SAMPLES)
        counts = random.randint(0, LABELS + 1, SAMPLES)
        targets = np.concatenate([line[:n] for line, n in zip(labels, counts)]) if row else labels
        padded = np.pad(targets, (0, SAMPLES * LABELS - len(targets))) if row else targets  # the same shape for all
        x = to_torch(LP).requires_grad_()
        expected = F.ctc_loss(x, torch.tensor(targets), tuple(map(int, frames)), tuple(map(int, counts)), **options)
        cotangent = np.asarray(random.randn(*expected.shape), np.float32)
        expected.backward(torch.tensor(cotangent))
        loss, gradient = program(LP, jnp.asarray(padded), jnp.asarray(frames), jnp.asarray(counts), jnp.asarray(cotangent))
        assert_close(loss, expected)
        assert_close(gradient, x.grad)


@pytest.mark.parametrize("layout", ["padded", "one row", "arrays"])
def test_layouts(layout):
    counts = (3, 0, 2)
    targets = jnp.concatenate([line[:n] for line, n in zip(T, counts)]) if layout == "one row" else T
    lengths = tuple(map(jnp.asarray, (FULL, counts))) if layout == "arrays" else (FULL, counts)
    assert_parity(lambda x: ours.ctc_loss(x, targets, *lengths), lambda x: F.ctc_loss(x, to_torch(targets), FULL, counts), LP)


def test_without_a_batch():
    for targets, frames, counts in [(T[0], jnp.asarray(6), jnp.asarray(3)), (T[:1], (5,), (3,))]:
        for reduction in ("none", "mean"):
            theirs = [to_torch(a) if isinstance(a, jax.Array) else a for a in (targets, frames, counts)]
            assert_parity(
                lambda x: ours.ctc_loss(x, targets, frames, counts, reduction=reduction),
                lambda x: F.ctc_loss(x, *theirs, reduction=reduction),
                LP[:, 0],
            )


def test_against_all_alignments():
    log_probs = LP[:4, :1]
    for labels in ([1, 1], [2], []):
        total = 0.0
        for path in itertools.product(range(CLASSES), repeat=4):
            kept = [c for i, c in enumerate(path) if c and (i == 0 or path[i - 1] != c)]
            if kept == labels:
                total += np.exp(sum(float(log_probs[t, 0, c]) for t, c in enumerate(path)))
        loss = ours.ctc_loss(log_probs, jnp.asarray([labels], int), (4,), (len(labels),), reduction="sum")
        np.testing.assert_allclose(loss, -np.log(total), rtol=1e-5)


def test_impossible_log_probabilities():
    """A class that cannot be leaves the gradient finite where another path is left."""
    log_probs = LP.at[2, 0, 1].set(-jnp.inf)
    loss, gradient = jax.value_and_grad(lambda x: ours.ctc_loss(x, T, FULL, SOME))(log_probs)
    assert_close(loss, F.ctc_loss(to_torch(log_probs), to_torch(T), FULL, SOME))
    assert np.isfinite(gradient).all()


def test_long_sequences_keep_their_digits():
    """Log-likelihoods of some hundreds in float32, against torch in float64."""
    random = np.random.RandomState(1)
    raw, labels = random.randn(120, 2, 8), random.randint(1, 8, (2, 30))
    wide = torch.tensor(raw).log_softmax(-1).requires_grad_()
    expected = F.ctc_loss(wide, torch.tensor(labels), (120, 120), (30, 30), reduction="sum")
    expected.backward()
    log_probs = jnp.asarray(wide.detach().numpy(), jnp.float32)
    loss, gradient = jax.jit(jax.value_and_grad(lambda x: ours.ctc_loss(x, labels, (120, 120), (30, 30), reduction="sum")))(
        log_probs
    )
    np.testing.assert_allclose(loss, expected.item(), rtol=1e-6)
    np.testing.assert_allclose(gradient, wide.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "bool", "float32"])
def test_dtypes_of_targets(dtype):
    targets = jnp.minimum(T, 1).astype(dtype)
    assert_close(ours.ctc_loss(LP, targets, FULL, SOME), F.ctc_loss(to_torch(LP), to_torch(targets), FULL, SOME))


def test_half_precision():
    loss = ours.ctc_loss(LP.astype(jnp.bfloat16), T, FULL, SOME)
    assert loss.dtype == jnp.bfloat16
    np.testing.assert_allclose(float(loss), float(ours.ctc_loss(LP, T, FULL, SOME)), rtol=2e-2)


def with_lengths(frames, counts):
    return lambda module, adapt: module.ctc_loss(adapt(LP), adapt(T), frames, counts)


BAD = {
    "long frames": with_lengths((7, 6, 6), SOME),
    "negative frames": with_lengths((-1, 6, 6), SOME),
    "negative count": with_lengths(FULL, (-1, 2, 1)),
    "long count": with_lengths(FULL, (4, 2, 1)),
    "few frames": with_lengths((6, 6), SOME),
    "few counts": with_lengths(FULL, (3, 2)),
    "float in a tuple": with_lengths((6.0, 6, 6), SOME),
    "float lengths": lambda m, a: m.ctc_loss(a(LP), a(T), a(jnp.full(3, 6.0)), a(jnp.asarray(SOME))),
    "blank": lambda m, a: m.ctc_loss(a(LP), a(T), FULL, SOME, blank=CLASSES),
    "negative blank": lambda m, a: m.ctc_loss(a(LP), a(T), FULL, SOME, blank=-1),
    "reduction": lambda m, a: m.ctc_loss(a(LP), a(T), FULL, SOME, reduction="average"),
    "few targets": lambda m, a: m.ctc_loss(a(LP), a(T[:2]), FULL, SOME),
    "3-d targets": lambda m, a: m.ctc_loss(a(LP), a(T[None]), FULL, SOME),
    "short row": lambda m, a: m.ctc_loss(a(LP), a(jnp.asarray([1, 2, 3])), FULL, SOME),
    "long row": lambda m, a: m.ctc_loss(a(LP), a(jnp.ones(7, int)), FULL, SOME),
    "1-d": lambda m, a: m.ctc_loss(a(LP[0, 0]), a(T[0]), (6,), (3,)),
    "4-d": lambda m, a: m.ctc_loss(a(LP[None]), a(T), FULL, SOME),
    "no frames": lambda m, a: m.ctc_loss(a(LP[:0]), a(T), (0, 0, 0), SOME),
    "no samples": lambda m, a: m.ctc_loss(a(LP[:, :0]), a(T[:0]), (), ()),
    "integers": lambda m, a: m.ctc_loss(a(LP.astype(int)), a(T), FULL, SOME),
}


@pytest.mark.parametrize("case", list(BAD))
def test_refusals(case):
    assert_same_error(lambda: BAD[case](ours, lambda x: x), lambda: BAD[case](F, to_torch))


def test_labels_and_lengths_that_cannot_be_seen():
    with pytest.raises(IndexError, match="label 4"):
        ours.ctc_loss(LP, T.at[0, 0].set(4), FULL, SOME)
    loss = jax.jit(lambda t, a, b: ours.ctc_loss(LP, t, a, b, reduction="none"))
    frames, counts = jnp.asarray(FULL), jnp.asarray(SOME)
    np.testing.assert_array_equal(np.isnan(loss(T.at[0, 0].set(4), frames, counts)), [True, False, False])
    np.testing.assert_array_equal(np.isnan(loss(T.at[2, 2].set(4), frames, counts)), False)  # beyond its length
    np.testing.assert_array_equal(np.isnan(loss(T, frames.at[1].set(7), counts)), [False, True, False])
    np.testing.assert_array_equal(np.isnan(loss(T, frames, counts.at[1].set(-1))), [False, True, False])


def test_derivatives_after_log_softmax():
    """Every order, where torch has the first only; the first is the true one once the softmax is behind it."""
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.RandomState(0).randn(4, 2, 3))
        targets = jnp.asarray([[1, 1], [2, 0]])  # the second with a blank among the labels, where torch's gradient is another
        assert_derivatives(lambda x: ours.ctc_loss(jax.nn.log_softmax(x), targets, (4, 3), (2, 2), reduction="none"), x)


def test_vmap():
    each = jax.vmap(lambda x, t, n, m: ours.ctc_loss(x, t, n, m, reduction="none"), (1, 0, 0, 0))
    result = each(LP, T, jnp.asarray(FULL), jnp.asarray(SOME))
    np.testing.assert_allclose(result, ours.ctc_loss(LP, T, FULL, SOME, reduction="none"), rtol=1e-5)
