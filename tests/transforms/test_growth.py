"""Nothing grows: thousands of calls, mode flips, models and functions leave as many objects as a few do."""

import gc

import jax.numpy as jnp
import numpy as np

import objnet
from objnet import nn, optim
from objnet.transforms.jit import MAX_BINDINGS, MAX_PROGRAMS, _programs


def objects():
    gc.collect()
    return len(gc.get_objects())


def grown(act, first, then):
    """How many objects more there are after ``then`` further runs of ``act``."""
    for _ in range(first):
        act()
    before = objects()
    for _ in range(then):
        act()
    return objects() - before


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.drop = nn.Dropout(0.1)

    def forward(self, x):
        return self.drop(self.norm(self.fc(x)))


X = np.ones((4, 3), np.float32)


def test_ten_thousand_calls_of_a_compiled_step():
    model = Net()
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    step = objnet.jit(lambda x: optimizer.step(lambda: model(x).sum()))
    x = jnp.asarray(X)
    assert grown(lambda: step(x), 200, 10_000) < 200


def test_a_thousand_mode_flips():
    model = Net()
    forward, x = objnet.jit(model), jnp.asarray(X)

    def flip():
        model.train(not model.training)
        forward(x)

    assert grown(flip, 20, 1000) < 200
    assert len(forward._bindings) <= MAX_BINDINGS


def test_loops_and_maps_outside_a_transform():
    model = Net().eval()
    x = jnp.asarray(np.stack([X, X]))

    def run():
        objnet.scan(lambda c, row: (c + model(row).sum(), None), jnp.zeros(()), x)
        objnet.vmap(model)(x)
        objnet.cond(True, model, lambda x: x, x[0])

    assert grown(run, 20, 100) < 300


def test_models_and_functions_are_let_go():
    x = jnp.asarray(X)

    def train_anew():
        model = Net()
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        step = objnet.jit(lambda x: optimizer.step(lambda: model(x).sum()))
        step(x)

    assert grown(train_anew, 5, 50) < 300
    assert all(len(programs) <= MAX_PROGRAMS for programs in _programs.values())


def test_gradients_hooks_and_refused_calls():
    model, x = Net(), jnp.asarray(np.stack([X, X]))

    def refused():
        try:
            objnet.vmap(model, randomness="same")(x)
        except objnet.errors.SharedStateError:
            pass
        objnet.value_and_grad(lambda: model.fc(x).sum(), wrt=model)()

    assert grown(refused, 10, 60) < 300
