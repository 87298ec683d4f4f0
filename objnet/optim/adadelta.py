"""Adadelta (torch's ``optim.Adadelta``)."""

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
    decays: bool


class Adadelta(Optimizer):
    """Adadelta: steps of ``g * sqrt(u + eps) / sqrt(v + eps)``, ``v`` and ``u`` averages of squared gradients and squared steps.

    Zeiler (2012), "ADADELTA: An Adaptive Learning Rate Method".

    Args:
        params: Parameters, (name, Parameter) pairs, or group dicts.
        lr: multiple of the step that is taken.
        rho: decay of the averages.
        eps: as above.
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
        lr: Any = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
    ):
        lr, rho = plain("lr", lr), plain("rho", rho)
        eps, weight_decay = plain("eps", eps), plain("weight_decay", weight_decay)
        at_least_zero("learning rate", lr)
        if not 0.0 <= rho <= 1.0:
            raise ValueError(f"Invalid rho value: {rho}")
        at_least_zero("epsilon value", eps)
        at_least_zero("weight_decay value", weight_decay)
        super().__init__(
            params,
            {
                "lr": lr,
                "rho": rho,
                "eps": eps,
                "weight_decay": weight_decay,
                "maximize": maximize,
                "capturable": capturable,
                "foreach": foreach,
                "differentiable": differentiable,
            },
        )

    @staticmethod
    def _options(group: Mapping[str, Any]) -> _Options:
        return _Options(maximize=bool(group["maximize"]), decays=group["weight_decay"] != 0)

    @staticmethod
    def _derive(group: Mapping[str, Any]) -> dict[str, float]:
        return {"gain": 1 - group["rho"]}

    @staticmethod
    def _slots(options: _Options, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {"square_avg": shape, "acc_delta": shape}

    @staticmethod
    def _rule(
        options: _Options, p: jax.Array, g: jax.Array, state: dict[str, jax.Array], n: dict[str, jax.Array]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        if options.maximize:
            g = -g
        if options.decays:
            g = g + n["weight_decay"] * p
        square = n["rho"] * state["square_avg"] + n["gain"] * (g * g)
        delta = jnp.sqrt(state["acc_delta"] + n["eps"]) / jnp.sqrt(square + n["eps"]) * g
        deltas = n["rho"] * state["acc_delta"] + n["gain"] * (delta * delta)
        return p - n["lr"] * delta, {"square_avg": square, "acc_delta": deltas}
