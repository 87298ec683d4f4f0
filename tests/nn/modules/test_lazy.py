"""Lazy modules against torch's: first call, class, values, state dicts, copies and errors."""

from __future__ import annotations

import copy
import pickle

import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from objnet import nn  # noqa: E402
from tests.nn.module_parity import (  # noqa: E402
    Pair,
    build,
    check_outputs,
    check_refused,
    check_signature,
    check_state,
    converted,
)
from tests.nn.two_worlds import OURS, THEIRS, same  # noqa: E402

LAYERS = [
    ("LazyLinear", (3,), {}, (2, 4)),
    ("LazyConv1d", (4, 3), {"groups": 2, "padding": "same"}, (2, 6, 5)),
    ("LazyConv2d", (4, (2, 3)), {"bias": False, "padding_mode": "circular", "padding": 1}, (3, 5, 4)),
    ("LazyConv3d", (2, 2, 2), {}, (1, 3, 4, 4, 4)),
    ("LazyConvTranspose1d", (4, 3, 2), {"groups": 2}, (2, 6, 5)),
    ("LazyConvTranspose2d", (4, 3), {"stride": 2, "output_padding": 1}, (3, 4, 4)),
    ("LazyConvTranspose3d", (2, 2), {"dilation": 2}, (1, 3, 2, 2, 2)),
    ("LazyBatchNorm1d", (), {}, (4, 3)),
    ("LazyBatchNorm2d", (), {"track_running_stats": False, "bias": False}, (2, 3, 4, 4)),
    ("LazyBatchNorm3d", (0.1,), {"affine": False}, (2, 3, 2, 2, 2)),
    ("LazyInstanceNorm1d", (), {}, (2, 3, 4)),
    ("LazyInstanceNorm2d", (), {"affine": False, "track_running_stats": False}, (2, 3, 4, 4)),
    ("LazyInstanceNorm3d", (), {"bias": False}, (2, 3, 2, 2, 2)),
]


@pytest.mark.filterwarnings("ignore:input.s size at dim=1 does not match num_features:UserWarning")
@pytest.mark.parametrize(("name", "arguments", "options", "shape"), LAYERS)
def test_layer(name, arguments, options, shape):
    check_signature(name)
    x = torch.randn(shape)  # before the seed is set: the first call draws the initial values
    ours, theirs = pair = build(name, *arguments, **options)
    become = getattr(nn, name.replace("Lazy", ""))
    assert repr(ours) == repr(theirs)
    assert ours.cls_to_become is become
    assert ours.has_uninitialized_params() == theirs.has_uninitialized_params()
    assert [*map(str, ours.state_dict().values())] == [*map(str, theirs.state_dict().values())] or "Norm" in name
    held = dict(ours.named_parameters())
    check_outputs(ours(converted(x)), theirs(x))
    assert type(ours) is become
    assert repr(ours) == repr(theirs)
    assert {n: id(p) for n, p in ours.named_parameters()} == {n: id(p) for n, p in held.items()}
    assert not ours._forward_pre_hooks
    check_state(pair, rtol=1e-5, atol=1e-5)


def test_every_layer_is_there():
    assert {n for n in dir(torch.nn) if n.startswith("Lazy")} == {name for name, *_ in LAYERS}


# Each runs in both worlds: what it gives, or the class of what it raises, is the same.


def fresh(w):
    return w.nn.LazyLinear(3)


def materialized(w):
    parameter = w.nn.UninitializedParameter(dtype=w.dtype("float16"), requires_grad=False)
    lazy = w.nn.parameter.is_lazy(parameter)
    parameter.materialize((2, 3))
    parameter.data.fill_(2)
    return lazy, w.nn.parameter.is_lazy(parameter), type(parameter).__name__, parameter


def load_into_lazy(w):
    module, full = fresh(w), w.nn.Linear(2, 3)
    report = str(module.load_state_dict(full.state_dict()))
    before = repr(module), module.has_uninitialized_params(), type(module).__name__
    module(w.ones(1, 2))
    return report, before, repr(module), tuple(module.weight.shape)


def a_lazy_mlp(w):
    model = w.nn.Sequential(w.nn.LazyLinear(3), w.nn.LazyBatchNorm1d(), w.nn.LazyLinear(2))
    lines = [repr(model), [str(v)[:5] == "<Unin" for v in model.state_dict().values()]]
    model(w.ones(2, 4))
    return [*lines, repr(model), [tuple(p.shape) for p in model.parameters()], list(model.state_dict())]


def hooks_see_the_initialised_module(w):
    module, seen = fresh(w), []
    module.register_forward_pre_hook(lambda m, args: seen.append(repr(m)))
    module(w.ones(1, 2))
    return seen


def cast_before(w):
    module = w.nn.LazyConv2d(2, 3).half()
    dtype = str(module.weight.dtype)
    return dtype.removeprefix("torch."), module.weight.requires_grad


def own_class(w):
    class Own(w.nn.modules.lazy.LazyModuleMixin, w.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = w.nn.UninitializedParameter()
            self.shift = w.nn.UninitializedBuffer()

        def initialize_parameters(self, x, by=1):
            self.scale.materialize(x.shape)
            self.shift.materialize(x.shape[:1])
            w.nn.init.constant_(self.scale, by)

        def forward(self, x, by=1):
            return x * self.scale

    module = Own()
    y = module(w.ones(2, 3), by=2.0)
    return y, list(module.state_dict()), tuple(module.shift.shape), type(module).__name__


def forgetful_class(w):
    class Forgetful(w.nn.modules.lazy.LazyModuleMixin, w.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = w.nn.UninitializedParameter()

        def initialize_parameters(self, x):
            pass

    return Forgetful()(w.ones(2))


ACTIONS = [
    materialized,
    load_into_lazy,
    a_lazy_mlp,
    hooks_see_the_initialised_module,
    cast_before,
    own_class,
    forgetful_class,
    lambda w: repr([w.nn.UninitializedParameter(), w.nn.UninitializedBuffer()]),
    lambda w: str(fresh(w).load_state_dict(fresh(w).state_dict())),
    lambda w: w.nn.Linear(2, 3).load_state_dict(fresh(w).state_dict()),
    lambda w: fresh(w).load_state_dict({"weight": w.ones(3, 2)}),
    lambda w: fresh(w).load_state_dict({"weight": w.ones(3, 2), "bias": w.ones(3), "more": w.ones(1)}),
    lambda w: repr(copy.deepcopy(fresh(w))),
    lambda w: repr(pickle.loads(pickle.dumps(fresh(w)))),
    lambda w: fresh(w).weight.shape,
    lambda w: fresh(w).weight.numel(),
    lambda w: fresh(w).weight.dim(),
    lambda w: fresh(w).weight.mean(),
    lambda w: fresh(w).weight + 1,
    lambda w: fresh(w).weight[0],
    lambda w: len(fresh(w).weight),
    lambda w: fresh(w).weight.zero_(),
    lambda w: fresh(w).weight.nothing,
    lambda w: w.nn.init.ones_(fresh(w).weight),
    lambda w: fresh(w).forward(w.ones(1, 2)),
    lambda w: w.nn.LazyBatchNorm1d().running_mean.shape,
    lambda w: w.nn.modules.lazy.LazyModuleMixin.initialize_parameters(fresh(w)),
    lambda w: fresh(w).weight.grad,
    lambda w: fresh(w)(w.ones()),
]


@pytest.mark.parametrize("action", ACTIONS, ids=lambda a: a.__name__)
def test_same_in_both_worlds(action):
    """The same result, or the same class of error."""
    try:
        action(THEIRS)
    except Exception as error:
        with pytest.raises(type(error)):
            action(OURS)
    else:
        same(action)


def test_refusals():
    check_refused("LazyConv2d", 4, 3, inputs=(torch.ones(2),), match="LazyConv2d")
    check_refused("LazyConv2d", 4, 3, groups=2, inputs=(torch.ones(3, 5, 5),), match="divisible by groups")
    check_refused("LazyConvTranspose2d", 4, 3, padding_mode="reflect")
    check_refused("LazyBatchNorm2d", inputs=(torch.ones(3, 5),))
    check_refused("LazyLinear", -1, inputs=(torch.ones(3, 5),))


def test_loaded_for_another_input():
    for world in (OURS, THEIRS):
        module = world.nn.LazyLinear(3)
        module.load_state_dict(world.nn.Linear(2, 3).state_dict())
        with pytest.raises(AssertionError):
            module(world.ones(1, 4))


def test_loading_part_is_no_reason_to_draw_the_rest_anew():
    for name, full in (("LazyLinear", (2, 3)), ("LazyConv1d", (2, 3, 1))):
        module = getattr(nn, name)(*full[1:])
        weight = getattr(nn, name[4:])(*full).state_dict()["weight"]
        module.load_state_dict({"weight": weight}, strict=False)
        with pytest.raises(AssertionError, match="bias|weight"):
            module(jnp.ones((1, 2, 1) if full[2:] else (1, 2)))
        np.testing.assert_array_equal(module.state_dict()["weight"], weight)


def test_torch_checkpoint_and_failed_load():
    theirs = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    ours = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d())
    good = theirs.state_dict()
    with pytest.raises(RuntimeError, match="Missing key"):
        ours.load_state_dict({k: v for k, v in good.items() if k != "1.bias"})
    assert all(nn.parameter.is_lazy(v) for v in (ours[0].weight, ours[1].running_mean))  # nothing has changed
    ours.load_state_dict(good)
    check_state(Pair(ours, theirs), rtol=0, atol=0)
