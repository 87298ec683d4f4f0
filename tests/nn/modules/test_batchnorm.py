"""Batch normalisation against torch's, with its running statistics."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from objnet import nn  # noqa: E402
from objnet.transforms.jit import jit  # noqa: E402
from objnet.transforms.pure import transform_with_state  # noqa: E402
from tests.nn.module_parity import (  # noqa: E402
    build,
    check_attributes,
    check_forward,
    check_module,
    check_refused,
    check_state,
    check_training,
    converted,
)
from tests.nn.parity import assert_close  # noqa: E402

SHAPES = {"BatchNorm1d": [(6, 3), (4, 3, 5)], "BatchNorm2d": [(3, 3, 2, 4)], "BatchNorm3d": [(2, 3, 2, 1, 3)]}


@pytest.mark.parametrize(
    ("name", "shape", "options"),
    [
        ("BatchNorm1d", (6, 3), {}),
        ("BatchNorm1d", (4, 3, 5), {"momentum": None}),
        ("BatchNorm2d", (3, 3, 2, 4), {"bias": False, "momentum": 0.4, "eps": 0.1}),
        ("BatchNorm3d", (2, 3, 2, 1, 3), {"affine": False}),
        ("BatchNorm2d", (3, 3, 2, 4), {"track_running_stats": False}),
    ],
)
def test_three_steps(name, shape, options):
    check_module(name, 3, inputs=(torch.randn(shape) * 3 + 1,), steps=3, **options)


@settings(max_examples=6, deadline=None)
@given(
    st.sampled_from([(n, s) for n, shapes in SHAPES.items() for s in shapes]),
    st.floats(1e-5, 1),
    st.none() | st.floats(0, 1),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_arguments(case, eps, momentum, affine, track, bias, training, dtype):
    name, shape = case
    pair = build(name, 3, eps, momentum, affine, track, None, dtype, bias=bias)
    check_attributes(pair)
    for module in pair:
        module.train(training)
    for scale in (1, 2):
        check_forward(pair, (torch.randn(shape) * scale).to(dtype))
    loose = {} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
    check_state(pair, **loose)


def test_eagerly_and_in_a_larger_model():
    pair = build("BatchNorm1d", 3)
    x = torch.randn(5, 3)
    for _ in range(2):
        assert_close(pair.ours(converted(x)), pair.theirs(x))
    check_state(pair)
    assert int(pair.ours.num_batches_tracked) == 2
    model = nn.Sequential(pair.ours, nn.ReLU())
    before = jax.tree.map(np.asarray, dict(model.state_dict()))
    jit(model)(converted(x))
    assert int(model[0].num_batches_tracked) == 3
    model.eval()
    jit(model)(converted(x))
    assert int(model[0].num_batches_tracked) == 3
    assert not np.array_equal(before["0.running_mean"], np.asarray(model[0].running_mean))


def test_the_pure_form_returns_the_new_statistics():
    pair = build("BatchNorm1d", 3)
    net = transform_with_state(pair.ours)
    params, state = net.init(None)
    x = torch.randn(5, 3)
    out, new = jax.jit(net.apply)(params, state, None, converted(x))
    assert_close(out, pair.theirs(x))
    assert int(pair.ours.num_batches_tracked) == 0
    for key, value in new["~"].items():
        np.testing.assert_allclose(value, np.asarray(pair.theirs.state_dict()[key]), rtol=1e-5, atol=1e-6)


def test_statistics_carry_no_gradient():
    layer = nn.BatchNorm1d(3)

    def total(x):
        layer_out = layer(x)
        return jnp.sum(layer_out * 0) + jnp.sum(layer.running_mean)

    from objnet.transforms.autodiff import grad

    assert (np.asarray(grad(total, argnums=0)(jnp.ones((4, 3)))) == 0).all()


def test_half_and_back_keep_the_count():
    pair = build("BatchNorm2d", 3)
    for module in pair:
        module.half()
    check_attributes(pair)
    assert pair.ours.num_batches_tracked.dtype == jnp.int32
    pair.ours.reset_running_stats()
    assert pair.ours.running_var.dtype == jnp.float16


def test_checkpoints_before_the_count():
    pair = build("BatchNorm1d", 3)
    pair.ours(jnp.ones((4, 3)))
    old = {k: v for k, v in pair.theirs.state_dict().items() if k != "num_batches_tracked"}
    assert str(pair.ours.load_state_dict(old)) == "<All keys matched successfully>"
    assert int(pair.ours.num_batches_tracked) == 1  # keeps its own
    new = pair.theirs.state_dict()
    del new["num_batches_tracked"]
    with pytest.raises(RuntimeError, match='Missing key.*"num_batches_tracked"'):
        pair.ours.load_state_dict(new)
    nested = nn.Sequential(nn.BatchNorm1d(3))
    assert str(nested.load_state_dict({f"0.{k}": v for k, v in old.items()})) == "<All keys matched successfully>"


def test_reset():
    pair = build("BatchNorm1d", 3)
    x = torch.randn(5, 3)
    pair.ours(converted(x))
    pair.ours.weight.data.fill_(7)
    pair.ours.reset_parameters()
    check_state(pair, rtol=0, atol=0)


def test_two_evaluations_after_losing_a_buffer():
    pair = build("BatchNorm1d", 3)
    x = torch.randn(5, 3)
    for module in pair:
        module.eval()
        module.running_mean = module.running_var = None
    check_forward(pair, x)  # by batch
    check_training(pair, x)


def test_refusals():
    check_refused("BatchNorm1d", 3, inputs=(torch.randn(4, 3, 2, 2),), match="expected 2D or 3D input (got 4D input)")
    check_refused("BatchNorm2d", 3, inputs=(torch.randn(4, 3),), match="expected 4D input (got 2D input)")
    check_refused("BatchNorm3d", 3, inputs=(torch.randn(4, 3),), match="expected 5D input (got 2D input)")
    check_refused("BatchNorm1d", 3, inputs=(torch.randn(1, 3),), match="more than 1 value per channel")
    check_refused("BatchNorm1d", 3, inputs=(torch.randn(4, 2),))
