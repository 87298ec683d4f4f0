"""Resilient backpropagation (torch's ``optim.Rprop``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from objnet.optim.checks import at_least_zero
from objnet.optim.groups import plain
from objnet.optim.optimizer import Optimizer


class _Options(NamedTuple):
    maximize: bool


class Rprop(Optimizer):
    """Rprop: steps of the gradient's sign, longer while it stays and shorter where it changes.

    Each element's step size starts at ``lr``, is multiplied by ``etas[1]`` where the gradient kept its sign and by ``etas[0]``
    where it changed, and stays within ``step_sizes``; where it changed no step is taken. Riedmiller and Braun (1993), "A Direct
    Adaptive Method for Faster Backpropagation Learning: The RPROP Algorithm".

    Args:
        params: Parameters, (name, Parameter) pairs, or group dicts.
        lr: the first step sizes.
        etas: the two factors.
        step_sizes: the least and the largest step size.
        maximize: whether to climb instead of descend.
        foreach, capturable: choose among torch's kernels; accepted, and without effect: XLA fuses a compiled step anyhow.
        differentiable: only False.

    Raises:
        ValueError: for a number out of range. NotImplementedError: for ``differentiable``.
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50),
        *,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ):
        lr, etas = plain("lr", lr), plain("etas", etas)
        at_least_zero("learning rate", lr)
        if not 0.0 < etas[0] < 1.0 < etas[1]:
            raise ValueError(f"Invalid eta values: {etas[0]}, {etas[1]}")
        super().__init__(
            params,
            {
                "lr": lr,
                "etas": etas,
                "step_sizes": step_sizes,
                "foreach": foreach,
                "maximize": maximize,
                "differentiable": differentiable,
                "capturable": capturable,
            },
        )

    @staticmethod
    def _options(group: Mapping[str, Any]) -> _Options:
        return _Options(maximize=bool(group["maximize"]))

    @staticmethod
    def _slots(options: _Options, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {"prev": shape, "step_size": shape}

    @staticmethod
    def _schedule(options: _Options, numbers: dict[str, jax.Array], steps: Any) -> dict[str, jax.Array]:
        used = {k: numbers[k] for k in ("lr", "etas.0", "etas.1", "step_sizes.0", "step_sizes.1")}
        return {**used, "first": (steps == 1).astype(steps.dtype)}

    # Not optax.rprop, which takes no first step.
    @staticmethod
    def _rule(
        options: _Options, p: jax.Array, g: jax.Array, state: dict[str, jax.Array], n: dict[str, jax.Array]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        if options.maximize:
            g = -g
        agreement = g * state["prev"]
        factor = jnp.where(agreement > 0, n["etas.1"], jnp.where(agreement < 0, n["etas.0"], 1.0))
        sizes = jnp.where(n["first"] > 0, n["lr"], state["step_size"])  # the learning rate at the first step
        sizes = jnp.clip(sizes * factor, n["step_sizes.0"], n["step_sizes.1"])
        g = jnp.where(agreement < 0, 0.0, g)
        return p - jnp.sign(g) * sizes, {"prev": g, "step_size": sizes}
