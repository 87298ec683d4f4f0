"""Running an optimizer's maths: the numbers once for parameters stepped together, the rule once for each parameter.

Both are ``jax.jit`` functions that dissolve into the program around them: outside any program a step costs one dispatch a
parameter and one compilation a distinct shape, and the rule is traced once for all parameters of one shape.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Numbers = dict[str, jax.Array]


@functools.partial(jax.jit, static_argnums=(0, 1, 2), inline=True)
def run_schedule(
    schedule: Callable[..., Numbers], options: Any, names: tuple[str, ...], vector: jax.Array, shared: Numbers
) -> tuple[Numbers, Numbers]:
    """Count a step, and compute the numbers the rule needs from those of the group and those kept beside the count.

    Returns:
        The numbers to keep, and the rule's.
    """
    numbers = dict(zip(names, jnp.unstack(vector), strict=True))
    if not shared:
        return {}, schedule(options, numbers, None)
    kept = {name: number.astype(vector.dtype) for name, number in shared.items()}
    steps = kept.pop("step") + 1
    numbers = schedule(options, numbers | kept, steps)
    new = {"step": steps} | {name: numbers[name] for name in kept}
    return {name: number.astype(shared[name].dtype) for name, number in new.items()}, numbers


def as_kept(number: jax.Array) -> jax.Array:
    """``number`` rounded as the Variables of shared numbers hold it, which is float32 in double precision too, as in torch."""
    return number.astype(jnp.float32).astype(number.dtype)


@functools.partial(jax.jit, static_argnums=(0, 1), inline=True)
def run_rule(
    rule: Callable[..., tuple[jax.Array, Numbers]],
    options: Any,
    value: jax.Array,
    gradient: jax.Array,
    state: dict[str, jax.Array],
    numbers: Numbers,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """One parameter's new value and state.

    The arithmetic of bfloat16 and float16 is float32, rounded once for each array kept, as in torch's fused kernels; complex
    arrays are pairs of real ones, as in torch.
    """
    dtype = value.dtype
    pairs = jnp.issubdtype(dtype, jnp.complexfloating)
    real = jnp.finfo(dtype).dtype
    working = jnp.float32 if real.itemsize < 4 else real

    def enter(x: jax.Array) -> jax.Array:
        return (jnp.stack([x.real, x.imag], axis=-1) if pairs else x).astype(working)

    def leave(x: jax.Array) -> jax.Array:
        return lax.complex(x[..., 0], x[..., 1]) if pairs else x.astype(dtype)

    numbers = {k: v.astype(working) for k, v in numbers.items()} | {"epsilon": jnp.asarray(jnp.finfo(real).eps, working)}
    new, kept = rule(options, enter(value), enter(gradient), {k: enter(v) for k, v in state.items()}, numbers)
    return leave(new), {k: leave(v) for k, v in kept.items()}
