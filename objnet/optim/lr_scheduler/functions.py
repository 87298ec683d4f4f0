"""Schedules given by functions: ``LambdaLR`` and ``MultiplicativeLR``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from objnet.optim.lr_scheduler.base import LRScheduler, check_optimizer, current, paired, saved_callable

Function = Callable[[int], float]


class _ByFunction(LRScheduler):
    """Learning rates by a function of ``last_epoch`` for each group."""

    def __init__(self, optimizer: Any, lr_lambda: Function | list[Function], last_epoch: int = -1) -> None:
        self.optimizer = check_optimizer(optimizer)
        groups = len(optimizer.param_groups)
        self.lr_lambdas = list(lr_lambda) if isinstance(lr_lambda, (list, tuple)) else [lr_lambda] * groups
        if len(self.lr_lambdas) != groups:
            raise ValueError(f"Expected {groups} lr_lambdas, but got {len(self.lr_lambdas)}")
        for function in self.lr_lambdas:
            if not callable(function):
                raise TypeError(f"lr_lambda should be a function, but got {type(function).__name__}")
        super().__init__(optimizer, last_epoch)

    def state_dict(self) -> dict[str, Any]:
        """All attributes but the optimizer; of the functions, the attributes of those that are objects, and None for others."""
        state = super().state_dict()
        del state["lr_lambdas"]
        return {**state, "lr_lambdas": [saved_callable(function) for function in self.lr_lambdas]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state of a scheduler of this class, objnet's or torch's; functions stay, objects get back their attributes.

        Raises:
            ValueError: if it was saved with another number of functions.
        """
        saved = state_dict["lr_lambdas"]
        if len(saved) != len(self.lr_lambdas):
            raise ValueError(f"the state dict has {len(saved)} lr_lambdas, and the scheduler {len(self.lr_lambdas)}")
        super().load_state_dict({k: v for k, v in state_dict.items() if k != "lr_lambdas"})
        for function, attributes in zip(self.lr_lambdas, saved, strict=True):
            if attributes is not None:
                function.__dict__.update(attributes)


class LambdaLR(_ByFunction):
    """The base learning rate times ``lr_lambda(last_epoch)``.

    Args:
        optimizer: whose learning rates to set.
        lr_lambda: from an int to a factor; or a list of such, one for each group.
        last_epoch: -1, or the step to go on from.

    Raises:
        ValueError: a list of another length than the groups. TypeError: what cannot be called.
    """

    def get_lr(self) -> list[float]:
        self._warn_outside_step()
        paired(self, self.base_lrs)
        return [base * function(self.last_epoch) for function, base in zip(self.lr_lambdas, self.base_lrs, strict=True)]


class MultiplicativeLR(_ByFunction):
    """The present learning rate times ``lr_lambda(last_epoch)``, from the second step on.

    Args:
        optimizer: whose learning rates to set.
        lr_lambda: from an int to a factor; or a list of such, one for each group.
        last_epoch: -1, or the step to go on from.

    Raises:
        ValueError: a list of another length than the groups. TypeError: what cannot be called.
    """

    def get_lr(self) -> list[float]:
        self._warn_outside_step()
        if self._is_initial:
            return current(self)
        return [group["lr"] * function(self.last_epoch) for group, function in paired(self, self.lr_lambdas)]
