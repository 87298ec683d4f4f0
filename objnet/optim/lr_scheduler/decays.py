"""Schedules that multiply the present learning rate at each step, or at some; so they chain with others."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from typing import Any

from objnet.optim.lr_scheduler.base import LRScheduler, current


class _Factor(LRScheduler):
    """A schedule whose every step multiplies the learning rates, or leaves them."""

    def _factor(self) -> float | None:
        """By what step ``last_epoch`` multiplies the learning rates of the step before; None for not at all."""
        raise NotImplementedError

    def _closed_factor(self) -> float:
        """By what all steps up to ``last_epoch`` multiply the base learning rates."""
        raise NotImplementedError

    def get_lr(self) -> list[float]:
        self._warn_outside_step()
        factor = self._factor()
        return current(self) if factor is None else [lr * factor for lr in current(self)]

    def _get_closed_form_lr(self) -> list[float]:
        factor = self._closed_factor()
        return [base * factor for base in self.base_lrs]


class StepLR(_Factor):
    """Times ``gamma`` every ``step_size`` steps.

    Args:
        optimizer: whose learning rates to set.
        step_size: steps between two changes.
        gamma: the factor.
        last_epoch: -1, or the step to go on from.
    """

    def __init__(self, optimizer: Any, step_size: int, gamma: float = 0.1, last_epoch: int = -1) -> None:
        self.step_size = step_size
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def _factor(self) -> float | None:
        return None if self.last_epoch == 0 or self.last_epoch % self.step_size else self.gamma

    def _closed_factor(self) -> float:
        return self.gamma ** (self.last_epoch // self.step_size)


class MultiStepLR(_Factor):
    """Times ``gamma`` at each milestone.

    Args:
        optimizer: whose learning rates to set.
        milestones: steps, in any order; one given twice counts twice. Kept as a Counter, as in torch.
        gamma: the factor.
        last_epoch: -1, or the step to go on from.
    """

    def __init__(self, optimizer: Any, milestones: Iterable[int], gamma: float = 0.1, last_epoch: int = -1) -> None:
        self.milestones = Counter(milestones)
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def _factor(self) -> float | None:
        return self.gamma ** self.milestones[self.last_epoch] if self.last_epoch in self.milestones else None

    def _closed_factor(self) -> float:
        return self.gamma ** bisect_right(sorted(self.milestones.elements()), self.last_epoch)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state of a scheduler of this class, objnet's or torch's."""
        super().load_state_dict(state_dict)
        # A file may have made strings of the steps, and a plain dict of the Counter.
        self.milestones = Counter(
            {int(step) if isinstance(step, str) else step: times for step, times in self.milestones.items()}
        )


class ConstantLR(_Factor):
    """Times ``factor`` for the first ``total_iters`` steps.

    Args:
        optimizer: whose learning rates to set.
        factor: in [0, 1].
        total_iters: how long.
        last_epoch: -1, or the step to go on from.

    Raises:
        ValueError: ``factor`` out of range.
    """

    def __init__(self, optimizer: Any, factor: float = 1.0 / 3, total_iters: int = 5, last_epoch: int = -1) -> None:
        if factor > 1.0 or factor < 0:
            raise ValueError("Constant multiplicative factor expected to be between 0 and 1.")
        self.factor = factor
        self.total_iters = total_iters
        super().__init__(optimizer, last_epoch)

    def _factor(self) -> float | None:
        if self.last_epoch == 0:
            return self.factor
        return 1.0 / self.factor if self.last_epoch == self.total_iters else None

    def _closed_factor(self) -> float:
        return self.factor + (self.last_epoch >= self.total_iters) * (1 - self.factor)


class LinearLR(_Factor):
    """Times a factor that goes from ``start_factor`` to ``end_factor`` in ``total_iters`` steps, and stays there.

    Args:
        optimizer: whose learning rates to set.
        start_factor: in (0, 1].
        end_factor: in [0, 1].
        total_iters: how long.
        last_epoch: -1, or the step to go on from.

    Raises:
        ValueError: a factor out of range.
    """

    def __init__(
        self,
        optimizer: Any,
        start_factor: float = 1.0 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        if start_factor > 1.0 or start_factor <= 0:
            raise ValueError("Starting multiplicative factor expected to be greater than 0 and less or equal to 1.")
        if end_factor > 1.0 or end_factor < 0:
            raise ValueError("Ending multiplicative factor expected to be between 0 and 1.")
        self.start_factor = start_factor
        self.end_factor = end_factor
        self.total_iters = total_iters
        super().__init__(optimizer, last_epoch)

    def _factor(self) -> float | None:
        if self.last_epoch == 0:
            return self.start_factor
        if self._is_initial or self.last_epoch > self.total_iters:
            return None
        slope = self.end_factor - self.start_factor
        return 1.0 + slope / (self.total_iters * self.start_factor + (self.last_epoch - 1) * slope)

    def _closed_factor(self) -> float:
        slope = self.end_factor - self.start_factor
        return self.start_factor + slope * min(self.total_iters, self.last_epoch) / self.total_iters


class ExponentialLR(_Factor):
    """Times ``gamma`` at every step.

    Args:
        optimizer: whose learning rates to set.
        gamma: the factor.
        last_epoch: -1, or the step to go on from.
    """

    def __init__(self, optimizer: Any, gamma: float, last_epoch: int = -1) -> None:
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def _factor(self) -> float | None:
        return None if self._is_initial else self.gamma

    def _closed_factor(self) -> float:
        return self.gamma**self.last_epoch


class PolynomialLR(_Factor):
    """Times ``(1 - step / total_iters) ** power``, to zero after ``total_iters`` steps.

    Args:
        optimizer: whose learning rates to set.
        total_iters: how long.
        power: the exponent.
        last_epoch: -1, or the step to go on from.
    """

    def __init__(self, optimizer: Any, total_iters: int = 5, power: float = 1.0, last_epoch: int = -1) -> None:
        self.total_iters = total_iters
        self.power = power
        super().__init__(optimizer, last_epoch)

    def _left(self, step: int) -> float:
        return 1.0 - step / self.total_iters

    def _factor(self) -> float | None:
        if self._is_initial or self.last_epoch > self.total_iters:
            return None
        return (self._left(self.last_epoch) / self._left(self.last_epoch - 1)) ** self.power

    def _closed_factor(self) -> float:
        return self._left(min(self.total_iters, self.last_epoch)) ** self.power
