"""Haiku's functions in objnet, and objnet's models in Haiku, against Haiku itself."""

from __future__ import annotations

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import objnet
from objnet import errors, nn, optim
from tests.interop.layers import close, filled, normal

hk = pytest.importorskip("haiku")
bridge = pytest.importorskip("objnet.interop.haiku")


@pytest.fixture(autouse=True)
def _promotion():
    """Haiku's batch norm mixes dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


class Net(hk.Module):
    """Modules made in the constructor and in the call, statistics, and dropout."""

    def __init__(self, rate=0.5, name=None):
        super().__init__(name)
        self.rate = rate
        self.first = hk.Linear(5)

    def __call__(self, x, is_training):
        x = hk.BatchNorm(True, True, 0.9)(self.first(x), is_training)
        if is_training and self.rate:
            x = hk.dropout(hk.next_rng_key(), self.rate, x)
        return hk.Linear(2)(jax.nn.relu(x))


def net_of(rate=0.0):
    return hk.transform_with_state(lambda x, is_training: Net(rate)(x, is_training))


def loss_of(out):
    return jnp.mean(jnp.sin(out))


X = normal(6, 3)


def lifted(rate=0.0):
    objnet.manual_seed(0)
    return bridge.lift(net_of(rate), X, train_flag="is_training")


# ------------------------------------------------------------------------------------------------------ Haiku in objnet


def test_initial_values_and_names():
    objnet.manual_seed(3)
    key = objnet.next_rng_key()
    objnet.manual_seed(3)
    model = bridge.lift(net_of(), X, is_training=True)
    params, state = net_of().init(key, X, is_training=True)
    close(model.collections(), (params, state))
    names = {
        f"params.net.{name}"
        for name in ("~.linear.w", "~.linear.b", "batch_norm.scale", "batch_norm.offset", "linear.w", "linear.b")
    }
    assert {name for name, _ in model.named_parameters()} == names
    assert "state.net.batch_norm.~.mean_ema.hidden" in model.state_dict()
    assert repr(model).startswith("LiftedHaiku(\n  net_of.<locals>.<lambda>\n")


@pytest.mark.parametrize("compiled", [False, True])
def test_training_steps(compiled):
    model, net = lifted(), net_of()
    params, state = model.collections()
    optimizer = optim.SGD(model.parameters(), lr=0.5)

    def step(x):
        return optimizer.step(lambda: loss_of(model(x)))

    run = objnet.jit(step) if compiled else step

    @jax.jit
    def wanted_step(params, state, x):
        def loss(params):
            out, after = net.apply(params, state, None, x, is_training=True)
            return loss_of(out), after

        (value, after), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return value, jax.tree.map(lambda p, g: p - 0.5 * g, params, grads), after

    for seed in range(3):
        x = normal(6, 3, seed=seed)
        wanted, params, state = wanted_step(params, state, x)
        close(run(x), wanted)
        close(model.collections(), (params, state))
    model.eval()
    close(objnet.jit(model)(X) if compiled else model(X), net.apply(params, state, None, X, is_training=False)[0])
    close(model.collections(), (params, state))
    close(jax.vmap(model)(X[:, None]), model(X)[:, None])


def test_gradients_and_the_pure_form():
    model, net = lifted(), net_of()
    params, state = model.collections()
    wanted = jax.grad(lambda params: loss_of(net.apply(params, state, None, X, is_training=True)[0]))(params)
    grads = objnet.grad(lambda: loss_of(model(X)), wrt=model)()
    close({n.removeprefix("params."): g for n, g in grads.items()}, bridge.flatten(bridge.from_two_level(wanted)))

    pure = objnet.transform_with_state(lambda x: bridge.lift(net, train_flag="is_training")(x))
    ours, kept = pure.init(jax.random.key(0), X)
    assert ours["lifted_haiku.params.net.~.linear"]["w"].shape == (3, 5)
    params = {path.removeprefix("lifted_haiku.params.").replace(".", "/"): entries for path, entries in ours.items()}
    out, after = jax.jit(pure.apply)(ours, kept, None, X)
    path = "lifted_haiku.state.net.batch_norm.~.mean_ema"
    wanted, state = net.apply(params, net.init(jax.random.key(0), X, is_training=True)[1], None, X, is_training=True)
    close(out, wanted)
    close(after[path], state["net/batch_norm/~/mean_ema"])
    assert kept[path]["counter"] == 0


def test_random_keys_come_from_the_stream_when_asked_for():
    model = lifted(rate=0.5)
    objnet.manual_seed(1)
    key = objnet.next_rng_key()
    objnet.manual_seed(1)
    params, state = model.collections()
    close(model(X), net_of(0.5).apply(params, state, key, X, is_training=True)[0])
    run = objnet.jit(model)
    assert not jnp.allclose(run(X), run(X))
    before = objnet.get_rng_state()["key"]
    model.eval()(X)
    np.testing.assert_array_equal(objnet.get_rng_state()["key"], before)
    pure = objnet.transform_with_state(lambda x: bridge.lift(net_of(0.5), train_flag="is_training")(x))
    entries = pure.init(jax.random.key(0), X)
    with pytest.raises(errors.MissingRngError):
        pure.apply(*entries, None, X)
    assert not jnp.allclose(pure.apply(*entries, jax.random.key(1), X)[0], pure.apply(*entries, jax.random.key(2), X)[0])


def test_a_key_for_each_call():
    def noisy(x):
        key = hk.maybe_next_rng_key()
        return x if key is None or hk.running_init() else x + jax.random.normal(key, x.shape)

    close(bridge.lift(noisy, X)(X), X)
    model = bridge.lift(noisy, X, rng=True)
    assert not jnp.allclose(model(X), model(X))


def test_stateless_functions_and_state_of_any_structure():
    model = bridge.lift(hk.transform(lambda x: hk.Linear(2)(x)), X)
    params, state = model.collections()
    assert state == {}
    close(model(X), X @ params["linear"]["w"] + params["linear"]["b"])

    def counting(x):
        count = hk.get_state("count", (), init=lambda *_: {"n": jnp.zeros((), "int32"), "sum": jnp.zeros(3)})
        hk.set_state("count", {"n": count["n"] + 1, "sum": count["sum"] + x.sum(0)})
        return x * hk.get_parameter("w", (3,), init=jnp.ones)

    model = bridge.lift(counting, X)
    assert list(model.state_dict()) == ["params.w"]
    model(X)
    objnet.jit(model)(X)
    close(model.collections()[1], {"~": {"count": {"n": 2, "sum": 2 * X.sum(0)}}})


def test_lazy_copies_and_loading():
    model = bridge.lift(net_of(), train_flag="is_training")
    with pytest.raises(errors.UninitializedError, match="Call the model once eagerly"):
        objnet.jit(model)(X)
    objnet.manual_seed(0)
    close(model(X), lifted()(X))
    twin = bridge.lift(net_of(), train_flag="is_training")
    twin.load_state_dict(model.state_dict())
    close(twin.eval()(X), model.eval()(X))
    other = copy.deepcopy(lifted())
    other.load_collections(*model.collections())
    close(other.eval()(X), model(X))
    before = other.collections()
    with pytest.raises(errors.StructureMismatchError, match=r"params.net.linear.b is \(3,\), the module has \(2,\)"):
        other.load_collections({"net/linear": {"b": jnp.ones(3)}})
    close(other.collections(), before)


@settings(max_examples=2)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(1, 4), st.integers(1, 5))
def test_any_shape(widths, batch, inputs):
    x = normal(batch, inputs)
    net = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP(widths, activation=jnp.tanh)(x)))
    params = filled(jax.eval_shape(net.init, jax.random.key(0), x))
    model = bridge.lift(lambda x: hk.nets.MLP(widths, activation=jnp.tanh)(x))
    model.load_collections(params)
    value, grads = objnet.jit(objnet.value_and_grad(lambda: model(x).sum(), wrt=model))()
    wanted = jax.jit(jax.value_and_grad(lambda params: net.apply(params, x).sum()))(params)
    grads = {name.removeprefix("params."): gradient for name, gradient in grads.items()}
    close((value, grads), (wanted[0], bridge.flatten(bridge.from_two_level(wanted[1]))))


# ------------------------------------------------------------------------------------------------------ objnet in Haiku


class Ours(nn.Module):
    """Parameters of its own and below, statistics, dropout, and state that is None at first."""

    def __init__(self, width=4, rate=0.0):
        super().__init__()
        self.fc = nn.Linear(3, width)
        self.bn = nn.BatchNorm1d(width)
        self.dropout = nn.Dropout(rate)
        self.scale = nn.Parameter(jnp.full(width, 2.0))
        self.last = None

    def forward(self, x):
        x = self.dropout(self.bn(self.fc(x))) * self.scale
        self.last = {"mean": x.mean(0)}
        return x


def test_module_class():
    net = hk.transform_with_state(lambda x, training=None: bridge.Module(Ours)(x, training=training))
    params, state = net.init(jax.random.key(0), X)
    torch = Ours()
    assert params.keys() == state.keys() == {"ours"}
    assert params["ours"].keys() == dict(torch.named_parameters()).keys()
    buffers = dict(torch.named_buffers())
    torch.load_state_dict({k: v for k, v in (params["ours"] | state["ours"]).items() if k != "last"})
    close({k: state["ours"][k] for k in buffers}, dict(torch.named_buffers()))
    for seed in range(2):
        x = normal(6, 3, seed=seed)
        out, state = jax.jit(net.apply)(params, state, None, x)
        close(out, torch(x))
        close({k: state["ours"][k] for k in buffers}, dict(torch.named_buffers()))
        close(state["ours"]["last"], torch.last)
    torch.eval()
    close(net.apply(params, state, None, X, training=False)[0], torch(X))
    wanted = objnet.grad(lambda: loss_of(torch(X)), wrt=torch)()
    grads = jax.grad(lambda params: loss_of(net.apply(params, state, None, X, training=False)[0]))(params)
    close(grads["ours"], dict(wanted))


def test_created_live_and_pair():
    live = nn.Linear(3, 2)
    pair = objnet.transform(lambda x: nn.Linear(3, 2)(x))
    nets = [
        (lambda x: bridge.Module.create(nn.Linear, 3, 2, name="fc")(x), "fc", "weight"),
        (lambda x: bridge.Module(live)(x), "linear", "weight"),
        (lambda x: bridge.Module(pair, name="pair")(x), "pair", "linear.weight"),
        (lambda x: bridge.Module(lambda x: nn.Linear(3, 2)(x))(x), "function", "linear.weight"),
    ]
    for function, name, key in nets:
        net = hk.without_apply_rng(hk.transform(function))
        params = net.init(jax.random.key(0), X)
        assert list(params) == [name]
        weight, bias = params[name][key], params[name][key.replace("weight", "bias")]
        close(net.apply(params, X), X @ weight.T + bias)
    close(hk.transform(nets[1][0]).init(None, X)["linear"]["weight"], live.weight.value)


def test_sharing_naming_and_getters():
    def twice(x):
        shared = bridge.Module.create(nn.Linear, 3, 3)
        return shared(shared(x)) + bridge.Module.create(nn.Linear, 3, 3)(x)

    net = hk.without_apply_rng(hk.transform(twice))
    params = net.init(jax.random.key(0), X)
    assert set(params) == {"linear", "linear_1"}
    first, second = (lambda x, p=params[n]: x @ p["weight"].T + p["bias"] for n in ("linear", "linear_1"))
    close(net.apply(params, X), first(first(X)) + second(X))

    def halved(next_getter, value, context):
        assert context.full_name.startswith("linear/")
        return next_getter(value) / 2

    def under_getter(x):
        with hk.custom_getter(halved):
            return bridge.Module.create(nn.Linear, 3, 2)(x)

    net = hk.without_apply_rng(hk.transform(under_getter))
    params = net.init(jax.random.key(0), X)
    close(net.apply(params, X), (X @ params["linear"]["weight"].T + params["linear"]["bias"]) / 2)


def test_state_of_shared_calls_is_threaded():
    def twice(x):
        norm = bridge.Module.create(nn.BatchNorm1d, 3)
        return norm(norm(x))

    net = hk.transform_with_state(twice)
    params, state = net.init(None, X)
    assert state["batch_norm1d"]["num_batches_tracked"] == 0
    _, state = net.apply(params, state, None, X)
    assert state["batch_norm1d"]["num_batches_tracked"] == 2


def test_randomness():
    net = hk.transform_with_state(lambda x: bridge.Module.create(Ours, 4, rate=0.5)(x))
    params, state = net.init(jax.random.key(0), X)
    outs = [net.apply(params, state, jax.random.key(seed), X)[0] for seed in (1, 1, 2)]
    close(outs[0], outs[1])
    assert not jnp.allclose(outs[0], outs[2])
    with pytest.raises(errors.MissingRngError):
        net.apply(params, state, None, X)
    with pytest.raises(errors.StructureMismatchError, match=r"missing from params: fc\.weight"):
        net.apply({"ours": {k: v for k, v in params["ours"].items() if k != "fc.weight"}}, state, None, X)


def test_there_and_back():
    """Haiku in objnet in Haiku in objnet."""
    inner = hk.transform(lambda x: hk.Linear(2)(x))
    model = bridge.lift(lambda x: bridge.Module(lambda x: bridge.lift(inner)(x), name="there")(x), X)
    assert sorted(model._cells()) == [("params", "there", f"lifted_haiku.params.linear.{n}") for n in "bw"]
    w = model.collections()[0]["there"]["lifted_haiku.params.linear.w"]
    close(objnet.jit(model)(X), X @ w)


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        (lambda: bridge.lift(3), TypeError, "got 3"),
        (lambda: bridge.lift(hk.Linear), TypeError, "built in a function"),
        (lambda: bridge.lift(objnet.transform(lambda x: x)), TypeError, "hk.transform or hk.transform_with_state"),
        (lambda: bridge.lift(nn.Linear(2, 2)), TypeError, "hk.transform or"),
        (lambda: hk.transform(lambda: bridge.Module(3)).init(None), TypeError, "got int"),
        (lambda: hk.transform(lambda: bridge.Module.create(Ours(), 3)).init(None), TypeError, "is no Module class"),
        (lambda: hk.transform(lambda: bridge.Module(hk.transform(lambda x: x))).init(None), TypeError, "got Transformed"),
        (lambda: bridge.Module(Ours), ValueError, "inside"),
    ],
)  # fmt: skip
def test_refused(run, error, message):
    with pytest.raises(error, match=message):
        run()
