"""State dicts in both directions, resuming, and copies."""

from __future__ import annotations

import copy
import io
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from objnet import io as objnet_io
from objnet import jit, optim
from objnet.core.variable import Parameter
from tests.optim.common import CASES, EACH, as_torch, assert_same, draw, ours, shapes_for, theirs, tolerance, torch_step
from tests.optim.models import Linear, Traces, mean_square

SOME = [CASES[0], *EACH]
IDS = ["plain SGD", *(name for name, _ in EACH)]
X = jnp.ones((4, 3))


def run(optimizer, grads):
    for g in grads:
        optimizer.step([None if a is None else jnp.asarray(a) for a in g])


@pytest.mark.parametrize("name,options", SOME, ids=IDS)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_torch_goes_on_where_objnet_stopped(name, options, compiled):
    values, grads = draw(20, 8, shapes_for(name))
    params, optimizer = ours(name, values, **options)
    step = jit(lambda g: optimizer.step(g)) if compiled else optimizer.step
    for g in grads[:4]:
        step([jnp.asarray(a) for a in g])
    expected, torch_optimizer = theirs(name, [np.asarray(p._read()) for p in params], lr=123.0)
    torch_optimizer.load_state_dict(as_torch(optimizer.state_dict()))
    assert torch_optimizer.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
    for g in grads[4:]:
        torch_step(expected, torch_optimizer, g)
        step([jnp.asarray(a) for a in g])
    assert_same(params, expected, **tolerance(name))


@pytest.mark.parametrize("name,options", SOME, ids=IDS)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_objnet_goes_on_where_torch_stopped(name, options, compiled):
    values, grads = draw(21, 8, shapes_for(name))
    for g in grads[:2]:
        g[1] = None  # steps differ between parameters
    expected, torch_optimizer = theirs(name, values, **options)
    for g in grads[:4]:
        torch_step(expected, torch_optimizer, g)
    params, optimizer = ours(name, [p.detach().numpy() for p in expected], lr=123.0)
    step = jit(lambda g: optimizer.step(g)) if compiled else optimizer.step
    state_dict = torch_optimizer.state_dict()
    optimizer.load_state_dict(state_dict)
    if "step" in state_dict["state"].get(0, {}):
        assert [float(optimizer.state[p]["step"]) for p in params] == [4.0, 2.0]
    for g in grads[4:]:
        torch_step(expected, torch_optimizer, g)
        step([jnp.asarray(a) for a in g])
    assert_same(params, expected, **tolerance(name))


@pytest.mark.parametrize("name,options", SOME, ids=IDS)
def test_resuming_is_as_if_never_stopped(name, options):
    values, grads = draw(22, 8, shapes_for(name))
    params, optimizer = ours(name, values, **options)
    run(optimizer, grads[:4])
    file = io.BytesIO()
    objnet_io.save({"params": [p._read() for p in params], "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = objnet_io.load(file)
    again, resumed = ours(name, saved["params"])
    resumed.load_state_dict(saved["optimizer"])
    run(optimizer, grads[4:])
    run(resumed, grads[4:])
    for p, q in zip(params, again, strict=True):
        np.testing.assert_array_equal(p._read(), q._read())


def test_there_is_no_state_before_the_first_step():
    model = Linear(3, 2)
    optimizer = optim.Adam(model.parameters())
    step = jit(lambda x: optimizer.step(lambda: mean_square(model(x))))
    optimizer.__objnet_prepare__()
    assert optimizer.state_dict()["state"] == {} and len(optimizer.state) == 0
    assert optimizer.state[model.weight] == {}
    step(X)
    assert list(optimizer.state_dict()["state"]) == [0, 1]
    assert set(optimizer.state) == set(model.parameters())
    assert optimizer.state[model.weight]["exp_avg"].shape == (2, 3)
    assert len(list(optimizer.state.items())) == len(list(optimizer.state.values())) == 2
    with pytest.raises(KeyError, match="does not hold"):
        optimizer.state[Parameter(jnp.ones(1))]


def test_state_dict_survives_the_next_compiled_step():
    """What was handed out is copied before a step gives its memory away."""
    model = Linear(3, 2)
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    step = jit(lambda x: optimizer.step(lambda: mean_square(model(x))))
    step(X)
    state_dict = optimizer.state_dict()
    before = np.asarray(state_dict["state"][0]["momentum_buffer"])
    step(X)
    np.testing.assert_array_equal(state_dict["state"][0]["momentum_buffer"], before)
    optimizer.load_state_dict(state_dict)
    step(X)
    np.testing.assert_array_equal(state_dict["state"][0]["momentum_buffer"], before)


def test_loading_costs_no_retrace():
    model = Linear(3, 2)
    optimizer = optim.Adam(model.parameters())
    traces = Traces()

    @jit
    def step(x):
        traces.note()
        return optimizer.step(lambda: mean_square(model(x)))

    step(X)
    optimizer.load_state_dict(optimizer.state_dict())
    step(X)
    assert traces.count == 1
    assert float(optimizer.state[model.weight]["step"]) == 2.0


def test_param_names_follow_torch():
    p = Parameter(jnp.ones(2))
    named, unnamed = optim.SGD([("w", p)]), optim.SGD([p])
    named.load_state_dict(unnamed.state_dict())
    assert named.param_groups[0]["param_names"] == ["w"]
    unnamed.load_state_dict(optim.SGD([("v", p)]).state_dict())
    assert unnamed.param_groups[0]["param_names"] == ["v"]


def test_older_state_dicts():
    p = Parameter(jnp.ones(2))
    optimizer = optim.AdamW([p])
    entries = {"lr": 0.5, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1, "params": [0]}
    state = {0: {"step": 7, "exp_avg": np.ones(2), "exp_avg_sq": np.ones(2, np.float32)}}
    optimizer.load_state_dict({"state": state, "param_groups": [entries]})
    assert optimizer.param_groups[0]["amsgrad"] is False and optimizer.param_groups[0]["decoupled_weight_decay"] is True
    assert float(optimizer.state[p]["step"]) == 7.0 and optimizer.state[p]["exp_avg"].dtype == jnp.float32
    state[0]["exp_avg_sq"][:] = 5  # the optimizer holds a copy
    np.testing.assert_array_equal(optimizer.state[p]["exp_avg_sq"], [1, 1])


def test_state_takes_the_parameters_dtype():
    p = Parameter(jnp.ones(2, jnp.bfloat16))
    optimizer = optim.Adam([p])
    saved = optim.Adam([Parameter(jnp.ones(2))])
    saved.step([jnp.ones(2)])
    optimizer.load_state_dict(saved.state_dict())
    assert optimizer.state[p]["exp_avg"].dtype == jnp.bfloat16 and optimizer.state[p]["step"].dtype == jnp.float32


@pytest.mark.parametrize(
    "change,message",
    [
        (lambda d: d["param_groups"].append({}), "different number of parameter groups"),
        (lambda d: d["param_groups"][0]["params"].append(5), "doesn't match the size of optimizer's group"),
        (lambda d: d["param_groups"][0].pop("betas"), "has no 'betas'"),
        (lambda d: d["state"][0].pop("exp_avg"), "state 0 .* has no 'exp_avg'"),
        (lambda d: d["state"][0].pop("step"), "state 0 .* has no 'step'"),
        (lambda d: d["state"][0].update(exp_avg=jnp.ones(3)), r"exp_avg has shape \(3,\), not \(2,\)"),
        (lambda d: d["state"][0].update(exp_avg=np.ones(2, np.complex64)), "exp_avg is complex"),
        (lambda d: d["state"].update({9: {}}), "state 9: no group has"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(change, message):
    params, optimizer = ours("Adam", [np.ones(2, np.float32)])
    optimizer.step([jnp.ones(2)])
    state_dict = optimizer.state_dict()
    state_dict["param_groups"][0]["lr"] = 9.0
    change(state_dict)
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(state_dict)
    assert optimizer.param_groups[0]["lr"] == 1e-3
    assert float(optimizer.state[params[0]]["step"]) == 1.0


def test_hooks():
    params, optimizer = ours("SGD", [np.ones(2, np.float32)])
    seen = []
    optimizer.register_state_dict_pre_hook(lambda o: seen.append("pre"))
    optimizer.register_state_dict_post_hook(lambda o, d: {**d, "extra": 1})
    optimizer.register_load_state_dict_pre_hook(lambda o, d: {k: v for k, v in d.items() if k != "extra"})
    optimizer.register_load_state_dict_post_hook(lambda o: seen.append("post"))
    optimizer.register_load_state_dict_post_hook(lambda o: seen.append("first"), prepend=True)
    state_dict = optimizer.state_dict()
    assert state_dict["extra"] == 1
    optimizer.load_state_dict(state_dict)
    assert seen == ["pre", "first", "post"]


# -- copies ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_a_copy_goes_its_own_way(how):
    model = Linear(3, 2)
    optimizer = optim.Adam(model.parameters(), lr=0.1)
    optimizer.register_step_pre_hook(lambda *_: None)
    optimizer.step(lambda: mean_square(model(X)))
    model2, optimizer2 = how((model, optimizer))
    assert all(a is b for a, b in zip(optimizer2.param_groups[0]["params"], model2.parameters(), strict=True))
    before = np.asarray(model.weight._read())
    state = np.asarray(optimizer.state[model.weight]["exp_avg"])
    optimizer2.param_groups[0]["lr"] = 0.2
    optimizer2.step(lambda: mean_square(model2(X)))
    optimizer2.step({name: jnp.ones(p.shape) for name, p in model2.named_parameters()})
    np.testing.assert_array_equal(model.weight._read(), before)
    np.testing.assert_array_equal(optimizer.state[model.weight]["exp_avg"], state)
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert float(optimizer.state[model.weight]["step"]) == 1.0 and float(optimizer2.state[model2.weight]["step"]) == 3.0


def test_groups_copy_as_well():
    params, optimizer = ours("SGD", [np.ones(2, np.float32)], lr=0.1)
    groups = copy.deepcopy(optimizer.param_groups)
    groups[0]["lr"] = 7.0
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert jax.tree.structure(dict(copy.copy(optimizer.param_groups[0]))) is not None


def test_every_difference_is_listed_at_once():
    params, optimizer = ours("Adam", [np.ones(2, np.float32), np.ones(3, np.float32)])
    optimizer.step([jnp.ones(2), jnp.ones(3)])
    state_dict = optimizer.state_dict()
    del state_dict["param_groups"][0]["eps"]
    state_dict["param_groups"][0]["lr"] = "fast"
    state_dict["state"][0]["exp_avg"] = jnp.ones(7)
    del state_dict["state"][1]["step"]
    with pytest.raises(ValueError) as caught:
        optimizer.load_state_dict(state_dict)
    for part in ("group 0 has no 'eps'", "'lr' takes a number", "exp_avg has shape (7,), not (2,)", "state 1", "no 'step'"):
        assert part in str(caught.value)
    assert optimizer.param_groups[0]["lr"] == 1e-3 and optimizer.state[params[0]]["exp_avg"].shape == (2,)
