"""``GradScaler`` against torch's, eagerly and in one program; what a step left out leaves; calls in a wrong order."""

from __future__ import annotations

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import objnet
import objnet.nn.functional as F
from objnet import amp, nn, optim
from tests.optim.models import Traces

SETTINGS = {"init_scale": 256.0, "growth_factor": 4.0, "backoff_factor": 0.25, "growth_interval": 2}
# Inputs that give finite gradients (1), infinite ones or NaN.
SEQUENCES = {
    "grows": [1, 1, 1, 1, 1],
    "mixed": [1, np.inf, 1, 1, np.nan, np.inf, 1, 1, 1],
    "never": [np.nan, np.inf],
}
OPTIMIZERS = {
    "SGD": lambda lib, p: lib.SGD(p, lr=0.1, momentum=0.9),
    "AdamW": lambda lib, p: lib.AdamW(p, lr=0.01),
}


def _batch(factor, n=4):
    rng = np.random.default_rng(n)
    return (rng.normal(size=(n, 3)) * factor).astype(np.float32), rng.normal(size=(n, 2)).astype(np.float32)


def _setup(kind="AdamW", **settings):
    objnet.manual_seed(0)
    model = nn.Linear(3, 2)
    return model, OPTIMIZERS[kind](optim, model.parameters()), amp.GradScaler("cpu", **{**SETTINGS, **settings})


def _stepper(model, optimizer, scaler, clip=True, traces=None):
    def step(x, y):
        if traces is not None:
            traces.note()
        optimizer.zero_grad()
        loss = objnet.backward(lambda: scaler.scale(F.mse_loss(model(x), y)))
        if clip:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        scaler.step(optimizer)
        scaler.update()
        return loss

    return step


def _everything(model, optimizer):
    return jax.tree.map(np.asarray, [dict(model.state_dict()), optimizer.state_dict()["state"]])


def _equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_equals_torch(kind, clip, compiled):
    torch = pytest.importorskip("torch")
    for sequence in SEQUENCES.values():
        model, optimizer, scaler = _setup(kind)
        step = _stepper(model, optimizer, scaler, clip)
        step = objnet.jit(step) if compiled else step
        theirs = torch.nn.Linear(3, 2)
        theirs.load_state_dict({k: torch.tensor(np.asarray(v)) for k, v in model.state_dict().items()})
        their_optimizer = OPTIMIZERS[kind](torch.optim, theirs.parameters())
        their_scaler = torch.amp.GradScaler("cpu", **SETTINGS)
        for factor in sequence:
            x, y = _batch(factor)
            loss = step(x, y)
            their_optimizer.zero_grad()
            their_loss = their_scaler.scale(torch.nn.functional.mse_loss(theirs(torch.tensor(x)), torch.tensor(y)))
            their_loss.backward()
            if clip:
                their_scaler.unscale_(their_optimizer)
                torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
            their_scaler.step(their_optimizer)
            their_scaler.update()
            np.testing.assert_allclose(loss, their_loss.item(), rtol=1e-5)
            assert scaler.state_dict() == their_scaler.state_dict()
            assert list(scaler.state_dict()) == list(their_scaler.state_dict())
        for name, value in theirs.state_dict().items():
            np.testing.assert_allclose(model.state_dict()[name], value.numpy(), rtol=1e-5, atol=1e-7)
        steps = [float(s["step"]) for s in their_optimizer.state_dict()["state"].values() if "step" in s]
        assert [float(s["step"]) for s in optimizer.state_dict()["state"].values() if "step" in s] == steps


@pytest.mark.parametrize("compiled", [False, True])
def test_a_step_left_out_leaves_everything(compiled):
    model, optimizer, scaler = _setup()
    step = _stepper(model, optimizer, scaler)
    step = objnet.jit(step) if compiled else step
    step(*_batch(1))
    before = _everything(model, optimizer)
    step(*_batch(np.inf))
    _equal(_everything(model, optimizer), before)
    assert scaler.get_scale() == 64.0
    step(*_batch(1))
    assert float(optimizer.state[model.weight]["step"]) == 2.0
    assert not np.array_equal(model.state_dict()["weight"], before[0]["weight"])


def test_one_program_and_no_transfers():
    model, optimizer, scaler = _setup()
    traces = Traces()
    step = objnet.jit(_stepper(model, optimizer, scaler, traces=traces))
    batches = [jax.device_put(_batch(f)) for f in (1, np.inf, 1, 1, np.nan)]
    step(*batches[0])
    first = traces.count
    with jax.transfer_guard("disallow"):
        for batch in batches[1:]:
            step(*batch)
    assert traces.count == first <= 2
    assert (scaler.get_scale(), scaler._get_growth_tracker()) == (64.0, 0)
    scaler.load_state_dict({**scaler.state_dict(), "scale": 8.0})
    step(*batches[0])
    assert traces.count == first and scaler.get_scale() == 8.0
    scaler.set_growth_factor(8.0)  # part of the program, which is traced anew
    step(*batches[0])
    assert scaler.get_scale() == 64.0 and traces.count == first + 1


def test_parts_of_a_step_may_be_programs_of_their_own():
    whole, parts = _setup(), _setup()
    step = _stepper(*whole)
    model, optimizer, scaler = parts

    @objnet.jit(keep_grads=True)
    def forward(x, y):
        optimizer.zero_grad()
        loss = objnet.backward(lambda: scaler.scale(F.mse_loss(model(x), y)))
        scaler.unscale_(optimizer)
        return loss

    @objnet.jit
    def finish():
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        scaler.step(optimizer)

    for factor in [1, np.inf, 1, 1]:
        step(*_batch(factor))
        forward(*_batch(factor))
        with pytest.raises(RuntimeError, match="already been called on this optimizer"):
            scaler.unscale_(optimizer)
        finish()
        with pytest.raises(RuntimeError, match="already been called since the last update"):
            scaler.step(optimizer)
        scaler.update()
        assert scaler.state_dict() == whole[2].state_dict()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), _everything(*parts[:2]), _everything(*whole[:2]))


def test_several_optimizers_share_what_is_found():
    a, b = nn.Linear(3, 2), nn.Linear(3, 2)
    first, second = optim.SGD(a.parameters(), 0.1), optim.SGD(b.parameters(), 0.1)
    scaler = amp.GradScaler("cpu", **SETTINGS)
    before = np.asarray(a.weight._read()), np.asarray(b.weight._read())

    @objnet.jit
    def step(x, z):
        objnet.backward(lambda: scaler.scale(a(x).sum() + b(z).sum()))
        scaler.step(first)
        scaler.step(second)
        scaler.update()

    step(jnp.ones((1, 3)), jnp.full((1, 3), jnp.inf))
    assert not np.array_equal(a.weight._read(), before[0])
    np.testing.assert_array_equal(b.weight._read(), before[1])
    assert scaler.get_scale() == 64.0


def test_a_parameter_without_gradient_is_skipped():
    model, unused = nn.Linear(3, 2), nn.Linear(2, 2)
    optimizer = optim.AdamW([*model.parameters(), *unused.parameters()], lr=0.1)
    scaler = amp.GradScaler("cpu")
    before = np.asarray(unused.weight._read())
    step = objnet.jit(_stepper(model, optimizer, scaler))
    for factor in (1, np.inf, 1):
        step(*_batch(factor))
    np.testing.assert_array_equal(unused.weight._read(), before)
    assert unused.weight not in optimizer.state and float(optimizer.state[model.weight]["step"]) == 2


def test_what_scale_takes():
    torch = pytest.importorskip("torch")
    mine, theirs = amp.GradScaler("cpu"), torch.amp.GradScaler("cpu")
    for value in (np.float32(3), np.ones(2, np.float32), np.float16(0.25), np.full(2, 1e-3, np.float16), np.array([2])):
        got, want = mine.scale(value), theirs.scale(torch.tensor(value))
        assert str(got.dtype) == str(want.dtype).removeprefix("torch.")
        np.testing.assert_array_equal(got, want.numpy())
    both = mine.scale((jnp.ones(()), [jnp.ones(2)]))
    assert isinstance(both, tuple) and isinstance(both[1], list) and both[1][0].tolist() == [65536.0] * 2
    assert [float(v) for v in mine.scale(iter([jnp.ones(())]))] == [65536.0]
    with pytest.raises(ValueError, match="outputs must be a Tensor or an iterable of Tensors"):
        mine.scale(object())


def _misuses(scaler, optimizer, backward):
    """Each with the messages of both libraries."""

    def order(*calls):
        def run():
            backward()
            for call in calls:
                call()

        return run

    unscale, step, update = lambda: scaler.unscale_(optimizer), lambda: scaler.step(optimizer), lambda: scaler.update()
    yield unscale
    yield step
    yield update
    yield order(unscale, unscale)
    yield update  # ends the iteration
    yield order(step, unscale)
    yield update
    yield order(step, step)
    yield update
    yield update
    yield lambda: scaler.step(optimizer, closure=lambda: None)
    yield lambda: scaler.load_state_dict({})


def test_misuses_read_as_torchs():
    torch = pytest.importorskip("torch")

    def outcomes(misuses):
        found = []
        for misuse in misuses:
            try:
                misuse()
                found.append(None)
            except Exception as error:
                found.append((type(error), str(error)))
        return found

    model, optimizer, scaler = _setup()
    x, y = _batch(1)
    theirs = torch.nn.Linear(3, 2)
    adam = torch.optim.AdamW(theirs.parameters())
    their_scaler = torch.amp.GradScaler("cpu", **SETTINGS)

    def their_backward():
        their_scaler.scale(theirs(torch.tensor(x)).sum()).backward()

    want = outcomes(_misuses(their_scaler, adam, their_backward))
    got = outcomes(_misuses(scaler, optimizer, lambda: objnet.backward(lambda: scaler.scale(model(x).sum()))))
    assert got == want and sum(o is not None for o in want) >= 8


def test_misuses_in_a_program_and_others():
    model, optimizer, scaler = _setup()

    @objnet.jit
    def twice(x):
        objnet.backward(lambda: scaler.scale(model(x).sum()))
        scaler.unscale_(optimizer)
        scaler.unscale_(optimizer)

    with pytest.raises(RuntimeError, match="already been called on this optimizer"):
        twice(jnp.ones((1, 3)))
    _stepper(model, optimizer, scaler)(*_batch(1))  # the failed trace has left nothing behind
    optimizer.zero_grad()
    with pytest.raises(AssertionError, match="No inf checks were recorded for this optimizer"):
        scaler.step(optimizer)
    with pytest.raises(AssertionError, match="No inf checks were recorded prior to update"):
        scaler.update()
    with pytest.raises(TypeError, match="takes the optimizer alone"):
        scaler.step(optimizer, [None, None])
    with pytest.raises(objnet.errors.StaticAttributeError, match="growth_factor was changed inside"):
        objnet.jit(lambda: scaler.set_growth_factor(3.0))()
    half = nn.Linear(3, 2).half()
    sgd = optim.SGD(half.parameters(), 0.1)
    objnet.backward(lambda: scaler.scale(half(jnp.ones((1, 3), jnp.float16)).sum()))
    with pytest.raises(ValueError, match="Attempting to unscale FP16 gradients"):
        scaler.step(sgd)
    for wrong in ({"growth_factor": 1.0}, {"backoff_factor": 1.0}):
        with pytest.raises(AssertionError, match="must be"):
            amp.GradScaler("cpu", **wrong)


def test_not_enabled_it_does_nothing():
    model, optimizer, scaler = _setup(enabled=False)
    x, y = _batch(1)
    assert scaler.scale(3) == 3 and scaler.get_scale() == 1.0 and scaler.state_dict() == {} and not scaler.is_enabled()
    loss = scaler.step(optimizer, lambda: F.mse_loss(model(x), y))  # as the optimizer's own
    scaler.unscale_(optimizer)
    scaler.update()
    scaler.load_state_dict({})
    assert loss.shape == () and float(optimizer.state[model.weight]["step"]) == 1


def test_saving_and_copying():
    model, optimizer, scaler = _setup()
    step = _stepper(model, optimizer, scaler)
    for factor in (1, np.inf, 1):
        step(*_batch(factor))
    other = amp.GradScaler("cpu")
    other.load_state_dict(scaler.state_dict())
    for twin in (other, copy.deepcopy(scaler), pickle.loads(pickle.dumps(scaler))):
        assert (
            twin.state_dict()
            == scaler.state_dict()
            == {"scale": 64.0, **{k: SETTINGS[k] for k in list(SETTINGS)[1:]}, "_growth_tracker": 1}
        )
    objnet.backward(lambda: scaler.scale(model(jnp.ones((1, 3))).sum()))
    scaler.unscale_(optimizer)
    with pytest.raises(AssertionError, match="may only be pickled"):
        pickle.dumps(scaler)
    scaler.update(jnp.full((1,), 16.0))
    assert scaler.get_scale() == 16.0 and (
        scaler.get_growth_factor(),
        scaler.get_backoff_factor(),
        scaler.get_growth_interval(),
    ) == (4.0, 0.25, 2)
    with pytest.raises(AssertionError, match="1 element"):
        scaler.update(jnp.ones(2))


def test_growth_never_ends_in_infinity():
    model, optimizer, scaler = _setup("SGD", init_scale=2.0**126, growth_interval=1)
    optimizer.param_groups[0]["lr"] = 0.0

    @objnet.jit
    def step():
        objnet.backward(lambda: scaler.scale(model(jnp.full((1, 3), 1e-30)).sum() * 1e-10))
        scaler.step(optimizer)
        scaler.update()

    step()
    assert scaler.get_scale() == 2.0**126 and scaler._get_growth_tracker() == 0


def test_autocast_takes_the_device_type_first():
    model = nn.Linear(3, 2)
    x = jnp.ones((4, 3))
    for device, dtype in (("cpu", jnp.bfloat16), ("cuda", jnp.float16)):
        with amp.autocast(device):
            assert model(x).dtype == dtype
        with amp.autocast(device_type=device, dtype=jnp.bfloat16, cache_enabled=False):
            assert model(x).dtype == jnp.bfloat16
            with amp.autocast(device, enabled=False):
                assert model(x).dtype == jnp.float32
    assert amp.is_autocast_available("cpu") and not amp.is_autocast_available("abacus")
    with pytest.raises(ValueError, match="of type `str`"):
        amp.autocast(jnp.float16)
    with pytest.raises(RuntimeError, match="unsupported autocast device_type 'abacus'"):
        amp.autocast("abacus")


def test_float16_training_with_a_scale_that_is_too_large_at_first():
    objnet.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer, scaler = optim.SGD(model.parameters(), 0.05), amp.GradScaler("cuda", init_scale=2.0**20)

    @objnet.jit
    def step(x, y):
        optimizer.zero_grad()

        def loss():
            with amp.autocast("cuda"):
                return scaler.scale(F.mse_loss(model(x), y))

        value = objnet.backward(loss)
        scaler.step(optimizer)
        scaler.update()
        return value / scaler.get_scale()

    x, y = _batch(1)
    losses = [float(step(x, y)) for _ in range(30)]
    assert scaler.get_scale() < 2.0**20 and np.isfinite(list(map(np.sum, jax.tree.leaves(dict(model.state_dict()))))).all()
    assert losses[-1] < 0.8 * losses[0]
