"""Averaged stochastic gradient descent (torch's ``optim.ASGD``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from objnet.optim.checks import at_least_zero
from objnet.optim.groups import plain
from objnet.optim.optimizer import Optimizer
from objnet.optim.update import as_kept


class _Options(NamedTuple):
    maximize: bool
    decays: bool


class ASGD(Optimizer):
    """Gradient descent with the average of its path: ``p = (1 - lambd * eta) * p - eta * g``, ``ax += mu * (p - ax)``.

    After step ``t``, ``eta = lr / (1 + lambd * lr * t) ** alpha`` and ``mu = 1 / max(1, t - t0)``. The average is
    ``optimizer.state[p]["ax"]``. Polyak and Juditsky (1992), "Acceleration of Stochastic Approximation by Averaging".

    Args:
        params: Parameters, (name, Parameter) pairs, or group dicts.
        lr: learning rate.
        lambd, alpha: as above.
        t0: the step at which averaging begins.
        weight_decay: multiple of the parameter added to its gradient.
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
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
    ):
        lr, weight_decay = plain("lr", lr), plain("weight_decay", weight_decay)
        at_least_zero("learning rate", lr)
        at_least_zero("weight_decay value", weight_decay)
        super().__init__(
            params,
            {
                "lr": lr,
                "lambd": lambd,
                "alpha": alpha,
                "t0": t0,
                "weight_decay": weight_decay,
                "foreach": foreach,
                "maximize": maximize,
                "differentiable": differentiable,
                "capturable": capturable,
            },
        )

    @staticmethod
    def _options(group: Mapping[str, Any]) -> _Options:
        return _Options(maximize=bool(group["maximize"]), decays=group["weight_decay"] != 0)

    @staticmethod
    def _slots(options: _Options, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {"ax": shape}

    @staticmethod
    def _shared(options: _Options) -> dict[str, float]:
        return {"eta": 0.0, "mu": 1.0}

    @staticmethod
    def _schedule(options: _Options, numbers: dict[str, jax.Array], steps: Any) -> dict[str, jax.Array]:
        lr, lambd = numbers["lr"], numbers["lambd"]
        rate = jnp.where(steps == 1, as_kept(lr), numbers["eta"])  # the learning rate at the first step, whenever that is
        return {
            "weight_decay": numbers["weight_decay"],
            "rate": rate,
            "shrink": 1 - lambd * rate,
            "weight": numbers["mu"],
            "eta": lr / (1 + lambd * lr * steps) ** numbers["alpha"],
            "mu": 1 / jnp.maximum(steps - numbers["t0"], jnp.ones_like(steps)),
        }

    # optax has none.
    @staticmethod
    def _rule(
        options: _Options, p: jax.Array, g: jax.Array, state: dict[str, jax.Array], n: dict[str, jax.Array]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        if options.maximize:
            g = -g
        if options.decays:
            g = g + n["weight_decay"] * p
        p = n["shrink"] * p - n["rate"] * g
        mean = jnp.where(n["weight"] == 1, p, state["ax"] + n["weight"] * (p - state["ax"]))
        return p, {"ax": mean}
