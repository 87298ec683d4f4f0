"""The pure form: its public functions, and init and apply under jax's own transforms and objnet's."""

import functools
import gc
import inspect
import pickle
import threading
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import objnet
from objnet import nn
from objnet.core import errors, frame, scope
from objnet.core.rng import key_stream
from tests.transforms.pure_models import KEY, Counter, Dense, Memory, X, same, shapes


@pytest.fixture(autouse=True)
def nothing_left_open():
    yield
    assert frame.current() is None
    assert scope._scope.get() is None


# -- random numbers ----------------------------------------------------------------------------------------------------


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
        with pytest.raises(ValueError, match=r"Apply must be called with an RNG as the third arg.*`apply\(params, state, rng, "):
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


# -- the public functions ----------------------------------------------------------------------------------------------


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


# -- under jax's own transforms ----------------------------------------------------------------------------------------


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


@pytest.mark.slow
def test_vmap_over_inputs_and_over_models(net, weights):
    xs, keys = jnp.stack([X, X + 1, X - 2]), jax.random.split(KEY, 3)

    def run(apply):
        @jax.jit
        def both(params, state, stacked, keys, xs):
            over_inputs = jax.vmap(apply, in_axes=(None, None, 0, 0))(params, state, keys, xs)
            return over_inputs, jax.vmap(apply)(*stacked, keys, xs)

        return both

    stacked = jax.jit(jax.vmap(NET.init, in_axes=(0, None)))(keys, X)
    for i in range(3):
        same(jax.tree.map(lambda a, i=i: a[i], stacked), NET.init(keys[i], X))
    got, expected = run(net.apply)(*weights, stacked, keys, xs), run(by_hand)(*weights, stacked, keys, xs)
    same(got, expected)
    same(jax.tree.map(lambda a: a[1], got[1]), net.apply(*jax.tree.map(lambda a: a[1], stacked), keys[1], xs[1]))


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


# -- under and around objnet's transforms ------------------------------------------------------------------------------


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
    given = {"dense": {"weight": jnp.ones((3, 3)), "bias": jnp.ones(3)}}
    net = objnet.transform_with_state(lambda x: bad(model(x)))
    for call in (lambda: net.init(None, X), *(lambda f=f: f(given, {}, None, X) for f in (net.apply, jax.jit(net.apply)))):
        with pytest.raises(ZeroDivisionError):
            call()
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

    def run(p):
        return net.apply(p, None, X)

    # Under a plain jax transform it may well be a gradient that is being taken.
    for transformed in (jax.grad(run), objnet.jit(jax.grad(run)), objnet.grad(run), jax.jit(run)):
        with pytest.raises(errors.NoGradError):
            transformed(params)
    same(objnet.jit(run)(params), model(X).sum())


def test_frames_are_freed():

    seen = []

    class Watching(Dense):
        def forward(self, x):
            seen.append(weakref.ref(frame.current()))
            seen.append(weakref.ref(self))
            return super().forward(x)

    net = objnet.transform(Watching)
    params = net.init(KEY, X)
    net.apply(params, None, X)
    assert len(seen) == 4
    gc.collect()
    assert all(ref() is None for ref in seen)


def test_rng_stream_is_bound_to_none_only_inside():
    objnet.transform(lambda: None).init(None)
    assert objnet.next_rng_key() is not None
    assert frame.get(key_stream) is not None
