"""``optimizer.state`` as torch users read and write it, and optimizers of the user's own that live in it."""

from __future__ import annotations

import collections
import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import objnet
from objnet import errors, nn, optim

torch = pytest.importorskip("torch")
X = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


class Momentum(optim.Optimizer):
    """As torch's users write one, moved over line by line."""

    def __init__(self, params, lr=0.1, momentum=0.9):
        super().__init__(params, {"lr": lr, "momentum": momentum})

    def step(self, closure=None):
        loss = None if closure is None else closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if len(state) == 0:
                    state["step"] = 0
                    state["buf"] = jnp.array(p.grad)
                else:
                    state["buf"] = state["buf"] * group["momentum"] + p.grad
                state["step"] += 1
                p.add_(state["buf"], alpha=-group["lr"])
        return loss


class TorchMomentum(torch.optim.Optimizer):
    def __init__(self, params, lr=0.1, momentum=0.9):
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if len(state) == 0:
                    state["step"] = 0
                    state["buf"] = p.grad.clone()
                else:
                    state["buf"] = state["buf"] * group["momentum"] + p.grad
                state["step"] += 1
                p.add_(state["buf"], alpha=-group["lr"])


def _torchs(steps):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = TorchMomentum(model.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(torch.tensor(X)) ** 2).mean().backward()
        optimizer.step()
        scheduler.step()
    return model, optimizer


def _ours(steps, compiled, resume_at=None):
    objnet.manual_seed(0)
    model = nn.Linear(3, 2)
    traces = []

    def build():
        optimizer = Momentum(model.parameters())

        def step():
            traces.append(1)
            optimizer.zero_grad()
            objnet.backward(lambda: (model(X) ** 2).mean())
            optimizer.step()

        return optimizer, objnet.jit(step) if compiled else step

    optimizer, step = build()
    scheduler = optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    for i in range(steps):
        if i == resume_at:
            saved = optimizer.state_dict()
            optimizer, step = build()
            optimizer.load_state_dict(saved)
            held, scheduler = scheduler.state_dict(), optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
            scheduler.load_state_dict(held)
            optimizer.param_groups[0]["lr"] = saved["param_groups"][0]["lr"]
        step()
        scheduler.step()
    return model, optimizer, traces


@pytest.mark.parametrize("resume_at", [None, 3])
@pytest.mark.parametrize("compiled", [False, True])
def test_an_optimizer_of_the_users_own_equals_torchs(compiled, resume_at):
    want, wanted = _torchs(7)
    model, optimizer, traces = _ours(7, compiled, resume_at)
    np.testing.assert_allclose(model.weight._read(), want.weight.detach().numpy(), rtol=1e-5, atol=1e-6)
    state, state_wanted = optimizer.state_dict()["state"], wanted.state_dict()["state"]
    assert int(state[0]["step"]) == state_wanted[0]["step"] == 7
    np.testing.assert_allclose(state[1]["buf"], state_wanted[1]["buf"].numpy(), rtol=1e-5, atol=1e-6)
    if compiled:
        assert len(traces) <= 4  # without state, and with it
    other = Momentum(model.parameters())
    other.load_state_dict(wanted.state_dict())  # torch's own
    np.testing.assert_allclose(other.state[model.weight]["buf"], state_wanted[0]["buf"].numpy())


def _stepped(kind=optim.Adam, **options):
    objnet.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = kind(model.parameters(), lr=0.1, **options)

    def step():
        return optimizer.step(lambda: (model(X) ** 2).mean())

    return model, optimizer, step


@pytest.mark.parametrize("compiled", [False, True])
def test_writes_reach_the_steps_as_torchs(compiled):
    model, optimizer, step = _stepped()
    step = objnet.jit(step) if compiled else step
    theirs = torch.nn.Linear(3, 2)
    theirs.load_state_dict({k: torch.tensor(np.asarray(v)) for k, v in model.state_dict().items()})
    other = torch.optim.Adam(theirs.parameters(), lr=0.1)

    def torchs():
        other.zero_grad()
        (theirs(torch.tensor(X)) ** 2).mean().backward()
        other.step()

    def same():
        np.testing.assert_allclose(model.weight._read(), theirs.weight.detach().numpy(), rtol=2e-5, atol=2e-6)
        np.testing.assert_allclose(model.bias._read(), theirs.bias.detach().numpy(), rtol=2e-5, atol=2e-6)

    def both():
        step(), torchs()
        same()

    both()
    optimizer.state[model.weight]["exp_avg"] = jnp.zeros((2, 3))
    other.state[theirs.weight]["exp_avg"] = torch.zeros(2, 3)
    both()
    optimizer.state[model.weight]["step"] = 10  # of this parameter alone
    other.state[theirs.weight]["step"] = torch.tensor(10.0)
    both()
    assert [float(s["step"]) for s in optimizer.state_dict()["state"].values()] == [11, 3]
    optimizer.state[model.bias]["exp_avg_sq"] *= 4
    other.state[theirs.bias]["exp_avg_sq"] *= 4
    both()
    optimizer.state[model.weight].clear()
    other.state[theirs.weight].clear()
    both()
    optimizer.state = collections.defaultdict(dict)
    other.state = collections.defaultdict(dict)
    both()
    assert float(optimizer.state[model.bias]["step"]) == 1
    del optimizer.state[model.bias], other.state[theirs.bias]
    assert list(optimizer.state) == [model.weight]
    both()
    optimizer.state[model.bias] = {"step": 3.0, "exp_avg": np.ones(2, np.float32), "exp_avg_sq": torch.ones(2)}
    other.state[theirs.bias] = {"step": torch.tensor(3.0), "exp_avg": torch.ones(2), "exp_avg_sq": torch.ones(2)}
    both()


def test_sharpness_aware_minimisation():
    """What wrappers keep in the state of the optimizer they wrap."""
    model, optimizer, step = _stepped(optim.SGD, momentum=0.9)
    start = np.asarray(model.weight)

    @objnet.jit
    def perturb():
        objnet.backward(lambda: (model(X) ** 2).mean())
        for p in model.parameters():
            optimizer.state[p]["old_p"] = p.data
            p.add_(p.grad, alpha=0.05)
        optimizer.zero_grad()

    def put_back():
        for p in model.parameters():
            p.data = optimizer.state[p]["old_p"]

    for _ in range(3):
        perturb()
        assert np.abs(np.asarray(model.weight) - start).max() > 1e-4
        put_back()
        np.testing.assert_array_equal(model.weight._read(), start)
    step()
    assert {*optimizer.state[model.weight]} == {"old_p", "momentum_buffer"}
    copied = copy.deepcopy(optimizer)
    assert {*next(iter(copied.state_dict()["state"].values()))} == {"old_p", "momentum_buffer"}


def test_pruning_and_replacing_parameters():
    """The state of a parameter taken out, changed, and given to the one in its place."""
    model, optimizer, step = _stepped()
    step()
    for values in optimizer.state.values():
        values["exp_avg"] = values["exp_avg"] * 0 + 2
    for _, values in optimizer.state.items():
        values["step"] = 7
    assert [float(s["step"]) for s in optimizer.state_dict()["state"].values()] == [7, 7]
    old, new = model.weight, nn.Parameter(jnp.ones((1, 3)))
    values = optimizer.state.get(old)
    values["exp_avg"], kept = values["exp_avg"][:1], values
    del optimizer.state[old]
    assert float(kept["step"]) == 7
    optimizer.param_groups[0]["params"][0] = new
    optimizer.state[new] = {**kept, "exp_avg_sq": kept["exp_avg_sq"][:1]}
    model.weight = new
    optimizer.step(lambda: (model.weight**2).mean())
    assert float(optimizer.state[new]["step"]) == 8 and optimizer.state[new]["exp_avg"].shape == (1, 3)
    popped = optimizer.state.pop(new)
    assert len(optimizer.state) == 1 and float(popped["step"]) == 8
    optimizer.state[new] = popped
    left = optimizer.param_groups[0]["params"].pop()
    optimizer.add_param_group({"params": [left], "lr": 0.5})
    assert float(optimizer.state[left]["step"]) == 7
    optimizer.param_groups.append({"params": [nn.Parameter(jnp.ones(2))]})
    with pytest.raises(TypeError, match="add groups by add_param_group"):
        optimizer.step(lambda: (model.weight**2).mean())


def test_what_was_taken_away_lives_on_by_itself():
    """Writing to it does not bring it back to the parameter."""
    model, optimizer, step = _stepped()
    step()
    values = optimizer.state[model.weight]
    del optimizer.state[model.weight]
    values["exp_avg"] = values["exp_avg"] * 0
    values["step"] = 5
    assert len(optimizer.state[model.weight]) == 0 and {*values} == {"step", "exp_avg", "exp_avg_sq"}
    del values["exp_avg_sq"]
    values["exp_avg_sq"] = jnp.ones((2, 3))
    step()
    assert float(optimizer.state[model.weight]["step"]) == 1
    optimizer.state[model.weight] = values
    assert float(optimizer.state[model.weight]["step"]) == 5
    values.clear()
    assert len(values) == 0 and float(optimizer.state[model.weight]["step"]) == 5
    live = optimizer.state[model.bias]
    step()
    assert float(live["step"]) == 3


def test_numbers_of_the_users_own_in_one_call_of_many_steps():
    """A schedule of what is part of the program would be ignored there."""
    model = nn.Linear(3, 2)
    optimizer = Momentum(model.parameters())
    scheduler = optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=20)  # which moves the momentum too
    before = np.asarray(model.weight), dict(optimizer.param_groups[0]), scheduler.state_dict()

    def step(x):
        optimizer.zero_grad()
        objnet.backward(lambda: (model(x) ** 2).mean())
        optimizer.step()

    with pytest.raises(ValueError, match="another number than lr of an optimizer of your own"):
        objnet.scan_steps(step, schedulers=scheduler)(np.stack([X] * 4))
    np.testing.assert_array_equal(before[0], model.weight._read())
    assert before[1] == dict(optimizer.param_groups[0]) and before[2] == scheduler.state_dict()


def test_made_with_a_number_inside_a_pure_function():
    def train():
        model = nn.Linear(3, 2)
        optimizer = Decayed(model.parameters())
        assert optimizer.calls == 0
        return model(X)

    net = objnet.transform_with_state(train)
    params, state = net.init(jax.random.key(0))
    assert net.apply(params, state, None)[0].shape == (5, 2)


class Decayed(Momentum):
    """Asks its numbers, as nearly all do."""

    def __init__(self, params, lr=0.1, momentum=0.9, weight_decay=0.1):
        optim.Optimizer.__init__(self, params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.calls = 0

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if group["weight_decay"] != 0 and p.grad is not None:
                    p.grad = p.grad + group["weight_decay"] * p.data
        return super().step(closure)


def test_numbers_of_a_group_that_decide():
    results, traces = [], []
    for compiled in (False, True):
        objnet.manual_seed(0)
        model = nn.Linear(3, 2)
        optimizer = Decayed(model.parameters())
        scheduler = optim.lr_scheduler.ExponentialLR(optimizer, 0.5)

        def step(model=model, optimizer=optimizer):
            traces.append(1)
            optimizer.zero_grad()
            objnet.backward(lambda: (model(X) ** 2).mean())
            optimizer.step()

        run = objnet.jit(step) if compiled else step
        traces.clear()
        for i in range(6):
            run()
            scheduler.step()
            if i == 3:
                optimizer.param_groups[0]["weight_decay"] = 0.0
        results.append(np.asarray(model.weight))
    np.testing.assert_allclose(*results, rtol=1e-5, atol=1e-6)
    assert len(traces) == 3  # without state, with it, without decay: the rate is data


@pytest.mark.parametrize("value", [1, jnp.ones(2), "text"])
def test_attributes_an_optimizer_changes_in_a_step(value):
    class Counting(optim.SGD):
        def step(self, closure=None):
            self.noted = value
            return super().step(closure)

    model = nn.Linear(3, 2)
    optimizer = Counting(model.parameters(), lr=0.1)
    run = objnet.jit(lambda: optimizer.step(lambda: model(X).mean()))
    before = np.asarray(model.weight)
    if isinstance(value, str):
        run(), run()
        assert optimizer.noted == value
        return
    with pytest.raises(errors.StaticAttributeError, match=r"this Counting.noted was changed inside.*self.state\[p\]"):
        run()
    assert "noted" not in vars(optimizer)
    np.testing.assert_array_equal(model.weight._read(), before)


def test_a_wrapper_that_calls_no_constructor():
    class Lookahead(optim.Optimizer):
        def __init__(self, inner, k=2):
            self.inner, self.k, self.count = inner, k, 0
            self.param_groups, self.defaults = inner.param_groups, inner.defaults
            self.state = collections.defaultdict(dict)

        def step(self, closure=None):
            loss = self.inner.step(closure)
            self.count += 1
            for p in self.param_groups[0]["params"]:
                slow = self.state[p].setdefault("slow", p.data)
                if self.count % self.k == 0:
                    p.data = self.state[p]["slow"] = slow + (p.data - slow) * 0.5
            return loss

    model = nn.Linear(3, 2)
    optimizer = Lookahead(optim.SGD(model.parameters(), lr=0.1))
    for _ in range(4):
        optimizer.step(lambda: (model(X) ** 2).mean())
    np.testing.assert_array_equal(optimizer.state[model.weight]["slow"], model.weight._read())


def test_what_cannot_be_state_is_refused():
    model, optimizer, step = _stepped()
    step()
    before = jax.tree.map(np.asarray, optimizer.state_dict()["state"])
    kept = optimizer.state[model.weight]["exp_avg"]
    optimizer.state[model.weight]["exp_avg"] = jnp.zeros(3)
    held = np.asarray(model.weight), np.asarray(model.bias)
    with pytest.raises(
        ValueError, match=r"'exp_avg' of Parameter 'weight' has shape \(3,\), and the parameter calls for \(2, 3\)"
    ):
        step()
    np.testing.assert_array_equal(held[0], model.weight._read())
    np.testing.assert_array_equal(held[1], model.bias._read())
    optimizer.state[model.weight]["exp_avg"] = kept
    with pytest.raises(TypeError, match="'note' was given str"):
        optimizer.state[model.weight]["note"] = "text"
    with pytest.raises(KeyError, match="does not hold"):
        optimizer.state[nn.Linear(1, 1).weight]
    with pytest.raises(KeyError):
        del optimizer.state[model.weight]["other"]
    with pytest.raises(errors.CompiledCallError, match="taken away inside a compiled function"):
        objnet.jit(lambda: optimizer.state[model.weight].clear())()
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.asarray, optimizer.state_dict()["state"]))


def test_a_traced_write_that_fails_leaves_nothing():
    model, optimizer, step = _stepped(optim.SGD)

    @objnet.jit
    def broken():
        optimizer.state[model.weight]["extra"] = model.weight.data * 2
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        broken()
    assert len(optimizer.state[model.weight]) == 0


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("whose", ["model", "optimizer"])
def test_gradients_filled_with_zeros(compiled, whose):
    """An unused head is decayed once its gradient is zero instead of None, as in torch."""

    def run(nn, optim, array, backward, jit):
        model, head = nn.Linear(3, 2), nn.Linear(2, 2)
        both = nn.ModuleList([model, head])
        optimizer = optim.AdamW(both.parameters(), lr=0.1, weight_decay=0.5)

        def loss(used):
            return ((head(model(array(X))) if used else model(array(X))) ** 2).mean()

        def step(used):
            (both if whose == "model" else optimizer).zero_grad(set_to_none=False)
            backward(lambda: loss(used))
            optimizer.step()

        return both, jit(step)

    theirs, torchs = run(torch.nn, torch.optim, torch.tensor, lambda f: f().backward(), lambda f: f)
    ours, step = run(nn, optim, jnp.asarray, objnet.backward, objnet.jit if compiled else lambda f: f)
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    for used in (False, True, False, False, True):
        torchs(used), step(used)
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            np.testing.assert_allclose(p._read(), q.detach().numpy(), rtol=1e-4, atol=1e-5)
            assert (p.grad is None) == (q.grad is None)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_forward_outside_the_closure_is_refused(compiled):
    model, optimizer, _ = _stepped()
    frozen = nn.Linear(3, 2).requires_grad_(False)
    out = model(jnp.asarray(X))
    wrong = [
        lambda: objnet.backward(lambda: out.mean()),
        lambda: optimizer.step(lambda: out.mean()),
        lambda: objnet.value_and_grad(lambda: out.mean(), wrt=model)(),
        lambda: objnet.grad(lambda: frozen(X).mean(), wrt=frozen)(),
        lambda: objnet.backward(lambda: frozen(X).mean()),
        lambda: objnet.backward(lambda: jax.lax.stop_gradient(model(X)).mean()),
    ]
    before = np.asarray(model.weight)
    for act in wrong:
        with pytest.raises(errors.DetachedLossError, match="does not require grad"):
            (objnet.jit(act) if compiled else act)()
    np.testing.assert_array_equal(model.weight._read(), before)
    # torch does not mind these: the loss has a gradient, though not for this optimizer
    assert objnet.value_and_grad(lambda x: x.sum(), argnums=())(jnp.ones(2)) == (2.0, ())
    other = optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    other.step(lambda: model(X).mean())
    used = nn.Linear(3, 1)
    assert objnet.grad(lambda: used(X).mean(), wrt=nn.ModuleList([used, model]))()["1.weight"] is None


def test_steps_saved_for_torch_are_apart(tmp_path):
    """torch counts them up in place."""
    model, optimizer, step = _stepped()
    for _ in range(4):
        step()
    tied = {"a": model.weight.data, "b": model.weight.data}
    objnet.save_torch({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "tied": tied}, tmp_path / "x.pt")
    saved = torch.load(tmp_path / "x.pt", weights_only=True)
    assert saved["tied"]["a"].data_ptr() == saved["tied"]["b"].data_ptr()
    theirs = torch.nn.Linear(3, 2)
    theirs.load_state_dict(saved["model"])
    other = torch.optim.Adam(theirs.parameters(), lr=0.1)
    other.load_state_dict(saved["optimizer"])
    for _ in range(3):
        step()
        other.zero_grad()
        (theirs(torch.tensor(X)) ** 2).mean().backward()
        other.step()
    assert [float(s["step"]) for s in other.state.values()] == [7, 7]
    np.testing.assert_allclose(model.weight._read(), theirs.weight.detach().numpy(), rtol=1e-5, atol=1e-6)
    loaded = optim.Adam(model.parameters(), lr=0.1)
    loaded.load_state_dict(jax.tree.map(lambda x: x, optimizer.state_dict()))  # which sorts the keys
    assert list(loaded.param_groups[0]) == list(optimizer.param_groups[0])


def test_an_optimizer_made_inside_a_compiled_function():
    def train(model):
        optimizer = Momentum(model.parameters())
        for _ in range(3):
            optimizer.zero_grad()
            objnet.backward(lambda: (model(X) ** 2).mean())
            optimizer.step()

    results = []
    for compiled in (False, True):
        objnet.manual_seed(0)
        model = nn.Linear(3, 2)
        run = objnet.jit(train) if compiled else train
        run(model), run(model)
        results.append(np.asarray(model.weight))
    np.testing.assert_allclose(*results, rtol=1e-5, atol=1e-6)


def test_an_optimizer_of_the_users_own_in_scan_steps():
    """What the first step begins to keep, the loop carries."""
    results = []
    batches = np.stack([X * i for i in range(1, 4)])
    for scanned in (False, True):
        objnet.manual_seed(0)
        model = nn.Linear(3, 2)
        optimizer = Momentum(model.parameters())

        def step(x, model=model, optimizer=optimizer):
            optimizer.zero_grad()
            objnet.backward(lambda: (model(x) ** 2).mean())
            optimizer.step()

        objnet.scan_steps(step)(batches) if scanned else [step(x) for x in batches]
        assert int(optimizer.state[model.weight]["step"]) == 3
        results.append(np.asarray(model.weight))
    np.testing.assert_allclose(*results, rtol=1e-5, atol=1e-6)
