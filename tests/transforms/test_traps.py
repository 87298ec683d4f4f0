"""objnet.jit: what it captures, when it traces again, and what it refuses."""

import copy
import functools
import gc
import sys
import threading
import types
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import objnet
from objnet import nn
from objnet.core import errors
from objnet.nn import functional as F


class Linear(nn.Module):
    def __init__(self, n_in, n_out):
        super().__init__()
        self.weight = nn.Parameter(jnp.linspace(-1.0, 1.0, n_in * n_out).reshape(n_out, n_in))
        self.bias = nn.Parameter(jnp.zeros(n_out))

    def forward(self, x):
        return jnp.matmul(x, self.weight.T) + self.bias[None]


class Counting(nn.Module):
    """Counts its calls in a buffer, its traces in a plain list, and remembers its last input's sum."""

    def __init__(self):
        super().__init__()
        self.inner = Linear(3, 3)
        self.register_buffer("count", jnp.zeros((), jnp.int32))
        self.traces = []
        self.last = None

    def forward(self, x):
        self.traces.append(1)
        self.count = self.count + 1
        self.last = x.sum()
        return self.inner(x) * (2.0 if self.training else 1.0)


X = jnp.arange(6.0).reshape(2, 3)


def eager(model, x=X):
    twin = copy.deepcopy(model)
    return twin(x)


def test_captured_model_follows_its_weights():
    model = Linear(3, 2)
    f = objnet.jit(lambda x: model(x))
    before = f(X)
    np.testing.assert_allclose(before, eager(model), rtol=1e-6)
    model.weight.data = model.weight.data * 3.0
    np.testing.assert_allclose(f(X), eager(model), rtol=1e-6)
    model.load_state_dict({"weight": np.ones((2, 3), np.float32), "bias": np.ones(2, np.float32)})
    np.testing.assert_allclose(f(X), eager(model), rtol=1e-6)


def test_module_method_function_and_partial():
    model = Counting()
    for f in (objnet.jit(model), objnet.jit(model.forward), objnet.jit(functools.partial(model)), objnet.jit(lambda x: model(x))):
        n = int(model.count)
        np.testing.assert_allclose(f(X), eager(model), rtol=1e-6)
        assert int(model.count) == n + 1


def test_writes_state_and_state_made_in_the_compiled_call():
    model = Counting()
    f = objnet.jit(model)
    assert model.last is None
    for i in range(1, 5):
        f(X + i)
        assert int(model.count) == i
        np.testing.assert_allclose(model.last, (X + i).sum())
    assert len(model.traces) == 2  # with and without `last`
    model.last = None
    f(X)
    f(X)
    assert len(model.traces) <= 3
    np.testing.assert_allclose(model.last, X.sum())


def test_state_set_back_to_none_before_anything_was_compiled():
    class Other(Counting):
        """With programs of its own."""

    model = Other()
    model(X)
    model.last = None
    f = objnet.jit(model)
    for i in range(3):
        f(X + i)
        np.testing.assert_allclose(model.last, (X + i).sum())
    model.last = None
    f(jnp.ones((4, 3)))
    assert float(model.last) == 12 and int(model.count) == 5


def test_mode_flips_use_two_programs():
    model = Counting()
    model(X)
    model.traces.clear()
    f = objnet.jit(model)
    for _ in range(3):
        model.train()
        np.testing.assert_allclose(f(X), eager(model), rtol=1e-6)
        model.eval()
        np.testing.assert_allclose(f(X), eager(model), rtol=1e-6)
    # deepcopy's eager twins append to their own list
    assert len(model.traces) == 2


def test_retrace_counters_of_every_kind_do_not_retrace():
    box, counts = {"n": 0}, []
    n = 0
    model = Linear(3, 2)

    @objnet.jit
    def f(x):
        nonlocal n
        n += 1
        box["n"] += 1
        counts.append(1)
        return model(x)

    for _ in range(3):
        f(X)
    model.eval()
    f(X)
    model.train()
    f(X)
    assert n == box["n"] == len(counts) == 2


def test_second_shape_and_dtype():
    model = Counting()
    model(X)
    f = objnet.jit(model)
    for rows in (1, 2, 5, 2, 1):
        x = jnp.ones((rows, 3))
        np.testing.assert_allclose(f(x), eager(model, x), rtol=1e-6)


def test_second_shape_reads_and_writes_other_variables():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.small = nn.Parameter(jnp.ones(()))
            self.large = nn.Parameter(jnp.full((), 2.0))
            self.register_buffer("smalls", jnp.zeros(()))
            self.register_buffer("larges", jnp.zeros(()))

        def forward(self, x):
            if x.shape[0] < 3:
                self.smalls = self.smalls + 1
                return x * self.small
            self.larges = self.larges + 1
            return x * self.large

    model = Branches()
    f = objnet.jit(model)
    for i in range(3):
        model.small.data = jnp.asarray(1.0 + i)
        model.large.data = jnp.asarray(10.0 + i)
        np.testing.assert_allclose(f(jnp.ones(2)), np.full(2, 1.0 + i))
        np.testing.assert_allclose(f(jnp.ones(4)), np.full(4, 10.0 + i))
    assert float(model.smalls) == float(model.larges) == 3


class Config:
    def __init__(self):
        self.scale = 2.0
        self.layers = [1.0, 2.0]
        self.nested = {"k": {"v": 3.0}}


def test_config_objects_lists_and_dicts_changed_in_place():
    cfg = Config()
    space = types.SimpleNamespace(a=1.0)
    names = {"x", "y"}
    model = Linear(3, 2)
    traces = []

    @objnet.jit
    def f(x):
        traces.append(1)
        return model(x) * cfg.scale + sum(cfg.layers) + cfg.nested["k"]["v"] + space.a + len(names)

    def expected():
        return eager(model) * cfg.scale + sum(cfg.layers) + cfg.nested["k"]["v"] + space.a + len(names)

    np.testing.assert_allclose(f(X), expected(), rtol=1e-6)
    for change in (
        lambda: setattr(cfg, "scale", 5.0),
        lambda: cfg.layers.append(7.0),
        lambda: cfg.nested["k"].update(v=11.0),
        lambda: setattr(space, "a", -4.0),
        lambda: names.add("z"),
        lambda: cfg.layers.__setitem__(0, 100.0),
    ):
        change()
        np.testing.assert_allclose(f(X), expected(), rtol=1e-6)
    n = len(traces)
    f(X)
    assert len(traces) == n


lr = 1.0


class settings:
    rate = 3.0


def test_globals_and_class_namespaces():
    global lr
    lr, settings.rate = 1.0, 3.0

    def helper(x):
        return x * lr * settings.rate

    f = objnet.jit(lambda x: helper(x))
    np.testing.assert_allclose(f(X), X * 3.0)
    lr /= 4
    np.testing.assert_allclose(f(X), X * 0.75)
    settings.rate = 4.0
    np.testing.assert_allclose(f(X), X)


net = None


def test_rerun_cell():
    global net
    traces = []

    @objnet.jit
    def f(x):
        traces.append(1)
        return net(x)

    for i in range(4):
        net = Linear(3, 2)
        net.bias.data.fill_(float(i))
        np.testing.assert_allclose(f(X), eager(net), rtol=1e-6)
    assert len(traces) == 1  # equal models share the program


def test_layer_replaced_after_compilation():
    model = nn.Module.__new__(Counting)
    Counting.__init__(model)
    f = objnet.jit(model)
    f(X)
    model.inner = Linear(3, 1)
    assert f(X).shape == (2, 1)
    model.inner.bias = nn.Parameter(jnp.full(1, 100.0))
    np.testing.assert_allclose(f(X), eager(model), rtol=1e-6)


def test_numpy_attribute_changed_in_place():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.mask = np.ones(3, np.float32)

        def forward(self, x):
            return x * self.mask[None]

    model = Masked()
    f = objnet.jit(model)
    np.testing.assert_allclose(f(X), X)
    model.mask[0] = 7.0
    np.testing.assert_allclose(f(X), X * model.mask)


def test_closure_rebound():
    def make():
        factor = 1.0

        def f(x):
            return x * factor

        def change(value):
            nonlocal factor
            factor = value

        return objnet.jit(f), change

    f, change = make()
    np.testing.assert_allclose(f(X), X)
    change(9.0)
    np.testing.assert_allclose(f(X), X * 9)


def test_static_and_traced_arguments():
    traces = []

    @objnet.jit
    def f(x, flag, mode="a", scale=1.0, extra=None):
        traces.append(1)
        out = x * scale if flag else -x
        return out + (1.0 if mode == "b" else 0.0) + (0.0 if extra is None else extra["v"])

    np.testing.assert_allclose(f(X, True), X)
    np.testing.assert_allclose(f(X, False), -X)
    np.testing.assert_allclose(f(X, True, mode="b", scale=2.0), X * 2 + 1)
    np.testing.assert_allclose(f(X, True, mode="b", scale=3.0), X * 3 + 1)  # a float is data
    np.testing.assert_allclose(f(X, True, extra={"v": jnp.ones(())}), X + 1)
    assert len(traces) == 4

    g = objnet.jit(lambda x, n: x[:n], static_argnums=1)
    assert g(X, 1).shape == (1, 3) and g(X, 2).shape == (2, 3)
    h = objnet.jit(lambda x, n: x[:n], static_argnames="n")
    assert h(X, n=1).shape == (1, 3) and h(X, 2).shape == (2, 3)
    with pytest.raises(ValueError, match="static_argnames"):
        objnet.jit(lambda x: x, static_argnames="y")


def test_models_as_arguments():
    traces = []

    @objnet.jit
    def f(model, x):
        traces.append(1)
        return model(x)

    a, b = Linear(3, 2), Linear(3, 2)
    b.bias.data.fill_(5.0)
    np.testing.assert_allclose(f(a, X), eager(a), rtol=1e-6)
    np.testing.assert_allclose(f(b, X), eager(b), rtol=1e-6)
    np.testing.assert_allclose(f(a, X), eager(a), rtol=1e-6)
    assert len(traces) == 1
    np.testing.assert_allclose(
        objnet.jit(lambda models, x: models[1](models[0](x)))([Linear(3, 3), b], X), b(Linear(3, 3)(X)), rtol=1e-6
    )


def test_method_of_a_plain_object():
    class Trainer:
        def __init__(self):
            self.model = Counting()
            self.factor = 2.0

        @objnet.jit
        def step(self, x):
            return self.model(x) * self.factor

    t = Trainer()
    t.model(X)
    np.testing.assert_allclose(t.step(X), eager(t.model) * 2, rtol=1e-6)
    t.factor = 3.0
    np.testing.assert_allclose(t.step(X), eager(t.model) * 3, rtol=1e-6)
    t.model = Counting()
    np.testing.assert_allclose(t.step(X), eager(t.model) * 3, rtol=1e-6)
    assert int(t.model.count) == 1


def test_number_attribute_changed_in_the_trace_raises_and_is_undone():
    class Bad(nn.Module):
        def __init__(self):
            super().__init__()
            self.steps = 0
            self.register_buffer("n", jnp.zeros(()))

        def forward(self, x):
            self.n = self.n + 1
            self.steps += 1
            return x

    model = Bad()
    with pytest.raises(errors.StaticAttributeError, match=r"Bad\.steps"):
        objnet.jit(model)(X)
    assert model.steps == 0 and float(model.n) == 0
    model(X)
    assert model.steps == 1

    class Trainer:
        steps = 0

        def __init__(self):
            self.steps = 0

        def step(self, x):
            self.steps += 1
            return x

    t = Trainer()
    with pytest.raises(errors.StaticAttributeError, match="steps"):
        objnet.jit(t.step)(X)
    assert t.steps == 0


def test_tracer_leaks_into_python_are_refused():
    kept = []
    holder = {}

    def f(x):
        kept.append(x * 2)
        return x

    def g(x):
        holder["x"] = x
        return x

    for bad, place in ((f, kept), (g, holder)):
        with pytest.raises(errors.StaticAttributeError):
            objnet.jit(bad)(X)
        assert len(place) == 0


def test_plain_attributes_set_in_a_compiled_call_are_set_at_every_call():
    class Shapes(nn.Module):
        def __init__(self):
            super().__init__()
            self.shape = None

        def forward(self, x):
            self.shape = x.shape
            return x

    a, b = Shapes(), Shapes()
    f = objnet.jit(lambda m, x: m(x))
    for model in (a, b):
        f(model, X)
        assert model.shape == (2, 3)
        f(model, jnp.ones(4))
        assert model.shape == (4,)
        f(model, X)
        assert model.shape == (2, 3)


def test_replacing_modules_and_parameters_inside_is_refused():
    model = Counting()

    def new_layer(x):
        model.inner = Linear(3, 3)
        return model(x)

    def new_parameter(x):
        model.inner.bias = nn.Parameter(jnp.ones(3))
        return model(x)

    def freeze(x):
        model.requires_grad_(False)
        return x

    inner, bias = model.inner, model.inner.bias
    for bad in (new_layer, new_parameter, freeze):
        with pytest.raises(errors.CompiledCallError):
            objnet.jit(bad)(X)
    assert model.inner is inner and inner.bias is bias and bias.requires_grad


def test_nested_jit_and_inline_use():
    model = Counting()
    model(X)
    inner = objnet.jit(model)

    @objnet.jit
    def outer(x):
        return inner(inner(x))

    n = int(model.count)
    expected = copy.deepcopy(model)
    np.testing.assert_allclose(outer(X), expected(expected(X)), rtol=1e-6)
    np.testing.assert_allclose(outer(X), expected(expected(X)), rtol=1e-6)
    assert int(model.count) == n + 4


def test_jit_under_plain_jax_transforms():
    model = Linear(3, 2)
    f = objnet.jit(model)
    for _ in range(2):
        g = jax.grad(lambda x: f(x).sum())(X)
        np.testing.assert_allclose(g, jnp.broadcast_to(model.weight.data.sum(0), X.shape), rtol=1e-6)
        np.testing.assert_allclose(jax.vmap(lambda r: f(r[None])[0])(X), eager(model), rtol=1e-6)
        with pytest.raises(errors.ReadInTransformError):
            jax.jit(f)(X)
        model.weight.data = model.weight.data * 2
    counting = objnet.jit(Counting())
    counting(X)
    with pytest.raises(errors.TransformError):
        jax.jit(counting)(X)
    pure = objnet.jit(lambda x: x * 2)
    np.testing.assert_allclose(jax.jit(pure)(X), X * 2)


def test_donation_leaves_what_others_hold():
    model = Linear(3, 3)
    mine = jnp.ones((3, 3))
    model.weight.data = mine
    held = model.state_dict()
    twin = copy.deepcopy(model)
    ema = dict(model.state_dict())

    @objnet.jit
    def step():
        model.weight.data.mul_(2.0)
        return model.weight

    out = step()
    again = step()
    held2 = model.weight.data[0] * 1
    step()
    for array in (mine, held["weight"], ema["weight"], twin.weight.data._read()):
        np.testing.assert_allclose(array, np.ones((3, 3)))
    np.testing.assert_allclose(out, 2 * np.ones((3, 3)))
    np.testing.assert_allclose(again, 4 * np.ones((3, 3)))
    np.testing.assert_allclose(held2, 4 * np.ones(3))
    np.testing.assert_allclose(model.weight.data, 8 * np.ones((3, 3)))


def test_old_buffers_are_donated():
    model = Linear(3, 3)

    @objnet.jit
    def step():
        model.weight.data.mul_(2.0)

    step()
    old = model.weight._value
    step()
    assert old.is_deleted()
    f = objnet.jit(step._function, donate=False)
    old = model.weight._value
    f()
    assert not old.is_deleted()


def test_swap_and_copy_inside_do_not_alias():
    a, b = nn.Parameter(jnp.zeros(3)), nn.Parameter(jnp.ones(3))
    holder = nn.ParameterList([a, b])

    @objnet.jit
    def swap():
        x, y = a.data.clone(), b.data.clone()
        a.data, b.data = y, x

    @objnet.jit
    def copy_():
        a.data.copy_(b)

    swap()
    np.testing.assert_allclose(a.data, np.ones(3))
    copy_()
    copy_()
    swap()
    swap()
    np.testing.assert_allclose(a.data, np.zeros(3))
    np.testing.assert_allclose(b.data, np.zeros(3))
    assert len(list(holder.parameters())) == 2


def test_a_raising_callback_loses_nothing():
    model = Linear(3, 3)
    fail = [True]

    def callback(x):
        if fail[0]:
            raise RuntimeError("boom")
        return np.asarray(x)

    @objnet.jit
    def step(x):
        model.weight.data.mul_(2.0)
        return jax.pure_callback(callback, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    with pytest.raises(Exception, match="boom"):
        jax.block_until_ready(step(X))
    before = np.asarray(model.weight.data)
    assert np.isfinite(before).all()
    fail[0] = False
    np.testing.assert_allclose(step(X), X)
    np.testing.assert_allclose(model.weight.data, before * 2)


def test_exception_in_the_trace_leaves_everything():
    model = Counting()

    @objnet.jit
    def f(x):
        model.inner.weight.data.mul_(2.0)
        model.note = "seen"
        model(x)
        raise ValueError("user")

    before = np.asarray(model.inner.weight.data)
    with pytest.raises(ValueError, match="user"):
        f(X)
    np.testing.assert_array_equal(model.inner.weight.data, before)
    assert int(model.count) == 0 and not hasattr(model, "note") and model.last is None


def test_transfer_guard_and_async():
    model = Counting()
    model(X)
    f = objnet.jit(model)
    f(X)
    x = jnp.ones((2, 3))
    with jax.transfer_guard("disallow"):
        f(x)


def test_threads_tracing_one_model():
    model = Counting()
    model(X)
    failures = []

    def work(i):
        try:
            f = objnet.jit(lambda x: model(x) + float(i))
            for n in range(5):
                x = jnp.ones((n + 1, 3))
                expected = np.asarray(jnp.matmul(x, model.inner.weight.data.T) + model.inner.bias.data[None]) * 2 + i
                np.testing.assert_allclose(f(x), expected, rtol=1e-6)
        except BaseException as error:
            failures.append(error)

    before = int(model.count)
    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not failures
    assert int(model.count) == before + 20


def test_models_are_freed():
    model = Counting()
    model(X)
    ref = weakref.ref(model)
    array = weakref.ref(model.inner.weight)
    f = objnet.jit(model)
    f(X)

    @objnet.jit
    def g(m, x):
        return m(x)

    g(model, X)
    del model, f
    gc.collect()
    assert ref() is None and array() is None
    h = objnet.jit(lambda x: x)
    h(X)


def test_checking_leaks():
    model = Counting()
    with jax.checking_leaks():
        f = objnet.jit(lambda x: model(x))
        f(X)
        f(X)
        loss, grads = objnet.jit(objnet.value_and_grad(lambda x: model(x).sum(), wrt=model))(X)
    assert loss.shape == ()


def test_state_pytree_attributes():
    class Cell(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = (jnp.zeros(3), jnp.zeros(3))
            self.memo = [jnp.zeros(())]

        def forward(self, x):
            h, c = self.hidden
            self.hidden = (h + x, c + 2 * x)
            self.memo[0] = self.memo[0] + 1
            return h

    model, plain = Cell(), Cell()
    f = objnet.jit(model)
    for i in range(4):
        np.testing.assert_allclose(f(jnp.full(3, float(i))), plain(jnp.full(3, float(i))))
        np.testing.assert_allclose(model.hidden[1], plain.hidden[1])
        np.testing.assert_allclose(model.memo[0], plain.memo[0])
    assert isinstance(model.hidden, tuple) and model.state_dict() == {}


def test_tied_weights():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = Linear(3, 3), Linear(3, 3)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(self.a(x))

    model = Tied()

    @objnet.jit
    def f(x):
        loss, grads = objnet.value_and_grad(lambda: model(x).sum(), wrt=model)()
        for name, p in model.named_parameters():
            p.data.add_(grads[name], alpha=-0.1)
        return loss

    def pure(w, a, b):
        return (jnp.matmul(jnp.matmul(X, w.T) + a[None], w.T) + b[None]).sum()

    w, a, b = (model.a.weight.data._read(), model.a.bias.data._read(), model.b.bias.data._read())
    for _ in range(3):
        loss, (gw, ga, gb) = jax.value_and_grad(pure, (0, 1, 2))(w, a, b)
        np.testing.assert_allclose(f(X), loss, rtol=1e-5)
        w, a, b = w - 0.1 * gw, a - 0.1 * ga, b - 0.1 * gb
    assert model.b.weight is model.a.weight
    np.testing.assert_allclose(model.b.weight.data, w, rtol=1e-5)
    assert set(model.state_dict()) == {"a.weight", "a.bias", "b.weight", "b.bias"}


def test_random_keys_advance_and_repeat():
    f = objnet.jit(lambda: jax.random.normal(objnet.next_rng_key(), (3,)))
    objnet.manual_seed(1)
    first = [np.asarray(f()) for _ in range(3)]
    objnet.manual_seed(1)
    second = [np.asarray(f()) for _ in range(3)]
    np.testing.assert_array_equal(first, second)
    assert len({a.tobytes() for a in first}) == 3
    objnet.manual_seed(1)
    np.testing.assert_allclose(first[0], jax.random.normal(objnet.next_rng_key(), (3,)), rtol=1e-6)


def test_abandoned_gradients_and_unreachable_models():
    registry = weakref.WeakValueDictionary()
    model = Linear(3, 2)
    registry["m"] = model
    f = objnet.jit(lambda x: registry["m"](x))  # no path the capture follows: met while tracing
    for _ in range(2):
        np.testing.assert_allclose(f(X), eager(model), rtol=1e-6)
        model.bias.data.add_(1.0)


def test_errors_carry_the_module_path():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([Linear(3, 3), Linear(4, 2)])

        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
            return x

    for call in (Outer(), objnet.jit(Outer())):
        with pytest.raises(TypeError) as info:
            call(X)
        assert any("in layers.1 (Linear()" in note for note in info.value.__notes__)


def test_leftover_backward():
    with pytest.raises(errors.BackwardError, match=r"objnet\.backward"):
        Linear(3, 2)(X).sum().backward()
    with pytest.raises(errors.BackwardError):
        model = Linear(3, 2)
        objnet.jit(lambda x: model(x).sum().backward())(X)
    assert not hasattr(X, "backward")


# -- with optimizers ---------------------------------------------------------------------------------------------------


class Headed(nn.Module):
    """A body that is trained, a tied pair, and a head that no loss reaches."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(3, 3)
        self.tied = nn.Linear(3, 3)
        self.tied.weight = self.body.weight
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        return self.tied(self.body(x))


def make_step(model, optimizer, traces):
    @objnet.jit
    def step(x):
        traces.append(1)
        return optimizer.step(lambda: (model(x) ** 2).mean())

    return step


def test_bare_array_to_a_parameter():
    model = nn.Linear(3, 2)
    with pytest.raises(errors.ParameterAssignmentError, match=r"'weight' of Linear"):
        model.weight = jnp.ones((2, 3))
    assert isinstance(model.weight, nn.Parameter)


def test_wrong_missing_and_unknown_keys_change_nothing():
    model = nn.Linear(3, 2)
    before = {k: np.asarray(v) for k, v in model.state_dict().items()}
    for bad, words in (
        ({"weight": np.ones((2, 4), np.float32), "bias": np.ones(2, np.float32)}, "size mismatch for weight"),
        ({"bias": np.ones(2, np.float32)}, "Missing key"),
        ({**{k: v * 0 for k, v in before.items()}, "biaz": np.ones(2, np.float32)}, "Unexpected key"),
    ):
        with pytest.raises(RuntimeError, match=words):
            model.load_state_dict(bad)
        for k, v in model.state_dict().items():
            np.testing.assert_array_equal(v, before[k])


def test_an_unused_head_under_adamw_does_not_move():
    objnet.manual_seed(0)
    model = Headed()
    optimizer = objnet.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    head = np.asarray(model.head.weight.data)
    traces = []
    step = make_step(model, optimizer, traces)
    for _ in range(3):
        step(X)
    np.testing.assert_array_equal(model.head.weight.data, head)
    assert model.tied.weight is model.body.weight
    optimizer.zero_grad()
    objnet.backward(lambda: (model(X) ** 2).mean())
    assert model.head.weight.grad is None and model.body.weight.grad is not None


def test_ties_survive_saving(tmp_path):
    model, other = Headed(), Headed()
    objnet.save(model.state_dict(), tmp_path / "m.safetensors")
    other.load_state_dict(objnet.load(tmp_path / "m.safetensors"))
    assert other.tied.weight is other.body.weight
    np.testing.assert_array_equal(other.tied.weight.data, model.body.weight.data)


def test_an_equal_optimizer_and_model_built_again_share_the_program():
    traces = []
    model = optimizer = None

    @objnet.jit
    def step(x):
        traces.append(1)
        return optimizer.step(lambda: (model(x) ** 2).mean())

    losses = []
    for _ in range(3):
        objnet.manual_seed(0)
        model = nn.Linear(3, 2)
        for _ in range(2):
            optimizer = objnet.optim.Adam(model.parameters(), lr=0.01)
            losses.append([float(step(X)) for _ in range(3)])
    assert len(traces) == 1
    np.testing.assert_array_equal(losses[0], losses[2])


def test_learning_rate_is_data():
    model = nn.Linear(3, 2)
    optimizer = objnet.optim.SGD(model.parameters(), lr=0.0)
    traces = []
    step = make_step(model, optimizer, traces)
    before = np.asarray(model.weight.data)
    step(X)
    np.testing.assert_array_equal(model.weight.data, before)
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    step(X)
    assert (np.asarray(model.weight.data) != before).any() and len(traces) == 1
    with jax.transfer_guard("disallow"):
        step(X)


def test_ema_copies_under_donation():
    objnet.manual_seed(0)
    model = nn.Linear(3, 2)
    ema = copy.deepcopy(model)
    optimizer = objnet.optim.SGD(model.parameters(), lr=0.1)

    @objnet.jit
    def step(x):
        loss = optimizer.step(lambda: (model(x) ** 2).mean())
        for slow, fast in zip(ema.parameters(), model.parameters(), strict=True):
            slow.data.mul_(0.5).add_(fast.data, alpha=0.5)
        return loss

    expected = [np.asarray(p.data) for p in ema.parameters()]
    for _ in range(4):
        snapshot = copy.deepcopy(model)
        step(X)
        assert all(
            (np.asarray(a.data) != np.asarray(b.data)).any()
            for a, b in zip(snapshot.parameters(), model.parameters(), strict=True)
        )
        expected = [0.5 * e + 0.5 * np.asarray(p.data) for e, p in zip(expected, model.parameters(), strict=True)]
    for e, p in zip(expected, ema.parameters(), strict=True):
        np.testing.assert_allclose(p.data, e, rtol=1e-5)


def test_gradients_of_a_compiled_step_are_dropped_or_kept():
    model = nn.Linear(3, 2)
    optimizer = objnet.optim.SGD(model.parameters(), lr=0.1)

    def step(x):
        optimizer.zero_grad()
        loss = objnet.backward(lambda: (model(x) ** 2).mean())
        optimizer.step()
        return loss

    objnet.jit(step)(X)
    with pytest.raises(errors.GradientDroppedError, match="keep_grads"):
        _ = model.weight.grad
    objnet.jit(step)(X)
    optimizer.zero_grad()
    assert model.weight.grad is None
    weight, bias = model.weight.data._read(), model.bias.data._read()
    objnet.jit(step, keep_grads=True)(X)
    expected = jax.grad(lambda w: ((jnp.matmul(X, w.T) + bias[None]) ** 2).mean())(weight)
    np.testing.assert_allclose(model.weight.grad, expected, rtol=1e-5)


def test_three_ways_to_train_agree():
    results = []
    for way in range(3):
        for compiled in (False, True):
            objnet.manual_seed(3)
            model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
            optimizer = objnet.optim.Adam(model.parameters(), lr=0.05)

            def loss_of(x, model=model):
                return (model(x) ** 2).mean()

            def step(x, way=way, model=model, optimizer=optimizer, loss_of=loss_of):
                if way == 0:
                    return optimizer.step(lambda: loss_of(x))
                if way == 1:
                    loss, grads = objnet.value_and_grad(loss_of, wrt=model)(x)
                    optimizer.step(grads)
                    return loss
                optimizer.zero_grad()
                loss = objnet.backward(lambda: loss_of(x))
                optimizer.step()
                return loss

            run = objnet.jit(step) if compiled else step
            results.append([float(run(X)) for _ in range(5)])
    for other in results[1:]:
        np.testing.assert_allclose(results[0], other, rtol=1e-4)


def test_pure_form_and_object_form_give_the_same_losses():
    objnet.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    net = objnet.transform_with_state(model)
    params, state = net.init(None)

    @jax.jit
    def pure(params, state, x):
        def loss(params):
            out, new = net.apply(params, state, None, x)
            return (out**2).mean(), new

        (value, new), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return value, jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), new

    optimizer = objnet.optim.SGD(model.parameters(), lr=0.1)
    step = objnet.jit(lambda x: optimizer.step(lambda: (model(x) ** 2).mean()))
    for i in range(5):
        x = X + i
        value, params, state = pure(params, state, x)
        np.testing.assert_allclose(step(x), value, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(model[1].running_mean, state["1"]["running_mean"], rtol=1e-5)


def test_gradients_out_of_a_shared_program_belong_to_the_model_at_hand():
    losses = objnet.jit(lambda model, x: objnet.value_and_grad(lambda: (model(x) ** 2).mean(), wrt=model)())
    for _ in range(2):
        model = nn.Linear(3, 2)
        optimizer = objnet.optim.SGD(model.parameters(), lr=0.1)
        before = np.asarray(model.weight.data)
        loss, grads = losses(model, X)
        optimizer.step(jax.tree.map(lambda g: g * 2.0, grads))
        np.testing.assert_allclose(model.weight.data, before - 0.2 * np.asarray(grads["weight"]), rtol=1e-5)
        ref = weakref.ref(model.weight)
        del model, optimizer, grads
        gc.collect()
        assert ref() is None


class Slotted:
    __slots__ = ("rate",)

    def __init__(self, rate):
        self.rate = rate


def test_slots_and_mapping_proxies_are_watched():
    slotted, space = Slotted(1.0), {"a": 1.0}
    view = types.MappingProxyType(space)
    f = objnet.jit(lambda x: x * slotted.rate * view["a"])
    np.testing.assert_allclose(f(X), X)
    slotted.rate = 2.0
    np.testing.assert_allclose(f(X), X * 2)
    space["a"] = 5.0
    np.testing.assert_allclose(f(X), X * 10)


def test_a_tracer_in_a_global_that_is_only_assigned_is_refused():
    @objnet.jit
    def f(x):
        global kept_by_mistake
        kept_by_mistake = x * 2
        return x

    with pytest.raises(errors.StaticAttributeError):
        f(X)
    assert "kept_by_mistake" not in globals()


def test_a_key_sequence_from_outside_is_refused_in_a_program():
    outside = objnet.PRNGSequence(0)
    with pytest.raises(errors.RngInTransformError):
        objnet.jit(lambda: jax.random.normal(next(outside)))()
    inside = objnet.jit(lambda key: jax.random.normal(next(objnet.PRNGSequence(key))))
    key = jax.random.PRNGKey(3)
    np.testing.assert_allclose(inside(key), jax.random.normal(next(objnet.PRNGSequence(key))), rtol=1e-6)


def test_mixed_state_names_the_attribute():
    model = nn.Linear(3, 2)
    for value in ((jnp.ones(1), "a"), {"a": jnp.ones(1), 3: jnp.ones(1)}):
        with pytest.raises(TypeError, match=r"self\.memory of Linear"):
            model.memory = value
    assert not hasattr(model, "memory")


def test_errors_import_from_their_public_place():
    import objnet.errors

    assert objnet.errors.NoGradError is errors.NoGradError
    assert errors.NoGradError.__module__ == "objnet.errors"
    assert set(objnet.errors.__all__) == {n for n, v in vars(errors).items() if isinstance(v, type) and issubclass(v, Exception)}


class _Scaled(nn.Module):
    factor = 1.0
    calls = 0
    cache: dict = {}  # noqa: RUF012

    def forward(self, x):
        _Scaled.calls += 1
        return x.sum() * self.factor


def test_a_class_attribute_changed_later_is_noticed(monkeypatch):
    model, x = _Scaled(), jnp.ones(3)
    compiled = objnet.jit(model)
    assert compiled(x) == 3
    monkeypatch.setattr(_Scaled, "factor", 5.0)
    assert compiled(x) == model(x) == 15
    before = _Scaled.calls
    compiled(x)
    assert _Scaled.calls == before  # a counter of traces is no fact


def test_an_attribute_a_class_gains_is_noticed():
    class Base(nn.Module):
        factor = 1.0

    class Scaled(Base):
        def forward(self, x):
            return x.sum() * self.factor

    compiled, x = objnet.jit(Scaled()), jnp.ones(3)
    assert compiled(x) == 3
    Scaled.factor = 5.0
    assert compiled(x) == 15


def _scaled(x):
    _scaled.calls += 1
    return x.sum() * _scaled.factor


def test_a_function_attribute_changed_later_is_noticed(monkeypatch):
    monkeypatch.setattr(_scaled, "factor", 2.0, raising=False)
    monkeypatch.setattr(_scaled, "calls", 0, raising=False)
    compiled, x = objnet.jit(lambda x: _scaled(x)), jnp.ones(3)
    assert compiled(x) == 6
    _scaled.factor = 5.0
    assert compiled(x) == 15
    before = _scaled.calls
    _scaled.losses = [1.0]  # which it does not read
    compiled(x)
    assert _scaled.calls == before  # a counter of traces is no fact


def test_an_attribute_of_an_enclosing_function_changed_later_is_noticed():
    def scale(x):
        return x.sum() * scale.factor

    scale.factor = 2.0
    compiled, x = objnet.jit(scale), jnp.ones(3)
    assert compiled(x) == 6
    scale.factor = 5.0
    assert compiled(x) == 15


config = types.ModuleType("config")
config.training = types.ModuleType("config.training")


def test_a_setting_in_a_module_in_a_module_is_noticed(monkeypatch):
    monkeypatch.setattr(config.training, "factor", 2.0, raising=False)
    compiled, x = objnet.jit(lambda x: x * config.training.factor), jnp.ones(())
    twin = objnet.jit(lambda x: x * config.training.factor + config.training.shift)
    assert compiled(x) == 2
    config.training.factor = 5.0
    assert compiled(x) == 5
    monkeypatch.setattr(config.training, "shift", 1.0, raising=False)
    assert twin(x) == 6
    config.training.shift = 2.0
    assert twin(x) == 7


def test_another_module_under_the_same_name_is_noticed(monkeypatch):
    monkeypatch.setattr(config, "factor", 2.0, raising=False)
    compiled, x = objnet.jit(lambda x: x * config.factor), jnp.ones(())
    assert compiled(x) == 2
    other = types.ModuleType("other")
    other.factor = 3.0
    monkeypatch.setitem(globals(), "config", other)
    assert compiled(x) == 3


def test_a_setting_in_a_module_that_the_function_imports_is_noticed(monkeypatch, tmp_path):
    (tmp_path / "imported_settings").mkdir()
    (tmp_path / "imported_settings" / "__init__.py").write_text("factor = 2.0\n")
    (tmp_path / "imported_settings" / "inner.py").write_text("shift = 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    traces = []

    def by_name(x):
        import imported_settings.inner

        traces.append(1)
        return x * imported_settings.factor + imported_settings.inner.shift

    def by_member(x):
        from imported_settings import factor
        from imported_settings.inner import shift as moved

        return x * factor + moved

    for function in (by_name, by_member):  # the first imports it while it is traced
        compiled, x = objnet.jit(function), jnp.ones(())
        for _ in range(3):
            assert compiled(x) == 3
        settings, inner = sys.modules["imported_settings"], sys.modules["imported_settings.inner"]
        with monkeypatch.context() as patch:
            patch.setattr(settings, "factor", 5.0)
            assert compiled(x) == 6
            patch.setattr(inner, "shift", 2.0)
            assert compiled(x) == 7
        assert compiled(x) == 3
    assert len(traces) == 3
    del sys.modules["imported_settings"], sys.modules["imported_settings.inner"]


def test_a_traced_value_cannot_stay_on_a_class():
    class Kept(nn.Module):
        last = 0.0

        def forward(self, x):
            type(self).last = x.sum()
            type(self).new = x
            return x

    with pytest.raises(errors.StaticAttributeError):
        objnet.jit(Kept())(jnp.ones(2))
    assert Kept.last == 0.0 and not hasattr(Kept, "new")


def test_a_traced_value_cannot_stay_in_a_container_of_a_class():
    class Cached(nn.Module):
        cache: dict = {}  # noqa: RUF012

        def forward(self, x):
            self.cache["x"] = x
            return x

    with pytest.raises(errors.StaticAttributeError):
        objnet.jit(Cached())(jnp.ones(2))
    assert Cached.cache == {}


@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.float32])
def test_a_numpy_array_changed_in_place_is_read_anew(dtype):
    layer, x = nn.Linear(3, 2), jnp.arange(12.0).reshape(4, 3)
    target = np.zeros((4, 2), dtype) if dtype != np.int64 else np.zeros(4, dtype)
    loss = F.cross_entropy if dtype == np.int64 else F.mse_loss
    read = (
        (lambda: F.cross_entropy(layer(x), target)) if dtype == np.int64 else (lambda: loss(layer(x), target.astype(np.float32)))
    )
    compiled = objnet.jit(read)
    compiled()
    target[:] = 1
    expected = loss(layer(x), jnp.asarray(target.copy()).astype(jnp.int32 if dtype == np.int64 else jnp.float32))
    np.testing.assert_allclose(read(), expected, rtol=1e-6)
    np.testing.assert_allclose(compiled(), expected, rtol=1e-6)


def test_integers_beyond_32_bits_are_not_wrapped():
    with pytest.raises(IndexError, match="4294967297"):
        nn.Embedding(5, 2)(np.array([2**32 + 1]))
    with pytest.raises(errors.IntegerRangeError):
        F.one_hot(np.array([2**32 + 1]), 3)
    with pytest.raises(errors.IntegerRangeError):
        F.cross_entropy(jnp.ones((1, 3)), np.array([2**32]))


def test_a_method_replaced_on_a_class_is_noticed():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def helper(self, x):
            return x

        def forward(self, x):
            return self.helper(self.linear(x))

    model, x = Scaled(), jnp.ones((2, 3))
    compiled = objnet.jit(model)
    compiled(x)
    before = Scaled.forward
    for name, value in (("helper", lambda self, x: x * 5), ("forward", lambda self, x: self.linear(x) - 1), ("forward", before)):
        setattr(Scaled, name, value)
        np.testing.assert_allclose(compiled(x), model(x), rtol=1e-6)
