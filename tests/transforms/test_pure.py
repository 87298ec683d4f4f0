"""The pure form: names, values, signatures, errors, and init/apply under jax's own transforms."""

import copy
import functools
import inspect
import pickle
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import objnet
from objnet import nn
from objnet.core import errors, frame, scope
from objnet.core.rng import key_stream
from objnet.transforms.binding import PureFrame, _snake

X = jnp.arange(6.0).reshape(2, 3) / 3.0
KEY = jax.random.key(0)


class Dense(nn.Module):
    def __init__(self, n_in=3, n_out=3):
        super().__init__()
        self.weight = nn.Parameter(objnet.randn(n_out, n_in))
        self.bias = nn.Parameter(jnp.zeros(n_out))

    def forward(self, x):
        return jnp.matmul(x, self.weight.T) + self.bias[None]


class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", jnp.zeros((), jnp.int32))

    def forward(self):
        for _ in range(10):
            self.count = self.count + 1
        return self.count


class Memory(nn.Module):
    """State that is None at the start; no parameter is read before it is looked at."""

    def __init__(self):
        super().__init__()
        self.hidden = None

    def forward(self, x):
        self.hidden = x if self.hidden is None else self.hidden + x
        return self.hidden


def shapes(tree):
    return jax.tree.map(jnp.shape, tree)


def names(entries):
    return {(path, name) for path, leaves in entries.items() for name in leaves}


def same(a, b, **kwargs):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), **({"rtol": 1e-5, "atol": 1e-6} | kwargs))


@pytest.fixture(autouse=True)
def nothing_left_open():
    yield
    assert frame.current() is None
    assert scope._scope.get() is None


# -- names ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Linear", "linear"), ("BatchNorm", "batch_norm"), ("Conv2d", "conv2d"), ("LSTM", "lstm"), ("MLPMixer", "mlp_mixer"),
        ("MultiHeadLSTM", "multi_head_lstm"), ("GPT2Model", "gpt2_model"), ("My_Net", "my_net"), ("A", "a"), ("_Block", "_block"),
    ],
)  # fmt: skip
def test_snake_case(name, expected):
    assert _snake(name) == expected


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

    with pytest.raises(errors.StructureMismatchError, match="two modules are called 'dense'"):
        objnet.transform(Late).init(KEY, X)


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
    assert names(params) == {("encoder", "weight"), ("encoder", "bias"), ("decoder", "bias"), ("norm", "weight"), ("norm", "bias")}
    assert names(state) == {("~", "seen"), ("norm", "running_mean"), ("norm", "running_var"), ("norm", "num_batches_tracked")}
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


# -- values ----------------------------------------------------------------------------------------------------------------


def test_init_gives_the_initial_state_and_apply_the_current():
    for function, rng in ((lambda: Counter()(), None), (Counter, None), (Counter(), None)):
        net = objnet.transform_with_state(function)
        params, state = net.init(rng)
        ((path, entries),) = state.items()
        assert params == {} and path in ("counter", "~")
        assert int(entries["count"]) == 0
        for i in range(1, 4):
            out, state = net.apply(params, state, None)
            assert int(out) == int(state[path]["count"]) == 10 * i


def test_state_set_by_the_function_itself_is_written():
    def f(x):
        counter = Counter()
        counter.count = x
        return counter()

    net = objnet.transform_with_state(f)
    _, state = net.init(None, jnp.int32(5))
    same(state, {"counter": {"count": 0}})
    for x in (1, 7):
        out, state = net.apply({}, state, None, jnp.int32(x))
        assert int(out) == int(state["counter"]["count"]) == x + 10

    def g(x):
        memory = Memory()
        memory.hidden = 2 * x
        return memory(x)

    net = objnet.transform_with_state(g)
    state = net.init(None, X)[1]
    assert state == {}
    for x in (X, X + 1, X + 2):
        out, state = net.apply({}, state, None, x)
        same((out, state), (3 * x, {"memory": {"hidden": 3 * x}}))


def test_loading_a_state_dict_in_the_function_is_initialisation():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(objnet.randn(3))
            self.register_buffer("count", jnp.zeros(()))

        def forward(self, x):
            self.count = self.count + 1
            return x * self.weight

    def f(x):
        net = Net()
        net.load_state_dict({"weight": np.full(3, 4.0, np.float32), "count": np.float32(10)})
        return net(x)

    net = objnet.transform_with_state(f)
    params, state = net.init(KEY, X)
    same((params, state), ({"net": {"weight": jnp.full(3, 4.0)}}, {"net": {"count": 10.0}}))
    _, state = net.apply(params, state, None, X)
    out, state = net.apply({"net": {"weight": jnp.ones(3)}}, state, None, X)
    same((out, state), (X, {"net": {"count": 12.0}}))


def test_initialisation_in_the_function_needs_no_rng_in_apply():
    def f(x):
        dense = Dense()
        nn.init.xavier_uniform_(dense.weight)
        dense.bias.data.normal_()
        dense.bias.data[0:1].fill_(7.0)
        return nn.Sequential(dense)(x)

    net = objnet.without_apply_rng(objnet.transform(f))
    params = net.init(KEY, X)
    assert set(params) == {"dense"}  # the name it had when its shape was first needed
    assert float(params["dense"]["bias"][0]) == 7.0 and float(params["dense"]["bias"][1]) != 0.0
    ones = jax.tree.map(jnp.ones_like, params)
    same(net.apply(ones, X), jnp.matmul(X, jnp.ones((3, 3))) + 1)


def test_parameters_are_inputs_only():
    class Trains(Dense):
        def forward(self, x):
            self._parameters["weight"].data = self.weight + 1.0
            return super().forward(x)

    def after_use(x):
        dense = Dense()
        y = dense(x)
        dense.weight.data.mul_(2.0)
        return dense(y)

    def before_use(x):
        dense = Dense()
        dense.weight.data.mul_(0.0)
        dense.weight.data.add_(1.0)
        return dense(x)

    live = Dense()

    def live_write(x):
        live.weight.data.mul_(2.0)
        return live(x)

    for function in (lambda x: Trains()(x), after_use, live_write):
        net = objnet.transform(function)
        with pytest.raises(errors.WriteInTransformError, match=r"weight' was written.*params are inputs only"):
            net.init(KEY, X)
    net = objnet.transform(before_use)
    params = net.init(KEY, X)
    same(params["dense"]["weight"], jnp.ones((3, 3)))
    same(net.apply(jax.tree.map(lambda p: p * 3, params), None, X), jnp.matmul(X, jnp.full((3, 3), 3.0)))


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("jit", [False, True])
def test_state_that_is_none_at_the_start(live, jit):
    model = Memory()
    net = objnet.transform_with_state(model if live else Memory)
    apply = jax.jit(net.apply) if jit else net.apply
    params, state = net.init(None) if live else net.init(None, X)
    assert (params, state) == ({}, {})
    for i in range(1, 4):
        out, state = apply(params, state, None, X)
        same((out, state), (i * X, {"~": {"hidden": i * X}}))
    same(apply(params, {}, None, X)[0], X)
    same(apply(params, {"~": {"hidden": None}}, None, X)[0], X)
    assert model.hidden is None


@pytest.mark.parametrize("kind", ["none buffer", "missing", "getattr", "function", "late buffer", "pair"])
def test_every_way_to_be_none_at_the_start(kind):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            if kind in ("function", "pair"):
                self.h = None
            elif kind in ("none buffer", "late buffer"):
                self.register_buffer("h", None)

        def forward(self, x):
            if kind == "missing":
                before = self.h if hasattr(self, "h") else 0 * x
            elif kind == "getattr":
                before = getattr(self, "h", None)
                before = 0 * x if before is None else before
            elif kind == "pair":
                before = 0 * x if self.h is None else self.h[0]["a"]
            else:
                before = 0 * x if self.h is None else self.h
            if kind == "late buffer" and self.h is None:
                self.register_buffer("h", before + x)
            else:
                self.h = ({"a": before + x}, x) if kind == "pair" else before + x
            return before

    def f(x):
        net = Net()
        if kind == "function":  # read before anything else is
            before = net.h
            net.h = x if before is None else before + x
            return 0 * x if before is None else before
        return net(x)

    net = objnet.transform_with_state(f)
    params, state = net.init(None, X)
    assert (params, state) == ({}, {})
    for i in range(4):
        out, state = net.apply(params, state, None, X)
        same(out, i * X)
        same(state, {"net": {"h": ({"a": (i + 1) * X}, X) if kind == "pair" else (i + 1) * X}})


def test_class_attributes_do_not_hide_arrays():
    class Hides(nn.Module):
        hidden = None

        def forward(self, x):
            self.hidden = x
            return x

    for call in (lambda: Hides()(X), lambda: objnet.transform_with_state(Hides).init(None, X)):
        with pytest.raises(AttributeError, match=r"class attribute Hides\.hidden would hide an array"):
            call()

    class HasProperty(nn.Module):
        def __init__(self):
            super().__init__()
            self.doubled = jnp.ones(3)

        @property
        def doubled(self):
            return self.part * 2

        @doubled.setter
        def doubled(self, value):
            self.part = value / 2

        def forward(self, x):
            self.doubled = self.doubled + x
            return self.doubled

    net = objnet.transform_with_state(HasProperty)
    _, state = net.init(None, jnp.ones(3))
    same(state, {"~": {"part": jnp.full(3, 0.5)}})
    same(net.apply({}, state, None, jnp.ones(3)), (jnp.full(3, 2.0), {"~": {"part": jnp.ones(3)}}))


def test_state_that_starts_as_a_python_value_is_refused_when_it_comes_back():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.count = 0

        def forward(self, x):
            self.count = self.count + x.sum()
            return self.count

    net = objnet.transform_with_state(Net)
    params, state = net.init(None, X)
    _, state = net.apply(params, state, None, X)
    with pytest.raises(errors.StructureMismatchError, match=r"state ~\.count is given, but .* Python value"):
        net.apply(params, state, None, X)


def test_state_containers_belong_to_the_call():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.cache = {"k": jnp.zeros(2), "l": [jnp.zeros(2)]}

        def forward(self):
            self.cache["k"] = self.cache["k"] + 1
            self.cache["l"][0] = self.cache["l"][0] + 2
            return self.cache["k"]

    live = Net()
    for function in (Net, live):
        net = objnet.transform_with_state(function)
        _, start = net.init(None)
        zeros = {"~": {"cache": {"k": jnp.zeros(2), "l": [jnp.zeros(2)]}}}
        same(start, zeros)
        _, state = net.apply({}, start, None)
        same(start, zeros)
        same(state, {"~": {"cache": {"k": jnp.ones(2), "l": [jnp.full(2, 2.0)]}}})
    same(live.cache, zeros["~"]["cache"])


def test_inputs_are_never_changed_and_results_are_fresh():
    net = objnet.transform_with_state(lambda x: nn.Sequential(Dense(), nn.BatchNorm1d(3))(x))
    params, state = net.init(KEY, X)
    again, _ = net.init(KEY, X)
    assert params is not again and params["sequential.0"] is not again["sequential.0"]
    kept = jax.tree.map(lambda a: a, (params, state))
    _, after = net.apply(params, state, None, X)
    assert after is not state and after["sequential.1"] is not state["sequential.1"]
    assert jax.tree.all(jax.tree.map(lambda a, b: a is b, (params, state), kept))
    params["sequential.0"]["mine"] = after["mine"] = {}
    assert type(params) is type(params["sequential.0"]) is type(after) is type(after["sequential.1"]) is dict


def test_numpy_and_parameters_as_params():
    net = objnet.transform(lambda x: Dense()(x))
    params = net.init(KEY, X)
    expected = net.apply(params, None, X)
    same(net.apply(jax.tree.map(np.asarray, params), None, np.asarray(X)), expected)
    same(net.apply({"dense": {k: nn.Parameter(v) for k, v in params["dense"].items()}}, None, X), expected)
    same(net.apply({"dense": {k: nn.Parameter(v).data for k, v in params["dense"].items()}}, None, X), expected)
    seen = []
    objnet.transform(lambda: seen.append(nn.Sequential(Dense())[0].weight._read())).apply(
        {"sequential.0": {k: np.asarray(v) for k, v in params["dense"].items()}}, None
    )
    assert isinstance(seen[0], jax.Array)


def test_entries_that_do_not_fit_are_listed_at_once():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = Dense(), Dense(), Dense()
            self.register_buffer("mean", jnp.zeros(3))
            self.cache = (jnp.zeros(2), jnp.zeros(1))

        def forward(self, x):
            return self.a(self.b(self.c(x))) + Dense()(x) + self.mean[None]

    net = objnet.transform_with_state(Net)
    params, state = net.init(KEY, X)
    del params["a"]["weight"]
    params["b"]["weight"] = jnp.zeros((3, 4))
    params["b"]["bias"] = params["b"]["bias"].astype(jnp.float16)
    params["c"]["bias"] = 3.0
    params["c"]["bais"] = jnp.zeros(3)
    params["extra"] = {"w": jnp.zeros(1)}
    del params["dense"]
    state["~"]["mean"] = np.zeros(3)
    state["~"]["cache"] = [jnp.zeros(2), jnp.zeros(1)]
    state["gone"] = {"s": jnp.zeros(1)}
    for apply in (net.apply, jax.jit(net.apply)):
        with pytest.raises(errors.StructureMismatchError) as caught:
            apply(params, state, None, X)
        problems = [
            "missing from params: a.weight, float32[3,3]",
            "params b.weight is float32[3,4], the model has float32[3,3]",
            "params b.bias is float16[3], the model has float32[3]",
            "unknown in params: c.bais",
            "unknown in params: extra.w",
            "missing from params: dense.weight, float32[3,3]",
            "missing from params: dense.bias, float32[3]",
            "state ~.cache is [float32[2], float32[1]], the model has (float32[2], float32[1])",
            "unknown in state: gone.s",
        ]
        for problem in problems:
            assert problem in str(caught.value)
        assert "created as part of `init`" in str(caught.value)
        if apply is net.apply:  # jax.jit turns Python numbers and numpy's float64 into its own
            assert "params c.bias is a float, the model has float32[3]" in str(caught.value)
            assert "state ~.mean is float64[3], the model has float32[3]" in str(caught.value)


def test_a_missing_parameter_comes_before_every_other_error():
    class Net(Dense):
        def forward(self, x):
            return super().forward(x) + jax.random.normal(objnet.next_rng_key(), x.shape)

    net = objnet.without_apply_rng(objnet.transform(lambda x: Net()(x)))
    for params in ({}, None, {"net": {}}, {"~": {}}):
        with pytest.raises(errors.StructureMismatchError, match=r"missing from params: net\.weight"):
            net.apply(params, X)

    def fails(x):
        Dense()(x)
        raise KeyError("mine")

    with pytest.raises(errors.StructureMismatchError, match=r"dense\.weight") as caught:
        objnet.transform(fails).apply({}, None, X)
    assert isinstance(caught.value.__cause__, KeyError)


def test_unread_modules_take_part_and_dropped_ones_do_not():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            template = Dense(3, 5)
            self.dense = copy.deepcopy(template)
            self.dense = Dense()

        def forward(self, x):
            return self.dense(x)

    params = objnet.transform(lambda x: Net()(x)).init(KEY, X)
    assert shapes(params) == {"net.dense": {"weight": (3, 3), "bias": (3,)}}

    def f(x):
        Dense(3, 7)
        return Dense()(x)

    net = objnet.transform(f)
    params = net.init(KEY, X)
    assert shapes(params)["dense"]["weight"] == (7, 3)
    del params["dense"]
    with pytest.raises(errors.StructureMismatchError, match=r"missing from params: dense\.weight"):
        net.apply(params, None, X)


# -- random numbers ----------------------------------------------------------------------------------------------------------


def test_the_kinds_of_rng():
    net = objnet.transform(lambda x: Dense()(x) * jax.random.normal(objnet.next_rng_key(), x.shape))
    legacy = jax.random.PRNGKey(7)
    params = net.init(legacy, X)
    for rng in (7, np.int32(7), jnp.int32(7), np.asarray(7), np.asarray(legacy)):
        same(net.init(rng, X), params)
        same(net.apply(params, rng, X), net.apply(params, legacy, X))
    typed = net.init(jax.random.key(7), X)
    same(typed, params)
    same(net.apply(params, jax.random.key(7), X), net.apply(params, legacy, X))
    with pytest.raises(errors.MissingRngError, match="a random key is needed"):
        net.apply(params, None, X)
    with pytest.raises(errors.MissingRngError):
        net.init(None, X)


@pytest.mark.parametrize("bad", ["nonsense", 1.5, True, X, jnp.zeros(3, jnp.uint32), {"x": {}}, 2**70, jax.random.split(KEY, 2)])
def test_a_bad_rng_names_the_arguments_position(bad):
    plain, stateful = objnet.transform(lambda: None), objnet.transform_with_state(lambda: None)
    for net in (plain, stateful):
        with pytest.raises(ValueError, match=r"Init must be called with an RNG as the first argument.*`init\(rng, "):
            net.init(bad)
    with pytest.raises(ValueError, match=r"Apply must be called with an RNG as the second argument.*`apply\(params, rng, "):
        plain.apply({}, bad)
    for state in ({}, {"x": {}}, None):
        with pytest.raises(ValueError, match=r"Apply must be called with an RNG as the third argument.*`apply\(params, state, rng, "):
            stateful.apply({}, state, bad)


def test_constructors_draw_nothing_in_apply():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(jax.random.normal(objnet.next_rng_key(), (3,)))
            self.other = nn.Parameter(objnet.randn(3))

        def forward(self):
            return self.weight, jax.random.key_data(objnet.next_rng_key())

    net = objnet.transform(lambda: Net()())
    params = net.init(KEY)
    weight, drawn = net.apply(params, KEY)
    same(weight, params["net"]["weight"])
    same(drawn, jax.random.key_data(jax.random.split(KEY)[1]))
    same(objnet.without_apply_rng(objnet.transform(lambda: Net().weight)).apply(params), weight)


def test_the_streams_outside_are_left_alone():
    net = objnet.transform(lambda x: nn.Dropout(0.5)(Dense()(x)))
    objnet.manual_seed(3)
    expected = objnet.randn(3), objnet.next_rng_key()
    objnet.manual_seed(3)
    net.apply(net.init(1, X), 2, X)
    got = objnet.randn(3), objnet.next_rng_key()
    same(got, expected)


# -- the public functions ----------------------------------------------------------------------------------------------------


def test_result_types_and_pickling():
    net = objnet.transform(Dense)
    assert isinstance(net, objnet.Transformed) and net._fields == ("init", "apply")
    with_state = objnet.transform_with_state(Counter)
    assert isinstance(with_state, objnet.TransformedWithState) and with_state._fields == ("init", "apply")
    assert isinstance(objnet.without_apply_rng(net), objnet.Transformed)
    assert isinstance(objnet.without_apply_rng(with_state), objnet.TransformedWithState)
    assert isinstance(objnet.without_state(with_state), objnet.Transformed)
    assert isinstance(objnet.with_empty_state(net), objnet.TransformedWithState)
    for t in (net, objnet.without_apply_rng(net), objnet.with_empty_state(net)):
        assert t.init._original_fn is t.apply._original_fn is Dense
    params = net.init(KEY, X)
    same(pickle.loads(pickle.dumps(net)).apply(params, None, X), net.apply(params, None, X))
    assert inspect.signature(pickle.loads(pickle.dumps(net)).apply) == inspect.signature(net.apply)
    assert "init(rng, *args, **kwargs)" in repr(net.init) and "Dense" in repr(net.init)
    with pytest.raises(TypeError, match="without_apply_rng takes"):
        objnet.without_apply_rng(lambda: None)


def test_leading_arguments_by_position_or_by_name():
    net = objnet.transform_with_state(lambda x, scale=1.0: Dense()(x) * scale)
    params, state = net.init(rng=KEY, x=X)
    same(params, net.init(KEY, X)[0])
    by_name = net.apply(params=params, state=state, rng=None, x=X, scale=2.0)
    same(by_name, net.apply(params, state, None, X, 2.0))
    same(objnet.without_apply_rng(net).apply(params=params, state=state, x=X), net.apply(params, state, None, X))
    with pytest.raises(TypeError, match=r"apply\(\) is missing 'rng': the required signature is `apply\(params, state, rng, "):
        net.apply(params, state, x=X)
    with pytest.raises(TypeError, match=r"init\(\) is missing 'rng'"):
        net.init()


def test_arguments_of_the_function_with_the_leading_names():
    def f(rng, state, params):
        return rng, state, params

    net = objnet.transform_with_state(f)
    assert net.init(None, 1, 2, 3) == net.init(None, rng=1, state=2, params=3) == ({}, {})
    expected = (1, 2, 3), {}
    assert net.apply({}, {}, None, 1, 2, 3) == net.apply({}, {}, None, 1, params=3, state=2) == expected
    with pytest.raises(TypeError, match="both have an argument 'rng': pass init's own positionally"):
        net.init(rng=None, state=2, params=3)
    with pytest.raises(TypeError, match="pass apply's own positionally"):
        net.apply(params=None, state=None, rng=None)
    stateless = objnet.transform(lambda state: state)
    assert stateless.apply(params=None, state=5, rng=None) == 5
    rngless = objnet.without_apply_rng(objnet.transform(lambda rng: rng))
    assert rngless.apply(params=None, rng=5) == rngless.apply({}, 5) == 5
    assert list(inspect.signature(net.init).parameters) == ["args", "kwargs"]


def test_static_argnames_reach_the_function():
    def f(x, *, training: bool):
        return Dense()(x) * (2.0 if training else 1.0)

    net = objnet.transform(f)
    params = net.init(KEY, X, training=True)
    apply = jax.jit(net.apply, static_argnames=("training",))
    same(apply(params, None, X, training=True), 2 * apply(params, None, X, training=False))


def test_compiled_functions_are_refused():
    class Holder:
        @jax.jit
        def method(self, x):
            return x

        @objnet.jit
        def other(self, x):
            return x

    f = lambda x: x
    compiled = [
        jax.jit(f), jax.pmap(f), objnet.jit(f), objnet.jit(Dense()), Holder().method, Holder().other,
        functools.partial(jax.jit(f), 1),
    ]  # fmt: skip
    for function in compiled:
        for kind in (objnet.transform, objnet.transform_with_state):
            with pytest.raises(ValueError, match=r"already jitted.*jax\.jit\(objnet\.transform\(f\)\.apply\)"):
                kind(function)
    for bad in (3, None, objnet.transform(f), "f"):
        with pytest.raises(TypeError, match="takes a function, a Module class or a Module"):
            objnet.transform(bad)
    with pytest.raises(TypeError, match=r"Dense3\(\) takes arguments .*lambda x: Dense3\(...\)\(x\)"):
        objnet.transform(type("Dense3", (Dense,), {"__init__": lambda self, n: None}))


def test_compiled_functions_called_inside_are_fine():
    def f(x):
        dense = Dense()
        return objnet.jit(lambda x: dense(x))(x) + jax.jit(jnp.sin)(x)

    net = objnet.transform(f)
    params = net.init(KEY, X)
    for apply in (net.apply, jax.jit(net.apply)):
        for scale in (1.0, 2.0):
            p = jax.tree.map(lambda a: a * scale, params)
            same(apply(p, None, X), jnp.matmul(X, p["dense"]["weight"].T) + jnp.sin(X))
    with pytest.raises(errors.CompiledCallError, match="Dense was built inside objnet.jit inside a pure function"):
        objnet.transform(lambda x: objnet.jit(lambda x: Dense()(x))(x)).init(KEY, X)


def test_params_that_are_no_mapping():
    net = objnet.transform_with_state(lambda: None)
    for bad in ("z", 3, [1], {"a": 1.0}, {"linear.weight": X}):
        with pytest.raises(TypeError, match="params argument does not appear valid"):
            net.apply(bad, {}, None)
        with pytest.raises(TypeError, match="state argument does not appear valid"):
            net.apply({}, bad, None)
    assert net.apply(None, None, None) == (None, {})


def test_state_where_there_should_be_none():
    for function in (lambda: Counter()(), Counter):
        for net in (objnet.transform(function), objnet.without_state(objnet.transform_with_state(function))):
            with pytest.raises(errors.NonEmptyStateError, match=r"use objnet\.transform_with_state.*count"):
                net.init(None)
            with pytest.raises(errors.NonEmptyStateError, match=r"use objnet\.transform_with_state.*count"):
                net.apply({}, None)
    late = objnet.transform(Memory)
    assert late.init(None, X) == {}
    with pytest.raises(errors.NonEmptyStateError, match=r"hidden"):
        late.apply({}, None, X)
    with pytest.raises(errors.StructureMismatchError, match=r"missing from state: counter\.count, int32\[\]"):
        objnet.transform_with_state(lambda: Counter()()).apply({}, {}, None)


def test_with_empty_state():
    net = objnet.with_empty_state(objnet.transform(Dense))
    params, state = net.init(KEY, X)
    assert state == {}
    out, state = net.apply(params, state, None, X)
    same(out, jnp.matmul(X, params["~"]["weight"].T))
    assert state == {}
    net.apply(params, None, None, X)
    with pytest.raises(errors.NonEmptyStateError, match="holds no state, got entries"):
        net.apply(params, {"a": {"b": X}}, None, X)


def test_tuples_of_other_functions():
    def init(rng, x):
        return {"w": {"w": x}}, {}

    def apply(params, state, rng, x):
        return params["w"]["w"] + x, {}

    net = objnet.without_apply_rng(objnet.without_state(objnet.TransformedWithState(init, apply)))
    same(net.apply(net.init(None, X), X), 2 * X)


# -- live modules ------------------------------------------------------------------------------------------------------------


def test_a_live_module_is_left_untouched():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.dense, self.norm, self.memory = Dense(), nn.BatchNorm1d(3), Memory()

        def forward(self, x):
            self.note = "ran"
            return self.memory(self.norm(self.dense(x)))

    model = Net()
    before = [dict(m.__dict__) for m in model.modules()], {k: np.asarray(v) for k, v in model.state_dict().items()}
    net = objnet.transform_with_state(model)
    params, state = net.init(None)
    assert names(state) == {("norm", "running_mean"), ("norm", "running_var"), ("norm", "num_batches_tracked")}
    assert names(params) == {("dense", "weight"), ("dense", "bias"), ("norm", "weight"), ("norm", "bias")}
    for apply in (net.apply, jax.jit(net.apply)):
        _, state1 = apply(params, state, None, X)
        out, state2 = apply(jax.tree.map(lambda p: p + 1, params), state1, None, X)
        assert ("memory", "hidden") in names(state2)
        with pytest.raises(errors.StructureMismatchError):
            apply({}, state, None, X)
    after = [dict(m.__dict__) for m in model.modules()], {k: np.asarray(v) for k, v in model.state_dict().items()}
    assert before[0] == after[0]
    same(before[1], after[1])
    assert model.memory.hidden is None and not hasattr(model, "note")
    same(net.apply(params, state, None, X)[0], copy.deepcopy(model)(X))


def test_live_modules_give_current_values_and_no_fresh_ones():
    model = Dense()
    net = objnet.transform(model)
    same(net.init(None), {"~": {"weight": model.weight._read(), "bias": jnp.zeros(3)}})
    model.weight.data = jnp.ones((3, 3))
    same(net.init(None, X)["~"]["weight"], jnp.ones((3, 3)))
    with pytest.raises(ValueError, match=r"live module's init takes rng=None.*transform_with_state\(Dense\)"):
        net.init(KEY)
    with pytest.raises(errors.ReadInTransformError):
        jax.jit(net.init)(None)


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


def test_live_modules_that_no_path_leads_to():
    hidden = [Dense()]
    held = {"get": iter(hidden)}
    model = next(held["get"])
    box = type("Box", (), {"__slots__": ("model",)})()
    box.model = model
    net = objnet.transform(lambda x: box.model(x))
    with pytest.raises(errors.ReadInTransformError, match=r"no path leads from the function"):
        net.init(None, X)


def test_python_numbers_of_a_live_module_may_not_change():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.calls = 0

        def forward(self, x):
            self.calls += 1
            return x

    live = Counts()
    for function in (live, lambda x: live(x)):
        with pytest.raises(errors.StaticAttributeError, match=r"number Counts\.calls was changed inside a pure function"):
            objnet.transform(function).apply({}, None, X)
    assert live.calls == 0
    same(objnet.transform(Counts).apply({}, None, X), X)  # built anew at every call


def test_a_program_compiled_meanwhile_is_not_used_after_the_attributes_are_back():
    model = nn.Dropout(0.5)
    compiled = objnet.jit(lambda x: model(x))

    def f(x):
        model.eval()
        return compiled(x)

    same(objnet.transform(f).apply({}, 0, X + 1), X + 1)
    assert model.training
    assert not np.allclose(compiled(X + 1), X + 1)


def test_modes_of_a_live_module_inside_objnet_jit():
    model = nn.Dropout(0.5)
    apply = objnet.jit(objnet.transform(lambda x: model(x)).apply)
    assert not np.allclose(apply({}, 0, X + 1), X + 1)
    model.eval()
    same(apply({}, 0, X + 1), X + 1)


@pytest.mark.parametrize("live", [False, True])
def test_state_that_is_none_at_the_start_inside_objnet_jit(live):
    model = Memory()

    def built(x):
        memory = Memory()
        return objnet.jit(lambda x: memory(x))(x)

    net = objnet.transform_with_state((lambda x: objnet.jit(model)(x)) if live else built)
    params, state = net.init(None, X)
    for i in range(1, 4):
        out, state = net.apply(params, state, None, X)
        same((out, state), (i * X, {"memory": {"hidden": i * X}}))


def test_abstract_values():
    net = objnet.transform_with_state(lambda x: nn.Sequential(Dense(), nn.BatchNorm1d(3))(x))
    params, state = jax.eval_shape(net.init, KEY, jax.ShapeDtypeStruct((2, 3), jnp.float32))
    same(jax.tree.map(lambda s: jnp.zeros(s.shape), params), jax.tree.map(jnp.zeros_like, net.init(KEY, X)[0]))
    assert shapes(jax.tree.map(lambda s: jnp.zeros(s.shape), state)) == shapes(net.init(KEY, X)[1])


# -- under jax's own transforms ------------------------------------------------------------------------------------------------


class Net(nn.Module):
    """One of each: two layers, running statistics, dropout."""

    def __init__(self):
        super().__init__()
        self.first, self.second = Dense(3, 4), Dense(4, 2)
        self.register_buffer("mean", jnp.zeros(4))

    def forward(self, x):
        h = jnp.tanh(self.first(x))
        self.mean = 0.9 * self.mean + 0.1 * h.mean(0)
        keep = jax.random.bernoulli(objnet.next_rng_key(), 0.5, h.shape)
        return self.second(jnp.where(keep, 2.0 * h, 0.0) - self.mean[None])


def by_hand(params, state, rng, x):
    h = jnp.tanh(jnp.matmul(x, params["net.first"]["weight"].T) + params["net.first"]["bias"][None])
    mean = 0.9 * state["net"]["mean"] + 0.1 * h.mean(0)
    keep = jax.random.bernoulli(jax.random.split(rng)[1], 0.5, h.shape)
    h = jnp.where(keep, 2.0 * h, 0.0) - mean[None]
    return jnp.matmul(h, params["net.second"]["weight"].T) + params["net.second"]["bias"][None], {"net": {"mean": mean}}


NET = objnet.transform_with_state(lambda x: Net()(x))
LIVE = Net()
LIVE_NET = objnet.transform_with_state(lambda x: LIVE(x))


@pytest.fixture(params=["built", "live"])
def net(request):
    return NET if request.param == "built" else LIVE_NET


@pytest.fixture
def weights():
    return NET.init(jax.random.key(5), X)


def test_init_under_jit_equals_eager_init():
    same(jax.jit(NET.init)(KEY, X), NET.init(KEY, X))
    with pytest.raises(errors.ReadInTransformError):
        jax.jit(LIVE_NET.init)(KEY, X)


def test_apply_eager_jit_and_leaks(net, weights):
    expected = by_hand(*weights, KEY, X)
    same(net.apply(*weights, KEY, X), expected)
    with jax.checking_leaks():
        same(jax.jit(net.apply)(*weights, KEY, X), expected)
        same(jax.jit(jax.grad(lambda p: net.apply(p, weights[1], KEY, X)[0].sum()))(weights[0]),
             jax.grad(lambda p: by_hand(p, weights[1], KEY, X)[0].sum())(weights[0]))  # fmt: skip
        jax.jit(NET.init)(KEY, X)


@pytest.mark.parametrize("jit", [False, True])
def test_gradients(net, weights, jit):
    params, state = weights

    def loss(apply, p, x):
        out, after = apply(p, state, KEY, x)
        return (out**2).sum(), after

    wrap = jax.jit if jit else lambda f: f
    got = wrap(jax.value_and_grad(functools.partial(loss, net.apply), argnums=(0, 1), has_aux=True))(params, X)
    expected = jax.jit(jax.value_and_grad(functools.partial(loss, by_hand), argnums=(0, 1), has_aux=True))(params, X)
    same(got, expected)
    if jit:
        tangent = jax.tree.map(jnp.ones_like, params)

        def second(apply):  # forward over reverse
            return jax.jit(lambda p: jax.jvp(jax.grad(lambda p: loss(apply, p, X)[0]), (p,), (tangent,)))(params)

        same(second(net.apply), second(by_hand), rtol=1e-4)


def test_vmap_over_inputs_and_over_models(net, weights):
    params, state = weights
    xs = jnp.stack([X, X + 1, X - 2])
    keys = jax.random.split(KEY, 3)
    got = jax.vmap(net.apply, in_axes=(None, None, 0, 0))(params, state, keys, xs)
    same(got, jax.jit(jax.vmap(by_hand, in_axes=(None, None, 0, 0)))(params, state, keys, xs))
    stacked = jax.jit(jax.vmap(NET.init, in_axes=(0, None)))(keys, X)
    for i in range(3):
        same(jax.tree.map(lambda a, i=i: a[i], stacked), NET.init(keys[i], X))
    got = jax.jit(jax.vmap(net.apply))(*stacked, keys, xs)
    for i in range(3):
        same(jax.tree.map(lambda a, i=i: a[i], got), by_hand(*jax.tree.map(lambda a, i=i: a[i], stacked), keys[i], xs[i]))


def test_pmap(net, weights):
    count = jax.local_device_count()
    xs = jnp.stack([X + i for i in range(count)])
    keys = jax.random.split(KEY, count)
    copies = jax.tree.map(lambda a: jnp.stack([a] * count), weights)
    got = jax.pmap(net.apply)(*copies, keys, xs)
    same(got, jax.jit(jax.vmap(by_hand))(*copies, keys, xs))


def test_scan_and_checkpoint(net, weights):
    params, state = weights
    keys, xs = jax.random.split(KEY, 4), jnp.stack([X + i for i in range(4)])

    def run(apply, params):
        def step(state, inputs):
            out, state = apply(params, state, *inputs)
            return state, out

        return jax.lax.scan(step, state, (keys, xs))

    same(run(net.apply, params), run(by_hand, params))
    got = jax.jit(jax.grad(lambda p: run(jax.checkpoint(net.apply), p)[1].sum()))(params)
    same(got, jax.jit(jax.grad(lambda p: run(by_hand, p)[1].sum()))(params))


def test_jaxs_transforms_inside_the_function():
    class Block(Dense):
        def forward(self, x):
            def step(carry, _):
                return jnp.tanh(super(Block, self).forward(carry)), None

            return jax.lax.scan(step, x, None, length=3)[0]

    def f(x):
        block = Block()
        y = jax.vmap(lambda row: block(row[None])[0])(x)
        return jax.checkpoint(lambda y: block(y))(y)

    net = objnet.transform(f)
    params = net.init(KEY, X)

    def hand(p, x):
        for _ in range(6):
            x = jnp.tanh(jnp.matmul(x, p["block"]["weight"].T) + p["block"]["bias"][None])
        return x

    for scale in (1.0, 0.5):
        p = jax.tree.map(lambda a: a * scale, params)
        for apply in (net.apply, jax.jit(net.apply)):
            same(apply(p, None, X), hand(p, X))
    grads = jax.grad(lambda p: net.apply(p, None, X).sum())(params)
    same(grads, jax.jit(jax.grad(lambda p: hand(p, X).sum()))(params), atol=1e-5)

    counter = objnet.transform_with_state(lambda: jax.jit(Counter())())
    with pytest.raises(errors.TransformError):
        counter.init(None)
    draws = objnet.transform(lambda x: jax.vmap(lambda x: x * jax.random.normal(objnet.next_rng_key()))(x))
    with pytest.raises(errors.RngInTransformError):
        draws.apply({}, KEY, X)


# -- under and around objnet's transforms ----------------------------------------------------------------------------------------


def test_apply_inside_objnet_jit_and_value_and_grad(net, weights):
    params, state = weights
    other = Dense(2, 2)

    @objnet.jit
    def step(params, state, x):
        out, state = net.apply(params, state, objnet.next_rng_key(), x)
        return other(out), state

    objnet.manual_seed(0)
    key = objnet.next_rng_key()
    objnet.manual_seed(0)
    out, after = step(params, state, X)
    expected, expected_after = by_hand(params, state, key, X)
    same((out, after), (other(expected), expected_after))

    def loss(p):
        return (other(net.apply(p, state, KEY, X)[0]) ** 2).sum()

    def hand(p, w):
        return ((jnp.matmul(by_hand(p, state, KEY, X)[0], w.T) + other.bias._read()[None]) ** 2).sum()

    for wrap in (lambda f: f, objnet.jit):
        value, (by_params, by_other) = wrap(objnet.value_and_grad(loss, argnums=0, wrt=other))(params)
        expected, grads = jax.value_and_grad(hand, argnums=(0, 1))(params, other.weight._read())
        same((value, by_params, by_other["weight"]), (expected, *grads), rtol=1e-4, atol=1e-5)


def test_modules_built_inside_a_gradient_of_the_function():
    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.dense = Dense()
            self.register_buffer("count", jnp.zeros(()))
            self.last = None

        def forward(self, x):
            self.count = self.count + 1
            self.last = x if self.last is None else self.last + x
            return (jax.lax.scan(lambda c, _: (self.dense(c), None), x, None, length=2)[0] ** 2).sum()

    def f(x):
        value, grad = objnet.value_and_grad(lambda x: Loss()(x))(x)
        return value, objnet.no_grad(lambda x: Dense()(x))(grad)

    net = objnet.transform_with_state(f)
    params, state = net.init(KEY, X)
    assert set(params) == {"loss.dense", "dense"}
    same(state, {"loss": {"count": 0.0}})

    def hand(p, x):
        def loss(x):
            for _ in range(2):
                x = jnp.matmul(x, p["loss.dense"]["weight"].T) + p["loss.dense"]["bias"][None]
            return (x**2).sum()

        value, grad = jax.value_and_grad(loss)(x)
        return value, jnp.matmul(grad, p["dense"]["weight"].T) + p["dense"]["bias"][None]

    for apply in (net.apply, jax.jit(net.apply)):
        p, s = jax.tree.map(lambda a: a + 0.5, params), state
        for i in range(1, 4):
            out, s = apply(p, s, None, X)
            same(out, hand(p, X), rtol=1e-4)
            same(s, {"loss": {"count": float(i), "last": i * X}})


def test_gradients_inside_the_function():
    model = Dense()

    def f(x):
        loss, grads = objnet.value_and_grad(lambda: model(x).sum(), wrt=model)()
        objnet.backward(lambda: 2 * model(x).sum())
        return loss, dict(grads), model.weight.grad

    net = objnet.transform(f)
    params = net.init(None, X)
    p = jax.tree.map(lambda a: a + 1, params)
    loss, grads, twice = net.apply(p, None, X)
    same(loss, (jnp.matmul(X, p["dense"]["weight"].T) + p["dense"]["bias"][None]).sum())
    same(grads["weight"], jnp.stack([X.sum(0)] * 3))
    same(twice, 2 * grads["weight"])
    assert model.weight.grad is None


def test_nested_transforms_are_independent():
    def outer(x):
        dense = Dense()
        inner = objnet.transform(lambda y: Dense(3, 2)(dense(y)))
        params = inner.init(objnet.next_rng_key(), x)
        assert set(params) == {"dense", "dense_1"}
        grads = jax.grad(lambda p: inner.apply(p, None, x).sum())(params)
        return inner.apply(jax.tree.map(jnp.ones_like, params), None, x), grads, dense(x)

    net = objnet.transform(outer)
    params = net.init(KEY, X)
    assert shapes(params) == {"dense": {"weight": (3, 3), "bias": (3,)}}
    for apply in (net.apply, jax.jit(net.apply)):
        out, grads, own = apply(params, KEY, X)
        same(own, jnp.matmul(X, params["dense"]["weight"].T))
        hidden = jnp.matmul(X, jnp.ones((3, 3))) + 1
        same(out, jnp.matmul(hidden, jnp.ones((3, 2))) + 1)
        assert shapes(grads) == {"dense": {"weight": (3, 3), "bias": (3,)}, "dense_1": {"weight": (2, 3), "bias": (2,)}}


def test_live_modules_of_an_inner_pure_function_are_its_own():
    live = Dense()
    inner = objnet.transform(lambda x: live(x))
    params = inner.init(None, X)
    outer = objnet.transform(lambda x: inner.apply(params, None, x) + Dense(3, 1)(x))
    assert shapes(outer.init(KEY, X)) == {"dense": {"weight": (1, 3), "bias": (1,)}}
    with pytest.raises(errors.ReadInTransformError, match="no path leads"):
        objnet.transform(lambda x: inner.init(None, x)).init(None, X)


def test_apply_inside_a_constructor_and_a_forward():
    inner = objnet.transform(lambda: nn.Parameter(jnp.ones(3)) * 2)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(inner.apply({"~": {"parameter": jnp.full(3, 5.0)}}, None))

        def forward(self):
            return self.weight + inner.apply({"~": {"parameter": jnp.full(3, 7.0)}}, None)

    same(Net()(), jnp.full(3, 24.0))
    net = objnet.transform(Net)
    same(net.init(None), {"~": {"weight": jnp.full(3, 10.0)}})
    same(net.apply({"~": {"weight": jnp.zeros(3)}}, None), jnp.full(3, 14.0))


def test_exceptions_leave_everything_usable():
    model = Dense()

    class Bad(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Memory()

        def forward(self, x):
            self.inner(x)
            raise ZeroDivisionError("mine")

    bad = Bad()
    for net in (objnet.transform_with_state(lambda x: Bad()(model(x))), objnet.transform_with_state(bad)):
        rng = None
        for call in (lambda n=net: n.init(rng, X), lambda n=net: n.apply(*n.init(rng, X), rng, X), lambda n=net: jax.jit(n.apply)({}, {}, rng, X)):
            try:
                call()
            except (ZeroDivisionError, errors.StructureMismatchError):
                pass
            assert frame.current() is None and scope._scope.get() is None
    assert bad.inner.hidden is None
    same(objnet.jit(model)(X), model(X))
    with pytest.raises(ZeroDivisionError) as caught:
        objnet.transform(Bad).init(None, X)
    assert any("in Bad(...)" in note for note in caught.value.__notes__)

    def chained():
        raise KeyError("mine") from ValueError("cause")

    with pytest.raises(KeyError) as caught:
        objnet.transform(chained).init(None)
    assert isinstance(caught.value.__cause__, ValueError)


def test_threads():
    net = objnet.transform_with_state(lambda x: nn.Sequential(Dense(), Memory(), Net2())(x))

    class Net2(Counter):
        def forward(self, x):
            return x * super().forward().astype(x.dtype)

    params, state = net.init(KEY, X)
    failures = []

    def work(i):
        try:
            p = jax.tree.map(lambda a: a + i, params)
            expected = 10 * (jnp.matmul(X, p["sequential.0"]["weight"].T) + p["sequential.0"]["bias"][None])
            for _ in range(5):
                out, after = net.apply(p, state, None, X)
                same(out, expected, rtol=1e-4)
                assert int(after["sequential.2"]["count"]) == 10
                same(net.init(i, X)[0], net.init(i, X)[0])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures


def test_threads_and_a_live_module():
    model = Memory()
    net = objnet.transform_with_state(lambda x: model(x))
    failures = []

    def work(i):
        try:
            state = {}
            for k in range(1, 20):
                out, state = net.apply({}, state, None, X + i)
                same(out, k * (X + i), rtol=1e-4)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures and model.hidden is None


def test_no_grad_inside_the_pure_form():
    model = Dense()

    def decorated(x):
        return (model(x) * objnet.no_grad(lambda x: model(x))(x)).sum()

    def context(x):
        with objnet.no_grad():
            return model(x).sum()

    net = objnet.transform(decorated)
    params = net.init(None, X)
    grads = jax.grad(lambda p: net.apply(p, None, X))(params)

    def hand(p):
        y = jnp.matmul(X, p["dense"]["weight"].T) + p["dense"]["bias"][None]
        return (y * jax.lax.stop_gradient(y)).sum()

    same(grads, jax.grad(hand)(params))
    same(jax.jit(net.apply)(params, None, X), hand(params))
    net = objnet.transform(context)
    same(net.apply(params, None, X), model(X).sum())
    for transformed in (jax.grad(lambda p: net.apply(p, None, X)), lambda p: objnet.jit(jax.grad(lambda p: net.apply(p, None, X)))(p)):
        with pytest.raises(errors.NoGradError):
            transformed(params)


def test_frames_are_freed():
    import gc
    import weakref

    seen = []

    class Watching(Dense):
        def forward(self, x):
            seen.append(weakref.ref(frame.current()))
            seen.append(weakref.ref(self))
            return super().forward(x)

    net = objnet.transform(Watching)
    params = net.init(KEY, X)
    net.apply(params, None, X)
    assert len(seen) == 4 and isinstance(PureFrame, type)
    gc.collect()
    assert all(ref() is None for ref in seen)


def test_rng_stream_is_bound_to_none_only_inside():
    objnet.transform(lambda: None).init(None)
    assert objnet.next_rng_key() is not None
    assert frame.get(key_stream) is not None
