"""NAdam (torch's ``optim.NAdam``)."""

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
from objnet.optim.update import as_kept


class _Options(NamedTuple):
    maximize: bool
    decays: bool
    decoupled: bool


_DECAY = math.log(0.96)  # a constant of the paper


class NAdam(Optimizer):
    """Adam with Nesterov momentum: ``p -= lr * (mu' * m / (1 - M * mu') + (1 - mu) * g / (1 - M)) / (sqrt(v_hat) + eps)``.

    ``mu = beta1 * (1 - 0.5 * 0.96 ** (t * momentum_decay))`` at step ``t``, ``mu'`` that of the next step and ``M`` the product
    of all so far; ``m`` and ``v`` are Adam's averages. Dozat (2016), "Incorporating Nesterov Momentum into Adam".

    Args:
        params: Parameters, (name, Parameter) pairs, or group dicts.
        lr: learning rate.
        betas: decay of the two averages.
        eps: added to the denominator.
        weight_decay: multiple of the parameter added to its gradient.
        momentum_decay: as above.
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
        lr: Any = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum_decay: float = 4e-3,
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
        momentum_decay = plain("momentum_decay", momentum_decay)
        at_least_zero("momentum_decay value", momentum_decay)
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "momentum_decay": momentum_decay,
                "decoupled_weight_decay": decoupled_weight_decay,
                "maximize": maximize,
                "foreach": foreach,
                "capturable": capturable,
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
        return {
            "gain1": 1 - beta1,
            "gain2": 1 - beta2,
            "log_beta2": log_decay(beta2),
            "fade": _DECAY * group["momentum_decay"],
            "shrink": 1 - group["lr"] * group["weight_decay"],
        }

    @staticmethod
    def _slots(options: _Options, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {"exp_avg": shape, "exp_avg_sq": shape}

    @staticmethod
    def _shared(options: _Options) -> dict[str, float]:
        return {"mu_product": 1.0}

    @staticmethod
    def _schedule(options: _Options, numbers: dict[str, jax.Array], steps: Any) -> dict[str, jax.Array]:
        mu = numbers["betas.0"] * (1 - 0.5 * jnp.exp(steps * numbers["fade"]))
        following = numbers["betas.0"] * (1 - 0.5 * jnp.exp((steps + 1) * numbers["fade"]))
        product = as_kept(numbers["mu_product"] * as_kept(mu))
        used = {k: numbers[k] for k in ("gain1", "gain2", "betas.1", "eps", "weight_decay", "shrink")}
        return {
            **used,
            "mu_product": product,
            "scale": jax.lax.rsqrt(-jnp.expm1(steps * numbers["log_beta2"])),
            "of_gradient": numbers["lr"] * (1 - mu) / (1 - product),
            "of_mean": numbers["lr"] * following / (1 - product * following),
        }

    # Not optax.nadam, whose momentum has no schedule.
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
        step = (n["of_gradient"] * g + n["of_mean"] * mean) / (jnp.sqrt(square) * n["scale"] + n["eps"])
        return p - step, {"exp_avg": mean, "exp_avg_sq": square}
