"""``ReduceLROnPlateau``: a lower learning rate when a measure stops getting better."""

from __future__ import annotations

import math
import warnings
from typing import Any

from objnet.optim.groups import plain
from objnet.optim.lr_scheduler.base import (
    EPOCH_DEPRECATION_WARNING,
    LRScheduler,
    check_optimizer,
    current,
    refuse_inside,
)


class ReduceLROnPlateau(LRScheduler):
    """Times ``factor`` once a measure has not got better for more than ``patience`` steps: ``scheduler.step(loss)``.

    Args:
        optimizer: whose learning rates to set.
        mode: ``"min"`` or ``"max"``: which way is better.
        factor: below 1.
        patience: steps without getting better that are let pass.
        threshold: by how much better is better.
        threshold_mode: ``"rel"`` to the best so far, or ``"abs"``.
        cooldown: steps after a reduction in which nothing counts as bad.
        min_lr: the lowest learning rate, for all groups or a list.
        eps: smaller reductions are left out.

    Raises:
        ValueError: ``factor`` of 1 or more, an unknown mode, a list of another length than the groups.
    """

    def __init__(
        self,
        optimizer: Any,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: list[float] | float = 0,
        eps: float = 1e-8,
    ) -> None:
        if factor >= 1.0:
            raise ValueError("Factor should be < 1.0.")
        self.factor = factor
        self.optimizer = check_optimizer(optimizer)
        min_lr = plain("min_lr", min_lr)
        groups = len(optimizer.param_groups)
        each = isinstance(min_lr, (list, tuple))
        self.default_min_lr = None if each else min_lr
        self.min_lrs = list(min_lr) if each else [min_lr] * groups  # type: ignore[arg-type]
        if len(self.min_lrs) != groups:
            raise ValueError(f"expected {groups} min_lrs, got {len(self.min_lrs)}")
        self.patience = patience
        self.cooldown = cooldown
        self.eps = eps
        self.last_epoch = 0
        self._last_lr = current(self)
        self._set_mode(mode, threshold, threshold_mode)
        self._reset()

    def _set_mode(self, mode: str, threshold: float, threshold_mode: str) -> None:
        if mode not in ("min", "max"):
            raise ValueError(f"mode {mode} is unknown!")
        if threshold_mode not in ("rel", "abs"):
            raise ValueError(f"threshold mode {threshold_mode} is unknown!")
        self.mode_worse = math.inf if mode == "min" else -math.inf
        self.mode = mode
        self.threshold = threshold
        self.threshold_mode = threshold_mode

    def _reset(self) -> None:
        """Forget the best measure, and what was counted."""
        self.best = self.mode_worse
        self.cooldown_counter = 0
        self.num_bad_epochs = 0

    def step(self, metrics: Any, epoch: int | None = None) -> None:  # type: ignore[override]
        """Take the measure of one more epoch.

        Args:
            metrics: a number, or an array of one: jax's is waited for and read, once.
            epoch: deprecated: the number of the epoch.

        Raises:
            ValueError: for an array of several numbers.
        """
        refuse_inside(self)
        measure = float(plain("metrics", metrics))
        if epoch is not None:
            warnings.warn(EPOCH_DEPRECATION_WARNING, UserWarning, stacklevel=2)
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        if self._is_better(measure, self.best):
            self.best = measure
            self.num_bad_epochs = 0
        else:
            self.num_bad_epochs += 1
        if self.in_cooldown:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            self._reduce_lr(self.last_epoch)
            self.cooldown_counter = self.cooldown
            self.num_bad_epochs = 0
        self._last_lr = current(self)

    def _reduce_lr(self, epoch: int) -> None:
        groups = self.optimizer.param_groups
        if len(groups) != len(self.min_lrs):
            if self.default_min_lr is None:
                raise RuntimeError(
                    f"the optimizer has {len(groups)} param groups, and `ReduceLROnPlateau` was made with {len(self.min_lrs)} "
                    "min_lrs: after add_param_group set `scheduler.min_lrs` to a list of that length"
                )
            self.min_lrs = [self.default_min_lr] * len(groups)
        for group, lowest in zip(groups, self.min_lrs, strict=True):
            lr = max(group["lr"] * self.factor, lowest)
            if group["lr"] - lr > self.eps:
                group["lr"] = lr

    @property
    def in_cooldown(self) -> bool:
        """Whether a reduction was made less than ``cooldown`` steps ago."""
        return self.cooldown_counter > 0

    def _is_better(self, measure: float, best: float) -> bool:
        if self.threshold_mode == "rel":
            return measure < best * (1.0 - self.threshold) if self.mode == "min" else measure > best * (self.threshold + 1.0)
        return measure < best - self.threshold if self.mode == "min" else measure > best + self.threshold

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state of a scheduler of this class, objnet's or torch's."""
        super().load_state_dict(state_dict)
        self._set_mode(self.mode, self.threshold, self.threshold_mode)
