"""``EarlyStopping``: stop when a metric no longer gets better, and go back to the weights it was best with.

Prechelt (1998), "Early Stopping - But When?".
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from objnet.core import errors
from objnet.core.foreign import to_host_or_jax
from objnet.optim.control import tracing


class EarlyStopping:
    """Says when ``patience`` metrics in a row were no better than the best: ``if stopper.step(val_loss): break``.

    It reads the metric, and so waits for the device; call it between compiled steps.

    Args:
        model: has ``state_dict`` and ``load_state_dict``.
        patience: how many metrics in a row may be no better, the last of which stops; 1 or more.
        min_delta: how much a better metric is beyond the best at least. NaN is never better.
        mode: ``"min"`` or ``"max"``: which metrics are better.
        restore_best: keep a copy of the best weights, and load it when it is time to stop.

    Attributes:
        best: the best metric, a float; None before there is one.
        num_bad: how many metrics in a row were no better.
        stopped: whether it was time to stop.

    Raises:
        ValueError: ``patience`` below 1, ``min_delta`` below 0, an unknown ``mode``.
    """

    def __init__(self, model: Any, patience: int = 10, min_delta: float = 0.0, mode: str = "min", restore_best: bool = True):
        if patience < 1:
            raise ValueError(f"patience is a number of metrics, 1 or more, got {patience}")
        if not min_delta >= 0:
            raise ValueError(f"min_delta is the least improvement, 0 or more, got {min_delta}")
        if mode not in ("min", "max"):
            raise ValueError(f"mode is 'min' or 'max', got {mode!r}")
        self.model, self.patience, self.min_delta, self.mode, self.restore_best = model, patience, min_delta, mode, restore_best
        self.best: float | None = None
        self.num_bad = 0
        self.stopped = False
        self._best_state: dict[str, Any] | None = None

    def step(self, metric: Any) -> bool:
        """Take the next metric, a number or an array of one element; whether to stop.

        When it is, and with ``restore_best``, the model has its best weights back.

        Raises:
            StaticAttributeError: inside a compiled function. ValueError: an array of more elements.
        """
        self._refuse_inside("stepped")
        array = np.asarray(to_host_or_jax(metric))
        if array.size != 1:
            raise ValueError(f"EarlyStopping.step takes one metric, got an array of shape {array.shape}")
        value = float(array.reshape(()))
        if self._better(value):
            self.best, self.num_bad, self.stopped = value, 0, False
            if self.restore_best:
                self._best_state = _copy(self.model.state_dict())
        else:
            self.num_bad += 1
            self.stopped = self.num_bad >= self.patience
            if self.stopped and self._best_state is not None:
                self.restore()
        return self.stopped

    def _better(self, value: float) -> bool:
        if self.best is None:
            return value == value
        return value < self.best - self.min_delta if self.mode == "min" else value > self.best + self.min_delta

    def restore(self) -> None:
        """Load the best weights into the model.

        Raises:
            RuntimeError: there are none: no metric was a number yet, or ``restore_best=False``.
            StaticAttributeError: inside a compiled function.
        """
        self._refuse_inside("asked to restore")
        if self._best_state is None:
            why = "no metric but NaN was seen yet" if self.restore_best else "restore_best is False"
            raise RuntimeError(f"EarlyStopping keeps no weights to restore{errors.where()}: {why}")
        self.model.load_state_dict(_copy(self._best_state))

    def state_dict(self) -> dict[str, Any]:
        """``best``, ``num_bad``, ``stopped``, and under ``best_state`` the best weights, or None."""
        state = None if self._best_state is None else _copy(self._best_state)
        return {"best": self.best, "num_bad": self.num_bad, "stopped": self.stopped, "best_state": state}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take the state of another; the model itself is left as it is."""
        best, state = state_dict["best"], state_dict["best_state"]
        self.best = None if best is None else float(best)
        self.num_bad, self.stopped = int(state_dict["num_bad"]), bool(state_dict["stopped"])
        self._best_state = None if state is None else _copy(state)

    def _refuse_inside(self, what: str) -> None:
        if tracing():
            raise errors.StaticAttributeError(
                f"EarlyStopping was {what} inside a compiled function{errors.where()}: that would happen once, when the function is "
                "traced, and not at every call. Return the metric, and call it outside, between calls."
            )


def _copy(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict of arrays of its own, which no step can donate."""
    return {
        name: value.copy() if isinstance(value, (jax.Array, np.ndarray)) else copy.deepcopy(value)
        for name, value in state.items()
    }
