"""Padding modules against torch's."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from tests.nn.module_parity import build, check_attributes, check_forward, check_module, check_refused  # noqa: E402

MODES = ["Constant", "Zero", "Reflection", "Replication", "Circular"]
SHAPES = {1: (2, 3, 5), 2: (2, 3, 4, 5), 3: (1, 2, 3, 4, 5)}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_padding(mode, n):
    value = {"value": 1.5} if mode == "Constant" else {}
    check_module(f"{mode}Pad{n}d", padding=(2, 1, 1, 0, 0, 2)[: 2 * n], inputs=(torch.randn(SHAPES[n]),), **value)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(st.data())
def test_arguments(data):
    mode, n = data.draw(st.sampled_from(MODES)), data.draw(st.sampled_from([1, 2, 2, 3]))
    # a circular cut leaves uninitialised memory in torch where too little is left to wrap
    amounts = st.integers(0 if mode == "Circular" else -1, 2)
    padding = data.draw(amounts | st.tuples(*[amounts] * (2 * n)))
    pair = build(f"{mode}Pad{n}d", padding, *([-2] if mode == "Constant" else []))
    check_attributes(pair)
    shape = SHAPES[n]
    check_forward(pair, torch.randn(shape if data.draw(st.booleans()) else shape[1:]))


def test_refusals():
    x = torch.randn(2, 3, 4, 5)
    check_refused("ReflectionPad2d", 4, inputs=(x,))
    check_refused("ReflectionPad2d", 1, inputs=(x[None],))
    check_refused("ReplicationPad1d", 1, inputs=(x,))
    check_refused("CircularPad2d", 5, inputs=(x,))
    check_refused("CircularPad1d", 1, inputs=(x,), match="CircularPad1d")
    check_refused("CircularPad3d", 1, inputs=(x[0],))
    check_refused("ZeroPad2d", -3, inputs=(x,))
    check_refused("ZeroPad2d", 1.5, inputs=(x,))
    check_refused("ConstantPad1d", 1)
    check_refused("ConstantPad1d", (1, 2, 3), 0.0, inputs=(x,))
