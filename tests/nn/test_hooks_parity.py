"""Hooks against torch's: what they are given, in which order they run, what they may return, how they are refused."""

from __future__ import annotations

import copy
import pickle
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.modules.module as theirmodule  # noqa: E402

import objnet.nn.modules.module as ourmodule  # noqa: E402
from objnet.core import hooks  # noqa: E402
from objnet.transforms.autodiff import value_and_grad  # noqa: E402
from tests.nn.two_worlds import OURS, THEIRS, same, show  # noqa: E402


def gradients(w, loss, *inputs):
    """The gradients of a loss with respect to the inputs that are floating point, in either world."""
    if w is OURS:
        chosen = [i for i, x in enumerate(inputs) if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.floating)]
        return value_and_grad(loss, argnums=tuple(chosen))(*inputs)[1]
    inputs = [x.requires_grad_() if torch.is_tensor(x) and x.is_floating_point() else x for x in inputs]
    loss(*inputs).backward()
    return tuple(torch.zeros_like(x) if x.grad is None else x.grad for x in inputs if torch.is_tensor(x) and x.requires_grad)


def several(w):
    """A module of several inputs and outputs, not all of them differentiable."""

    class Several(w.nn.Module):
        def forward(self, a, n, b, flag, *, c=None):
            return a * b.sum(), (a * 3 if flag else None), n, b * 2

    return Several()


def recorder(log, name=None):
    def record(module, *found):
        log.append((name, *(show(tuple(f)) for f in found)))

    return record


@pytest.mark.parametrize("used", [(0,), (1,), (3,), (0, 1, 3)])
def test_what_hooks_are_given(used):
    def run(w):
        log = []
        module = several(w)
        module.register_full_backward_hook(recorder(log))
        module.register_full_backward_pre_hook(recorder(log))

        def loss(a, n, b):
            outputs = module(a, n, b, True)
            return sum((outputs[i] ** 2).sum() for i in used)

        return log, gradients(w, loss, w.tensor([1.0, 2.0]), w.integers([1, 2]), w.tensor([3.0, 4.0]))

    same(run)


def test_order_and_replacement():
    def run(w):
        log = []
        model = w.nn.Sequential(w.nn.Linear(2, 2), w.nn.Tanh(), w.nn.Linear(2, 1))
        for p in model.parameters():
            p.data.fill_(0.25)
        for layer in model:
            layer.register_full_backward_hook(recorder(log, type(layer).__name__))
        model[1].register_full_backward_hook(lambda m, gi, go: [gi[0] * 2])
        model[1].register_full_backward_hook(recorder(log, "first"), prepend=True)
        model[1].register_full_backward_pre_hook(lambda m, go: (go[0] * 3,))
        model[1].register_full_backward_pre_hook(recorder(log, "pre"), prepend=True)
        model[2].register_full_backward_hook(lambda m, gi, go: (None,) if go[0].sum() > 1e6 else None)
        world = ourmodule if w is OURS else theirmodule
        handles = [
            world.register_module_full_backward_hook(recorder(log, "global")),
            world.register_module_full_backward_pre_hook(recorder(log, "global pre")),
        ]
        try:
            result = gradients(w, lambda x: model(x).sum(), w.tensor([[1.0, 2.0]]))
        finally:
            for handle in handles:
                handle.remove()
        again = gradients(w, lambda x: model(x).sum(), w.tensor([[1.0, 2.0]]))
        return [entry[0] for entry in log], rounded(log), rounded([result, again])

    def rounded(found):
        return [[np.round(np.asarray(v, object if v is None else None), 4).tolist() for v in leaves(f)] for f in found]

    def leaves(found):
        flat = jax.tree.leaves(found if not torch.is_tensor(found) else found.tolist())
        return [v.tolist() if hasattr(v, "tolist") else v for v in flat if not isinstance(v, (str, type(None)))]

    same(run)


@pytest.mark.parametrize(
    "hook",
    [
        lambda w: lambda m, gi, go: (gi[0], gi[0]),
        lambda w: lambda m, gi, go: (w.ones(3),),
        lambda w: lambda m, gi, go: (3,),
        lambda w: lambda m, gi, go: gi[0],
        lambda w: lambda m, gi, go: (gi[0] > 0,),
        lambda w: lambda m, gi, go: 5,
    ],
)
@pytest.mark.parametrize("kind", ["register_full_backward_hook", "register_full_backward_pre_hook"])
def test_bad_replacements(kind, hook):
    def run(w):
        layer = w.nn.Linear(2, 2)
        found = hook(w)
        getattr(layer, kind)(found if kind.endswith("backward_hook") else lambda m, go: found(m, go, None))
        return gradients(w, lambda x: layer(x).sum(), w.ones(1, 2))

    same(run)


def test_without_gradients_of_inputs():
    def run(w):
        log = []
        layer = w.nn.Linear(2, 1)
        layer.register_full_backward_hook(recorder(log))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for call in (lambda: layer(w.ones(1, 2)).sum(), lambda: layer(input=w.ones(1, 2)).sum()):
                if w is OURS:
                    value_and_grad(call, wrt=layer)()
                else:
                    call().backward()
        layer.register_full_backward_hook(lambda m, gi, go: go)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                value_and_grad(call, wrt=layer)() if w is OURS else call().backward()
            except RuntimeError as error:
                return log, [c.category for c in caught if "Full backward hook" in str(c.message)], str(error)

    same(run)


def test_outputs_that_hooks_do_not_see():
    for w in (OURS, THEIRS):

        class Dict(w.nn.Module):
            def forward(self, x):
                return {"a": x * 2}

        log = []
        module = Dict()
        module.register_full_backward_hook(recorder(log))
        with pytest.warns(UserWarning, match="should be a Tensor or a tuple of Tensors"):
            gradients(w, lambda x: module(x)["a"].sum(), w.ones(2))  # noqa: B023
        assert not log


@pytest.mark.parametrize(
    "hook",
    [
        lambda w: lambda g: w.ones(3),
        lambda w: lambda g: 3,
        lambda w: lambda g: g > 0,
        lambda w: lambda g: g * 2,
        lambda w: lambda g: None,
    ],
)
def test_hooks_of_parameters(hook):
    def run(w):
        p = w.nn.Parameter(w.ones(2))
        p.register_hook(hook(w))
        if w is OURS:
            return value_and_grad(lambda: (p * 3).sum(), wrt=p)()[1]
        (p * 3).sum().backward()
        return p.grad

    same(run)


def test_hooks_of_parameters_without_gradient():
    for kind in ("register_hook", "register_post_accumulate_grad_hook"):
        same(lambda w: getattr(w.nn.Parameter(w.ones(2), requires_grad=False), kind)(print), text=True)  # noqa: B023


def test_global_forward_hooks():
    def run(w):
        world = ourmodule if w is OURS else theirmodule
        log = []
        module = several(w)
        module.register_forward_hook(lambda m, args, out: log.append("own"))

        class Fails(w.nn.Module):
            def forward(self, x):
                raise ValueError("no")

        with (
            world.register_module_forward_pre_hook(lambda m, args: log.append("pre")),
            world.register_module_forward_hook(lambda m, args, kwargs, out: log.append(sorted(kwargs)), with_kwargs=True),
            world.register_module_forward_hook(lambda m, args, out: log.append(out is None), always_call=True),
            world.register_module_forward_hook(lambda m, args, out: out[0]),
        ):
            result = module(w.ones(2), w.ones(2), w.ones(2), True, c=1)
            try:
                Fails()(w.ones(1))
            except ValueError:
                log.append("raised")
        return result, log, len(module(w.ones(2), w.ones(2), w.ones(2), True))

    same(run)


def test_registration_hooks():
    def run(w):
        world = ourmodule if w is OURS else theirmodule
        log = []

        def note(kind):
            return lambda module, name, value: log.append((kind, name, value is None))

        with (
            world.register_module_parameter_registration_hook(note("parameter")),
            world.register_module_buffer_registration_hook(note("buffer")),
            world.register_module_module_registration_hook(note("module")),
        ):
            module = w.nn.Sequential(w.nn.BatchNorm1d(2, affine=False), w.nn.Linear(1, 1, bias=False))
            module.extra = w.nn.ReLU()
            module.extra = None
            module.register_buffer("here", w.ones(1))
        with world.register_module_module_registration_hook(lambda m, name, value: w.nn.Identity()):
            module.other = w.nn.ReLU()
        return log, module

    same(run)


def test_non_full_hooks():
    with pytest.raises(NotImplementedError, match="full"):
        ourmodule.register_module_backward_hook(print)
    assert set(ourmodule.__all__) == set(theirmodule.__all__)


def test_dicts_and_handles():
    def run(w):
        module = w.nn.Linear(1, 1)
        kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        registers = ("forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook")
        handles = [getattr(module, f"register_{name}")(print) for name in registers]
        found = [[hook is print for hook in getattr(module, kind).values()] for kind in kinds]
        for handle, kind in zip(handles, kinds, strict=True):
            del getattr(module, kind)[handle.id]
        handle = module.register_forward_hook(print, with_kwargs=True, always_call=True)
        flags = [len(module._forward_hooks_with_kwargs), len(module._forward_hooks_always_called)]
        handle.remove()
        handle.remove()
        return found, flags, len(module._forward_hooks_with_kwargs), [len(getattr(module, kind)) for kind in kinds]

    same(run)


def test_a_handle_survives_pickling():
    held = hooks.HookDict()
    handle = hooks.register(held, print)
    other = pickle.loads(pickle.dumps((held, handle)))
    other[1].remove()
    assert not other[0]
    assert held
    copy.deepcopy(handle).remove()
    handle.remove()
    assert not held
