"""One contract, run against Haiku and objnet; and the programs of Haiku's front page, written with objnet's modules."""

import functools
import inspect
import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import objnet
from objnet import nn
from objnet.core import frame

hk = pytest.importorskip("haiku")

X = jnp.arange(6.0).reshape(2, 3) / 3.0
KEY = jax.random.PRNGKey(42)


def same(a, b, **kwargs):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), **({"rtol": 1e-5, "atol": 1e-6} | kwargs))


# -- the two libraries, in the words of the contract -------------------------------------------------------------------


def haiku():
    class Dense(hk.Module):
        def __init__(self, n_in, n_out):
            super().__init__()
            self.sizes = n_in, n_out

        def __call__(self, x):
            w = hk.get_parameter("w", self.sizes, init=lambda s, d: jax.random.normal(hk.next_rng_key(), s, d))
            b = hk.get_parameter("b", self.sizes[1:], init=jnp.zeros)
            return jnp.matmul(x, w) + b[None]

    class Counter(hk.Module):
        def __call__(self):
            for _ in range(10):
                count = hk.get_state("count", (), jnp.int32, jnp.zeros)
                hk.set_state("count", count + 1)
            return hk.get_state("count")

    class Dropout(hk.Module):
        def __init__(self, rate):
            super().__init__()
            self.rate = rate

        def __call__(self, x):
            keep = jax.random.bernoulli(hk.next_rng_key(), 1.0 - self.rate, x.shape)
            return keep.astype(x.dtype) * x / (1.0 - self.rate)

    class Average(hk.Module):
        def __call__(self, x):
            count = hk.get_state("count", (), jnp.int32, jnp.zeros) + 1
            hidden = hk.get_state("hidden", x.shape, x.dtype, jnp.zeros) * 0.9 + x * 0.1
            hk.set_state("count", count)
            hk.set_state("hidden", hidden)
            return hidden / (1.0 - 0.9 ** count.astype(x.dtype))

    def parameter(value):
        return hk.get_parameter("w", np.shape(value), init=hk.initializers.Constant(value))

    return types.SimpleNamespace(**_locals(locals()), lib=hk, leaf="w")


def own():
    class Dense(nn.Module):
        def __init__(self, n_in, n_out):
            super().__init__()
            self.w = nn.Parameter(jax.random.normal(objnet.next_rng_key(), (n_in, n_out)))
            self.b = nn.Parameter(jnp.zeros(n_out))

        def forward(self, x):
            return jnp.matmul(x, self.w) + self.b[None]

    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("count", jnp.zeros((), jnp.int32))

        def forward(self):
            for _ in range(10):
                self.count = self.count + 1
            return self.count

    class Dropout(nn.Module):
        def __init__(self, rate):
            super().__init__()
            self.rate = rate

        def forward(self, x):
            keep = jax.random.bernoulli(objnet.next_rng_key(), 1.0 - self.rate, x.shape)
            return keep.astype(x.dtype) * x / (1.0 - self.rate)

    class Average(nn.Module):
        def __init__(self):
            super().__init__()
            self.count = jnp.zeros((), jnp.int32)
            self.hidden = jnp.zeros((2, 3))

        def forward(self, x):
            self.count = self.count + 1
            self.hidden = self.hidden * 0.9 + x * 0.1
            return self.hidden / (1.0 - 0.9 ** self.count.astype(x.dtype))

    def parameter(value):
        return nn.Parameter(jnp.asarray(value, jnp.float32))

    return types.SimpleNamespace(**_locals(locals()), lib=objnet, leaf="parameter")


def _locals(names):
    return {k: v for k, v in names.items() if k[0].isupper() or k == "parameter"}


LIBRARIES = {"haiku": haiku(), "objnet": own()}


@pytest.fixture(params=LIBRARIES)
def it(request):
    return LIBRARIES[request.param]


@pytest.fixture(autouse=True)
def nothing_left_open():
    yield
    assert frame.current() is None


def agree(run):
    """``run`` with Haiku, with objnet, and with objnet under jax.jit gives the same."""
    theirs = run(LIBRARIES["haiku"], jax.jit)
    for wrap in (lambda f: f, jax.jit):
        same(run(LIBRARIES["objnet"], wrap), theirs)


# -- names and values --------------------------------------------------------------------------------------------------


def test_two_layers(it):
    def f(x):
        return it.Dense(4, 2)(jnp.tanh(it.Dense(3, 4)(x)))

    def g(x):
        first = it.Dense(3, 4)
        y = jnp.tanh(first(x))
        return it.Dense(4, 2)(y)

    net = it.lib.transform(g)
    params = net.init(KEY, X)
    assert jax.tree.map(jnp.shape, params) == {"dense": {"w": (3, 4), "b": (4,)}, "dense_1": {"w": (4, 2), "b": (2,)}}
    key, first = jax.random.split(KEY)
    second = jax.random.split(key)[1]
    same(params["dense"]["w"], jax.random.normal(first, (3, 4)))
    same(params["dense_1"]["w"], jax.random.normal(second, (4, 2)))
    expected = jnp.matmul(jnp.tanh(jnp.matmul(X, params["dense"]["w"])), params["dense_1"]["w"])
    same(net.apply(params, None, X), expected)
    same(jax.jit(net.apply)(params, KEY, X), expected)
    same(jax.jit(net.init)(KEY, X), params)
    reversed_order = it.lib.transform(f).init(KEY, X)
    assert set(reversed_order) == {"dense", "dense_1"} and reversed_order["dense"]["w"].shape == (4, 2)


def test_one_instance_called_twice_is_one_layer(it):
    def f(x):
        dense = it.Dense(3, 3)
        return dense(dense(x))

    net = it.lib.transform(f)
    params = net.init(KEY, X)
    assert set(params) == {"dense"}
    w = params["dense"]["w"]
    same(net.apply(params, None, X), jnp.matmul(jnp.matmul(X, w), w))


def test_a_naked_parameter_sits_under_tilde(it):
    net = it.lib.transform(lambda: it.parameter(2.0) * 1.0)
    params = net.init(None)
    same(params, {"~": {it.leaf: 2.0}})
    same(net.apply({"~": {it.leaf: jnp.float32(5.0)}}, None), 5.0)
    assert float(it.lib.transform(lambda: it.parameter(2.0)).apply(params, None)) == 2.0


def test_results_are_fresh_plain_dicts(it):
    net = it.lib.transform_with_state(lambda x: it.Average()(it.Dense(3, 3)(x)))
    params, state = net.init(KEY, X)
    kept = jax.tree.map(np.asarray, (params, state))
    _, after = net.apply(params, state, None, X)
    for result in (params, state, after):
        assert type(result) is dict and all(type(entries) is dict for entries in result.values())
        result["new"] = {}
        del result["new"]
    same((params, state), kept)
    params["dense"]["w"] = None
    same(net.init(KEY, X)[0], kept[0])


def test_init_gives_the_initial_state(it):
    net = it.lib.transform_with_state(lambda: it.Counter()())
    params, state = net.init(None)
    same((params, state), ({}, {"counter": {"count": 0}}))
    for i in range(1, 4):
        out, state = jax.jit(net.apply)(params, state, None)
        same((out, state), (10 * i, {"counter": {"count": 10 * i}}))


def test_state_evolves_alike():
    def run(it, wrap):
        net = it.lib.transform_with_state(lambda x: it.Average()(x))
        params, state = net.init(None, X)
        results = [state]
        for i in range(3):
            out, state = wrap(net.apply)(params, state, None, X + i)
            results.append((out, state))
        return results

    agree(run)


def test_transforming_methods(it):
    class Holder:
        def __init__(self):
            self.forward = it.lib.transform(self._forward)
            self.trampoline = it.lib.transform(self._trampoline)

        def _trampoline(self, x):
            return self._forward(x)

        def _forward(self, x):
            return self, x + it.parameter(0.0)

    holder = Holder()
    for net in (holder.forward, holder.trampoline):
        params = net.init(None, X)
        me, out = net.apply(jax.tree.map(lambda p: p + 1, params), None, X)
        assert me is holder
        same(out, X + 1)


def test_nested_transforms_register_nothing_outside(it):
    def outer(x):
        inner = it.lib.transform(lambda x: it.Dense(3, 2)(x))
        params = inner.init(KEY, x)
        assert set(params) == {"dense"}
        return inner.apply(params, None, it.Dense(3, 3)(x))

    net = it.lib.transform(outer)
    params = net.init(KEY, X)
    assert jax.tree.map(jnp.shape, params) == {"dense": {"w": (3, 3), "b": (3,)}}
    net.apply(params, None, X)


# -- random numbers ----------------------------------------------------------------------------------------------------


def test_next_rng_key_gives_one_sequence():
    def f(it):
        keys = [it.lib.next_rng_key() for _ in range(3)]
        keys += list(it.lib.next_rng_keys(4))
        keys += [it.lib.next_rng_key()] + list(it.lib.next_rng_keys(1))
        return [*map(jax.random.key_data, keys)]

    for key in (jax.random.key(42), 42):
        agree(lambda it, wrap, key=key: wrap(it.lib.transform(lambda: f(it)).apply)({}, key))


def test_key_streams_of_init_and_apply():
    def f(it, x):
        y = it.Dense(3, 4)(x)
        first = jax.random.uniform(it.lib.next_rng_key(), (2,))
        y = it.Dropout(0.5)(it.Dense(4, 4)(y))
        return y, first, jax.random.uniform(it.lib.next_rng_key(), (2,))

    def run(it, wrap):
        net = it.lib.transform(lambda x: f(it, x))
        params = wrap(net.init)(KEY, X)
        return params, wrap(net.apply)(params, jax.random.PRNGKey(7), X)

    agree(run)


def test_prng_sequences(it):
    for start in (42, KEY, jax.random.key(42), jnp.int32(42)):
        ours, theirs = objnet.PRNGSequence(start), hk.PRNGSequence(start)

        def check(ours=ours, theirs=theirs):
            assert jnp.array_equal(jax.random.key_data(ours.internal_state[0]), jax.random.key_data(theirs.internal_state[0]))

        for step in (next, next, lambda s: s.take(3), lambda s: s.reserve(4), next, lambda s: s.take(6), lambda s: s.take(0)):
            a, b = step(ours), step(theirs)
            same(jax.tree.map(jax.random.key_data, a), jax.tree.map(jax.random.key_data, b))
            check()
        ours.reserve(2)
        again = objnet.PRNGSequence(ours.internal_state)
        assert len(ours.internal_state[1]) == 2
        a, b = again.take(4), ours.take(4)
        same(jax.tree.map(jax.random.key_data, a), jax.tree.map(jax.random.key_data, b))
        again.replace_internal_state(theirs.internal_state)
        same(jax.random.key_data(next(again)), jax.random.key_data(next(theirs)))
    assert list(itertools.islice(it.lib.PRNGSequence(1), 2))
    for bad in ("nonsense", jax.random.split(KEY, 2)):
        with pytest.raises(ValueError):
            it.lib.PRNGSequence(bad)


def test_rng_none(it):
    quiet = it.lib.transform(lambda x: x * 2)
    assert quiet.init(None, X) == {}
    same(quiet.apply({}, None, X), 2 * X)
    noisy = it.lib.transform(lambda: it.lib.next_rng_key())
    for call in (lambda: noisy.init(None), lambda: noisy.apply({}, None), lambda: it.lib.without_apply_rng(noisy).apply({})):
        with pytest.raises(ValueError) as caught:
            call()
        assert type(caught.value).__name__.lower() == "missingrngerror"


def test_a_bad_rng(it):
    plain, stateful = it.lib.transform(lambda: None), it.lib.transform_with_state(lambda: None)
    for net in (plain, stateful):
        with pytest.raises(ValueError, match="Init must be called with an RNG as the first argument"):
            net.init("nonsense")
    with pytest.raises(ValueError, match="Apply must be called with an RNG as the second argument"):
        plain.apply({}, "nonsense")
    for state in ({}, {"x": {}}):
        with pytest.raises(ValueError, match="Apply must be called with an RNG as the third argument"):
            stateful.apply({}, state, "nonsense")


def _draws(lib):
    def f():
        drawn = [lib.next_rng_key()]
        lib.reserve_rng_keys(3)
        drawn += [lib.next_rng_key(), lib.next_rng_keys(4)]
        with lib.with_rng(jax.random.PRNGKey(7)):
            drawn += [lib.next_rng_key(), lib.next_rng_key()]
        drawn.append(lib.maybe_next_rng_key())
        state = lib.maybe_get_rng_sequence_state()
        first = lib.next_rng_key()
        lib.replace_rng_sequence_state(state)
        return drawn, first, lib.next_rng_key()

    return f


def test_reserved_replaced_and_separate_keys_agree():
    def run(it, wrap):
        drawn, first, again = wrap(it.lib.transform(_draws(it.lib)).apply)({}, KEY)
        same(first, again)
        return drawn, first

    agree(run)


def test_maybe_keys_without_an_rng(it):
    assert it.lib.transform(it.lib.maybe_next_rng_key).apply({}, None) is None
    assert it.lib.transform(it.lib.maybe_get_rng_sequence_state).apply({}, None) is None


# -- what a function asks about itself, and names for itself -----------------------------------------------------------


def test_running_init(it):
    seen = []
    net = it.lib.transform(lambda: seen.append(it.lib.running_init()))
    net.init(None)
    net.apply({}, None)
    assert seen == [True, False]
    with pytest.raises((ValueError, objnet.errors.OutsideTransformError)):
        it.lib.running_init()


def test_entries_by_name_agree():
    def run(it, wrap):
        lib = it.lib

        def f(x):
            w = lib.get_parameter("w", (3,), init=lambda s, d: jax.random.normal(lib.next_rng_key(), s, d))
            assert lib.get_parameter("w", (3,)) is not None
            for _ in range(3):
                lib.set_state("count", lib.get_state("count", (), jnp.int32, init=jnp.zeros) + 1)
            lib.set_state("seen", {"sum": x.sum()})
            lib.set_state("seen", {"sum": x.sum() * 2})
            return x * w, lib.get_params(), lib.get_initial_state()["~"]["count"], lib.get_current_state()["~"]["count"]

        net = lib.transform_with_state(f)
        params, state = wrap(net.init)(KEY, X)
        return params, state, wrap(net.apply)(params, state, None, X)

    agree(run)


def test_entries_of_another_shape_or_without_init(it):
    net = it.lib.transform(lambda n: it.lib.get_parameter("w", (n,), init=jnp.ones))
    with pytest.raises(ValueError, match="w'? .*shape"):
        net.apply(net.init(None, 3), None, 4)
    for read in (lambda: it.lib.get_parameter("w", ()), lambda: it.lib.get_state("s")):
        with pytest.raises(ValueError, match="(?i)init"):
            it.lib.transform_with_state(read).init(None)


# -- several functions, and functions inside functions -----------------------------------------------------------------


def _coder(it):
    def f():
        encoder, decoder = it.Dense(3, 2), it.Dense(2, 3)
        return (lambda x: decoder(encoder(x))), {"encode": encoder, "both": (lambda x: decoder(encoder(x)), decoder)}

    return f


def test_multi_transform_agrees():
    def run(it, wrap):
        net = it.lib.multi_transform(_coder(it))
        params = wrap(net.init)(KEY, X)
        encode, (both, decode) = net.apply["encode"], net.apply["both"]
        same(wrap(both)(params, None, X), decode(params, None, encode(params, None, X)))
        assert set(it.lib.without_apply_rng(net).apply) == {"encode", "both"}
        return params, it.lib.without_apply_rng(net).apply["encode"](params, X)

    agree(run)


def test_multi_transform_with_state_agrees():
    def run(it, wrap):
        def f():
            counter, other = it.Counter(), it.Counter()
            return (lambda: counter() + other()), (lambda: counter(), lambda: counter() + other())

        net = it.lib.multi_transform_with_state(f)
        params, state = wrap(net.init)(None)
        one, state_after_one = wrap(net.apply[0])(params, state, None)
        two, state_after_two = wrap(net.apply[1])(params, state_after_one, None)
        assert type(it.lib.without_apply_rng(net)) is it.lib.MultiTransformedWithState
        return state, one, state_after_one, two, state_after_two

    agree(run)


def _ensemble(it, size):
    def f(x):
        keys = it.lib.next_rng_keys(size) if it.lib.running_init() else None
        net = it.lib.transform(lambda x: it.Dense(3, 2)(x))
        lifted = it.lib.lift(jax.vmap(net.init, (0, None)), name="ensemble")
        y = jax.vmap(net.apply, (0, None, None))(lifted(keys, x), None, x)
        return it.Dense(2, 2)(y.sum(0))

    return f


def test_lift_agrees():
    def run(it, wrap):
        net = it.lib.transform(_ensemble(it, 4))
        params = wrap(net.init)(KEY, X)
        assert params["dense"]["w"].shape == (2, 2)
        grads = jax.grad(lambda p: net.apply(p, None, X).sum())(params)
        flat = {path.replace("/", "."): leaves for path, leaves in params.items()}
        assert set(flat) == {"ensemble.dense", "dense"}
        by_path = {path.replace("/", "."): leaves for path, leaves in grads.items()}
        return flat, wrap(net.apply)(params, None, X), by_path

    agree(run)


def test_lift_with_state_agrees():
    def run(it, wrap):
        def f():
            net = it.lib.transform_with_state(lambda: it.Counter()())
            lifted, updater = it.lib.lift_with_state(net.init)
            params, state = lifted(None)
            out, state = net.apply(params, state, None)
            updater.update(state)
            return out

        net = it.lib.transform_with_state(f)
        params, state = wrap(net.init)(None)
        out, after = wrap(net.apply)(params, state, None)
        return out, [s[next(iter(s))] for s in (state, after)]

    agree(run)


def test_an_updater_is_used_once(it):
    def f(times):
        net = it.lib.transform_with_state(lambda: it.Counter()())
        lifted, updater = it.lib.lift_with_state(net.init)
        _, state = lifted(None)
        for _ in range(times):
            updater.update(state)

    net = it.lib.transform_with_state(f)
    net.init(None, 1)
    for times in (0, 2):
        with pytest.raises(ValueError):
            net.init(None, times)


def test_lifting_with_state_but_without_saying_so(it):
    net = it.lib.transform_with_state(lambda: it.lib.lift(it.lib.transform_with_state(lambda: it.Counter()()).init)(None))
    with pytest.raises(ValueError, match="lift_with_state"):
        net.init(None)


def test_transparent_lift_agrees():
    def run(it, wrap):
        def f(x):
            net = it.lib.transform(lambda x: it.Dense(3, 2)(x))
            params = it.lib.transparent_lift(net.init)(it.lib.next_rng_key() if it.lib.running_init() else None, x)
            return net.apply(params, None, x)

        net = it.lib.transform(f)
        params = wrap(net.init)(KEY, X)
        return params, wrap(net.apply)(params, None, X)

    agree(run)


# -- taking part from a distance ---------------------------------------------------------------------------------------


def test_getters_creators_and_interceptors_run_outermost_first(it):
    log = []

    def getter(tag):
        return lambda go_on, value, context: (log.append((tag, context.name)), go_on(value * 2))[1]

    def creator(tag):
        def run(go_on, shape, dtype, init, context):
            log.append((tag, context.name))
            return go_on(shape, dtype, jnp.ones)

        return run

    def interceptor(tag):
        def run(go_on, args, kwargs, context):
            if context.method_name in ("__call__", "forward"):
                log.append((tag, type(context.module).__name__))
            return go_on(*args, **kwargs)

        return run

    def f(x):
        with it.lib.custom_creator(creator("a")), it.lib.custom_creator(creator("b")):
            with it.lib.custom_getter(getter("g")), it.lib.custom_getter(getter("h")):
                with it.lib.intercept_methods(interceptor("i")), it.lib.intercept_methods(interceptor("j")):
                    return it.Dense(3, 2)(x)

    net = it.lib.transform(f)
    params = net.init(KEY, X)
    same(params["dense"], {"w": jnp.ones((3, 2)), "b": jnp.ones(2)})
    assert [entry for entry in log if entry[1] == "w"] == [("a", "w"), ("b", "w"), ("g", "w"), ("h", "w")]
    assert [entry for entry in log if entry[1] == "Dense"] == [("i", "Dense"), ("j", "Dense")]
    log.clear()
    same(jax.jit(net.apply)(params, None, X), 4 * (X @ jnp.ones((3, 2)) + 1))
    assert not [tag for tag, _ in log if tag in "ab"]


def test_setters(it):
    def f():
        with it.lib.custom_setter(lambda go_on, value, context: go_on(value + 10)):
            return it.Counter()()

    net = it.lib.transform_with_state(f)
    params, state = net.init(None)
    assert int(net.apply(params, state, None)[0]) == 110


@pytest.mark.filterwarnings("ignore")
def test_data_structures_agree():
    tree = {"b": {"w": jnp.ones((2, 3)), "b": jnp.zeros(3, jnp.int8)}, "a": {"w": jnp.ones(4)}}
    results = []
    for lib in (objnet, hk):
        d = lib.data_structures
        chosen = d.filter(lambda m, n, v: n == "w", tree)
        results.append(
            (
                [(m, n) for m, n, _ in d.traverse(tree)],
                chosen,
                d.map(lambda m, n, v: v.ndim, tree),
                d.partition(lambda m, n, v: m == "a", tree),
                d.partition_n(lambda m, n, v: v.ndim, tree, 3),
                d.merge(chosen, {"c": {"w": 1}}, {"a": {"w": jnp.zeros(2)}}),
                d.is_subset(subset=chosen, superset=tree),
                d.is_subset(subset=tree, superset=chosen),
                d.tree_size(tree),
                d.tree_bytes(tree),
                d.to_mutable_dict(tree),
            )
        )
        with pytest.raises(ValueError):
            d.merge(tree, {"a": {"w": jnp.ones(5)}}, check_duplicates=True)
    assert results[0][0] == results[1][0]
    same(results[0][1:], results[1][1:])


# -- errors ------------------------------------------------------------------------------------------------------------


def test_params_and_state_that_are_no_mappings(it):
    net = it.lib.transform_with_state(lambda: None)
    with pytest.raises(TypeError, match="params argument does not appear valid"):
        net.apply("z", {}, None)
    with pytest.raises(TypeError, match="state argument does not appear valid"):
        net.apply({}, "z", None)


@pytest.mark.parametrize("params", [None, {}, {"dense": {}}])
def test_missing_parameters(it, params):
    net = it.lib.without_apply_rng(it.lib.transform(lambda x: it.Dense(3, 3)(x)))  # its initialiser would need a key
    with pytest.raises(ValueError, match="parameters must be created as part of `init`"):
        net.apply(params, X)


def test_a_parameter_of_the_wrong_shape(it):
    net = it.lib.transform(lambda x: it.Dense(3, 3)(x))
    params = net.init(KEY, X)
    params["dense"]["w"] = jnp.zeros((3, 4))
    with pytest.raises(ValueError, match="dense.w"):
        net.apply(params, None, X)


def test_state_under_transform(it):
    net = it.lib.transform(lambda: it.Counter()())
    for call in (lambda: net.init(None), lambda: net.apply({}, None)):
        with pytest.raises(ValueError, match="use.*transform_with_state") as caught:
            call()
        assert type(caught.value).__name__ == "NonEmptyStateError"


def test_an_already_jitted_function(it):
    for kind in (it.lib.transform, it.lib.transform_with_state):
        with pytest.raises(ValueError, match=r"jax\.jit\(\w+\.transform\(f\)\.apply\)"):
            kind(jax.jit(lambda: 0))


def test_an_exception_leaves_everything_usable(it):
    def fails(x):
        it.Dense(3, 3)(x)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        it.lib.transform(fails).init(KEY, X)
    net = it.lib.transform(lambda x: it.Dense(3, 3)(x))
    assert set(net.init(KEY, X)) == {"dense"}


# -- signatures --------------------------------------------------------------------------------------------------------


def test_result_types(it):
    plain, stateful = it.lib.transform(lambda: None), it.lib.transform_with_state(lambda: None)
    assert type(plain) is it.lib.Transformed and type(stateful) is it.lib.TransformedWithState
    assert plain._fields == stateful._fields == ("init", "apply")
    assert type(it.lib.without_apply_rng(plain)) is type(it.lib.without_state(stateful)) is it.lib.Transformed
    assert type(it.lib.without_apply_rng(stateful)) is type(it.lib.with_empty_state(plain)) is it.lib.TransformedWithState
    assert inspect.getfullargspec(stateful.init).args == ["rng"]
    assert inspect.getfullargspec(stateful.apply).args == ["params", "state", "rng"]
    params, state = it.lib.with_empty_state(it.lib.transform(lambda: it.parameter(0.0) * 1)).init(None)
    assert state == {}
    out, state = it.lib.with_empty_state(it.lib.transform(lambda: it.parameter(0.0) * 1)).apply(params, state, None)
    assert float(out) == 0.0 and state == {}
    assert it.lib.without_state(it.lib.transform_with_state(lambda x: x)).apply({}, None, 3) == 3


FUNCTIONS = [
    lambda: None,
    lambda x: None,
    lambda pos, key=37: None,
    lambda pos, *, key=37: None,
    lambda *args, **kwargs: None,
    lambda a, *rest, flag, **more: None,
    functools.partial(lambda a, b, c=1: None, 1),
]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_signatures_are_haikus(function):
    def facts(f):
        return [(p.name, p.kind, p.default) for p in inspect.signature(f).parameters.values()]

    variants = [
        lambda lib: lib.transform(function),
        lambda lib: lib.transform_with_state(function),
        lambda lib: lib.without_apply_rng(lib.transform(function)),
        lambda lib: lib.without_apply_rng(lib.transform_with_state(function)),
        lambda lib: lib.without_state(lib.transform_with_state(function)),
    ]
    for variant in variants:
        ours, theirs = variant(objnet), variant(hk)
        assert facts(ours.init) == facts(theirs.init)
        assert facts(ours.apply) == facts(theirs.apply)


def test_positional_only_arguments():
    def f(x, /, y):
        return x + y

    net = objnet.transform(f)
    assert str(inspect.signature(net.apply)) == "(params, rng, x, /, y)"
    same(net.apply({}, None, X, y=X), 2 * X)


# -- under jax's transforms --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_jaxs_transforms_agree():
    def run(it):
        def f(x):
            first = it.Dense(3, 4)
            y = jnp.tanh(first(x))
            second = it.Dense(4, 4)
            return it.Dropout(0.5)(second(y))

        net = it.lib.transform(f)
        keys = jax.random.split(KEY, 2)

        @jax.jit
        def everything(keys):
            params = net.init(keys[0], X)
            grads = jax.grad(lambda p: net.apply(p, keys[1], X).sum())(params)
            rows = jax.vmap(net.apply, (None, 0, None))(params, keys, X)
            models = jax.vmap(net.init, (0, None))(keys, X)
            outs = jax.vmap(net.apply)(models, keys, jnp.stack([X, X + 1]))
            step = jax.checkpoint(net.apply)
            steps = jax.lax.scan(lambda c, k: (step(params, k, c)[:, :3], None), X, keys)[0]
            return params, grads, rows, models, outs, steps

        return everything(keys), jax.tree.map(lambda s: np.zeros(s.shape), jax.eval_shape(net.init, KEY, X))

    same(*(run(it) for it in LIBRARIES.values()))


CONTROL_FLOW = {
    "scan": lambda lib, step, x: lib.scan(lambda c, row: (step(c) + row, c), x, jnp.stack([x, 2 * x, 3 * x])),
    "fori_loop": lambda lib, step, x: lib.fori_loop(0, 3, lambda i, c: step(c), x),
    "map": lambda lib, step, x: lib.map(step, jnp.stack([x, 2 * x])),
    "cond": lambda lib, step, x: lib.cond(x[0, 0] < 9.0, step, lambda c: c, x),
    "switch": lambda lib, step, x: lib.switch(jnp.int32(1), [lambda c: c, step], x),
    "remat": lambda lib, step, x: lib.remat(step)(x),
    "grad": lambda lib, step, x: lib.grad(lambda x: step(x).sum())(x),
    "value_and_grad": lambda lib, step, x: lib.value_and_grad(lambda x: (step(x).sum(), x), has_aux=True)(x),
    "while_loop": lambda lib, step, x: (
        step(x)
        if lib.running_init()
        else lib.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, step(s[1])), (jnp.int32(0), x))[1]
    ),
}


@pytest.mark.parametrize("kind", CONTROL_FLOW)
def test_control_flow_with_state_and_keys_agrees(kind):
    def run(it, wrap):
        def f(x):
            dense, average, drop = it.Dense(3, 3), it.Average(), it.Dropout(0.5)
            average(dense(x))  # Haiku makes values when they are first asked for, which may not be in a branch
            return CONTROL_FLOW[kind](it.lib, lambda x: drop(average(jnp.tanh(dense(x)))), x)

        net = it.lib.transform_with_state(f)
        params, state = wrap(net.init)(KEY, X)
        outs = []
        for key in jax.random.split(KEY, 2):
            out, state = wrap(net.apply)(params, state, key, X)
            outs.append(out)
        return outs, state["average"]["hidden"], state["average"]["count"]

    agree(run)


def test_vmap_shares_state_and_splits_keys(it):
    def f(x):
        options = {"split_rng": not hk.running_init()} if it.lib is hk else {"randomness": "different"}
        dense, counter, drop = it.Dense(3, 3), it.Counter(), it.Dropout(0.5)
        counter()
        return it.lib.vmap(lambda row: drop(dense(row[None]))[0], **options)(x)

    net = it.lib.transform_with_state(f)
    params, state = net.init(KEY, X)
    out, state = net.apply(params, state, KEY, jnp.concatenate([X, X]))
    zeros = np.asarray(out == 0)
    assert out.shape == (4, 3) and state["counter"]["count"] == 10
    assert (zeros[:2] != zeros[2:]).any()


def test_a_stack_of_layers_is_haikus():
    theirs = hk.without_apply_rng(hk.transform(lambda x: hk.layer_stack(4)(lambda x: jnp.tanh(hk.Linear(3)(x)))(x)))
    params = theirs.init(KEY, X)
    ((path, leaf),) = params.items()
    ours = nn.ScanSequential(*[nn.Sequential(nn.Linear(3, 3), nn.Tanh()) for _ in range(4)])
    ours.block[0].weight.data, ours.block[0].bias.data = leaf["w"].swapaxes(1, 2), leaf["b"]
    same(ours(X), theirs.apply(params, X))
    grads = jax.grad(lambda p: (theirs.apply(p, X) ** 2).sum())(params)[path]
    mine = objnet.grad(lambda: (ours(X) ** 2).sum(), wrt=ours)()
    same((mine["block.0.weight"].swapaxes(1, 2), mine["block.0.bias"]), (grads["w"], grads["b"]), atol=1e-5)


# -- the programs of Haiku's front page --------------------------------------------------------------------------------


def batches(count, size=8):
    rng = np.random.RandomState(0)
    for _ in range(count):
        yield jnp.asarray(rng.randn(size, 6), jnp.float32), jnp.asarray(rng.randint(0, 3, size))


def cross_entropy(logits, labels):
    return -(jax.nn.log_softmax(logits) * jax.nn.one_hot(labels, 3)).sum(-1).mean()


def by_hand(params, images, labels):
    h = jax.nn.relu(jnp.matmul(images, params[0].T) + params[1][None])
    return cross_entropy(jnp.matmul(h, params[2].T) + params[3][None], labels)


def mlp_loss(images, labels):
    mlp = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    return cross_entropy(mlp(images), labels)


def listed(params):
    return [params[f"sequential.{i}"][n] for i in (0, 2) for n in ("weight", "bias")]


def test_quickstart_trains_as_hand_written_jax():
    loss = objnet.without_apply_rng(objnet.transform(mlp_loss))
    params = loss.init(KEY, *next(batches(1)))
    hand = listed(params)
    by_hand_grad = jax.jit(jax.grad(by_hand))
    for grad in (jax.grad(loss.apply), jax.jit(jax.grad(loss.apply))):
        for images, labels in batches(3):
            params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grad(params, images, labels))
            hand = [p - 0.1 * g for p, g in zip(hand, by_hand_grad(hand, images, labels), strict=True)]
    same(listed(params), hand)
    assert float(loss.apply(params, *next(batches(1)))) != float(loss.apply(loss.init(KEY, *next(batches(1))), *next(batches(1))))


def test_quickstart_trains_as_haiku_itself():
    @hk.without_apply_rng
    @hk.transform
    def theirs(images, labels):
        return cross_entropy(hk.Sequential([hk.Linear(5), jax.nn.relu, hk.Linear(3)])(images), labels)

    ours = objnet.without_apply_rng(objnet.transform(mlp_loss))
    hk_params = theirs.init(KEY, *next(batches(1)))

    def as_ours(p):
        return {f"sequential.{i}": {"weight": p[n]["w"].T, "bias": p[n]["b"]} for i, n in ((0, "linear"), (2, "linear_1"))}

    params = as_ours(hk_params)
    grad, their_grad = jax.jit(jax.grad(ours.apply)), jax.jit(jax.grad(theirs.apply))
    for images, labels in batches(4):
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grad(params, images, labels))
        hk_params = jax.tree.map(lambda p, g: p - 0.1 * g, hk_params, their_grad(hk_params, images, labels))
    same(params, as_ours(hk_params))


def test_a_linear_layer_of_ones_own():
    class MyLinear(nn.Module):
        def __init__(self, n_in, n_out):
            super().__init__()
            draw = jax.random.truncated_normal(objnet.next_rng_key(), -2.0, 2.0, (n_in, n_out))
            self.w = nn.Parameter(draw / np.sqrt(n_in).astype(np.float32))
            self.b = nn.Parameter(jnp.ones(n_out))

        def forward(self, x):
            return jnp.matmul(x, self.w) + self.b[None]

    class TheirLinear(hk.Module):
        def __init__(self, n_out):
            super().__init__(name="my_linear")
            self.n_out = n_out

        def __call__(self, x):
            n_in = x.shape[-1]
            w_init = hk.initializers.TruncatedNormal(1.0 / np.sqrt(n_in))
            w = hk.get_parameter("w", shape=[n_in, self.n_out], dtype=x.dtype, init=w_init)
            b = hk.get_parameter("b", shape=[self.n_out], dtype=x.dtype, init=jnp.ones)
            return jnp.matmul(x, w) + b[None]

    ours, theirs = objnet.transform(lambda x: MyLinear(3, 4)(x)), hk.transform(lambda x: TheirLinear(4)(x))
    params = ours.init(KEY, X)
    same(params, theirs.init(KEY, X))
    same(ours.apply(params, None, X), theirs.apply(params, None, X))


def test_dropout_of_ones_own_is_haikus():
    ours = objnet.transform(lambda x: own().Dropout(0.4)(x))
    x = jnp.ones((4, 5))
    theirs = hk.transform(lambda x: hk.dropout(hk.next_rng_key(), 0.4, x))
    with jax.numpy_dtype_promotion("standard"):
        expected = theirs.apply({}, KEY, x)
    same(ours.apply({}, KEY, x), expected)
    assert not np.array_equal(ours.apply({}, KEY, x), ours.apply({}, jax.random.PRNGKey(1), x))


def test_running_averages_are_haikus():
    ours = objnet.transform_with_state(lambda x: own().Average()(x))
    theirs = hk.transform_with_state(lambda x: hk.ExponentialMovingAverage(0.9)(x))
    (_, state), (_, their_state) = ours.init(None, X), theirs.init(None, X)
    for i in range(3):
        out, state = ours.apply({}, state, None, X * i)
        expected, their_state = theirs.apply({}, their_state, None, X * i)
        same(out, expected)


def test_data_parallel_training_with_pmap():
    loss = objnet.without_apply_rng(objnet.transform(mlp_loss))
    devices = jax.local_device_count()

    @functools.partial(jax.pmap, axis_name="i")
    def update(params, images, labels):
        grads = jax.lax.pmean(jax.grad(loss.apply)(params, images, labels), axis_name="i")
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)

    params = loss.init(KEY, *next(batches(1)))
    hand = listed(params)
    replicated = jax.tree.map(lambda p: jnp.stack([p] * devices), params)
    for images, labels in batches(3, 4 * devices):
        replicated = update(replicated, images.reshape(devices, 4, 6), labels.reshape(devices, 4))
        hand = [p - 0.1 * g for p, g in zip(hand, jax.grad(by_hand)(hand, images, labels), strict=True)]
    for i in range(devices):
        same(listed(jax.tree.map(lambda p, i=i: p[i], replicated)), hand)
