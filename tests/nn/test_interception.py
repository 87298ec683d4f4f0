"""Getters, creators, setters and interceptors: eager, compiled (never a stale program), differentiated, pure."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import objnet
from objnet import nn

X = jnp.arange(6.0).reshape(2, 3) / 3


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)
        self.register_buffer("count", jnp.zeros(()))

    def forward(self, x):
        self.count = self.count + 1
        return self.fc(x)


def doubled(go_on, value, context):
    return go_on(value * 2)


@pytest.mark.parametrize("wrap", [lambda f: f, objnet.jit], ids=["eager", "jit"])
def test_a_getter_holds_inside_its_block_only(wrap):
    model = Net()
    run = wrap(model)
    plain = run(X)
    with objnet.custom_getter(doubled):
        np.testing.assert_allclose(run(X), 2 * plain, rtol=1e-6)
        np.testing.assert_allclose(run(X), 2 * plain, rtol=1e-6)
        with objnet.custom_getter(doubled):
            np.testing.assert_allclose(run(X), 4 * plain, rtol=1e-6)
    np.testing.assert_allclose(run(X), plain, rtol=1e-6)


def test_plain_jit_of_a_pure_apply_does_not_reuse_a_program():
    net = objnet.transform_with_state(lambda x: Net()(x))
    params, state = net.init(0, X)
    apply = jax.jit(net.apply)
    plain, _ = apply(params, state, None, X)
    with objnet.custom_getter(doubled):
        np.testing.assert_allclose(apply(params, state, None, X)[0], 2 * plain, rtol=1e-6)
    np.testing.assert_allclose(apply(params, state, None, X)[0], plain, rtol=1e-6)


def test_checkpointed_code_does_not_reuse_a_jaxpr():
    model = Net()
    body = jax.checkpoint(lambda x: model.fc(x).sum())

    @objnet.grad
    def gradients(x):
        y = body(x)
        with objnet.custom_getter(doubled):
            return y + body(x)

    np.testing.assert_allclose(gradients(X), 3 * jnp.ones((2, 1)) * model.fc.weight.data.sum(0), rtol=1e-6)


def test_equal_getters_share_a_program_and_others_do_not():
    model, traces = Net(), []

    @objnet.jit
    def run(x):
        traces.append(1)
        return model(x)

    factors = []
    for factor in (1.0, 2.0, 1.0, 2.0):
        with objnet.custom_getter(lambda go_on, value, context, factor=factor: go_on(value * factor)):
            factors.append(float(run(X)[0, 0]))
    assert len(traces) <= 3 and factors[0] == factors[2] != factors[1] == factors[3]


def test_a_getter_that_reads_another_model_follows_its_values():
    model, scale = Net(), nn.Linear(1, 1)
    run = objnet.jit(model.fc)
    with objnet.custom_getter(lambda go_on, value, context: go_on(value * scale.bias)):
        scale.bias.data.fill_(0.0)
        assert not np.any(run(X))
        scale.bias.data.fill_(3.0)
        with_three = run(X)
    np.testing.assert_allclose(with_three, 3 * model.fc(X), rtol=1e-6)


def test_gradients_follow_a_getter():
    model = Net()
    stopped = objnet.custom_getter(lambda go_on, v, c: go_on(jax.lax.stop_gradient(v) if c.name == "weight" else v))
    with stopped:
        _, grads = objnet.value_and_grad(lambda: model(X).sum(), wrt=model)()
    assert not np.any(grads["fc.weight"]) and np.all(grads["fc.bias"] == 2)


def test_contexts_say_what_is_read_and_written():
    model, seen = Net(), []

    def note(go_on, value, context):
        seen.append(context)
        return go_on(value)

    with objnet.custom_getter(note, state=True), objnet.custom_setter(note):
        model(X)
    assert [c.full_name for c in seen] == ["count", "count", "fc.weight", "fc.bias"]
    weight = seen[2]
    assert weight.module is model.fc and weight.module_name == "fc" and weight.name == "weight"
    assert weight.original_shape == (2, 3) and weight.original_dtype == jnp.float32


def test_creators_give_first_values_once():
    seen = []

    def creator(go_on, shape, dtype, init, context):
        seen.append(context.full_name)
        return go_on(shape, jnp.bfloat16, jnp.ones if context.name == "weight" else init)

    with objnet.custom_creator(creator):
        model = Net()
        twin = nn.ModuleList([model.fc])  # registered again, but not created
    assert seen == ["fc.weight", "fc.bias"] and twin[0] is model.fc
    assert model.fc.weight.dtype == model.fc.bias.dtype == jnp.bfloat16 and np.all(np.asarray(model.fc.weight, np.float32) == 1)
    with objnet.custom_creator(creator, params=False, state=True):
        Net()
    assert seen[2:] == ["count"]


def test_a_creator_may_not_ask_a_constructor_for_another_shape():
    with objnet.custom_creator(lambda go_on, shape, dtype, init, context: go_on((7,), dtype, init)):
        with pytest.raises(objnet.errors.CreationError, match="shape"):
            nn.Linear(2, 2)
    assert nn.Linear(2, 2).weight.shape == (2, 2)


def test_a_failed_constructor_leaves_nothing_for_the_creators():
    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(2, 2)
            raise ZeroDivisionError

    seen = []
    with objnet.custom_creator(lambda go_on, s, d, i, c: (seen.append(c.full_name), go_on(s, d, i))[1]):
        with pytest.raises(ZeroDivisionError):
            Fails()
        nn.Linear(2, 2)
    assert seen == ["weight", "bias"]


def test_interceptors_see_and_replace_arguments_and_results():
    model, seen = Net(), []

    def interceptor(go_on, args, kwargs, context):
        seen.append((type(context.module), context.method_name, context.orig_class))
        return go_on(args[0] * 0, **kwargs) + 1 if context.module is model.fc else go_on(*args, **kwargs)

    for run in (model, objnet.jit(model)):
        with objnet.intercept_methods(interceptor):
            np.testing.assert_allclose(run(X), jnp.broadcast_to(model.fc.bias.data + 1, (2, 2)), rtol=1e-6)
    assert seen[:2] == [(Net, "forward", Net), (nn.Linear, "forward", nn.Linear)]


@pytest.mark.parametrize("kind", ["custom_getter", "custom_creator", "custom_setter", "intercept_methods"])
def test_only_functions_take_part(kind):
    with pytest.raises(TypeError, match="function"):
        getattr(objnet, kind)(3)
