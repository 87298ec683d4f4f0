"""Gradients gathered over several calls: torch's rhythm, and ``MultiSteps``, against the large batch and against torch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import objnet
import objnet.nn.functional as F
from objnet import amp, nn, optim
from tests.optim.models import Headed, Traces, mean_square

K = 4
KINDS = {
    "AdamW": lambda p: optim.AdamW(p, lr=0.1),
    "SGD": lambda p: optim.SGD(p, lr=0.1, momentum=0.9),
    "Optax": lambda p: optim.Optax(p, optax.adam(0.1)),
}


def _batches(count=2 * K):
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, 2, 3)).astype(np.float32), rng.normal(size=(count, 2, 2)).astype(np.float32)


def _setup(kind="AdamW", every_k=K):
    objnet.manual_seed(0)
    model = nn.Linear(3, 2)
    return model, optim.MultiSteps(KINDS[kind](model.parameters()), every_k)


def _stepper(model, optimizer, traces=None):
    def step(x, y):
        if traces is not None:
            traces.note()
        return optimizer.step(lambda: F.mse_loss(model(x), y))

    return step


def _large_batches(kind="AdamW"):
    """The weights after one step for every K batches together."""
    objnet.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = KINDS[kind](model.parameters())
    scheduler = optim.lr_scheduler.StepLR(optimizer, 1, 0.5) if kind != "Optax" else None
    xs, ys = _batches()
    for x, y in zip(xs.reshape(2, 2 * K, 3), ys.reshape(2, 2 * K, 2), strict=True):
        optimizer.step(lambda x=x, y=y: F.mse_loss(model(x), y))
        if scheduler:
            scheduler.step()
    return np.asarray(model.weight._read())


def _close(model, want):
    np.testing.assert_allclose(model.weight._read(), want, rtol=2e-5, atol=1e-6)


# -- torch's rhythm ----------------------------------------------------------------------------------------------------


def _plain():
    objnet.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = KINDS["AdamW"](model.parameters())
    return model, optimizer, optim.lr_scheduler.StepLR(optimizer, 1, 0.5)


def test_torchs_rhythm_equals_torch():
    torch = pytest.importorskip("torch")
    model, *_ = _plain()
    theirs = torch.nn.Linear(3, 2)
    theirs.load_state_dict({k: torch.tensor(np.asarray(v)) for k, v in model.state_dict().items()})
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    for i, (x, y) in enumerate(zip(*map(torch.tensor, _batches()), strict=True)):
        (torch.nn.functional.mse_loss(theirs(x), y) / K).backward()
        if i % K == K - 1:
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
    np.testing.assert_allclose(_large_batches(), theirs.weight.detach().numpy(), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("keep_grads", [False, True])
def test_torchs_rhythm_in_one_function(keep_grads):
    model, optimizer, scheduler = _plain()
    traces = Traces()

    @objnet.jit(keep_grads=keep_grads)
    def step(x, y, last):
        traces.note()
        loss = objnet.backward(lambda: F.mse_loss(model(x), y) / K)
        if last:
            optimizer.step()
            optimizer.zero_grad()
        return loss

    for round_ in range(3):
        for i, (x, y) in enumerate(zip(*_batches(), strict=True)):
            step(x, y, i % K == K - 1)
            assert (model.weight.grad is None) == (i % K == K - 1)
            if i % K == K - 1:
                scheduler.step()
        if not round_:
            _close(model, _large_batches())
            assert traces.count == 3  # the first of the gradients, a further one, the step
    assert traces.count == 3


def test_torchs_rhythm_in_two_functions():
    model, optimizer, scheduler = _plain()
    backwards, updates = Traces(), Traces()

    @objnet.jit
    def backward(x, y):
        backwards.note()
        return objnet.backward(lambda: F.mse_loss(model(x), y) / K)

    @objnet.jit
    def update():
        updates.note()
        optimizer.step()
        optimizer.zero_grad()

    for i, (x, y) in enumerate(zip(*_batches(), strict=True)):
        backward(x, y)
        if i % K == K - 1:
            update()
            scheduler.step()
    _close(model, _large_batches())
    assert (backwards.count, updates.count) == (2, 1)


# -- MultiSteps --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_large_batch(kind, compiled):
    model, optimizer = _setup(kind)
    scheduler = optim.lr_scheduler.StepLR(optimizer, 1, 0.5) if kind != "Optax" else None
    traces = Traces()
    step = _stepper(model, optimizer, traces)
    step = objnet.jit(step) if compiled else step
    before = np.asarray(model.weight._read())
    for i, batch in enumerate(zip(*_batches(), strict=True)):
        step(*batch)
        assert optimizer.mini_step == (i + 1) % K
        if i == K - 2:
            np.testing.assert_array_equal(model.weight._read(), before)
        if scheduler and optimizer.mini_step == 0:
            scheduler.step()
    _close(model, _large_batches(kind))
    assert not compiled or traces.count == 1


@pytest.mark.parametrize("compiled", [False, True])
def test_every_form_of_step(compiled):
    want, optimizer = _setup()
    for batch in zip(*_batches(), strict=True):
        _stepper(want, optimizer)(*batch)

    def by_values(model, optimizer, x, y):
        _, grads = objnet.value_and_grad(lambda: F.mse_loss(model(x), y), wrt=model)()
        optimizer.step(grads)

    def by_grad(model, optimizer, x, y):
        optimizer.zero_grad()
        objnet.backward(lambda: F.mse_loss(model(x), y))
        optimizer.step()

    for form in (by_values, by_grad):
        model, optimizer = _setup()

        def step(x, y, form=form, model=model, optimizer=optimizer):
            form(model, optimizer, x, y)

        step = objnet.jit(step) if compiled else step
        for batch in zip(*_batches(), strict=True):
            step(*batch)
        _close(model, want.weight._read())


def test_one_program_and_no_transfers():
    model, optimizer = _setup()
    step = objnet.jit(_stepper(model, optimizer))
    batches = [jax.device_put(batch) for batch in zip(*_batches(), strict=True)]
    step(*batches[0])
    with jax.transfer_guard("disallow"):
        for batch in batches[1:]:
            step(*batch)
    assert optimizer.mini_step == 0


@pytest.mark.parametrize("compiled", [False, True])
def test_a_parameter_without_gradient_is_left_alone(compiled):
    model = Headed()
    optimizer = optim.MultiSteps(optim.AdamW(model.parameters(), lr=0.1), 2)
    before = np.asarray(model.head.weight._read())

    def step(x, head):
        return optimizer.step(lambda: mean_square(model.head(model(x)) if head else model(x)))

    step = objnet.jit(step) if compiled else step
    x = jnp.ones((2, 3))
    step(x, False)
    step(x, False)
    np.testing.assert_array_equal(model.head.weight._read(), before)  # no weight decay either
    assert model.head.weight not in optimizer.state
    step(x, False)
    step(x, True)
    moved = np.asarray(model.head.weight._read())
    assert (moved != before).all() and float(optimizer.state[model.head.weight]["step"]) == 1.0
    step(x, False)
    step(x, False)  # no gradient in any call since the last step
    np.testing.assert_array_equal(model.head.weight._read(), moved)
    step(x, True)
    step(x, False)  # a gradient in an earlier call only
    assert (np.asarray(model.head.weight._read()) != moved).all()
    assert [float(optimizer.state[p]["step"]) for p in (model.head.weight, model.body.weight)] == [2.0, 4.0]


def test_a_gradient_in_some_calls_counts_as_zero_in_the_others():
    p = nn.Parameter(jnp.zeros(2))
    q = nn.Parameter(jnp.zeros(2))
    optimizer = optim.MultiSteps(optim.SGD([p, q], lr=1.0), 4)
    for gradient in (None, jnp.full(2, 8.0), None, None):
        optimizer.step([jnp.ones(2), gradient])
    assert p._read().tolist() == [-1.0, -1.0] and q._read().tolist() == [-2.0, -2.0]


def test_sums_of_half_precision_are_kept_in_float32():
    p = nn.Parameter(jnp.zeros(1, jnp.bfloat16))
    optimizer = optim.MultiSteps(optim.SGD([p], lr=1.0), 257)
    for _ in range(257):
        optimizer.step([jnp.ones(1, jnp.bfloat16)])  # a sum of bfloat16 stands still at 256
    assert p._read().dtype == jnp.bfloat16 and p._read().tolist() == [-1.0]
    assert optimizer.state_dict()["multi_steps"]["sums"][0].dtype == jnp.float32


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at", [2, K])
def test_resuming_is_exact(kind, at, tmp_path):
    model, optimizer = _setup(kind)
    step = objnet.jit(_stepper(model, optimizer))
    batches = list(zip(*_batches(), strict=True))
    for batch in batches[:at]:
        step(*batch)
    saved = optimizer.state_dict()
    weights = dict(model.state_dict())
    objnet.save({"model": weights, "optimizer": saved}, tmp_path / "state")
    assert saved["multi_steps"]["mini_step"] == at % K
    for batch in batches[at:]:
        step(*batch)

    for source in ("state_dict", "file"):
        other, again = _setup(kind)
        _stepper(other, again)(*batches[-1])  # something to forget
        state = {"model": weights, "optimizer": saved} if source == "state_dict" else objnet.load(tmp_path / "state")
        other.load_state_dict(state["model"])
        again.load_state_dict(state["optimizer"])
        step_again = objnet.jit(_stepper(other, again))
        for batch in batches[at:]:
            step_again(*batch)
        np.testing.assert_array_equal(other.weight._read(), model.weight._read())
        assert jax.tree.structure(again.state_dict()) == jax.tree.structure(optimizer.state_dict())


def test_loading_what_does_not_fit_changes_nothing():
    model, optimizer = _setup()
    batches = list(zip(*_batches(), strict=True))
    for batch in batches[:3]:
        _stepper(model, optimizer)(*batch)
    saved = optimizer.state_dict()
    _, shorter = _setup(every_k=2)
    with pytest.raises(ValueError, match="has gathered 3 calls, and every_k is 2"):
        shorter.load_state_dict(saved)
    gathered = saved["multi_steps"]
    for sums, message in (({0: np.ones(5)}, "shape \\(5,\\) for parameter 0"), ({7: np.ones(5)}, "no such parameter")):
        with pytest.raises(ValueError, match=message):
            optimizer.load_state_dict({**saved, "multi_steps": {**gathered, "sums": sums}})
    with pytest.raises(ValueError):
        optimizer.load_state_dict({**saved, "param_groups": []})
    assert optimizer.mini_step == 3
    jax.tree.map(np.testing.assert_array_equal, optimizer.state_dict()["multi_steps"], gathered)
    optimizer.load_state_dict(optimizer.optimizer.state_dict())  # the inner optimizer's alone: gathering begins anew
    assert optimizer.mini_step == 0 and optimizer.state_dict()["multi_steps"]["sums"] == {}


@pytest.mark.parametrize("compiled", [False, True])
def test_what_was_gathered_follows_the_parameters(compiled):
    model, optimizer = _setup("SGD")
    step = _stepper(model, optimizer)
    step = objnet.jit(step) if compiled else step
    scheduler = optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    everywhere = NamedSharding(Mesh(np.array(jax.devices()[:2]), ("data",)), PartitionSpec())
    for i, batch in enumerate(zip(*_batches(), strict=True)):
        if i == 2:
            for p in model.parameters():
                p._set(jax.device_put(p._read(), everywhere))
        step(*batch)
        if i % K == K - 1:
            scheduler.step()
    _close(model, _large_batches("SGD"))


def test_inside_scan_steps():
    model, optimizer = _setup()
    want, other = _setup()
    xs, ys = _batches()
    for x, y in zip(xs, ys, strict=True):
        _stepper(want, other)(x, y)
    assert objnet.scan_steps(_stepper(model, optimizer))(xs, ys).shape == (2 * K,)
    _close(model, want.weight._read())
    assert optimizer.mini_step == 0


def test_with_a_scaler_a_call_left_out_is_not_counted():
    model, optimizer = _setup(every_k=2)
    scaler = amp.GradScaler("cpu", init_scale=8.0)
    want, other = _setup(every_k=2)

    @objnet.jit
    def step(x, y):
        optimizer.zero_grad()
        objnet.backward(lambda: scaler.scale(F.mse_loss(model(x), y)))
        scaler.step(optimizer)
        scaler.update()

    xs, ys = _batches()
    for i in range(4):
        step(xs[i] * np.float32(np.inf if i == 1 else 1), ys[i])
        if i != 1:
            _stepper(want, other)(xs[i], ys[i])
    assert optimizer.mini_step == other.mini_step == 1 and scaler.get_scale() == 4.0
    _close(model, want.weight._read())


def test_groups_hooks_and_what_it_is():
    model, optimizer = _setup(every_k=2)
    inner, extra = optimizer.optimizer, nn.Parameter(jnp.zeros(2))
    calls, steps = [], []
    optimizer.register_step_post_hook(lambda *_: calls.append(1))
    inner.register_step_post_hook(lambda *_: steps.append(1))
    optimizer.step([jnp.ones((2, 3)), jnp.ones(2)])
    optimizer.add_param_group({"params": [extra], "lr": 1.0})
    optimizer.step([jnp.ones((2, 3)), jnp.ones(2), jnp.ones(2)])
    assert (len(calls), len(steps)) == (2, 1)
    assert isinstance(optimizer, optim.Optimizer) and optimizer.param_groups is inner.param_groups
    assert optimizer.defaults is inner.defaults and (np.asarray(extra._read()) != 0).all()
    assert "MultiSteps(every_k=2, AdamW (" in repr(optimizer)


def test_misuses():
    model, optimizer = _setup()
    with pytest.raises(TypeError, match=r"MultiSteps\(optim.Adam"):
        optim.MultiSteps(model.parameters(), 2)
    with pytest.raises(TypeError, match="LBFGS evaluates the loss again"):
        optim.MultiSteps(optim.LBFGS(model.parameters()), 2)
    for wrong in (0, 1.5, True):
        with pytest.raises(ValueError, match="every_k is a number of calls"):
            optim.MultiSteps(optimizer.optimizer, wrong)
    with pytest.raises(TypeError, match="optax.MultiSteps"):
        optim.MultiSteps.as_optax()
    _, lion = _setup("Optax")
    lion.step([jnp.ones((2, 3)), jnp.ones(2)])
    with pytest.raises(objnet.errors.StructureMismatchError, match="Give it zeros"):
        lion.step([jnp.ones((2, 3)), None])
