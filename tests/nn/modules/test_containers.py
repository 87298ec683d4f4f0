"""Sequential, ModuleList, ModuleDict, ParameterList and ParameterDict against torch's, operation by operation."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

import objnet.nn as ournn  # noqa: E402
from objnet.core import errors  # noqa: E402
from objnet.transforms.autodiff import grad  # noqa: E402
from objnet.transforms.jit import jit  # noqa: E402
from tests.nn.module_parity import check_signature, parameters_of  # noqa: E402
from tests.nn.two_worlds import OURS, same  # noqa: E402

CONTAINERS = ["Sequential", "ModuleList", "ModuleDict", "ParameterList", "ParameterDict"]


@pytest.mark.parametrize("name", CONTAINERS)
def test_signatures(name):
    check_signature(name)
    ours, theirs = getattr(ournn, name), getattr(torch.nn, name)
    for method, value in vars(theirs).items():
        if inspect.isfunction(value) and (not method.startswith("_") or method in ("__getitem__", "__call__")):
            assert hasattr(ours, method), method
            if method not in ("__call__", "extra_repr"):
                assert [p[0] for p in parameters_of(getattr(ours, method))] == [p[0] for p in parameters_of(value)], method


# ---------------------------------------------------------------------------------------------- Sequential, ModuleList


def layers(w, count=3):
    return [w.nn.Linear(i + 1, i + 2) for i in range(count)]


def named(w):
    return w.nn.Sequential(OrderedDict(a=w.nn.Linear(1, 2), b=w.nn.ReLU(), c=w.nn.Linear(2, 3)))


INDICES = [0, 1, 2, -1, -3, 3, -4, True, 1.0, "0", None, slice(1, None), slice(None, None, 2), slice(-1, None), slice(5, 9)]


@pytest.mark.parametrize("make", ["seq", "named", "list"])
@pytest.mark.parametrize("index", INDICES, ids=str)
def test_items(make, index):
    def build(w):
        return named(w) if make == "named" else w.nn.Sequential(*layers(w)) if make == "seq" else w.nn.ModuleList(layers(w))

    def delete(w):
        container = build(w)
        del container[index]
        return container

    def put(w):
        container = build(w)
        container[index] = w.nn.Tanh()
        return container

    def pop(w):
        container = build(w)
        return container.pop(index), container

    same(lambda w: build(w)[index])
    same(delete)
    if not isinstance(index, slice):
        same(put)
    same(pop)


def chained(w, *steps):
    container = w.nn.Sequential(*layers(w))
    for step in steps:
        container = step(container)
    return container


def test_sequential_arithmetic():
    same(lambda w: w.nn.Sequential(*layers(w)) + w.nn.Sequential(w.nn.ReLU()))
    same(lambda w: w.nn.Sequential(*layers(w)) + [w.nn.ReLU()])
    same(lambda w: named(w) + named(w))
    same(lambda w: w.nn.Sequential(*layers(w)) * 2)
    same(lambda w: 3 * named(w))
    for factor in (0, -1, 1.5, "2"):
        same(lambda w: w.nn.Sequential(*layers(w)) * factor)

        def scale(w):
            container = w.nn.Sequential(*layers(w))
            container *= factor
            return container

        same(scale)

    def augment(w):
        container = first = w.nn.Sequential(*layers(w))
        container += w.nn.Sequential(w.nn.ReLU())
        container *= 3
        assert container is first
        return container

    same(augment)

    def add_list(w):
        container = w.nn.Sequential(*layers(w))
        container += [w.nn.ReLU()]
        return container

    same(add_list)


def test_sequential_growth():
    same(lambda w: w.nn.Sequential().append(w.nn.ReLU()).extend(layers(w)).insert(1, w.nn.Tanh()).insert(-1, w.nn.Tanh()))
    same(lambda w: w.nn.Sequential(*layers(w)).insert(3, w.nn.Tanh()))
    same(lambda w: named(w).append(w.nn.Tanh()))
    same(lambda w: named(w).insert(3, w.nn.Tanh()))
    same(lambda w: named(w).insert(0, w.nn.Tanh()))
    for index in (4, -4):
        same(lambda w: w.nn.Sequential(*layers(w)).insert(index, w.nn.Tanh()))
    same(lambda w: w.nn.Sequential(*layers(w)).insert(0, "tanh"))
    same(lambda w: w.nn.Sequential(*layers(w)).append("tanh"))
    same(lambda w: w.nn.Sequential(*layers(w)).extend([w.nn.ReLU(), 3]))
    same(lambda w: w.nn.Sequential(*layers(w)).extend(3))
    same(lambda w: w.nn.Sequential("relu"))
    same(lambda w: w.nn.Sequential([w.nn.ReLU()]))
    same(lambda w: w.nn.Sequential({"a": w.nn.ReLU()}))
    same(lambda w: w.nn.Sequential(OrderedDict([("a.b", w.nn.ReLU())])))
    same(lambda w: w.nn.Sequential(None))
    same(lambda w: [len(w.nn.Sequential()), bool(w.nn.Sequential()), len(named(w)), [type(m).__name__ for m in named(w)]])
    same(lambda w: [k for k in dir(w.nn.Sequential(*layers(w))) if k.isdigit()])


def test_sequential_runs_in_order():
    torch.manual_seed(0)
    theirs = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    ours = ournn.Sequential(ournn.Linear(3, 4), ournn.Tanh(), ournn.Linear(4, 2))
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(5, 3)
    for run in (ours, jit(ours)):
        np.testing.assert_allclose(run(jnp.asarray(x.numpy())), theirs(x).detach(), rtol=1e-5, atol=1e-5)
    assert ours[0:2][0] is ours[0]
    with pytest.raises(TypeError):
        ours(jnp.ones(3), jnp.ones(3))


def test_module_list():
    def built(w):
        modules = w.nn.ModuleList(layers(w))
        modules += [w.nn.ReLU()]
        modules.append(w.nn.Tanh())
        modules.extend(layers(w, 1))
        modules.insert(0, w.nn.Tanh())
        modules.insert(7, w.nn.ReLU())
        return modules

    same(built)
    same(lambda w: built(w) + layers(w))
    same(lambda w: [type(m).__name__ for m in built(w)])
    same(lambda w: w.nn.ModuleList([w.nn.Linear(1, 1)] * 4 + layers(w) + [w.nn.ReLU()] * 2))
    same(lambda w: w.nn.Sequential(w.nn.ModuleList([w.nn.Sequential(w.nn.ReLU(), w.nn.Tanh())] * 2)))
    same(lambda w: w.nn.ModuleList())
    same(lambda w: w.nn.ModuleList([None, w.nn.ReLU()]))
    for bad in (3, None, [3], "ab"):
        same(lambda w: w.nn.ModuleList(layers(w)).extend(bad))
    same(lambda w: w.nn.ModuleList(layers(w)).append(3))
    same(lambda w: w.nn.ModuleList(layers(w))(3))
    assert len(ournn.ModuleList(m for m in layers(OURS))) == 3
    for index in (9, -9):
        with pytest.raises(IndexError):  # torch leaves a gap in the list, or raises KeyError halfway through
            ournn.ModuleList(layers(OURS)).insert(index, ournn.ReLU())
    with pytest.raises(TypeError, match="takes a module"):
        ournn.ModuleList().insert(0, 3)


@settings(max_examples=13, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("append")),
            st.tuples(st.just("insert"), st.integers(0, 6)),
            st.tuples(st.just("del"), st.integers(-7, 6)),
            st.tuples(st.just("set"), st.integers(-7, 6)),
            st.tuples(st.just("pop"), st.integers(-7, 6)),
            st.tuples(st.just("cut"), st.integers(0, 6), st.integers(0, 6)),
        ),
        max_size=12,
    ),
    st.sampled_from(["Sequential", "ModuleList"]),
)
def test_any_sequence_of_operations_is_that_of_a_list(operations, kind):
    counter = iter(range(1, 1000))
    plain: list[int] = []
    container = getattr(ournn, kind)()
    for operation, *arguments in operations:
        size = next(counter)
        module = ournn.Linear(size, 1, bias=False)
        if operation == "append":
            plain.append(size)
            container.append(module)
        elif operation == "insert" and arguments[0] <= len(plain):
            plain.insert(arguments[0], size)
            container.insert(arguments[0], module)
        elif operation == "cut":
            del plain[slice(*arguments)]
            del container[slice(*arguments)]
        elif operation != "insert":
            index = arguments[0]
            try:
                plain[index]
            except IndexError:
                with pytest.raises(IndexError):
                    container[index]
                continue
            if operation == "del":
                del plain[index], container[index]
            elif operation == "set":
                plain[index] = size
                container[index] = module
            else:
                assert container.pop(index).in_features == plain.pop(index)
        assert [m.in_features for m in container] == plain
        assert list(container._modules) == [str(i) for i in range(len(plain))]


# ----------------------------------------------------------------------------------------------------------- ModuleDict


def test_module_dict():
    def built(w):
        modules = w.nn.ModuleDict({"z": w.nn.ReLU(), "a": w.nn.Linear(1, 2)})
        modules["b"] = w.nn.Tanh()
        modules.update([["c", w.nn.ReLU()], ("z", w.nn.Linear(3, 3))])
        modules.update(w.nn.ModuleDict({"d": w.nn.ReLU()}))
        modules.update(OrderedDict(e=w.nn.Tanh()))
        return modules

    def changed(w):
        modules = built(w)
        popped = modules.pop("z")
        del modules["b"]
        return modules, popped

    def cleared(w):
        modules = built(w)
        modules.clear()
        return modules, len(modules)

    same(built)
    same(changed)
    same(cleared)
    same(lambda w: [list(built(w)), list(built(w).keys()), "z" in built(w), "q" in built(w), len(built(w))])
    same(lambda w: [k for k, _ in built(w).items()] + [type(v).__name__ for v in built(w).values()])
    same(lambda w: built(w)["a"])
    same(lambda w: built(w)["q"])
    same(lambda w: built(w).pop("q"))
    same(lambda w: built(w).__delitem__("q"))
    for bad in (3, None, [3], [["a"]], [["a", 1, 2]], {"a": 3}, {3: None}, {"a.b": None}, {"": None}, {"keys": None}):
        same(lambda w: w.nn.ModuleDict().update(bad))
    same(lambda w: w.nn.ModuleDict({"training": w.nn.ReLU()}))
    same(lambda w: built(w)(3))


# ----------------------------------------------------------------------------------------------------- parameter lists


def test_parameter_list():
    def built(w):
        items = w.nn.ParameterList([w.ones(2, 3), w.nn.Parameter(w.ones(4)), 5, None, "six", w.nn.Linear(1, 2)])
        items += [w.ones(1)]
        items.append(w.ones())
        items.extend(i for i in (w.ones(2), 7.0))
        return items

    same(built)
    same(lambda w: w.nn.ParameterList())
    same(lambda w: w.nn.Sequential(built(w)))
    same(lambda w: list(built(w)))
    same(lambda w: [len(built(w)), [n for n, _ in built(w).named_parameters()]])
    for index in (0, 2, -1, 10, -11, slice(0, 3), slice(None, None, -3), "0", 1.0):
        same(lambda w: built(w)[index])

        def put(w):
            items = built(w)
            items[index] = w.ones(9)
            return items

        if not isinstance(index, slice):
            same(put)
    for bad in (3, None):
        same(lambda w: w.nn.ParameterList([]).extend(bad))
    same(lambda w: w.nn.ParameterList([]).extend(w.ones(3)))
    same(lambda w: w.nn.ParameterList(w.nn.Parameter(w.ones(3))))
    same(lambda w: built(w)(3))
    same(lambda w: [k for k in dir(built(w)) if k.isdigit()])

    def to_none(w):
        items = built(w)
        items[0] = None
        return items

    same(to_none)
    with pytest.raises(RuntimeError, match="floating point"):
        ournn.ParameterList([jnp.arange(3)])


def test_parameter_dict():
    def built(w):
        items = w.nn.ParameterDict({"z": w.ones(2, 3), "a": w.nn.Parameter(w.ones(4)), "n": 5})
        items["b"] = w.ones(1)
        items.update([("c", w.ones(2)), ["n", 6]])
        items.update(OrderedDict(y=w.ones(1), x=None))
        return items

    def changed(w):
        items = built(w)
        results = [items.pop("z"), items.popitem(), items.setdefault("q", w.ones(7)), items.setdefault("a", 3)]
        results += [items.setdefault("none"), items.get("a"), items.get("nothing"), items.get("nothing", 4)]
        del items["b"]
        return items, results

    def cleared(w):
        items = built(w)
        items.clear()
        return items, len(items)

    def merged(w):
        items = built(w)
        items |= {"m": w.ones(3), "l": 1}
        return [items, items | w.nn.ParameterDict({"z": w.ones(8)}), w.nn.ParameterDict({"k": 2}) | {"j": 1}]

    same(built)
    same(changed)
    same(cleared)
    same(merged)
    same(lambda w: {"k": 2} | w.nn.ParameterDict({"z": w.ones(8)}))
    same(lambda w: w.nn.ParameterDict([("z", w.ones(1)), ("a", w.ones(1))]))
    same(lambda w: [list(built(w)), list(reversed(built(w))), list(built(w).keys()), len(built(w)), "a" in built(w)])
    same(lambda w: [list(v) for v in built(w).items()] + list(built(w).values()))
    same(lambda w: built(w).copy())
    same(lambda w: built(w).fromkeys(["s", "r"], 3))
    same(lambda w: w.nn.ParameterDict().fromkeys(["s"]))
    same(lambda w: w.nn.Sequential(built(w)))
    for key in ("nothing", 3, None):
        same(lambda w: built(w)[key])
        same(lambda w: built(w).__delitem__(key))
        same(lambda w: built(w).pop(key))
        same(lambda w: key in built(w))
    same(lambda w: w.nn.ParameterDict().popitem())
    for bad in (3, None, [3], [["a"]], {3: 4}):
        same(lambda w: built(w).update(bad))
    same(lambda w: built(w).update({"a.b": w.ones(1)}))
    same(lambda w: built(w).update({"keys": w.ones(1)}))
    same(lambda w: built(w)(3))


def test_copies_share_their_parameters():
    items = ournn.ParameterDict({"a": jnp.ones(2), "b": jnp.ones(3)})
    both = items.copy() | ournn.ParameterDict({"c": jnp.ones(1)})
    assert both["a"] is items["a"]
    assert ournn.ParameterList([items["a"], 3])[:1][0] is items["a"]
    alone = copy.deepcopy(items)
    assert alone["a"] is not items["a"]
    assert repr(pickle.loads(pickle.dumps(items))) == repr(items)


class Polynomial(ournn.Module):
    """Uses every parameter container in its forward."""

    def __init__(self):
        super().__init__()
        self.terms = ournn.ParameterList([jnp.full(2, 2.0), jnp.full(2, 3.0), 4.0])
        self.more = ournn.ParameterDict({"a": jnp.full(2, 5.0), "n": 6.0})
        self.seen = []

    def forward(self, x):
        read = [*self.terms, self.terms[0], *self.more.values(), self.more["a"], *self.terms[1:], *self.more.copy().values()]
        read.append((self.more | ournn.ParameterDict({"z": 1.0}))["a"])
        assert all(isinstance(r, (jax.Array, float)) for r in read)
        return sum(jnp.sum(r * x) for r in read)


def test_inside_a_forward_items_read_as_arrays():
    model = Polynomial()
    assert isinstance(model.terms[0], ournn.Parameter)
    assert isinstance(model.more["a"], ournn.Parameter)
    x = jnp.ones(2)
    value = float(model(x))
    assert float(jit(model)(x)) == value
    gradients = grad(lambda: model(x), wrt=model)()
    assert {n: float(g[0]) for n, g in gradients.items()} == {"terms.0": 2.0, "terms.1": 2.0, "more.a": 4.0}
    assert len(list(model.parameters())) == 3


# ------------------------------------------------------------------------------------------------------------ with jit


def test_a_changed_container_is_a_new_program():
    model = ournn.Sequential(ournn.Linear(2, 2), ournn.ReLU())
    run = jit(model)
    x = -jnp.ones((1, 2))
    first = np.asarray(run(x))
    del model[1]
    np.testing.assert_allclose(run(x), model(x), rtol=1e-6)
    model.append(ournn.Tanh())
    np.testing.assert_allclose(run(x), model(x), rtol=1e-6)
    assert not np.allclose(first, run(x))
    modules = ournn.ModuleDict({"a": ournn.ReLU(), "b": ournn.Tanh()})
    compiled = jit(lambda x: modules["a"](x))
    assert (np.asarray(compiled(x)) == 0).all()
    modules["a"] = ournn.Tanh()
    np.testing.assert_allclose(compiled(x), np.tanh(x), rtol=1e-6)


def test_a_container_cannot_change_inside_a_compiled_function():
    model = ournn.Sequential(ournn.Linear(2, 2), ournn.ReLU(), ournn.Tanh())
    order = [type(m).__name__ for m in model]

    def cut(x):
        del model[0]
        return model(x)

    def grow(x):
        model.append(ournn.ReLU())
        return model(x)

    for change in (cut, grow):
        with pytest.raises(errors.CompiledCallError, match="replaced inside a compiled function"):
            jit(change)(jnp.ones((1, 2)))
        assert [type(m).__name__ for m in model] == order
    items = ournn.ParameterList([jnp.ones(1)])
    with pytest.raises(errors.CompiledCallError, match="replaced inside a compiled function"):
        jit(lambda: items.append(jnp.ones(2)))()
    assert len(items) == 1
    assert repr(items) == repr(ournn.ParameterList([jnp.ones(1)]))


def test_a_failed_transform_leaves_the_order_alone():
    model = ournn.Sequential(ournn.Linear(2, 2), ournn.ReLU(), ournn.Tanh())
    names = ournn.ParameterDict({"a": 1, "b": 2})

    def fails(x):
        del model[0]
        names["c"] = 3
        del names["a"]
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        grad(fails, argnums=0)(jnp.ones(()))
    assert [type(m).__name__ for m in model] == ["Linear", "ReLU", "Tanh"]
    assert list(model._modules) == ["0", "1", "2"]
    assert dict(names.items()) == {"a": 1, "b": 2}
