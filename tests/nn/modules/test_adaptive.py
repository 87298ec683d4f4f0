"""Adaptive softmax against torch's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from objnet.transforms.jit import jit  # noqa: E402
from tests.nn.module_parity import build, check_attributes, check_module, check_refused, converted  # noqa: E402

NAME = "AdaptiveLogSoftmaxWithLoss"
X = torch.randn(6, 16)
TARGET = torch.tensor([0, 9, 3, 5, 2, 9])  # every cluster


@pytest.mark.parametrize(("cutoffs", "options"), [([3, 6], {}), ([1], {"head_bias": True, "div_value": 2.0})])
def test_adaptive_softmax(cutoffs, options):
    check_module(NAME, 16, 10, cutoffs, inputs=(X, TARGET), **options)


def test_without_a_batch():
    pair = build(NAME, 16, 10, [3, 6])
    for row in (0, 1, 3):
        ours, theirs = pair.ours(*converted((X[row], TARGET[row]))), pair.theirs(X[row], TARGET[row])
        assert ours._fields == theirs._fields
        assert ours.output.shape == ()
        for name in ours._fields:
            np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name).detach(), rtol=1e-5)


def test_all_classes():
    pair = build(NAME, 16, 10, [3, 6])
    ours, theirs = pair
    x = X * 5
    np.testing.assert_allclose(jit(lambda x: ours.log_prob(x))(converted(x)), theirs.log_prob(x).detach(), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(jit(lambda x: ours.predict(x))(converted(x)), theirs.predict(x))
    np.testing.assert_allclose(jax.scipy.special.logsumexp(ours.log_prob(converted(x)), 1), np.zeros(6), atol=1e-5)


def test_reset_parameters_draws_again():
    pair = build(NAME, 16, 10, [3, 6])
    pair.ours.reset_parameters()
    pair.theirs.reset_parameters()
    check_attributes(pair)


def test_a_class_that_does_not_exist():
    for wrong in (10, -1):
        check_refused(NAME, 16, 10, [3, 6], inputs=(X, torch.full((6,), wrong)), match=str(wrong))
        target = jnp.asarray(converted(TARGET)).at[2].set(wrong)
        out = jit(build(NAME, 16, 10, [3, 6]).ours)(converted(X), target)
        np.testing.assert_array_equal(np.isnan(out.output), np.arange(6) == 2)


def test_refusals():
    for cutoffs in ([], [3, 3], [6, 3], [0], [10], [1.5]):
        check_refused(NAME, 16, 10, cutoffs)
    for inputs in [(X, TARGET[:3]), (X[0], TARGET[:1]), (X, TARGET[0]), (X, TARGET[:, None])]:
        check_refused(NAME, 16, 10, [3], inputs=inputs)
