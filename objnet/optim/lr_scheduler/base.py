"""``LRScheduler``, the base class, and what schedulers do to parameter groups.

A scheduler is plain Python: it counts in ints, computes in floats (double precision, as torch's) and writes the results into
the optimizer's groups, from where compiled steps take them as data. It steps between compiled calls, never inside one.
"""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

from objnet.core import errors
from objnet.core.foreign import is_torch_tensor, to_host_or_jax
from objnet.optim import progress
from objnet.optim.control import tracing
from objnet.optim.groups import ParamGroup, plain
from objnet.optim.optimizer import Optimizer

EPOCH_DEPRECATION_WARNING = (
    "The epoch argument of scheduler.step() is deprecated: call scheduler.step() without it, once an epoch. With it the closed "
    "form of the schedule is used, where there is one."
)
_ORDER = (
    "lr_scheduler.step() was called before optimizer.step(): the first value of the schedule is skipped. Call optimizer.step() "
    "first, then lr_scheduler.step()."
)
_OVERRIDDEN = (
    "optimizer.step() was overridden after the learning rate scheduler was made, so that it cannot be told whether it runs "
    "before lr_scheduler.step(), as it should."
)


class LRScheduler:
    """Base class of learning-rate schedulers (torch's ``LRScheduler``).

    A subclass defines :meth:`get_lr`, and may define ``_get_closed_form_lr`` for ``step(epoch)``. Making a scheduler takes its
    first step, which may change the learning rates: make it before loading an optimizer's state dict.

    Args:
        optimizer: whose groups' ``"lr"`` it writes.
        last_epoch: -1 for a new schedule, otherwise the step to go on from.

    Raises:
        TypeError: not an Optimizer. KeyError: ``last_epoch`` without ``"initial_lr"`` in a group.
        StaticAttributeError: made, stepped or read inside a compiled function, where only ``get_last_lr()`` has a meaning.
    """

    _get_lr_called_within_step = False
    _is_initial = False

    def __init__(self, optimizer: Any, last_epoch: int = -1) -> None:
        self.optimizer = check_optimizer(optimizer)
        for i, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", group["lr"])
            elif "initial_lr" not in group:
                raise KeyError(
                    f"param 'initial_lr' is not specified in param_groups[{i}] when resuming scheduler with last_epoch >= 0: load "
                    "the optimizer's state dict first, or make the scheduler with last_epoch=-1 and load the scheduler's"
                )
        self.base_lrs = current(self, "initial_lr")
        self.last_epoch = last_epoch
        progress.begin(optimizer)
        self._initial_step()

    def _initial_step(self) -> None:
        """Take the first step."""
        self._step_count = 0
        self._is_initial = True
        try:
            with progress.starting():
                self.step()
        finally:
            self._is_initial = False

    # -- a schedule ----------------------------------------------------------------------------------------------------

    def get_lr(self) -> list[float]:
        """The learning rates of step ``last_epoch``, one for each group; for subclasses to define, and :meth:`step` to call."""
        raise NotImplementedError(f"{type(self).__name__} does not define get_lr")

    def get_last_lr(self) -> list[float]:
        """The learning rates now in use, one for each group. Inside a compiled function they are 0-d arrays, which follow."""
        if tracing():
            return [group["lr"] for group in self.optimizer.param_groups]
        return self._last_lr

    def step(self, epoch: int | None = None) -> None:
        """Move on by one step; call it after the optimizer's.

        Args:
            epoch: deprecated: the step to go to.

        Warns:
            UserWarning: for ``epoch``, and if the optimizer has not stepped before.
        """
        refuse_inside(self)
        if self._step_count == 1 and not progress.is_starting():
            if progress.overridden(self.optimizer):
                warnings.warn(_OVERRIDDEN, UserWarning, stacklevel=2)
            elif not progress.stepped(self.optimizer, Optimizer):
                warnings.warn(_ORDER, UserWarning, stacklevel=2)
        self._step_count += 1
        if epoch is not None:
            warnings.warn(EPOCH_DEPRECATION_WARNING, UserWarning, stacklevel=2)
        self._update_lr(epoch)

    def _update_lr(self, epoch: int | None = None) -> None:
        compute: Callable[[], Sequence[float]] = self.get_lr
        if epoch is not None:
            compute = getattr(self, "_get_closed_form_lr", compute)
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        with self._computing():
            values = compute()
        self._write(values)

    @contextmanager
    def _computing(self) -> Iterator[None]:
        self._get_lr_called_within_step = True
        try:
            yield
        finally:
            self._get_lr_called_within_step = False

    def _warn_outside_step(self) -> None:
        if not self._get_lr_called_within_step:
            warnings.warn(
                "get_lr() computes the next learning rate: to get the last one, please use `get_last_lr()`.",
                UserWarning,
                stacklevel=3,
            )

    def _write(self, values: Sequence[float]) -> None:
        """Set the learning rates of all groups."""
        for group, lr in paired(self, values):
            write(group, "lr", lr)
        self._last_lr = current(self)

    # -- saving --------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All attributes but the optimizer, under torch's names: torch's scheduler of this class loads it."""
        return {k: v for k, v in self.__dict__.items() if k != "optimizer"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state of a scheduler of this class, objnet's or torch's; learning rates are the optimizer's state."""
        self.__dict__.update({k: as_number(v) for k, v in state_dict.items()})

    # -- in compiled functions -----------------------------------------------------------------------------------------

    def __objnet_capture__(self, visit: Callable[[Any], Any]) -> Any:
        return visit(self.optimizer)  # the rest moves at every step, and may not be read inside

    def __getattribute__(self, name: str) -> Any:
        attributes = object.__getattribute__(self, "__dict__")
        if (name in attributes or name == "__dict__") and name != "optimizer" and tracing():
            raise errors.StaticAttributeError(
                f"{type(self).__name__}.{name} was read inside a compiled function{errors.where()}: it would be a constant of the "
                "program while the schedule goes on. Pass it as an argument, or read the learning rates by get_last_lr(), which "
                "follow."
            )
        return object.__getattribute__(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        refuse_inside(self, "changed" if "optimizer" in object.__getattribute__(self, "__dict__") else "made")
        object.__setattr__(self, name, value)


# torch keeps the old name as a class of its own.
class _LRScheduler(LRScheduler):
    pass


# -- for all schedulers ------------------------------------------------------------------------------------------------


def check_optimizer(optimizer: Any) -> Any:
    """Raise TypeError for anything but one of objnet's optimizers."""
    if not isinstance(optimizer, Optimizer):
        hint = ": it is torch's; make objnet's" if type(optimizer).__module__.startswith("torch.") else ""
        raise TypeError(f"{type(optimizer).__name__} is not an Optimizer{hint}")
    return optimizer


def refuse_inside(scheduler: Any, what: str = "stepped") -> None:
    """Raise StaticAttributeError inside a compiled function, before anything has changed."""
    if tracing():
        raise errors.StaticAttributeError(
            f"{type(scheduler).__name__} was {what} inside a compiled function{errors.where()}: that would happen once, when the "
            "function is traced, and not at every call. Do it outside, between calls; changing the learning rate costs no retrace."
        )


def current(scheduler: Any, key: str = "lr") -> list[Any]:
    """``group[key]`` of every group."""
    return [entry(scheduler, i, group, key) for i, group in enumerate(scheduler.optimizer.param_groups)]


def entry(scheduler: Any, i: int, group: ParamGroup, key: str) -> Any:
    """``group[key]``, which the scheduler put there when it was made.

    Raises:
        KeyError: for a group added since.
    """
    if key not in group:
        raise KeyError(
            f"param {key!r} is not specified in param_groups[{i}]: {type(scheduler).__name__} sets it for the groups there are "
            "when it is made. Give it to add_param_group, or make the scheduler anew."
        )
    return group[key]


def paired(scheduler: Any, values: Sequence[Any]) -> list[tuple[ParamGroup, Any]]:
    """The groups with what a scheduler keeps for each.

    Raises:
        ValueError: if there are more or fewer, after ``add_param_group``.
    """
    groups = scheduler.optimizer.param_groups
    if len(groups) != len(values):
        raise ValueError(
            f"{type(scheduler).__name__} was made for {len(values)} parameter group(s), and the optimizer has {len(groups)} now: "
            "make the scheduler anew after add_param_group"
        )
    return list(zip(groups, values, strict=True))


def write(group: ParamGroup, key: str, value: Any) -> None:
    """``group[key] = value``, which goes to the device, unless that changes nothing."""
    now = group[key]
    if type(value) is not type(now) or value != now:
        group[key] = value


def for_groups(name: str, optimizer: Any, value: Any) -> list[Any]:
    """One number for each group, from one for all or a list of them.

    Raises:
        ValueError: for a list of another length.
    """
    groups = optimizer.param_groups
    value = plain(name, value)
    if not isinstance(value, (list, tuple)):
        return [value] * len(groups)
    if len(value) != len(groups):
        raise ValueError(
            f"{name} must have the same length as optimizer.param_groups. "
            f"{name} has {len(value)} values, param_groups has {len(groups)}."
        )
    return list(value)


def as_number(value: Any) -> Any:
    """``value`` with 0-d arrays and tensors, alone or in lists, as Python numbers; torch saves them if ``lr`` was a tensor."""
    if type(value) in (list, tuple):
        return type(value)(map(as_number, value))
    if is_torch_tensor(value):
        value = to_host_or_jax(value)
    if isinstance(value, (np.ndarray, np.generic, jax.Array)) and value.shape == ():
        return value.item()
    return value


def saved_callable(function: Any) -> dict[str, Any] | None:
    """What a state dict holds of a callable: an object's attributes; None for a function, which cannot be saved."""
    if isinstance(function, types.FunctionType) or not hasattr(function, "__dict__"):
        return None
    return dict(function.__dict__)
