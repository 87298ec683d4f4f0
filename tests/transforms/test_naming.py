"""Names of the pure form: torch's paths, numbers, ties, live modules."""

import copy

import jax
import jax.numpy as jnp
import pytest

import objnet
from objnet import nn
from objnet.core import errors, frame, scope
from objnet.transforms.naming import snake
from tests.transforms.pure_models import KEY, Dense, Memory, X, names, same, shapes


@pytest.fixture(autouse=True)
def nothing_left_open():
    yield
    assert frame.current() is None
    assert scope._scope.get() is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Linear", "linear"), ("BatchNorm", "batch_norm"), ("Conv2d", "conv2d"), ("LSTM", "lstm"), ("MLPMixer", "mlp_mixer"),
        ("MultiHeadLSTM", "multi_head_lstm"), ("GPT2Model", "gpt2_model"), ("My_Net", "my_net"), ("A", "a"), ("_Block", "_block"),
    ],
)  # fmt: skip
def test_snake_case(name, expected):
    assert snake(name) == expected


# -- names -------------------------------------------------------------------------------------------------------------


def test_modules_of_a_function_are_numbered_in_the_order_they_were_made():
    def f(x):
        a, b, c = Dense(3, 4), Dense(3, 3), Dense(3, 5)
        return a(b(x)), c(x)

    params = objnet.transform(f).init(KEY, X)
    assert shapes(params) == {
        "dense": {"weight": (4, 3), "bias": (4,)},
        "dense_1": {"weight": (3, 3), "bias": (3,)},
        "dense_2": {"weight": (5, 3), "bias": (5,)},
    }


def test_nested_paths_are_torchs_keys():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(Dense(), nn.Sequential(Dense(), Dense()))
            self.scale = nn.Parameter(jnp.ones(3))

        def forward(self, x):
            return self.layers(x) * self.scale

    live = Net()
    keys = {tuple(k.rpartition(".")[::2]) for k in live.state_dict()}
    for function, prefix in ((lambda x: Net()(x), "net"), (lambda x: live(x), "net")):
        params = objnet.transform(function).init(KEY, X)
        assert names(params) == {(f"{prefix}.{p}" if p else prefix, n) for p, n in keys}
    for function, rng in ((Net, KEY), (live, None)):
        params = objnet.transform(function).init(rng, X)
        assert names(params) == {(p or "~", n) for p, n in keys}


def test_children_of_containers_made_in_the_function():
    def f(x):
        first, second = Dense(), Dense()
        return nn.Sequential(first, second, Dense())(x) + Dense()(x)

    params = objnet.transform(f).init(KEY, X)
    assert set(params) == {"sequential.0", "sequential.1", "sequential.2", "dense"}


def test_a_layer_replaced_by_the_function_keeps_its_path():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = Dense(), Dense()

        def forward(self, x):
            return self.head(self.body(x))

    def f(x):
        net = Net()
        net.head = Dense(3, 5)
        net.register_buffer("mean", jnp.zeros(3))
        nn.init.ones_(net.body.weight)
        return net(x - net.mean)

    net = objnet.transform_with_state(f)
    params, state = net.init(KEY, X)
    assert shapes(params) == {"net.body": {"weight": (3, 3), "bias": (3,)}, "net.head": {"weight": (5, 3), "bias": (5,)}}
    assert shapes(state) == {"net": {"mean": (3,)}}
    same(params["net.body"]["weight"], jnp.ones((3, 3)))
    params = jax.tree.map(lambda p: p + 1, params)
    out, after = net.apply(params, {"net": {"mean": jnp.ones(3)}}, None, X)
    body = jnp.matmul(X - 1, params["net.body"]["weight"].T) + 1
    same(out, jnp.matmul(body, params["net.head"]["weight"].T) + 1)
    same(after, {"net": {"mean": jnp.ones(3)}})


def test_a_module_passed_into_another():
    class Wrapper(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x)

    def f(x):
        shared = Dense()
        return Wrapper(shared)(x) + Wrapper(shared)(x) + shared(x)

    net = objnet.transform(f)
    params = net.init(KEY, X)
    assert set(params) == {"wrapper.inner"}
    same(net.apply(params, None, X), 3 * jnp.matmul(X, params["wrapper.inner"]["weight"].T))

    def called_first(x):
        shared = Dense()
        y = shared(x)
        return Wrapper(shared)(y)

    net = objnet.transform(called_first)
    params = net.init(KEY, X)
    assert set(params) == {"dense"}  # the name it had when its weights were first needed
    net.apply(params, None, X)


def test_names_do_not_depend_on_the_method_that_builds_or_calls():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.make()
            self.first = Dense()

        def make(self):
            self.second = Dense()

        def encode(self, x):
            return self.second(x)

        def forward(self, x):
            return self.first(self.encode(x))

    by_call = objnet.transform(lambda x: Net()(x)).init(KEY, X)
    by_method = objnet.transform(lambda x: Net().encode(x)).init(KEY, X)
    by_child = objnet.transform(lambda x: Net().first(x)).init(KEY, X)
    assert names(by_call) == names(by_method) == names(by_child)
    same(by_call, by_method)


def test_modules_made_inside_a_forward_or_after_one():
    class Lazy(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = None

        def forward(self, x):
            if self.head is None:
                self.head = Dense(x.shape[-1], 4)
            return self.head(x) + Dense(3, 4)(x)

    def f(x):
        y = Lazy()(x)
        return Dense(4, 2)(y) + Dense(4, 2)(y)

    net = objnet.transform(f)
    params = net.init(KEY, X)
    assert shapes(params) == {
        "lazy.head": {"weight": (4, 3), "bias": (4,)},
        "dense": {"weight": (4, 3), "bias": (4,)},
        "dense_1": {"weight": (2, 4), "bias": (2,)},
        "dense_2": {"weight": (2, 4), "bias": (2,)},
    }
    y = jnp.matmul(X, (params["lazy.head"]["weight"] + params["dense"]["weight"]).T)
    same(net.apply(params, None, X), jnp.matmul(y, (params["dense_1"]["weight"] + params["dense_2"]["weight"]).T))
    same(jax.jit(net.apply)(params, None, X), net.apply(params, None, X))


def test_a_parameter_made_inside_a_forward_is_a_parameter():
    class Lazy(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_parameter("scale", None)

        def forward(self, x):
            if self.scale is None:
                self.scale = nn.Parameter(jnp.full(x.shape[-1:], 2.0))
            return x * self.scale[None]

    net = objnet.transform(lambda x: Lazy()(x))
    params = net.init(None, X)
    same(params, {"lazy": {"scale": jnp.full(3, 2.0)}})
    same(net.apply({"lazy": {"scale": jnp.full(3, 5.0)}}, None, X), X * 5)
    grads = jax.grad(lambda p: net.apply(p, None, X).sum())(params)
    same(grads, {"lazy": {"scale": X.sum(0)}})


def test_parameters_and_buffers_that_stand_in_no_module():
    def f():
        w1, w2 = nn.Parameter(jnp.zeros(())), nn.Parameter(jnp.ones(()))
        count = nn.Buffer(jnp.zeros((), jnp.int32))
        for _ in range(10):
            count.data = count + 1
        return w1 + 2 * w2, count

    net = objnet.transform_with_state(f)
    params, state = net.init(None)
    same(params, {"~": {"parameter": 0.0, "parameter_1": 1.0}})
    same(state, {"~": {"buffer": 0}})
    (out, count), state = net.apply({"~": {"parameter": jnp.float32(3), "parameter_1": jnp.float32(4)}}, state, None)
    assert (float(out), int(count)) == (11.0, 10)
    assert isinstance(count, jax.Array)
    same(state, {"~": {"buffer": 10}})
    assert int(net.apply(params, state, None)[1]["~"]["buffer"]) == 20


def test_a_live_parameter_of_the_function_itself():
    w = nn.Parameter(jnp.full((3,), 2.0))
    net = objnet.transform(lambda x: x * w)
    params = net.init(None, X)
    same(params, {"~": {"parameter": jnp.full((3,), 2.0)}})
    same(net.apply(jax.tree.map(lambda p: p + 1, params), None, X), X * 3)
    same(w.data._read(), jnp.full((3,), 2.0))


def test_forward_built_modules_keep_clear_of_the_roots_own_names():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.dense = Dense(3, 4)

        def forward(self, x):
            return self.dense(Dense(3, 3)(x))

    params = objnet.transform(Net).init(KEY, X)
    assert shapes(params) == {"dense": {"weight": (4, 3), "bias": (4,)}, "dense_1": {"weight": (3, 3), "bias": (3,)}}

    class Late(nn.Module):
        def forward(self, x):
            x = Dense(3, 3)(x)
            self.dense = Dense(3, 4)
            return self.dense(x)

    with pytest.raises(errors.StructureMismatchError, match=r"two Variables are called dense\.weight"):
        objnet.transform(Late).init(KEY, X)


def test_a_moved_layer_does_not_share_its_name():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = Dense()

        def forward(self, x):
            return self.head(x)

    def f(x, move):
        net = Net()
        y = net(x)
        old = net.head
        net.head = Dense()
        if move:
            net.aside = old
        return net(y)

    params = objnet.transform(lambda x: f(x, False)).init(KEY, X)
    assert set(params) == {"net.head"}
    with pytest.raises(errors.StructureMismatchError, match=r"two Variables are called net\.head\.weight"):
        objnet.transform(lambda x: f(x, True)).init(KEY, X)


def test_tied_weights_are_one_leaf():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.decoder = Dense(), Dense()
            self.decoder.weight = self.encoder.weight
            self.norm = nn.BatchNorm1d(3)
            self.register_buffer("seen", jnp.zeros(()))
            self.again = self.encoder

        def forward(self, x):
            return self.again(self.decoder(self.norm(x)))

    net = objnet.transform_with_state(Tied)
    params, state = net.init(KEY, X)
    leaves = {("encoder", "weight"), ("encoder", "bias"), ("decoder", "bias"), ("norm", "weight"), ("norm", "bias")}
    assert names(params) == leaves
    assert names(state) == {("~", "seen"), *(("norm", n) for n in ("running_mean", "running_var", "num_batches_tracked"))}
    grads = jax.grad(lambda p: net.apply(p, state, None, X)[0].sum())(params)
    normed = nn.BatchNorm1d(3)(X)

    def by_hand(w):
        return jnp.matmul(jnp.matmul(normed, w.T), w.T).sum()

    same(grads["encoder"]["weight"], jax.grad(by_hand)(params["encoder"]["weight"]))


def test_modules_that_hold_each_other():
    class Node(nn.Module):
        def __init__(self, value):
            super().__init__()
            self.weight = nn.Parameter(jnp.full((), value))

        def forward(self, x):
            return x * self.weight * self.other.weight

    def f(x):
        a, b = Node(2.0), Node(3.0)
        a.other, b.other = b, a
        return a(x)

    net = objnet.transform(f)
    params = net.init(None, X)
    same(params, {"node": {"weight": 2.0}, "node.other": {"weight": 3.0}})
    same(net.apply(jax.tree.map(lambda p: p * 2, params), None, X), X * 24)


def test_a_forward_run_by_a_constructor_binds_nothing():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = Dense(3, 4)
            self.child = Child()
            width = self.conv(jnp.zeros((1, 3))).shape[-1]  # torch's way to find a size
            self.head = Dense(width, 2)

        def forward(self, x):
            return self.head(self.child(self.conv(x)))

    class Child(nn.Module):
        def __init__(self):
            super().__init__()
            self.dropout = nn.Dropout(0.5)
            self.norm = Dense(4, 4)
            self.norm(self.dropout(jnp.zeros((1, 4))))

        def forward(self, x):
            return self.norm(x)

    net = objnet.transform(lambda x: Net()(x))
    params = net.init(KEY, X)
    assert set(params) == {"net.conv", "net.child.norm", "net.head"}
    ones = jax.tree.map(jnp.ones_like, params)
    y = jnp.matmul(X, jnp.ones((3, 4))) + 1
    y = jnp.matmul(jnp.matmul(y, jnp.ones((4, 4))) + 1, jnp.ones((4, 2))) + 1
    same(net.apply(ones, None, X), y)


def test_hidden_modules_are_found_and_hidden_parameters_refused():
    class Hides(nn.Module):
        def __init__(self, make):
            super().__init__()
            object.__setattr__(self, "hidden", make())

        def forward(self, x):
            return self.hidden(x) if isinstance(self.hidden, nn.Module) else x * self.hidden

    net = objnet.transform(lambda x: Hides(Dense)(x))
    params = net.init(KEY, X)
    assert set(params) == {"dense"}
    same(net.apply(jax.tree.map(jnp.ones_like, params), None, X), jnp.matmul(X, jnp.ones((3, 3))) + 1)
    with pytest.raises(errors.ReadInTransformError, match="no attribute of a module"):
        objnet.transform(lambda x: Hides(lambda: nn.Parameter(objnet.randn(3)))(x)).init(KEY, X)


def test_deep_copies():
    class Stack(nn.Module):
        def __init__(self):
            super().__init__()
            block = Memory()
            block.weight = nn.Parameter(objnet.randn(3))
            self.blocks = nn.ModuleList(copy.deepcopy(block) for _ in range(2))

        def forward(self, x):
            for block in self.blocks:
                x = block(x * block.weight)
            return x

    net = objnet.transform_with_state(Stack)
    params, state = net.init(KEY, X)
    assert names(params) == {("blocks.0", "weight"), ("blocks.1", "weight")} and not state
    w0, w1 = params["blocks.0"]["weight"], params["blocks.1"]["weight"]
    _, state = net.apply(params, state, None, X)
    out, _ = net.apply(params, state, None, X)
    same(out, X * w0 * w1 + 2 * X * w0 * w1)


def test_several_live_modules_of_a_function():
    encoder, decoder, unused = Dense(3, 4), Dense(4, 3), Dense()
    model = nn.Sequential(encoder)
    trainer = type("Trainer", (), {})()
    trainer.model = model

    def f(x):
        return decoder(encoder(x))

    class Loss:
        def loss(self, x):
            return trainer.model(x)

    params = objnet.transform(f).init(None, X)
    assert shapes(params) == {
        "dense": {"weight": (3, 4), "bias": (3,)}, "dense_1": {"weight": (4, 3), "bias": (4,)},
    }  # fmt: skip
    net = objnet.transform(f)
    assert len(net.init(None, X)) == 2 and unused is not None
    same(net.apply(params, None, X), f(X))
    assert names(objnet.transform(Loss().loss).init(None, X)) == {("sequential.0", "weight"), ("sequential.0", "bias")}
    assert names(objnet.transform(model.forward).init(None, X)) == {("sequential.0", "weight"), ("sequential.0", "bias")}
    frozen = Dense()
    frozen.requires_grad_(False)
    assert names(objnet.transform(lambda x: frozen(x)).init(None, X)) == {("dense", "weight"), ("dense", "bias")}
