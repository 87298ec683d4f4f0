"""``optim.Optax`` against optax by hand, and each optimizer as a transformation against its own steps."""

from __future__ import annotations

import io

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import objnet
from objnet import io as objnet_io
from objnet import jit, nn, optim
from objnet.core import errors
from objnet.core.variable import Parameter
from tests.optim.cases import EACH, MATRICES
from tests.optim.models import Headed, Linear, Traces, mean_square

X = jnp.ones((4, 3))


@pytest.fixture(autouse=True)
def standard_promotion(request):
    """What optax's own code needs; ``optim.Optax`` sees to it itself."""
    with jax.numpy_dtype_promotion("standard"):
        yield


TRANSFORMATIONS = {
    "sgd": lambda: optax.sgd(0.1, momentum=0.9),
    "adamw": lambda: optax.adamw(1e-2),
    "lion": lambda: optax.lion(1e-3, weight_decay=0.1),
    "clipped": lambda: optax.chain(optax.clip_by_global_norm(0.1), optax.adam(optax.cosine_decay_schedule(0.1, 10))),
    "adafactor": lambda: optax.adafactor(1e-2),
    "masked": lambda: optax.masked(optax.sgd(0.5), {"weight": True, "bias": False}),
    "partition": lambda: optax.partition({"a": optax.adam(0.1), "b": optax.set_to_zero()}, {"weight": "a", "bias": "b"}),
    "plateau": lambda: optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau(patience=1, rtol=0.5)),
    "injected": lambda: optax.inject_hyperparams(optax.adamw)(learning_rate=0.1, weight_decay=0.01),
    "accumulated": lambda: optax.MultiSteps(optax.sgd(0.1), 2).gradient_transformation(),
    "noisy": lambda: optax.chain(optax.add_noise(0.1, 0.5, 0), optax.sgd(0.1)),
}


@pytest.mark.parametrize("name", TRANSFORMATIONS)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_steps_are_optaxs(name, compiled):
    tx = TRANSFORMATIONS[name]()
    model = Linear(3, 2)
    params = {n: p._read() + 0 for n, p in model.named_parameters()}
    state = tx.init(params)
    optimizer = optim.Optax(model.parameters(), tx)
    traces = Traces()

    def run():
        traces.note()
        return optimizer.step(lambda: mean_square(model(X)))

    step = jit(run) if compiled else run
    for _ in range(6):
        loss, grads = jax.value_and_grad(lambda p: mean_square(X @ p["weight"].T + p["bias"][None]))(params)
        extra = {"value": loss} if name == "plateau" else {}
        updates, state = tx.update(grads, state, params, **extra)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(step(), loss, rtol=1e-5)
    for n, p in model.named_parameters():
        np.testing.assert_allclose(p._read(), params[n], rtol=1e-5, atol=1e-6)
    for a, b in zip(jax.tree.leaves(optimizer.state), jax.tree.leaves(state), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert traces.count == (1 if compiled else 6)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_an_unused_head_does_not_move(compiled):
    model = Headed()
    optimizer = optim.Optax(model.parameters(), optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.1, weight_decay=0.5)))
    before = np.asarray(model.head.weight._read())
    run = lambda: optimizer.step(lambda: mean_square(model(X)))
    step = jit(run) if compiled else run
    for _ in range(3):
        step()
    np.testing.assert_array_equal(model.head.weight._read(), before)
    moments = optimizer.state[1][0].mu
    assert float(jnp.abs(moments["head.weight"]).max()) == 0 and float(jnp.abs(moments["body.weight"]).max()) > 0


def test_frozen_parameters_have_no_state():
    model = Headed()
    model.head.weight.requires_grad = False
    optimizer = optim.Optax(model.parameters(), optax.adam(0.1))
    assert "head.weight" not in optimizer.state[0].mu
    optimizer.step(lambda: mean_square(model(X)))
    model.head.weight.requires_grad = True
    with pytest.raises(errors.StructureMismatchError, match=r"head\.weight"):
        optimizer.step(lambda: mean_square(model.head(model(X))))


def test_injected_hyperparameters_are_a_groups():
    """Schedulers drive them, and nothing is traced anew."""
    model, twin = Linear(3, 2), Linear(3, 2)
    optimizer = optim.Optax(model.parameters(), optax.inject_hyperparams(optax.sgd)(learning_rate=0.4))
    other = optim.SGD(twin.parameters(), lr=0.4)
    schedulers = [optim.lr_scheduler.ExponentialLR(o, 0.5) for o in (optimizer, other)]
    traces = Traces()

    @jit
    def step():
        traces.note()
        return optimizer.step(lambda: mean_square(model(X)))

    for _ in range(4):
        step()
        other.step(lambda: mean_square(twin(X)))
        for scheduler in schedulers:
            scheduler.step()
    assert optimizer.param_groups[0]["lr"] == other.param_groups[0]["lr"] == 0.4 * 0.5**4
    np.testing.assert_allclose(model.weight._read(), twin.weight._read(), rtol=1e-5)
    assert traces.count == 1


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_resuming_is_as_if_never_stopped(name):
    model = Linear(3, 2)
    optimizer = optim.Optax(model.parameters(), TRANSFORMATIONS[name]())
    step = lambda model, optimizer: optimizer.step(lambda: mean_square(model(X)))
    for _ in range(3):
        step(model, optimizer)
    file = io.BytesIO()
    objnet_io.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = objnet_io.load(file)
    again = Linear(3, 2, seed=9)
    again.load_state_dict(saved["model"])
    resumed = optim.Optax(again.parameters(), TRANSFORMATIONS[name]())
    resumed.load_state_dict(saved["optimizer"])
    for _ in range(3):
        step(model, optimizer)
        step(again, resumed)
    np.testing.assert_array_equal(model.weight._read(), again.weight._read())


def test_a_state_dict_of_another_transformation_is_refused_whole():
    model = Linear(3, 2)
    optimizer = optim.Optax(model.parameters(), optax.adam(0.1))
    other = optim.Optax(Linear(5, 2).parameters(), optax.sgd(0.1, momentum=0.9)).state_dict()
    before = jax.tree.leaves(optimizer.state_dict())
    with pytest.raises(ValueError, match=r"(?s)missing: 0/mu/weight.*unknown: 0/trace/weight"):
        optimizer.load_state_dict(other)
    with pytest.raises(ValueError, match=r"0/mu/weight has shape \(2, 5\), not \(2, 3\)"):
        optimizer.load_state_dict(optim.Optax(Linear(5, 2).parameters(), optax.adam(0.1)).state_dict())
    assert all(
        a is b or a == b for a, b in zip(jax.tree.leaves(optimizer.state_dict()), before, strict=True) if not hasattr(a, "shape")
    )


def test_what_it_refuses():
    p = Parameter(jnp.ones(2))
    with pytest.raises(TypeError, match="GradientTransformation"):
        optim.Optax([p], 0.1)
    optimizer = optim.Optax([p], optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"optax\.partition"):
        optimizer.add_param_group({"params": [Parameter(jnp.ones(1))]})
    with pytest.raises(NotImplementedError, match=r"optax\.lbfgs"):
        optim.LBFGS.as_optax()
    with pytest.raises(NotImplementedError, match=r"optim\.Adam"):
        optim.SparseAdam([p])
    with pytest.raises(ValueError, match="learning rate"):
        optim.Adam.as_optax(lr=-1.0)


@pytest.mark.parametrize("name,options", EACH, ids=[name for name, _ in EACH])
def test_each_optimizer_is_a_transformation(name, options):
    rng = np.random.default_rng(0)
    shapes = MATRICES if name == "Muon" else (*MATRICES, (3,), ())
    values = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    params = [Parameter(jnp.asarray(v)) for v in values]
    optimizer = getattr(optim, name)(params, **options)
    tx = getattr(optim, name).as_optax(**options)
    tree = {f"p{i}": jnp.asarray(v) for i, v in enumerate(values)}
    state = tx.init(tree)

    @jax.jit
    def pure(tree, state, grads):
        updates, state = tx.update(grads, state, tree)
        return optax.apply_updates(tree, updates), state

    for i in range(6):
        grads = [jnp.asarray(rng.normal(size=shape).astype(np.float32)) for shape in shapes]
        if i >= 3:
            grads[0] = None
        optimizer.step(grads)
        tree, state = pure(tree, state, {f"p{j}": g for j, g in enumerate(grads)})
    for p, value in zip(params, tree.values(), strict=True):
        np.testing.assert_allclose(p._read(), value, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("kind,options", [(optim.SGD, {}), (optim.AdamW, {"weight_decay": 0.5})])
def test_a_transformation_follows_a_schedule(kind, options):
    schedule = optax.linear_schedule(0.1, 0.0, 4)
    p = Parameter(jnp.ones(3))
    optimizer = kind([p], lr=0.1, **options)
    tx = kind.as_optax(lr=schedule, **options)
    tree = [jnp.ones(3)]
    state = tx.init(tree)
    for i in range(4):
        optimizer.param_groups[0]["lr"] = float(schedule(i))
        gradient = jnp.full(3, float(i + 1))
        optimizer.step([gradient])
        updates, state = tx.update([gradient], state, tree)
        tree = optax.apply_updates(tree, updates)
    np.testing.assert_allclose(p._read(), tree[0], rtol=1e-5)


def test_a_transformation_trains_the_pure_form():
    model = nn.Linear(3, 2)
    net = objnet.transform(lambda x: model(x))
    params = net.init(None, X)
    tx = optim.Adam.as_optax(lr=0.1)
    state = tx.init(params)
    loss = lambda params: mean_square(net.apply(params, None, X))
    before = float(loss(params))
    for _ in range(20):
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        params = optax.apply_updates(params, updates)
    assert float(loss(params)) < 0.2 * before


def test_numbers_that_are_no_data_are_refused():
    """Written into a group they would change nothing."""
    optimizer = optim.Optax([Parameter(jnp.ones(2))], optax.sgd(0.1))
    group = optimizer.param_groups[0]
    for act in (
        lambda: group.update(lr=0.0),
        lambda: group["lr"],
        lambda: optim.lr_scheduler.StepLR(optimizer, 1),
    ):
        with pytest.raises(KeyError, match=r"no 'lr'.*inject_hyperparams\(optax.sgd\)"):
            act()
    assert "lr" not in group
