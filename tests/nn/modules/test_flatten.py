"""Flatten and Unflatten against torch's."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from tests.nn.module_parity import build, check_attributes, check_forward, check_module, check_refused  # noqa: E402


@settings(max_examples=13, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=4), st.integers(-5, 4), st.integers(-5, 4))
def test_flatten(shape, start, end):
    x = torch.randn(shape)
    pair = build("Flatten", start, end)
    check_attributes(pair)
    try:
        x.flatten(start, end)
    except Exception:
        check_refused("Flatten", start, end, inputs=(x,))
    else:
        check_forward(pair, x)


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=3),
    st.integers(-4, 3),
    st.lists(st.integers(-2, 4), max_size=3),
    st.booleans(),
)
def test_unflatten(shape, dim, sizes, as_tuple):
    x = torch.randn(shape)
    sizes = tuple(sizes) if as_tuple else sizes
    pair = build("Unflatten", dim, sizes)
    check_attributes(pair)
    try:
        x.unflatten(dim, sizes)
    except Exception:
        check_refused("Unflatten", dim, sizes, inputs=(x,))
    else:
        check_forward(pair, x)


def test_everything():
    check_module("Flatten", inputs=(torch.randn(2, 3, 4),))
    check_module("Unflatten", 1, (2, -1), inputs=(torch.randn(2, 6, 2),))


def test_refusals():
    check_refused("Unflatten", 1, 3, match="found type int")
    check_refused("Unflatten", 1, (2, 1.5), match="found element of type float at pos 1")
    check_refused("Unflatten", 1, "ab")
    check_refused("Unflatten", 0, (1,), inputs=(torch.tensor(1.0),))
