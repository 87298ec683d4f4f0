"""Construction, parameter groups, and hyper-parameters that change."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from objnet import errors, jit, optim
from objnet.core.variable import Parameter
from tests.optim.common import assert_same, draw, ours, theirs, torch, torch_step
from tests.optim.models import Linear, Traces, mean_square

X = jnp.ones((4, 3))


def both(build):
    """What objnet and torch raise (or give) for the same construction."""
    results = []
    for optimizers, make in ((optim, lambda: Parameter(jnp.ones(2))), (torch.optim, lambda: torch.nn.Parameter(torch.ones(2)))):
        try:
            results.append(build(optimizers, make()))
        except Exception as error:
            results.append(error)
    return results


BAD = {
    "empty": lambda o, p: o.SGD([]),
    "lr": lambda o, p: o.SGD([p], lr=-1),
    "momentum": lambda o, p: o.SGD([p], momentum=-1),
    "weight_decay": lambda o, p: o.SGD([p], weight_decay=-1),
    "nesterov": lambda o, p: o.SGD([p], nesterov=True),
    "nesterov_dampening": lambda o, p: o.SGD([p], momentum=0.9, dampening=0.1, nesterov=True),
    "sgd_kernels": lambda o, p: o.SGD([p], fused=True, foreach=True),
    "adam_lr": lambda o, p: o.Adam([p], lr=float("nan")),
    "adam_eps": lambda o, p: o.Adam([p], eps=-1.0),
    "adam_beta0": lambda o, p: o.Adam([p], betas=(1.0, 0.9)),
    "adam_beta1": lambda o, p: o.Adam([p], betas=(0.9, -0.1)),
    "adam_int_beta": lambda o, p: o.Adam([p], betas=(0, 0.9)),
    "adam_weight_decay": lambda o, p: o.AdamW([p], weight_decay=-0.1),
    "adam_kernels": lambda o, p: o.Adam([p], fused=True, foreach=True),
    "adadelta_rho": lambda o, p: o.Adadelta([p], rho=1.5),
    "adadelta_eps": lambda o, p: o.Adadelta([p], eps=-1),
    "adadelta_lr": lambda o, p: o.Adadelta([p], lr=-1),
    "adadelta_weight_decay": lambda o, p: o.Adadelta([p], weight_decay=-1),
    "set": lambda o, p: o.SGD([{"params": {p}}]),
    "shared": lambda o, p: o.SGD([{"params": p}, {"params": [p]}]),
    "half_named": lambda o, p: o.SGD([("a", p), type(p)(p)]),
    "no_params": lambda o, p: o.SGD([{"lr": 1}]),
    "group_type": lambda o, p: o.SGD([p]).add_param_group([p]),
    "named_and_not": lambda o, p: o.SGD([("a", p)]).add_param_group({"params": [type(p)(p)]}),
}


@pytest.mark.parametrize("build", BAD.values(), ids=BAD.keys())
def test_bad_input_raises_as_torch(build):
    mine, torchs = both(build)
    assert isinstance(mine, Exception) and type(mine) is type(torchs)
    assert str(torchs) in str(mine)


@pytest.mark.parametrize(
    "params,error,message",
    [
        (lambda: Parameter(jnp.ones(2)), TypeError, "should be an iterable of Parameters"),
        (lambda: jnp.ones(2), TypeError, "should be an iterable of Parameters"),
        (lambda: Linear(3, 2), TypeError, r"pass its \.parameters\(\)"),
        (lambda: [jnp.ones(2)], TypeError, "optimizer can only optimize Parameters.*jaxlib.*forward"),
        (lambda: [np.ones(2)], TypeError, "numpy.ndarray"),
        (lambda: ["weight"], TypeError, "one of the params is str"),
        (lambda: [p := Parameter(jnp.ones(2)), p], ValueError, "more than once"),
        (lambda: [{"params": []}], ValueError, "empty parameter list$"),
        (lambda: iter([]), ValueError, r"empty parameter list \(an iterator that has been used up"),
    ],
)
def test_what_is_no_parameter_is_refused(params, error, message):
    with pytest.raises(error, match=message):
        optim.SGD(params())


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "Adadelta"])
def test_differentiable_is_refused(name):
    with pytest.raises(NotImplementedError, match="differentiable=True"):
        getattr(optim, name)([Parameter(jnp.ones(2))], differentiable=True)


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "Adadelta"])
def test_signature_repr_and_defaults_are_torchs(name):
    import inspect

    mine, torchs = getattr(optim, name), getattr(torch.optim, name)
    signature = lambda c: [(p.name, p.kind, p.default) for p in inspect.signature(c).parameters.values()]
    assert signature(mine) == signature(torchs)
    for named in (False, True):
        p, q = Parameter(jnp.ones(2)), torch.nn.Parameter(torch.ones(2))
        a, b = (mine([("w", p)]), torchs([("w", q)])) if named else (mine([p]), torchs([q]))
        assert repr(a) == repr(b)
        assert a.defaults == b.defaults and list(a.defaults) == list(b.defaults)
        assert a.state_dict() == b.state_dict()
        assert list(a.param_groups[0]) == list(b.param_groups[0])


def test_names_of_model_parameters_stay_inside():
    model = Linear(3, 2)
    optimizer = optim.SGD(model.parameters())
    assert "param_names" not in optimizer.param_groups[0]
    assert optim.SGD(model.named_parameters()).param_groups[0]["param_names"] == ["weight", "bias"]


def test_numbers_may_be_arrays():
    p = Parameter(jnp.ones(2))
    optimizer = optim.Adam([p], lr=jnp.asarray(0.5), betas=(np.float64(0.5), jnp.asarray(0.25)), eps=np.float32(0.5))
    group = optimizer.param_groups[0]
    assert (group["lr"], group["betas"], group["eps"]) == (0.5, (0.5, 0.25), 0.5)
    assert type(group["lr"]) is float
    group["lr"] = jnp.asarray([0.25])
    assert group["lr"] == 0.25
    with pytest.raises(ValueError, match="1-element"):
        group["lr"] = jnp.ones(2)
    with pytest.raises(TypeError, match="takes a number"):
        group["lr"] = "0.1"
    with pytest.raises(TypeError, match="takes 2 numbers"):
        group["betas"] = 0.9
    with pytest.raises(ValueError, match="beta"):
        group["betas"] = (0.9, -0.5)
    assert (group["lr"], group["betas"]) == (0.25, (0.5, 0.25))
    with pytest.raises(TypeError, match="takes a number"):
        optim.SGD([{"params": [p], "lr": None}])


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_groups_with_their_own_numbers(name):
    values, grads = draw(10, 10, shapes=((2, 3), (4,)))
    run = []
    for params, optimizers in (
        ([Parameter(jnp.asarray(v)) for v in values], optim),
        ([torch.nn.Parameter(torch.tensor(v)) for v in values], torch.optim),
    ):
        groups = [{"params": params[0], "lr": 0.5}, {"params": [params[1]], "weight_decay": 0.3}]
        run.append((params, getattr(optimizers, name)(groups, lr=0.01)))
    (params, optimizer), (expected, torch_optimizer) = run
    assert [g["lr"] for g in optimizer.param_groups] == [0.5, 0.01]
    step = jit(lambda grads: optimizer.step(grads))
    for g in grads:
        torch_step(expected, torch_optimizer, g)
        step([jnp.asarray(a) for a in g])
    assert_same(params, expected)


def test_a_group_added_later():
    values, grads = draw(11, 6, shapes=((2,), (3,)))
    params, optimizer = ours("Adam", values[:1])
    expected, torch_optimizer = theirs("Adam", values[:1])
    step = jit(lambda grads: optimizer.step(grads))
    for i, g in enumerate(grads):
        if i == 3:
            params.append(Parameter(jnp.asarray(values[1])))
            optimizer.add_param_group({"params": params[1], "lr": 0.1})
            expected.append(torch.nn.Parameter(torch.tensor(values[1])))
            torch_optimizer.add_param_group({"params": expected[1], "lr": 0.1})
        g = g[: len(params)]
        torch_step(expected, torch_optimizer, g)
        step([jnp.asarray(a) for a in g])
    assert_same(params, expected)


def test_a_parameter_appended_in_place():
    values, grads = draw(12, 4, shapes=((2,), (3,)))
    params, optimizer = ours("Adam", values[:1], lr=0.1)
    step = jit(lambda grads: optimizer.step(grads))
    step([jnp.asarray(grads[0][0])])
    params.append(Parameter(jnp.asarray(values[1])))
    optimizer.param_groups[0]["params"].append(params[1])
    step([jnp.asarray(a) for a in grads[1]])
    assert [float(optimizer.state[p]["step"]) for p in params] == [2.0, 1.0]
    assert not np.array_equal(params[1]._read(), values[1])
    optimizer.param_groups[0]["params"] = [params[1]]
    before = params[0]._read()
    step([jnp.asarray(grads[2][1])])
    np.testing.assert_array_equal(params[0]._read(), before)
    with pytest.raises(TypeError, match="can only optimize Parameters"):
        optimizer.param_groups[0]["params"] = [jnp.ones(2)]


# -- data, not program -------------------------------------------------------------------------------------------------


SCHEDULE = {
    "SGD": ({"lr": 0.1, "momentum": 0.9, "dampening": 0.2, "weight_decay": 0.1}, ["lr", "momentum", "dampening", "weight_decay"]),
    "Adam": ({"lr": 0.1, "weight_decay": 0.1}, ["lr", "betas", "eps", "weight_decay"]),
    "AdamW": ({"lr": 0.1}, ["lr", "betas", "eps", "weight_decay"]),
    "Adadelta": ({"lr": 0.1, "weight_decay": 0.1}, ["lr", "rho", "eps", "weight_decay"]),
}


@pytest.mark.parametrize("name", SCHEDULE)
def test_numbers_change_without_retrace(name):
    options, keys = SCHEDULE[name]
    values, grads = draw(13, 10)
    params, optimizer = ours(name, values, **options)
    expected, torch_optimizer = theirs(name, values, **options)
    traces = Traces()

    @jit
    def step(grads):
        traces.note()
        optimizer.step(grads)

    for i, g in enumerate(grads):
        for group in (optimizer.param_groups[0], torch_optimizer.param_groups[0]):
            key = keys[i % len(keys)]
            if key == "betas":
                group["betas"] = (0.5, 0.75)
            else:
                group[key] *= 0.7
        torch_step(expected, torch_optimizer, g)
        step([jnp.asarray(a) for a in g])
    assert_same(params, expected)
    assert traces.count == 1


def test_steady_state_moves_nothing_between_host_and_device():
    model = Linear(3, 2)
    optimizer = optim.AdamW(model.parameters())
    step = jit(lambda x: optimizer.step(lambda: mean_square(model(x))))
    step(X)
    with jax.transfer_guard("disallow"):
        step(X)
        optimizer.param_groups[0]["lr"] = 0.5
        step(X)


def test_zero_or_not_is_program():
    values, grads = draw(14, 9, shapes=((3,),))
    params, optimizer = ours("SGD", values, lr=0.1)
    expected, torch_optimizer = theirs("SGD", values, lr=0.1)
    traces = Traces()

    @jit
    def step(grads):
        traces.note()
        optimizer.step(grads)

    for i, g in enumerate(grads):
        for group in (optimizer.param_groups[0], torch_optimizer.param_groups[0]):
            group["momentum"] = (0, 0.9, 0.0)[i // 3]
        torch_step(expected, torch_optimizer, g)
        step([jnp.asarray(a) for a in g])
        assert traces.count == i // 3 + 1
    assert_same(params, expected)


def test_amsgrad_switched_on_later():
    values, grads = draw(15, 3, shapes=((3,),))
    params, optimizer = ours("Adam", values)
    step = jit(lambda grads: optimizer.step(grads))
    for i, g in enumerate(grads):
        optimizer.param_groups[0]["amsgrad"] = i > 0
        step([jnp.asarray(a) for a in g])
    assert set(optimizer.state[params[0]]) == {"step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"}
    assert float(optimizer.state[params[0]]["step"]) == 3.0


def test_writing_inside_a_compiled_function_is_refused():
    model = Linear(3, 2)
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    @jit
    def step():
        optimizer.param_groups[0]["lr"] *= 0.5

    with pytest.raises(errors.StaticAttributeError, match=r"group\['lr'\] was written inside a compiled function"):
        step()
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_reading_inside_a_compiled_function_follows_changes():
    optimizer = optim.Adam([Parameter(jnp.ones(2))], lr=0.5)
    group = optimizer.param_groups[0]
    read = jit(lambda: (group["lr"], group.get("betas"), dict(group.items())["eps"]))
    lr, betas, eps = read()
    np.testing.assert_allclose([lr, *betas, eps], [0.5, 0.9, 0.999, 1e-8], rtol=1e-6)
    group["lr"] = 0.25
    assert float(read()[0]) == 0.25


def test_a_group_is_a_dict():
    optimizer = optim.SGD([Parameter(jnp.ones(2))], lr=0.1)
    group = optimizer.param_groups[0]
    assert isinstance(group, dict)
    group.setdefault("initial_lr", group["lr"])
    group.update(lr=0.2, note="x")
    assert group.pop("note") == "x" and group.get("nothing", 3) == 3 and "note" not in group
    group |= {"lr": 0.3}
    assert dict(group)["lr"] == 0.3
    del group["initial_lr"]
    for bad in (group.clear, lambda: group.pop("params")):
        with pytest.raises((TypeError, KeyError)):
            bad()


# -- optimizers of one's own -------------------------------------------------------------------------------------------


def test_an_optimizer_in_torchs_style():
    class Descent(optim.Optimizer):
        def __init__(self, params, lr):
            super().__init__(params, {"lr": lr})

        def step(self):
            for group in self.param_groups:
                for p in group["params"]:
                    p.data.add_(p.grad, alpha=-group["lr"])

    p = Parameter(jnp.ones(2))
    optimizer = Descent([p], 0.5)
    traces = Traces()

    @jit
    def step():
        traces.note()
        optimizer.step()

    p.grad = jnp.ones(2)
    step()
    optimizer.param_groups[0]["lr"] = 0.25
    step()
    np.testing.assert_allclose(p._read(), [0.25, 0.25])
    assert traces.count == 1


def test_an_optimizer_by_its_rule():
    class Signed(optim.Optimizer):
        """signSGD with a decaying rate."""

        def __init__(self, params, lr=0.1):
            super().__init__(params, {"lr": lr})

        @staticmethod
        def _slots(options, shape):
            return {"last": shape}

        @staticmethod
        def _schedule(options, numbers, steps):
            return {"rate": numbers["lr"] / steps}

        @staticmethod
        def _rule(options, p, g, state, n):
            return p - n["rate"] * jnp.sign(g), {"last": g}

    p = Parameter(jnp.zeros(1))
    optimizer = Signed([p], lr=1.0)
    step = jit(lambda g: optimizer.step([g]))
    for _ in range(3):
        step(jnp.full(1, -2.0))
    np.testing.assert_allclose(p._read(), [1 + 1 / 2 + 1 / 3], rtol=1e-6)
    assert list(optimizer.state_dict()["state"][0]) == ["step", "last"]
    with pytest.raises(NotImplementedError):
        optim.Optimizer([Parameter(jnp.ones(1))], {}).step([jnp.ones(1)])
