"""Attributes that a compiled function does not read may change; those it reads, in whatever way, are noticed."""

from __future__ import annotations

import copy
import dataclasses
import functools
import gc
import itertools
import operator
import pickle
import threading
import types
import weakref

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

import objnet
import objnet.nn.functional as F
from objnet import errors, nn, optim

X = jnp.ones((2, 3))
TRACES = []


class Trainer:
    """The habit of it: a model, an optimizer, and counters and records beside them."""

    def __init__(self):
        objnet.manual_seed(0)
        self.model = nn.Linear(3, 2)
        self.ema = nn.Linear(3, 2)
        self.optimizer = optim.SGD(self.model.parameters(), 0.1, momentum=0.9)
        self.global_step, self.best, self.history, self.scale = 0, float("inf"), [], 1.0

    @objnet.jit
    def train_step(self, x, y):
        TRACES.append(1)
        self.optimizer.zero_grad()
        loss = objnet.backward(lambda: F.mse_loss(self.model(x) * self.scale, y))
        self.optimizer.step()
        return loss

    def fit(self, steps):
        for _ in range(steps):
            loss = self.train_step(X, jnp.ones((2, 2)))
            self.global_step += 1
            self.history.append(float(loss))
            self.best = min(self.best, float(loss))
            self.note = str(self.global_step)
        return loss


def test_a_trainers_counters_do_not_retrace():
    TRACES.clear()
    trainer = Trainer()
    losses = trainer.fit(20)
    assert len(TRACES) == 1 and trainer.global_step == len(trainer.history) == 20
    other = Trainer()
    other.global_step, other.ema = 1000, None
    assert float(other.fit(20)) == float(losses) and len(TRACES) == 1  # the same program
    other.scale = 2.0
    other.fit(1)
    assert len(TRACES) == 2


@functools.cache
def _module(base):
    class Net(base):
        a: float
        traces: list = []  # noqa: RUF012

        def __init__(self, a):
            if base is not object:
                super().__init__()
            self.a, self.b, self.n = a, 7.0, 0

        @property
        def doubled(self):
            return self.a * 2

        def method(self):
            return self.a

        def __call__(self, x):
            return x * self.a

    return Net


@dataclasses.dataclass
class Config:
    a: float
    b: float = 7.0
    n: int = 0

    def method(self):
        return self.a

    @property
    def doubled(self):
        return self.a * 2


class Slotted:
    __slots__ = ("__weakref__", "a", "b", "n")

    def __init__(self, a):
        self.a, self.b, self.n = a, 7.0, 0

    def method(self):
        return self.a

    @property
    def doubled(self):
        return self.a * 2


class Derived(Config):
    pass


class Asking(Config):
    def __getattr__(self, name):
        if name == "other":
            return self.a
        raise AttributeError(name)


class Own(Config):
    """Has the methods that a trace would tell by."""

    def __getattribute__(self, name):
        return object.__getattribute__(self, name)


class Setting(Config):
    def __setattr__(self, name, value):
        object.__setattr__(self, name, value)


class Cached(Config):
    @functools.cached_property
    def known(self):
        return 3.0


MAKERS = {
    "plain": lambda: _module(object)(2.0),
    "module": lambda: _module(nn.Module)(2.0),
    "dataclass": lambda: Config(2.0),
    "slots": lambda: Slotted(2.0),
    "derived": lambda: Derived(2.0),
    "with __getattr__": lambda: Asking(2.0),
    "with __getattribute__": lambda: Own(2.0),
    "with __setattr__": lambda: Setting(2.0),
    "cached property": lambda: Cached(2.0),
}
WAYS = {
    "attribute": lambda o: o.a,
    "getattr": lambda o: getattr(o, "".join(["a"])),
    "attrgetter": lambda o: operator.attrgetter("a")(o),
    "method": lambda o: o.method(),
    "property": lambda o: o.doubled,
    "unbound method": lambda o: type(o).method(o),
    "vars": lambda o: vars(o)["a"] if hasattr(o, "__dict__") else o.a,
    "__dict__": lambda o: {**o.__dict__}["a"] if hasattr(o, "__dict__") else o.a,
    "dir": lambda o: sum(getattr(o, k) for k in dir(o) if k in ("a", "b")),
    "copy": lambda o: copy.copy(o).a,
    "deepcopy": lambda o: copy.deepcopy(o).a,
    "pickle": lambda o: pickle.loads(pickle.dumps(o)).a if type(o).__qualname__ == type(o).__name__ else o.a,
    "bytes": lambda o: float(sum(pickle.dumps(o))) if type(o).__qualname__ == type(o).__name__ else o.a,
    "asdict": lambda o: dataclasses.asdict(o)["a"] if dataclasses.is_dataclass(o) else o.a,
    "equality": lambda o: 1.0 if o == copy.copy(o) and o.a == 2.0 else 3.0,
    "repr": lambda o: float(len(repr(o))) + o.a,
    "match": lambda o: _matched(o),
    "compiled": lambda o: INNER(o),
    "under vmap": lambda o: objnet.vmap(lambda x: x * o.a)(X)[0, 0],
    "in a scan": lambda o: objnet.scan(lambda c, x: (c + o.a, None), jnp.zeros(()), X)[0],
    "in a gradient": lambda o: objnet.grad(lambda x: (x * o.a).sum(), argnums=0)(X)[0, 0],
}
INNER = objnet.jit(lambda o: jnp.asarray(o.a, jnp.float32) * 1)


def _matched(o):
    match o:
        case object(a=found):
            return found


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", MAKERS)
def test_whatever_is_read_is_noticed(kind, way):
    read, holder, traces = WAYS[way], MAKERS[kind](), []

    def function(x):
        traces.append(1)
        return x * read(holder)

    code = function.__code__.replace(co_name=f"{kind} {way}")  # what was read is known by code
    compiled = objnet.jit(types.FunctionType(code, globals(), code.co_name, None, function.__closure__))

    def same():
        np.testing.assert_allclose(compiled(X), X * read(holder), rtol=1e-6)

    same()
    holder.a = 5.0
    same()
    holder.b = 9.0
    same()
    holder.a = 2.0
    same()
    count = len(traces)
    if way in ("attribute", "getattr", "attrgetter", "method", "property", "unbound method", "match", "compiled"):
        for n in range(5):
            holder.n = n
            same()
        if not kind.startswith("with __") or kind == "with __getattr__":
            assert len(traces) == count <= 2 + (way == "compiled")
    holder.a = 11.0
    same()


def test_a_function_compiled_within_another():
    """Its program is there already when the one around is traced, which then runs none of its Python."""
    config, outside = Config(2.0), Derived(1.0)
    inner = objnet.jit(lambda x: x * config.a)
    inner(X)
    outer = objnet.jit(lambda x: inner(x) + outside.a)
    assert float(outer(X)[0, 0]) == 3
    config.a = 4.0
    assert float(outer(X)[0, 0]) == 5
    config.n, outside.n = 1, 1
    assert float(outer(X)[0, 0]) == 5


def test_other_branches_read_more():
    config, traces = Config(2.0, 3.0), []

    def function(x, flag):
        traces.append(1)
        return x * (config.a if x.shape[0] < 3 else config.b) + (config.n if flag else 0)

    f = objnet.jit(function)
    wide = jnp.ones((4, 3))
    for _ in range(3):
        for x, factor in ((X, config.a), (wide, config.b)):
            for flag in (False, True):
                assert float(f(x, flag)[0, 0]) == factor + (config.n if flag else 0)
        config.a, config.b, config.n = config.a + 1, config.b + 2, config.n + 3
    count = len(traces)
    for _ in range(2):
        f(X, True), f(wide, False)
    assert len(traces) <= count + 2  # what the last change asked for


def test_what_was_absent_and_what_hides():
    class Thing:
        step = 1.0

        def gain(self):
            return 2.0

    thing = Thing()
    f = objnet.jit(lambda x: x * getattr(thing, "extra", 1.0) * thing.gain() * thing.step)
    assert float(f(X)[0, 0]) == 2
    thing.extra = 3.0
    assert float(f(X)[0, 0]) == 6
    thing.gain = lambda: 10.0
    assert float(f(X)[0, 0]) == 30
    thing.step = 2.0
    assert float(f(X)[0, 0]) == 60
    del thing.extra, thing.gain, thing.step
    assert float(f(X)[0, 0]) == 2


@pytest.mark.parametrize("base", [object, nn.Module])
def test_a_write_of_what_is_there_is_no_write_until_something_else_is(base):
    class Model(base):
        def __init__(self):
            super().__init__()
            self.mode = "fast"

        def run(self, x):
            self.mode = "fast"
            return x

    model = Model()
    f = objnet.jit(model.run)
    f(X)
    model.mode = "slow"
    if base is object:
        with pytest.raises(errors.StaticAttributeError, match="Model was changed inside"):
            f(X)
        assert model.mode == "slow"
    else:
        f(X)
        assert model.mode == "fast"


def test_a_models_own_counters():
    class Lightning(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))
            self.global_step, self.log, self.alpha, self.last = 0, [], 1.0, None
            self.optimizer = optim.Adam(self.parameters())

        def forward(self, x):
            return self.net(x) * self.alpha

    model, traces = Lightning(), []

    @objnet.jit
    def step(x):
        traces.append(1)
        model.optimizer.zero_grad()
        loss = objnet.backward(lambda: model(x).mean())
        model.optimizer.step()
        return loss

    for i in range(6):
        model.log.append(step(X))
        model.global_step += 1
        model.name = f"epoch {i}"
    assert len(traces) == 1
    model.eval()
    step(X)
    model.alpha = 2.0
    step(X)
    assert len(traces) == 3
    model.last = jnp.zeros(3)
    step(X)
    model.train()
    model.global_step += 1
    step(X)


def test_models_hung_on_a_trainer_later():
    trainer = Trainer()
    trainer.fit(1)
    trainer.model, trainer.extra = nn.Linear(3, 2), nn.Linear(2, 2)
    trainer.optimizer.add_param_group({"params": trainer.model.parameters()})
    before = np.asarray(trainer.model.weight)
    trainer.fit(1)
    assert np.abs(np.asarray(trainer.model.weight) - before).max() > 0


def test_nothing_stays_on_the_class():
    class Broken:
        def __init__(self):
            self.a = 1

        def run(self, x):
            assert "__getattribute__" in vars(type(self))
            if x.shape[0] == 2:
                raise RuntimeError("broken")
            return x * self.a

    broken = Broken()
    names = set(vars(Broken))
    f = objnet.jit(broken.run)
    with pytest.raises(RuntimeError, match="broken"):
        f(X)
    assert set(vars(Broken)) == names
    assert float(f(jnp.ones(3))[0]) == 1
    broken.a = 2
    assert float(f(jnp.ones(3))[0]) == 2
    assert set(vars(Broken)) == names
    gone = weakref.ref(Broken)
    del broken, Broken, f
    jax.clear_caches()
    gc.collect()
    assert gone() is None


def test_threads():
    """Two functions over objects of the same classes, traced at the same time."""
    found, errors_found = [], []

    def work(i):
        try:
            config = Derived(float(i))
            f = objnet.jit(lambda x: x * config.a + config.b if i % 2 else x * config.a)
            for n in range(12):
                config.n = n
                config.a = float(n + i)
                assert float(f(X)[0, 0]) == config.a + (config.b if i % 2 else 0)
            found.append(i)
        except Exception as error:
            errors_found.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors_found and sorted(found) == [0, 1, 2, 3]
    assert "__getattribute__" not in vars(Derived)


def test_programs_compiled_ahead_of_time():
    config = Config(2.0)
    f = objnet.jit(lambda x: x * (config.a if x.shape[0] == 2 else config.b))
    run = f.lower(X).compile()
    config.n, config.b = 5, 8.0
    assert float(run(X)[0, 0]) == 2
    f(jnp.ones(3))  # which reads more
    config.b = 9.0
    assert float(run(X)[0, 0]) == 2
    config.a = 3.0
    with pytest.raises(errors.CompiledCallError, match="has changed since"):
        run(X)


class Leaf:
    def __init__(self):
        self.a, self.b, self.c, self.items, self.child = 1.0, 2.0, 3.0, [1.0, 2.0], None


class Slots:
    __slots__ = ("a", "b", "c", "child", "items")

    def __init__(self):
        self.a, self.b, self.c, self.items, self.child = 1.0, 2.0, 3.0, [1.0, 2.0], None


class Part(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.items, self.child = 1.0, 2.0, 3.0, [1.0, 2.0], None


KINDS = (Leaf, Slots, Part)
NAMES = ("a", "b", "c", "first", "second", "length", "missing")


def _value(thing, name):
    if name in ("first", "second"):
        return thing.items[name == "second"]
    if name == "length":
        return float(len(thing.items))
    return getattr(thing, name, 0.5)


def _evaluate(root, program, x):
    """``program`` is a list of (depth, name, whether to stop below a limit)."""
    total = jnp.zeros(())
    for depth, name, limit in program:
        thing = root
        for _ in range(depth):
            thing = thing.child if thing.child is not None else thing
        total = total * 0.5 + _value(thing, name)
        if limit is not None and thing.a > limit:
            break
    return x * total


@settings(max_examples=80)
@given(st.data())
def test_any_reads_after_any_changes(data):
    things = [data.draw(st.sampled_from(KINDS), label="kind")() for _ in range(3)]
    for above, below in itertools.pairwise(things):
        above.child = below
    reads = st.tuples(st.integers(0, 2), st.sampled_from(NAMES), st.sampled_from([None, 2.5, 5.0]))
    programs = [data.draw(st.lists(reads, min_size=1, max_size=4), label="program") for _ in range(2)]
    functions = [objnet.jit(functools.partial(_evaluate, things[0], program)) for program in programs]
    both = objnet.jit(lambda x: functions[0](x) + functions[1](x))
    for _ in range(6):
        for function, program in zip(functions, programs, strict=True):
            np.testing.assert_allclose(function(X), _evaluate(things[0], program, X), rtol=1e-6)
        np.testing.assert_allclose(both(X), sum(_evaluate(things[0], program, X) for program in programs), rtol=1e-6)
        thing = data.draw(st.sampled_from(things), label="thing")
        name = data.draw(st.sampled_from([*NAMES, "unread"]), label="name")
        number = data.draw(st.sampled_from([0.0, 1.0, 3.0, 6.0]), label="number")
        if name in ("first", "second"):
            thing.items[name == "second"] = number
        elif name == "length":
            thing.items = [*thing.items, number]
        elif not isinstance(thing, Slots) or name in Slots.__slots__:
            setattr(thing, name, number)


def test_attributes_exchanged_as_a_whole():
    """``__setstate__`` and libraries of records do so."""

    class Other(Config):
        def method(self):
            return self.a * 10

    config = Config(2.0)
    f = objnet.jit(lambda x: x * config.method())
    assert float(f(X)[0, 0]) == 2
    config.__dict__ = {"a": 3.0, "b": 0.0, "n": 0}
    assert float(f(X)[0, 0]) == 3
    config.a = 4.0
    assert float(f(X)[0, 0]) == 4
    config.__class__ = Other
    assert float(f(X)[0, 0]) == 40


class Both(Slotted):
    """Slots of its base, and a dict."""


def test_slots_beside_a_dict():
    thing = Both(2.0)
    thing.other = 1.0
    f = objnet.jit(lambda x: x * thing.a * thing.other)
    assert float(f(X)[0, 0]) == 2
    thing.a = 3.0
    assert float(f(X)[0, 0]) == 3
    thing.other = 2.0
    thing.n = 5
    assert float(f(X)[0, 0]) == 6
