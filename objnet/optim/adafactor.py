"""Adafactor (torch's ``optim.Adafactor``)."""

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
    own_eps: bool


class Adafactor(Optimizer):
    """Adafactor: Adam without momentum, whose second moments of a matrix are the product of a row's and a column's.

    Moments decay by ``1 - t ** beta2_decay``; the step is ``min(lr, 1 / sqrt(t)) * max(eps[1], rms(p))`` times the gradient over the
    moments' root, scaled down where its root mean square exceeds ``d``. Shazeer and Stern (2018), "Adafactor: Adaptive Learning
    Rates with Sublinear Memory Cost". A parameter of shape (..., n, m) keeps (..., n, 1) and (..., 1, m) numbers, one of fewer
    dimensions its own shape.

    Args:
        params: Parameters, (name, Parameter) pairs, or group dicts.
        lr: the largest relative step.
        beta2_decay, d: as above.
        eps: the least moment's root, None for the dtype's epsilon; and the least root mean square of a parameter.
        weight_decay: multiple of the learning rate by which the parameter decays directly.
        foreach: accepted, and without effect: XLA fuses a compiled step anyhow.
        maximize: whether to climb instead of descend.

    Raises:
        ValueError: for a number out of range. RuntimeError: for complex parameters.
    """

    _takes_complex = False

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
    ):
        lr, eps, weight_decay = plain("lr", lr), plain("eps", eps), plain("weight_decay", weight_decay)
        if not lr >= 0.0:
            raise ValueError(f"Learning rate should be >= 0 but is: {lr}")
        if not beta2_decay <= 0.0:
            raise ValueError(f"beta2_decay should be <= 0 but is: {beta2_decay}")
        if eps[0] is not None and not eps[0] >= 0.0:
            raise ValueError(f"epsilon1 should be >= 0 but is: {eps[0]}")
        if not eps[1] >= 0.0:
            raise ValueError(f"epsilon2 should be >= 0 but is: {eps[1]}")
        if not d >= 1.0:
            raise ValueError(f"Clipping threshold d should be >= 1 but is: {d}")
        if not weight_decay >= 0.0:
            raise ValueError(f"weight_decay should be >= 0 but is: {weight_decay}")
        super().__init__(
            params,
            {
                "lr": lr,
                "beta2_decay": beta2_decay,
                "eps": eps,
                "d": d,
                "weight_decay": weight_decay,
                "foreach": foreach,
                "maximize": maximize,
            },
        )

    @staticmethod
    def _options(group: Mapping[str, Any]) -> _Options:
        return _Options(maximize=bool(group["maximize"]), decays=group["weight_decay"] != 0, own_eps=group["eps"][0] is not None)

    @staticmethod
    def _derive(group: Mapping[str, Any]) -> dict[str, float]:
        return {
            "least_root": group["eps"][0] or 0.0,
            "least_scale": group["eps"][1],
            "shrink": 1 - group["lr"] * group["weight_decay"],
        }

    @staticmethod
    def _slots(options: _Options, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        if len(shape) < 2:
            return {"variance": shape}
        return {"row_var": (*shape[:-1], 1), "col_var": (*shape[:-2], 1, shape[-1])}

    @staticmethod
    def _schedule(options: _Options, numbers: dict[str, jax.Array], steps: Any) -> dict[str, jax.Array]:
        used = {k: numbers[k] for k in ("d", "shrink", "least_root", "least_scale")}
        rate = jnp.minimum(numbers["lr"], jax.lax.rsqrt(steps))
        return {**used, "rate": rate, "gain": steps ** numbers["beta2_decay"]}

    # Not optax.adafactor, which decays and clips in another order and has other defaults.
    @staticmethod
    def _rule(
        options: _Options, p: jax.Array, g: jax.Array, state: dict[str, jax.Array], n: dict[str, jax.Array]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        if options.maximize:
            g = -g
        scale = jnp.maximum(n["least_scale"], _rms(p)) * n["rate"]
        if options.decays:
            p = n["shrink"] * p
        least = n["least_root"] if options.own_eps else n["epsilon"]
        square = g * g
        if "variance" in state:
            kept = {"variance": _lerp(state["variance"], square, n["gain"])}
            moments = kept["variance"]
        else:
            row = _lerp(state["row_var"], jnp.mean(square, axis=-1, keepdims=True), n["gain"])
            column = _lerp(state["col_var"], jnp.mean(square, axis=-2, keepdims=True), n["gain"])
            kept = {"row_var": row, "col_var": column}
            moments = row * column / jnp.maximum(jnp.mean(row, axis=-2, keepdims=True), least)
        update = g * jax.lax.rsqrt(jnp.maximum(moments, least * least))
        return p - scale / jnp.maximum(_rms(update) / n["d"], 1.0) * update, kept


def _lerp(start: jax.Array, end: jax.Array, weight: jax.Array) -> jax.Array:
    # From the nearer end, so that a weight of 1 gives the end itself.
    return jnp.where(weight < 0.5, start + weight * (end - start), end - (1 - weight) * (end - start))


def _rms(x: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.mean(x * x))
