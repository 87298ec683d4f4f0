"""Averaged models and batch statistics, equal to torch's."""

from __future__ import annotations

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import objnet
from objnet import jit, nn, optim
from objnet.optim.swa_utils import AveragedModel, update_bn
from tests.optim.common import torch
from tests.optim.models import Traces

swa, torch_swa = optim.swa_utils, torch.optim.swa_utils
TOLERANCE = {"rtol": 2e-6, "atol": 1e-6}
FUNCTIONS = {
    "default": lambda s: {},
    "swa": lambda s: {"avg_fn": s.get_swa_avg_fn()},
    "swa lists": lambda s: {"multi_avg_fn": s.get_swa_multi_avg_fn()},
    "ema": lambda s: {"avg_fn": s.get_ema_avg_fn(0.9)},
    "ema 0.2": lambda s: {"avg_fn": s.get_ema_avg_fn(0.2)},
    "ema lists": lambda s: {"multi_avg_fn": s.get_ema_multi_avg_fn(0.9)},
    "ema lists, all old": lambda s: {"multi_avg_fn": s.get_ema_multi_avg_fn(1.0)},
    "ema lists, all new": lambda s: {"multi_avg_fn": s.get_ema_multi_avg_fn(0.0)},
    "user's": lambda s: {"avg_fn": lambda averaged, current, n: 0.75 * averaged + 0.25 * current},
    "user's in place": lambda s: {"multi_avg_fn": in_place},
}


def in_place(averaged, current, num_averaged):
    for a, c in zip(averaged, current):
        a.mul_(0.5).add_(c, alpha=0.5)


def models():
    def build(nn):
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2)))

    theirs = build(torch.nn)
    ours = build(nn)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def moved(ours, theirs, seed):
    """Other parameters and buffers, alike in both models."""
    rng = np.random.default_rng(seed)
    state = {}
    for name, tensor in theirs.state_dict().items():
        whole = tensor.dtype == torch.int64
        state[name] = torch.tensor(rng.integers(0, 900) if whole else rng.normal(size=tuple(tensor.shape)).astype(np.float32))
    theirs.load_state_dict(state)
    ours.load_state_dict(state)


def assert_same(found, expected):
    found, expected = found.state_dict(), expected.state_dict()
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        np.testing.assert_allclose(found[name], tensor.numpy(), err_msg=name, **TOLERANCE)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("use_buffers", [False, True])
@pytest.mark.parametrize("functions", FUNCTIONS.values(), ids=FUNCTIONS)
def test_equals_torch(functions, use_buffers, compiled):
    if use_buffers and functions in (FUNCTIONS["user's in place"], FUNCTIONS["swa lists"]):
        return  # torch neither halves nor averages whole numbers in place
    ours, theirs = models()
    average = AveragedModel(ours, use_buffers=use_buffers, **functions(swa))
    expected = torch_swa.AveragedModel(theirs, use_buffers=use_buffers, **functions(torch_swa))
    traces = Traces()

    def update():
        traces.note()
        average.update_parameters(ours)

    step = jit(update) if compiled else update
    assert_same(average, expected)
    for i in range(6):
        moved(ours, theirs, i)
        with jax.numpy_dtype_promotion("standard"):  # users multiply whole numbers by fractions
            step()
        expected.update_parameters(theirs)
        assert_same(average, expected)
    assert traces.count == (1 if compiled else 6)  # the first update and later ones are one program
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    average.eval(), expected.eval()
    np.testing.assert_allclose(average(jnp.asarray(x)), expected(torch.tensor(x)).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_state_dicts_go_both_ways():
    ours, theirs = models()
    average, expected = AveragedModel(ours), torch_swa.AveragedModel(theirs)
    for i in range(3):
        moved(ours, theirs, i)
        expected.update_parameters(theirs)
    average.load_state_dict(expected.state_dict())
    assert int(average.n_averaged) == 3
    back = torch_swa.AveragedModel(theirs)
    back.load_state_dict({k: torch.tensor(np.asarray(v)) for k, v in average.state_dict().items()})
    for i in range(3, 5):
        moved(ours, theirs, i)
        average.update_parameters(ours)
        back.update_parameters(theirs)
    assert_same(average, back)


def batches(kind):
    rng = np.random.default_rng(3)
    arrays = [rng.normal(1.0, 2.0, size=(n, 3)).astype(np.float32) for n in (8, 8, 5)]
    return {
        "numpy": (arrays, [*map(torch.tensor, arrays)]),
        "pairs": ([(a, 0) for a in arrays], [(torch.tensor(a), 0) for a in arrays]),
        "lists": ([[jnp.asarray(a)] for a in arrays], [[torch.tensor(a)] for a in arrays]),
        "torch": ([*map(torch.tensor, arrays)], [*map(torch.tensor, arrays)]),
    }[kind]


@pytest.mark.parametrize("kind", ["numpy", "pairs", "lists", "torch"])
def test_update_bn_equals_torch(kind):
    ours, theirs = models()
    moved(ours, theirs, 1)
    ours[3][0].momentum = theirs[3][0].momentum = 0.3
    ours.eval(), theirs.eval()
    ours_loader, loader = batches(kind)
    assert update_bn(ours_loader, ours) is None
    torch_swa.update_bn(loader, theirs)
    assert_same(ours, theirs)
    assert [m.momentum for m in (ours[1], ours[3][0])] == [0.1, 0.3]
    assert not any(m.training for m in ours.modules())


def test_update_bn_of_an_averaged_model_on_a_device():
    ours, theirs = nn.Sequential(nn.BatchNorm1d(3)), torch.nn.Sequential(torch.nn.BatchNorm1d(3))
    device = jax.devices()[1]
    average, expected = AveragedModel(ours, device=device), torch_swa.AveragedModel(theirs)
    for i in range(2):
        moved(ours, theirs, i)
        average.update_parameters(ours)
        expected.update_parameters(theirs)
    assert {d for v in average.state_dict().values() for d in v.devices()} == {device}
    ours_loader, loader = batches("pairs")
    update_bn(ours_loader, average, device="cpu:1")
    torch_swa.update_bn(loader, expected)
    assert_same(average, expected)
    assert {d for p in (*average.parameters(), average.module[0].running_var) for d in p.devices()} == {device}


def test_names_and_signatures_are_torchs():
    assert set(swa.__all__) == set(torch_swa.__all__)
    for name in torch_swa.__all__:
        a, b = (inspect.signature(getattr(library, name)).parameters.values() for library in (swa, torch_swa))
        assert [(p.name, p.kind, p.default) for p in a] == [(p.name, p.kind, p.default) for p in b], name
        assert getattr(swa, name).__doc__


def test_the_functions_alone_equal_torchs():
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=4).astype(np.float32) for _ in range(2))
    for name, args in (("get_ema_avg_fn", (0.7,)), ("get_swa_avg_fn", ())):
        ours, theirs = getattr(swa, name)(*args), getattr(torch_swa, name)(*args)
        np.testing.assert_allclose(
            ours(jnp.asarray(a), jnp.asarray(b), 3), theirs(torch.tensor(a), torch.tensor(b), 3), **TOLERANCE
        )
    for name, args in (("get_ema_multi_avg_fn", (0.7,)), ("get_swa_multi_avg_fn", ())):
        ours, theirs = getattr(swa, name)(*args), getattr(torch_swa, name)(*args)
        parameter, tensor = nn.Parameter(jnp.asarray(a)), torch.tensor(a)
        ours([parameter], [jnp.asarray(b)], jnp.asarray(3))
        theirs([tensor], [torch.tensor(b)], 3)
        np.testing.assert_allclose(parameter._read(), tensor, **TOLERANCE)
    for decay in (-0.1, 1.1):
        for name in ("get_ema_avg_fn", "get_ema_multi_avg_fn"):
            for library in (swa, torch_swa):
                with pytest.raises(ValueError, match="Invalid decay value"):
                    getattr(library, name)(decay)


def test_both_functions_are_refused_as_in_torch():
    for library, model in zip((swa, torch_swa), models()):
        with pytest.raises(AssertionError, match="Only one of avg_fn and multi_avg_fn"):
            library.AveragedModel(model, avg_fn=library.get_ema_avg_fn(), multi_avg_fn=library.get_ema_multi_avg_fn())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision(dtype):
    """float32 arithmetic, rounded once: nearer to the truth than torch, which rounds after each operation."""
    values = np.random.default_rng(0).normal(size=(5, 64)).astype(jnp.dtype(dtype))
    model = nn.Linear(64, 1, bias=False).to(jnp.dtype(dtype))
    average = AveragedModel(model)
    truth = None
    for i, row in enumerate(values):
        model.weight.data = jnp.asarray(row)[None]
        average.update_parameters(model)
        wide = row.astype(np.float64)
        before = None if truth is None else truth
        truth = wide if before is None else before + (wide - before) / (i + 1)
        truth = truth.astype(jnp.dtype(dtype)).astype(np.float64)
    assert average.module.weight.dtype == dtype
    np.testing.assert_allclose(np.asarray(average.module.weight._read()[0], np.float64), truth, rtol=2**-7)


def test_schedule_and_average_train_as_torch():
    """The loop of torch's own documentation."""
    ours, theirs = models()
    x = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    optimizer, torch_optimizer = optim.SGD(ours.parameters(), lr=0.1), torch.optim.SGD(theirs.parameters(), lr=0.1)
    average, expected = AveragedModel(ours), torch_swa.AveragedModel(theirs)
    made = [
        (s.lr_scheduler.CosineAnnealingLR(o, T_max=8), s.swa_utils.SWALR(o, swa_lr=0.05, anneal_epochs=3))
        for s, o in ((optim, optimizer), (torch.optim, torch_optimizer))
    ]
    step = jit(lambda x: optimizer.step(lambda: (ours(x) ** 2).mean()))
    for i in range(8):
        step(jnp.asarray(x))
        torch_optimizer.zero_grad()
        (theirs(torch.tensor(x)) ** 2).mean().backward()
        torch_optimizer.step()
        if i > 3:
            average.update_parameters(ours)
            expected.update_parameters(theirs)
        for schedulers in made:
            schedulers[i > 3].step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(torch_optimizer.param_groups[0]["lr"], rel=1e-12)
    for name, tensor in expected.state_dict().items():
        np.testing.assert_allclose(average.state_dict()[name], tensor, rtol=2e-4, atol=2e-5, err_msg=name)
    assert objnet.optim.swa_utils is swa


def test_lists_of_whole_numbers_are_averaged_as_one_by_one():
    """torch fails there."""
    ours, theirs = models()
    averages = [AveragedModel(ours, use_buffers=True, **f) for f in ({}, {"multi_avg_fn": swa.get_swa_multi_avg_fn()})]
    expected = torch_swa.AveragedModel(theirs, multi_avg_fn=torch_swa.get_swa_multi_avg_fn(), use_buffers=True)
    for i in range(3):
        moved(ours, theirs, i)
        for average in averages:
            average.update_parameters(ours)
    assert averages[1].state_dict()["module.1.num_batches_tracked"].dtype == jnp.int32
    for a, b in zip(*(average.state_dict().values() for average in averages)):
        np.testing.assert_array_equal(a, b)
    expected.update_parameters(theirs)
    with pytest.raises(RuntimeError, match="[Ii]nteger"):
        expected.update_parameters(theirs)
