"""``SWALR``: to a constant learning rate, at which models are averaged."""

from __future__ import annotations

import math
from typing import Any

from objnet.optim.lr_scheduler.base import LRScheduler, check_optimizer, entry, for_groups


class SWALR(LRScheduler):
    """From the present learning rate to ``swa_lr`` in ``anneal_epochs`` steps, and there it stays.

    Args:
        optimizer: whose learning rates to set.
        swa_lr: the last learning rate, for all groups or a list.
        anneal_epochs: how long.
        anneal_strategy: ``"cos"`` or ``"linear"``.
        last_epoch: -1, or the step to go on from.

    Raises:
        ValueError: an unknown strategy; a negative length, or one that is no int; a list of another length than the groups.
    """

    def __init__(
        self,
        optimizer: Any,
        swa_lr: float | list[float],
        anneal_epochs: int = 10,
        anneal_strategy: str = "cos",
        last_epoch: int = -1,
    ) -> None:
        self.optimizer = check_optimizer(optimizer)
        lrs = for_groups("swa_lr", optimizer, swa_lr)
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"anneal_strategy must be one of 'cos' or 'linear', instead got {anneal_strategy}")
        if not isinstance(anneal_epochs, int) or anneal_epochs < 0:
            raise ValueError(f"anneal_epochs must be equal or greater than 0, got {anneal_epochs}")
        for group, lr in zip(optimizer.param_groups, lrs, strict=True):
            group["swa_lr"] = lr
        self._anneal_strategy = anneal_strategy
        self.anneal_epochs = anneal_epochs
        super().__init__(optimizer, last_epoch)

    def anneal_func(self, t: float) -> float:
        """The share of ``swa_lr`` when the part ``t`` of the way is done."""
        return t if self._anneal_strategy == "linear" else (1 - math.cos(math.pi * t)) / 2

    def _share(self, step: int) -> float:
        return self.anneal_func(max(0, min(1, step / max(1, self.anneal_epochs))))

    def get_lr(self) -> list[float]:
        self._warn_outside_step()
        step = self._step_count - 1
        if self.anneal_epochs == 0:
            step = max(1, step)
        before, now = self._share(step - 1), self._share(step)
        lrs = []
        for i, group in enumerate(self.optimizer.param_groups):
            last = entry(self, i, group, "swa_lr")
            # Where it began, told from where it is: another scheduler may have stepped in between.
            first = last if before == 1 else (group["lr"] - before * last) / (1 - before)
            lrs.append(last * now + first * (1 - now))
        return lrs
