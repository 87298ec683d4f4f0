"""Exponential moving averages, of a sequence of arrays and of the parameters of a model.

An average is kept as such, not as Haiku's sum that begins at zero with the division put off: what a step moves it by,
``weight * (value - average)``, has the debiasing and the warm-up in ``weight``.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from objnet.core.arrays import as_array
from objnet.core.variable import Buffer, Variable
from objnet.nn.functional._common import widen
from objnet.nn.module import Module
from objnet.nn.modules._parameters import float_dtype, place
from objnet.nn.modules._sizes import spread

__all__ = ["EMAModel", "ExponentialMovingAverage"]


class _MovingAverage(Module):
    """The options, and the buffer ``counter``: the number of values seen, an int32 that starts at ``-warmup_length``."""

    counter: Any

    def __init__(self, decay: float, zero_debias: bool, warmup_length: int) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {decay}")
        if warmup_length < 0:
            raise ValueError(f"warmup_length must not be negative, got {warmup_length}")
        if warmup_length and zero_debias:
            raise ValueError(
                "zero_debias takes away the weight of a first average of zero, but after a warm-up the first average is a "
                "value: pass zero_debias=False"
            )
        self.decay = decay
        self.zero_debias = zero_debias
        self.warmup_length = warmup_length
        self.counter = Buffer(np.asarray(-warmup_length, np.int32))

    def _step(self) -> tuple[jax.Array, jax.Array]:
        """The next count, and the weight of the next value in the average."""
        wide = jax.dtypes.canonicalize_dtype(np.float64)
        count = self.counter + 1
        weight = jnp.full((), 1 - self.decay, wide)
        if self.zero_debias:  # (1 - decay) / (1 - decay**count), without the cancellation
            log = math.log(self.decay) if self.decay else -math.inf
            weight = weight / -jnp.expm1(log * count.astype(wide))
        elif self.warmup_length:
            weight = jnp.where(count <= 0, jnp.ones_like(weight), weight)
        return count, weight

    def extra_repr(self) -> str:
        text = f"decay={self.decay}, zero_debias={self.zero_debias}"
        return f"{text}, warmup_length={self.warmup_length}" if self.warmup_length else text


def _moved(average: jax.Array, value: jax.Array, weight: jax.Array) -> jax.Array:
    old, new = widen(average), widen(value)  # 16 bits would lose small steps
    return (old + weight.astype(old.dtype) * (new - old)).astype(average.dtype)


class ExponentialMovingAverage(_MovingAverage):
    """The moving average of the arrays it is called with (Haiku's; the debiasing is that of Adam, Kingma and Ba 2015).

    Input and output have the shape ``shape``. In training the average is kept, in the buffers ``average`` (zero at first) and
    ``counter``; in evaluation the call gives what the average would become.

    Args:
        shape: the shape of the arrays; an int is one size.
        decay: the share of the average that stays at each step, in [0, 1).
        zero_debias: whether the zero that the average starts with has no share in it: the first average is the first value.
        warmup_length: as many first values replace the average; needs ``zero_debias=False``.
        device: where the buffers live, as in :meth:`Module.to`.
        dtype: the dtype of the average, and of the values.

    Raises:
        ValueError: options out of range, or ``warmup_length`` with ``zero_debias``.
        RuntimeError: from a call: another shape or dtype.
    """

    average: Any

    def __init__(
        self,
        shape: int | Sequence[int],
        decay: float,
        zero_debias: bool = True,
        warmup_length: int = 0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(decay, zero_debias, warmup_length)
        self.average = Buffer(np.zeros(spread(shape, 1), float_dtype(dtype)))
        place(self, device)

    def forward(self, input: jax.Array) -> jax.Array:
        input = as_array(input)
        if input.shape != self.average.shape or input.dtype != self.average.dtype:
            raise RuntimeError(
                f"this average is of {self.average.dtype} arrays of shape {self.average.shape}, got {input.dtype} of {input.shape}"
            )
        count, weight = self._step()
        average = _moved(self.average, input, weight)
        if self.training:
            self.counter, self.average = count, average
        return average


class EMAModel(_MovingAverage):
    """A copy of a model whose parameters are moving averages of the model's (Haiku's EMAParamsTree).

    ``update_parameters(model)`` after each step of the optimizer moves the averages, and copies the model's buffers; calling
    this calls the copy, ``module``. The averages are in ``module.state_dict()``, under the model's names; they need no gradients.
    They start as the model's parameters, which with ``zero_debias`` have no share in them.

    Args:
        model: the model to follow. It is not kept.
        decay: the share of the averages that stays at each update, in [0, 1).
        zero_debias: whether the first update replaces the first values, as in :class:`ExponentialMovingAverage`.
        warmup_length: as many first updates replace the averages; needs ``zero_debias=False``.
        ignore_regex: parameters whose names match are copied, not averaged; empty for none.

    Raises:
        ValueError: options out of range, or ``warmup_length`` with ``zero_debias``; from an update: a model with other names.
        RuntimeError: from an update: a parameter of another shape or dtype.
    """

    def __init__(
        self,
        model: Module,
        decay: float,
        zero_debias: bool = True,
        warmup_length: int = 0,
        ignore_regex: str = "",
    ) -> None:
        super().__init__(decay, zero_debias, warmup_length)
        self.ignore_regex = ignore_regex
        self.module = copy.deepcopy(model).requires_grad_(False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def update_parameters(self, model: Module) -> None:
        """Move the averages towards the parameters of ``model``, and copy its buffers."""
        held, given = _variables(self.module), _variables(model)
        if held.keys() != given.keys():
            raise ValueError(f"the model has other parameters or buffers than this average: {sorted(held.keys() ^ given.keys())}")
        count, weight = self._step()
        moved = {}
        for name, average in held.items():
            old, value = as_array(average), as_array(given[name])
            if old.shape != value.shape or old.dtype != value.dtype:
                raise RuntimeError(
                    f"{name}: the average is {old.dtype} of {old.shape}, the model's {value.dtype} of {value.shape}"
                )
            copied = isinstance(average, Buffer) or self._ignored(name)
            moved[name] = value if copied else _moved(old, value, weight)
        self.counter = count
        for name, average in held.items():
            average.value = moved[name]

    def _ignored(self, name: str) -> bool:
        return bool(self.ignore_regex) and re.match(self.ignore_regex, name) is not None

    def extra_repr(self) -> str:
        text = super().extra_repr()
        return f"{text}, ignore_regex={self.ignore_regex!r}" if self.ignore_regex else text


def _variables(model: Module) -> dict[str, Variable]:
    """The Parameters and Buffers of a model by name."""
    return {
        f"{path}.{name}" if path else name: variable
        for path, module in model.named_modules()
        for name, variable in (module._parameters | module._buffers).items()
        if variable is not None
    }
