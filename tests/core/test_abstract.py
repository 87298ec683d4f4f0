"""Models without values: nothing drawn, shapes visible, use refused, loading and the pure form as ever."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import objnet
from objnet import nn
from objnet.core.abstract import AbstractParameter

X = jnp.ones((2, 3))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.bn, self.emb = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Embedding(5, 4, padding_idx=0)
        self.w = nn.Parameter(jnp.ones(3))
        self.register_buffer("mask", jnp.tril(jnp.ones((3, 3))), persistent=False)
        self.lstm = nn.LSTM(4, 4)
        self.lstm.bias_ih_l0.data[4:8].fill_(1)

    def forward(self, x):
        return self.bn(self.fc(x * self.w))


@pytest.fixture
def model():
    with objnet.abstract():
        return Net()


def test_nothing_is_drawn_and_shapes_are_known(model):
    before = objnet.get_rng_state()
    with objnet.abstract():
        Net()
    after = objnet.get_rng_state()
    assert np.array_equal(before["generator"], after["generator"]) and np.array_equal(before["key"], after["key"])
    real = Net()
    kinds = {k: (v.shape, v.dtype) for k, v in model.state_dict().items()}
    assert kinds == {k: (v.shape, v.dtype) for k, v in real.state_dict().items()}
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in real.parameters())
    assert np.array_equal(model.mask, real.mask)  # in no checkpoint, so it has its value


@pytest.mark.parametrize(
    "use",
    [
        lambda m: m(X),
        lambda m: objnet.jit(m)(X),
        lambda m: m.fc.weight + 1,
        lambda m: objnet.value_and_grad(lambda: m(X).sum(), wrt=m)(),
        lambda m: objnet.transform_with_state(m).init(None),
    ],
)
def test_use_before_loading_is_refused(model, use):
    with pytest.raises(objnet.errors.UnsetVariableError, match="objnet.abstract.*load"):
        use(model)


def test_loading_checks_casts_and_fills(model):
    real = Net()
    with pytest.raises(RuntimeError, match="size mismatch for w"):
        model.load_state_dict({**real.state_dict(), "w": jnp.ones(7)})
    assert type(model.fc.weight) is AbstractParameter
    kept = model.fc.weight
    model.load_state_dict(
        {k: np.asarray(v, np.float16 if v.dtype == jnp.float32 else None) for k, v in real.state_dict().items()}
    )
    assert type(model.fc.weight) is nn.Parameter and model.fc.weight is kept and kept.dtype == jnp.float32 and kept.requires_grad
    model.load_state_dict(real.state_dict())
    np.testing.assert_allclose(objnet.jit(model)(X), real(X), rtol=1e-5)


def test_loading_inside_the_block_fills_too():
    real = Net()
    with objnet.abstract():
        model = Net()
        model.load_state_dict(real.state_dict())
    np.testing.assert_allclose(model(X), real(X), rtol=1e-5)


def test_copies_and_casts_stay_abstract(model):
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(twin.fc.weight) is AbstractParameter
        twin.bfloat16()
        assert twin.state_dict()["fc.weight"].dtype == jnp.bfloat16 and twin.state_dict()["bn.running_mean"].dtype == jnp.bfloat16
        twin.load_state_dict(Net().state_dict())
        assert twin.fc.weight.dtype == jnp.bfloat16


def test_the_pure_form(model):
    real = Net()
    params, state = objnet.transform_with_state(real).init(None)
    net = objnet.transform_with_state(model)
    np.testing.assert_allclose(jax.jit(net.apply)(params, state, None, X)[0], real(X), rtol=1e-5)
    params["~"]["w"] = jnp.ones(4)
    with pytest.raises(objnet.errors.StructureMismatchError, match=r"float32\[4\], the model has float32\[3\]"):
        net.apply(params, state, None, X)


def test_inside_a_pure_function():
    def f(x):
        with objnet.abstract():
            net = Net()
        return net(x)

    params, state = objnet.transform_with_state(lambda x: Net()(x)).init(0, X)
    expected, _ = objnet.transform_with_state(lambda x: Net()(x)).apply(params, state, None, X)
    np.testing.assert_allclose(objnet.transform_with_state(f).apply(params, state, None, X)[0], expected, rtol=1e-5)
    with pytest.raises(objnet.errors.UnsetVariableError):
        objnet.transform_with_state(f).init(0, X)
