"""Schedules made of schedules: one after another (``SequentialLR``), or all at every step (``ChainedScheduler``)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from objnet.optim.lr_scheduler.base import LRScheduler, current, refuse_inside
from objnet.optim.lr_scheduler.plateau import ReduceLROnPlateau


class _Composite(LRScheduler):
    """A scheduler that steps others, and is saved with them."""

    _schedulers: Sequence[LRScheduler]

    def _check(self, schedulers: Sequence[Any], optimizer: Any) -> None:
        name = type(self).__name__
        for i, scheduler in enumerate(schedulers):
            if not hasattr(scheduler, "optimizer"):
                raise TypeError(f"{name} at index {i} should have `optimizer` as its attribute.")
            if isinstance(scheduler, ReduceLROnPlateau):
                raise ValueError(
                    f"{name} does not support `ReduceLROnPlateau` scheduler as it requires additional kwargs to be specified when "
                    f"calling `step`, but got one at index {i} in the given schedulers sequence."
                )
            if optimizer is not scheduler.optimizer:
                raise ValueError(
                    f"{name} expects all schedulers to belong to the same optimizer, but got scheduler "
                    f"{type(scheduler).__name__} at index {i} that belongs to another ({type(scheduler.optimizer).__name__})."
                )

    def state_dict(self) -> dict[str, Any]:
        """All attributes but the optimizer, with the schedulers' own state dicts under ``"_schedulers"``."""
        state = super().state_dict()
        del state["_schedulers"]
        return {**state, "_schedulers": [scheduler.state_dict() for scheduler in self._schedulers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state of a scheduler made of the same ones, objnet's or torch's.

        Raises:
            ValueError: if it was made of more or fewer.
        """
        saved = state_dict["_schedulers"]
        if len(saved) != len(self._schedulers):
            raise ValueError(
                f"the state dict holds {len(saved)} schedulers, and {type(self).__name__} has {len(self._schedulers)}"
            )
        super().load_state_dict({k: v for k, v in state_dict.items() if k != "_schedulers"})
        for scheduler, state in zip(self._schedulers, saved, strict=True):
            scheduler.load_state_dict(state)

    def _rewind(self) -> None:
        """Put the learning rates back to where the schedules began."""
        for group, lr in zip(self.optimizer.param_groups, current(self, "initial_lr"), strict=True):
            group["lr"] = lr


class SequentialLR(_Composite):
    """One schedule after another, each beginning anew at its milestone.

    Args:
        optimizer: whose learning rates to set.
        schedulers: of that optimizer, in order.
        milestones: the steps at which the second, third, ... take over.
        last_epoch: -1, or the step to go on from.

    Raises:
        ValueError: no schedulers, numbers that do not fit, another optimizer's, a ReduceLROnPlateau. TypeError: no schedulers.
    """

    def __init__(self, optimizer: Any, schedulers: list[LRScheduler], milestones: list[int], last_epoch: int = -1) -> None:
        if len(schedulers) < 1:
            raise ValueError(f"{type(self).__name__} expects at least one scheduler, but got no scheduler.")
        self._check(schedulers, optimizer)
        if len(milestones) != len(schedulers) - 1:
            raise ValueError(
                "Sequential Schedulers expects number of schedulers provided to be one more than the number of milestone points, "
                f"but got number of schedulers {len(schedulers)} and the number of milestones to be equal to {len(milestones)}"
            )
        self.optimizer = optimizer
        self._schedulers = schedulers
        self._milestones = milestones
        self.last_epoch = last_epoch + 1
        # Making the schedulers has taken the first step of each; only that of the one in force shall stand.
        self._rewind()
        self.recursive_undo()
        first = self._in_force(0)
        first._initial_step()
        self._last_lr = first.get_last_lr()

    def _in_force(self, step: int) -> LRScheduler:
        return self._schedulers[bisect_right(self._milestones, step)]

    def recursive_undo(self, sched: Any = None) -> None:
        """Take back one step in the count of ``sched``, or in those it is made of; by default of this one's."""
        sched = self if sched is None else sched
        if hasattr(sched, "_schedulers"):
            for part in sched._schedulers:
                self.recursive_undo(part)
        elif hasattr(sched, "last_epoch"):
            sched.last_epoch -= 1

    def step(self) -> None:  # type: ignore[override]
        """Move on by one step."""
        refuse_inside(self)
        self.last_epoch += 1
        now = bisect_right(self._milestones, self.last_epoch)
        scheduler = self._schedulers[now]
        if now > 0 and self._milestones[now - 1] == self.last_epoch:
            scheduler._update_lr(0)
        else:
            scheduler.step()
        self._last_lr = scheduler.get_last_lr()

    def _update_lr(self, epoch: int | None = None) -> None:
        """Begin anew, in a sequence whose turn comes; torch has no such thing, and fails there."""
        self._rewind()
        self.last_epoch = 0
        _begin(self._in_force(0))
        self._last_lr = current(self)


class ChainedScheduler(_Composite):
    """All schedules at every step, each from what the ones before have made of the learning rate.

    Args:
        schedulers: of one optimizer.
        optimizer: that optimizer; by default that of the first.

    Raises:
        ValueError: no schedulers, another optimizer's, a ReduceLROnPlateau. TypeError: no schedulers.
    """

    def __init__(self, schedulers: Sequence[LRScheduler], optimizer: Any = None) -> None:
        if len(schedulers) < 1:
            raise ValueError(f"{type(self).__name__} expects at least one scheduler to be chained, but got no scheduler.")
        if optimizer is None:
            optimizer = getattr(schedulers[0], "optimizer", None)
        self._check(schedulers, optimizer)
        self.optimizer = optimizer
        self._schedulers = schedulers
        self._last_lr = current(self)

    def step(self) -> None:  # type: ignore[override]
        """Move on by one step."""
        refuse_inside(self)
        for scheduler in self._schedulers:
            scheduler.step()
        self._last_lr = current(self)

    def _update_lr(self, epoch: int | None = None) -> None:
        """Begin anew, in a sequence whose turn comes; torch has no such thing, and fails there."""
        self._rewind()
        for scheduler in self._schedulers:
            _begin(scheduler)
        self._last_lr = current(self)


def _begin(scheduler: LRScheduler) -> None:
    """Take the first step from the learning rates there are, as when the scheduler was made."""
    if isinstance(scheduler, _Composite):
        scheduler._update_lr(0)
    else:
        scheduler.last_epoch = -1
        scheduler._initial_step()
