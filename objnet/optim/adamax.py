"""Adamax (torch's ``optim.Adamax``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from objnet.optim.checks import at_least_zero, check_betas
from objnet.optim.decays import log_decay
from objnet.optim.groups import plain
from objnet.optim.optimizer import Optimizer


class _Options(NamedTuple):
    maximize: bool
    decays: bool


class Adamax(Optimizer):
    """Adamax: ``m += (1 - beta1) * (g - m)``, ``u = max(beta2 * u, |g| + eps)``, ``p -= lr * m_hat / u``.

    ``m_hat`` is the average corrected for its start at zero. Kingma and Ba (2014), "Adam: A Method for Stochastic
    Optimization", section 7.

    Args:
        params: Parameters, (name, Parameter) pairs, or group dicts.
        lr: learning rate.
        betas: decay of the average and of the norm.
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
        lr: Any = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
    ):
        lr, eps, weight_decay = plain("lr", lr), plain("eps", eps), plain("weight_decay", weight_decay)
        betas = (plain("betas[0]", betas[0]), plain("betas[1]", betas[1]))
        at_least_zero("learning rate", lr)
        at_least_zero("epsilon value", eps)
        check_betas(betas)
        at_least_zero("weight_decay value", weight_decay)
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
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
    def _derive(group: Mapping[str, Any]) -> dict[str, float]:
        return {"gain1": 1 - group["betas"][0], "log_beta1": log_decay(group["betas"][0])}

    @staticmethod
    def _slots(options: _Options, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {"exp_avg": shape, "exp_inf": shape}

    @staticmethod
    def _schedule(options: _Options, numbers: dict[str, jax.Array], steps: Any) -> dict[str, jax.Array]:
        used = {k: numbers[k] for k in ("gain1", "betas.1", "eps", "weight_decay")}
        return {**used, "step_size": numbers["lr"] / -jnp.expm1(steps * numbers["log_beta1"])}

    # Not optax.adamax, which adds eps to the norm afterwards.
    @staticmethod
    def _rule(
        options: _Options, p: jax.Array, g: jax.Array, state: dict[str, jax.Array], n: dict[str, jax.Array]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        if options.maximize:
            g = -g
        if options.decays:
            g = g + n["weight_decay"] * p
        mean = state["exp_avg"] + n["gain1"] * (g - state["exp_avg"])
        norm = jnp.maximum(n["betas.1"] * state["exp_inf"], jnp.abs(g) + n["eps"])
        return p - n["step_size"] * mean / norm, {"exp_avg": mean, "exp_inf": norm}
