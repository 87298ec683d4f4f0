"""``scan_steps``: many training steps in one compiled call, for models so small that the calls themselves take the time."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from objnet.core import errors
from objnet.core.foreign import to_host_or_jax
from objnet.optim import progress
from objnet.optim.control import tracing
from objnet.optim.groups import ParamGroup
from objnet.transforms.jit import jit
from objnet.transforms.loops import scan


def scan_steps(step: Callable[..., Any], *, schedulers: Any = (), unroll: int = 1, **options: Any) -> Callable[..., Any]:
    """``step`` compiled to run once for each row of its arguments: K training steps cost one call.

    ``losses = scan_steps(train_step)(xs, ys)`` leaves what ``for x, y in zip(xs, ys): train_step(x, y)`` leaves, to rounding.

    Args:
        step: one training step; it may read and write any model, optimizer and random key, compiled by itself or not.
        schedulers: learning-rate schedulers to step after every step; one, or a sequence of them.
        unroll: how many steps the program spells out at a time.
        options: of :func:`objnet.jit`.

    Returns:
        A function. Its positional arguments are pytrees of arrays with one leading axis of length K, ``np.stack`` of K
        batches; its keyword arguments are the same for every step. It returns what the steps return, stacked along axis 0.

    Raises:
        ValueError: if the leading axes differ or there are none; if a schedule changes what the program is made of (momentum
            that becomes zero). TypeError: for a scheduler whose step needs a metric. Nothing has been changed then.
    """
    return _Steps(step, schedulers, unroll, options)


class _Steps:
    def __init__(self, step: Callable[..., Any], schedulers: Any, unroll: int, options: dict[str, Any]):
        if not callable(step):
            raise TypeError(f"scan_steps takes a function that does one training step, got {type(step).__name__}")
        functools.update_wrapper(self, step, updated=())
        self._schedulers = [schedulers] if hasattr(schedulers, "step") else list(schedulers)
        for scheduler in self._schedulers:
            if not hasattr(scheduler, "optimizer") or hasattr(scheduler, "num_bad_epochs"):
                raise TypeError(
                    f"scan_steps steps schedulers between the steps, with nothing to tell them: {type(scheduler).__name__} needs a "
                    "metric, or is no scheduler. Step it yourself, between calls."
                )
        optimizers = {id(s.optimizer): s.optimizer for s in self._schedulers}
        self._optimizers = list(optimizers.values())

        def run(vectors: Any, batches: Any, same: Any) -> Any:
            def body(_: None, row: Any) -> tuple[None, Any]:
                numbers, batch = row
                for group, vector in zip(self._groups(), numbers, strict=True):
                    group.take(vector)
                return None, step(*batch, **same)

            return scan(body, None, (vectors, batches), unroll=unroll)[1]

        functools.update_wrapper(run, step, updated=())
        self._compiled = jit(run, **options)

    def _groups(self) -> list[ParamGroup]:
        return [group for optimizer in self._optimizers for group in optimizer.param_groups]

    def __call__(self, *batches: Any, **same: Any) -> Any:
        batches = jax.tree.map(to_host_or_jax, batches)
        count = _count(batches)
        if not self._schedulers:
            return self._compiled([], batches, same)
        if tracing():
            raise errors.StaticAttributeError(
                f"scan_steps with schedulers was called inside a compiled function{errors.where()}: schedulers step in Python, "
                "between compiled calls. Call it outside."
            )
        groups = self._groups()
        before = [s.state_dict() for s in self._schedulers], [dict(group) for group in groups]
        try:
            vectors = self._ahead(groups, count)
            out = self._compiled(vectors, batches, same)
        except BaseException:
            for scheduler, state in zip(self._schedulers, before[0], strict=True):
                scheduler.load_state_dict(state)
            for group, entries in zip(groups, before[1], strict=True):
                group.replace(entries)
            raise
        for group in groups:
            group.refresh()
        return out

    def _ahead(self, groups: Sequence[ParamGroup], count: int) -> list[np.ndarray[Any, Any]]:
        """The hyper-parameters of each group at each of the coming steps; the schedulers are then behind the last one."""
        rows: list[list[list[float]]] = [[] for _ in groups]
        options = [group.options for group in groups]
        with progress.starting():  # the optimizers' steps come after, and are not missed
            for _ in range(count):
                if [group.options for group in groups] != options:
                    raise ValueError(
                        "a scheduler changes what is part of the program within one call of scan_steps: it turns a hyper-parameter to or "
                        "from zero (end the call there), or sets another number than lr of an optimizer of your own (step one by one)"
                    )
                for group, values in zip(groups, rows, strict=True):
                    values.append(list(group.numbers.values()))
                for scheduler in self._schedulers:
                    scheduler.step()
        dtype = jax.dtypes.canonicalize_dtype(np.float64)
        return [np.array(values, dtype) for values in rows]


def _count(batches: Any) -> int:
    """The length of the leading axes.

    Raises:
        ValueError: if there is none, or they differ.
    """
    sizes: dict[int, str] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(batches)[0]:
        name = f"argument {path[0].idx}{jax.tree_util.keystr(path[1:])}"
        if not np.ndim(leaf):
            raise ValueError(
                f"{name} of scan_steps has no leading axis to step along; give what is the same for all steps by keyword"
            )
        sizes.setdefault(np.shape(leaf)[0], name)
    if len(sizes) != 1:
        found = ", ".join(f"{name} has {size}" for size, name in sizes.items())
        raise ValueError(f"scan_steps needs one number of steps along all leading axes: {found or 'no arrays were given'}")
    if 0 in sizes:
        raise ValueError(f"scan_steps was given no steps: {sizes[0]} has a leading axis of length 0")
    return next(iter(sizes))
