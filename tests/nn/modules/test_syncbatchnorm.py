"""SyncBatchNorm: the batch of all members of a mapped axis, as one BatchNorm sees it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from objnet import nn
from objnet.transforms.pure import transform_with_state

X = jnp.asarray(np.random.RandomState(0).randn(6, 3, 2), jnp.float32) * 2 + 1
WEIGHTS = jnp.asarray(np.random.RandomState(1).randn(6, 3, 2), jnp.float32)


def step(layer):
    """``params, state, x, weights`` to the gradients of the members' own losses, the outputs, and the new state."""
    net = transform_with_state(layer)

    def loss(params, x, state, weights):
        out, state = net.apply(params, state, None, x)
        return jnp.sum(out * weights), (out, state)

    def run(params, state, x, weights):
        gradients, (out, state) = jax.grad(loss, (0, 1), has_aux=True)(params, x, state, weights)
        return *gradients, out, state

    return run, net.init(None)


@pytest.fixture(scope="module")
def whole():
    """What one BatchNorm makes of the whole batch."""
    run, (params, state) = step(nn.BatchNorm1d(3))
    return jax.jit(run)(params, state, X, WEIGHTS)


def check(whole, of_params, of_x, out, state):
    """Members side by side along axis 0: each has the same state, and its share of the parameters' gradient."""
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)
    close(out.reshape(X.shape), whole[2])
    close(of_x.reshape(X.shape), whole[1])
    jax.tree.map(lambda a, b: close(a.sum(0), b), of_params, whole[0])
    for member in range(2):
        jax.tree.map(lambda a, b: close(a[member], b), state, whole[3])


def halves(x):
    return x.reshape(2, 3, *x.shape[1:])


@pytest.mark.parametrize("mapped", ["vmap", "pmap"])
def test_mapped(whole, mapped):
    run, (params, state) = step(nn.SyncBatchNorm(3, process_group="batch"))
    function = getattr(jax, mapped)(run, axis_name="batch", in_axes=(None, None, 0, 0))
    check(whole, *function(params, state, halves(X), halves(WEIGHTS)))


def test_none_is_every_device_axis(whole):
    run, (params, state) = step(nn.SyncBatchNorm(3))
    function = jax.pmap(run, axis_name="anything", in_axes=(None, None, 0, 0))
    check(whole, *function(params, state, halves(X), halves(WEIGHTS)))


def test_shard_map():
    net = transform_with_state(nn.SyncBatchNorm(3, process_group="batch"))
    params, state = net.init(None)
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.shard_map(
        lambda p, s, x: net.apply(p, s, None, x), mesh=mesh, in_specs=(P(), P(), P("batch")), out_specs=(P("batch"), P())
    )
    plain = transform_with_state(nn.BatchNorm1d(3)).apply
    for ours, expected in zip(
        jax.tree.leaves(jax.jit(spread)(params, state, X)), jax.tree.leaves(plain(params, state, None, X)), strict=True
    ):
        np.testing.assert_allclose(ours, expected, rtol=2e-5, atol=2e-5)


def test_one_value_a_member_is_enough():
    net = transform_with_state(nn.SyncBatchNorm(3, process_group="batch"))
    params, state = net.init(None)
    out, _ = jax.vmap(lambda x: net.apply(params, state, None, x), axis_name="batch")(X[:2, None, :, 0])
    np.testing.assert_allclose(out.mean(0), 0, atol=1e-5)


def test_outside_of_an_axis_it_is_batch_norm():
    sync, plain = nn.SyncBatchNorm(3, process_group="batch"), nn.BatchNorm1d(3)
    for _ in range(2):
        np.testing.assert_array_equal(sync(X), plain(X))
    np.testing.assert_array_equal(sync.running_var, plain.running_var)
    sync.eval(), plain.eval()
    np.testing.assert_array_equal(sync(X), plain(X))


def test_an_axis_by_another_name_is_refused():
    run, (params, state) = step(nn.SyncBatchNorm(3, process_group="batch"))
    with pytest.raises(ValueError, match="no mapped axis 'batch'"):
        jax.pmap(run, axis_name="devices", in_axes=(None, None, 0, 0))(params, state, halves(X), halves(WEIGHTS))


def test_conversion_takes_the_cells_over():
    model = nn.Sequential(
        nn.BatchNorm1d(3), nn.Sequential(nn.Linear(2, 2), nn.BatchNorm2d(2, affine=False), nn.InstanceNorm1d(2))
    )
    model[0](X)
    model.eval()
    norm, keys = model[0], list(model.state_dict())
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model, "batch")
    assert converted is model and list(model.state_dict()) == keys
    assert type(model[0]) is type(model[1][1]) is nn.SyncBatchNorm and type(model[1][2]) is nn.InstanceNorm1d
    assert model[0].weight is norm.weight and model[0]._buffers["running_mean"] is norm._buffers["running_mean"]
    assert not model[0].training and model[0].process_group == "batch" and model[1][1].weight is None
    assert int(model[0].num_batches_tracked) == 1
    alone = nn.BatchNorm1d(3, bias=False)
    assert nn.SyncBatchNorm.convert_sync_batchnorm(alone) is not alone


def test_surface():
    torch = pytest.importorskip("torch")
    from tests.nn.module_parity import build, check_attributes, check_forward, check_refused, check_signature

    check_signature("SyncBatchNorm")
    for options in ({}, {"affine": False, "momentum": None}, {"bias": False, "track_running_stats": False}):
        pair = build("SyncBatchNorm", 3, **options)
        check_attributes(pair)
        check_forward(pair, torch.randn(4, 3, 2))
    check_refused("SyncBatchNorm", 3, inputs=(torch.randn(3),))
    check_refused("SyncBatchNorm", 0, inputs=(torch.randn(3, 0),))
    theirs = torch.nn.SyncBatchNorm.convert_sync_batchnorm(torch.nn.Sequential(torch.nn.BatchNorm1d(3)))
    assert repr(nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(nn.BatchNorm1d(3)))) == repr(theirs)
