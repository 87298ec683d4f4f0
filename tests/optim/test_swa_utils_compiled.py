"""Averages inside compiled steps, and what is refused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from objnet import jit, nn, optim, value_and_grad
from objnet.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn, update_bn
from tests.optim.models import Linear, Traces, mean_square

X = jnp.ones((4, 3))


@pytest.mark.parametrize(
    "functions", [{}, {"avg_fn": get_ema_avg_fn(0.9)}, {"multi_avg_fn": get_ema_multi_avg_fn(0.9)}], ids=["swa", "ema", "lists"]
)
def test_an_average_inside_the_training_step(functions):
    model, eager_model = Linear(3, 2), Linear(3, 2)
    optimizer, eager = optim.Adam(model.parameters(), lr=0.1), optim.Adam(eager_model.parameters(), lr=0.1)
    average, eager_average = AveragedModel(model, **functions), AveragedModel(eager_model, **functions)
    traces = Traces()

    @jit
    def step(x):
        traces.note()
        loss = optimizer.step(lambda: mean_square(model(x)))
        average.update_parameters(model)
        return loss

    for i in range(5):
        step(X)
        eager.step(lambda: mean_square(eager_model(X)))
        eager_average.update_parameters(eager_model)
        assert int(average.n_averaged) == i + 1
        for p, q in zip(average.parameters(), eager_average.parameters()):
            np.testing.assert_allclose(p._read(), q._read(), rtol=1e-5, atol=1e-6)
    assert traces.count == 1
    with jax.transfer_guard("disallow"):
        step(X)
    assert not np.array_equal(average.module.weight._read(), model.weight._read())


def test_eager_and_compiled_updates_may_alternate():
    model = Linear(3, 2)
    average = AveragedModel(model)
    update = jit(lambda: average.update_parameters(model))
    seen = []
    for i in range(6):
        model.weight.data.fill_(float(i))
        seen.append(float(i))
        average.update_parameters(model) if i % 2 else update()
        np.testing.assert_allclose(average.module.weight._read(), np.full((2, 3), np.mean(seen)), rtol=1e-6)


def test_the_model_and_the_average_are_apart():
    model = nn.BatchNorm1d(3)
    average = AveragedModel(model)
    average.update_parameters(model)
    average.update_parameters(model)
    model.weight.data.fill_(7.0)
    model(jnp.ones((2, 3)))
    np.testing.assert_array_equal(average.module.weight._read(), np.ones(3))
    assert int(average.module.num_batches_tracked) == 0


def test_an_averaging_function_is_called_as_in_torch():
    calls = []

    def average_fn(averaged, current, n):
        calls.append(n)
        return averaged * (1 - 1 / n) + current * (1 / n) if n < 3 else averaged  # an int: Python decides

    model = Linear(3, 2)
    average = AveragedModel(model, avg_fn=average_fn)
    for _ in range(4):
        average.update_parameters(model)
    assert calls == [1, 1, 2, 2, 3, 3] and all(type(n) is int for n in calls)  # two parameters; not at the first update


def test_what_an_average_takes_carries_no_gradient():
    model, average = Linear(3, 2), AveragedModel(Linear(3, 2), avg_fn=get_ema_avg_fn(0.5))
    average.update_parameters(model)

    def loss():
        average.update_parameters(model)
        return (average.module.weight.data._read() ** 2).sum()

    _, grads = value_and_grad(loss, wrt=model)()
    assert all(g is None or not np.any(g) for g in jax.tree.leaves(dict(grads)))
    assert int(average.n_averaged) == 2


@pytest.mark.parametrize(
    "function,message",
    [
        (lambda averaged, current, n: [averaged[0]], "multi_avg_fn was given 2 arrays and returned 1"),
        (lambda averaged, current, n: [a + c for a, c in zip(averaged, current)], None),
    ],
)
def test_lists_returned(function, message):
    model = Linear(3, 2)
    average = AveragedModel(model, multi_avg_fn=function)
    average.update_parameters(model)
    if message:
        with pytest.raises(ValueError, match=message):
            average.update_parameters(model)
    else:
        average.update_parameters(model)
        np.testing.assert_allclose(average.module.weight._read(), 2 * model.weight._read())


def test_another_model_is_refused():
    average = AveragedModel(Linear(3, 2))
    before = np.asarray(average.module.weight._read())
    with pytest.raises(ValueError, match=r"other parameters or buffers than this average: num_batches_tracked, running_mean"):
        average.update_parameters(nn.BatchNorm1d(2))  # torch averages as many as there are
    with pytest.raises(ValueError, match=r"weight: the average has shape \(2, 3\), the model's \(2, 4\)"):
        average.update_parameters(Linear(4, 2))
    np.testing.assert_array_equal(average.module.weight._read(), before)
    assert int(average.n_averaged) == 0


def test_update_bn_restores_what_it_changed_when_it_fails():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    model.eval()
    with pytest.raises(Exception, match="."):
        update_bn([np.ones((2, 3), np.float32), np.ones((2, 7), np.float32)], model)
    assert model[1].momentum == 0.1 and not model.training and not model[1].training


def test_update_bn_without_batch_norm_reads_nothing():
    def loader():
        raise AssertionError("was read")
        yield

    update_bn(loader(), nn.Linear(3, 2))


def test_update_bn_leaves_compiled_programs_in_use():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    traces = Traces()

    @jit
    def run(x):
        traces.note()
        return model(x)

    model.eval()
    before = run(X)
    update_bn([X, 2 * X], model)
    after = run(X)
    assert traces.count == 1 and not np.allclose(before, after)
    np.testing.assert_allclose(after, model(X), rtol=1e-5, atol=1e-6)
