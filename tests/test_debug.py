"""``objnet.debug.nans``: where a NaN first appears, in eager code, gradients, compiled functions and loops."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import objnet
from objnet import debug, nn, optim
from objnet.errors import CompiledCallError, NonFiniteError

x = jnp.arange(6.0).reshape(2, 3)


class Bad(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x):
        return jnp.log(self.fc(x) - 100.0)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.layers = nn.ModuleList([nn.Linear(3, 3), Bad(), nn.Linear(3, 3)])

    def forward(self, x):
        x = self.norm(x)
        for layer in self.layers:
            x = layer(x)
        return x.sum()


@pytest.fixture
def net():
    return Net()


def first(call):
    with pytest.raises(NonFiniteError) as error, debug.nans():
        call()
    return str(error.value)


def test_eager_it_names_module_operation_and_line(net):
    text = first(lambda: net(x))
    assert text.startswith("NaN first appeared in the output of layers.1 (Bad(...)), by log at ")
    assert re.search(r"test_debug\.py:\d+$", text)


def test_in_gradients(net):
    expected = first(lambda: net(x))
    assert first(lambda: objnet.value_and_grad(lambda: net(x), wrt=net)()) == expected
    assert first(lambda: objnet.backward(lambda: net(x))) == expected
    assert "Bad(...)" in first(lambda: jax.vmap(net.layers[1])(x))


def test_compiled_it_names_the_same_and_keeps_the_state(net):
    optimizer = optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    step = objnet.jit(lambda x: optimizer.step(lambda: net(x)))
    before = {k: np.asarray(v) for k, v in net.state_dict().items()}
    assert first(lambda: step(x)) == first(lambda: net(x))
    for name, value in before.items():
        if "norm" not in name:  # the eager call moved those
            np.testing.assert_array_equal(net.state_dict()[name], value)
    assert np.isnan(step(x))  # off again, as before


def test_state_of_a_failing_compiled_call(net):
    step = objnet.jit(net)
    first(lambda: step(x))
    assert int(net.norm.num_batches_tracked) == 0


def test_a_masked_nan_is_found_in_compiled_code():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.bad = Bad()

        def forward(self, x):
            return jnp.where(jnp.isnan(self.bad(x)), 0.0, 1.0)

    model = Masked()
    assert "output of bad (Bad(...))" in first(lambda: objnet.jit(model)(x))


def test_good_calls_are_left_alone():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    step = objnet.jit(model)
    with debug.nans(infs=True):
        eager, compiled = model(x), step(x)
        assert int(model[1].num_batches_tracked) == 2
    np.testing.assert_allclose(eager, compiled, rtol=1e-5)
    assert not nn.hooks.GLOBAL_RUNNING


def test_inputs_and_parameters_that_hold_one_already(net):
    assert "output of norm" in first(lambda: net(x * jnp.nan)) and "its input holds one already" in first(
        lambda: net(x * jnp.nan)
    )
    net.layers[0].weight.data = net.layers[0].weight.data.at[0, 0].set(jnp.nan)
    assert "layers.0 (Linear" in first(lambda: net(x)) and "its parameter 'weight' holds one" in first(lambda: net(x))


def test_in_scans_and_under_plain_jit():
    bad = Bad()
    pure = objnet.transform_with_state(bad)
    params, state = pure.init(None)

    def body(carry, row):
        return carry, pure.apply(params, state, None, row)[0]

    assert "Bad(...)" in first(lambda: jax.lax.scan(body, 0, x))
    assert "Bad(...)" in first(lambda: jax.jit(pure.apply)(params, state, None, x))


def test_infinities_count_on_request():
    model = nn.Sequential(nn.ReLU())
    with debug.nans():
        model(jnp.array([jnp.inf]))
    with (
        pytest.raises(NonFiniteError, match=r"NaN or infinity first appeared in the output of 0 \(ReLU\(\)\)"),
        debug.nans(infs=True),
    ):
        model(jnp.array([jnp.inf]))


class Root(nn.Module):
    def forward(self, x):
        return jnp.sqrt(x)


class Vanishing(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 3)
        self.root = Root()
        self.b = nn.Linear(3, 3)

    def forward(self, x):
        return self.b(self.root(self.a(x) * 0)).sum()


def test_a_nan_of_a_gradient():
    model = Vanishing()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    step = objnet.jit(lambda x: optimizer.step(lambda: model(x)))
    text = first(lambda: step(x))
    assert "new value of a.weight, a.bias" in text and "in no module's output" in text and "backward=True" in text
    for call in (lambda: step(x), lambda: objnet.value_and_grad(lambda: model(x), wrt=model)()):
        with pytest.raises(NonFiniteError, match=r"gradient with respect to the output of a \(Linear"), debug.nans(backward=True):
            call()
        with pytest.raises(NonFiniteError, match=r"gradient with respect to the input of root \(Root"):
            with debug.nans(backward=True, infs=True):
                call()


def test_as_a_decorator_and_nested(net):
    @debug.nans()
    def call():
        return net(x)

    for _ in range(2):
        with pytest.raises(NonFiniteError, match=r"layers\.1"):
            call()
    with debug.nans(), pytest.raises(NonFiniteError):
        with debug.nans(infs=True):
            pass
        net(x)
    assert not nn.hooks.GLOBAL_RUNNING and np.isnan(net(x))


def test_inside_a_transform_it_is_refused(net):
    def call(x):
        with debug.nans():
            return net(x)

    with pytest.raises(CompiledCallError, match="entered inside a transform"):
        objnet.jit(call)(x)


def test_nothing_is_drawn_or_written_by_the_second_look(net):
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5), Bad())
    key = objnet.get_rng_state()["key"].copy()
    first(lambda: objnet.jit(model)(x))
    np.testing.assert_array_equal(objnet.get_rng_state()["key"], key)
    assert int(model[0].num_batches_tracked) == 0
