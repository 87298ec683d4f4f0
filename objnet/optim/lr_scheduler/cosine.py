"""Cosine annealing (Loshchilov and Hutter 2016, "SGDR: Stochastic Gradient Descent with Warm Restarts")."""

from __future__ import annotations

import math
from typing import Any

from objnet.optim.lr_scheduler.base import LRScheduler, current, paired, refuse_inside


class CosineAnnealingLR(LRScheduler):
    """From the base learning rate to ``eta_min`` along half a cosine in ``T_max`` steps, back in as many, and so on.

    Each step changes the present learning rate, so that other schedules and hands may change it too.

    Args:
        optimizer: whose learning rates to set.
        T_max: steps of half a period.
        eta_min: the lowest learning rate.
        last_epoch: -1, or the step to go on from.
    """

    def __init__(self, optimizer: Any, T_max: int, eta_min: float = 0.0, last_epoch: int = -1) -> None:
        self.T_max = T_max
        self.eta_min = eta_min
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        self._warn_outside_step()
        step, half, low = self.last_epoch, self.T_max, self.eta_min
        if self._is_initial:
            return current(self)
        if self._step_count == 1 and step > 0:
            return [low + (base - low) * (1 + math.cos(step * math.pi / half)) / 2 for base in self.base_lrs]
        if (step - 1 - half) % (2 * half) == 0:
            # The step before was at the bottom, where the ratio below would be 0 / 0.
            rise = 1 - math.cos(math.pi / half)
            return [group["lr"] + (base - low) * rise / 2 for group, base in paired(self, self.base_lrs)]
        ratio = (1 + math.cos(math.pi * step / half)) / (1 + math.cos(math.pi * (step - 1) / half))
        return [ratio * (lr - low) + low for lr in current(self)]

    def _get_closed_form_lr(self) -> list[float]:
        low = self.eta_min
        return [low + (base - low) * (1 + math.cos(math.pi * self.last_epoch / self.T_max)) / 2 for base in self.base_lrs]


class CosineAnnealingWarmRestarts(LRScheduler):
    """From the base learning rate to ``eta_min`` along half a cosine, then from the start, each time ``T_mult`` times as long.

    ``step`` takes fractions of an epoch: ``step(epoch + i / batches)``.

    Args:
        optimizer: whose learning rates to set.
        T_0: steps until the first restart.
        T_mult: the next period over the one before.
        eta_min: the lowest learning rate.
        last_epoch: -1, or the step to go on from.

    Raises:
        ValueError: ``T_0`` or ``T_mult`` is no positive int, or ``eta_min`` no number.
    """

    def __init__(self, optimizer: Any, T_0: int, T_mult: int = 1, eta_min: float = 0.0, last_epoch: int = -1) -> None:
        if T_0 <= 0 or not isinstance(T_0, int):
            raise ValueError(f"Expected positive integer T_0, but got {T_0}")
        if T_mult < 1 or not isinstance(T_mult, int):
            raise ValueError(f"Expected integer T_mult >= 1, but got {T_mult}")
        if not isinstance(eta_min, (float, int)):
            raise ValueError(f"Expected float or int eta_min, but got {eta_min} of type {type(eta_min)}")
        self.T_0 = T_0
        self.T_i = T_0
        self.T_mult = T_mult
        self.eta_min = eta_min
        self.T_cur = last_epoch
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        self._warn_outside_step()
        low = self.eta_min
        return [low + (base - low) * (1 + math.cos(math.pi * self.T_cur / self.T_i)) / 2 for base in self.base_lrs]

    def step(self, epoch: float | None = None) -> None:
        """Move on by one step, or to ``epoch``, which may be a fraction.

        Raises:
            ValueError: for a negative ``epoch``.
        """
        refuse_inside(self)
        if epoch is None and self.last_epoch < 0:
            epoch = 0
        if epoch is None:
            epoch = self.last_epoch + 1
            self.T_cur += 1
            if self.T_cur >= self.T_i:
                self.T_cur %= self.T_i
                self.T_i *= self.T_mult
        elif epoch < 0:
            raise ValueError(f"Expected non-negative epoch, but got {epoch}")
        else:
            self._place(epoch)
        self.last_epoch = math.floor(epoch)
        with self._computing():
            values = self.get_lr()
        self._write(values)

    def _place(self, epoch: float) -> None:
        """Find the period ``epoch`` falls in, and where in it."""
        if epoch < self.T_0:
            self.T_cur, self.T_i = epoch, self.T_0  # type: ignore[assignment]
        elif self.T_mult == 1:
            self.T_cur = epoch % self.T_0  # type: ignore[assignment]
        else:
            times = int(math.log(epoch / self.T_0 * (self.T_mult - 1) + 1, self.T_mult))
            self.T_cur = epoch - self.T_0 * (self.T_mult**times - 1) / (self.T_mult - 1)  # type: ignore[assignment]
            self.T_i = self.T_0 * self.T_mult**times
