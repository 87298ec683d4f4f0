"""Momentum that moves against the learning rate: a number of the group, or the first of its ``betas``."""

from __future__ import annotations

from typing import Any

from objnet.optim.groups import ParamGroup
from objnet.optim.lr_scheduler.base import write


def uses_beta1(optimizer: Any) -> bool:
    """Whether momentum is the first of ``betas``.

    Raises:
        ValueError: for an optimizer that has neither.
    """
    if "momentum" not in optimizer.defaults and "betas" not in optimizer.defaults:
        raise ValueError(
            f"optimizer must support momentum or beta1 with `cycle_momentum` option enabled, and {type(optimizer).__name__} has "
            "neither: pass cycle_momentum=False"
        )
    return "betas" in optimizer.defaults


def set_momentum(group: ParamGroup, use_beta1: bool, momentum: float) -> None:
    """Write the momentum of a group."""
    if use_beta1:
        write(group, "betas", (momentum, *group["betas"][1:]))
    else:
        write(group, "momentum", momentum)


def begin(optimizer: Any, use_beta1: bool, lows: list[float], highs: list[float]) -> None:
    """Start at the highest momentum, and note both bounds in the groups, as torch does."""
    for group, low, high in zip(optimizer.param_groups, lows, highs, strict=True):
        set_momentum(group, use_beta1, high)
        group["max_momentum"] = high
        group["base_momentum"] = low
