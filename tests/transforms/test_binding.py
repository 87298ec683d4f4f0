"""Values of the pure form: initial and current state, given entries, live modules."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import objnet
from objnet import nn
from objnet.core import errors, frame, scope
from tests.transforms.pure_models import KEY, Counter, Dense, Memory, X, names, same, shapes


@pytest.fixture(autouse=True)
def nothing_left_open():
    yield
    assert frame.current() is None
    assert scope._scope.get() is None


# -- values ------------------------------------------------------------------------------------------------------------


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
    for bad in ("x", {"a": "x"}, object()):
        with pytest.raises(errors.StructureMismatchError, match=r"state:? ~\.hidden"):
            net.apply(params, {"~": {"hidden": bad}}, None, X)
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


@pytest.mark.parametrize("rng", [3, jax.random.PRNGKey(3), jax.random.key(3)])
def test_keys_as_state(rng):
    class Noise(nn.Module):
        def __init__(self):
            super().__init__()
            self.key = objnet.next_rng_key()

        def forward(self):
            self.key, key = jax.random.split(self.key)
            return jax.random.uniform(key)

    net = objnet.transform_with_state(Noise)
    _, state = net.init(rng)
    key = state["~"]["key"]
    for _ in range(3):
        key, used = jax.random.split(key)
        out, state = net.apply({}, state, rng)
        same(out, jax.random.uniform(used))
        same(jax.random.key_data(state["~"]["key"]), jax.random.key_data(key))
    same(jax.jit(net.apply)({}, state, rng)[0], net.apply({}, state, rng)[0])


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


# -- live modules ------------------------------------------------------------------------------------------------------


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


def test_live_modules_that_no_path_leads_to():
    def hide():
        model = Dense()
        while True:
            yield model

    hidden = hide()
    next(hidden)  # the model is made before the transform, not inside
    net = objnet.transform(lambda x: next(hidden)(x))
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
