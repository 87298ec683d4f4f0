"""``objnet.vmap``: shared and per-row state, random keys, ensembles, modules built inside; against loops over the rows."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import objnet
from objnet import nn
from objnet.core import errors
from objnet.func import stack_modules, unstack_modules


def close(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **{"rtol": 1e-5, "atol": 1e-6, **tolerance}), a, b)


def net(p=0.0):
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(p), nn.Linear(4, 2))


def inputs(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize("compiled", [False, True])
def test_an_ensemble_of_eight_batch_norm_models_equals_eight_models(compiled):
    objnet.manual_seed(0)
    models = [net() for _ in range(8)]
    stacked = stack_modules(models)
    x = inputs(8, 5, 3)

    def loss(model, x):
        return objnet.value_and_grad(lambda: (model(x) ** 2).mean(), wrt=model)()

    run = objnet.vmap(loss)
    values, grads = (objnet.jit(run) if compiled else run)(stacked, x)
    for i, model in enumerate(models):
        value, grad = loss(model, x[i])
        close(values[i], value)
        close(jax.tree.map(lambda g, i=i: g[i], dict(grads)), dict(grad))
    for one, other in zip(unstack_modules(stacked), models, strict=True):
        close(dict(one.state_dict()), dict(other.state_dict()))
    assert int(models[0][1].num_batches_tracked) == 1


def test_dropout_differs_from_model_to_model_and_the_stream_moves_on_once():
    model, x = nn.Dropout(0.5), jnp.ones((8, 64))
    objnet.manual_seed(1)
    masks = objnet.vmap(model, randomness="different")(x)
    assert len({bytes(np.asarray(row)) for row in masks}) == 8
    again = objnet.vmap(model, randomness="different")(x)
    assert not np.array_equal(masks, again)
    objnet.manual_seed(1)
    close(objnet.jit(objnet.vmap(model, randomness="different"))(x), masks)
    same = objnet.vmap(model, randomness="same")(x)
    assert len({bytes(np.asarray(row)) for row in same}) == 1
    with pytest.raises(errors.RngInTransformError, match='randomness="different"'):
        objnet.vmap(model)(x)
    with pytest.raises(RuntimeError, match="Only allowed values for randomness"):
        objnet.vmap(model, randomness="other")


def test_no_key_is_needed_where_none_is_drawn():
    pure = objnet.transform(lambda x: objnet.vmap(nn.Linear(3, 2), randomness="different")(x))
    params = pure.init(jax.random.key(0), inputs(4, 3))
    close(pure.apply(params, None, inputs(4, 3)), inputs(4, 3) @ params["linear"]["weight"].T + params["linear"]["bias"])


def test_rows_that_part_what_they_share_are_refused_and_nothing_changes():
    model = net()
    before = dict(model.state_dict())
    for run in (objnet.vmap(model), objnet.jit(objnet.vmap(model))):
        with pytest.raises(errors.SharedStateError, match=r"'1.running_mean'.*different value in each row"):
            run(inputs(2, 5, 3))
        close(dict(model.state_dict()), before)


def test_state_that_is_the_same_for_all_rows_stays_shared():
    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.count = jnp.zeros(())

        def forward(self, x):
            self.count = self.count + 1
            return x * self.count

    model = Counter()
    close(objnet.vmap(model)(jnp.ones(3)), jnp.ones(3))
    assert model.count.shape == () and model.count == 1
    axis = objnet.vmap(lambda x: setattr(model, "count", jax.lax.pmean(x, "rows")), axis_name="rows")
    axis(jnp.asarray([1.0, 2.0, 6.0]))
    assert model.count == 3


def test_sync_batch_norm_over_the_axis_equals_the_whole_batch():
    ours, whole = nn.SyncBatchNorm(3, process_group="rows"), nn.BatchNorm1d(3)
    x = inputs(4, 5, 3)
    out = objnet.vmap(ours, axis_name="rows")(x)
    close(out.reshape(20, 3), whole(x.reshape(20, 3)))
    close(dict(ours.state_dict()), dict(whole.state_dict()))


def test_axes_of_modules_and_arguments():
    models = [nn.Linear(3, 2) for _ in range(4)]
    stacked, x = stack_modules(models), inputs(3)
    close(objnet.vmap(lambda m, x: m(x), in_axes=(0, None))(stacked, x), jnp.stack([m(x) for m in models]))
    close(objnet.vmap(stacked, in_axes=None, over=stacked, axis_size=4)(x), jnp.stack([m(x) for m in models]))
    rows = inputs(3, 4)
    close(
        objnet.vmap(lambda m, x, y=None: m(x), in_axes=(0, 1, None), out_axes=1)(stacked, rows, None),
        jnp.stack([m(rows[:, i]) for i, m in enumerate(models)], 1),
    )
    one = models[0]
    close(objnet.vmap(lambda m, x: m(x), in_axes=(None, 0))(one, inputs(5, 3)), one(inputs(5, 3)))
    with pytest.raises(ValueError, match="in_axes"):
        objnet.vmap(lambda a, b: a, in_axes=(0,))(x, x)


def test_modules_built_inside_come_out_stacked():
    objnet.manual_seed(0)
    made = objnet.vmap(lambda scale: nn.Linear(3, 2), randomness="different")(jnp.ones(5))
    assert made.weight.shape == (5, 2, 3) and made.bias.shape == (5, 2)
    assert len({bytes(np.asarray(w)) for w in made.weight.data}) == 5
    out = objnet.vmap(lambda m, x: m(x), in_axes=(0, None))(made, jnp.ones(3))
    close(out, made.weight.data.sum(-1) + made.bias.data)


def test_new_state_of_a_mapped_module_is_per_row():
    class Memory(nn.Module):
        def forward(self, x):
            self.last = x
            return x

    stacked = stack_modules([nn.Sequential(nn.Linear(2, 2), Memory()) for _ in range(3)])
    out = objnet.vmap(lambda m, x: m(x))(stacked, inputs(3, 2))
    close(stacked[1].last, out)


def test_nested_with_grad_and_scan():
    models = [nn.Linear(2, 2) for _ in range(3)]
    stacked, x = stack_modules(models), inputs(4, 2)

    def run(model, x):
        return objnet.scan(lambda h, row: (jnp.tanh(model(row) + h), h), jnp.zeros(2), x)[0].sum()

    values = objnet.vmap(objnet.vmap(run, in_axes=(None, 0)), in_axes=(0, None))(stacked, jnp.stack([x, x + 1]))
    for i, model in enumerate(models):
        for j in range(2):
            h = jnp.zeros(2)
            for row in x + j:
                h = jnp.tanh(model(row) + h)
            close(values[i, j], h.sum())


def test_stacking_refuses_models_that_differ():
    a, b = nn.Linear(3, 2), nn.Linear(3, 2)
    for other in (nn.Linear(3, 3), nn.Linear(3, 2, bias=False), nn.Sequential(nn.Linear(3, 2)), copy.deepcopy(b).eval()):
        with pytest.raises(RuntimeError, match="module 1 differs from module 0"):
            stack_modules([a, other])
    with pytest.raises(RuntimeError, match="twice"):
        stack_modules([a, a])
    with pytest.raises(RuntimeError, match="at least one"):
        stack_modules([])
    with pytest.raises(RuntimeError, match="no common leading size"):
        unstack_modules(net())


def test_rows_that_part_are_named_also_where_nothing_is_returned():
    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = jnp.zeros(())

    holder = Holder()

    def keep(row):
        holder.last = row.sum()

    with pytest.raises(errors.SharedStateError, match="'last'"):
        objnet.vmap(keep)(inputs(2, 3))
    assert holder.last == 0


def test_hyper_parameters_are_numbers():
    model, x = nn.Linear(3, 2), inputs(4, 3)

    def loss_after(lr):
        objnet.optim.SGD(model.parameters(), lr=lr).step(lambda: (model(x) ** 2).mean())
        return (model(x) ** 2).mean()

    before = dict(model.state_dict())
    for run, lr in ((objnet.grad(loss_after), 0.1), (objnet.jit(loss_after), 0.1), (objnet.vmap(loss_after), jnp.ones(2))):
        with pytest.raises(errors.StaticAttributeError, match=r"'lr' was given a traced value.*optax"):
            run(lr)
    close(dict(model.state_dict()), before)
