"""L-BFGS against torch's, eager and compiled."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import objnet
from objnet import jit, optim
from objnet.core.variable import Parameter
from tests.optim.common import as_torch, torch
from tests.optim.models import Linear, Traces, mean_square

OPTIONS = [
    {},
    {"lr": 0.1},
    {"lr": 0.5, "max_iter": 7, "history_size": 3},
    {"max_iter": 1},
    {"max_iter": 4, "max_eval": 2},
    {"lr": 0.3, "tolerance_grad": 1e-1, "tolerance_change": 1e-2},
    {"line_search_fn": "strong_wolfe"},
    {"line_search_fn": "strong_wolfe", "lr": 0.1, "history_size": 2},
    {"line_search_fn": "strong_wolfe", "max_iter": 3, "max_eval": 4},
    {"line_search_fn": "strong_wolfe", "lr": 5.0, "max_iter": 10},
    {"line_search_fn": "strong_wolfe", "max_iter": 5, "tolerance_change": 1e-2},
    {"line_search_fn": "strong_wolfe", "max_iter": 30, "history_size": 1},
]


def _ids(options):
    return "-".join(f"{k}={v}" for k, v in options.items()) or "defaults"


def _problem(seed):
    """A bent valley in six dimensions, split over two parameters, in both libraries."""
    rng = np.random.default_rng(seed)
    scales = rng.uniform(0.5, 3.0, size=6).astype(np.float32)
    start = [rng.normal(size=(2, 2)).astype(np.float32), rng.normal(size=2).astype(np.float32)]

    def loss(xp, a, b):
        x = xp.concatenate([a.reshape(-1), b])
        bend = x[1:] - 0.3 * x[:-1] ** 2
        return (xp.asarray(scales) * x**2).sum() + (bend**2).sum() + 0.1 * (x**4).sum()

    return start, loss


def _theirs(seed, options, steps, calls=None):
    start, loss = _problem(seed)
    params = [torch.nn.Parameter(torch.tensor(v)) for v in start]
    optimizer = torch.optim.LBFGS(params, **options)

    def closure():
        optimizer.zero_grad()
        value = loss(torch, *params)
        value.backward()
        if calls is not None:
            calls.append(1)
        return value

    return params, optimizer, [float(optimizer.step(closure).detach()) for _ in range(steps)], closure


def _ours(seed, options):
    start, loss = _problem(seed)
    params = [Parameter(jnp.asarray(v)) for v in start]
    return params, optim.LBFGS(params, **options), lambda: loss(jnp, params[0]._read(), params[1]._read())


def _same(params, expected, tolerance=2e-4):
    for p, q in zip(params, expected, strict=True):
        np.testing.assert_allclose(np.asarray(p._read()), q.detach().numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("options", OPTIONS, ids=_ids)
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_equals_torch(options, seed, compiled):
    steps = 4
    expected, torch_optimizer, losses, _ = _theirs(seed, options, steps)
    params, optimizer, loss = _ours(seed, options)
    traces = Traces()

    def run():
        traces.note()
        return optimizer.step(loss)

    step = jit(run) if compiled else run
    found = [float(step()) for _ in range(steps)]
    np.testing.assert_allclose(found, losses, rtol=1e-4, atol=1e-5)
    _same(params, expected)
    state, torch_state = optimizer.state_dict()["state"][0], torch_optimizer.state_dict()["state"][0]
    assert state.keys() == torch_state.keys()
    for key in ("func_evals", "n_iter"):
        assert state[key] == torch_state[key], key
    for key in ("old_dirs", "old_stps", "ro", "al"):
        assert len(state.get(key, ())) == len(torch_state.get(key, ())), key
    assert traces.count == (1 if compiled else steps)
    assert repr(optimizer) == repr(torch_optimizer)


@pytest.mark.parametrize("options", OPTIONS[:3:2] + OPTIONS[6:8], ids=_ids)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_each_library_goes_on_where_the_other_stopped(options, compiled):
    options = {**options, "max_iter": 4}
    expected, torch_optimizer, _, closure = _theirs(2, options, 1)
    params, optimizer, loss = _ours(2, options)
    for p, q in zip(params, expected, strict=True):
        p.data = jnp.asarray(q.detach().numpy())
    optimizer.load_state_dict(torch_optimizer.state_dict())
    step = jit(lambda: optimizer.step(loss)) if compiled else lambda: optimizer.step(loss)
    step()
    torch_optimizer.step(closure)
    _same(params, expected)
    assert optimizer.state_dict()["state"][0]["n_iter"] == torch_optimizer.state_dict()["state"][0]["n_iter"]
    for p, q in zip(params, expected, strict=True):
        q.data = torch.tensor(np.asarray(p._read()))
    torch_optimizer.load_state_dict(as_torch(optimizer.state_dict()))
    step()
    torch_optimizer.step(closure)
    _same(params, expected)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("search", [None, "strong_wolfe"])
def test_a_closure_that_runs_backward_itself(compiled, search):
    model, twin = Linear(3, 2), Linear(3, 2)
    x = jnp.ones((4, 3))
    optimizer = optim.LBFGS(model.parameters(), lr=0.1, max_iter=5, line_search_fn=search)
    plain = optim.LBFGS(twin.parameters(), lr=0.1, max_iter=5, line_search_fn=search)

    def closure():
        optimizer.zero_grad()
        return objnet.backward(lambda: mean_square(model(x)))

    def run():
        return optimizer.step(closure)

    step = jit(run) if compiled else run
    for _ in range(3):
        np.testing.assert_allclose(step(), plain.step(lambda: mean_square(twin(x))), rtol=1e-5)
    np.testing.assert_allclose(model.weight._read(), twin.weight._read(), rtol=1e-5)


class Counting(Linear):
    """Counts its own evaluations in a buffer."""

    def __init__(self):
        super().__init__(3, 2)
        self.seen = jnp.zeros((), jnp.int32)

    def forward(self, x):
        self.seen = self.seen + 1
        return super().forward(x)


@pytest.mark.parametrize("search", [None, "strong_wolfe"])
def test_what_the_closure_writes_is_kept(search):
    """Every evaluation counts once, eager and compiled."""
    counts = []
    for compiled in (False, True):
        model = Counting()
        optimizer = optim.LBFGS(model.parameters(), lr=0.05, max_iter=6, line_search_fn=search)
        run = lambda: optimizer.step(lambda: mean_square(model(jnp.ones((4, 3)))))  # noqa: B023
        step = jit(run) if compiled else run
        for _ in range(2):
            step()
        counts.append(int(model.seen))
        assert counts[-1] == optimizer.state_dict()["state"][0]["func_evals"]
    assert counts[0] == counts[1]


def test_frozen_unused_and_complex_parameters():
    rng = np.random.default_rng(3)
    start = (rng.normal(size=3) + 1j * rng.normal(size=3)).astype(np.complex64)
    z, frozen, unused = (torch.nn.Parameter(torch.tensor(v)) for v in (start, np.ones(2, np.float32), np.ones(1, np.float32)))
    frozen.requires_grad = False
    theirs = torch.optim.LBFGS([z, frozen, unused], lr=0.5, max_iter=6)

    def closure():
        theirs.zero_grad()
        value = ((z - (1 + 2j)).abs() ** 2).sum() + frozen.sum()
        value.backward()
        return value

    ours_z, ours_frozen, ours_unused = (
        Parameter(jnp.asarray(v)) for v in (start, np.ones(2, np.float32), np.ones(1, np.float32))
    )
    ours_frozen.requires_grad = False
    ours = optim.LBFGS([ours_z, ours_frozen, ours_unused], lr=0.5, max_iter=6)
    for _ in range(2):
        theirs.step(closure)
        ours.step(lambda: (jnp.abs(ours_z._read() - (1 + 2j)) ** 2).sum() + ours_frozen._read().sum())
    np.testing.assert_allclose(ours_z._read(), z.detach().numpy(), rtol=1e-5)
    assert ours_frozen._read().tolist() == [1, 1] and ours_unused._read().tolist() == [1]


def test_a_changed_rate_traces_nothing_anew():
    params, optimizer, loss = _ours(0, {"lr": 0.1, "max_iter": 3})
    traces = Traces()

    @jit
    def step():
        traces.note()
        return optimizer.step(loss)

    for lr in (0.1, 0.2, 0.3):
        optimizer.param_groups[0]["lr"] = lr
        step()
    assert traces.count == 1


def test_what_it_refuses():
    p = Parameter(jnp.ones(2))
    with pytest.raises(ValueError, match="parameter groups"):
        optim.LBFGS([{"params": [p]}, {"params": [Parameter(jnp.ones(1))]}])
    with pytest.raises(ValueError, match="Invalid learning rate"):
        optim.LBFGS([p], lr=-1)
    with pytest.raises(RuntimeError, match="strong_wolfe"):
        optim.LBFGS([p], line_search_fn="armijo")
    optimizer = optim.LBFGS([p])
    for wrong in (None, [jnp.ones(2)]):
        with pytest.raises(TypeError, match="closure"):
            optimizer.step(wrong)
    state = optimizer.state_dict()
    state["state"] = {0: {"func_evals": 3, "n_iter": 1, "d": np.ones(3), "old_dirs": [np.ones(5)]}}
    with pytest.raises(ValueError, match="d has shape"):
        optimizer.load_state_dict(state)
    assert optimizer.state_dict()["state"] == {}
