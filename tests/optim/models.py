"""Models without torch in sight, and a counter of traces."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from objnet.core.variable import Parameter
from objnet.nn.module import Module


class Traces:
    """Counts the runs of Python code; compiled functions take no notice of it, having no ``__dict__``."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    def note(self) -> None:
        self.count += 1


class Linear(Module):
    def __init__(self, inputs: int, outputs: int, seed: int = 0):
        super().__init__()
        rng = np.random.default_rng(seed)
        self.weight = Parameter(jnp.asarray(rng.normal(size=(outputs, inputs)).astype(np.float32)))
        self.bias = Parameter(jnp.zeros(outputs))

    def forward(self, x: Any) -> Any:
        return x @ self.weight.T + self.bias[None]


class Headed(Module):
    """A body, and a head that no loss reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Linear(3, 2)
        self.head = Linear(2, 2, seed=1)

    def forward(self, x: Any) -> Any:
        return self.body(x)


def mean_square(x: Any) -> Any:
    return (x * x).mean()
