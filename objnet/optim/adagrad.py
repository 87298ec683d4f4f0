"""Adagrad (torch's ``optim.Adagrad``)."""

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


class Adagrad(Optimizer):
    """Adagrad: ``s += g ** 2``, ``p -= lr / (1 + (t - 1) * lr_decay) * g / (sqrt(s) + eps)``.

    Duchi et al. (2011), "Adaptive Subgradient Methods for Online Learning and Stochastic Optimization". As in torch there is
    state before the first step; that of a frozen parameter is made when it is stepped.

    Args:
        params: Parameters, (name, Parameter) pairs, or group dicts.
        lr: learning rate.
        lr_decay: as above.
        weight_decay: multiple of the parameter added to its gradient.
        initial_accumulator_value: what ``s`` starts as.
        eps: as above.
        maximize: whether to climb instead of descend.
        foreach, fused: choose among torch's kernels; accepted, and without effect: XLA fuses a compiled step anyhow.
        differentiable: only False.

    Raises:
        ValueError: for a number out of range. NotImplementedError: for ``differentiable``. RuntimeError: for ``fused``
            together with ``foreach``.
    """

    _begins_with_state = True

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ):
        lr, lr_decay = plain("lr", lr), plain("lr_decay", lr_decay)
        weight_decay, eps = plain("weight_decay", weight_decay), plain("eps", eps)
        initial_accumulator_value = plain("initial_accumulator_value", initial_accumulator_value)
        at_least_zero("learning rate", lr)
        at_least_zero("lr_decay value", lr_decay)
        at_least_zero("weight_decay value", weight_decay)
        at_least_zero("initial_accumulator_value value", initial_accumulator_value)
        at_least_zero("epsilon value", eps)
        if fused and foreach:
            raise RuntimeError("`fused` and `foreach` cannot be `True` together.")
        super().__init__(
            params,
            {
                "lr": lr,
                "lr_decay": lr_decay,
                "eps": eps,
                "weight_decay": weight_decay,
                "initial_accumulator_value": initial_accumulator_value,
                "foreach": foreach,
                "maximize": maximize,
                "differentiable": differentiable,
                "fused": fused,
            },
        )

    @staticmethod
    def _options(group: Mapping[str, Any]) -> _Options:
        return _Options(maximize=bool(group["maximize"]), decays=group["weight_decay"] != 0)

    @staticmethod
    def _slots(options: _Options, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {"sum": shape}

    def _first(self, name: str) -> float:
        return float(self.defaults["initial_accumulator_value"])

    @staticmethod
    def _schedule(options: _Options, numbers: dict[str, jax.Array], steps: Any) -> dict[str, jax.Array]:
        used = {k: numbers[k] for k in ("eps", "weight_decay")}
        return {**used, "step_size": numbers["lr"] / (1 + (steps - 1) * numbers["lr_decay"])}

    # Not optax.adagrad, which has neither the decay nor this place for eps.
    @staticmethod
    def _rule(
        options: _Options, p: jax.Array, g: jax.Array, state: dict[str, jax.Array], n: dict[str, jax.Array]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        if options.maximize:
            g = -g
        if options.decays:
            g = g + n["weight_decay"] * p
        total = state["sum"] + g * g
        return p - n["step_size"] * g / (jnp.sqrt(total) + n["eps"]), {"sum": total}
