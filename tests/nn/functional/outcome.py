"""Compare a call of a functional with torch's where it may also be refused: same result, or same class of error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.nn.parity import assert_close, to_torch


def assert_same_outcome(ours: Callable[..., Any], theirs: Callable[..., Any], *arrays: jax.Array) -> bool:
    """Both, ours compiled, give the same arrays, or raise the same class; whether they gave arrays."""
    ours = jax.jit(ours)
    tensors = [to_torch(x) for x in arrays]
    try:
        expected = theirs(*tensors)
    except Exception as error:
        with pytest.raises(Exception) as raised:
            ours(*arrays)
        assert type(raised.value) is type(error), f"{raised.value!r} where torch raises {error!r}"
        return False
    results = ours(*arrays)
    pairs = [(results, expected)] if isinstance(expected, torch.Tensor) else zip(results, expected, strict=True)
    for result, tensor in pairs:
        assert_close(result, tensor)
    return True


def integers(*shape: int, seed: int = 0, low: int = -3, high: int = 4, dtype: str = "float32") -> jax.Array:
    """Small whole numbers: many are equal, and sums and products of them are exact."""
    return jnp.asarray(np.random.RandomState(seed).randint(low, high, shape)).astype(dtype)


def normal(*shape: int, seed: int = 0, dtype: str = "float32") -> jax.Array:
    return jnp.asarray(np.random.RandomState(seed).randn(*shape)).astype(dtype)
