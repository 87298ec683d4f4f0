"""Adam and AMSGrad (torch's ``optim.Adam``)."""

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
    amsgrad: bool
    decays: bool
    decoupled: bool


class Adam(Optimizer):
    """Adam: ``m += (1 - beta1) * (g - m)``, ``v = beta2 * v + (1 - beta2) * g ** 2``, ``p -= lr * m_hat / (sqrt(v_hat) + eps)``.

    ``m_hat`` and ``v_hat`` are the averages corrected for their start at zero. Kingma and Ba (2014), "Adam: A Method for
    Stochastic Optimization"; ``amsgrad`` is that of Reddi et al. (2018), "On the Convergence of Adam and Beyond".

    Args:
        params: Parameters, (name, Parameter) pairs, or group dicts.
        lr: learning rate.
        betas: decay of the two averages.
        eps: added to the denominator.
        weight_decay: multiple of the parameter added to its gradient.
        amsgrad: whether to divide by the largest average so far.
        maximize: whether to climb instead of descend.
        decoupled_weight_decay: whether the parameter decays directly, as in AdamW.
        foreach, capturable, fused: choose among torch's kernels; accepted, and without effect: XLA fuses a compiled step anyhow.
        differentiable: only False.

    Raises:
        ValueError: for a number out of range. NotImplementedError: for ``differentiable``. RuntimeError: for ``fused``
            together with ``foreach``.
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
    ):
        if isinstance(lr, jax.Array) and foreach and not capturable:
            raise ValueError("lr as a Tensor is not supported for capturable=False and foreach=True")
        lr, eps, weight_decay = plain("lr", lr), plain("eps", eps), plain("weight_decay", weight_decay)
        betas = (plain("betas[0]", betas[0]), plain("betas[1]", betas[1]))
        at_least_zero("learning rate", lr)
        at_least_zero("epsilon value", eps)
        check_betas(betas)
        at_least_zero("weight_decay value", weight_decay)
        if not (isinstance(betas[0], float) and isinstance(betas[1], float)):
            raise ValueError("betas must be either both floats or both Tensors")
        if fused and foreach:
            raise RuntimeError("`fused` and `foreach` cannot be `True` together.")
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "amsgrad": amsgrad,
                "maximize": maximize,
                "foreach": foreach,
                "capturable": capturable,
                "differentiable": differentiable,
                "fused": fused,
                "decoupled_weight_decay": decoupled_weight_decay,
            },
        )

    @staticmethod
    def _options(group: Mapping[str, Any]) -> _Options:
        return _Options(
            maximize=bool(group["maximize"]),
            amsgrad=bool(group["amsgrad"]),
            decays=group["weight_decay"] != 0,
            decoupled=bool(group["decoupled_weight_decay"]),
        )

    @staticmethod
    def _derive(group: Mapping[str, Any]) -> dict[str, float]:
        beta1, beta2 = group["betas"]
        return {
            "gain1": 1 - beta1,
            "gain2": 1 - beta2,
            "log_beta1": log_decay(beta1),
            "log_beta2": log_decay(beta2),
            "shrink": 1 - group["lr"] * group["weight_decay"],
        }

    @staticmethod
    def _slots(options: _Options, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        names = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if options.amsgrad else ("exp_avg", "exp_avg_sq")
        return dict.fromkeys(names, shape)

    @staticmethod
    def _schedule(options: _Options, numbers: dict[str, jax.Array], steps: Any) -> dict[str, jax.Array]:
        # 1 - beta**t, without the cancellation float32 would suffer.
        correction1 = -jnp.expm1(steps * numbers["log_beta1"])
        correction2 = -jnp.expm1(steps * numbers["log_beta2"])
        used = {k: numbers[k] for k in ("gain1", "gain2", "betas.1", "eps", "weight_decay", "shrink")}
        return {**used, "step_size": numbers["lr"] / correction1, "scale": jax.lax.rsqrt(correction2)}

    # Not optax.adam, whose corrections lose digits (1 - beta**t in float32) and count steps once for all arrays; this is as fast.
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
        kept = {"exp_avg": mean, "exp_avg_sq": square}
        if options.amsgrad:
            square = kept["max_exp_avg_sq"] = jnp.maximum(state["max_exp_avg_sq"], square)
        return p - n["step_size"] * mean / (jnp.sqrt(square) * n["scale"] + n["eps"]), kept
