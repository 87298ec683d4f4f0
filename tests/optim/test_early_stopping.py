"""When to stop, and the weights to go back to."""

from __future__ import annotations

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import objnet
from objnet import nn, optim
from tests.optim.models import Linear, mean_square

NAN = float("nan")
INF = float("inf")
# metrics, arguments: the answers, the best
CASES = {
    "better": ([3, 2, 1], {"patience": 1}, [False] * 3, 1),
    "patience": ([1, 2, 2, 3], {"patience": 3}, [False, False, False, True], 1),
    "starts again": ([3, 4, 2, 3, 3], {"patience": 2}, [False, False, False, False, True], 2),
    "equal is no better": ([1, 1, 1], {"patience": 2}, [False, False, True], 1),
    "too little": ([1, 0.95, 0.91, 0.5], {"patience": 3, "min_delta": 0.1}, [False, False, False, False], 0.5),
    "largest": ([1, 2, 1, 1], {"patience": 2, "mode": "max"}, [False, False, False, True], 2),
    "largest by": ([1, 1.05, 2], {"patience": 1, "min_delta": 0.1, "mode": "max"}, [False, True, False], 2),
    "NaN first": ([NAN, 5, NAN, 4, NAN], {"patience": 2}, [False] * 5, 4),
    "NaN only": ([NAN, NAN], {"patience": 2}, [False, True], None),
    "infinite first": ([INF, 5, 6], {"patience": 1}, [False, False, True], 5),
    "NaN in max": ([1, NAN, NAN], {"patience": 2, "mode": "max"}, [False, False, True], 1),
}


def test_when_to_stop():
    for name, (metrics, arguments, answers, best) in CASES.items():
        stopper = optim.EarlyStopping(Linear(2, 1), restore_best=False, **arguments)
        assert [stopper.step(m) for m in metrics] == answers, name
        assert stopper.best == best and stopper.stopped == answers[-1], name


def test_metrics_of_all_kinds():
    stopper = optim.EarlyStopping(Linear(2, 1), patience=1, restore_best=False)
    assert not any(stopper.step(m) for m in (np.float32(5), jnp.asarray(4.0), np.array([3]), 2, jnp.asarray(1.0, jnp.bfloat16)))
    assert stopper.best == 1.0
    with pytest.raises(ValueError, match=r"takes one metric, got an array of shape \(2,\)"):
        stopper.step(np.ones(2))


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = Linear(3, 2)
        self.register_buffer("calls", jnp.zeros((), jnp.int32))

    def forward(self, x):
        self.calls = self.calls + 1
        return self.body(x)


def _trained():
    model = Counting()
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return model, objnet.jit(lambda: optimizer.step(lambda: mean_square(model(jnp.ones((2, 3))))))


def _host(state):
    return {k: np.array(v) for k, v in state.items()}


def _equal(a, b):
    assert a.keys() == b.keys()
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_the_best_weights_come_back():
    model, step = _trained()
    stopper = optim.EarlyStopping(model, patience=2)
    step()
    assert not stopper.step(1.0)
    best = _host(model.state_dict())
    for metric in (2.0, 3.0):
        for _ in range(3):  # steps that donate what the model holds
            step()
        assert not np.array_equal(model.state_dict()["body.weight"], best["body.weight"])
        stopped = stopper.step(metric)
    assert stopped and int(best["calls"]) == 1
    _equal(_host(model.state_dict()), best)
    step()  # what was restored may be donated in its turn
    stopper.restore()
    _equal(_host(model.state_dict()), best)
    assert not stopper.step(0.5) and stopper.best == 0.5


def test_without_weights_to_restore():
    model, step = _trained()
    stopper = optim.EarlyStopping(model, patience=1)
    assert stopper.step(NAN)  # nothing to go back to: the model stays
    with pytest.raises(RuntimeError, match="no metric but NaN"):
        stopper.restore()
    other = optim.EarlyStopping(model, patience=1, restore_best=False)
    other.step(1.0)
    before = _host(model.state_dict())
    step()
    assert other.step(2.0) and not np.array_equal(model.state_dict()["body.weight"], before["body.weight"])
    with pytest.raises(RuntimeError, match="restore_best is False"):
        other.restore()
    assert other.state_dict()["best_state"] is None


def test_saving():
    model, step = _trained()
    stopper = optim.EarlyStopping(model, patience=2)
    for metric in (1.0, 2.0):
        step()
        stopper.step(metric)
    saved = pickle.loads(pickle.dumps(jax.device_get(stopper.state_dict())))
    again, _ = _trained()
    other = optim.EarlyStopping(again, patience=2)
    other.load_state_dict(saved)
    before = _host(again.state_dict())
    _equal(_host(other.model.state_dict()), before)
    assert (other.best, other.num_bad, other.stopped) == (1.0, 1, False)
    saved["best_state"]["body.weight"][:] = 0  # not its own copy
    assert other.step(1.5) and stopper.step(1.5)
    _equal(_host(again.state_dict()), _host(model.state_dict()))


def test_what_it_refuses():
    model, _ = _trained()
    stopper = optim.EarlyStopping(model)
    with pytest.raises(objnet.errors.StaticAttributeError, match="stepped inside a compiled function.*Return the metric"):
        objnet.jit(lambda x: stopper.step(x) or x)(jnp.ones(()))
    assert stopper.best is None
    stopper.step(1.0)
    with pytest.raises(objnet.errors.StaticAttributeError, match="asked to restore inside a compiled function"):
        objnet.jit(lambda x: stopper.restore() or x)(jnp.ones(()))
    for wrong in ({"patience": 0}, {"min_delta": -1.0}, {"min_delta": NAN}, {"mode": "least"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            optim.EarlyStopping(model, **wrong)
