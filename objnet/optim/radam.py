"""RAdam (torch's ``optim.RAdam``)."""

from __future__ import annotations

import math
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
    decoupled: bool


class RAdam(Optimizer):
    """Adam whose adaptive part waits until its variance is tractable, and is rectified then.

    With ``rho_inf = 2 / (1 - beta2) - 1`` and ``rho = rho_inf - 2 * t * beta2 ** t / (1 - beta2 ** t)``: ``p -= lr * m_hat`` while
    ``rho <= 5``, afterwards ``p -= lr * r * m_hat / (sqrt(v) + eps) * sqrt(1 - beta2 ** t)`` with ``r ** 2 = (rho - 4) * (rho - 2) *
    rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)``. Liu et al. (2019), "On the Variance of the Adaptive Learning Rate and
    Beyond".

    Args:
        params: Parameters, (name, Parameter) pairs, or group dicts.
        lr: learning rate.
        betas: decay of the two averages.
        eps: added to the denominator.
        weight_decay: multiple of the parameter added to its gradient.
        decoupled_weight_decay: whether the parameter decays directly, as in AdamW.
        maximize: whether to climb instead of descend.
        foreach, capturable: choose among torch's kernels; accepted, and without effect: XLA fuses a compiled step anyhow.
        differentiable: only False.

    Raises:
        ValueError: for a number out of range. NotImplementedError: for ``differentiable``.
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
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
                "maximize": maximize,
                "foreach": foreach,
                "capturable": capturable,
                "decoupled_weight_decay": decoupled_weight_decay,
                "differentiable": differentiable,
            },
        )

    @staticmethod
    def _options(group: Mapping[str, Any]) -> _Options:
        return _Options(
            maximize=bool(group["maximize"]),
            decays=group["weight_decay"] != 0,
            decoupled=bool(group["decoupled_weight_decay"]),
        )

    @staticmethod
    def _derive(group: Mapping[str, Any]) -> dict[str, float]:
        beta1, beta2 = group["betas"]
        half = -0.5 * log_decay(beta2)
        return {
            "gain1": 1 - beta1,
            "gain2": 1 - beta2,
            "log_beta1": log_decay(beta1),
            "log_beta2": log_decay(beta2),
            "rho_inf": 2 / (1 - beta2) - 1,
            "half": half,
            "langevin": 1 / math.tanh(half) - 1 / half if half > 1e-4 else half / 3,
            "shrink": 1 - group["lr"] * group["weight_decay"],
        }

    @staticmethod
    def _slots(options: _Options, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {"exp_avg": shape, "exp_avg_sq": shape}

    @staticmethod
    def _schedule(options: _Options, numbers: dict[str, jax.Array], steps: Any) -> dict[str, jax.Array]:
        # rho as defined is a small difference of large numbers. By L(y) = coth(y) - 1/y and y = -log(beta2) / 2 it is
        # L(y) + t * (1 - L(t * y)), which loses nothing.
        y = steps * numbers["half"]
        small = jnp.minimum(y, 0.3)
        series = small * (1 / 3 - small**2 * (1 / 45 - small**2 * (2 / 945 - small**2 / 4725)))
        rho = numbers["langevin"] + steps * (1 - jnp.where(y < 0.3, series, 1 / jnp.tanh(y) - 1 / y))
        limit = numbers["rho_inf"]
        rectified = jnp.sqrt(jnp.maximum((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho), 0.0))
        step_size = numbers["lr"] / -jnp.expm1(steps * numbers["log_beta1"])
        used = {k: numbers[k] for k in ("gain1", "gain2", "betas.1", "eps", "weight_decay", "shrink")}
        return {
            **used,
            "adapts": (rho > 5).astype(rho.dtype),
            "step_size": step_size,
            "adaptive_size": step_size * rectified * jnp.sqrt(-jnp.expm1(steps * numbers["log_beta2"])),
        }

    # Not optax.radam, which has another threshold's rounding and another place for eps.
    @staticmethod
    def _rule(
        options: _Options, p: jax.Array, g: jax.Array, state: dict[str, jax.Array], n: dict[str, jax.Array]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        if options.maximize:
            g = -g
        if options.decays:
            if options.decoupled:
                p = n["shrink"] * p
            else:
                g = g + n["weight_decay"] * p
        mean = state["exp_avg"] + n["gain1"] * (g - state["exp_avg"])
        square = n["betas.1"] * state["exp_avg_sq"] + n["gain2"] * (g * g)
        adaptive = n["adaptive_size"] * mean / (jnp.sqrt(square) + n["eps"])
        step = jnp.where(n["adapts"] > 0, adaptive, n["step_size"] * mean)
        return p - step, {"exp_avg": mean, "exp_avg_sq": square}
