"""Modules and helpers of the tests of the pure form."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

import objnet
from objnet import nn

X = jnp.arange(6.0).reshape(2, 3) / 3.0
KEY = jax.random.key(0)


class Dense(nn.Module):
    def __init__(self, n_in=3, n_out=3):
        super().__init__()
        self.weight = nn.Parameter(objnet.randn(n_out, n_in))
        self.bias = nn.Parameter(jnp.zeros(n_out))

    def forward(self, x):
        return jnp.matmul(x, self.weight.T) + self.bias[None]


class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", jnp.zeros((), jnp.int32))

    def forward(self):
        for _ in range(10):
            self.count = self.count + 1
        return self.count


class Memory(nn.Module):
    """State that is None at the start; no parameter is read before it is looked at."""

    def __init__(self):
        super().__init__()
        self.hidden = None

    def forward(self, x):
        self.hidden = x if self.hidden is None else self.hidden + x
        return self.hidden


def shapes(tree):
    return jax.tree.map(jnp.shape, tree)


def names(entries):
    return {(path, name) for path, leaves in entries.items() for name in leaves}


def same(a, b, **kwargs):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), **({"rtol": 1e-5, "atol": 1e-6} | kwargs))
