"""Muon (torch's ``optim.Muon``)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from objnet.optim.groups import plain
from objnet.optim.optimizer import Optimizer


class _Options(NamedTuple):
    nesterov: bool
    ns_steps: int
    adjust_lr_fn: str | None


class Muon(Optimizer):
    """Momentum whose step is orthogonalised: for the matrices of hidden layers.

    ``b += (1 - momentum) * (g - b)``; the step is the orthogonal factor of ``b`` (with ``nesterov`` of ``g + momentum * (b - g)``),
    approximated by Newton-Schulz iterations ``x = a * x + (b * A + c * A @ A) @ x`` with ``A = x @ x.T``, in bfloat16 as in torch.
    Jordan et al. (2024), "Muon: An optimizer for hidden layers in neural networks"; "match_rms_adamw" is of Liu et al. (2025),
    "Muon is Scalable for LLM Training".

    Args:
        params: Parameters of two dimensions, (name, Parameter) pairs, or group dicts.
        lr: learning rate.
        weight_decay: multiple of the learning rate by which the parameter decays directly.
        momentum, nesterov: as above.
        ns_coefficients: ``a``, ``b`` and ``c``.
        eps: the least norm a step is divided by.
        ns_steps: how many iterations, at most 99.
        adjust_lr_fn: by what a step of shape (n, m) is scaled: ``"original"`` (None too), ``sqrt(max(1, n / m))``, or
            ``"match_rms_adamw"``, ``0.2 * sqrt(max(n, m))``.

    Raises:
        ValueError: for a number out of range, an unknown name, or a parameter that is no matrix. RuntimeError: for complex
            parameters.
    """

    _saves_steps = False
    _takes_complex = False

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
    ):
        lr, weight_decay, momentum = plain("lr", lr), plain("weight_decay", weight_decay), plain("momentum", momentum)
        if not lr >= 0.0:
            raise ValueError(f"Learning rate should be >= 0 but is: {lr}")
        if not momentum >= 0.0:
            raise ValueError(f"momentum should be >= 0 but is: {momentum}")
        if not weight_decay >= 0.0:
            raise ValueError(f"weight decay should be >= 0 but is: {weight_decay}")
        if adjust_lr_fn not in (None, "original", "match_rms_adamw"):
            raise ValueError(f"Adjust learning rate function {adjust_lr_fn} is not supported")
        super().__init__(
            params,
            {
                "lr": lr,
                "weight_decay": weight_decay,
                "momentum": momentum,
                "nesterov": nesterov,
                "ns_coefficients": ns_coefficients,
                "eps": eps,
                "ns_steps": ns_steps,
                "adjust_lr_fn": adjust_lr_fn,
            },
        )

    def _check_group(self, group: Mapping[str, Any]) -> None:
        for p in group["params"]:
            if p.ndim != 2:
                raise ValueError(
                    f"Muon only supports 2D parameters whereas we found a parameter with size: {p.shape} ({p.describe()}); "
                    "give the others to AdamW"
                )
        if group["ns_steps"] >= 100:
            raise ValueError("Number of steps must be less than 100 for computational efficiency")
        if len(group["ns_coefficients"]) != 3:
            raise ValueError("Coefficients must be a tuple of exactly 3 values")

    @staticmethod
    def _options(group: Mapping[str, Any]) -> _Options:
        return _Options(bool(group["nesterov"]), int(group["ns_steps"]), group["adjust_lr_fn"])

    @staticmethod
    def _derive(group: Mapping[str, Any]) -> dict[str, float]:
        return {"gain": 1 - group["momentum"], "shrink": 1 - group["lr"] * group["weight_decay"]}

    @staticmethod
    def _slots(options: _Options, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {"momentum_buffer": shape}

    # Not optax.contrib.muon, which has another momentum and iterates in float32.
    @staticmethod
    def _rule(
        options: _Options, p: jax.Array, g: jax.Array, state: dict[str, jax.Array], n: dict[str, jax.Array]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        buffer = state["momentum_buffer"] + n["gain"] * (g - state["momentum_buffer"])
        update = g + n["momentum"] * (buffer - g) if options.nesterov else buffer
        coefficients = [n[f"ns_coefficients.{i}"] for i in range(3)]
        update = _orthogonal(update, coefficients, options.ns_steps, n["eps"]).astype(p.dtype)
        rows, columns = p.shape
        matches = options.adjust_lr_fn == "match_rms_adamw"
        scale = 0.2 * math.sqrt(max(rows, columns)) if matches else math.sqrt(max(1, rows / columns))
        return n["shrink"] * p - n["lr"] * scale * update, {"momentum_buffer": buffer}


def _orthogonal(matrix: jax.Array, coefficients: list[jax.Array], iterations: int, eps: jax.Array) -> jax.Array:
    """Nearly the orthogonal factor of a matrix, in bfloat16: sums are float32 and each result is rounded once, as in torch."""
    a, b, c = (coefficient.astype(jnp.float32) for coefficient in coefficients)
    wide = matrix.shape[0] <= matrix.shape[1]
    x = _round((matrix if wide else matrix.T).astype(jnp.float32))
    length = _round(jnp.sqrt(jnp.sum(x * x)))
    x = _round(x / jnp.maximum(length, _round(eps.astype(jnp.float32))))
    for _ in range(iterations):
        gram = _round(_product(x, x.T))
        bend = _round(b * gram + c * _product(gram, gram))
        x = _round(a * x + _product(bend, x))
    return x if wide else x.T


def _round(x: jax.Array) -> jax.Array:
    """``x`` to the nearest bfloat16; XLA would leave out a cast there and back."""
    return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)


def _product(left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.matmul(left.astype(jnp.bfloat16), right.astype(jnp.bfloat16), preferred_element_type=jnp.float32)
