"""``AveragedModel``: a copy of a model whose parameters are averages over training.

Izmailov et al. (2018), "Averaging Weights Leads to Wider Optima and Better Generalization".
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from objnet.core.arrays import as_array
from objnet.core.placement import named_device
from objnet.core.variable import Buffer
from objnet.nn.module import Module
from objnet.optim.swa_utils.functions import Arrays, equal_weights, unless_first


class AveragedModel(Module):
    """A copy of a model, in ``module``, whose parameters are averages of the model's; calling this calls the copy.

    ``update_parameters(model)`` takes the model of now into the average; the first time it copies it. It runs eagerly or as
    part of a compiled step, which is traced once. The averaging functions are no part of the state dict.

    Args:
        model: the model to copy.
        device: where the copy lives; as in ``Module.to``.
        avg_fn: ``(averaged, current, num_averaged)`` -> the new average, of arrays; None for equal weights. ``num_averaged`` is
            an int, and in a compiled step a traced one: there the function is traced with it, and its result at 0 is not used.
        multi_avg_fn: the same for the list of all averages of one dtype and that of the model's arrays. It changes the first in
            place (they are Buffers, with torch's in-place methods), or returns a list of new arrays.
        use_buffers: whether buffers are averaged too; otherwise they are copied.

    Raises:
        AssertionError: both functions given, as torch. ValueError: from an update: a model of other parameters or buffers.
    """

    n_averaged: Any

    def __init__(
        self,
        model: Module,
        device: Any = None,
        avg_fn: Callable[[Any, Any, Any], Any] | None = None,
        multi_avg_fn: Callable[[list[Any], list[Any], Any], Any] | None = None,
        use_buffers: bool = False,
    ) -> None:
        super().__init__()
        if avg_fn is not None and multi_avg_fn is not None:
            raise AssertionError("Only one of avg_fn and multi_avg_fn should be provided")
        self.module = copy.deepcopy(model)
        self.register_buffer("n_averaged", Buffer(np.zeros((), jax.dtypes.canonicalize_dtype(np.int64))))
        if device is not None:
            self.to(device=named_device(device))
        self.avg_fn = avg_fn
        self.multi_avg_fn = multi_avg_fn
        self.use_buffers = use_buffers

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def update_parameters(self, model: Module) -> None:
        """Take the parameters of ``model`` into the averages, and its buffers too, or copy these."""
        held, given = _variables(self.module), _variables(model)
        if [name for name, _ in held] != [name for name, _ in given]:
            names = sorted({name for name, _ in held} ^ {name for name, _ in given})
            raise ValueError(
                f"the model has other parameters or buffers than this average: {', '.join(names) or 'in another order'}"
            )
        targets = [target for _, target in held]
        old = [target._read() for target in targets]
        current = [_beside(source._read(), there) for (_, source), there in zip(given, old, strict=True)]
        for (name, _), there, array in zip(held, old, current, strict=True):
            if there.shape != array.shape:
                raise ValueError(f"{name}: the average has shape {there.shape}, the model's {array.shape}")
        averaged = [i for i, target in enumerate(targets) if self.use_buffers or not isinstance(target, Buffer)]
        before, now = [old[i] for i in averaged], [current[i] for i in averaged]
        count = self.n_averaged
        traced = isinstance(count, jax.core.Tracer)
        if not traced:
            count = int(jax.device_get(count))
        if traced or count > 0:
            averages = [a.astype(there.dtype) for a, there in zip(self._average(before, now, count), before, strict=True)]
            now = [a.astype(there.dtype) for a, there in zip(now, before, strict=True)]
            # One program for the first update and all others.
            for i, value in zip(averaged, unless_first(count, now, averages) if traced else averages, strict=True):
                current[i] = value
        for target, there, value in zip(targets, old, current, strict=True):
            target._set(value.astype(there.dtype))
        self.n_averaged = self.n_averaged + 1

    def _average(self, before: Arrays, now: Arrays, count: Any) -> Arrays:
        if self.avg_fn is not None:
            return [as_array(self.avg_fn(a, b, count)) for a, b in zip(before, now, strict=True)]
        if self.multi_avg_fn is None:
            return equal_weights(before, now, count)
        kinds: dict[Any, list[int]] = {}
        for i, array in enumerate(before):
            kinds.setdefault(array.dtype, []).append(i)
        averages = list(before)
        for members in kinds.values():
            targets = [Buffer(before[i]) for i in members]
            values = self.multi_avg_fn(targets, [now[i] for i in members], count)
            values = [target._read() for target in targets] if values is None else list(values)
            if len(values) != len(members):
                raise ValueError(f"multi_avg_fn was given {len(members)} arrays and returned {len(values)}")
            for i, value in zip(members, values, strict=True):
                averages[i] = as_array(value)
        return averages


def _variables(model: Module) -> list[tuple[str, Any]]:
    """Parameters, then buffers, with their names."""
    return [*model.named_parameters(), *model._named_buffer_cells()]


def _beside(array: jax.Array, other: jax.Array) -> jax.Array:
    """``array`` for computing with ``other``: cut off from gradients, and on the same devices."""
    if isinstance(array, jax.core.Tracer):
        return jax.lax.stop_gradient(array)
    if isinstance(other, jax.core.Tracer) or array.sharding == other.sharding:
        return array
    return jax.device_put(array, other.sharding)
