"""How far a :class:`GradScaler` has come with one optimizer since its last update, and what it has found, as data."""

from __future__ import annotations

import weakref
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from objnet.core.variable import Parameter, Variable
from objnet.optim.control import tracing
from objnet.optim.loss_scale import unscaled

READY, UNSCALED, STEPPED = range(3)


class InfChecks:
    """The stage one optimizer is in, and whether its gradients were found infinite or NaN.

    Args:
        position: int32, one of READY, UNSCALED and STEPPED.
        found_inf: bool.
    """

    def __init__(self, position: Variable, found_inf: Variable):
        self.position, self.found_inf = position, found_inf
        self.any = True  # whether there was anything to check, as far as Python knows
        # The stage that Python wrote last, and the array that stands for it: while that is still the value, no look is needed.
        self._known: tuple[Any, int] | None = None

    def stage(self) -> int | None:
        """READY, UNSCALED or STEPPED; None where a program is being traced that began with it."""
        value = self.position._read()
        if self._known is not None and self._known[0]() is value:
            return self._known[1]
        return None if tracing() else int(value)

    def made(self) -> jax.Array:
        """Whether the gradients have been checked, a 0-d bool."""
        return self.position._read() != READY

    def enter(self, stage: int) -> None:
        """Write another stage."""
        value = jnp.full_like(self.position._read(), np.int32(stage))
        self.position._set(value)
        self._known = weakref.ref(self.position._read()), stage

    def unscale(self, optimizer: Any, scale: jax.Array, stage: int | None) -> None:
        """Divide the gradients by ``scale``, unless that was done, and note what is not finite.

        Raises:
            ValueError: float16 gradients, as torch: they would lose what the scale has saved.
        """
        held: list[Parameter] = [p for group in optimizer.param_groups for p in group["params"]]
        pairs = [(p, gradient) for p in held if (gradient := p.grad) is not None]
        for _, gradient in pairs:
            if gradient.dtype == jnp.float16:
                raise ValueError("Attempting to unscale FP16 gradients.")
        self.any = bool(pairs)
        if pairs:
            done = self.position._read() == UNSCALED if stage is None else None
            grads, found = unscaled([gradient for _, gradient in pairs], scale, done, self.found_inf._read())
            for (p, _), gradient in zip(pairs, grads, strict=True):
                p.grad = gradient
            self.found_inf._set(found)
        self.enter(UNSCALED)
