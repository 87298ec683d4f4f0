"""``OneCycleLR`` (Smith and Topin 2018, "Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates")."""

from __future__ import annotations

import math
from typing import Any

from objnet.optim.lr_scheduler import momentum
from objnet.optim.lr_scheduler.base import LRScheduler, check_optimizer, entry, for_groups


def _phase(end_step: float, start_lr: str, end_lr: str, start_momentum: str, end_momentum: str) -> dict[str, Any]:
    return {
        "end_step": end_step,
        "start_lr": start_lr,
        "end_lr": end_lr,
        "start_momentum": start_momentum,
        "end_momentum": end_momentum,
    }


class OneCycleLR(LRScheduler):
    """One cycle: up to ``max_lr``, then down to far below where it began; step it every batch.

    Args:
        optimizer: whose learning rates, and momentum, to set.
        max_lr: the top, for all groups or a list.
        total_steps: the length of the cycle; or else
        epochs, steps_per_epoch: whose product it is.
        pct_start: the share of it that goes up.
        anneal_strategy: ``"cos"`` or ``"linear"``.
        cycle_momentum: whether momentum goes the other way: from ``max_momentum`` down to ``base_momentum`` and up again.
        base_momentum, max_momentum: its bounds, for all groups or a list.
        div_factor: the top over the first learning rate.
        final_div_factor: the first over the last.
        three_phase: whether it goes down to the first learning rate as fast as up, and then to the last.
        last_epoch: -1, or the batch to go on from.

    Raises:
        ValueError: a number out of range; no length given; ``cycle_momentum`` with an optimizer that has none; a step too many.
    """

    def __init__(
        self,
        optimizer: Any,
        max_lr: float | list[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.85,
        max_momentum: float | list[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        self.optimizer = check_optimizer(optimizer)
        self.total_steps = _length(total_steps, epochs, steps_per_epoch)
        if pct_start < 0 or pct_start > 1 or not isinstance(pct_start, float):
            raise ValueError(f"Expected float between 0 and 1 pct_start, but got {pct_start}")
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"anneal_strategy must be one of 'cos' or 'linear', instead got {anneal_strategy}")
        self._schedule_phases = _phases(self.total_steps, pct_start, three_phase)
        self._anneal_func_type = anneal_strategy
        tops = for_groups("max_lr", optimizer, max_lr)
        self.cycle_momentum = cycle_momentum
        if cycle_momentum:
            self.use_beta1 = momentum.uses_beta1(optimizer)
            lows = for_groups("base_momentum", optimizer, base_momentum)
            highs = for_groups("max_momentum", optimizer, max_momentum)
        if last_epoch == -1:
            for group, top in zip(optimizer.param_groups, tops, strict=True):
                first = top / div_factor
                group.update({"initial_lr": first, "max_lr": top, "min_lr": first / final_div_factor})
            if cycle_momentum:
                momentum.begin(optimizer, self.use_beta1, lows, highs)
        super().__init__(optimizer, last_epoch)

    def _anneal(self, start: float, end: float, share: float) -> float:
        if self._anneal_func_type == "linear":
            return (end - start) * share + start
        return end + (start - end) / 2.0 * (math.cos(math.pi * share) + 1)

    def get_lr(self) -> list[float]:
        """The learning rates of step ``last_epoch``; the momentum of that step is written at once, as in torch."""
        self._warn_outside_step()
        step, start = self.last_epoch, 0.0
        if step > self.total_steps:
            raise ValueError(f"Tried to step {step} times. The specified number of total steps is {self.total_steps}")
        *early, phase = self._schedule_phases
        for candidate in early:
            if step <= candidate["end_step"]:
                phase = candidate
                break
            start = candidate["end_step"]
        share = (step - start) / (phase["end_step"] - start)
        lrs = []
        for i, group in enumerate(self.optimizer.param_groups):
            lrs.append(self._anneal(entry(self, i, group, phase["start_lr"]), entry(self, i, group, phase["end_lr"]), share))
            if self.cycle_momentum:
                bounds = [entry(self, i, group, phase[key]) for key in ("start_momentum", "end_momentum")]
                momentum.set_momentum(group, self.use_beta1, self._anneal(*bounds, share))
        return lrs


def _length(total_steps: int | None, epochs: int | None, steps_per_epoch: int | None) -> int:
    given = {"total_steps": total_steps} if total_steps is not None else {"epochs": epochs, "steps_per_epoch": steps_per_epoch}
    if None in given.values():
        raise ValueError("You must define either total_steps OR (epochs AND steps_per_epoch)")
    for name, number in given.items():
        if not isinstance(number, int) or number <= 0:
            raise ValueError(f"Expected positive integer {name}, but got {number}")
    return math.prod(given.values())  # type: ignore[arg-type]


def _phases(total: int, share: float, three: bool) -> list[dict[str, Any]]:
    """From where to where each phase goes, by the names of entries of a group; these are part of a state dict."""
    up = _phase(float(share * total) - 1, "initial_lr", "max_lr", "max_momentum", "base_momentum")
    if not three:
        return [up, _phase(total - 1, "max_lr", "min_lr", "base_momentum", "max_momentum")]
    down = _phase(float(2 * share * total) - 2, "max_lr", "initial_lr", "base_momentum", "max_momentum")
    return [up, down, _phase(total - 1, "initial_lr", "min_lr", "max_momentum", "max_momentum")]
