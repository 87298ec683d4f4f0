"""Instance normalisation against torch's, with its running statistics."""

from __future__ import annotations

import warnings

import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from objnet import nn  # noqa: E402
from tests.nn.module_parity import (  # noqa: E402
    build,
    check_attributes,
    check_forward,
    check_module,
    check_refused,
    check_signature,
    check_state,
    check_training,
)

SHAPES = {"InstanceNorm1d": (4, 3, 5), "InstanceNorm2d": (2, 3, 2, 4), "InstanceNorm3d": (2, 3, 2, 1, 3)}


def test_two_steps():
    check_module("InstanceNorm1d", 3, inputs=(torch.randn(4, 3, 5) * 3 + 1,), steps=2, affine=True, track_running_stats=True)


@pytest.mark.parametrize("name", SHAPES)
@settings(max_examples=2, deadline=None)
@given(data=st.data())
def test_arguments(name, data):
    draw = data.draw
    affine, track, bias, batched = (draw(st.booleans()) for _ in range(4))
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16]))
    momentum = draw(st.none() | st.floats(0, 1))
    pair = build(name, 3, draw(st.floats(1e-5, 1)), momentum, affine, track, None, dtype, bias=bias)
    check_signature(name)
    check_attributes(pair)
    shape = SHAPES[name] if batched else SHAPES[name][1:]
    for training in (True, False):
        for module in pair:
            module.train(training)
        check_forward(pair, torch.randn(shape).to(dtype))
    check_state(pair, **({} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}))
    assert not track or int(pair.ours.num_batches_tracked) == 0  # torch does not count either


def test_unbatched_gradients():
    check_training(build("InstanceNorm2d", 3, affine=True), torch.randn(3, 2, 4))


def test_other_channels():
    x = torch.randn(2, 4, 5)
    check_refused("InstanceNorm1d", 3, affine=True, inputs=(x,), match="to match num_features")
    with pytest.warns(UserWarning, match="does not match num_features") as caught:
        nn.InstanceNorm1d(3)(jnp.ones((2, 4, 5)))
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_forward(build("InstanceNorm1d", 3), x)
        check_refused("InstanceNorm1d", 3, track_running_stats=True, inputs=(x,))


def test_refusals():
    check_refused("InstanceNorm1d", 3, inputs=(torch.randn(2, 3, 4, 5),), match="expected 2D or 3D input (got 4D input)")
    check_refused("InstanceNorm2d", 3, inputs=(torch.randn(3, 4),))
    check_refused("InstanceNorm3d", 3, inputs=(torch.randn(2, 3, 4),))
    check_refused("InstanceNorm1d", 3, inputs=(torch.randn(2, 3, 1),))


def test_checkpoints_that_hold_statistics_nobody_keeps():
    pair = build("InstanceNorm1d", 3)
    stale = {"running_mean": torch.zeros(3), "running_var": torch.ones(3)}
    for module in pair:
        with pytest.raises(RuntimeError, match="Unexpected running stats buffer.*track_running_stats=False"):
            module.load_state_dict(dict(stale))
