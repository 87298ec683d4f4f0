"""The protocol of ``nn.Module`` against torch's: the same lines run in both, and what comes out is compared."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from objnet import nn  # noqa: E402
from objnet.core import errors  # noqa: E402
from objnet.transforms.jit import jit  # noqa: E402
from tests.nn.two_worlds import OURS, THEIRS, same  # noqa: E402


def leaf(w, **parameters):
    """A module with these parameters (lists of numbers)."""
    module = w.nn.Module()
    for name, values in parameters.items():
        setattr(module, name, w.nn.Parameter(w.tensor(values)))
    return module


def tree(w):
    """root: p, a (p), b (c (p, q), shared with d), buffers on root and on c."""
    root, a, b, c = leaf(w, p=[1.0]), leaf(w, p=[2.0]), w.nn.Module(), leaf(w, p=[3.0], q=[4.0, 5.0])
    root.register_buffer("late", w.tensor([6.0]))
    root.register_buffer("hidden", w.tensor([7.0]), persistent=False)
    c.register_buffer("count", w.integers(8))
    root.a, root.b, b.c, root.d = a, b, c, c
    a.q = c.q
    root.nothing = None
    root.register_parameter("none", None)
    root.register_buffer("empty", None)
    root.add_module("gap", None)
    return root


# -------------------------------------------------------------------------------------------------------- registration


def kinds(module):
    return [list(module._parameters), list(module._buffers), list(module._modules), sorted(module._non_persistent_buffers_set)]


VALUES = {
    "parameter": lambda w: w.nn.Parameter(w.ones(2)),
    "buffer": lambda w: w.nn.Buffer(w.ones(2)),
    "hidden": lambda w: w.nn.Buffer(w.ones(2), persistent=False),
    "module": lambda w: w.nn.ReLU(),
    "tensor": lambda w: w.ones(3),
    "none": lambda w: None,
    "number": lambda w: 3,
}


@pytest.mark.parametrize("first", VALUES)
@pytest.mark.parametrize("second", VALUES)
def test_assigning_one_kind_over_another(first, second):
    def assign(w):
        module = w.nn.Module()
        module.x = VALUES[first](w)
        module.x = VALUES[second](w)
        return kinds(module), list(module.state_dict()), hasattr(module, "x")

    def delete(w):
        module = w.nn.Module()
        module.x = VALUES[first](w)
        del module.x
        return kinds(module), hasattr(module, "x")

    if second not in ("buffer", "hidden") or first not in ("tensor", "none", "number"):  # torch refuses that alone
        same(assign)
    same(delete)


def register(kind, name, value):
    def act(w):
        module = w.nn.Module()
        module.taken = 1
        module.old = w.nn.Parameter(w.ones(1))
        getattr(module, f"register_{kind}")(name, value(w))
        return kinds(module)

    return act


@pytest.mark.parametrize("kind", ["parameter", "buffer", "module"])
def test_registering(kind):
    right = {"parameter": "parameter", "buffer": "tensor", "module": "module"}[kind]
    for name in ("x", "old", "a.b", "", "taken", "training", "forward", 3, None):
        same(register(kind, name, VALUES[right]), text=True)
    for value in ("none", "number", "module", "parameter", "buffer", "tensor"):
        if (kind, value) != ("buffer", "module"):
            same(register(kind, "x", VALUES[value]))
    same(lambda w: w.nn.Module().missing, text=True)


def test_before_the_constructor():
    for kind in ("parameter", "module", "buffer"):

        def early(w):
            class Early(w.nn.Module):
                def __init__(self):
                    self.x = VALUES[kind](w)

            Early()

        same(early)

    def registered_early(w):
        class Early(w.nn.Module):
            def __init__(self):
                self.register_buffer("x", w.ones(1))

        Early()

    def registered_early_parameter(w):
        class Early(w.nn.Module):
            def __init__(self):
                self.register_parameter("x", w.nn.Parameter(w.ones(1)))

        Early()

    same(registered_early, text=True)
    same(registered_early_parameter, text=True)
    for arguments, options in (((3,), {}), ((), {"size": 3})):
        same(lambda w: w.nn.Module(*arguments, **options))
    same(lambda w: w.nn.Module()(3), text=True)


def test_names():
    same(lambda w: [n for n in dir(tree(w)) if not n.startswith("_") and n in ("p", "a", "late", "gap", "none", "nothing")])
    same(lambda w: tree(w).get_extra_state() and None)
    same(lambda w: [hasattr(tree(w), n) for n in ("p", "none", "empty", "gap", "nothing", "zzz")])


# ----------------------------------------------------------------------------------------------------------- traversal


def test_traversal_names_each_once():
    for query in ("named_parameters", "named_buffers"):
        same(lambda w: list(getattr(tree(w), query)()))
        same(lambda w: list(getattr(tree(w), query)("net")))
        same(lambda w: list(getattr(tree(w), query)(recurse=False)))
        same(lambda w: list(getattr(tree(w), query)(remove_duplicate=False)))
        same(lambda w: list(getattr(tree(w), query)("net", True, False)))
    same(lambda w: [n for n, _ in tree(w).named_modules()])
    same(lambda w: [n for n, _ in tree(w).named_modules(prefix="net", remove_duplicate=False)])
    same(lambda w: [n for n, _ in tree(w).named_children()])
    same(lambda w: [len(list(tree(w).modules())), len(list(tree(w).children())), len(list(tree(w).parameters()))])
    same(lambda w: [len(list(tree(w).parameters(recurse=False))), len(list(tree(w).buffers())), list(tree(w).buffers(False))])

    def memo(w):
        root = tree(w)
        return [n for n, _ in root.named_modules({root.b})]

    same(memo)


@pytest.mark.parametrize("method", ["get_submodule", "get_parameter", "get_buffer"])
def test_paths(method):
    for target in (
        "",
        "a",
        "b.c",
        "b.c.p",
        "a.q",
        "late",
        "hidden",
        "b.c.count",
        "x",
        "a.x",
        "p.x",
        "b.x.p",
        "none",
        "nothing",
        "training",
    ):
        same(lambda w: getattr(tree(w), method)(target), text=True)


def test_set_submodule():
    for target in ("a", "b.c", "b.new", "new", "", "x.y", "p", "b.c.p"):
        for strict in (False, True):

            def put(w):
                root = tree(w)
                root.set_submodule(target, w.nn.Tanh(), strict=strict)
                return root

            same(put)
    same(lambda w: tree(w).set_submodule("a", 3))


def test_apply_train_and_requires_grad():
    def order(w):
        seen = []
        root = tree(w)
        assert root.apply(seen.append) is root
        return [[n for n, m in root.named_modules() if m is s] for s in seen]

    def modes(w):
        root = tree(w)
        assert root.eval() is root
        root.b.train()
        return [m.training for m in root.modules()]

    def frozen(w):
        root = tree(w)
        root.b.requires_grad_(False)
        assert root.a.requires_grad_() is root.a
        return [p.requires_grad for p in root.parameters()]

    same(order)
    same(modes)
    same(frozen)
    for mode in (1, None, "eval"):
        same(lambda w: tree(w).train(mode), text=True)


def test_zero_grad():
    for set_to_none in (True, False):

        def cleared(w):
            root = tree(w)
            root.p.grad = w.ones(1)
            root.zero_grad(set_to_none)
            return [p.grad for p in root.parameters()]

        same(cleared)

    def default(w):
        root = tree(w)
        root.p.grad = w.ones(1)
        root.zero_grad()
        return root.p.grad

    same(default)


# -------------------------------------------------------------------------------------------------------------- dtypes


def dtypes(root):
    return [(n, str(v.dtype).removeprefix("torch.").replace("int64", "int32")) for n, v in root.state_dict().items()]


def test_casting():
    for cast in ("half", "bfloat16", "float"):
        same(lambda w: dtypes(getattr(tree(w), cast)()))
    for dtype in ("float16", "bfloat16", "float32"):
        same(lambda w: dtypes(tree(w).to(w.dtype(dtype))))
        same(lambda w: dtypes(tree(w).to(dtype=w.dtype(dtype))))
        same(lambda w: dtypes(tree(w).to("cpu", w.dtype(dtype))))
        same(lambda w: dtypes(tree(w).to(w.ones(1).half() if w is THEIRS else w.ones(1).astype("float16"))))
    same(lambda w: dtypes(tree(w).to("cpu")))
    same(lambda w: dtypes(tree(w).cpu()))
    same(lambda w: dtypes(tree(w).type(w.dtype("float16"))))
    same(lambda w: tree(w).to(w.dtype("int32")))
    same(lambda w: tree(w).to(memory="format"))

    def shared(w):
        root = tree(w)
        root.p.grad = w.ones(1)
        assert root.half() is root
        return root.a.q is root.b.c.q, root.p.grad, root.hidden, len(list(root.parameters()))

    same(shared)
    with pytest.raises(RuntimeError, match="64-bit"):
        tree(OURS).double()
    with pytest.raises(RuntimeError, match="no device"):
        tree(OURS).to("quantum:3")


def test_devices():
    second = jax.devices("cpu")[1]
    model = nn.Linear(2, 2)
    model.hidden = (jnp.ones(2), jnp.ones(3))
    for target in (second, "cpu:1", jnp.ones(1, device=second)):
        model.to("cpu:0").to(target)
        assert {v.device for v in (*model.state_dict().values(), *model.hidden)} == {second}


# --------------------------------------------------------------------------------------------------------- state dicts


def test_state_dict():
    same(lambda w: tree(w).state_dict())
    same(lambda w: tree(w).state_dict(prefix="net."))
    same(lambda w: dict(tree(w).state_dict()._metadata))
    same(lambda w: type(tree(w).state_dict()).__name__)

    def into(w):
        mine = OrderedDict(first=1)
        assert tree(w).state_dict(destination=mine, prefix="x.") is mine
        return list(mine), hasattr(mine, "_metadata")

    def kept(w):
        root = tree(w)
        state = root.state_dict(keep_vars=True)
        return state["p"] is root.p, state["a.q"] is state["d.q"]

    same(into)
    same(kept)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        same(lambda w: list(tree(w).state_dict(OrderedDict(), "net.", False)))
    for world in (OURS, THEIRS):
        with pytest.warns(FutureWarning, match="ositional"):
            tree(world).state_dict(OrderedDict())


def changed(w, **entries):
    state = tree(w).state_dict()
    for key, value in entries.items():
        key = key.replace("__", ".")
        if value is None:
            del state[key]
        else:
            state[key] = value(w)
    return state


CHANGES = {
    "nothing": {},
    "missing": {"p": None, "b__c__q": None},
    "unexpected": {
        "zzz": lambda w: w.ones(1),
        "a__zzz": lambda w: w.ones(1),
        "hidden": lambda w: w.ones(1),
        "e__f__g": lambda w: w.ones(1),
    },
    "both": {"late": None, "zzz": lambda w: w.ones(1)},
    "shape": {"p": lambda w: w.ones(2), "a__q": lambda w: w.ones(2, 1), "late": lambda w: w.zeros()},
    "all": {"p": lambda w: w.ones(2), "late": None, "zzz": lambda w: w.ones(1)},
    "scalar": {"b__c__count": lambda w: w.integers([9])},
    "no tensor": {"p": lambda w: [1.0]},
    "parameter": {"p": lambda w: w.nn.Parameter(w.tensor([9.0]))},
    "to a reserved name": {"none": lambda w: w.ones(1), "gap__p": lambda w: w.ones(1)},
    "below a parameter": {"p__x": lambda w: w.ones(1)},
    "a module's name": {"a": lambda w: w.ones(1)},
    "extra": {"_extra_state": lambda w: 3},
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("assign", [True, False])
def test_load_state_dict(name, strict, assign):
    def load(w):
        root = tree(w)
        result = root.load_state_dict(changed(w, **CHANGES[name]), strict=strict, assign=assign)
        return repr(result), list(result.missing_keys), list(result.unexpected_keys), root.state_dict()

    same(load, exact=True)


def test_load_state_dict_takes_and_refuses():
    same(lambda w: tree(w).load_state_dict([("p", 1)]))
    same(lambda w: tree(w).load_state_dict(None), text=True)
    same(lambda w: tree(w).load_state_dict(dict(tree(w).state_dict())), text=True)
    root = tree(OURS)
    root.half()
    root.load_state_dict({k: v.numpy() for k, v in tree(THEIRS).double().state_dict().items()})
    assert {str(v.dtype) for v in root.state_dict().values()} == {"float16", "int32"}
    root.load_state_dict(tree(THEIRS).bfloat16().state_dict(), assign=True)
    assert str(root.p.dtype) == "bfloat16"


def test_a_failed_load_changes_nothing():
    root = tree(OURS)
    state = {k: v + 1 for k, v in root.state_dict().items()}
    del state["late"]
    before = {k: v.tolist() for k, v in root.state_dict().items()}
    with pytest.raises(RuntimeError, match="Missing key"):
        root.load_state_dict(state)
    assert {k: v.tolist() for k, v in root.state_dict().items()} == before


def test_loading_copies_into_ties_and_keeps_identity():
    def load(w):
        root = tree(w)
        p = root.p
        state = tree(w).state_dict()
        state["a.q"] = state["d.q"] = state["b.c.q"] = w.tensor([8.0, 9.0])
        root.load_state_dict(state)
        return root.p is p, root.a.q is root.b.c.q, root.a.q

    same(load)


class Extra:
    """Mixed into a Module: state that is no tensor."""

    extra = 3

    def get_extra_state(self):
        return {"extra": self.extra}

    def set_extra_state(self, state):
        self.extra = state["extra"]


def test_extra_state():
    def make(w):
        class WithExtra(Extra, w.nn.Linear):
            pass

        return w.nn.Sequential(WithExtra(1, 1))

    def load(w):
        first, second = make(w), make(w)
        first[0].extra = 7
        second.load_state_dict(first.state_dict())
        return second[0].extra, list(first.state_dict())

    def missing(w):
        state = make(w).state_dict()
        del state["0._extra_state"]
        make(w).load_state_dict(state)

    def half_defined(w):
        class Half(w.nn.Module):
            def set_extra_state(self, state):
                pass

        module = Half()
        module.load_state_dict({})

    same(load)
    same(missing, exact=True)
    same(half_defined, exact=True)


def test_state_dict_hooks():
    def run(w):
        root, log = tree(w), []
        root.register_state_dict_pre_hook(lambda module, prefix, keep: log.append(("pre", module is root, prefix, keep)))
        root.b.register_state_dict_post_hook(lambda module, state, prefix, meta: log.append((list(state), prefix, dict(meta))))
        root._register_state_dict_hook(lambda module, state, prefix, meta: OrderedDict(state, more=1))
        return list(root.state_dict()), log

    def returning(w):
        root = tree(w)
        root.register_state_dict_post_hook(lambda *_: 3)
        root.state_dict()

    def loading(w):
        root, log = tree(w), []

        def rename(module, state, prefix, meta, strict, missing, unexpected, messages):
            log.append((module is root.b.c, prefix, sorted(state), strict))
            state[prefix + "q"] = state.pop(prefix + "old")

        root.b.c.register_load_state_dict_pre_hook(rename)
        root.register_load_state_dict_post_hook(lambda module, keys: log.append((module is root, list(keys.missing_keys))))
        handle = root.register_load_state_dict_post_hook(lambda module, keys: keys.missing_keys.clear())
        state = tree(w).state_dict()
        for path in ("b.c", "d"):
            state[f"{path}.old"] = state.pop(f"{path}.q")
        del state["late"]
        result = repr(root.load_state_dict(state))
        handle.remove()
        return result, log

    def private(w):
        root, log = tree(w), []
        root._register_load_state_dict_pre_hook(lambda *args: log.append(len(args)))
        root._register_load_state_dict_pre_hook(lambda *args: log.append((len(args), args[0] is root)), with_module=True)
        root.load_state_dict(root.state_dict())
        return log

    def post_returning(w):
        root = tree(w)
        root.register_load_state_dict_post_hook(lambda *_: 3)
        root.load_state_dict(root.state_dict())

    same(run)
    same(returning, text=True)
    same(loading)
    same(private)
    same(post_returning, text=True)


# --------------------------------------------------------------------------------------------------------------- hooks


def scaler(w):
    class Scale(w.nn.Module):
        def forward(self, x, by=2.0):
            if by == 0:
                raise ZeroDivisionError("by zero")
            return x * by

    return Scale()


def test_forward_hooks():
    def run(w):
        module, log = scaler(w), []
        handles = [
            module.register_forward_pre_hook(lambda m, args: log.append(("pre", m is module, len(args)))),
            module.register_forward_pre_hook(lambda m, args: (args[0] + 1,)),
            module.register_forward_pre_hook(lambda m, args: args[0] * 10),
            module.register_forward_pre_hook(lambda m, args, kwargs: (args, {"by": 3.0}), with_kwargs=True),
            module.register_forward_pre_hook(lambda m, args: log.append("first"), prepend=True),
            module.register_forward_hook(lambda m, args, out: log.append(("post", len(args)))),
            module.register_forward_hook(lambda m, args, kwargs, out: out + kwargs["by"], with_kwargs=True),
            module.register_forward_hook(lambda m, args, out: log.append("ahead"), prepend=True),
        ]
        results = [module(w.ones(2))]
        for handle in handles[1:6]:
            handle.remove()
            handle.remove()
        results.append(module(w.ones(2), by=4.0))
        with module.register_forward_hook(lambda m, args, out: None):
            pass
        return results, log, len(module._forward_hooks), len(module._forward_pre_hooks)

    def bad_pre_hook(w):
        module = scaler(w)
        module.register_forward_pre_hook(lambda m, args, kwargs: args[0], with_kwargs=True)
        return module(w.ones(2))

    same(run)
    same(bad_pre_hook)


def test_hooks_that_are_always_called():
    def run(w):
        module, log = scaler(w), []
        module.register_forward_hook(lambda m, args, out: log.append("only after success"))
        module.register_forward_hook(lambda m, args, out: log.append(("always", out)), always_call=True)
        module.register_forward_hook(lambda m, args, kwargs, out: log.append((kwargs, out)), always_call=True, with_kwargs=True)
        try:
            module(w.ones(2), by=0)
        except ZeroDivisionError:
            log.append("raised")
        return log, module(1.0)

    def late_failure(w):
        module, log = scaler(w), []
        module.register_forward_hook(lambda m, args, out: log.append("before"), always_call=True)
        module.register_forward_hook(lambda m, args, out: 1 // 0)
        module.register_forward_hook(lambda m, args, out: log.append(out), always_call=True)
        try:
            module(w.ones(2))
        except ZeroDivisionError:
            log.append("raised")
        return log

    same(run)
    same(late_failure)


def test_a_hook_that_fails_after_a_failure_warns():
    for world in (OURS, THEIRS):
        module = scaler(world)
        module.register_forward_hook(lambda m, args, out: [][0], always_call=True)
        with pytest.warns(UserWarning, match="silenced"), pytest.raises(ZeroDivisionError):
            module(world.ones(2), by=0)


def test_hooks_read_parameters_as_a_script_does():
    layer = nn.Linear(2, 2)
    seen = []
    layer.register_forward_pre_hook(lambda m, args: seen.append(type(m.weight)))
    layer.register_forward_hook(lambda m, args, out: seen.append(type(m.weight)))
    layer(jnp.ones(2))
    assert seen == [nn.Parameter, nn.Parameter]
    compiled = jit(layer)
    before = compiled(jnp.ones(2))
    handle = layer.register_forward_hook(lambda m, args, out: out * 0)
    assert (np.asarray(compiled(jnp.ones(2))) == 0).all()
    handle.remove()
    np.testing.assert_array_equal(compiled(jnp.ones(2)), before)


# ------------------------------------------------------------------------------------------------------ repr and copies


def test_repr():
    def nested(w):
        class Lines(w.nn.Module):
            def extra_repr(self):
                return "first\nsecond"

        class Named(w.nn.Linear):
            def _get_name(self):
                return "Other"

        lines = Lines()
        lines.inner = w.nn.Sequential(w.nn.Linear(1, 2), w.nn.Sequential(w.nn.ReLU(), Lines()))
        model = w.nn.ModuleList([lines, w.nn.ModuleDict({"a": lines, "b": Named(1, 1)}), w.nn.Sequential()])
        model.add_module("gap", None)
        return repr(w.nn.Sequential(model, Lines(), w.nn.Module())), str(model[1])

    same(nested)
    same(lambda w: repr(tree(w)))


class Net(nn.Module):
    """Tied weights, a buffer, an array attribute and a plain one."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(3, 3)
        self.decoder = nn.Linear(3, 3)
        self.decoder.weight = self.encoder.weight
        self.alias = self.encoder
        self.register_buffer("mean", jnp.zeros(3), persistent=False)
        self.hidden = (jnp.zeros(3), jnp.zeros(3))
        self.names = ["a"]

    def forward(self, x):
        self.hidden = (self.hidden[0] + x, self.hidden[1])
        return self.decoder(self.encoder(x))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_copies(copied):
    model = Net().eval()
    model.encoder.bias.requires_grad = False
    model(jnp.ones(3))
    other = copied(model)
    assert repr(other) == repr(model)
    assert other.decoder.weight is other.encoder.weight
    assert other.alias is other.encoder
    assert other.encoder.weight is not model.encoder.weight
    assert [p.requires_grad for p in other.parameters()] == [p.requires_grad for p in model.parameters()]
    assert not other.training
    assert not other.encoder.training
    assert list(other.state_dict()) == list(model.state_dict())
    x = jnp.ones(3)
    np.testing.assert_array_equal(other.hidden[0], model.hidden[0])
    other.names.append("b")
    other.encoder.weight.data.fill_(0)
    other.mean = jnp.ones(3)
    other(x)
    assert model.names == ["a"]
    assert (np.asarray(model.encoder.weight) != 0).any()
    assert (np.asarray(model.mean) == 0).all()
    assert model.hidden[0].tolist() == [1.0] * 3
    assert other.hidden[0].tolist() == [2.0] * 3


def test_copies_keep_hooks_and_gradients():
    def run(w):
        module = w.nn.Linear(1, 1)
        module.weight.grad = w.ones(1, 1)
        module.register_forward_hook(double)
        other = copy.deepcopy(module)
        module.weight.grad = None
        return other.weight.grad, len(other._forward_hooks)

    same(run)


def double(module, args, out):
    return out * 2


# -------------------------------------------------------------------------------------------------- objnet's own rules


def test_ties():
    model = Net()
    assert len(list(model.parameters())) == 3
    assert [n for n, _ in model.named_parameters()] == ["encoder.weight", "encoder.bias", "decoder.bias"]
    same(lambda w: tied(w).state_dict())
    same(lambda w: list(tied(w).named_parameters()))


def tied(w):
    a, b = leaf(w, p=[1.0]), leaf(w, p=[2.0])
    b.p = a.p
    root = w.nn.Module()
    root.a, root.b = a, b
    return root


def test_what_would_go_unseen_is_refused():
    for hidden in ([nn.ReLU()], (nn.ReLU(),), {"a": nn.ReLU()}):
        with pytest.raises(errors.UnregisteredModulesError, match=r"nn\.Module(List|Dict)"):
            nn.Module().layers = hidden
    layer = nn.Linear(2, 2)
    for value in (jnp.ones((2, 2)), np.ones((2, 2)), 3):
        with pytest.raises(TypeError, match="weight"):
            layer.weight = value
    assert isinstance(layer.weight, nn.Parameter)


def test_arrays_are_state():
    model = Net()
    assert isinstance(model.hidden, tuple)
    step = jit(model)
    for _ in range(3):
        step(jnp.ones(3))
    assert model.hidden[0].tolist() == [3.0] * 3
    assert "hidden" not in "".join(model.state_dict())
    model.hidden = None
    assert model.hidden is None
    model.hidden = (jnp.zeros(3), jnp.zeros(3))
    step(jnp.ones(3))
    assert model.hidden[0].tolist() == [1.0] * 3
    model.bfloat16()
    assert model.hidden[0].dtype == jnp.bfloat16


def test_parameters_read_as_arrays_inside_a_forward_only():
    seen = {}

    class Looks(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(jnp.ones(2))
            seen["init"] = type(self.weight)
            nn.init.zeros_(self.weight)

        def forward(self, x):
            seen["forward"] = isinstance(self.weight, jax.Array)
            return x + self.weight

        def other(self):
            return self.weight

    model = Looks()
    model(jnp.ones(2))
    assert seen == {"init": nn.Parameter, "forward": True}
    assert isinstance(model.weight, nn.Parameter)
    assert isinstance(model.other(), nn.Parameter)
    model.forward(jnp.ones(2))
    assert seen["forward"]


def test_an_error_in_a_forward_names_the_path():
    model = nn.Sequential(OrderedDict(body=nn.Sequential(nn.Linear(2, 3), nn.Linear(2, 3))))
    with pytest.raises(RuntimeError) as caught:
        model(jnp.ones(2))
    assert caught.value.__notes__ == ["in body.1 (Linear(in_features=2, out_features=3, bias=True))"]
