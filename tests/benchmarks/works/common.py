"""What the works share: arrays drawn once, and hand-written jax's training step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Arrays = dict[str, np.ndarray]
Step = Callable[[np.ndarray, np.ndarray], Any]  # one training step on a batch; returns the loss


class Work(NamedTuple):
    """One training step and the libraries that do it, hand-written jax first; each builder takes the initial weights."""

    title: str
    weights: Callable[[], Arrays]
    batches: Callable[[], list[tuple[np.ndarray, np.ndarray]]]
    builders: dict[str, Callable[[Arrays], Step]]


def draw(shapes: dict[str, tuple[int, ...]], reach: float) -> Arrays:
    rng = np.random.default_rng(0)
    return {name: rng.uniform(-reach, reach, shape).astype(np.float32) for name, shape in shapes.items()}


def jax_step(loss_fn: Any, optimizer: Any, params: Any, hidden: Any) -> Step:
    import jax
    import optax

    @jax.jit
    def update(params: Any, opt_state: Any, hidden: Any, x: Any, y: Any) -> Any:
        (loss, hidden), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, hidden, x, y)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, hidden, loss

    opt_state = optimizer.init(params)

    def step(x: np.ndarray, y: np.ndarray) -> Any:
        nonlocal params, opt_state, hidden
        params, opt_state, hidden, loss = update(params, opt_state, hidden, x, y)
        return loss

    return step
