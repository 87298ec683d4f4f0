"""Stochastic gradient descent (torch's ``optim.SGD``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from objnet.optim.groups import plain
from objnet.optim.optimizer import Optimizer


class _Options(NamedTuple):
    maximize: bool
    decays: bool
    momentum: bool
    dampens: bool
    nesterov: bool


class SGD(Optimizer):
    """Gradient descent, with momentum if asked: ``b = momentum * b + (1 - dampening) * g``, ``p -= lr * b``.

    The first step sets ``b = g``. With ``nesterov`` it is ``p -= lr * (g + momentum * b)``. Nesterov momentum is that of
    Sutskever et al. (2013), "On the importance of initialization and momentum in deep learning".

    Args:
        params: Parameters, (name, Parameter) pairs, or group dicts.
        lr: learning rate.
        momentum, dampening: as above.
        weight_decay: multiple of the parameter added to its gradient.
        nesterov: whether momentum is Nesterov's.
        maximize: whether to climb instead of descend.
        foreach, fused: choose among torch's kernels; accepted, and without effect: XLA fuses a compiled step anyhow.
        differentiable: only False.

    Raises:
        ValueError: for a number out of range. NotImplementedError: for ``differentiable``. RuntimeError: for ``fused``
            together with ``foreach``.
    """

    _saves_steps = False

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ):
        lr, momentum = plain("lr", lr), plain("momentum", momentum)
        dampening, weight_decay = plain("dampening", dampening), plain("weight_decay", weight_decay)
        if lr < 0.0:
            raise ValueError(f"Invalid learning rate: {lr}")
        if momentum < 0.0:
            raise ValueError(f"Invalid momentum value: {momentum}")
        if weight_decay < 0.0:
            raise ValueError(f"Invalid weight_decay value: {weight_decay}")
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        if fused and foreach:
            raise RuntimeError("`fused` and `foreach` cannot be `True` together.")
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "dampening": dampening,
                "weight_decay": weight_decay,
                "nesterov": nesterov,
                "maximize": maximize,
                "foreach": foreach,
                "differentiable": differentiable,
                "fused": fused,
            },
        )

    @staticmethod
    def _options(group: Mapping[str, Any]) -> _Options:
        momentum = group["momentum"] != 0
        return _Options(
            maximize=bool(group["maximize"]),
            decays=group["weight_decay"] != 0,
            momentum=momentum,
            dampens=momentum and group["dampening"] != 0,
            nesterov=momentum and bool(group["nesterov"]),
        )

    @staticmethod
    def _derive(group: Mapping[str, Any]) -> dict[str, float]:
        return {"gain": 1 - group["dampening"]}

    @staticmethod
    def _slots(options: _Options, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {"momentum_buffer": shape} if options.momentum else {}

    @staticmethod
    def _schedule(options: _Options, numbers: dict[str, jax.Array], steps: Any) -> dict[str, jax.Array]:
        used = {k: numbers[k] for k in ("lr", "momentum", "weight_decay")}
        if options.dampens:
            used["gain"] = jnp.where(steps == 1, jnp.ones_like(steps), numbers["gain"])
        return used

    @staticmethod
    def _rule(
        options: _Options, p: jax.Array, g: jax.Array, state: dict[str, jax.Array], n: dict[str, jax.Array]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        if options.maximize:
            g = -g
        if options.decays:
            g = g + n["weight_decay"] * p
        if not options.momentum:
            return p - n["lr"] * g, {}
        buffer = n["momentum"] * state["momentum_buffer"] + (n["gain"] * g if options.dampens else g)
        direction = g + n["momentum"] * buffer if options.nesterov else buffer
        return p - n["lr"] * direction, {"momentum_buffer": buffer}
