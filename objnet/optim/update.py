"""Running an optimizer's maths: numbers once a group, the rule once a parameter.

Both are ``jax.jit`` functions that dissolve into the program around them: outside any program a step costs one dispatch a
parameter and one compilation a distinct shape, and the rule is traced once for all parameters of one shape.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Numbers = dict[str, jax.Array]


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3), inline=True)
def run_schedule(
    schedule: Callable[..., Numbers],
    options: Any,
    names: tuple[str, ...],
    stepping: tuple[int, ...],
    vector: jax.Array,
    counts: jax.Array | None,
) -> tuple[jax.Array | None, Numbers, list[Numbers]]:
    """Count the step, and compute what the rule needs.

    Args:
        stepping: the positions in the group of the parameters that take part.

    Returns:
        The new counts; the numbers all parameters share; and for each that takes part its own.
    """
    steps = None
    if counts is not None:
        everyone = len(stepping) == counts.size
        part = np.isin(np.arange(counts.size), stepping).astype(counts.dtype)
        counts = counts + (1 if everyone else part)
        steps = (counts if everyone else counts[np.array(stepping)]).astype(vector.dtype)
    numbers = schedule(options, dict(zip(names, jnp.unstack(vector), strict=True)), steps)
    shared = {k: v for k, v in numbers.items() if v.ndim == 0}
    columns = {k: jnp.unstack(v) for k, v in numbers.items() if v.ndim}
    return counts, shared, [{k: column[i] for k, column in columns.items()} for i in range(len(stepping))]


@functools.partial(jax.jit, static_argnums=(0, 1), inline=True)
def run_rule(
    rule: Callable[..., tuple[jax.Array, Numbers]],
    options: Any,
    value: jax.Array,
    gradient: jax.Array,
    state: dict[str, jax.Array],
    shared: Numbers,
    own: Numbers,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """One parameter's new value and state.

    The arithmetic of bfloat16 and float16 is float32, rounded once for each array kept, as in torch's fused kernels; complex
    arrays are pairs of real ones, as in torch.
    """
    dtype = value.dtype
    pairs = jnp.issubdtype(dtype, jnp.complexfloating)
    working = jnp.promote_types(jnp.finfo(dtype).dtype, jnp.float32)

    def enter(x: jax.Array) -> jax.Array:
        return (jnp.stack([x.real, x.imag], axis=-1) if pairs else x).astype(working)

    def leave(x: jax.Array) -> jax.Array:
        return lax.complex(x[..., 0], x[..., 1]) if pairs else x.astype(dtype)

    numbers = {k: v.astype(working) for k, v in (shared | own).items()}
    new, kept = rule(options, enter(value), enter(gradient), {k: enter(v) for k, v in state.items()}, numbers)
    return leave(new), {k: leave(v) for k, v in kept.items()}
