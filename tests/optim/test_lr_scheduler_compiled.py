"""Schedulers beside compiled steps: one trace a schedule, no false warnings, and what is refused inside."""

from __future__ import annotations

import copy
import inspect
import pickle
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from objnet import errors, jit, optim
from objnet.core.variable import Parameter
from objnet.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau, SequentialLR, StepLR
from tests.optim.models import Linear, Traces, mean_square
from tests.optim.scheduler_cases import EACH, advance, make

X = jnp.ones((4, 3))
OPTIONS = {"SGD": {"momentum": 0.9, "weight_decay": 0.01}, "Adam": {"weight_decay": 0.01}, "AdamW": {}}
BEFORE = r"called before optimizer\.step"


def two_groups(name="SGD", model=None):
    model = model or Linear(3, 2)
    groups = [{"params": [model.weight], "lr": 0.1}, {"params": [model.bias], "lr": 0.03}]
    return model, getattr(optim, name)(groups, **OPTIONS[name])


@pytest.mark.parametrize("name", ["CyclicLR", "OneCycleLR"])
@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_compiled_steps_use_the_rates_and_momenta_of_now(kind, name):
    args = (0.01, 0.2, 3) if name == "CyclicLR" else (0.2, 8)
    pairs = [two_groups(kind) for _ in range(2)]
    schedulers = [getattr(optim.lr_scheduler, name)(optimizer, *args) for _, optimizer in pairs]
    steps = [f(lambda x, m=m, o=o: o.step(lambda: mean_square(m(x)))) for f, (m, o) in zip((jit, lambda f: f), pairs)]
    for _ in range(8):
        for step, scheduler in zip(steps, schedulers):
            step(X)
            scheduler.step()
    for p, q in zip(pairs[0][0].parameters(), pairs[1][0].parameters()):
        np.testing.assert_allclose(p._read(), q._read(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("captured", [False, True])
def test_one_trace_for_all_schedules(captured):
    """Whole schedules of all schedulers, one after another, share one program for each kind of optimizer."""
    for name in OPTIONS:
        traces = Traces()
        for case in (c for c in EACH if c.optimizer == name):
            model, optimizer = two_groups(name)
            scheduler = make(optim, case, optimizer)

            if captured:

                @jit
                def step(x):
                    traces.note()
                    rates = jnp.stack(scheduler.get_last_lr())
                    return optimizer.step(lambda: mean_square(model(x))), rates
            else:

                @jit
                def step(x):
                    traces.note()
                    return optimizer.step(lambda: mean_square(model(x))), jnp.zeros(2)

            before = traces.count
            for i in range(25):
                rates = step(X)[1]
                if captured:
                    np.testing.assert_allclose(rates, np.float32(scheduler.get_last_lr()), rtol=1e-6)
                advance(scheduler, i)
            assert traces.count - before <= 1, case
        assert captured or traces.count == 1, name  # a scheduler's class is part of a program that reads it


def test_a_momentum_of_zero_is_a_program_of_its_own():
    """A cycle that touches zero compiles two programs, and no more however often it comes by."""
    traces = Traces()
    model, optimizer = two_groups()
    other, eager = two_groups()
    made = [optim.lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=3, base_momentum=0.0) for o in (optimizer, eager)]

    @jit
    def step(x):
        traces.note()
        return optimizer.step(lambda: mean_square(model(x)))

    seen = []
    for _ in range(20):
        step(X)
        eager.step(lambda: mean_square(other(X)))
        seen.append(optimizer.param_groups[0]["momentum"])
        for scheduler in made:
            scheduler.step()
    assert traces.count == 2 and seen.count(0.0) == 3
    np.testing.assert_allclose(model.weight._read(), other.weight._read(), rtol=1e-5)


def test_learning_rates_that_reach_zero():
    traces = Traces()
    model, optimizer = two_groups("Adam")
    scheduler = optim.lr_scheduler.PolynomialLR(optimizer, total_iters=3)

    @jit
    def step(x):
        traces.note()
        return optimizer.step(lambda: mean_square(model(x)))

    values = []
    for _ in range(6):
        step(X)
        scheduler.step()
        values.append(np.asarray(model.weight._read()))
    assert scheduler.get_last_lr() == [0.0, 0.0] and traces.count == 1
    np.testing.assert_array_equal(values[-1], values[-2])
    assert not np.array_equal(values[1], values[2])


def test_steady_state_moves_only_the_new_numbers():
    model, optimizer = two_groups()
    scheduler = StepLR(optimizer, 1, 0.9)
    step = jit(lambda x: optimizer.step(lambda: mean_square(model(x))))
    step(X)
    for _ in range(3):
        scheduler.step()
        with jax.transfer_guard("disallow"):
            step(X)


# -- order of steps ----------------------------------------------------------------------------------------------------


def compiled(model, optimizer):
    return jit(lambda x: optimizer.step(lambda: mean_square(model(x))))


def test_the_wrong_order_warns_once():
    _, optimizer = two_groups()
    scheduler = StepLR(optimizer, 3)
    with pytest.warns(UserWarning, match=BEFORE) as seen:
        scheduler.step()
    assert len(seen) == 1 and seen[0].filename == __file__
    scheduler.step()  # warnings are errors


def test_the_right_order_does_not():
    model, optimizer = two_groups()
    scheduler = StepLR(optimizer, 3)
    optimizer.step()  # without gradients nothing changes, and it is a step
    scheduler.step()


def test_compiled_steps_count_without_a_trace():
    model, optimizer = two_groups()
    step = compiled(model, optimizer)
    step(X)
    first = StepLR(optimizer, 3)  # made after the trace: no Python will run any more
    step(X)
    first.step()
    StepLR(optimizer, 3).step()
    # A second pair that takes the first one's program.
    traces = Traces()
    for _ in range(2):
        model, optimizer = two_groups()
        scheduler = StepLR(optimizer, 3)

        @jit
        def step(x):
            traces.note()
            return optimizer.step(lambda: mean_square(model(x)))

        step(X)
        scheduler.step()
    assert traces.count == 1


def test_steps_before_the_scheduler_do_not_count():
    model, optimizer = two_groups()
    step = compiled(model, optimizer)
    step(X)
    optimizer.step()
    scheduler = StepLR(optimizer, 3)
    with pytest.warns(UserWarning, match=BEFORE):
        scheduler.step()


def test_attaching_a_scheduler_costs_no_trace():
    traces = Traces()
    model, optimizer = two_groups()

    @jit
    def step(x):
        traces.note()
        return optimizer.step(lambda: mean_square(model(x)))

    step(X)
    schedulers = [StepLR(optimizer, 3)]
    step(X)
    schedulers += [LambdaLR(optimizer, lambda i: 0.5), ReduceLROnPlateau(optimizer)]
    schedulers += [optim.swa_utils.SWALR(optimizer, 0.1), optim.lr_scheduler.OneCycleLR(optimizer, 0.1, 30)]
    step(X)
    assert traces.count == 1


def test_an_overridden_step_warns():
    _, optimizer = two_groups()
    scheduler = StepLR(optimizer, 3)
    optimizer.step = lambda: None
    with pytest.warns(UserWarning, match=r"optimizer\.step\(\) was overridden"):
        scheduler.step()
    StepLR(two_groups()[1], 3)


def test_optimizers_with_a_step_of_their_own_do_not_warn():
    class Descent(optim.Optimizer):
        def __init__(self, params, lr=0.1):
            super().__init__(params, {"lr": lr})

        def step(self):
            pass

    scheduler = StepLR(Descent([Parameter(jnp.ones(2))]), 1)
    scheduler.step()
    assert scheduler.get_last_lr() == [0.1 * 0.1]


def test_making_a_sequence_of_sequences_does_not_warn():
    _, optimizer = two_groups()
    inner = SequentialLR(optimizer, [StepLR(optimizer, 2), StepLR(optimizer, 3)], [2])
    SequentialLR(optimizer, [inner, StepLR(optimizer, 4)], [5])  # torch warns here


def test_watching_keeps_nothing_alive():
    import gc
    import weakref

    model, optimizer = two_groups()
    StepLR(optimizer, 3)
    ends = [weakref.ref(model.weight), weakref.ref(optimizer)]
    first = weakref.ref(model.weight._value)
    optimizer.step(lambda: mean_square(model(X)))  # noqa: F821
    gc.collect()
    assert first() is None  # the values of then, while the optimizer lives
    del model, optimizer
    gc.collect()
    assert [end() for end in ends] == [None] * 2


# -- inside ------------------------------------------------------------------------------------------------------------


def test_stepping_or_making_inside_is_refused_before_anything_changes():
    model, optimizer = two_groups()
    for case in EACH:
        if case.optimizer != "SGD":
            continue
        scheduler = make(optim, case, optimizer)
        before = copy.deepcopy(scheduler.state_dict()), [dict(g) for g in optimizer.param_groups]
        args = (1.0,) if case.name == "ReduceLROnPlateau" else ()
        with pytest.raises(errors.StaticAttributeError, match=f"{case.name} was stepped inside a compiled function"):
            jit(lambda: scheduler.step(*args))()
        after = scheduler.state_dict(), [dict(g) for g in optimizer.param_groups]
        for state in (before[0], after[0]):
            state.pop("lr_lambdas", None), state.pop("_schedulers", None)
        assert after == before
    with pytest.raises(errors.StaticAttributeError, match="StepLR was made inside a compiled function"):
        jit(lambda: StepLR(optimizer, 3).get_last_lr())()


def test_what_would_be_baked_in_cannot_be_read_inside():
    model, optimizer = two_groups()
    scheduler = StepLR(optimizer, 3)
    for read in (
        lambda: jnp.ones(()) * scheduler.last_epoch,
        lambda: scheduler._last_lr[0] * 1.0,
        lambda: scheduler.state_dict(),
    ):
        with pytest.raises(errors.StaticAttributeError, match="was read inside a compiled function"):
            jit(read)()

    def write():
        scheduler.last_epoch = 3

    with pytest.raises(errors.StaticAttributeError, match="StepLR was changed inside"):
        jit(write)()
    assert scheduler.last_epoch == 0 and scheduler.get_last_lr() == [0.1, 0.03]


def test_a_trainer_that_holds_everything():
    class Trainer:
        def __init__(self):
            self.model, self.optimizer = two_groups()
            self.scheduler = Warm(self.optimizer)

        def update(self, x):
            traces.note()
            return self.optimizer.step(lambda: mean_square(self.model(x)))

    class Warm(LRScheduler):
        """A user's scheduler, with a state of its own."""

        def __init__(self, optimizer):
            self.seen = []
            super().__init__(optimizer)

        def get_lr(self):
            self.seen.append(self.last_epoch)
            return [base * min(1.0, (1 + self.last_epoch) / 4) for base in self.base_lrs]

    traces = Traces()
    trainer = Trainer()
    step = jit(trainer.update)
    for _ in range(6):
        step(X)
        trainer.scheduler.step()
    assert traces.count == 1 and trainer.scheduler.seen == [*range(7)]
    assert trainer.scheduler.get_last_lr() == [0.1, 0.03]


# -- plain Python ------------------------------------------------------------------------------------------------------


def test_plateau_takes_arrays_and_reads_them_once():
    for value in (0.5, np.float32(0.5), np.array([0.5]), jnp.asarray(0.5), jnp.ones((1, 1)) * 0.5, Parameter(jnp.asarray(0.5))):
        scheduler = ReduceLROnPlateau(two_groups()[1])
        scheduler.step(value)
        assert scheduler.best == 0.5 and type(scheduler.best) is float
    with pytest.raises(ValueError, match="metrics must be 1-element"):
        scheduler.step(jnp.ones(2))
    assert scheduler.last_epoch == 1


def test_a_loss_from_a_compiled_step_drives_plateau():
    model, optimizer = two_groups()
    scheduler = ReduceLROnPlateau(optimizer, mode="max", patience=0, factor=0.5)  # the loss falls
    step = compiled(model, optimizer)
    for _ in range(3):
        scheduler.step(step(X))
    assert scheduler.get_last_lr() == [0.1 * 0.25, 0.03 * 0.25]


def test_factors_may_be_arrays():
    _, optimizer = two_groups()
    scheduler = LambdaLR(optimizer, lambda i: jnp.cos(jnp.pi * i / 8))
    optimizer.step()
    scheduler.step()
    assert [type(lr) for lr in scheduler.get_last_lr()] == [float, float]
    np.testing.assert_allclose(scheduler.get_last_lr(), np.array([0.1, 0.03]) * np.cos(np.pi / 8), rtol=1e-6)


def test_get_lr_outside_a_step_warns():
    for case in EACH:
        if case.name in ("ReduceLROnPlateau", "SequentialLR", "ChainedScheduler"):
            continue
        scheduler = make(optim, case, two_groups(case.optimizer)[1])
        with pytest.warns(UserWarning, match="get_last_lr") as seen:
            scheduler.get_lr()
        assert seen[0].filename == __file__


def test_copies_and_pickles_go_on():
    for case in EACH:
        scheduler = make(optim, case, two_groups(case.optimizer)[1])
        scheduler.optimizer.step()
        advance(scheduler, 0)
        copies = [copy.deepcopy(scheduler)]
        if not any("lambda" in repr(v) for v in vars(scheduler).values()) and not hasattr(scheduler, "_schedulers"):
            copies.append(pickle.loads(pickle.dumps(scheduler)))
        for one in (scheduler, *copies):
            advance(one, 1)
        for one in copies:
            assert one.optimizer is not scheduler.optimizer
            assert one.get_last_lr() == scheduler.get_last_lr() == [g["lr"] for g in one.optimizer.param_groups]


def test_state_dicts_go_into_files(tmp_path):
    import objnet

    for case in EACH:
        scheduler = make(optim, case, two_groups(case.optimizer)[1])
        scheduler.optimizer.step()
        for i in range(12):
            advance(scheduler, i)
        state = scheduler.state_dict()
        if case.name == "MultiStepLR":
            state["milestones"] = dict(state["milestones"])  # torch's Counter is no type for files
        objnet.save({"scheduler": state, "optimizer": scheduler.optimizer.state_dict()}, tmp_path / "state")
        loaded = objnet.load(tmp_path / "state")
        fresh = make(optim, case, two_groups(case.optimizer)[1])
        fresh.load_state_dict(loaded["scheduler"])
        fresh.optimizer.load_state_dict(loaded["optimizer"])
        for one in (scheduler, fresh):
            for i in range(12, 40):
                advance(one, i)
        assert fresh.get_last_lr() == scheduler.get_last_lr(), case


def test_public_names_have_docstrings():
    for name in optim.lr_scheduler.__all__:
        kind = getattr(optim.lr_scheduler, name)
        assert kind.__doc__ and "Args:" in kind.__doc__
        for member, value in vars(kind).items():
            if inspect.isfunction(value) and not member.startswith("_") and member not in ("get_lr", "forward"):
                assert value.__doc__, (name, member)


def test_no_warning_reaches_a_well_ordered_loop():
    model, optimizer = two_groups("Adam")
    made = [make(optim, c, optimizer) for c in EACH if c.name not in ("CyclicLR", "OneCycleLR")]
    step = compiled(model, optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for i in range(3):
            step(X)
            for scheduler in made:
                advance(scheduler, i)
