"""``instance_norm`` and the response norms against torch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from objnet.core.variable import Buffer  # noqa: E402
from objnet.errors import ImmutableArrayError  # noqa: E402
from objnet.nn.functional.batchnorm import instance_norm, instance_norm_stats  # noqa: E402
from objnet.nn.functional.response_norm import cross_map_lrn2d, local_response_norm  # noqa: E402
from tests.nn.functional.outcome import normal  # noqa: E402
from tests.nn.parity import (  # noqa: E402
    assert_close,
    assert_parity,
    assert_same_error,
    to_jax,
    to_torch,
    tolerance,
)

F = torch.nn.functional


@settings(max_examples=4, deadline=None)
@given(
    shape=st.sampled_from([(4, 3, 5), (2, 3, 2, 3), (1, 3, 2, 1, 2), (0, 3, 2), (2, 3, 0)]),
    by_input=st.booleans(),
    tracked=st.booleans(),
    affine=st.booleans(),
    momentum=st.sampled_from([0.1, 0.0, 1.0]),
    dtype=st.sampled_from(["float32", "bfloat16"]),
)
def test_instance_norm(shape, by_input, tracked, affine, momentum, dtype):
    tracked, affine = tracked or not by_input, affine and shape[0] != 0
    x = 2 * normal(*shape, dtype=dtype) + 1
    mean, var = normal(3, seed=3), abs(normal(3, seed=4)) + 0.5
    affines = [normal(3, seed=i, dtype=dtype) for i in (1, 2)] if affine else []
    loose = {} if dtype == "float32" else {"rtol": 5e-2, "atol": 0.1}

    def call(function, mean, var):
        stats = (mean, var) if tracked else (None, None)
        return lambda x, *wb: function(x, *stats, *(wb or (None, None)), by_input, momentum)

    if x.size:  # torch has no gradient of an empty one
        assert_parity(
            lambda *a: call(instance_norm_stats, mean, var)(*a)[0],
            lambda *a: call(F.instance_norm, to_torch(mean), to_torch(var))(*a),
            x,
            *affines,
            **loose,
        )
    buffers, tensors = (Buffer(mean), Buffer(var)), (to_torch(mean), to_torch(var))
    assert_close(
        call(instance_norm, *buffers)(x, *affines), call(F.instance_norm, *tensors)(*map(to_torch, (x, *affines))), **loose
    )
    for buffer, tensor in zip(buffers, tensors):
        assert_close(buffer.value, tensor, **tolerance(dtype))


def test_instance_norm_statistics_need_a_home():
    x, mean, var = normal(2, 3, 4), jnp.zeros(3), jnp.ones(3)
    with pytest.raises(ImmutableArrayError, match="running_mean.*instance_norm_stats"):
        instance_norm(x, mean, var)
    assert instance_norm(x, mean, var, use_input_stats=False).shape == x.shape


@pytest.mark.parametrize(
    ("shape", "sizes", "options"),
    [
        ((3,), [None] * 4, {}),
        ((2, 3), [None] * 4, {}),
        ((2, 3, 1), [None] * 4, {}),
        ((3,), [3, 3], {"use_input_stats": False}),
        ((2, 3, 4), [None] * 4, {"use_input_stats": False}),
        ((2, 3, 4), [3, None], {}),
        ((2, 3, 4), [2, 2], {}),
        ((2, 3, 4), [2, 2], {"use_input_stats": False}),
        ((2, 3, 4), [None, None, 2], {}),
        ((0, 3, 4), [None, None, 3], {}),
        ((2, 3, 4), [None, None, None, 2], {}),
    ],
)
def test_instance_norm_refusals(shape, sizes, options):
    x, ps = normal(*shape), [None if n is None else jnp.ones(n) for n in sizes]
    assert_same_error(
        lambda: instance_norm(x, *(p if p is None else Buffer(p) for p in ps), **options),
        lambda: F.instance_norm(to_torch(x), *(p if p is None else to_torch(p) for p in ps), **options),
    )


def test_instance_norm_dtypes_refused():
    for dtype, parameters in [("int32", []), ("complex64", []), ("float32", ["bfloat16"]), ("bfloat16", ["float32", "bfloat16"])]:
        x, ps = jnp.ones((2, 3, 4), dtype), [jnp.ones(3, d) for d in parameters]
        assert_same_error(
            lambda: instance_norm(x, None, None, *ps), lambda: F.instance_norm(to_torch(x), None, None, *map(to_torch, ps))
        )


# -- response norms ----------------------------------------------------------------------------------------------------


@settings(max_examples=4, deadline=None)
@given(
    shape=st.sampled_from([(2, 5, 3), (1, 4, 2, 2), (2, 3, 1, 2, 2)]),
    size=st.integers(1, 7),
    constants=st.sampled_from([(1e-4, 0.75, 1.0), (1.0, 0.5, 2.0), (0.5, 2.0, 0.1)]),
    dtype=st.sampled_from(["float32", "bfloat16"]),
)
def test_local_response_norm(shape, size, constants, dtype):
    if dtype == "bfloat16" and len(shape) > 3:
        return  # torch has no kernel
    loose = {} if dtype == "float32" else {"rtol": 5e-2, "atol": 5e-2}
    assert_parity(
        lambda x: local_response_norm(x, size, *constants),
        lambda x: F.local_response_norm(x, size, *constants),
        normal(*shape, dtype=dtype),
        **loose,
    )


def test_local_response_norm_refusals():
    assert local_response_norm(jnp.ones((0, 3, 4)), 0).shape == (0, 3, 4)
    for shape, size in [((2, 3), 2), ((2, 3, 4), 0), ((2, 3, 4), -1), ((2, 3, 4), 2.0)]:
        x = normal(*shape)
        assert_same_error(lambda: local_response_norm(x, size), lambda: F.local_response_norm(to_torch(x), size))
    for dtype in (torch.int32, torch.complex64):
        x = torch.ones((1, 3, 4), dtype=dtype)
        assert_same_error(lambda: local_response_norm(to_jax(x), 2), lambda: F.local_response_norm(x, 2))


@pytest.mark.parametrize("size", [2, 3, 5])
def test_cross_map_has_torchs_windows_and_gradients(size):
    theirs = torch.nn.CrossMapLRN2d(size, 0.5, 0.75, 1.0)
    assert_parity(lambda x: cross_map_lrn2d(x, size, 0.5, 0.75, 1.0), theirs, normal(2, 6, 1, 2), rtol=1e-4)


def test_cross_map_of_one_channel_windows():
    x = normal(1, 4, 1, 1)
    assert_close(cross_map_lrn2d(x, 1, 0.5), torch.nn.CrossMapLRN2d(1, 0.5)(to_torch(x)))
    assert np.isfinite(jax.grad(lambda x: cross_map_lrn2d(x, 1).sum())(x)).all()  # torch raises
    for bad, size in [
        (torch.randn(2, 3, 4), 2),
        (torch.randn(2, 3, 1, 1), 0),
        (torch.randn(2, 0, 1, 1), 2),
        (torch.ones(1, 2, 1, 1).int(), 2),
    ]:
        assert_same_error(lambda: cross_map_lrn2d(to_jax(bad), size), lambda: torch.nn.CrossMapLRN2d(size)(bad))
