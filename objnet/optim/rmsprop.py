"""RMSprop (torch's ``optim.RMSprop``)."""

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
    momentum: bool
    centered: bool


class RMSprop(Optimizer):
    """RMSprop: ``v = alpha * v + (1 - alpha) * g ** 2``, ``p -= lr * g / (sqrt(v) + eps)``.

    ``centered`` subtracts the square of the gradient's average from ``v`` under the root (Graves 2013, "Generating Sequences
    With Recurrent Neural Networks"); with ``momentum`` the quotients are summed, ``b = momentum * b + ...``, ``p -= lr * b``.
    Tieleman and Hinton (2012), lecture 6.5.

    Args:
        params: Parameters, (name, Parameter) pairs, or group dicts.
        lr: learning rate.
        alpha: decay of the averages.
        eps: as above.
        weight_decay: multiple of the parameter added to its gradient.
        momentum, centered: as above.
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
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ):
        lr, alpha, eps = plain("lr", lr), plain("alpha", alpha), plain("eps", eps)
        weight_decay, momentum = plain("weight_decay", weight_decay), plain("momentum", momentum)
        at_least_zero("learning rate", lr)
        at_least_zero("epsilon value", eps)
        at_least_zero("momentum value", momentum)
        at_least_zero("weight_decay value", weight_decay)
        at_least_zero("alpha value", alpha)
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "alpha": alpha,
                "eps": eps,
                "centered": centered,
                "weight_decay": weight_decay,
                "capturable": capturable,
                "foreach": foreach,
                "maximize": maximize,
                "differentiable": differentiable,
            },
        )

    @staticmethod
    def _options(group: Mapping[str, Any]) -> _Options:
        return _Options(
            maximize=bool(group["maximize"]),
            decays=group["weight_decay"] != 0,
            momentum=group["momentum"] > 0,
            centered=bool(group["centered"]),
        )

    @staticmethod
    def _derive(group: Mapping[str, Any]) -> dict[str, float]:
        return {"gain": 1 - group["alpha"]}

    @staticmethod
    def _slots(options: _Options, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        momentum = ("momentum_buffer",) if options.momentum else ()
        return dict.fromkeys(("square_avg", *momentum, *(("grad_avg",) if options.centered else ())), shape)

    # Not optax.rmsprop, whose momentum takes the learning rate in and whose eps is under the root when centred.
    @staticmethod
    def _rule(
        options: _Options, p: jax.Array, g: jax.Array, state: dict[str, jax.Array], n: dict[str, jax.Array]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        if options.maximize:
            g = -g
        if options.decays:
            g = g + n["weight_decay"] * p
        square = n["alpha"] * state["square_avg"] + n["gain"] * (g * g)
        kept = {"square_avg": square}
        if options.centered:
            mean = kept["grad_avg"] = state["grad_avg"] + n["gain"] * (g - state["grad_avg"])
            square = jnp.maximum(square - mean * mean, 0.0)  # which rounding can take below zero
        direction = g / (jnp.sqrt(square) + n["eps"])
        if options.momentum:
            direction = kept["momentum_buffer"] = n["momentum"] * state["momentum_buffer"] + direction
        return p - n["lr"] * direction, kept
