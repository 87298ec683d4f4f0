"""Equality with torch: every scheduler's numbers and state dicts, over both libraries' state, and what is refused."""

from __future__ import annotations

import copy
import inspect
import math
import warnings

import hypothesis
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from objnet import optim
from objnet.core.variable import Parameter
from tests.optim.common import torch
from tests.optim.scheduler_cases import CASES, COMPOSITES, LEAVES, Power, advance, case_id, make, schedulers

STEPS = 200
OPTIONS = {"SGD": {"momentum": 0.9}, "Adam": {"betas": (0.85, 0.99)}, "AdamW": {}}
CLOSE = {"rtol": 1e-12, "atol": 0.0}


def pair(name="SGD", lrs=(0.1, 0.03), **options):
    """An optimizer of each library, with a group for each learning rate, that has stepped."""
    made = []
    for library, parameter in ((optim, lambda: Parameter(jnp.ones(2))), (torch.optim, lambda: torch.nn.Parameter(torch.ones(2)))):
        groups = [{"params": [parameter()], "lr": lr} for lr in lrs]
        made.append(getattr(library, name)(groups, **{**OPTIONS[name], **options}))
    return made


def both(case, lrs=(0.1, 0.03)):
    optimizers = pair(case.optimizer, lrs)
    made = [make(library, case, o) for library, o in zip((optim, torch.optim), optimizers)]
    for o in optimizers:
        o.step()
    return optimizers, made


def numbers(optimizer):
    keys = ("lr", "momentum", "betas", "initial_lr")
    return [[v for k in keys for v in np.ravel(g.get(k, ()))] for g in optimizer.param_groups]


def assert_same_state(found, expected, path="state"):
    """Equal keys in equal order, types and values; numbers to rounding, callables' attributes included."""
    if isinstance(expected, dict):
        assert list(found) == list(expected), path
        for key in expected:
            assert_same_state(found[key], expected[key], f"{path}[{key!r}]")
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected), path
        for i, (f, e) in enumerate(zip(found, expected)):
            assert_same_state(f, e, f"{path}[{i}]")
    elif isinstance(expected, float):
        assert isinstance(found, float) and math.isclose(found, expected, rel_tol=1e-12), (path, found, expected)
    else:
        assert type(found) is type(expected) and found == expected, (path, found, expected)


def assert_in_step(optimizers, made, steps):
    for i in steps:
        np.testing.assert_allclose(numbers(optimizers[0]), numbers(optimizers[1]), err_msg=f"before step {i}", **CLOSE)
        np.testing.assert_allclose(made[0].get_last_lr(), made[1].get_last_lr(), **CLOSE)
        for scheduler in made:
            advance(scheduler, i)
    np.testing.assert_allclose(numbers(optimizers[0]), numbers(optimizers[1]), **CLOSE)


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_equals_torch(case):
    optimizers, made = both(case)
    assert_same_state(made[0].state_dict(), made[1].state_dict())
    assert_in_step(optimizers, made, range(STEPS))
    assert_same_state(made[0].state_dict(), made[1].state_dict())
    for ours, theirs in zip(*(o.param_groups for o in optimizers)):
        assert ours.keys() - {"params"} == theirs.keys() - {"params"}


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_goes_on_from_the_other_librarys_state(case):
    optimizers, made = both(case)
    for i in range(70):
        for scheduler in made:
            advance(scheduler, i)
    states = [(o.state_dict(), copy.deepcopy(s.state_dict())) for o, s in zip(optimizers, made)]
    optimizers, made = both(case, lrs=(0.7, 0.8))  # which the loaded ones replace
    for o, s, (groups, state) in zip(optimizers, made, states[::-1]):
        before = copy.deepcopy(state)
        s.load_state_dict(state)
        o.load_state_dict(groups)
        if s is made[0]:
            assert_same_state(state, before)  # what is loaded is left as it was
    assert_same_state(made[0].state_dict(), made[1].state_dict())
    assert_in_step(optimizers, made, range(70, 130))


def trees(leaf):
    """Compositions torch can run: a sequence takes composites in the first place only."""

    def chain(parts):
        return st.builds(lambda s: ("chain", s), st.lists(parts, min_size=1, max_size=3))

    def sequence(first):
        rest = st.lists(st.tuples(leaf, st.integers(0, 12)), max_size=2)
        return st.builds(lambda f, r: ("sequence", f, r), first, rest)

    level = sequence(leaf) | chain(leaf)
    return level | chain(leaf | level) | sequence(level)


PLAIN = [c for c in LEAVES if c.optimizer == "SGD" and c.name not in ("CyclicLR", "OneCycleLR", "SWALR")]


def grow(tree, library, optimizer):
    if isinstance(tree, int):
        case = PLAIN[tree]
        return getattr(library, case.name)(optimizer, **case.arguments(library, optimizer))
    if tree[0] == "chain":
        return library.ChainedScheduler([grow(part, library, optimizer) for part in tree[1]])
    _, first, rest = tree
    parts = [grow(part, library, optimizer) for part in (first, *(part for part, _ in rest))]
    return library.SequentialLR(optimizer, parts, [*np.cumsum([1 + length for _, length in rest]).tolist()])


@hypothesis.settings(max_examples=60)
@hypothesis.given(trees(st.integers(0, len(PLAIN) - 1)))
def test_random_compositions_equal_torch(tree):
    optimizers = pair()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch sees steps out of order where a sequence begins with a composite
        theirs = grow(tree, schedulers(torch.optim), optimizers[1])
    made = [grow(tree, schedulers(optim), optimizers[0]), theirs]
    for o in optimizers:
        o.step()
    for i in range(25):
        lrs = [s.get_last_lr() for s in made]
        if not np.all(np.abs(lrs) < 1e100):
            return  # schedules that divide by rounding errors
        np.testing.assert_allclose(*lrs, **CLOSE)
        fates = []
        for scheduler in made:
            try:
                scheduler.step()
                fates.append(None)
            except (ZeroDivisionError, OverflowError, TypeError) as error:  # 1 / factor; a complex power
                fates.append(type(error))
        assert fates[0] == fates[1]
        if fates[0] or any(isinstance(g["lr"], complex) for g in optimizers[1].param_groups):
            return
    assert_same_state(made[0].state_dict(), made[1].state_dict())


@pytest.mark.parametrize("case", [c for c in LEAVES if c.name != "SWALR"], ids=case_id)
def test_the_epoch_argument_is_torchs(case):
    optimizers, made = both(case)
    for epoch in (3, 50, 2, 0, 31):
        for scheduler in made:
            if case.name == "CosineAnnealingWarmRestarts":
                scheduler.step(epoch + 0.25)
            else:
                with pytest.warns(UserWarning, match="epoch (argument|parameter)"):
                    scheduler.step(epoch)
        np.testing.assert_allclose(numbers(optimizers[0]), numbers(optimizers[1]), **CLOSE)
        assert made[0].last_epoch == made[1].last_epoch == epoch


def test_plateau_takes_an_epoch():
    optimizers = pair()
    made = [library.lr_scheduler.ReduceLROnPlateau(o) for library, o in zip((optim, torch.optim), optimizers)]
    for scheduler in made:
        with pytest.warns(UserWarning, match="epoch (argument|parameter)"):
            scheduler.step(1.0, 7)
    assert made[0].last_epoch == made[1].last_epoch == 7


def test_resuming_by_last_epoch():
    for name, options in (
        ("StepLR", {"step_size": 3}),
        ("CosineAnnealingLR", {"T_max": 9}),
        ("LinearLR", {"total_iters": 20}),
        ("OneCycleLR", {"max_lr": 1.0, "total_steps": 30}),
        ("CyclicLR", {"base_lr": 0.1, "max_lr": 1.0, "step_size_up": 5}),
        ("CosineAnnealingWarmRestarts", {"T_0": 4}),
    ):
        optimizers = pair()
        made = []
        for library, o in zip((optim, torch.optim), optimizers):
            kind = getattr(library.lr_scheduler, name)
            kind(o, **options)
            made.append(kind(o, last_epoch=6, **options))
            o.step()
        assert_in_step(optimizers, made, range(15))


def test_cosine_annealing_from_a_count_set_back():
    optimizers, made = both(next(c for c in CASES if c.name == "CosineAnnealingLR" and "25" in c.label))
    for scheduler in made:
        scheduler._step_count, scheduler.last_epoch = 0, 9
        scheduler.step()
    assert made[0].get_last_lr() != [0.1, 0.03]
    assert_in_step(optimizers, made, range(5))


def test_names_signatures_and_bases_are_torchs():
    assert set(optim.lr_scheduler.__all__) == set(torch.optim.lr_scheduler.__all__)
    names = [*torch.optim.lr_scheduler.__all__, "_LRScheduler"]
    for name in names:
        ours, theirs = getattr(optim.lr_scheduler, name), getattr(torch.optim.lr_scheduler, name)
        assert ours.__name__ == name and issubclass(ours, optim.lr_scheduler.LRScheduler)
        a, b = (inspect.signature(kind).parameters.values() for kind in (ours, theirs))
        assert [(p.name, p.kind, p.default) for p in a] == [(p.name, p.kind, p.default) for p in b], name
        assert inspect.signature(ours.step).parameters.keys() == inspect.signature(theirs.step).parameters.keys()
    shared = {n for n in vars(torch.optim.lr_scheduler.LRScheduler) if not n.startswith("__")}
    assert shared <= set(dir(optim.lr_scheduler.LRScheduler))


WRONG = {
    "no optimizer": lambda s, o: s.StepLR([1], 3),
    "no optimizer for a cycle": lambda s, o: s.OneCycleLR(None, 1.0, 10),
    "no optimizer for a plateau": lambda s, o: s.ReduceLROnPlateau(3),
    "no initial_lr": lambda s, o: s.StepLR(o, 3, last_epoch=4),
    "one lambda for two groups": lambda s, o: s.LambdaLR(o, [lambda i: 1.0]),
    "no lambda": lambda s, o: s.MultiplicativeLR(o, [0.9, 0.8]),
    "constant factor": lambda s, o: s.ConstantLR(o, factor=1.5),
    "start_factor": lambda s, o: s.LinearLR(o, start_factor=0.0),
    "end_factor": lambda s, o: s.LinearLR(o, end_factor=-1.0),
    "plateau factor": lambda s, o: s.ReduceLROnPlateau(o, factor=1.0),
    "plateau mode": lambda s, o: s.ReduceLROnPlateau(o, mode="mid"),
    "threshold mode": lambda s, o: s.ReduceLROnPlateau(o, threshold_mode="no"),
    "min_lr": lambda s, o: s.ReduceLROnPlateau(o, min_lr=[0.1]),
    "T_0": lambda s, o: s.CosineAnnealingWarmRestarts(o, 0),
    "T_mult": lambda s, o: s.CosineAnnealingWarmRestarts(o, 3, 0),
    "T_mult float": lambda s, o: s.CosineAnnealingWarmRestarts(o, 3, 1.5),
    "eta_min": lambda s, o: s.CosineAnnealingWarmRestarts(o, 3, eta_min="0"),
    "negative epoch": lambda s, o: s.CosineAnnealingWarmRestarts(o, 3).step(-1),
    "cycle mode": lambda s, o: s.CyclicLR(o, 0.1, 1.0, mode="square"),
    "cycle lrs": lambda s, o: s.CyclicLR(o, [0.1], 1.0),
    "one cycle lrs": lambda s, o: s.OneCycleLR(o, [0.1, 0.2, 0.3], 10),
    "no length": lambda s, o: s.OneCycleLR(o, 0.1, epochs=3),
    "total_steps": lambda s, o: s.OneCycleLR(o, 0.1, total_steps=0),
    "epochs": lambda s, o: s.OneCycleLR(o, 0.1, epochs=-3, steps_per_epoch=3),
    "steps_per_epoch": lambda s, o: s.OneCycleLR(o, 0.1, epochs=3, steps_per_epoch=0.5),
    "pct_start": lambda s, o: s.OneCycleLR(o, 0.1, 10, pct_start=2.0),
    "anneal_strategy": lambda s, o: s.OneCycleLR(o, 0.1, 10, anneal_strategy="cubic"),
    "swa lrs": lambda s, o: s.SWALR(o, [0.1]),
    "swa strategy": lambda s, o: s.SWALR(o, 0.1, anneal_strategy="cubic"),
    "swa epochs": lambda s, o: s.SWALR(o, 0.1, anneal_epochs=-1),
    "empty sequence": lambda s, o: s.SequentialLR(o, [], []),
    "milestones": lambda s, o: s.SequentialLR(o, [s.StepLR(o, 3)], [3]),
    "sequence of numbers": lambda s, o: s.SequentialLR(o, [3], []),
    "plateau in a sequence": lambda s, o: s.SequentialLR(o, [s.ReduceLROnPlateau(o)], []),
    "plateau in a chain": lambda s, o: s.ChainedScheduler([s.ReduceLROnPlateau(o)]),
    "empty chain": lambda s, o: s.ChainedScheduler([]),
    "other optimizer": lambda s, o: s.ChainedScheduler([s.StepLR(o, 3), s.StepLR(copy.copy(o), 3)]),
    "other optimizer in a sequence": lambda s, o: s.SequentialLR(o, [s.StepLR(copy.copy(o), 3)], []),
    "get_lr of the base": lambda s, o: s.LRScheduler(o),
    "a step too many": lambda s, o: [s.step() for s in [s.OneCycleLR(o, 0.1, 1)] for _ in range(3)],
}


@pytest.mark.parametrize("build", WRONG.values(), ids=WRONG)
def test_bad_input_raises_as_torch(build):
    raised = []
    for library, optimizer in zip((optim, torch.optim), pair()):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(Exception) as info:
                build(schedulers(library), optimizer)
        raised.append(info.value)
    assert type(raised[0]) is type(raised[1])
    assert len(str(raised[0])) >= 10


@pytest.mark.parametrize("kind", ["CyclicLR", "OneCycleLR"])
def test_momentum_needs_an_optimizer_that_has_it(kind):
    optimizer = optim.Adagrad([Parameter(jnp.ones(2))])
    args = (0.1, 1.0) if kind == "CyclicLR" else (0.1, 10)
    with pytest.raises(ValueError, match="Adagrad has neither: pass cycle_momentum=False"):
        getattr(optim.lr_scheduler, kind)(optimizer, *args)
    assert dict(optimizer.param_groups[0])["lr"] == 0.01  # nothing was written
    getattr(optim.lr_scheduler, kind)(optimizer, *args, cycle_momentum=False)


def test_torchs_optimizer_is_told_apart():
    with pytest.raises(TypeError, match="it is torch's"):
        optim.lr_scheduler.StepLR(pair()[1], 3)


def test_a_group_added_later():
    """Those that multiply follow; those that keep numbers for each group say what to do. As in torch, but for the words."""
    for case in (c for c in CASES if c not in COMPOSITES):
        optimizers, made = both(case)
        fates = []
        for o, scheduler, new in zip(optimizers, made, (Parameter(jnp.ones(2)), torch.nn.Parameter(torch.ones(2)))):
            o.add_param_group({"params": [new], "lr": 0.5})
            try:
                for i in range(4):
                    advance(scheduler, i)
                fates.append(numbers(o))
            except Exception as error:
                fates.append(error)
        if isinstance(fates[1], Exception):
            assert type(fates[0]) is type(fates[1]), case_id(case)
            assert "add_param_group" in str(fates[0])
        else:
            for a, b in zip(*fates):
                np.testing.assert_allclose(a, b, err_msg=case_id(case), **CLOSE)


def test_plateau_follows_added_groups():
    optimizers = pair()
    options = ({"patience": 0}, {"patience": 0, "min_lr": [0.001, 0.002]})
    made = [
        [library.lr_scheduler.ReduceLROnPlateau(o, **k) for k in options] for library, o in zip((optim, torch.optim), optimizers)
    ]
    for o, (plain, listed), new in zip(optimizers, made, (Parameter(jnp.ones(2)), torch.nn.Parameter(torch.ones(2)))):
        o.add_param_group({"params": [new], "lr": 0.5})
        for _ in range(3):
            plain.step(1.0)
        listed.step(1.0)
        with pytest.raises(RuntimeError, match="min_lrs"):
            listed.step(1.0)
        listed.min_lrs = [0.1, 0.1, 0.1]
        listed.step(1.0)
    np.testing.assert_allclose(
        [g["lr"] for g in optimizers[0].param_groups], [g["lr"] for g in optimizers[1].param_groups], **CLOSE
    )
    assert made[0][0].min_lrs == made[1][0].min_lrs == [0, 0, 0]


def test_callables_in_state_dicts():
    for kind in ("LambdaLR", "MultiplicativeLR"):
        ours, theirs = ([Power(0.5), lambda i: 1.0] for _ in range(2))
        made = [getattr(library.lr_scheduler, kind)(o, f) for library, o, f in zip((optim, torch.optim), pair(), (ours, theirs))]
        states = [s.state_dict()["lr_lambdas"] for s in made]
        assert states[0] == states[1] == [{"base": 0.5}, None]
        ours[0].base = 0.25
        assert states[0] == [{"base": 0.5}, None]  # a copy
        made[0].load_state_dict(made[1].state_dict())
        assert ours[0].base == 0.5
        with pytest.raises(ValueError, match="1 lr_lambdas, and the scheduler 2"):
            made[0].load_state_dict({**made[1].state_dict(), "lr_lambdas": [None]})
    optimizer = pair()[0]
    assert optim.lr_scheduler.LambdaLR(optimizer, math.sqrt).state_dict()["lr_lambdas"] == [None, None]  # torch raises
    scheduler = optim.lr_scheduler.CyclicLR(optimizer, 0.1, 1.0, scale_fn=Power(0.5))
    state = scheduler.state_dict()
    assert state["_scale_fn_custom"] == {"base": 0.5}
    scheduler._scale_fn_custom.base = 0.1
    for _ in range(2):  # torch takes the entry out of the dict it loads
        scheduler.load_state_dict(state)
    assert scheduler.scale_fn(2) == 0.25
    with pytest.raises(ValueError, match="make the scheduler with that scale_fn"):
        optim.lr_scheduler.CyclicLR(optimizer, 0.1, 1.0).load_state_dict(state)


def test_a_tensor_lr_is_saved_as_tensors_by_torch_and_loaded_as_numbers():
    theirs = torch.optim.Adam([torch.nn.Parameter(torch.ones(2))], lr=torch.tensor(0.5))
    state = torch.optim.lr_scheduler.ExponentialLR(theirs, 0.9).state_dict()
    assert isinstance(state["base_lrs"][0], torch.Tensor)
    scheduler = optim.lr_scheduler.ExponentialLR(optim.Adam([Parameter(jnp.ones(2))]), 0.9)
    scheduler.load_state_dict(state)
    assert scheduler.base_lrs == [0.5] and type(scheduler.base_lrs[0]) is float and scheduler.get_last_lr() == [0.5]


def test_composites_in_later_places_begin_anew():
    """torch has no such thing: it fails at the milestone."""
    optimizer, torch_optimizer = pair(lrs=(0.1,))

    def build(s, o):
        inner = s.SequentialLR(o, [s.ConstantLR(o, 0.5, 100), s.StepLR(o, 2, 0.1)], [2])
        chain = s.ChainedScheduler([s.LinearLR(o, 0.5, total_iters=2), s.ExponentialLR(o, 0.5)])
        return s.SequentialLR(o, [s.ConstantLR(o, 1.0), inner, chain], [2, 6])

    theirs = build(schedulers(torch.optim), torch_optimizer)
    ours = build(schedulers(optim), optimizer)
    torch_optimizer.step(), optimizer.step()
    theirs.step()
    with pytest.raises(NotImplementedError):
        theirs.step()
    found = []
    for _ in range(10):
        found.append(ours.get_last_lr()[0])
        ours.step()
    linear = [0.5 * 0.1, 0.75 * 0.05, 0.1 * 0.25, 0.1 * 0.125]
    np.testing.assert_allclose(found, [0.1, 0.1, 0.05, 0.05, 0.1, 0.1, *linear], **CLOSE)
