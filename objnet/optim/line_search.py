"""The line search of L-BFGS: a step that satisfies the strong Wolfe conditions (torch's ``line_search_fn="strong_wolfe"``).

Nocedal and Wright, "Numerical Optimization", algorithms 3.5 and 3.6, with cubic interpolation. Each turn of either loop
evaluates the function once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from objnet.optim.control import loop

_DECREASE = 1e-4
_CURVATURE = 0.9


class Point(NamedTuple):
    """The function at a step: the step, its value, its gradient of shape (n,) and the slope along the direction."""

    t: jax.Array
    f: jax.Array
    g: jax.Array
    slope: jax.Array


class _Bracketing(NamedTuple):
    previous: Point
    new: Point
    turns: jax.Array
    met: jax.Array  # the new point satisfies the conditions
    between: jax.Array  # a point between the two does


class _Zoom(NamedTuple):
    low: Point
    high: Point
    low_first: jax.Array  # which of two equal values counts as the lower
    turns: jax.Array
    met: jax.Array
    stalled: jax.Array  # the last step came close to an end of the bracket


def strong_wolfe(
    evaluate: Callable[[jax.Array], Point],
    t: jax.Array,
    start: Point,
    length: jax.Array,
    tolerance_change: jax.Array,
    most: jax.Array,
) -> tuple[Point, jax.Array]:
    """Find a step.

    Args:
        evaluate: gives the point at a step.
        t: the first step to try, 0-d.
        start: the point at step 0, going down.
        length: the largest element of the direction, 0-d.
        tolerance_change: the search ends where the bracket moves no element by more.
        most: how many turns are allowed, 0-d int32.

    Returns:
        The point found, and how often the function was evaluated, 0-d int32.
    """

    def too_high(point: Point) -> jax.Array:
        return point.f > start.f + _DECREASE * point.t * start.slope

    def flat(point: Point) -> jax.Array:
        return jnp.abs(point.slope) <= -_CURVATURE * start.slope

    def judged(previous: Point, new: Point, turns: jax.Array) -> _Bracketing:
        worse = too_high(new) | ((turns > 1) & (new.f >= previous.f))
        within = turns < most  # a point found by the last turn is not judged
        met = within & ~worse & flat(new)
        return _Bracketing(previous, new, turns, met, within & ~met & (worse | (new.slope >= 0)))

    def further(state: _Bracketing) -> _Bracketing:
        previous, new = state.previous, state.new
        low, high = new.t + 0.01 * (new.t - previous.t), new.t * 10
        return judged(new, evaluate(_cubic(previous, new, low, high)), state.turns + 1)

    bracketing = judged(start, evaluate(t), jnp.zeros((), jnp.int32))
    bracketing = loop(lambda s: ~s.met & ~s.between & (s.turns < most), further, bracketing)
    exhausted = bracketing.turns >= most
    first = _pick(bracketing.met, bracketing.new, _pick(exhausted, start, bracketing.previous))
    low_first = first.f <= bracketing.new.f

    def zoom(state: _Zoom) -> _Zoom:
        low, high = state.low, state.high
        left, right = jnp.minimum(low.t, high.t), jnp.maximum(low.t, high.t)
        step = _cubic(low, high, left, right)
        margin = 0.1 * (right - left)
        near = jnp.minimum(right - step, step - left) < margin
        moved = near & (state.stalled | (step >= right) | (step <= left))
        inside = jnp.where(jnp.abs(step - right) < jnp.abs(step - left), right - margin, left + margin)
        new = evaluate(jnp.where(moved, inside, step))
        failed = too_high(new) | (new.f >= low.f)
        met = ~failed & flat(new)
        turned = ~failed & ~met & (new.slope * (high.t - low.t) >= 0)
        low_first = jnp.where(failed, jnp.where(state.low_first, low.f <= new.f, new.f <= low.f), state.low_first)
        swapped = failed & (low_first != state.low_first)
        return _Zoom(
            low=_pick(failed, _pick(swapped, new, low), new),
            high=_pick(failed, _pick(swapped, low, new), _pick(turned, low, high)),
            low_first=low_first,
            turns=state.turns + 1,
            met=met,
            stalled=near & ~moved,
        )

    def narrows(state: _Zoom) -> jax.Array:
        wide = ~(jnp.abs(state.high.t - state.low.t) * length < tolerance_change)
        return ~state.met & (state.turns < most) & wide

    state = _Zoom(
        low=_pick(low_first, first, bracketing.new),
        high=_pick(low_first, bracketing.new, first),
        low_first=low_first,
        turns=bracketing.turns,
        met=bracketing.met,
        stalled=jnp.zeros((), jnp.bool_),
    )
    state = loop(narrows, zoom, state)
    return state.low, state.turns + 1


def _pick(condition: jax.Array, a: Point, b: Point) -> Point:
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)


@jax.jit
def _cubic(a: Point, b: Point, low: jax.Array, high: jax.Array) -> jax.Array:
    """Where the cubic through two points with their slopes is least, within bounds; their middle if it is nowhere least."""
    left, right = _pick(a.t <= b.t, a, b), _pick(a.t <= b.t, b, a)
    d1 = left.slope + right.slope - 3 * (left.f - right.f) / (left.t - right.t)
    square = d1 * d1 - left.slope * right.slope
    d2 = jnp.sqrt(jnp.maximum(square, 0.0))
    least = right.t - (right.t - left.t) * ((right.slope + d2 - d1) / (right.slope - left.slope + 2 * d2))
    return jnp.where(square >= 0, jnp.minimum(jnp.maximum(least, low), high), (low + high) / 2)
