"""Penalties equal the formulas, and so do their gradients."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import objnet
from objnet import nn, optim
from objnet.optim import regularizers
from tests.optim.models import Linear, mean_square

X = jnp.ones((2, 3))
FORMULAS = {
    "l1": (lambda p: regularizers.l1(p, 0.3), lambda w: 0.3 * np.abs(w).sum(), lambda w: 0.3 * np.sign(w)),
    "l2": (lambda p: regularizers.l2(p, 0.3), lambda w: 0.3 * (w**2).sum(), lambda w: 0.6 * w),
    "elastic net": (
        lambda p: regularizers.elastic_net(p, 0.3, 0.2),
        lambda w: 0.3 * np.abs(w).sum() + 0.2 * (w**2).sum(),
        lambda w: 0.3 * np.sign(w) + 0.4 * w,
    ),
}


def _values(model):
    return {name: np.array(p._read(), np.float64) for name, p in model.named_parameters()}


@pytest.mark.parametrize("which", list(FORMULAS))
def test_value_and_gradient(which):
    penalty, formula, derivative = FORMULAS[which]
    for compiled in (False, True):
        model = Linear(3, 2)
        model.bias.data.add_(0.5)
        values = _values(model)
        loss = lambda: penalty(model.parameters())
        found = objnet.jit(loss)() if compiled else loss()
        np.testing.assert_allclose(found, sum(map(formula, values.values())), rtol=1e-6)
        assert found.shape == () and found.dtype == jnp.float32
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        step = lambda: optimizer.step(loss)
        (objnet.jit(step) if compiled else step)()
        for name, p in model.named_parameters():
            np.testing.assert_allclose(p._read(), values[name] - 0.1 * derivative(values[name]), rtol=1e-5)


def test_half_of_weight_decay():
    def trained(**options):
        model = Linear(3, 2)
        optimizer = optim.SGD(model.parameters(), lr=0.1, weight_decay=options.get("decay", 0.0))
        extra = (lambda: regularizers.l2(model.parameters(), 0.05)) if "decay" not in options else (lambda: 0.0)
        for _ in range(3):
            optimizer.step(lambda: mean_square(model(X)) + extra())
        return model.weight._read()

    np.testing.assert_allclose(trained(), trained(decay=0.1), rtol=1e-5)


def test_some_by_name_and_other_dtypes():
    model = Linear(3, 2)
    model.bias.data.add_(0.5)
    weights = [(name, p) for name, p in model.named_parameters() if not name.endswith("bias")]
    np.testing.assert_allclose(regularizers.l1(weights), np.abs(_values(model)["weight"]).sum(), rtol=1e-6)
    half = nn.Parameter(jnp.full(5000, 1.0, jnp.float16))
    total = regularizers.l2(iter([half, *model.parameters()]), jnp.asarray(2.0))
    assert total.dtype == jnp.float32
    np.testing.assert_allclose(total, 2 * (5000 + sum((v**2).sum() for v in _values(model).values())), rtol=1e-6)
    assert regularizers.elastic_net(iter([half])) == 10000
    assert regularizers.l2([nn.Parameter(jnp.asarray([3 + 4j], jnp.complex64))]) == 25


def test_what_it_refuses():
    model = Linear(3, 2)
    used = iter(model.parameters())
    list(used)
    with pytest.raises(ValueError, match="l1 got no parameters"):
        regularizers.l1(used)
    with pytest.raises(TypeError, match=r"pass model\.parameters\(\)"):
        regularizers.l2(model)
    with pytest.raises(TypeError, match=r"pass \[parameter\]"):
        regularizers.l2(model.weight)
    with pytest.raises(TypeError, match="l1 takes Parameters"):
        regularizers.elastic_net([jnp.ones(2)])
