"""``F.fold`` and ``F.unfold`` against torch: results, gradients, dtypes, refusals."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from objnet.nn import functional as ours  # noqa: E402
from tests.nn.functional.outcome import assert_same_outcome, integers, normal  # noqa: E402
from tests.nn.parity import assert_parity, assert_same_error  # noqa: E402

F = torch.nn.functional

# An image and options: touching blocks, whole strides, parts of strides, gaps, long blocks, very many taps.
CASES = {
    "reshape": ((2, 3, 4, 6), {"kernel_size": (2, 3), "stride": (2, 3)}),
    "whole strides": ((2, 2, 6, 8), {"kernel_size": 4, "stride": (2, 1), "padding": 1}),
    "parts of strides": ((1, 2, 7, 7), {"kernel_size": 3, "stride": 2, "padding": (1, 0)}),
    "gaps": ((3, 8, 7), {"kernel_size": (1, 2), "stride": (3, 4)}),
    "dilation": ((2, 1, 7, 8), {"kernel_size": (3, 2), "dilation": (2, 3), "stride": (1, 2)}),
    "long": ((1, 1, 1, 50), {"kernel_size": (1, 20), "stride": (1, 8)}),
    "many taps": ((1, 1, 1, 80), {"kernel_size": (1, 70), "padding": (0, 2)}),
}


@pytest.mark.parametrize("case", CASES)
def test_results_and_gradients(case):
    shape, options = CASES[case]
    x = normal(*shape)
    assert_parity(lambda x: ours.unfold(x, **options), lambda x: F.unfold(x, **options), x)
    columns = normal(*ours.unfold(x, **options).shape, seed=1)
    size = shape[-2:]
    assert_parity(lambda x: ours.fold(x, size, **options), lambda x: F.fold(x, size, **options), columns)


def test_no_scatter_in_either_direction():
    for shape, options in list(CASES.values())[:-1]:
        x = jnp.zeros(shape)
        columns = ours.unfold(x, **options)
        for f, a in ((lambda x: ours.unfold(x, **options), x), (lambda x: ours.fold(x, shape[-2:], **options), columns)):
            assert "scatter" not in str(jax.make_jaxpr(jax.grad(lambda a: jnp.sum(jnp.sin(f(a)))))(a))


@st.composite
def problems(draw):
    """An image, options, and columns, which do not always fit."""
    shape = (*draw(st.sampled_from([(), (2,), (0,)])), draw(st.integers(1, 2)), *draw(st.tuples(*[st.integers(1, 7)] * 2)))

    def pair(low, high):
        return draw(st.one_of(st.integers(low, high), st.tuples(*[st.integers(low, high)] * 2)))

    return shape, {"kernel_size": pair(1, 4), "dilation": pair(1, 3), "padding": pair(0, 2), "stride": pair(1, 4)}


@settings(max_examples=5, deadline=None, derandomize=True)
@given(problems(), st.integers(0, 8))
def test_outcome_for_any_arguments(problem, wrong):
    shape, options = problem
    if assert_same_outcome(lambda x: ours.unfold(x, **options), lambda x: F.unfold(x, **options), integers(*shape)):
        columns = list(ours.unfold(jnp.zeros(shape), **options).shape)
        columns[-1] += wrong == 0
        size = shape[-2:]
        assert_same_outcome(
            lambda x: ours.fold(x, size, **options), lambda x: F.fold(x, size, **options), integers(*columns, seed=1)
        )


@pytest.mark.parametrize("dtype", ["bfloat16", "bool", "complex64", "int32"])
def test_dtypes(dtype):
    x = integers(1, 4, 6, 5, dtype=dtype)
    assert_same_outcome(lambda x: ours.unfold(x, 2), lambda x: F.unfold(x.int() if dtype == "int32" else x, 2), x)
    x = integers(1, 4, 9, dtype=dtype)
    assert_same_outcome(lambda x: ours.fold(x, 4, 2), lambda x: F.fold(x.int() if dtype == "int32" else x, 4, 2), x)


@pytest.mark.parametrize(
    ("shape", "arguments"),
    [
        ((3,), (1,)),
        ((3, 4), (1,)),
        ((1, 2, 3, 4, 5), (1,)),
        ((2, 0, 4, 5), (2,)),
        ((2, 3, 0, 5), (2, 1, 1)),
        ((2, 3, 4, 5), ((2,),)),
        ((2, 3, 4, 5), ((2, 2, 2),)),
        ((2, 3, 4, 5), (2.0,)),
        ((2, 3, 4, 5), ("a",)),
        ((2, 3, 4, 5), (0,)),
        ((2, 3, 4, 5), (2, 0)),
        ((2, 3, 4, 5), (2, 1, -1)),
        ((2, 3, 4, 5), (2, 1, 0, 0)),
        ((2, 3, 4, 5), (5,)),
    ],
)
def test_unfold_refuses(shape, arguments):
    assert_same_error(lambda: ours.unfold(jnp.zeros(shape), *arguments), lambda: F.unfold(torch.zeros(shape), *arguments))


@pytest.mark.parametrize(
    ("shape", "arguments"),
    [
        ((9,), (4, 2)),
        ((1, 2, 12, 9), (4, 2)),
        ((2, 12, 0), (1, 2)),
        ((2, 12, 9), (5, 2)),
        ((2, 12, 9), (-4, 2)),
        ((2, 12, 9), (4, 5)),
        ((2, 12, 9), ([4], 2)),
        ((2, 12, 9), (4, 2, (1,))),
        ((2, 12, 9), (4, 2.0)),
        ((2, 12, 9), ("a", 2)),
        ((2, 12, 9), (4, 2, 0)),
        ((2, 12, 9), (4, 2, 1, -1)),
        ((2, 12, 9), (4, 2, 1, 0, 0)),
        ((2, 12, 9), (4, 0)),
    ],
)
def test_fold_refuses(shape, arguments):
    assert_same_error(lambda: ours.fold(jnp.zeros(shape), *arguments), lambda: F.fold(torch.zeros(shape), *arguments))
