"""Backward hooks of modules and parameters, under every transform; no torch needed."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from objnet import nn, optim
from objnet.core import errors
from objnet.nn.modules.module import register_module_full_backward_hook
from objnet.transforms.autodiff import backward, grad, value_and_grad
from objnet.transforms.jit import jit
from objnet.transforms.pure import transform_with_state

X = jnp.asarray([[1.0, 2.0, 3.0], [0.5, -1.0, 2.0]])


class Scaled(nn.Module):
    """A loss in which a hooked layer has an input with a gradient."""

    def __init__(self, inner):
        super().__init__()
        self.scale = nn.Parameter(jnp.ones(3))
        self.inner = inner

    def forward(self, x):
        return (self.inner(x * self.scale) ** 2).sum()


class Hooked(nn.Module):
    """A layer whose method ``hook`` is its backward hook."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.register_buffer("seen", jnp.zeros(()))
        self.count = 0
        self.last = None
        self.register_full_backward_hook(type(self).hook)

    def forward(self, x):
        return self.linear(x)


class WritesBuffer(Hooked):
    def hook(self, grad_input, grad_output):
        self.seen = self.seen + jnp.sum(grad_output[0] ** 2)


class Counts(Hooked):
    def hook(self, grad_input, grad_output):
        self.count += 1


class Keeps(Hooked):
    def hook(self, grad_input, grad_output):
        self.last = grad_input[0]


class ReadsParameter(Hooked):
    def hook(self, grad_input, grad_output):
        return (grad_input[0] * self.linear.weight.sum(),)


def tenfold():
    """A loss whose inner layer multiplies its input's gradient by ten, and the gradient it would have had without."""
    model = Scaled(nn.Linear(3, 2))
    plain = value_and_grad(model, argnums=0, wrt=model.scale)(X)[1]
    model.inner.register_full_backward_hook(lambda module, grad_input, grad_output: (grad_input[0] * 10,))
    return model, [np.asarray(g) * 10 for g in plain]


def test_eager_gradients_give_hooks_values_to_keep():
    model, kept = Scaled(nn.Linear(3, 2)), []
    model.inner.register_full_backward_hook(lambda m, gi, go: kept.append((float(jnp.sum(gi[0])), float(jnp.sum(go[0])))))
    backward(lambda: model(X))
    value_and_grad(lambda: model(X), wrt=model)()
    optim.SGD(model.parameters(), lr=0.1).step(lambda: model(X))
    jax.grad(model)(X)
    assert len(kept) == 4
    assert kept[0] == kept[1] == kept[2] != kept[3]


@pytest.mark.parametrize(
    "take",
    [
        lambda model: value_and_grad(model, argnums=0, wrt=model.scale)(X)[1],
        lambda model: jit(value_and_grad(model, argnums=0, wrt=model.scale))(X)[1],
        lambda model: value_and_grad(jit(model), argnums=0, wrt=model.scale)(X)[1],
        lambda model: value_and_grad(lambda x: jax.checkpoint(lambda y: model(y))(x), argnums=0, wrt=model.scale)(X)[1],
        lambda model: value_and_grad(
            lambda x: jax.lax.scan(lambda c, row: (c + model(row), None), 0.0, x)[0], argnums=0, wrt=model.scale
        )(X)[1],
        lambda model: (jax.vmap(jax.grad(model))(X), value_and_grad(model, wrt=model.scale)(X)[1]),
    ],
    ids=["eager", "jit", "of jit", "checkpoint", "scan", "vmap"],
)
def test_a_replaced_gradient_goes_on_in_every_transform(take):
    model, expected = tenfold()
    for got, wanted in zip(take(model), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5)


def test_the_pure_form():
    model, expected = tenfold()
    net = transform_with_state(model)
    params, state = net.init(None)
    gradient = jax.jit(jax.grad(lambda p: net.apply(p, state, None, X)[0]))(params)
    np.testing.assert_allclose(gradient["~"]["scale"], expected[1], rtol=1e-5)

    def build(x):
        fresh = Scaled(nn.Linear(3, 2))
        fresh.inner.register_full_backward_hook(lambda module, grad_input, grad_output: (grad_input[0] * 10,))
        return fresh(x)

    built = transform_with_state(build)
    params, state = {"scaled": params["~"], "scaled.inner": params["inner"]}, {}
    gradient = jax.grad(lambda p: built.apply(p, state, None, X)[0])(params)
    np.testing.assert_allclose(gradient["scaled"]["scale"], expected[1], rtol=1e-5)


def test_the_derivative_of_a_gradient_goes_through_the_hook():
    layer = nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(3.0)
    layer.register_full_backward_hook(lambda m, gi, go: (gi[0] * go[0],))
    second = jax.grad(lambda x: jax.grad(lambda y: jnp.sum(layer(y) ** 2))(x).sum())(jnp.ones(1))
    np.testing.assert_allclose(second, [2 * 3 * (2 * 3) ** 2], rtol=1e-6)  # of w (2 w x)^2 at 1


def test_a_buffer_written_by_a_hook():
    expected = []
    for compiled in (False, True):
        model = Scaled(WritesBuffer())
        model.inner.linear.weight.data.fill_(0.5)
        model.inner.linear.bias.data.zero_()
        optimizer = optim.SGD(model.parameters(), lr=0.01)

        def step(x):
            return optimizer.step(lambda: model(x))  # noqa: B023

        step = jit(step) if compiled else step
        for _ in range(2):
            step(X)
        expected.append(float(model.inner.seen))
    assert expected[0] > 0
    np.testing.assert_allclose(*expected, rtol=1e-5)


def test_an_attribute_written_by_a_hook():
    model = Scaled(Keeps())
    jit(grad(lambda x: model(x)))(X)
    kept = np.asarray(model.inner.last)
    backward(lambda: model(X))
    np.testing.assert_allclose(model.inner.last, kept, rtol=1e-6)


def test_numbers_changed_by_a_hook():
    model = Scaled(Counts())
    for _ in range(2):
        backward(lambda: model(X))
    assert model.inner.count == 2
    with pytest.raises(errors.StaticAttributeError, match="count"):
        jit(grad(model))(X)
    assert model.inner.count == 2


def test_values_kept_from_a_compiled_backward_pass_are_refused():
    model, kept = Scaled(nn.Linear(3, 2)), []
    model.inner.register_full_backward_hook(lambda m, gi, go: kept.append(gi[0]))
    with pytest.raises(errors.StaticAttributeError, match="list"):
        jit(grad(model))(X)
    assert not kept


def test_values_kept_from_a_compiled_forward_pass():
    model, kept = nn.Linear(3, 2), {}
    handle = model.register_forward_hook(lambda m, args, out: kept.update(feature=out))
    with pytest.raises(errors.StaticAttributeError, match=r"dict was changed .*setattr\(module, .*features\.pop"):
        jit(model)(X)
    _, feature = jit(lambda x: (model(x), kept.pop("feature")))(X)  # the two ways that the message names
    np.testing.assert_allclose(feature, model(X), rtol=1e-6)
    handle.remove()
    model.register_forward_hook(lambda m, args, out: setattr(m, "feature", out))
    compiled = jit(model)
    for x in (X, 2 * X):
        np.testing.assert_array_equal(compiled(x), model.feature)


def test_parameters_read_by_a_hook():
    model = Scaled(ReadsParameter())
    np.testing.assert_allclose(jit(grad(model))(X), grad(model)(X), rtol=1e-5)


@pytest.mark.parametrize(
    ("layer", "error"),
    [
        (WritesBuffer, errors.ReadInTransformError),
        (ReadsParameter, errors.ReadInTransformError),
        (Counts, errors.StaticAttributeError),
    ],
)
def test_hooks_that_run_after_their_function_has_returned_touch_no_state(layer, error):
    model = Scaled(layer())
    net = transform_with_state(model)
    params, state = net.init(None)
    for take in (
        jax.grad(lambda p: net.apply(p, state, None, X)[0]),
        jax.jit(jax.grad(lambda p: net.apply(p, state, None, X)[0])),
    ):
        with pytest.raises(errors.ObjnetError) as caught:
            take(params)
        assert isinstance(caught.value, error)
    if layer is not Counts:
        inner = jit(model)
        for take in (grad(inner), jit(lambda x: grad(inner)(x))):
            with pytest.raises(errors.TransformError):
                take(X)
    inside = transform_with_state(lambda x: grad(model)(x))  # here the function is still running
    if layer is WritesBuffer:
        _, after = inside.apply(*inside.init(None, X), None, X)
        assert float(after["scaled.inner"]["seen"]) > 0


def test_registering_and_removing_moves_compiled_functions():
    model = Scaled(nn.Linear(3, 2))
    compiled = jit(grad(model))
    before = compiled(X)
    handle = model.inner.register_full_backward_hook(lambda m, gi, go: (gi[0] * 0,))
    assert (np.asarray(compiled(X)) == 0).all()
    handle.remove()
    np.testing.assert_array_equal(compiled(X), before)
    with register_module_full_backward_hook(lambda m, gi, go: (gi[0] * 2,) if isinstance(m, nn.Linear) else None):
        np.testing.assert_allclose(compiled(X), 2 * before, rtol=1e-6)
    np.testing.assert_array_equal(compiled(X), before)


def test_an_equal_model_with_hooks_gets_its_own():
    modules = []

    def build():
        model = Scaled(nn.Linear(3, 2))
        model.inner.register_full_backward_hook(lambda m, gi, go: modules.append(m))
        return model

    a, b = build(), build()
    jit(a)(X)
    grad(jit(b))(X)  # the hook runs when the compiled forward is differentiated
    assert modules == [b.inner]


def test_one_compiled_forward_differentiated_in_several_ways():
    layer, seen = nn.Linear(3, 2), []
    layer.register_full_backward_hook(lambda m, gi, go: seen.append(gi[0] is None))
    compiled = jit(layer)
    grad(lambda x: compiled(x).sum())(X)
    with pytest.warns(UserWarning, match="no inputs require gradients"):
        grad(lambda: compiled(X).sum(), wrt=layer)()
    assert seen == [False, True]


def test_hooked_modules_are_let_go():
    def use():
        model = Scaled(nn.Linear(3, 2))
        model.inner.register_full_backward_hook(lambda m, gi, go: None)
        backward(lambda: model(X))
        return weakref.ref(model)

    gone = use()
    gc.collect()
    assert gone() is None


def test_hooks_that_are_not_full_are_refused():
    with pytest.raises(NotImplementedError, match="register_full_backward_hook"):
        nn.Linear(1, 1).register_backward_hook(print)


# ----------------------------------------------------------------------------------------------------------- parameters


def test_gradient_hooks_of_parameters():
    p = nn.Parameter(jnp.asarray([1.0, 2.0]))
    handle = p.register_hook(lambda g: g * 2)
    p.register_hook(lambda g: g + 1)
    np.testing.assert_array_equal(value_and_grad(lambda: (3 * p).sum() + p[0], wrt=p)()[1], [9, 7])
    np.testing.assert_array_equal(jit(lambda: value_and_grad(lambda: (3 * p).sum(), wrt=p)())()[1], [7, 7])
    optim.SGD([p], lr=1.0).step(lambda: (3 * p).sum())
    np.testing.assert_array_equal(p, [-6, -5])
    handle.remove()
    np.testing.assert_array_equal(value_and_grad(lambda: (3 * p).sum(), wrt=p)()[1], [4, 4])


def test_gradient_hooks_in_the_pure_form():
    layer = nn.Linear(2, 1)
    layer.weight.register_hook(lambda g: g * 5)
    net = transform_with_state(layer)
    params, state = net.init(None)
    for compiled in (lambda f: f, jax.jit):
        gradient = compiled(jax.grad(lambda p: net.apply(p, state, None, jnp.ones(2))[0].sum()))(params)
        np.testing.assert_array_equal(gradient["~"]["weight"], [[5, 5]])
        np.testing.assert_array_equal(gradient["~"]["bias"], [1])


def test_post_accumulate_hooks():
    p = nn.Parameter(jnp.ones(2))
    seen = []
    p.register_post_accumulate_grad_hook(lambda q: seen.append(np.asarray(q.grad)))
    for _ in range(2):
        backward(lambda: (3 * p).sum())
    np.testing.assert_array_equal(seen, [[3, 3], [6, 6]])
    other = nn.Parameter(jnp.ones(2))
    optimizer = optim.SGD([other], lr=0.5)

    def update(q):
        optimizer.step()
        optimizer.zero_grad()

    other.register_post_accumulate_grad_hook(update)
    jit(lambda: backward(lambda: (3 * other).sum()))()
    np.testing.assert_array_equal(other, [-0.5, -0.5])
    assert other.grad is None


def test_copies_have_no_gradient_hooks():
    p = nn.Parameter(jnp.ones(2))
    p.register_hook(lambda g: g * 2)
    p.register_post_accumulate_grad_hook(lambda q: None)
    for other in (copy.deepcopy(p), pickle.loads(pickle.dumps(p))):
        np.testing.assert_array_equal(grad(lambda: (3 * other).sum(), wrt=other)(), [3, 3])  # noqa: B023
    with pytest.raises(RuntimeError, match="require gradient"):
        nn.Parameter(jnp.ones(2), requires_grad=False).register_hook(lambda g: g)
