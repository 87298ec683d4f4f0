"""Every learning-rate scheduler with options over their range, for objnet's and torch's namesakes alike."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple


class Case(NamedTuple):
    """A scheduler to make.

    Attributes:
        name: of the class, in ``optim.lr_scheduler`` or (SWALR) ``optim.swa_utils``.
        label: what tells it from others of the class.
        arguments: from a library's schedulers and an optimizer to the arguments, the optimizer left out.
        optimizer: the name of the optimizer to schedule.
    """

    name: str
    label: str
    arguments: Callable[[Any, Any], dict[str, Any]]
    optimizer: str = "SGD"


class Power:
    """A factor that is an object, with an attribute for the state dict."""

    def __init__(self, base: float):
        self.base = base

    def __call__(self, x: float) -> float:
        return self.base**x


def schedulers(optim: Any) -> Any:
    """All schedulers of a library's ``optim`` in one namespace."""
    names = {name: getattr(optim.lr_scheduler, name) for name in optim.lr_scheduler.__all__}
    return type("Schedulers", (), {**names, "SWALR": optim.swa_utils.SWALR})


def make(optim: Any, case: Case, optimizer: Any) -> Any:
    """The scheduler of a case, from a library's ``optim``."""
    library = schedulers(optim)
    arguments = case.arguments(library, optimizer)
    positional = () if case.name == "ChainedScheduler" else (optimizer,)
    return getattr(library, case.name)(*positional, **arguments)


def measure(i: int) -> float:
    """What ReduceLROnPlateau is shown at step ``i``: it falls, stays, rises and comes to be no number."""
    return float("nan") if i == 61 else (1.0 / (1 + i % 37) + (0.01 * i if i % 50 > 30 else 0.0))


def advance(scheduler: Any, i: int) -> None:
    """One step of any scheduler."""
    if type(scheduler).__name__ == "ReduceLROnPlateau":
        scheduler.step(measure(i))
    else:
        scheduler.step()


def _simple(name: str, *options: dict[str, Any], optimizer: str = "SGD") -> list[Case]:
    label = lambda given: ",".join(f"{k}={v}" for k, v in given.items()) or "default"
    return [
        Case(name, label(o) + ("" if optimizer == "SGD" else f"-{optimizer}"), lambda s, _, o=o: dict(o), optimizer)
        for o in options
    ]


def _grid(**choices: list[Any]) -> list[dict[str, Any]]:
    return [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]


_CYCLES = [
    {"base_lr": 0.001, "max_lr": 0.1, "step_size_up": 7},
    {"base_lr": [0.01, 0.02], "max_lr": [0.1, 0.3], "step_size_up": 5, "step_size_down": 12, "mode": "triangular2"},
    {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 10, "mode": "exp_range", "gamma": 0.99},
    {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 4, "base_momentum": [0.5, 0.6], "max_momentum": [0.9, 0.95]},
    {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 9, "cycle_momentum": False, "mode": "triangular2"},
]
_ONE_CYCLES = [
    {"max_lr": 0.5, "total_steps": 201},
    {"max_lr": [0.5, 0.25], "epochs": 21, "steps_per_epoch": 10, "anneal_strategy": "linear"},
    {"max_lr": 0.5, "total_steps": 230, "three_phase": True, "pct_start": 0.4},
    {"max_lr": 0.5, "total_steps": 210, "three_phase": True, "anneal_strategy": "linear", "base_momentum": [0.8, 0.7]},
    {"max_lr": 0.5, "total_steps": 300, "pct_start": 0.0, "div_factor": 10.0, "final_div_factor": 100.0, "cycle_momentum": False},
    {"max_lr": 0.5, "total_steps": 200, "pct_start": 0.9, "max_momentum": [0.99, 0.9]},
]


def _scaled(function: Callable[[], Any], scale_mode: str) -> Callable[[Any, Any], dict[str, Any]]:
    fixed = {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 6, "scale_mode": scale_mode}
    return lambda s, o: {**fixed, "scale_fn": function()}


LEAVES: list[Case] = [
    Case("LambdaLR", "function", lambda s, o: {"lr_lambda": lambda i: 0.95**i}),
    Case("LambdaLR", "list", lambda s, o: {"lr_lambda": [lambda i: 1 / (1 + i), lambda i: i // 30]}),
    Case("LambdaLR", "objects", lambda s, o: {"lr_lambda": [Power(0.97), lambda i: 0.9**i]}),
    Case("MultiplicativeLR", "function", lambda s, o: {"lr_lambda": lambda i: 0.95}),
    Case("MultiplicativeLR", "objects", lambda s, o: {"lr_lambda": [Power(0.999), Power(0.9999)]}),
    *_simple("StepLR", *_grid(step_size=[1, 30, 250], gamma=[0.1, 0.7])),
    *_simple("MultiStepLR", {"milestones": [30, 80]}, {"milestones": [80, 30, 30, 1], "gamma": 0.5}, {"milestones": []}),
    *_simple("ConstantLR", {}, *_grid(factor=[0.5, 1.0], total_iters=[1, 60])),
    *_simple("LinearLR", {}, *_grid(start_factor=[0.01, 1.0], end_factor=[0.0, 0.5, 1.0], total_iters=[40])),
    *_simple("ExponentialLR", {"gamma": 0.97}, {"gamma": 1.001}),
    *_simple("PolynomialLR", {}, *_grid(total_iters=[150, 400], power=[0.5, 2.0])),
    *_simple("CosineAnnealingLR", *_grid(T_max=[1, 25, 300], eta_min=[0.0, 0.01])),
    *_simple("CosineAnnealingWarmRestarts", *_grid(T_0=[1, 20], T_mult=[1, 2], eta_min=[0.0, 0.02])),
    *_simple("CyclicLR", *_CYCLES),
    *_simple("CyclicLR", *_CYCLES[1:4], optimizer="Adam"),
    Case("CyclicLR", "scale_fn", _scaled(lambda: lambda x: 0.9**x, "iterations")),
    Case("CyclicLR", "scale_fn object", _scaled(lambda: Power(0.8), "cycle")),
    *_simple("OneCycleLR", *_ONE_CYCLES),
    *_simple("OneCycleLR", *_ONE_CYCLES[:4], optimizer="AdamW"),
    *_simple("SWALR", {"swa_lr": 0.05}, {"swa_lr": [0.01, 0.5], "anneal_epochs": 40, "anneal_strategy": "linear"}),
    *_simple("SWALR", {"swa_lr": 0.05, "anneal_epochs": 0}, {"swa_lr": 0.2, "anneal_epochs": 1}),
]
PLATEAUS = _simple(
    "ReduceLROnPlateau",
    {},
    {"patience": 3},
    {"mode": "max", "patience": 2, "factor": 0.9},
    {"patience": 0, "threshold": 0.01, "threshold_mode": "abs", "factor": 0.8},
    {"mode": "max", "patience": 1, "threshold": 0.1, "threshold_mode": "abs", "factor": 0.7, "cooldown": 5},
    {"patience": 1, "min_lr": [0.01, 0.02], "factor": 0.5},
    {"patience": 1, "min_lr": 0.05, "factor": 0.5, "eps": 0.02, "cooldown": 3},
)


def _warm(s: Any, o: Any) -> Any:
    return s.LinearLR(o, start_factor=0.1, total_iters=10)


COMPOSITES: list[Case] = [
    Case(
        "SequentialLR",
        "warmup and cosine",
        lambda s, o: {"schedulers": [_warm(s, o), s.CosineAnnealingLR(o, T_max=90)], "milestones": [10]},
    ),
    Case(
        "SequentialLR",
        "three",
        lambda s, o: {
            "schedulers": [s.ConstantLR(o), s.ExponentialLR(o, 0.9), s.StepLR(o, 7, 0.5)],
            "milestones": [20, 50],
        },
    ),
    Case("SequentialLR", "one", lambda s, o: {"schedulers": [s.PolynomialLR(o, 90)], "milestones": []}),
    Case(
        "SequentialLR",
        "warm restarts, lambdas",
        lambda s, o: {
            "schedulers": [s.CosineAnnealingWarmRestarts(o, 6, 2), s.LambdaLR(o, Power(0.98))],
            "milestones": [33],
        },
    ),
    Case(
        "SequentialLR",
        "two at once",
        lambda s, o: {"schedulers": [_warm(s, o), s.StepLR(o, 3), s.ExponentialLR(o, 0.9)], "milestones": [8, 8]},
    ),
    Case(
        "SequentialLR",
        "from the start",
        lambda s, o: {"schedulers": [_warm(s, o), s.MultiplicativeLR(o, Power(0.99))], "milestones": [0]},
    ),
    Case("ChainedScheduler", "two", lambda s, o: {"schedulers": [s.ConstantLR(o, 0.1, 20), s.ExponentialLR(o, 0.9)]}),
    Case(
        "ChainedScheduler",
        "three",
        lambda s, o: {
            "schedulers": [_warm(s, o), s.MultiStepLR(o, [5, 40], 0.5), s.MultiplicativeLR(o, Power(0.9999))],
            "optimizer": o,
        },
    ),
    Case(
        "ChainedScheduler",
        "sequence",
        lambda s, o: {
            "schedulers": [s.SequentialLR(o, [_warm(s, o), s.ExponentialLR(o, 0.99)], [12]), s.StepLR(o, 50, 0.5)],
        },
    ),
]
CASES: list[Case] = [*LEAVES, *PLATEAUS, *COMPOSITES]

# Every scheduler once; those that move momentum for both kinds of optimizer.
EACH: list[Case] = list({(case.name, case.optimizer): case for case in reversed(CASES)}.values())[::-1]


def case_id(case: Case) -> str:
    """How a case is called in a test's name."""
    return f"{case.name}-{case.label}"
