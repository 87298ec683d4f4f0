"""K steps in one call leave what K calls leave."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import objnet
import objnet.nn.functional as F
from objnet import jit, nn, optim
from objnet.core.variable import Parameter
from tests.optim.models import Traces

KINDS = {
    "SGD": lambda p: optim.SGD(p, lr=0.05, momentum=0.9),
    "AdamW": lambda p: optim.AdamW(p, lr=0.01),
    "Adagrad": lambda p: optim.Adagrad(p, lr=0.05),
    "Optax": lambda p: optim.Optax(p, __import__("optax").lion(1e-3)),
}


class Net(nn.Module):
    """With batch statistics, dropout and a state of its own."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.dropout, self.last = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)
        self.seen = jnp.zeros((), jnp.int32)

    def forward(self, x):
        self.seen = self.seen + 1
        return self.last(self.dropout(F.relu(self.norm(self.first(x)))))


def _batches(steps):
    rng = np.random.default_rng(0)
    return rng.normal(size=(steps, 8, 4)).astype(np.float32), rng.integers(0, 3, size=(steps, 8)).astype(np.int32)


def _setup(kind):
    objnet.manual_seed(3)
    model = Net()
    optimizer = KINDS[kind](model.parameters())
    return model, optimizer, lambda x, y: optimizer.step(lambda: F.cross_entropy(model(x), y))


def _same(a, b):
    jax.tree.map(lambda u, v: np.testing.assert_allclose(u, v, rtol=2e-5, atol=1e-6), a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_loop(kind):
    with jax.numpy_dtype_promotion("standard"):
        xs, ys = _batches(6)
        model, optimizer, step = _setup(kind)
        compiled = jit(step)
        losses = [compiled(x, y) for x, y in zip(xs, ys, strict=True)]
        key = objnet.get_rng_state()
        again, other, step = _setup(kind)
        many = objnet.scan_steps(step)
        found = jnp.concatenate([many(xs[:3], ys[:3]), many(xs[3:], ys[3:])])
    _same(found, jnp.stack(losses))
    _same(dict(again.state_dict()), dict(model.state_dict()))
    _same(jax.tree.leaves(other.state_dict()["state"]), jax.tree.leaves(optimizer.state_dict()["state"]))
    assert int(again.seen) == 6
    _same(jax.tree.leaves(objnet.get_rng_state()), jax.tree.leaves(key))


SCHEDULES = {
    "exponential": lambda o: [optim.lr_scheduler.ExponentialLR(o, 0.7)],
    "one cycle": lambda o: [optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=8)],
    "two": lambda o: [optim.lr_scheduler.StepLR(o, 2, 0.5), optim.lr_scheduler.ExponentialLR(o, 0.9)],
    "sequential": lambda o: [
        optim.lr_scheduler.SequentialLR(
            o, [optim.lr_scheduler.LinearLR(o, 0.1, total_iters=3), optim.lr_scheduler.CosineAnnealingLR(o, 5)], [3]
        )
    ],
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
def test_schedulers_step_between_the_steps(kind, schedule):
    xs, ys = _batches(6)
    model, optimizer, step = _setup(kind)
    schedulers = SCHEDULES[schedule](optimizer)
    compiled = jit(step)
    for x, y in zip(xs, ys, strict=True):
        compiled(x, y)
        for scheduler in schedulers:
            scheduler.step()
    again, other, step = _setup(kind)
    mine = SCHEDULES[schedule](other)
    traces = Traces()

    def counted(x, y):
        traces.note()
        return step(x, y)

    many = objnet.scan_steps(counted, schedulers=mine)
    many(xs[:3], ys[:3])
    first = traces.count
    many(xs[3:], ys[3:])
    assert traces.count == first
    _same(dict(again.state_dict()), dict(model.state_dict()))
    assert [g["lr"] for g in other.param_groups] == [g["lr"] for g in optimizer.param_groups]
    assert [s.state_dict().keys() for s in mine] == [s.state_dict().keys() for s in schedulers]
    assert [s.get_last_lr() for s in mine] == [s.get_last_lr() for s in schedulers]
    for one in (jit(step), compiled):  # the groups are on the device again
        objnet.manual_seed(5)
        one(xs[0], ys[0])
    _same(dict(again.state_dict()), dict(model.state_dict()))


def test_keywords_are_the_same_for_every_step():
    total = Parameter(jnp.zeros(()))

    def step(x, scale, flag=True):
        total.data = total._read() + x * scale if flag else total._read()
        return total._read()

    many = objnet.scan_steps(step)
    assert many(jnp.arange(3.0), scale=2.0).tolist() == [0, 2, 6]
    assert many(jnp.arange(3.0), scale=2.0, flag=False).tolist() == [6, 6, 6]


def test_a_failing_call_changes_nothing():
    xs, ys = _batches(4)
    model, optimizer, _ = _setup("SGD")
    scheduler = optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    before = dict(model.state_dict()), scheduler.state_dict(), optimizer.param_groups[0]["lr"]

    def broken(x, y):
        optimizer.step(lambda: F.cross_entropy(model(x), y))
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        objnet.scan_steps(broken, schedulers=scheduler)(xs, ys)
    after = dict(model.state_dict()), scheduler.state_dict(), optimizer.param_groups[0]["lr"]
    _same(after[0], before[0])
    assert after[1:] == before[1:]


def test_what_it_refuses():
    model, optimizer, step = _setup("SGD")
    many = objnet.scan_steps(step)
    with pytest.raises(ValueError, match=r"argument 0 has 3, argument 1 has 2"):
        many(np.ones((3, 8, 4), np.float32), np.zeros((2, 8), np.int32))
    with pytest.raises(ValueError, match="by keyword"):
        many(np.ones((3, 8, 4), np.float32), 1)
    with pytest.raises(ValueError, match="no arrays"):
        many()
    with pytest.raises(TypeError, match="ReduceLROnPlateau needs a metric"):
        objnet.scan_steps(step, schedulers=optim.lr_scheduler.ReduceLROnPlateau(optimizer))
    with pytest.raises(TypeError, match="one training step"):
        objnet.scan_steps(3)
    scheduler = optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1.0)
    with pytest.raises(objnet.errors.StaticAttributeError, match="schedulers step in Python"):
        jit(objnet.scan_steps(step, schedulers=scheduler))(*_batches(2))


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="no steps: argument 0 has a leading axis of length 0"):
        objnet.scan_steps(lambda x: x)(jnp.zeros((0, 2)))
