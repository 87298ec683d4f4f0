"""Activation modules against torch's."""

from __future__ import annotations

import warnings

import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from objnet import nn  # noqa: E402
from tests.nn.module_parity import (  # noqa: E402
    build,
    check_attributes,
    check_forward,
    check_module,
    check_refused,
    check_signature,
)

X = torch.linspace(-7, 7, 24).reshape(3, 8)

CASES = [
    ("ReLU", {}),
    ("ReLU6", {}),
    ("SiLU", {}),
    ("Tanh", {}),
    ("Sigmoid", {}),
    ("LogSigmoid", {}),
    ("GELU", {}),
    ("GELU", {"approximate": "tanh"}),
    ("Softmax", {"dim": 0}),
    ("LogSoftmax", {"dim": -1}),
    ("LeakyReLU", {"negative_slope": 0.3}),
    ("ELU", {"alpha": 0.4}),
    ("Softplus", {"beta": 2, "threshold": 3}),
    ("Hardtanh", {"min_val": -2, "max_val": 0.5}),
    ("GLU", {"dim": 1}),
    ("PReLU", {"num_parameters": 8, "init": 0.1}),
    ("Softshrink", {"lambd": 0.3}),
]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_activation(name, options):
    check_module(name, inputs=(X,), **options)


numbers = st.floats(0.1, 3)
ARGUMENTS = {
    "ReLU": st.tuples(st.booleans()),
    "ReLU6": st.tuples(st.booleans()),
    "SiLU": st.tuples(st.booleans()),
    "LeakyReLU": st.tuples(st.floats(-1, 1), st.booleans()),
    "ELU": st.tuples(numbers, st.booleans()),
    "Hardtanh": st.tuples(st.floats(-3, 0), numbers, st.booleans()),
    "Softplus": st.tuples(numbers, st.floats(0, 30)),
    "Softmax": st.tuples(st.integers(-2, 1)),
    "LogSoftmax": st.tuples(st.integers(-2, 1)),
    "GLU": st.sampled_from([(), (-1,), (1,)]),
    "GELU": st.sampled_from([(), ("none",), ("tanh",)]),
    "Tanh": st.just(()),
    "Sigmoid": st.just(()),
    "LogSigmoid": st.just(()),
    "CELU": st.tuples(numbers, st.booleans()),
    "SELU": st.tuples(st.booleans()),
    "Mish": st.tuples(st.booleans()),
    "Hardsigmoid": st.tuples(st.booleans()),
    "Hardswish": st.tuples(st.booleans()),
    "Hardshrink": st.tuples(numbers),
    "Softshrink": st.tuples(numbers),
    "Threshold": st.tuples(st.floats(-1, 1), numbers, st.booleans()),
    "Softmin": st.tuples(st.integers(-2, 1)),
    "Softsign": st.just(()),
    "Tanhshrink": st.just(()),
    "PReLU": st.sampled_from([(), (8,), (1, -0.5)]),
}


@pytest.mark.parametrize("name", ARGUMENTS)
@settings(max_examples=2, deadline=None)
@given(data=st.data())
def test_arguments(name, data):
    pair = build(name, *data.draw(ARGUMENTS[name]))
    check_signature(name)
    check_attributes(pair)
    check_forward(pair, X)


def test_implicit_dim_warns_at_the_callers_line():
    for name in ("Softmax", "LogSoftmax", "Softmin"):
        layer = getattr(nn, name)()
        with pytest.warns(UserWarning, match="dim") as caught:
            layer(jnp.ones((2, 3)))
        assert caught[0].filename == __file__


def test_old_names_of_hardtanh():
    with pytest.warns(FutureWarning, match="is deprecated and renamed") as caught:
        layer = nn.Hardtanh(min_value=-3, max_value=2)
    assert (layer.min_val, layer.max_val) == (-3, 2)
    assert [w.filename for w in caught] == [__file__] * 2


def test_refusals():
    check_refused("Hardtanh", 1.0, 1.0, match="must be greater than")
    check_refused("Tanh", 3)
    check_refused("Sigmoid", bad=3)
    check_refused("GELU", "exact", inputs=(X,))
    check_refused("GLU", inputs=(torch.randn(2, 3),))
    check_refused("Softmax", 3, inputs=(X,))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nn.Softmax(dim=-1)(jnp.ones(3))


def test_softmax_over_channels():
    for shape in ((2, 3, 4), (2, 3, 2, 2)):
        pair = build("Softmax2d")
        check_attributes(pair)
        check_forward(pair, torch.randn(shape))
    check_signature("Softmax2d")
    check_refused("Softmax2d", inputs=(torch.randn(2, 3),))
    check_refused("Softmax2d", 1)


def test_random_slopes_in_training_only():
    pair = build("RReLU", 0.2, 0.4, inplace=True)
    check_attributes(pair)
    check_signature("RReLU")
    x = -jnp.ones(100)
    assert len(set(pair.ours(x).tolist())) > 50
    for module in pair:
        module.eval()
    check_forward(pair, X)
    check_refused("RReLU", 0.4, 0.2, inputs=(X,))


def test_prelu_has_the_dtype_it_is_given():
    check_attributes(build("PReLU", 2, dtype=torch.bfloat16))
    check_refused("PReLU", 3, inputs=(X,))
    check_refused("PReLU", -1)
