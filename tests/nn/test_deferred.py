"""Modules built late, of functions, as dataclasses; name scopes; running tests as pure functions."""

import copy
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import objnet
from objnet import nn

X = jnp.ones((2, 3))


@dataclasses.dataclass
class Tower(nn.Module):
    width: int
    top: Any = None

    def __post_init__(self):
        super().__init__()
        self.fc = nn.Linear(3, self.width)

    def features(self, x):
        return self.fc(x)

    def forward(self, x):
        y = self.features(x)
        return y if self.top is None else self.top(y)


def test_dataclasses_are_modules():
    model = Tower(4, nn.Linear(4, 2))
    assert sorted(model.state_dict()) == ["fc.bias", "fc.weight", "top.bias", "top.weight"]
    assert objnet.jit(model)(X).shape == (2, 2)
    assert model != copy.deepcopy(model) and len({model, model}) == 1  # told apart by identity
    params = objnet.transform(lambda x: Tower(4)(x)).init(0, X)
    assert set(params) == {"tower.fc"}


def test_a_deferred_module_is_built_once():
    built = []
    late = nn.Deferred(lambda: (built.append(1), nn.Linear(3, 2))[1])
    assert not list(late.parameters())
    with pytest.raises(AttributeError):
        _ = late.in_features
    late(X)
    late(X)
    assert built == [1] and late.in_features == 3 and objnet.jit(late)(X).shape == (2, 2)
    net = objnet.transform(lambda x: nn.Deferred(lambda: nn.Linear(3, 2))(x))
    params = net.init(0, X)
    assert set(params) == {"deferred.target"} and net.apply(params, None, X).shape == (2, 2)


def test_a_deferred_module_is_built_by_the_methods_named():
    late = nn.Deferred(lambda: Tower(2), call_methods=("features",))
    assert late.features(X).shape == (2, 2) and isinstance(late.target, Tower)


def test_functions_as_modules():
    def scaled(x):
        return x * objnet.get_parameter("scale", (), init=jnp.ones)

    net = objnet.transform(lambda x: nn.to_module(scaled)()(x))
    params = net.init(None, X)
    assert jax.tree.map(jnp.shape, params) == {"scaled": {"scale": ()}}
    assert net.apply(params, None, X).shape == X.shape
    with pytest.raises(TypeError, match="function"):
        nn.to_module(3)


def test_name_scopes_are_part_of_paths():
    seen = []

    def f(x):
        with objnet.name_scope("encoder"):
            x = nn.Linear(3, 3)(x)
            seen.append(objnet.current_name())
        with objnet.name_scope("encoder/inner"):
            objnet.get_parameter("w", (), init=jnp.ones)
        with objnet.name_scope("encoder"):
            return nn.Linear(3, 3)(x)

    net = objnet.transform(f)
    params = net.init(0, X)
    assert set(params) == {"encoder.linear", "encoder.inner", "encoder_1.linear"} and seen == ["encoder"]
    assert net.apply(params, None, X).shape == (2, 3)
    for bad in ("", "/a", "a//b"):
        with pytest.raises(ValueError, match="name scope"), objnet.name_scope(bad):
            pass


@pytest.mark.parametrize("jax_transform", [None, jax.jit])
def test_transform_and_run(jax_transform):
    @objnet.testing.transform_and_run(jax_transform=jax_transform)
    def body():
        assert nn.Linear(3, 2)(X).shape == (2, 2)
        return objnet.next_rng_key()

    assert body().shape == (2,)
    assert objnet.testing.transform_and_run(lambda: 1, run_apply=False)() is None
