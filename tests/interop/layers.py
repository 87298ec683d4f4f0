"""Inputs and a model for the tests of weights."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from objnet import nn


def normal(*shape, seed=0):
    return jnp.asarray(np.random.RandomState(seed).randn(*shape), "float32")


def filled(shapes):
    """Random values, positive as variances are; counters are 3."""
    random = np.random.RandomState(0)
    return jax.tree.map(lambda a: jnp.asarray(random.rand(*a.shape) + 0.1 if a.dtype == jnp.float32 else 3, a.dtype), shapes)


def close(ours, theirs):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), ours, theirs)


def shaped(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def last(x):
    """Channels last."""
    return jnp.moveaxis(x, 1, -1)


X = normal(2, 4)
IMAGE = normal(2, 4, 6, 5, seed=1)
SEQUENCE, NARROW = normal(2, 5, 4, seed=2), normal(2, 5, 3, seed=3)
H, C = normal(2, 3, seed=4), normal(2, 3, seed=5)
HH, CC = normal(2, 3, 6, 5, seed=4), normal(2, 3, 6, 5, seed=5)
INDICES = jnp.asarray([[0, 6], [3, 3]])


def plain(*inputs):
    return (lambda m: m(*inputs)), inputs


def image(*inputs):
    """A layer for channels-first inputs of ours, channels-last of theirs."""
    return (lambda m: last(m(*inputs))), tuple(map(last, inputs))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.BatchNorm1d(4)) for _ in range(2)])
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)
