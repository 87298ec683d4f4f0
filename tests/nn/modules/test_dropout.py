"""Dropout modules: the mode, the arguments, and fresh masks; the functions themselves are tested with the functionals."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from objnet import nn  # noqa: E402
from objnet.core import errors  # noqa: E402
from objnet.transforms.jit import jit  # noqa: E402
from objnet.transforms.pure import transform_with_state  # noqa: E402
from tests.nn.module_parity import (  # noqa: E402
    build,
    check_attributes,
    check_copies,
    check_forward,
    check_module,
    check_refused,
    check_signature,
)

SHAPES = {
    "Dropout": (40, 30),
    "Dropout1d": (4, 300, 2),
    "Dropout2d": (4, 300, 2, 1),
    "Dropout3d": (4, 300, 1, 2, 1),
    "AlphaDropout": (40, 30),
    "FeatureAlphaDropout": (4, 300, 2),
}


@pytest.mark.parametrize("name", SHAPES)
def test_dropout(name):
    check_signature(name)
    pair = build(name, 0.4, inplace=False)
    check_attributes(pair)
    check_copies(pair)
    x = torch.randn(SHAPES[name])
    for module in pair:
        module.eval()
    check_forward(pair, x)
    layer = pair.ours.train()
    ones = jnp.ones(SHAPES[name])
    compiled = jit(layer)
    first, second = np.asarray(compiled(ones)), np.asarray(compiled(ones))
    assert not np.array_equal(first, second)  # a new mask at every call of one program
    assert not np.array_equal(np.asarray(layer(ones)), first)  # and eagerly
    with torch.no_grad():
        kept = np.unique(pair.theirs.train()(torch.ones(SHAPES[name])).numpy())
    np.testing.assert_allclose(np.unique(first), kept, rtol=1e-5, atol=1e-6)
    dropped = np.isclose(first, kept[0], atol=1e-4)
    assert 0.3 < dropped.mean() < 0.5
    by_channel = dropped.reshape(*dropped.shape[:2], -1)
    assert name in ("Dropout", "AlphaDropout") or (by_channel.all(-1) | ~by_channel.any(-1)).all()


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("p", [0, 1])
def test_certain(name, p):
    check_module(name, p, inputs=(torch.randn(SHAPES[name])[:, :3],), vmap=False)


@settings(max_examples=8, deadline=None)
@given(st.sampled_from(sorted(SHAPES)), st.floats(0, 1), st.booleans())
def test_arguments(name, p, inplace):
    check_attributes(build(name, p, inplace))


def test_the_pure_form_takes_a_key():
    net = transform_with_state(nn.Dropout(0.5))
    x = jnp.ones((50, 4))
    state = net.init(None)
    with pytest.raises(errors.MissingRngError):
        net.apply(*state, None, x)
    masks = [np.asarray(net.apply(*state, jax.random.key(i), x)[0]) for i in (0, 0, 1)]
    assert np.array_equal(masks[0], masks[1])
    assert not np.array_equal(masks[0], masks[2])


def test_refusals():
    for p in (-0.1, 1.5, float("inf")):
        check_refused("Dropout", p, match="dropout probability has to be between 0 and 1")
    check_refused("Dropout1d", inputs=(torch.randn(2, 3, 4, 5),))
    check_refused("Dropout", "half")
    with pytest.raises(ValueError, match="between 0 and 1"):
        nn.Dropout(float("nan"))  # torch lets it through and drops everything
