"""Equality with torch: every option, eager and compiled, in every dtype."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from objnet import jit, optim
from objnet.core.variable import Parameter
from tests.optim.common import (
    CASES,
    EACH,
    REAL_ONLY,
    assert_same,
    case_id,
    draw,
    ours,
    shapes_for,
    theirs,
    tolerance,
    torch,
    torch_step,
)
from tests.optim.models import Traces

STEPS = 50


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_equals_torch(case):
    name, options = case
    values, grads = draw(1, STEPS, shapes_for(name))
    expected, torch_optimizer = theirs(name, values, **options)
    eager, eager_optimizer = ours(name, values, **options)
    compiled, compiled_optimizer = ours(name, values, **options)
    traces = Traces()

    @jit
    def step(grads):
        traces.note()
        compiled_optimizer.step(grads)

    for g in grads:
        torch_step(expected, torch_optimizer, g)
        for p, array in zip(eager, g, strict=True):
            p.grad = array
        eager_optimizer.step()
        step([jnp.asarray(a) for a in g])
    assert_same(eager, expected, **tolerance(name))
    assert_same(compiled, expected, **tolerance(name))
    state = torch_optimizer.state_dict()["state"]
    for optimizer in (eager_optimizer, compiled_optimizer):
        found = optimizer.state_dict()["state"]
        assert found.keys() == state.keys()
        for i, arrays in state.items():
            assert list(found[i]) == list(arrays)
            for key, array in arrays.items():
                assert found[i][key].dtype == jnp.float32
                np.testing.assert_allclose(found[i][key], array.numpy(), **tolerance(name))
    assert traces.count == 1


def test_late_steps_keep_their_precision():
    """beta2**t close to 1 and close to 0: where 1 - beta2**t in float32 would lose digits."""
    values, grads = draw(2, 400, shapes=((3,),))
    options = {"lr": 1e-3, "betas": (0.9, 0.9999)}
    expected, torch_optimizer = theirs("Adam", values, **options)
    params, optimizer = ours("Adam", values, **options)
    step = jit(lambda g: optimizer.step([g]))
    for g in grads:
        torch_step(expected, torch_optimizer, g)
        step(jnp.asarray(g[0]))
    assert_same(params, expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name,options", [("Adam", {"weight_decay": 0.1}), ("AdamW", {"amsgrad": True, "lr": 0.01})])
def test_low_precision_equals_torchs_fused_kernels(name, options, dtype):
    values, grads = draw(3, 30, shapes=((64,),))
    p = torch.nn.Parameter(torch.tensor(values[0]).to(getattr(torch, dtype)))
    torch_optimizer = getattr(torch.optim, name)([p], fused=True, **options)
    q = Parameter(jnp.asarray(values[0]).astype(dtype))
    optimizer = getattr(optim, name)([q], fused=True, **options)
    for (g,) in grads:
        p.grad = torch.tensor(g).to(getattr(torch, dtype))
        torch_optimizer.step()
        optimizer.step([jnp.asarray(g).astype(dtype)])
    assert q.dtype == dtype
    assert optimizer.state[q]["exp_avg"].dtype == dtype and optimizer.state[q]["step"].dtype == np.float32
    np.testing.assert_array_equal(np.asarray(q._read(), np.float32), p.detach().float().numpy())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name,options", [("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}), ("Adadelta", {})])
def test_low_precision_is_as_exact_as_torch(name, options, dtype):
    """Without fused kernels torch rounds after every operation; against exact arithmetic objnet errs no more."""
    low, low_jax = getattr(torch, dtype), jnp.dtype(dtype)
    values, grads = draw(4, 20, shapes=((256,),))
    rounded = lambda a: torch.tensor(a).to(low).double().numpy()
    exact, exact_optimizer = theirs(name, [rounded(values[0])], **options)
    p = torch.nn.Parameter(torch.tensor(values[0]).to(low))
    torch_optimizer = getattr(torch.optim, name)([p], **options)
    q = Parameter(jnp.asarray(values[0]).astype(low_jax))
    optimizer = getattr(optim, name)([q], **options)
    for (g,) in grads:
        p.grad = torch.tensor(g).to(low)
        torch_optimizer.step()
        torch_step(exact, exact_optimizer, [rounded(g)])
        optimizer.step([jnp.asarray(g).astype(low_jax)])
    assert q.dtype == low_jax
    truth = exact[0].detach().numpy()
    error = np.abs(np.asarray(q._read(), np.float64) - truth)
    torch_error = np.abs(p.detach().double().numpy() - truth)
    assert error.mean() <= 1.2 * torch_error.mean() and error.max() <= 1.5 * torch_error.max()


@pytest.mark.parametrize(
    "name,options", [case for case in EACH if case[0] not in REAL_ONLY], ids=lambda x: x if isinstance(x, str) else ""
)
def test_complex_equals_torch(name, options):
    rng = np.random.default_rng(5)
    complex_ = lambda: (rng.normal(size=3) + 1j * rng.normal(size=3)).astype(np.complex64)
    values, grads = [complex_()], [[complex_()] for _ in range(10)]
    expected, torch_optimizer = theirs(name, values, **options)
    params, optimizer = ours(name, values, **options)
    for g in grads:
        torch_step(expected, torch_optimizer, g)
        optimizer.step([jnp.asarray(a) for a in g])
    assert_same(params, expected)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    "name,options", [case for case in EACH if case[0] != "Muon"], ids=lambda x: x if isinstance(x, str) else ""
)
def test_x64(name, options, dtype):
    values, grads = draw(6, 20, shapes=((4,), (2, 3)), dtype=dtype)
    with jax.enable_x64(True):
        expected, torch_optimizer = theirs(name, values, **options)
        params, optimizer = ours(name, values, **options)
        for g in grads:
            torch_step(expected, torch_optimizer, g)
            optimizer.step([jnp.asarray(a) for a in g])
        assert params[0].dtype == dtype
        tolerance = 1e-13 if dtype is np.float64 else 1e-6
        assert_same(params, expected, rtol=tolerance, atol=tolerance)
