"""Lazy modules in the pure form, under objnet.jit and under plain jax: the first call works, or says what to do first."""

from __future__ import annotations

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import objnet
from objnet import nn, optim
from objnet.errors import UninitializedError

X = np.ones((2, 5), np.float32)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(5, 4)
        self.lazy = nn.LazyLinear(3)
        self.norm = nn.LazyBatchNorm1d()

    def forward(self, x):
        return self.norm(self.lazy(self.first(x)))


def test_pure_form():
    net = objnet.transform_with_state(lambda x: Net()(x))
    params, state = jax.jit(net.init)(jax.random.key(0), X)
    assert params["net.lazy"]["weight"].shape == (3, 4)
    assert float(jnp.abs(params["net.lazy"]["weight"]).max()) > 0
    out, after = jax.jit(net.apply)(params, state, None, X)
    full = Net()
    full(X)
    full.load_state_dict(
        {f"{path.removeprefix('net.')}.{n}": v for path, e in [*params.items(), *state.items()] for n, v in e.items()}
    )
    np.testing.assert_allclose(out, full(X), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(after["net.norm"]["running_mean"], full.norm.running_mean, rtol=1e-5)
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(net.apply(p, state, None, X)[0] ** 3)))(params)
    assert gradient["net.lazy"]["weight"].shape == (3, 4)


@pytest.mark.parametrize(
    "first_call",
    [
        lambda net: objnet.jit(net)(X),
        lambda net: objnet.jit(lambda x: net(x))(X),
        lambda net: jax.jit(lambda x: net.lazy(x))(X),
        lambda net: jax.vmap(net.lazy)(X),
        lambda net: jax.grad(lambda x: net.lazy(x).sum())(X),
        lambda net: objnet.value_and_grad(lambda: net(X).sum(), wrt=net)(),
        lambda net: objnet.backward(lambda: net(X).sum()),
        lambda net: objnet.transform_with_state(net).init(None),
        lambda net: objnet.transform_with_state(lambda x: net(x)).init(None, X),
    ],
)
def test_a_first_call_inside_a_transform_says_what_to_do(first_call):
    net = Net()
    before = repr(net)
    with pytest.raises(UninitializedError, match="Call the model once eagerly"):
        first_call(net)
    assert repr(net) == before
    net(X)  # nothing is spoilt
    assert type(net.lazy) is nn.Linear


def test_optimizer_made_before_the_first_call():
    net = Net()
    optimizer = optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    with objnet.no_grad():
        net(X)
    before = net.lazy.bias.tolist()
    objnet.jit(lambda x: optimizer.step(lambda: (net(x) ** 3 + net.lazy(net.first(x))).sum()))(X)
    assert net.lazy.bias.tolist() != before
    assert all(p.grad is None or p.grad.shape == p.shape for p in net.parameters())


def test_decorated_with_no_grad():
    net = Net()
    objnet.no_grad(lambda: net(X))()
    assert net.lazy.weight.shape == (3, 4)


def test_a_state_dict_first_then_compiled():
    full, net = Net(), Net()
    full(X)
    net.load_state_dict(full.state_dict())
    compiled = objnet.jit(net)
    np.testing.assert_allclose(compiled(X), objnet.jit(full)(X), rtol=1e-6)
    assert (type(net.lazy), net.lazy.in_features) == (nn.Linear, 4)
    np.testing.assert_allclose(compiled(X), full(X), rtol=1e-6)


def test_built_inside_a_compiled_function():
    assert objnet.jit(lambda x: nn.LazyLinear(3)(x))(X).shape == (2, 3)


def test_a_copy_is_initialised_on_its_own():
    net = Net()
    other = copy.deepcopy(net)
    other(X)
    assert type(other.lazy) is nn.Linear
    assert type(net.lazy) is nn.LazyLinear
    net(X)
    assert net.lazy.weight is not other.lazy.weight


def test_what_is_given_to_the_constructor():
    second = jax.devices("cpu")[1]
    layer = nn.LazyLinear(3, device="cpu:1", dtype="bfloat16")
    assert (layer.weight.dtype, layer.weight.device) == (jnp.bfloat16, second)
    layer.float()
    assert layer.weight.dtype == jnp.float32
    layer(jax.device_put(X, second))
    assert {v.device for v in layer.state_dict().values()} == {second}
    with pytest.raises(RuntimeError, match="64-bit"):
        nn.UninitializedParameter(dtype="float64")
    with pytest.raises(NotImplementedError, match="UninitializedParameter"):
        nn.UninitializedBuffer(requires_grad=True)
    with pytest.raises(RuntimeError, match="negative dimension -2"):
        nn.UninitializedParameter().materialize((3, -2))
