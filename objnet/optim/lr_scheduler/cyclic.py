"""``CyclicLR`` (Smith 2017, "Cyclical Learning Rates for Training Neural Networks")."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from objnet.optim.lr_scheduler import momentum
from objnet.optim.lr_scheduler.base import LRScheduler, check_optimizer, for_groups, paired, saved_callable


class CyclicLR(LRScheduler):
    """From ``base_lr`` up to ``max_lr`` and down again, in straight lines, for ever; step it every batch.

    Args:
        optimizer: whose learning rates, and momentum, to set.
        base_lr, max_lr: the bounds, for all groups or a list.
        step_size_up: steps up.
        step_size_down: steps down; None for as many.
        mode: ``"triangular"``; ``"triangular2"``, each cycle half as high; ``"exp_range"``, as high as ``gamma ** step``.
        gamma: of ``"exp_range"``.
        scale_fn: the height of a cycle in place of ``mode``'s, from its number (from 1) or the step (``scale_mode``).
        scale_mode: ``"cycle"`` or ``"iterations"``.
        cycle_momentum: whether momentum goes the other way: from ``max_momentum`` down to ``base_momentum`` and up again.
        base_momentum, max_momentum: its bounds, for all groups or a list. For SGD a momentum of exactly 0 is another program
            (it keeps no buffer): a cycle that touches 0 compiles the step twice.
        last_epoch: -1, or the batch to go on from.

    Raises:
        ValueError: an unknown mode; ``cycle_momentum`` with an optimizer that has none; a list of another length than the groups.
    """

    def __init__(
        self,
        optimizer: Any,
        base_lr: float | list[float],
        max_lr: float | list[float],
        step_size_up: int = 2000,
        step_size_down: int | None = None,
        mode: str = "triangular",
        gamma: float = 1.0,
        scale_fn: Callable[[float], float] | None = None,
        scale_mode: str = "cycle",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.8,
        max_momentum: float | list[float] = 0.9,
        last_epoch: int = -1,
    ) -> None:
        self.optimizer = check_optimizer(optimizer)
        base_lrs = for_groups("base_lr", optimizer, base_lr)
        self.max_lrs = for_groups("max_lr", optimizer, max_lr)
        up = float(step_size_up)
        self.total_size = up + (up if step_size_down is None else float(step_size_down))
        self.step_ratio = up / self.total_size
        if mode not in ("triangular", "triangular2", "exp_range") and scale_fn is None:
            raise ValueError(f"mode is invalid and scale_fn is None: mode is triangular, triangular2 or exp_range, got {mode!r}")
        self.mode = mode
        self.gamma = gamma
        self._scale_fn_custom = scale_fn
        self.scale_mode = scale_mode if scale_fn is not None else "iterations" if mode == "exp_range" else "cycle"
        self.cycle_momentum = cycle_momentum
        if cycle_momentum:
            self.use_beta1 = momentum.uses_beta1(optimizer)
            self.base_momentums = for_groups("base_momentum", optimizer, base_momentum)
            self.max_momentums = for_groups("max_momentum", optimizer, max_momentum)
        if last_epoch == -1:
            for group, lr in zip(optimizer.param_groups, base_lrs, strict=True):
                group["lr"] = lr
            if cycle_momentum:
                momentum.begin(optimizer, self.use_beta1, self.base_momentums, self.max_momentums)
        super().__init__(optimizer, last_epoch)
        self.base_lrs = base_lrs

    def scale_fn(self, x: float) -> float:
        """The height of the cycle ``x``, or at the step ``x``, 1 being the whole range."""
        if self._scale_fn_custom is not None:
            return self._scale_fn_custom(x)
        if self.mode == "exp_range":
            return self.gamma**x
        return 1 / 2.0 ** (x - 1) if self.mode == "triangular2" else 1.0

    def get_lr(self) -> list[float]:
        """The learning rates of step ``last_epoch``; the momentum of that step is written at once, as in torch."""
        self._warn_outside_step()
        cycle = math.floor(1 + self.last_epoch / self.total_size)
        x = 1.0 + self.last_epoch / self.total_size - cycle  # how far into the cycle, from 0 to 1
        height = x / self.step_ratio if x <= self.step_ratio else (x - 1) / (self.step_ratio - 1)

        def scale() -> float:
            return self.scale_fn(cycle if self.scale_mode == "cycle" else self.last_epoch)

        paired(self, self.base_lrs)
        lrs = [low + (high - low) * height * scale() for low, high in zip(self.base_lrs, self.max_lrs, strict=True)]
        if self.cycle_momentum:
            for group, (low, high) in paired(self, [*zip(self.base_momentums, self.max_momentums, strict=True)]):
                momentum.set_momentum(group, self.use_beta1, high - (high - low) * height * scale())
        return lrs

    def state_dict(self) -> dict[str, Any]:
        """All attributes but the optimizer; of ``scale_fn``, its attributes if it is an object, and None if a function."""
        state = super().state_dict()
        del state["_scale_fn_custom"]
        function = self._scale_fn_custom
        return {**state, "_scale_fn_custom": None if function is None else saved_callable(function)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state of a scheduler of this class, objnet's or torch's; ``scale_fn`` stays.

        Raises:
            ValueError: if the state holds that of a ``scale_fn``, and there is none.
        """
        attributes = state_dict["_scale_fn_custom"]
        if attributes is not None and self._scale_fn_custom is None:
            raise ValueError("the state dict holds the attributes of a scale_fn: make the scheduler with that scale_fn")
        super().load_state_dict({k: v for k, v in state_dict.items() if k != "_scale_fn_custom"})
        if attributes is not None:
            self._scale_fn_custom.__dict__.update(attributes)
