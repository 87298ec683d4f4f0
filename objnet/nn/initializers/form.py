"""The form of initializers, and the two that all scaled ones are made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from objnet.core import draws, rng
from objnet.nn.module import _check_dtype

__all__ = ["Initializer", "Shape", "Value", "initializer", "normal_of", "uniform_of"]

Shape = tuple[int, ...]
Value = Callable[[draws.Source, Shape, Any], Any]


class Initializer(Protocol):
    """What the functions here return; any function of this form, such as those of ``jax.nn.initializers``, is one."""

    def __call__(self, key: Any, shape: Sequence[int], dtype: Any = ..., /) -> jax.Array: ...


def initializer(value: Value) -> Initializer:
    """``value(source, shape, dtype)`` as an initializer."""

    def initialize(key: Any, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        source = rng.as_key(key) if isinstance(key, (jax.Array, np.ndarray)) else key
        return jnp.asarray(value(source, tuple(shape), _check_dtype(jnp.dtype(dtype))))

    return initialize


def uniform_of(std: Callable[[Shape], float]) -> Initializer:
    """Uniform of mean zero and standard deviation ``std(shape)``."""

    def value(source: draws.Source, shape: Shape, dtype: Any) -> jax.Array:
        bound = math.sqrt(3.0) * std(shape)
        return draws.uniform(shape, -bound, bound, dtype, source)

    return initializer(value)


def normal_of(std: Callable[[Shape], float]) -> Initializer:
    """Normal of mean zero and standard deviation ``std(shape)``."""
    return initializer(lambda source, shape, dtype: draws.normal(shape, 0.0, std(shape), dtype, source))
