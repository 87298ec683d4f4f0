"""Gradients that objnet's and torch's optimizers are fed alike."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from objnet import optim
from objnet.core.variable import Parameter

torch = pytest.importorskip("torch")

SHAPES = ((3, 4), ())
CASES: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {}),
    ("SGD", {"lr": 0.1, "momentum": 0.9}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.1, "momentum": 0.5, "dampening": 0.1, "weight_decay": 0.1, "maximize": True}),
    ("SGD", {"lr": 0.1, "weight_decay": 0.1}),
    ("Adam", {}),
    ("Adam", {"lr": 0.01, "betas": (0.8, 0.99), "eps": 1e-3, "weight_decay": 0.1}),
    ("Adam", {"lr": 0.01, "amsgrad": True}),
    ("Adam", {"lr": 0.01, "amsgrad": True, "maximize": True, "weight_decay": 0.01}),
    ("Adam", {"lr": 0.01, "betas": (0.0, 0.0)}),
    ("Adam", {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("AdamW", {}),
    ("AdamW", {"lr": 0.02, "weight_decay": 0.1, "amsgrad": True, "maximize": True}),
    ("AdamW", {"lr": 0.02, "weight_decay": 0.0}),
    ("Adadelta", {}),
    ("Adadelta", {"lr": 0.5, "rho": 0.8, "eps": 1e-3, "weight_decay": 0.1}),
    ("Adadelta", {"maximize": True, "rho": 1.0}),
]


def case_id(case: Any) -> str:
    return f"{case[0]}-{'-'.join(f'{k}={v}' for k, v in case[1].items())}" if isinstance(case, tuple) else ""


def draw(seed: int, steps: int, shapes: Any = SHAPES, dtype: Any = np.float32) -> tuple[list[Any], list[list[Any]]]:
    """First values, and the gradients of every step."""
    rng = np.random.default_rng(seed)
    one = lambda: [np.asarray(rng.normal(size=s)).astype(dtype) for s in shapes]
    return one(), [one() for _ in range(steps)]


def ours(name: str, values: Any, **options: Any) -> tuple[list[Parameter], Any]:
    params = [Parameter(jnp.asarray(v)) for v in values]
    return params, getattr(optim, name)(params, **options)


def theirs(name: str, values: Any, **options: Any) -> tuple[list[Any], Any]:
    params = [torch.nn.Parameter(torch.tensor(v)) for v in values]
    return params, getattr(torch.optim, name)(params, **options)


def torch_step(params: Any, optimizer: Any, grads: Any) -> None:
    for p, g in zip(params, grads, strict=True):
        p.grad = None if g is None else torch.tensor(g)
    optimizer.step()


def assert_same(params: Any, torch_params: Any, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    for p, q in zip(params, torch_params, strict=True):
        np.testing.assert_allclose(np.asarray(p._read()), q.detach().numpy(), rtol=rtol, atol=atol)


def as_torch(tree: Any) -> Any:
    """A state dict with torch tensors for arrays."""
    convert = lambda x: torch.tensor(np.asarray(x)) if isinstance(x, jax.Array) else x
    return jax.tree.map(convert, tree, is_leaf=lambda x: x is None)
