"""Gradients that objnet's and torch's optimizers are fed alike."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from objnet import optim
from objnet.core.variable import Parameter
from tests.optim.cases import CASES as CASES
from tests.optim.cases import EACH as EACH
from tests.optim.cases import MATRICES
from tests.optim.cases import REAL_ONLY as REAL_ONLY
from tests.optim.cases import case_id as case_id

torch = pytest.importorskip("torch")

SHAPES = ((3, 4), ())


def shapes_for(name: str) -> tuple[tuple[int, ...], ...]:
    """Shapes of parameters that an optimizer takes."""
    return MATRICES if name == "Muon" else SHAPES


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


def tolerance(name: str) -> dict[str, float]:
    """How far results may be from torch's: Muon computes in bfloat16, whose roundings an order of summing can turn."""
    return {"rtol": 1e-5, "atol": 1.5e-3} if name == "Muon" else {"rtol": 1e-5, "atol": 1e-6}


def assert_same(params: Any, torch_params: Any, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    for p, q in zip(params, torch_params, strict=True):
        np.testing.assert_allclose(np.asarray(p._read()), q.detach().numpy(), rtol=rtol, atol=atol)


def as_torch(tree: Any) -> Any:
    """A state dict with torch tensors for arrays."""
    convert = lambda x: torch.tensor(np.asarray(x)) if isinstance(x, jax.Array) else x
    return jax.tree.map(convert, tree, is_leaf=lambda x: x is None)
