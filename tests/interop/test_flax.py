"""linen modules in objnet, and objnet's models in linen, against linen itself."""

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

linen = pytest.importorskip("flax.linen")
bridge = pytest.importorskip("objnet.interop.flax")


class Net(linen.Module):
    """Parameters, statistics and dropout, one layer below another."""

    rate: float = 0.5

    @linen.compact
    def __call__(self, x, train):
        x = linen.Dense(5)(x)
        x = linen.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        x = linen.Dropout(self.rate, deterministic=not train)(linen.relu(x))
        return linen.Dense(2)(x)

    def double(self, x, train):
        return 2 * self(x, train)


def loss_of(out):
    return jnp.mean(jnp.sin(out))


X = normal(6, 3)


def lifted(rate=0.0, **options):
    objnet.manual_seed(0)
    return bridge.lift(Net(rate), X, train_flag="train", **options)


# ------------------------------------------------------------------------------------------------------ linen in objnet


def test_initial_values_and_names():
    objnet.manual_seed(3)
    key = objnet.next_rng_key()
    objnet.manual_seed(3)
    model = bridge.lift(Net(), X, train=True)
    wanted = Net().init(key, X, train=True)
    close(model.variables(), wanted)
    assert dict(model.state_dict()).keys() == bridge.flatten(wanted).keys()
    close(bridge.unflatten(model.state_dict()), wanted)
    assert {name for name, _ in model.named_parameters()} == {f"params.{key}" for key in bridge.flatten(wanted["params"])}
    assert {name for name, _ in model.named_buffers()} == {"batch_stats.BatchNorm_0.mean", "batch_stats.BatchNorm_0.var"}
    assert repr(model).startswith("LiftedLinen(\n  Net\n")
    assert "(Dense_0): Collection(kernel=(3, 5), bias=(5,))" in repr(model)


@pytest.mark.parametrize("compiled", [False, True])
def test_training_steps(compiled):
    """Losses, parameters and statistics of three steps, each statistic moved once a step."""
    model = lifted()
    variables = jax.tree.map(jnp.copy, model.variables())
    optimizer = optim.SGD(model.parameters(), lr=0.5)

    def step(x):
        return optimizer.step(lambda: loss_of(model(x)))

    run = objnet.jit(step) if compiled else step

    @jax.jit
    def wanted_step(variables, x):
        def loss(params):
            out, updates = Net(0.0).apply(variables | {"params": params}, x, train=True, mutable=["batch_stats"])
            return loss_of(out), updates

        (value, updates), grads = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        return value, updates | {"params": jax.tree.map(lambda p, g: p - 0.5 * g, variables["params"], grads)}

    for seed in range(3):
        x = normal(6, 3, seed=seed)
        wanted, variables = wanted_step(variables, x)
        close(run(x), wanted)
        close(model.variables(), variables)
    model.eval()
    out = objnet.jit(model)(X) if compiled else model(X)
    close(out, Net().apply(variables, X, train=False))
    close(model.variables(), variables)


def test_gradients():
    model = lifted()
    variables = model.variables()
    wanted, by_x = jax.grad(
        lambda params, x: loss_of(Net(0.0).apply(variables | {"params": params}, x, train=True, mutable=["batch_stats"])[0]),
        (0, 1),
    )(variables["params"], X)
    grads = objnet.grad(lambda: loss_of(model(X)), wrt=model)()
    close({name.removeprefix("params."): g for name, g in grads.items()}, bridge.flatten(wanted))
    model.eval()
    close(
        jax.grad(lambda x: loss_of(model(x)))(X), jax.grad(lambda x: loss_of(Net().apply(model.variables(), x, train=False)))(X)
    )
    close(jax.vmap(model)(X[:, None]), model(X)[:, None])
    assert by_x.shape == X.shape


def test_pure_form():
    net = objnet.transform_with_state(lambda x: bridge.lift(Net(0.0), train_flag="train")(x))
    params, state = net.init(jax.random.key(0), X)
    variables = {
        "params": {path.rpartition(".")[2]: dict(entries) for path, entries in params.items()},
        "batch_stats": {"BatchNorm_0": dict(state["lifted_linen.batch_stats.BatchNorm_0"])},
    }
    out, after = jax.jit(net.apply)(params, state, None, X)
    wanted, updates = Net(0.0).apply(variables, X, train=True, mutable=["batch_stats"])
    close(out, wanted)
    close(after["lifted_linen.batch_stats.BatchNorm_0"], updates["batch_stats"]["BatchNorm_0"])
    close(state["lifted_linen.batch_stats.BatchNorm_0"]["mean"], jnp.zeros(5))
    with pytest.raises(errors.StructureMismatchError, match="Dense_0"):
        net.apply({k: v for k, v in params.items() if "Dense_0" not in k}, state, None, X)
    live = objnet.transform_with_state(lifted())
    close(live.apply(*live.init(None), None, X)[0].shape, (6, 2))


def test_random_keys_come_from_the_stream_when_asked_for():
    model = lifted(rate=0.5)
    objnet.manual_seed(1)
    key = objnet.next_rng_key()
    objnet.manual_seed(1)
    variables = model.variables()
    rngs = {"params": key, "dropout": jax.random.fold_in(key, 1)}
    wanted = Net(0.5).apply(variables, X, train=True, rngs=rngs, mutable=["batch_stats"])[0]
    close(model(X), wanted)
    assert not jnp.allclose(model(X), wanted)
    run = objnet.jit(model)
    assert not jnp.allclose(run(X), run(X))
    before = objnet.get_rng_state()["key"]
    model.eval()
    model(X)
    np.testing.assert_array_equal(objnet.get_rng_state()["key"], before)
    model.train()
    net = objnet.transform_with_state(lambda x: bridge.lift(Net(0.5), train_flag="train")(x))
    entries = net.init(jax.random.key(0), X)
    with pytest.raises(errors.MissingRngError):
        net.apply(*entries, None, X)
    first, second = (net.apply(*entries, jax.random.key(seed), X)[0] for seed in (1, 2))
    assert not jnp.allclose(first, second)
    close(model(X, rngs={"dropout": key}), model(X, rngs={"dropout": key}))


def test_named_streams():
    class Noise(linen.Module):
        @linen.compact
        def __call__(self, x):
            return x + jax.random.normal(self.make_rng("noise"), x.shape) if self.has_rng("noise") else x

    close(bridge.lift(Noise(), X)(X), X)
    for rngs in ("noise", ["noise"]):
        model = bridge.lift(Noise(), X, rngs=rngs)
        assert not jnp.allclose(model(X), model(X))
    x = model(X, rngs={})
    close(x, X)


def test_random_choices_by_value_run_eagerly():
    class Choosy(linen.Module):
        @linen.compact
        def __call__(self, x):
            if x.sum() > 0:  # nothing that can be traced
                return jax.random.normal(self.make_rng("noise"), x.shape)
            return x

    model = bridge.lift(Choosy())
    close(model(-jnp.ones(3)), -jnp.ones(3))
    assert not jnp.allclose(model(jnp.ones(3)), model(jnp.ones(3)))


def test_flags():
    class Dropped(linen.Module):
        @linen.compact
        def __call__(self, x, deterministic):
            return linen.Dropout(0.5)(x, deterministic)

    model = bridge.lift(Dropped(), X, eval_flag="deterministic")
    assert not jnp.allclose(model(X), X)
    close(model(X, deterministic=True), X)
    close(model.eval()(X), X)
    assert not jnp.allclose(model(X, deterministic=False), X)


def test_methods_and_mutable_collections():
    model = lifted()
    close(model.eval()(X, method="double"), 2 * model(X))
    close(model(X, method=Net.double), 2 * model(X))
    close(model(X, method=lambda net, x, train: net(x, train) + 1), model(X) + 1)
    out, others = model(X, mutable=["intermediates"], capture_intermediates=True)
    wanted = Net(0.0).apply(model.variables(), X, train=False, mutable=["intermediates"], capture_intermediates=True)
    close((out, others), wanted)
    assert not any("intermediates" in name for name, _ in model.named_buffers())
    model.train()
    before = model.variables()
    with pytest.raises(pytest.importorskip("flax.errors").ModifyScopeVariableError):
        model(X, mutable=False)
    close(model.variables(), before)
    assert model(X, mutable="batch_stats").shape == (6, 2)
    assert not jnp.allclose(model.variables()["batch_stats"]["BatchNorm_0"]["mean"], before["batch_stats"]["BatchNorm_0"]["mean"])
    out, others = model(X, mutable=True)
    assert others == {}
    assert model.eval()(X, mutable=[]).shape == (6, 2)


def test_method_at_initialisation():
    class Two(linen.Module):
        def setup(self):
            self.encoder, self.decoder = linen.Dense(2), linen.Dense(3)

        def encode(self, x):
            return self.encoder(x)

        def __call__(self, x):
            return self.decoder(self.encode(x))

    model = bridge.lift(Two(), X, method="encode")
    assert model(X, method="encode").shape == (6, 2)
    assert [name for name, _ in model.named_parameters()] == ["params.encoder.kernel", "params.encoder.bias"]
    whole = bridge.lift(Two())
    assert whole(X).shape == (6, 3)


def test_cache():
    """Decoding step by step, whose cache is moved on by each call, eager or compiled."""
    attention = linen.MultiHeadDotProductAttention(num_heads=2, decode=True)
    model = bridge.lift(attention, jnp.ones((1, 4, 6)))
    variables = model.variables()
    assert set(model._modules) == {"params", "cache"}
    run = objnet.jit(model)
    for step in range(4):
        token = normal(1, 1, 6, seed=step)
        wanted, updates = attention.apply(variables, token, mutable=["cache"])
        variables = variables | updates
        close((run if step % 2 else model)(token), wanted)
        close(model.variables(), variables)
    assert model.state_dict()["cache.cache_index"] == 4


def test_state_that_is_no_array_and_state_that_appears():
    class Keeps(linen.Module):
        @linen.compact
        def __call__(self, x):
            pair = self.variable("memory", "pair", lambda: (jnp.zeros(2), {"n": jnp.zeros((), "int32")}))
            pair.value = (pair.value[0] + x, {"n": pair.value[1]["n"] + 1})
            if not self.is_initializing():
                late = self.variable("memory", "late", lambda: jnp.zeros(2))
                late.value = late.value + x
            return pair.value[0]

    model = bridge.lift(Keeps(), jnp.ones(2))
    start = model.variables()["memory"]["pair"][1]["n"]
    close(model(jnp.ones(2)), objnet.jit(model)(jnp.ones(2)) - 1)
    kept = model.variables()["memory"]
    assert kept["pair"][1]["n"] == start + 2
    close(kept["late"], 2 * jnp.ones(2))
    assert list(model.state_dict()) == ["memory.late"]


def test_lazy():
    model = bridge.lift(Net(0.0), train_flag="train")
    with pytest.raises(errors.UninitializedError, match="Call the model once eagerly"):
        objnet.jit(model)(X)
    with pytest.raises(errors.UninitializedError):
        objnet.grad(lambda: loss_of(model(X)), wrt=model)()
    with pytest.raises(errors.UninitializedError):
        optim.SGD(model.parameters(), lr=0.1)
        [p.shape for p in model.parameters()]
    objnet.manual_seed(0)
    out = model(X)
    close(out, lifted()(X))
    close(objnet.jit(model.eval())(X), model(X))
    other = bridge.lift(Net(0.0), train_flag="train")
    other.load_state_dict(model.state_dict())
    close(other.eval()(X), model(X))
    nested = nn.Sequential(bridge.lift(linen.Dense(4)), nn.Linear(4, 2))
    assert nested(X).shape == (6, 2)
    again = nn.Sequential(bridge.lift(linen.Dense(4)), nn.Linear(4, 2))
    again.load_state_dict(nested.state_dict())
    close(again(X), nested(X))


def test_copies_and_loading():
    model = lifted()
    twin = copy.deepcopy(model)
    model(X)
    close(twin.variables()["batch_stats"]["BatchNorm_0"]["mean"], jnp.zeros(5))
    twin.load_variables(model.variables())
    close(twin.eval()(X), model.eval()(X))
    bad = {"params": {"Dense_0": {"kernel": jnp.ones((2, 2)), "bias": jnp.zeros(5)}}}
    before = twin.variables()
    with pytest.raises(errors.StructureMismatchError, match=r"params.Dense_0.kernel is \(2, 2\), the module has \(3, 5\)"):
        twin.load_variables(bad)
    close(twin.variables(), before)
    fresh = bridge.lift(Net(0.0), train_flag="train")
    fresh.load_variables(model.variables())
    close(fresh.eval()(X), model(X))


def test_names_that_are_methods_of_modules():
    class Odd(linen.Module):
        @linen.compact
        def __call__(self, x):
            weight = self.param("forward", linen.initializers.ones, (3,))
            return linen.Dense(2, name="train")(x * weight) + linen.Dense(2, name="forward_2")(x)

    model = bridge.lift(Odd(), X)
    assert "params.forward" in model.state_dict()
    assert "params.train.kernel" in model.state_dict()
    close(objnet.jit(model)(X), Odd().apply(model.variables(), X))
    model.train()
    model.eval()


def test_partitioned_variables_lose_their_metadata_only():
    init = linen.with_partitioning(linen.initializers.ones, ("a", "b"))
    model = bridge.lift(linen.Dense(2, kernel_init=init), X)
    close(model(X), X.sum(1, keepdims=True) * jnp.ones((1, 2)))
    assert model.variables()["params"]["kernel"].shape == (3, 2)


@settings(max_examples=2)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(1, 4), st.integers(1, 5))
def test_any_shape(widths, batch, inputs):
    class Stack(linen.Module):
        @linen.compact
        def __call__(self, x):
            for width in widths:
                x = jnp.tanh(linen.LayerNorm()(linen.Dense(width)(x)))
            return x

    x = normal(batch, inputs)
    variables = filled(jax.eval_shape(Stack().init, jax.random.key(0), x))
    model = bridge.lift(Stack())
    model.load_variables(variables)
    value, grads = objnet.jit(objnet.value_and_grad(lambda: model(x).sum(), wrt=model))()
    wanted = jax.jit(jax.value_and_grad(lambda v: Stack().apply(v, x).sum()))(variables)
    close((value, dict(grads)), (wanted[0], bridge.flatten(wanted[1])))


# ------------------------------------------------------------------------------------------------------ objnet in linen


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
    model = bridge.Module(Ours)
    variables = model.init(jax.random.key(0), X)
    torch = Ours()
    assert bridge.flatten(variables["params"]).keys() == dict(torch.named_parameters()).keys()
    assert bridge.flatten(variables["state"]).keys() == dict(torch.named_buffers()).keys()
    torch.load_state_dict(bridge.flatten(variables["params"]) | bridge.flatten(variables["state"]))
    close(variables["state"]["bn"]["running_mean"], jnp.zeros(4))

    def apply(variables, x):
        return model.apply(variables, x, mutable=["state"])

    for seed in range(2):
        x = normal(6, 3, seed=seed)
        out, updates = jax.jit(apply)(variables, x)
        variables = variables | updates
        close(out, torch(x))
        close(bridge.flatten({k: v for k, v in variables["state"].items() if k == "bn"}), dict(torch.named_buffers()))
    close(model.apply(variables, X, training=False, mutable=["state"])[0], torch.eval()(X))
    wanted = objnet.grad(lambda: loss_of(torch(X)), wrt=torch)()

    def loss(params):
        return loss_of(model.apply(variables | {"params": params}, X, training=False, mutable=["state"])[0])

    close(bridge.flatten(jax.grad(loss)(variables["params"])), dict(wanted))


def test_created_live_function_and_pair():
    created = bridge.Module.create(Ours, 5, rate=0.0)
    assert created.init(jax.random.key(0), X)["params"]["fc"]["weight"].shape == (5, 3)
    live = Ours()
    model = bridge.Module(live)
    variables = model.init(jax.random.key(7), X)
    close(variables["params"]["fc"]["weight"], live.fc.weight.value)
    out, _ = model.apply(variables, X, mutable=["state"])
    assert live.bn.num_batches_tracked == 0
    live.eval()
    evaluated = model.apply(variables, X, mutable=["state"])[0]
    close(model.apply(variables, X, training=True, mutable=["state"])[0], out)
    close(evaluated, live(X))
    assert not live.bn.training
    pure = objnet.transform_with_state(lambda x: nn.Linear(3, 2)(x))
    for target in (pure, objnet.transform(lambda x: nn.Linear(3, 2)(x)), lambda x: nn.Linear(3, 2)(x)):
        model = bridge.Module(target)
        variables = model.init(jax.random.key(0), X)
        assert set(variables) == {"params"}
        params = bridge.to_two_level(variables["params"], ".")
        assert set(params) == {"linear"}
        close(model.apply(variables, X), pure.apply(params, {}, None, X)[0])


def test_inside_linen():
    class Outer(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = bridge.Module.create(Ours, 4, rate=0.5, name="ours")(x)
            return linen.Dense(1)(x)

    variables = Outer().init(jax.random.key(0), X)
    assert set(variables["params"]) == {"ours", "Dense_0"}
    assert set(variables["state"]) == {"ours"}
    keys = [{"dropout": jax.random.key(seed)} for seed in (1, 1, 2)]
    outs = [Outer().apply(variables, X, rngs=k, mutable=["state"])[0] for k in keys]
    close(outs[0], outs[1])
    assert not jnp.allclose(outs[0], outs[2])
    with pytest.raises(errors.MissingRngError):
        Outer().apply(variables, X, mutable=["state"])
    with pytest.raises(pytest.importorskip("flax.errors").ModifyScopeVariableError, match="state"):
        Outer().apply(variables, X, rngs=keys[0])
    less = {"params": variables["params"] | {"ours": {}}, "state": variables["state"]}
    with pytest.raises(errors.StructureMismatchError, match="missing from params: fc.weight"):
        Outer().apply(less, X, rngs=keys[0], mutable=["state"])


def test_stateless_models_need_nothing_mutable():
    model = bridge.Module.create(nn.Linear, 3, 2)
    variables = model.init(jax.random.key(0), X)
    assert set(variables) == {"params"}
    close(model.apply(variables, X), X @ variables["params"]["weight"].T + variables["params"]["bias"])
    rows = linen.vmap(bridge.Module, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=0)(model.target)
    variables = rows.init(jax.random.key(0), normal(4, 2, 3))
    assert variables["params"]["weight"].shape == (4, 2, 3)
    assert rows.apply(variables, normal(4, 2, 3)).shape == (4, 2, 2)


def test_state_that_is_a_dict():
    model = bridge.Module(Ours)
    variables = model.init(jax.random.key(0), X)
    _, updates = model.apply(variables, X, mutable=["state"])
    assert "last" in updates["state"]
    out, again = model.apply(variables | updates, X, mutable=["state"])
    close(again["state"]["last"], updates["state"]["last"])
    assert jax.tree.leaves(again["state"]["last"])[0].shape == (4,)


def test_there_and_back():
    """linen in objnet in linen in objnet."""
    objnet.manual_seed(0)
    there = bridge.Module(lambda x: bridge.lift(linen.Dense(2))(x))
    model = bridge.lift(there, X)
    assert list(model.state_dict()) == ["params.lifted_linen.params.kernel", "params.lifted_linen.params.bias"]
    params = model.variables()["params"]["lifted_linen"]["params"]
    close(objnet.jit(model)(X), linen.Dense(2).apply({"params": params}, X))


def test_arguments_called_training():
    class Takes(nn.Module):
        def forward(self, x, training=None):
            return x if training else -x

    model = bridge.Module(Takes)
    close(model.apply({}, X, training=True), X)
    close(model.apply({}, X), -X)


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        (lambda: bridge.lift(nn.Linear(2, 2)), TypeError, "an instance of a linen module, got objnet.nn.modules.linear.Linear"),
        (lambda: bridge.lift(linen.Dense), TypeError, "got the class Dense"),
        (lambda: bridge.lift(linen.Dense(2).bind({"params": {"kernel": X}})), ValueError, "this Dense is bound"),
        (lambda: bridge.Module(3), TypeError, "got int"),
        (lambda: bridge.Module.create(Ours(), 3), TypeError, "is no Module class"),
        (lambda: bridge.Module(objnet.without_apply_rng(objnet.transform(lambda x: x))), TypeError, "without_apply_rng"),
        (lambda: bridge.lift(linen.Dense(2), X)(normal(2, 4)), Exception, "kernel"),
        (lambda: nn.Sequential(bridge.lift(linen.Dense(2), X).params)(X), NotImplementedError, "call the lifted module"),
    ],
)  # fmt: skip
def test_refused(run, error, message):
    with pytest.raises(error, match=message):
        run()
