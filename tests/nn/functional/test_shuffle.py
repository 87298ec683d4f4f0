"""Shuffling of pixels and channels against torch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from objnet.nn import functional as ours  # noqa: E402
from tests.nn.functional.outcome import assert_same_outcome, normal  # noqa: E402
from tests.nn.parity import assert_parity, assert_same_error  # noqa: E402

F = torch.nn.functional
NAMES = ["pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle"]


def both(name, *arguments):
    return tuple(lambda x, f=getattr(m, name): f(x, *arguments) for m in (ours, F))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(2, 8, 4, 6), (4, 2, 2)])
def test_values_and_gradients(name, shape):
    # torch has no gradient of native_channel_shuffle
    assert_parity(*both(name, 2), normal(*shape), gradients=[] if name == "native_channel_shuffle" else None)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.sampled_from(NAMES), st.lists(st.sampled_from([0, 1, 2, 4, 6, 9]), min_size=1, max_size=5), st.integers(-1, 3))
def test_outcome_for_any_arguments(name, shape, number):
    assert_same_outcome(*both(name, number), normal(*shape))


@pytest.mark.parametrize("name", NAMES)
def test_dtypes_vmap_and_refusals(name):
    for dtype in ("int8", "bool", "bfloat16", "complex64"):
        assert assert_same_outcome(*both(name, 2), jnp.ones((1, 4, 2, 2), dtype))
    f, g = both(name, 2)
    xs = normal(3, 1, 4, 2, 2)
    assert (jax.vmap(f)(xs) == jnp.stack([f(x) for x in xs])).all()
    for number in (2.0, True, "2", None, (2,)):
        f, g = both(name, number)
        assert_same_error(lambda: f(jnp.ones((1, 4, 2, 2))), lambda: g(torch.ones(1, 4, 2, 2)))
