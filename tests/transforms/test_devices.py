"""``pmap`` and ``shard_map`` over two CPU devices: data parallel training equals the whole batch, and parting state is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

import objnet
import objnet.nn.functional as F
from objnet import nn, optim
from objnet.core import errors
from objnet.transforms.replication import varying

P = PartitionSpec
X = jax.random.normal(jax.random.key(0), (2, 4, 3))
Y = jax.random.normal(jax.random.key(1), (2, 4, 2))


def close(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **{"rtol": 1e-5, "atol": 1e-6, **tolerance}), a, b)


def mesh():
    return Mesh(np.asarray(jax.devices()[:2]), ("d",))


def trainer(norm=None):
    objnet.manual_seed(0)
    layers = [nn.Linear(3, 2)] if norm is None else [nn.Linear(3, 2), norm]
    model = nn.Sequential(*layers)
    return model, optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def averaged(model, optimizer, x, y):
    loss, grads = objnet.value_and_grad(lambda: F.mse_loss(model(x), y), wrt=model)()
    optimizer.step(jax.lax.pmean(grads, "d"))
    return loss


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("sync", [False, True])
def test_data_parallel_steps_equal_the_whole_batch(compiled, sync):
    model, optimizer = trainer(nn.SyncBatchNorm(2, process_group="d") if sync else None)
    whole, other = trainer(nn.BatchNorm1d(2) if sync else None)
    step = objnet.pmap(lambda x, y: averaged(model, optimizer, x, y), "d")
    step = objnet.jit(step) if compiled else step
    for _ in range(3):
        losses = step(X, Y)
        wanted = other.step(lambda: F.mse_loss(whole(X.reshape(8, 3)), Y.reshape(8, 2)))
        assert losses.shape == (2,)
        close(losses.mean(), wanted, rtol=1e-4)
    close(dict(model.state_dict()), dict(whole.state_dict()), rtol=1e-3, atol=1e-5)


def test_shard_map_adds_gradients_up_by_itself_where_it_checks():
    model, optimizer = trainer()
    whole, other = trainer()

    def step(x, y):
        loss, grads = objnet.value_and_grad(lambda: F.mse_loss(model(x[0]), y[0]), wrt=model)()
        optimizer.step(jax.tree.map(lambda g: g / 2, grads))
        return jax.lax.pmean(loss, "d")

    loss = objnet.shard_map(step, mesh=mesh(), in_specs=P("d"), out_specs=P())(X, Y)
    wanted = other.step(lambda: F.mse_loss(whole(X.reshape(8, 3)), Y.reshape(8, 2)))
    close(loss, wanted)
    close(dict(model.state_dict()), dict(whole.state_dict()), rtol=1e-3, atol=1e-5)


def test_state_that_parts_is_refused_and_nothing_changes():
    model, optimizer = trainer()
    before = dict(model.state_dict())

    def step(x, y):
        loss, grads = objnet.value_and_grad(lambda: F.mse_loss(model(x), y), wrt=model)()
        optimizer.step(grads)
        return loss

    with pytest.raises(errors.SharedStateError, match=r"'0.weight'.*differ from device to device under objnet.pmap"):
        objnet.pmap(step, "d")(X, Y)
    close(dict(model.state_dict()), before)
    norm = nn.BatchNorm1d(3)
    unchecked = objnet.shard_map(norm, mesh=mesh(), in_specs=P("d"), out_specs=P("d"), check_vma=False)
    checked = objnet.shard_map(norm, mesh=mesh(), in_specs=P("d"), out_specs=P("d"))
    for run in (unchecked, checked):
        with pytest.raises(errors.SharedStateError, match="running_mean"):
            run(X.reshape(8, 3))
    assert norm.num_batches_tracked == 0


def test_axes_and_broadcast_arguments():
    model = nn.Linear(3, 2)
    close(objnet.pmap(model)(X), model(X))
    close(
        objnet.pmap(lambda m, x, scale: m(x) * scale, in_axes=(None, 1, None), out_axes=1)(model, X[:, 0].T, 2.0),
        (model(X[:, 0]) * 2).T,
    )
    close(objnet.pmap(lambda x, n: x * n, static_broadcasted_argnums=1)(X, 3), X * 3)
    close(objnet.pmap(lambda x: jax.lax.psum(x, "d"), "d", out_axes=None)(X), X.sum(0))
    with pytest.raises(errors.SharedStateError, match="out_axes"):
        objnet.pmap(lambda x: x, out_axes=None)(X)
    with pytest.raises(ValueError, match="needs 3 devices"):
        objnet.pmap(model)(jnp.ones((3, 3)))
    with pytest.raises(ValueError, match="inconsistent sizes"):
        objnet.pmap(lambda a, b: a)(X, jnp.ones(1))
    with pytest.raises(TypeError, match="modules are shared"):
        objnet.shard_map(lambda m, x: m(x), mesh=mesh(), in_specs=(P("d"), P("d")), out_specs=P("d"))(model, X)


def test_random_numbers_on_devices():
    drop = nn.Dropout(0.5)
    rows = jnp.ones((2, 64))
    different = objnet.pmap(drop, randomness="different")(rows)
    assert not np.array_equal(different[0], different[1])
    same = objnet.pmap(drop, randomness="same")(rows)
    assert np.array_equal(same[0], same[1]) and not np.array_equal(same[0], different[0])
    with pytest.raises(errors.RngInTransformError, match=r"objnet.pmap.*randomness"):
        objnet.pmap(drop)(rows)


def test_gradients_through_pmap():
    model = nn.Linear(3, 2)
    loss = lambda: (objnet.pmap(model)(X) ** 2).sum()  # noqa: E731
    plain = lambda: (model(X) ** 2).sum()  # noqa: E731
    for run in (objnet.value_and_grad(loss, wrt=model), objnet.jit(objnet.value_and_grad(loss, wrt=model))):
        (value, grads), (wanted, wanted_grads) = run(), objnet.value_and_grad(plain, wrt=model)()
        close(value, wanted)
        close(dict(grads), dict(wanted_grads))


def axes_of(function, *specs, args):
    """What :func:`varying` says of ``function`` on a device, whose arguments vary as ``specs`` say."""
    found = []

    def body(*shards):
        closed = jax.make_jaxpr(function)(*shards)
        found.extend(varying(closed.jaxpr, [frozenset(s) for s in specs]))
        return jnp.zeros(())

    jax.shard_map(body, mesh=mesh(), in_specs=P(), out_specs=P(), check_vma=False)(*args)
    return [set(f) for f in found]


@pytest.mark.parametrize(
    ("function", "answer"),
    [
        (lambda w, x: w + 1, set()),
        (lambda w, x: w + x, {"d"}),
        (lambda w, x: w + jax.lax.pmean(x, "d"), set()),
        (lambda w, x: jax.lax.all_gather(x, "d"), set()),
        (lambda w, x: jax.lax.pmax(x, "d") - jax.lax.pmin(x, "d"), set()),
        (lambda w, x: w * jax.lax.axis_index("d").astype(jnp.float32), {"d"}),
        (lambda w, x: jax.lax.psum_scatter(jnp.stack([w, w]), "d"), {"d"}),
        (lambda w, x: jax.lax.ppermute(x, "d", [(0, 1), (1, 0)]), {"d"}),
        (lambda w, x: jax.lax.scan(lambda c, _: (c + x, None), w, None, length=2)[0], {"d"}),
        (lambda w, x: jax.lax.scan(lambda c, _: (c + jax.lax.pmean(x, "d"), None), w, None, length=2)[0], set()),
        (lambda w, x: jax.lax.cond(x[0] > 0, lambda: w, lambda: w + 1), {"d"}),
        (lambda w, x: jax.lax.cond(w[0] > 0, lambda: w, lambda: x), {"d"}),
        (lambda w, x: jax.lax.while_loop(lambda c: c[0] < 3, lambda c: c + 1, w), set()),
        (lambda w, x: jax.lax.while_loop(lambda c: (c + x)[0] < 3, lambda c: c + 1, w), {"d"}),
        (lambda w, x: jax.jit(lambda a: a * 2)(jax.lax.pmean(x, "d")), set()),
        (lambda w, x: jax.checkpoint(jnp.sin)(x), {"d"}),
        (lambda w, x: jax.lax.pmean(jax.grad(lambda w: (w * x).sum())(w), "d"), set()),
        (lambda w, x: jax.nn.relu(w), set()),
    ],
)
def test_the_analysis_of_what_varies(function, answer):
    assert axes_of(function, (), ("d",), args=(jnp.ones(2), jnp.ones(2))) == [answer]
