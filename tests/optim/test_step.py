"""The three ways to step, what is skipped, and what is refused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from objnet import backward, errors, jit, optim, value_and_grad
from objnet.core.variable import Parameter
from objnet.transforms.autodiff import Gradients
from tests.optim.common import EACH, assert_same, draw, ours, shapes_for, theirs, tolerance, torch, torch_step
from tests.optim.models import Headed, Linear, mean_square

X = jnp.asarray(np.random.default_rng(7).normal(size=(5, 3)).astype(np.float32))


def torch_run(steps: int = 3, **options) -> list[np.ndarray]:
    model = Linear(3, 2)
    weight, bias = (torch.nn.Parameter(torch.tensor(np.asarray(p._read()))) for p in model.parameters())
    optimizer = torch.optim.AdamW([weight, bias], **options)
    x = torch.tensor(np.asarray(X))
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = ((x @ weight.T + bias) ** 2).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach().numpy())
    return [weight.detach().numpy(), bias.detach().numpy(), np.stack(losses)]


def closure_way(model, optimizer):
    return lambda x: optimizer.step(lambda: mean_square(model(x)))


def closure_with_backward(model, optimizer):
    def step(x):
        def closure():
            optimizer.zero_grad()
            return backward(lambda: mean_square(model(x)))

        return optimizer.step(closure)

    return step


def closure_that_clears(model, optimizer):
    def step(x):
        def closure():
            optimizer.zero_grad()
            return mean_square(model(x))

        return optimizer.step(closure)

    return step


def grads_way(model, optimizer):
    def step(x):
        loss, grads = value_and_grad(lambda: mean_square(model(x)), wrt=model)()
        optimizer.step(grads)
        return loss

    return step


def list_way(model, optimizer):
    def step(x):
        loss, grads = value_and_grad(lambda: mean_square(model(x)), wrt=list(model.parameters()))()
        optimizer.step(grads)
        return loss

    return step


def dict_way(model, optimizer):
    def step(x):
        loss, grads = value_and_grad(lambda: mean_square(model(x)), wrt=model)()
        optimizer.step(dict(reversed(grads.items())))
        return loss

    return step


def rhythm_way(model, optimizer):
    def step(x):
        optimizer.zero_grad()
        loss = backward(lambda: mean_square(model(x)))
        optimizer.step()
        return loss

    return step


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize(
    "way",
    [closure_way, closure_with_backward, closure_that_clears, grads_way, list_way, dict_way, rhythm_way],
    ids=lambda f: f.__name__,
)
def test_every_way_equals_torch(way, compiled):
    model = Linear(3, 2)
    optimizer = optim.AdamW(model.parameters(), lr=0.1)
    step = way(model, optimizer)
    step = jit(step) if compiled else step
    losses = [step(X) for _ in range(3)]
    weight, bias, expected = torch_run(lr=0.1)
    np.testing.assert_allclose(np.stack(losses), expected, rtol=1e-5)
    np.testing.assert_allclose(model.weight._read(), weight, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.bias._read(), bias, rtol=1e-5, atol=1e-6)


def test_aux():
    model = Linear(3, 2)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    loss, aux = optimizer.step(lambda: (mean_square(model(X)), {"out": model(X)}), has_aux=True)
    assert loss.shape == () and aux["out"].shape == (5, 2)
    with pytest.raises(TypeError, match="has_aux"):
        optimizer.step(has_aux=True)


def test_stale_gradients_do_not_pass_for_the_closures():
    model = Linear(3, 2)
    optimizer = optim.SGD(model.parameters(), lr=1.0)
    for p in model.parameters():
        p.grad = jnp.full(p.shape, 1000.0)
    before = model.weight._read()
    optimizer.step(lambda: mean_square(model(X)))
    assert float(jnp.abs(model.weight._read() - before).max()) < 100


@pytest.mark.parametrize("name,options", EACH, ids=lambda x: x if isinstance(x, str) else "")
def test_parameters_without_gradient_are_left_alone(name, options):
    """None for one parameter at changing steps: no decay, no state, no step counted, eager and compiled."""
    values, grads = draw(8, 6, shapes_for(name))
    for i, skipped in enumerate([(1,), (1,), (), (0,), (0, 1), (1,)]):
        for j in skipped:
            grads[i][j] = None
    expected, torch_optimizer = theirs(name, values, **options)
    eager, eager_optimizer = ours(name, values, **options)
    compiled, compiled_optimizer = ours(name, values, **options)
    step = jit(lambda grads: compiled_optimizer.step(grads))
    for g in grads:
        torch_step(expected, torch_optimizer, g)
        g = [None if a is None else jnp.asarray(a) for a in g]
        eager_optimizer.step(g)
        step(g)
        for optimizer in (eager_optimizer, compiled_optimizer):
            state, found = torch_optimizer.state_dict()["state"], optimizer.state_dict()["state"]
            assert found.keys() == state.keys()
            if "step" in state[0]:
                assert {i: float(s["step"]) for i, s in found.items()} == {i: float(s["step"]) for i, s in state.items()}
    assert_same(eager, expected, **tolerance(name))
    assert_same(compiled, expected, **tolerance(name))


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_unused_head_does_not_move(compiled):
    model = Headed()
    optimizer = optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    before = np.asarray(model.head.weight._read())
    step = closure_way(model, optimizer)
    step = jit(step) if compiled else step
    for _ in range(3):
        step(X)
    np.testing.assert_array_equal(model.head.weight._read(), before)
    assert {i: float(s["step"]) for i, s in optimizer.state_dict()["state"].items()} == {0: 3.0, 1: 3.0}
    assert optimizer.state[model.head.weight] == {} and model.head.weight not in optimizer.state


def test_two_steps_in_one_program_part_company():
    """All step, then one alone, in one trace: the counters part in the middle of the program."""
    values, _ = draw(9, 0, shapes=((2,), (2,)))
    g = jnp.ones(2)
    expected, torch_optimizer = theirs("Adam", values, lr=0.1)
    params, optimizer = ours("Adam", values, lr=0.1)

    @jit
    def step():
        optimizer.step([g, g])
        optimizer.step([2 * g, None])

    for _ in range(3):
        torch_step(expected, torch_optimizer, [np.ones(2, np.float32)] * 2)
        torch_step(expected, torch_optimizer, [2 * np.ones(2, np.float32), None])
        step()
    assert_same(params, expected)
    assert [float(optimizer.state[p]["step"]) for p in params] == [6.0, 3.0]


def test_frozen_parameters():
    model = Headed()
    model.head.requires_grad_(False)
    model.body.bias.requires_grad = False
    optimizer = optim.AdamW(model.parameters(), lr=0.1)
    before = [np.asarray(p._read()) for p in model.parameters()]
    step = jit(closure_way(model, optimizer))
    step(X)
    moved = [not np.array_equal(b, p._read()) for b, p in zip(before, model.parameters(), strict=True)]
    assert moved == [True, False, False, False]
    assert set(optimizer.state_dict()["state"]) == {0}
    model.body.bias.requires_grad = True  # thawed: it starts to count its own steps
    step(X)
    assert {i: float(s["step"]) for i, s in optimizer.state_dict()["state"].items()} == {0: 2.0, 1: 1.0}


def test_consumed_gradients_are_not_handed_out():
    model = Linear(3, 2)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    jit(rhythm_way(model, optimizer))(X)
    with pytest.raises(errors.GradientDroppedError):
        model.weight.grad
    optimizer.zero_grad()
    assert model.weight.grad is None
    jit(rhythm_way(model, optimizer), keep_grads=True)(X)
    assert model.weight.grad.shape == (2, 3)


def test_zero_grad():
    model = Linear(3, 2)
    optimizer = optim.SGD(model.parameters())
    model.weight.grad = jnp.ones((2, 3))
    optimizer.zero_grad(set_to_none=False)
    np.testing.assert_array_equal(model.weight.grad, np.zeros((2, 3)))
    assert model.bias.grad is None
    optimizer.zero_grad()
    assert model.weight.grad is None


# -- refusals ----------------------------------------------------------------------------------------------------------


def fitting(model) -> dict:
    return {"weight": jnp.ones((2, 3)), "bias": jnp.ones(2)}


@pytest.mark.parametrize(
    "change,message",
    [
        (lambda g: g.pop("bias"), "missing: Parameter 'bias'"),
        (lambda g: g.update(other=jnp.ones(2)), "unknown: other"),
        (lambda g: g.update(bias=jnp.ones(3)), r"bias: the gradient has shape \(3,\), the parameter \(2,\)"),
        (lambda g: g.update(bias=jnp.ones(2, jnp.bfloat16)), "bias: the gradient has dtype bfloat16, the parameter float32"),
    ],
)
def test_gradients_that_do_not_fit(change, message):
    model = Linear(3, 2)
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    grads = fitting(model)
    change(grads)
    before = model.weight._read()
    with pytest.raises(errors.StructureMismatchError, match=message):
        optimizer.step(grads)
    np.testing.assert_array_equal(model.weight._read(), before)
    assert optimizer.state_dict()["state"] == {}


def test_all_faults_are_listed_at_once():
    model = Linear(3, 2)
    with pytest.raises(errors.StructureMismatchError, match=r"(?s)missing.*bias.*unknown: x.*weight: the gradient"):
        optim.SGD(model.parameters()).step({"x": jnp.ones(1), "weight": jnp.ones(1)})


def test_gradients_of_another_model():
    model, other = Linear(3, 2), Linear(3, 2)
    grads = Gradients(fitting(other), list(other.parameters()))
    with pytest.raises(errors.StructureMismatchError, match="unknown: weight"):
        optim.SGD(model.parameters()).step(grads)


def test_names_are_needed_for_a_dict():
    model = Linear(3, 2)
    optim.SGD(model.named_parameters(), lr=0.1).step(fitting(model))
    with pytest.raises(errors.StructureMismatchError, match="does not know its parameters' names"):
        optim.SGD(list(model.parameters())).step(fitting(model))
    other = Linear(3, 2)
    two = optim.SGD([{"params": model.parameters()}, {"params": other.parameters()}])
    with pytest.raises(errors.StructureMismatchError, match="two parameters of the optimizer are named 'weight'"):
        two.step(fitting(model))


def test_a_list_runs_along_all_parameters():
    model = Linear(3, 2)
    with pytest.raises(errors.StructureMismatchError, match="got 1 gradients.*2 parameters"):
        optim.SGD(model.parameters()).step([jnp.ones((2, 3))])


@pytest.mark.parametrize("bad", [jnp.ones(()), 1.0, "loss"])
def test_a_loss_is_no_closure(bad):
    with pytest.raises(TypeError, match="step takes a closure"):
        optim.SGD(Linear(3, 2).parameters()).step(bad)


def test_own_gradient_that_does_not_fit():
    p = Parameter(jnp.ones(2))
    optimizer = optim.SGD([p])
    p.grad = jnp.ones(2, jnp.bfloat16)
    with pytest.raises(RuntimeError, match="dtype bfloat16"):
        optimizer.step()


def test_a_plain_jax_program_is_refused():
    model = Linear(3, 2)
    optimizer = optim.SGD(model.parameters(), momentum=0.9)
    with pytest.raises(errors.TransformError):
        jax.jit(closure_way(model, optimizer))(X)
    assert optimizer.state_dict()["state"] == {}


def test_step_hooks():
    model = Linear(3, 2)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    seen = []
    pre = optimizer.register_step_pre_hook(lambda o, args, kwargs: seen.append(("pre", o is optimizer, len(args))))
    optimizer.register_step_post_hook(lambda o, args, kwargs: seen.append(("post", o is optimizer, len(args))))
    optimizer.step(lambda: mean_square(model(X)))
    with pre:
        pass
    optimizer.step(fitting(model))
    assert seen == [("pre", True, 2), ("post", True, 2), ("post", True, 2)]
    doubled = optimizer.register_step_pre_hook(lambda o, args, kwargs: ((o, jax.tree.map(lambda g: 2 * g, args[1])), kwargs))
    before = model.bias._read()
    optimizer.step(fitting(model))
    np.testing.assert_allclose(before - model.bias._read(), [0.2, 0.2], rtol=1e-5)
    doubled.remove()
    optimizer.register_step_pre_hook(lambda o, args, kwargs: 3)
    with pytest.raises(RuntimeError, match="must return None or a tuple"):
        optimizer.step(fitting(model))
