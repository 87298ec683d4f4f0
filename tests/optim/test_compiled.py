"""Inside ``objnet.jit``: one trace, shared programs, devices, and optimizers that no path leads to."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from objnet import jit, no_grad, optim
from objnet.core.variable import Parameter
from tests.optim.models import Headed, Linear, Traces, mean_square

X = jnp.ones((4, 3))
traces = Traces()


class Vault:
    """Holds what compiled functions do not find, having no ``__dict__``."""

    __slots__ = ("held",)

    def __init__(self, held):
        self.held = held


def make_step(model, optimizer):
    def step(x):
        traces.note()
        return optimizer.step(lambda: mean_square(model(x)))

    return jit(step)


@pytest.fixture(autouse=True)
def _forget():
    traces.count = 0


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "Adadelta"])
def test_the_first_call_traces_once(name):
    model = Linear(3, 2)
    step = make_step(model, getattr(optim, name)(model.parameters(), **({"momentum": 0.9} if name == "SGD" else {})))
    for _ in range(3):
        step(X)
    assert traces.count == 1


def test_an_equal_optimizer_built_anew_shares_the_program():
    losses = []
    for _ in range(3):
        model = Linear(3, 2)
        step = make_step(model, optim.AdamW(model.parameters(), lr=0.1, amsgrad=True))
        losses.append([float(step(X)) for _ in range(3)])
    assert traces.count == 1
    assert losses[0] == losses[1] == losses[2]


def test_an_optimizer_per_epoch_over_one_model():
    model = Linear(3, 2)
    holder = {}

    @jit
    def step(x):
        traces.note()
        return holder["optimizer"].step(lambda: mean_square(model(x)))

    for lr in (0.1, 0.01):
        holder["optimizer"] = optim.Adam(model.parameters(), lr=lr)
        step(X)
        step(X)
        assert float(holder["optimizer"].state[model.weight]["step"]) == 2.0
    assert traces.count == 1


def test_eager_and_compiled_steps_may_alternate():
    models = [Linear(3, 2), Linear(3, 2)]
    optimizers = [optim.Adam(m.parameters(), lr=0.1) for m in models]
    step = make_step(models[0], optimizers[0])
    for i in range(6):
        if i % 2:
            optimizers[0].step(lambda: mean_square(models[0](X)))
        else:
            step(X)
        optimizers[1].step(lambda: mean_square(models[1](X)))
    np.testing.assert_allclose(models[0].weight._read(), models[1].weight._read(), rtol=1e-5)
    assert float(optimizers[0].state[models[0].weight]["step"]) == 6.0


def test_the_head_joins_later():
    """Counters that have parted stay apart: the head's first step is its first, not the body's third."""
    model = Headed()
    optimizer = optim.Adam(model.parameters(), lr=0.1)
    body = make_step(model, optimizer)
    whole = jit(lambda x: optimizer.step(lambda: mean_square(model.head(model.body(x)))))
    body(X)
    body(X)
    before = model.head.weight._read()
    whole(X)
    body(X)
    steps = [float(optimizer.state[p]["step"]) for p in model.parameters()]
    assert steps == [4.0, 4.0, 1.0, 1.0]
    np.testing.assert_allclose(np.abs(model.head.weight._read() - before), 0.1, rtol=1e-3)  # Adam's first step is lr


def test_parting_is_found_once():
    """A head without gradient interrupts the first trace; modes, and equal optimizers, then find their programs."""
    model = Headed()
    step = make_step(model, optim.AdamW(model.parameters(), lr=0.3, amsgrad=True))
    for _ in range(3):
        step(X)
    assert traces.count == 2
    model.eval()
    step(X)
    model.train()
    step(X)
    assert traces.count == 3
    other = Headed()
    optimizer = optim.AdamW(other.parameters(), lr=0.3, amsgrad=True)
    step = make_step(other, optimizer)
    for _ in range(5):
        step(X)
    assert traces.count == 4
    np.testing.assert_array_equal(other.body.weight._read(), model.body.weight._read())
    assert [float(s["step"]) for s in optimizer.state_dict()["state"].values()] == [5.0, 5.0]


def test_shapes_that_reach_other_parameters():
    """One function whose trace for another shape steps fewer parameters."""
    model = Headed()
    optimizer = optim.Adam(model.parameters(), lr=0.1)

    @jit
    def step(x):
        with_head = x.shape[0] > 2
        return optimizer.step(lambda: mean_square(model.head(model.body(x)) if with_head else model.body(x)))

    for rows in (4, 4, 1, 1, 4):
        step(jnp.ones((rows, 3)))
    assert [float(optimizer.state[p]["step"]) for p in model.parameters()] == [5.0, 5.0, 3.0, 3.0]


def test_an_optimizer_no_path_leads_to():
    """State made in the middle of a trace is an input of the program all the same."""
    model = Linear(3, 2)
    hidden = [optim.SGD(model.parameters(), lr=0.1, momentum=0.9)]
    reference_model = Linear(3, 2)
    reference = optim.SGD(reference_model.parameters(), lr=0.1, momentum=0.9)
    vault = Vault(hidden)

    @jit
    def step(x):
        return vault.held[0].step(lambda: mean_square(model(x)))

    for _ in range(3):
        assert float(step(X)) == pytest.approx(float(reference.step(lambda: mean_square(reference_model(X)))), rel=1e-5)


def test_an_optimizer_made_inside():
    """A model and its optimizer that live for one call only."""

    @jit
    def fit(x):
        model = Linear(3, 2)
        optimizer = optim.Adam(model.parameters(), lr=0.1)
        for _ in range(3):
            loss = optimizer.step(lambda: mean_square(model(x)))
        return loss

    model = Linear(3, 2)
    optimizer = optim.Adam(model.parameters(), lr=0.1)
    for _ in range(3):
        expected = optimizer.step(lambda: mean_square(model(X)))
    for _ in range(2):
        assert float(fit(X)) == pytest.approx(float(expected), rel=1e-5)


def test_a_step_in_no_grad():
    model = Linear(3, 2)
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    before = model.weight._read()
    no_grad()(lambda: optimizer.step([jnp.ones((2, 3)), jnp.ones(2)]))()
    np.testing.assert_allclose(before - model.weight._read(), 0.1, rtol=1e-5)
    assert optimizer.state[model.weight]["momentum_buffer"].shape == (2, 3)


def test_hooks_are_part_of_the_program():
    model = Linear(3, 2)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    step = make_step(model, optimizer)
    step(X)
    seen = []
    handle = optimizer.register_step_post_hook(lambda *_: seen.append(1))
    step(X)
    assert seen == [1] and traces.count == 2
    handle.remove()
    step(X)
    assert traces.count == 2


def test_models_that_move_to_a_mesh():
    """State follows its parameter's sharding, and the small vectors its mesh, without a transfer in later steps."""
    model = Linear(3, 2)
    optimizer = optim.AdamW(model.parameters(), lr=0.1)
    plain_model = Linear(3, 2)
    plain = optim.AdamW(plain_model.parameters(), lr=0.1)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    model.to(split)
    step = make_step(model, optimizer)
    x = jax.device_put(X, whole)
    step(x)
    with jax.transfer_guard("disallow"):
        step(x)
        optimizer.param_groups[0]["lr"] = 0.01
        step(x)
    assert traces.count == 1
    assert optimizer.state[model.weight]["exp_avg"].sharding.is_equivalent_to(split, 2)
    for i in range(3):
        plain.param_groups[0]["lr"] = 0.1 if i < 2 else 0.01
        plain.step(lambda: mean_square(plain_model(X)))
    np.testing.assert_allclose(model.weight._read(), plain_model.weight._read(), rtol=1e-5)


def test_a_model_that_moves_between_steps():
    p = Parameter(jnp.ones(2))
    optimizer = optim.SGD([p], lr=0.1)
    device = jax.devices()[1]
    optimizer.step([jnp.ones(2)])
    p.data = jax.device_put(p._read(), device)
    optimizer.step([jax.device_put(jnp.ones(2), device)])
    jit(lambda g: optimizer.step([g]))(jax.device_put(jnp.ones(2), device))
    np.testing.assert_allclose(p._read(), [0.7, 0.7], rtol=1e-5)
    assert p._read().devices() == {device}
