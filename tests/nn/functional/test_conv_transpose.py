"""Transposed convolutions against torch: every formulation, gradients of every order, dtypes, batches, refusals."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from objnet.nn.functional import conv_transpose as ours  # noqa: E402
from tests.nn.functional.outcome import assert_same_outcome, integers, normal  # noqa: E402
from tests.nn.parity import assert_derivatives, assert_parity, assert_same_error  # noqa: E402

F = torch.nn.functional

# name: (input, weight, options, what it becomes on CPU: convolutions, matrix products)
FORMULATIONS = {
    "stride 1": ((2, 3, 5, 4), (3, 4, 3, 2), {"padding": 1}, (1, 0)),
    "stride 1, more padding than kernel": ((2, 3, 6), (3, 4, 2), {"padding": 2, "dilation": 2, "output_padding": 1}, (1, 0)),
    "reshape": ((2, 3, 4, 3), (3, 4, 2, 3), {"stride": (2, 3)}, (0, 1)),
    "whole strides": ((2, 3, 4, 3), (3, 2, 4, 4), {"stride": 2, "padding": 1}, (0, 1)),
    "part of a stride": ((2, 3, 4, 3), (3, 2, 3, 3), {"stride": 2, "padding": 1, "output_padding": (1, 0)}, (0, 1)),
    "filled up": ((2, 3, 5), (3, 2, 5), {"stride": 3, "padding": 1, "output_padding": 2}, (0, 1)),
    "dilation": ((2, 3, 4, 5), (3, 2, 3, 2), {"stride": (2, 3), "dilation": (3, 2), "padding": (1, 0)}, (0, 1)),
    "groups": ((2, 4, 4, 3), (4, 3, 3, 4), {"stride": 2, "groups": 2}, (0, 1)),
    "depthwise": ((2, 3, 4, 3), (3, 2, 4, 3), {"stride": 2, "groups": 3, "padding": 1}, (0, 0)),
    "3 dimensions": ((1, 2, 3, 2, 3), (2, 2, 2, 3, 2), {"stride": (2, 1, 3), "padding": (0, 1, 0)}, (0, 1)),
    "many taps": ((1, 2, 4), (2, 2, 70), {"stride": 2, "dilation": 3}, (0, 1)),
}


def function(module, weight_shape):
    return getattr(module, f"conv_transpose{len(weight_shape) - 2}d")


def both(weight_shape, **options):
    return tuple(lambda *arrays, f=function(m, weight_shape): f(*arrays, **options) for m in (ours, F))


def arguments(case, dtype="float32"):
    x, w, options, _ = FORMULATIONS[case]
    outputs = w[1] * options.get("groups", 1)
    return (normal(*x, dtype=dtype), normal(*w, seed=1, dtype=dtype), normal(outputs, seed=2, dtype=dtype)), both(w, **options)


@pytest.mark.parametrize("case", FORMULATIONS)
def test_formulations(case):
    arrays, functions = arguments(case)
    jaxpr = str(jax.make_jaxpr(functions[0])(*arrays))
    assert (jaxpr.count("conv_general_dilated["), jaxpr.count("dot_general[")) == FORMULATIONS[case][3]
    assert_parity(*functions, *arrays)


@pytest.mark.parametrize("case", ["part of a stride"])
def test_derivatives_of_every_order(case):
    with jax.enable_x64(True):
        arrays, functions = arguments(case, "float64")
        assert_derivatives(functions[0], *arrays)


@pytest.mark.parametrize("case", ["dilation", "groups"])
def test_other_platforms_take_one_operation(case, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    arrays, functions = arguments(case)
    assert str(jax.make_jaxpr(functions[0])(*arrays)).count("conv_general_dilated[") == 1
    assert_parity(*functions, *arrays)


@pytest.mark.parametrize("case", ["depthwise"])
def test_vmap(case):
    x, w, options, _ = FORMULATIONS[case]
    xs, ws = normal(3, *x), normal(3, *w, seed=1)
    gradient = jax.grad(lambda x, w: jnp.sum(jnp.sin(both(w.shape, **options)[0](x, w))), 1)
    together, one_by_one = jax.jit(lambda xs, ws: (jax.vmap(gradient)(xs, ws), jax.lax.map(lambda a: gradient(*a), (xs, ws))))(
        xs, ws
    )
    np.testing.assert_allclose(together, one_by_one, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", ["reshape", "whole strides", "part of a stride", "groups", "dilation"])
def test_no_scatter_in_either_direction(case):
    arrays, functions = arguments(case)
    program = jax.make_jaxpr(jax.grad(lambda *a: jnp.sum(jnp.sin(functions[0](*a))), (0, 1)))(*arrays)
    assert "scatter" not in str(program)


@pytest.mark.parametrize("dtype", ["bfloat16"])
def test_half_precision(dtype):
    arrays, functions = arguments("whole strides", dtype)
    assert_parity(*functions, *arrays)


@st.composite
def problems(draw):
    """Shapes and options, some of which do not fit together."""
    n = draw(st.sampled_from([1, 1, 2, 3]))
    small = st.integers(1, 3)

    def spread(values):
        return draw(st.one_of(values, st.tuples(*[values] * n), st.tuples(values)))

    groups = draw(st.sampled_from([1, 1, 2, 3]))
    batch = draw(st.sampled_from([(), (1,), (2,), (0,)]))
    x = (*batch, draw(small) * groups, *draw(st.tuples(*[st.integers(1, 5)] * n)))
    w = (x[-n - 1], draw(small), *draw(st.tuples(*[small] * n)))
    paddings = {"padding": spread(st.integers(0, 2)), "output_padding": spread(st.integers(0, 1))}
    return x, w, draw(st.booleans()), {"stride": spread(small), "dilation": spread(small), "groups": groups, **paddings}


@settings(max_examples=9, deadline=None, derandomize=True)
@given(problems())
def test_outcome_for_any_arguments(problem):
    x, w, with_bias, options = problem
    arrays = [integers(*x), integers(*w, seed=1)] + [integers(w[1] * options["groups"], seed=2)] * with_bias
    assert_same_outcome(*both(w, **options), *arrays)


X, W = (2, 4, 5, 5), (4, 3, 3, 3)


@pytest.mark.parametrize(
    "options",
    [
        {"stride": 0},
        {"stride": 2.5},
        {"stride": (1, 2, 3)},
        {"padding": -1},
        {"padding": "same"},
        {"dilation": 0},
        {"output_padding": 1},
        {"output_padding": -1, "stride": 2},
        {"output_padding": 2, "stride": 2},
        {"output_padding": (1, 1, 1), "stride": 2},
        {"groups": 0},
        {"groups": 3},
        {"padding": 4},
    ],
)
def test_options_refused(options):
    x, w = torch.zeros(X), torch.zeros(W)
    assert_same_error(
        lambda: ours.conv_transpose2d(jnp.zeros(X), jnp.zeros(W), **options), lambda: F.conv_transpose2d(x, w, **options)
    )


@pytest.mark.parametrize(
    ("x", "w", "b"),
    [
        ((5, 5), W, None),
        (X, W[1:], None),
        (X, (6, 3, 3, 3), None),
        (X, W, (4,)),
        (X, W, (3, 1)),
        (X, W, ()),
        ((2, 4, 0, 5), W, None),
        ((2, 0, 5, 5), (0, 3, 3, 3), None),
        (X, (4, 0, 3, 3), None),
        (X, (4, 3, 0, 3), None),
    ],
)
def test_shapes_refused(x, w, b):
    shapes = [shape for shape in (x, w, b) if shape is not None]
    assert_same_error(
        lambda: ours.conv_transpose2d(*map(jnp.zeros, shapes)), lambda: F.conv_transpose2d(*(torch.zeros(s) for s in shapes))
    )


@pytest.mark.parametrize("dtypes", [("float32", "bfloat16"), ("float32", "float16"), ("int32", "float32"), ("bool", "bool")])
def test_dtypes_refused(dtypes):
    arrays = [jnp.zeros(shape, dtype) for shape, dtype in zip((X, W), dtypes)]
    tensors = [torch.zeros(shape, dtype=getattr(torch, dtype)) for shape, dtype in zip((X, W), dtypes)]
    assert_same_error(lambda: ours.conv_transpose2d(*arrays), lambda: F.conv_transpose2d(*tensors))


def test_empty():
    for x, w, options in [((0, 4, 0, 5), W, {}), ((2, 4, 5, 5), (4, 3, 2, 2), {"padding": 3}), ((0, 4, 5, 5), W, {"stride": 2})]:
        assert_same_outcome(*both(w, **options), jnp.zeros(x), jnp.zeros(w))
