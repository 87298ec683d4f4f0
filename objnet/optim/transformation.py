"""An optimizer's maths as an ``optax.GradientTransformation``, for the pure form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from objnet.core.variable import Parameter
from objnet.optim.update import run_rule, run_schedule


class State(NamedTuple):
    """Beside the count of steps and what else parameters share, a list of arrays by torch's names along the parameters."""

    shared: dict[str, jax.Array]
    arrays: list[dict[str, jax.Array]]


def as_optax(kind: Any, options: Mapping[str, Any]) -> optax.GradientTransformation:
    """The transformation whose updates, applied by ``optax.apply_updates``, are the steps of optimizer class ``kind``.

    Args:
        options: the constructor's hyper-parameters; ``lr`` may be a schedule of optax's, a function of the steps taken so far.

    Raises:
        TypeError, ValueError: as the constructor.
    """
    schedule: Callable[[jax.Array], Any] | None = None
    options = dict(options)
    if callable(options.get("lr")):
        schedule = options.pop("lr")
    model = kind([Parameter(jnp.zeros((1, 1)))], **options)  # of two dimensions, which every optimizer takes
    group = model.param_groups[0]
    chosen, entries = group.options, {k: v for k, v in group.items() if k != "params"}
    names, numbers = tuple(group.numbers), np.array(list(group.numbers.values()))

    def init(params: Any) -> State:
        leaves = jax.tree.leaves(params)
        slots = [kind._slots(chosen, leaf.shape) for leaf in leaves]
        if not kind._slots(chosen, ()) and schedule is None:
            return State({}, [{} for _ in leaves])
        shared = {name: jnp.asarray(v, jnp.float32) for name, v in {"step": 0.0, **kind._shared(chosen)}.items()}
        made = [
            {name: jnp.full(shape, _fill(model._first(name), leaf.dtype), leaf.dtype) for name, shape in own.items()}
            for leaf, own in zip(leaves, slots, strict=True)
        ]
        return State(shared, made)

    def vector(state: State) -> jax.Array:
        dtype = jax.dtypes.canonicalize_dtype(np.float64)
        if schedule is None:
            return jnp.asarray(numbers, dtype)
        lr = jnp.asarray(schedule(state.shared["step"]), dtype)
        follows = {**group.numbers, "lr": lr, **kind._derive({**entries, "lr": lr})}
        return jnp.stack([jnp.asarray(follows[name], dtype) for name in names])

    def update(updates: Any, state: State, params: Any = None) -> tuple[Any, State]:
        if params is None:
            raise ValueError(f"the updates of {kind.__name__} depend on the parameters: call update(grads, state, params)")
        values, structure = jax.tree.flatten(params)
        grads = structure.flatten_up_to(updates)
        kept_shared = state.shared if kind._slots(chosen, ()) else {}
        shared, used = run_schedule(kind._schedule, chosen, names, vector(state), kept_shared)
        if not kept_shared and state.shared:
            shared = {"step": state.shared["step"] + 1}  # which the schedule alone needs
        steps, arrays = [], []
        for value, gradient, own in zip(values, grads, state.arrays, strict=True):
            if gradient is None:
                steps.append(jnp.zeros_like(value))
                arrays.append(own)
                continue
            new, kept = run_rule(kind._rule, chosen, value, gradient, own, used)
            steps.append(new - value)
            arrays.append(kept)
        return jax.tree.unflatten(structure, steps), State(shared, arrays)

    return optax.GradientTransformation(init, update)


def _fill(number: float, dtype: Any) -> float | complex:
    return complex(number, number) if jnp.issubdtype(dtype, jnp.complexfloating) else number
