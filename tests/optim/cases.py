"""Every optimizer with options over their range, as (name, options) pairs."""

from __future__ import annotations

import itertools
from typing import Any

MATRICES = ((3, 4), (5, 2))  # what Muon takes


def _grid(name: str, first: dict[str, Any], **choices: Any) -> list[tuple[str, dict[str, Any]]]:
    """The defaults, each choice alone, and all choices' last values together, over ``first``."""
    alone = [{k: v} for k, values in choices.items() for v in values]
    together = {k: values[-1] for k, values in choices.items()}
    found = [{}, *(first | one for one in alone), first | together]
    for a, b in itertools.combinations(choices, 2):
        found.append(first | {a: choices[a][0], b: choices[b][0]})
    return [(name, options) for i, options in enumerate(found) if options not in found[:i]]


_MAXIMIZE = {"maximize": [True]}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {}),
    ("SGD", {"lr": 0.1, "momentum": 0.9}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.1, "momentum": 0.5, "dampening": 0.1, "weight_decay": 0.1, "maximize": True}),
    ("SGD", {"lr": 0.1, "weight_decay": 0.1}),
    *_grid("Adam", {"lr": 0.01}, betas=[(0.0, 0.0), (0.8, 0.99)], eps=[1e-3], weight_decay=[0.1], amsgrad=[True], **_MAXIMIZE),
    *_grid("Adam", {"lr": 0.01, "weight_decay": 0.1}, decoupled_weight_decay=[True], **_MAXIMIZE),
    *_grid("AdamW", {"lr": 0.02}, weight_decay=[0.0, 0.1], amsgrad=[True], **_MAXIMIZE),
    *_grid("Adadelta", {"lr": 0.5}, rho=[0.8, 1.0], eps=[1e-3], weight_decay=[0.1], **_MAXIMIZE),
    *_grid(
        "Adafactor",
        {"lr": 0.05},
        beta2_decay=[-0.5, 0.0],
        eps=[(1e-2, 0.1), (None, 1e-2)],
        d=[3.0],
        weight_decay=[0.1],
        **_MAXIMIZE,
    ),
    *_grid("Adagrad", {"lr": 0.1}, lr_decay=[0.1], weight_decay=[0.1], initial_accumulator_value=[0.5], eps=[1e-3], **_MAXIMIZE),
    *_grid("Adamax", {"lr": 0.01}, betas=[(0.0, 0.5), (0.8, 0.99)], eps=[1e-3], weight_decay=[0.1], **_MAXIMIZE),
    *_grid("ASGD", {"lr": 0.1}, lambd=[0.1], alpha=[0.5], t0=[5.0, 20.0], weight_decay=[0.1], **_MAXIMIZE),
    *_grid(
        "NAdam",
        {"lr": 0.01},
        betas=[(0.0, 0.5), (0.8, 0.99)],
        eps=[1e-3],
        weight_decay=[0.1],
        momentum_decay=[0.1, 0.0],
        **_MAXIMIZE,
    ),
    *_grid("NAdam", {"lr": 0.01, "weight_decay": 0.1}, decoupled_weight_decay=[True], **_MAXIMIZE),
    *_grid("RAdam", {"lr": 0.01}, betas=[(0.0, 0.5), (0.8, 0.99)], eps=[1e-3], weight_decay=[0.1], **_MAXIMIZE),
    *_grid("RAdam", {"lr": 0.01, "weight_decay": 0.1}, decoupled_weight_decay=[True], **_MAXIMIZE),
    *_grid(
        "RMSprop", {"lr": 0.01}, alpha=[0.5, 0.9], eps=[1e-3], weight_decay=[0.1], momentum=[0.9], centered=[True], **_MAXIMIZE
    ),
    *_grid("Rprop", {"lr": 0.01}, etas=[(0.3, 2.0)], step_sizes=[(1e-3, 0.02)], **_MAXIMIZE),
    *_grid(
        "Muon",
        {"lr": 0.02},
        weight_decay=[0.0],
        momentum=[0.5, 0.0],
        nesterov=[False],
        ns_steps=[3],
        adjust_lr_fn=["original", "match_rms_adamw"],
    ),
    ("Muon", {"ns_coefficients": (2.0, -1.5, 0.5), "eps": 1e-3, "ns_steps": 8}),
]

# Every optimizer once, with as many options as it takes together.
EACH: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"lr": 0.1, "momentum": 0.5, "dampening": 0.1, "weight_decay": 0.1, "maximize": True}),
    ("Adam", {"lr": 0.01, "betas": (0.8, 0.99), "weight_decay": 0.1, "amsgrad": True, "maximize": True}),
    ("AdamW", {"lr": 0.02, "weight_decay": 0.1, "amsgrad": True, "maximize": True}),
    ("Adadelta", {"lr": 0.5, "rho": 0.8, "eps": 1e-3, "weight_decay": 0.1, "maximize": True}),
    ("Adafactor", {"lr": 0.05, "eps": (1e-2, 0.1), "d": 3.0, "weight_decay": 0.1, "maximize": True}),
    ("Adagrad", {"lr": 0.1, "lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.5, "maximize": True}),
    ("Adamax", {"lr": 0.01, "betas": (0.8, 0.99), "weight_decay": 0.1, "maximize": True}),
    ("ASGD", {"lr": 0.1, "lambd": 0.1, "alpha": 0.5, "t0": 5.0, "weight_decay": 0.1, "maximize": True}),
    ("NAdam", {"lr": 0.01, "weight_decay": 0.1, "momentum_decay": 0.1, "decoupled_weight_decay": True, "maximize": True}),
    ("RAdam", {"lr": 0.01, "betas": (0.8, 0.99), "weight_decay": 0.1, "maximize": True}),
    ("RMSprop", {"lr": 0.01, "alpha": 0.9, "weight_decay": 0.1, "momentum": 0.9, "centered": True, "maximize": True}),
    ("Rprop", {"lr": 0.01, "etas": (0.3, 2.0), "step_sizes": (1e-3, 0.02), "maximize": True}),
    ("Muon", {"lr": 0.02, "weight_decay": 0.2, "momentum": 0.5, "adjust_lr_fn": "match_rms_adamw"}),
]
REAL_ONLY = {"Adafactor", "Muon"}


def case_id(case: Any) -> str:
    """How a case is called in a test's name."""
    return f"{case[0]}-{'-'.join(f'{k}={v}' for k, v in case[1].items())}" if isinstance(case, tuple) else ""
