"""``objnet.jit(..., explain=True)``: every cause of a trace by name, and what was captured."""

import logging
import sys

import jax
import jax.numpy as jnp
import pytest

import objnet
from objnet import nn, optim

rate = 0.1
x = jnp.ones((5, 4))


def helper(x):
    return x * rate


class Net(nn.Module):
    gain = 1.0

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 8)
        self.drop = nn.Dropout(0.5)
        self.layers = nn.ModuleList([nn.Linear(8, 8) for _ in range(2)])
        self.hidden = None
        self.sizes = [1, 2]

    def forward(self, x):
        x = self.drop(self.fc(x)) * self.gain
        for layer in self.layers:
            x = layer(x)
        return helper(x) * self.sizes[0]


class World:
    def __init__(self):
        self.model = model = Net()
        factor = 3

        def change(value):
            nonlocal factor
            factor = value

        @objnet.jit(explain=True)
        def step(x, flag=True, *, extra=None):
            return model(x).sum() * factor

        self.change = change
        self.step = step

    def causes(self):
        return [(c.kind, c.where) for c in self.step.explanations[-1].causes]

    def traced(self, *args, **kwargs):
        """Causes of the trace such a call makes, which is not run; an empty list if it makes none."""
        before = len(self.step.explanations)
        self.step.lower(*args, **kwargs)
        assert len(self.step.explanations) - before in (0, 1)
        return self.causes() if len(self.step.explanations) > before else []


@pytest.fixture(autouse=True)
def _no_program_of_an_equal_model():
    sys.modules["objnet.transforms.jit"]._programs.clear()


@pytest.fixture
def world():
    made = World()
    made.step(x)
    assert made.causes() == [("first call", "World.__init__.<locals>.step")]
    assert made.traced(x) == []
    return made


def test_arguments(world):
    assert world.traced(jnp.ones((6, 4))) == [("argument", "x")]
    assert str(world.step.explanations[-1].causes[0]) == "argument x was float32[5,4], is float32[6,4]"
    assert world.traced(x) == []
    assert world.traced(x, extra=2) == [("argument", "extra")]
    assert world.traced(x, extra=2.0) == [("argument", "extra")]
    assert world.step.explanations[-1].causes[0][2:] == ("~int32[]", "~float32[]")
    assert world.traced(x, False) == [("static argument", "flag")]
    assert world.traced(x, extra={"a": jnp.ones(2)}) == [("argument", "extra['a']")]
    assert world.step.explanations[-1].arguments == {"x": "float32[5,4]", "extra['a']": "float32[2]"}


def test_the_value_of_a_static_argument(world):
    world.step(x, "one")
    assert world.traced(x, "two") == [("static argument", "flag")]
    told = world.step.explanations[-1]
    assert told.causes[0][2:] == ("'one'", "'two'") and told.statics == {"flag": "two"}


def test_modes(world):
    world.model.eval()
    assert world.traced(x) == [("mode", "of model and 5 more modules")]
    assert world.step.explanations[-1].causes[0][2:] == ("train", "eval")
    world.model.train()
    assert world.traced(x) == []
    world.model.drop.eval()
    assert world.traced(x) == [("mode", "of model.drop")]


def test_attributes(world):
    world.model.drop.p = 0.25
    assert world.traced(x) == [("attribute", "model.drop.p")]
    assert world.step.explanations[-1].causes[0][2:] == ("0.5", "0.25")
    world.model.sizes[0] = 7
    assert world.traced(x) == [("attribute", "model.sizes[0]")]
    world.model.fc.weight.requires_grad_(False)
    assert world.traced(x) == [("attribute", "fc.weight.requires_grad")]
    world.model.note = "new"  # which nothing reads
    assert world.traced(x) == []


def test_class_attributes(world, monkeypatch):
    monkeypatch.setattr(Net, "gain", 2.0)
    assert world.traced(x) == [("class", "Net.gain")]


def test_globals_and_closure_variables(world, monkeypatch):
    monkeypatch.setitem(globals(), "rate", 0.2)
    assert world.traced(x) == [("global", "rate")]
    monkeypatch.setitem(globals(), "helper", lambda x: x)
    assert world.traced(x) == [("code", "helper")]
    world.change(4)
    assert world.traced(x) == [("closure", "factor")]
    assert str(world.step.explanations[-1].causes[0]) == "closure variable factor was 3, is 4"


def test_variables_and_modules(world):
    world.model.extra = nn.Parameter(jnp.ones(3))
    assert world.traced(x) == [("variable", "model.extra")]
    world.model.fc.bias = None
    assert world.traced(x) == [("variable", "model.fc.bias")]
    world.model.hidden = jnp.ones(2)
    assert ("variable", "model.hidden") in world.traced(x)
    world.model.layers.append(nn.Linear(8, 8))
    assert world.traced(x) == [("module", "model.layers.2")]
    world.model.layers[0] = nn.Linear(8, 8)
    assert world.traced(x) == []  # an equal module shares the program
    world.model.fc.weight.data = jnp.ones((8, 5))
    assert world.traced(jnp.ones((5, 5))) == [("argument", "x"), ("variable", "fc.weight")]


def test_hooks(world):
    handle = world.model.fc.register_forward_hook(lambda *a: None)
    assert world.traced(x) == [("hook", "on model.fc (Linear)")]
    handle.remove()
    assert world.traced(x) == []


def test_settings(world):
    before = objnet.get_float32_matmul_precision()
    objnet.set_float32_matmul_precision("medium")
    try:
        assert world.traced(x) == [("setting", "float32 matmul precision")]
    finally:
        objnet.set_float32_matmul_precision(before)


def test_a_configuration_of_jax(world):
    with jax.default_matmul_precision("bfloat16"):
        assert [kind for kind, _ in world.traced(x)] == ["jax"]


def test_several_at_once(world):
    world.model.eval()
    world.change(5)
    assert set(world.traced(x, False)) == {
        ("static argument", "flag"),
        ("mode", "of model and 5 more modules"),
        ("closure", "factor"),
    }


def test_what_is_captured():
    model = Net()
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    @objnet.jit(explain=True)
    def step(x):
        return optimizer.step(lambda: model(x).sum())

    step(x)
    told = step.explanations[0]
    assert told.paths("read") == ["hyperparameters"]
    donated = set(told.paths("donated"))
    assert {name for name, _ in model.named_parameters()} < donated
    assert "layers.1.weight.momentum_buffer" in donated and told.draws_keys
    kinds = {c.path: (c.kind, c.value) for c in told.captured}
    assert kinds["fc.weight"] == ("Parameter", "float32[8,4]")
    text = str(told)
    assert "first call" in text and "donated (" in text and "fc.weight float32[8,4]" in text and "x=float32[5,4]" in text
    told = objnet.jit(model.eval(), explain=True)
    told(x)
    assert told.explanations[0].paths("written", "donated") == [] and not told.explanations[0].draws_keys


def test_without_donation_they_are_written():
    model = nn.BatchNorm1d(4)
    call = objnet.jit(model, explain=True, donate=False)
    call(x)
    assert set(call.explanations[0].paths("written")) == {"running_mean", "running_var", "num_batches_tracked"}


def test_a_variable_no_path_leads_to():
    holder = {id(x): nn.Linear(4, 4)}
    find = type("Finder", (), {"__slots__": (), "__call__": lambda self: holder[id(x)]})
    import functools

    hidden = functools.lru_cache(find())  # a C object, which no walk enters
    call = objnet.jit(lambda x: hidden()(x), explain=True)
    call(x)
    causes = [c for told in call.explanations for c in told.causes]
    assert any(c.kind == "unreachable" and "weight" in c.where for c in causes)


def test_a_shape_that_reads_other_state():
    model = nn.ModuleList([nn.Linear(4, 2), nn.Linear(4, 2)])
    call = objnet.jit(lambda x: model[x.shape[0] % 2](x), explain=True)
    call(jnp.ones((2, 4)))
    call(jnp.ones((3, 4)))
    assert any(c.kind == "layout" for told in call.explanations[1:] for c in told.causes)


def test_it_is_logged_or_printed(capsys, caplog):
    call = objnet.jit(nn.Linear(4, 2), explain=True)
    call(x)
    assert "objnet.jit traced Linear (trace 1) because:" in capsys.readouterr().err
    with caplog.at_level(logging.INFO, logger="objnet"):
        call(jnp.ones((2, 4)))
    assert capsys.readouterr().err == ""
    assert "argument input was float32[5,4], is float32[2,4]" in caplog.text


def test_off_it_keeps_nothing():
    model = nn.Linear(4, 2)
    call = objnet.jit(model)
    call(x)
    assert call.explanations == [] and objnet.jit(model, explain=True) is not call


def test_numbers_in_place_of_arrays():
    """Arrays by position alone have a shorter key than other arguments."""
    call = objnet.jit(lambda x, b=None: x if b is None else x * b, explain=True)
    for args, kwargs in [((x, 0.5), {}), ((x, x[0, 0]), {}), ((x, 2), {}), ((x,), {"b": x}), ((x, None), {}), ((x,), {})]:
        call(*args, **kwargs)
    assert all(str(told) for told in call.explanations)
    assert ("argument", "containers") in [c[:2] for told in call.explanations for c in told.causes]
