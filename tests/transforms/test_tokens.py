"""Attacks on the frames' tokens and guards: stable callables that jax has cached, nested transforms, rules, restarts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from objnet.core import errors
from objnet.core.frame import is_concrete
from objnet.core.random import rand
from objnet.core.rng import default_generator, manual_seed, next_rng_key
from objnet.core.variable import Parameter
from objnet.nn.module import Module
from objnet.transforms.autodiff import backward, grad, value_and_grad
from objnet.transforms.grad_mode import no_grad
from objnet.transforms.jit import jit
from objnet.transforms.pure import transform_with_state
from tests.transforms import grid

X = jnp.ones(3)
ROW = jnp.zeros((1,))


class Model(Module):
    """A weight of 2, then 3, ...; its sum over X is three times that."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = Parameter(jnp.full(3, 2.0))
        self.register_buffer("count", jnp.zeros(()))

    def forward(self, x: Any) -> Any:
        return x * self.weight

    def total(self, x: Any) -> Any:
        return lax.reduce_sum(self(x), axes=(0,))

    def step(self, carry: Any, _: Any) -> Any:
        return carry, self.total(carry)

    def step_grad(self, carry: Any, _: Any) -> Any:
        return carry, grad(self.total)(carry).sum()

    def step_no_grad(self, carry: Any, _: Any) -> Any:
        return carry, no_grad(self.total)(carry)

    def step_jit(self, carry: Any, _: Any) -> Any:
        return carry, jit(self.total)(carry)

    def step_deep(self, carry: Any, _: Any) -> Any:
        return carry, no_grad(lambda c: grad(jax.checkpoint(self.total))(c).sum())(carry)

    def by_mode(self, carry: Any, _: Any) -> Any:
        return carry, self.total(carry) * (1.0 if self.training else 10.0)


def scanned(step: Callable[[Any, Any], Any]) -> Callable[[Any], Any]:
    return lambda x: lax.scan(step, x, ROW)[1].sum()


CACHED: dict[str, Callable[[Model], Callable[[Any], Any]]] = {
    "scan": lambda m: scanned(m.step),
    "scan of grad": lambda m: scanned(m.step_grad),
    "scan of no_grad": lambda m: scanned(m.step_no_grad),
    "scan of jit": lambda m: scanned(m.step_jit),
    "scan of no_grad of grad of checkpoint": lambda m: scanned(m.step_deep),
    "checkpoint": lambda m: jax.checkpoint(m.total),
    "checkpoint of scan": lambda m: jax.checkpoint(scanned(m.step)),
    "scan of checkpoint": lambda m: (lambda inner: scanned(lambda c, _: (c, inner(c))))(jax.checkpoint(m.total)),
    "one jitted function": lambda m: jax.jit(m.total),
    "vmap of a jitted function": lambda m: (lambda inner: lambda x: jax.vmap(inner)(x[None]).sum())(jax.jit(m.total)),
    "cond": lambda m: (lambda f: lambda x: lax.cond(x[0] > 0, f, f, x))(m.total),
    "grad of scan": lambda m: (lambda f: lambda x: jax.grad(f)(x).sum())(scanned(m.step)),
}


@pytest.fixture(params=CACHED)
def cached(request: pytest.FixtureRequest) -> tuple[Model, Callable[[Any], Any]]:
    """A model and a stable callable that gives 6 while its weight is 2, 9 when it is 3, and so on."""
    model = Model()
    return model, CACHED[request.param](model)


def test_a_write_between_two_uses_in_one_program(cached: Any) -> None:
    model, run = cached

    @jit
    def program(x: Any) -> Any:
        first = run(x)
        model.weight.data.add_(1.0)
        second = run(x)
        model.weight.data.add_(1.0)
        return first, second, run(x)

    np.testing.assert_allclose(program(X), [6, 9, 12])
    np.testing.assert_allclose(program(X), [12, 15, 18])
    np.testing.assert_allclose(model.weight.numpy(), 6)


def test_a_write_between_two_uses_in_one_gradient(cached: Any) -> None:
    model, run = cached

    def loss(x: Any) -> Any:
        first = run(x)
        model.weight.data.add_(1.0)
        return first * 0.5, run(x)

    (value, second), _ = value_and_grad(loss, wrt=model, has_aux=True)(X)
    np.testing.assert_allclose([value, second], [3, 9])
    np.testing.assert_allclose(model.weight.numpy(), 3)


def test_weights_changed_between_two_gradients(cached: Any) -> None:
    model, run = cached
    derivative = value_and_grad(run, wrt=model)
    for expected in (6, 9):
        np.testing.assert_allclose(derivative(X)[0], expected)
        assert is_concrete([p._value for p in model.parameters()])
        model.weight.data.add_(1.0)


def test_surroundings_taken_in_turn(cached: Any) -> None:
    """A callable cached in one surrounding is not reused in another."""
    model, run = cached
    net = transform_with_state(lambda x: run(x) + 0.0 * model.count)
    params, state = net.init(None, X)
    other = {"model": {"weight": jnp.full(3, 7.0)}}
    compiled, derivative = jit(lambda x: run(x)), value_and_grad(run, wrt=model)
    for weight in (2.0, 5.0):
        model.weight.data = jnp.full(3, weight)
        np.testing.assert_allclose(derivative(X)[0], 3 * weight)
        np.testing.assert_allclose(net.apply(other, state, None, X)[0], 21)
        np.testing.assert_allclose(compiled(X), 3 * weight)
        np.testing.assert_allclose(jax.jit(net.apply)(params, state, None, X)[0], 6)
        with pytest.raises(errors.ReadInTransformError):  # a bare frame of jax's own still has nothing cached to give
            jax.jit(lambda x: run(x))(X)


def test_gradients_through_cached_callables_are_those_of_the_weights_of_now() -> None:
    model = Model()
    square = scanned(lambda c, _: (c, model.total(c) ** 2))
    for weight in (2.0, 3.0):
        model.weight.data = jnp.full(3, weight)
        assert backward(lambda: square(X)) == 9 * weight**2
        np.testing.assert_allclose(model.weight.grad, 6 * weight)
        model.zero_grad()


def test_a_mode_change_between_two_uses_in_one_program() -> None:
    model = Model()
    run = scanned(model.by_mode)

    @jit
    def program(x: Any) -> Any:
        model.train()
        first = run(x)
        model.eval()
        return first, run(x)

    np.testing.assert_allclose(program(X), [6, 60])


def test_a_mode_change_in_an_inner_frame_reaches_the_outer_one() -> None:
    model = Model()
    run = scanned(model.by_mode)

    def program(x: Any) -> Any:
        first = run(x)
        no_grad(model.eval)()
        return first, run(x)

    (value, second), _ = value_and_grad(program, wrt=model, has_aux=True)(X)
    np.testing.assert_allclose([value, second], [6, 60])
    assert not model.training


@pytest.mark.parametrize("inner", [grad, value_and_grad, jit, no_grad])
@pytest.mark.parametrize("outer", ["vmap", "grad"])
def test_an_inner_transform_does_not_hide_a_foreign_one_from_draws(inner: Any, outer: str) -> None:
    def noisy(x: Any) -> Any:
        return x.sum() * jax.random.uniform(next_rng_key())

    foreign: Any = {
        "vmap": jax.vmap(inner(noisy)),
        "grad": lambda x: jax.grad(lambda x: jax.tree.leaves(inner(noisy)(x))[0].sum())(x[0]),
    }
    manual_seed(0)
    for surrounded in (foreign[outer], jit(foreign[outer]), no_grad(foreign[outer])):
        with pytest.raises(errors.RngInTransformError):
            surrounded(jnp.ones((3, 2)))
    jit(lambda: jax.random.uniform(next_rng_key()))()


def test_a_backward_rule_reads_what_the_forward_wrote() -> None:
    model = Model()

    @jax.custom_vjp
    def ruled(x: Any) -> Any:
        return x.sum()

    ruled.defvjp(lambda x: (x.sum(), None), lambda _, ct: (ct * model.weight._read(),))

    def loss(x: Any) -> Any:
        model.weight.data.add_(1.0)
        return ruled(x)

    np.testing.assert_allclose(grad(loss)(X), 3)
    np.testing.assert_allclose(jit(lambda x: grad(loss)(x))(X), 4)
    np.testing.assert_allclose(model.weight.numpy(), 4)


def test_a_restart_draws_the_same_numbers_again() -> None:
    model = Model()
    manual_seed(4)
    expected = rand(3)
    following = default_generator.get_state()

    def loss(x: Any) -> Any:
        noise = rand(3)
        return lax.scan(model.step, noise, ROW)[1].sum()  # reads the weight under scan: the gradient starts again

    manual_seed(4)
    np.testing.assert_allclose(value_and_grad(loss, wrt=model)(X)[0], 2 * expected.sum(), rtol=1e-6)
    np.testing.assert_array_equal(default_generator.get_state(), following)


def test_a_restart_writes_once() -> None:
    model = Model()

    def loss(x: Any) -> Any:
        model.count = model.count + 1.0
        return lax.scan(model.step, x, ROW)[1].sum()

    value_and_grad(loss, wrt=model)(X)
    assert model.count == 1.0


def test_a_buffer_registered_in_a_program_is_a_buffer() -> None:
    model = grid.Model(grid.EFFECTS["registers_buffer"].act, np.ones(3, np.float32))
    program = jit(lambda x: model.vector(x))
    for _ in range(3):
        np.testing.assert_allclose(program(X), 3)
        assert "extra" in model._buffers and "extra" in model.state_dict()


@pytest.mark.parametrize("inner", [no_grad, grad, value_and_grad, jit])
def test_a_module_built_in_an_inner_transform_of_a_pure_function(inner: Any) -> None:
    """It takes the params it is given, or is refused: never its own initial values."""
    net = transform_with_state(lambda x: inner(lambda x: Model().total(x))(x))
    try:
        params, state = net.init(None, X)
        out, _ = net.apply(jax.tree.map(lambda v: v * 5.0, params), state, None, X)
    except errors.ObjnetError:
        assert inner is jit
    else:
        np.testing.assert_allclose(jax.tree.leaves(out)[0].sum(), 30)


def test_compiled_functions_run_in_a_pure_function_without_rng() -> None:
    model = Model()
    net = transform_with_state(lambda x: jit(model.total)(x))
    params, state = net.init(None, X)
    np.testing.assert_allclose(net.apply(params, state, None, X)[0], 6)
    drawing = transform_with_state(lambda x: jit(lambda x: x + jax.random.uniform(next_rng_key()))(x))
    with pytest.raises(errors.MissingRngError):
        drawing.apply({}, {}, None, X)
    assert drawing.apply({}, {}, 0, X)[0].shape == (3,)
    with pytest.raises(errors.MissingRngError):  # now that the program exists
        drawing.apply({}, {}, None, X)


def test_an_error_leaves_the_token_and_the_model_as_they_were(cached: Any) -> None:
    model, run = cached

    def fails(x: Any) -> Any:
        model.count = model.count + 1.0
        run(x)
        raise KeyError("mine")

    for surrounded in (value_and_grad(fails, wrt=model), jit(fails), no_grad(fails)):
        with pytest.raises((KeyError, errors.ReadInTransformError)):
            surrounded(X)
    np.testing.assert_allclose(value_and_grad(run, wrt=model)(X)[0], 6)
    assert is_concrete(model.count)
