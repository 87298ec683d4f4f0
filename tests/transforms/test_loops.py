"""``scan``, ``map``, ``fori_loop``, ``while_loop``, ``cond``, ``switch``: against the Python code they stand for."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import objnet
from objnet import nn, optim
from objnet.core import errors


def close(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **{"rtol": 1e-5, "atol": 1e-6, **tolerance}), a, b)


class Cell(nn.Module):
    """A parameter, a buffer, a counter, and a state that is None at first."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.register_buffer("mean", jnp.zeros(3))
        self.steps = jnp.zeros((), jnp.int32)
        self.hidden = None

    def forward(self, x):
        self.steps = self.steps + 1
        self.mean = 0.9 * self.mean + 0.1 * x
        self.hidden = x if self.hidden is None else jnp.tanh(self.linear(x) + self.hidden)
        return self.hidden + self.mean


def state(cell):
    return dict(cell.state_dict()), cell.steps, cell.hidden


def pair():
    objnet.manual_seed(0)
    cell = Cell()
    return cell, copy.deepcopy(cell)


XS = jax.random.normal(jax.random.key(0), (4, 3))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("around", ["outside", "jit", "grad", "jit_grad"])
def test_a_scan_of_a_stateful_cell_is_the_loop(reverse, around):
    cell, other = pair()

    def scanned(xs):
        carry, ys = objnet.scan(lambda c, x: (c + cell(x), c * x), jnp.zeros(3), xs, reverse=reverse, unroll=2)
        return carry.sum() + (ys**2).sum()

    def looped(xs):
        carry, ys = jnp.zeros(3), []
        for x in xs[::-1] if reverse else xs:
            ys.append(carry * x)
            carry = carry + other(x)
        return carry.sum() + (jnp.stack(ys) ** 2).sum()

    if "grad" in around:
        scanned, looped = (
            objnet.value_and_grad(scanned, argnums=0, wrt=cell),
            objnet.value_and_grad(looped, argnums=0, wrt=other),
        )
    if "jit" in around:
        scanned = objnet.jit(scanned)
    for _ in range(2):  # the first run makes the hidden state, the second carries it
        close(scanned(XS), looped(XS))
        close(state(cell), state(other))


@settings(max_examples=12)
@given(st.integers(0, 5), st.booleans(), st.sampled_from([1, 3, True]))
def test_scan_over_lengths(length, reverse, unroll):
    cell, other = pair()
    cell(XS[0]), other(XS[0])
    carry, ys = objnet.scan(
        lambda c, _: (c + cell(c), c), jnp.ones(3), None, length=length, reverse=reverse, unroll=unroll if length else 1
    )
    wanted, rows = jnp.ones(3), []
    for _ in range(length):
        rows.append(wanted)
        wanted = wanted + other(wanted)
    close(carry, wanted)
    assert ys.shape == (length, 3)
    close(ys, jnp.stack(rows[::-1] if reverse else rows) if rows else jnp.zeros((0, 3)))
    close(state(cell), state(other))


def test_keys_differ_from_run_to_run_and_equal_the_loop_under_jit():
    def rolled():
        return objnet.scan(lambda c, _: (c, jax.random.uniform(objnet.next_rng_key())), 0.0, None, length=4)[1]

    def looped():
        return jnp.stack([jax.random.uniform(objnet.next_rng_key()) for _ in range(4)])

    objnet.manual_seed(3)
    first = rolled()
    objnet.manual_seed(3)
    close(objnet.jit(looped)(), first)
    assert len(set(map(float, first))) == 4
    assert set(map(float, rolled())).isdisjoint(map(float, first))


def test_whole_training_steps_in_a_scan():
    cell, other = pair()
    ours, theirs = optim.Adam(cell.linear.parameters(), lr=0.1), optim.Adam(other.linear.parameters(), lr=0.1)
    for _ in range(2):
        losses = objnet.scan(lambda c, x: (c, ours.step(lambda: (cell.linear(x) ** 2).sum())), None, XS)[1]
        wanted = jnp.stack([theirs.step(lambda x=x: (other.linear(x) ** 2).sum()) for x in XS])
        close(losses, wanted, rtol=1e-4)
        close(state(cell), state(other), rtol=1e-4)

    def rhythm(cell, optimizer, x):
        optimizer.zero_grad()
        loss = objnet.backward(lambda: (cell.linear(x) ** 2).sum())
        optimizer.step()
        return loss

    for _ in range(2):
        losses = objnet.scan(lambda c, x: (c, rhythm(cell, ours, x)), None, XS)[1]
        close(losses, jnp.stack([rhythm(other, theirs, x) for x in XS]), rtol=1e-4)
        close(state(cell), state(other), rtol=1e-4)
    with pytest.raises(errors.GradientDroppedError):
        _ = cell.linear.weight.grad


def test_gradients_that_are_kept_are_carried():
    cell, other = pair()
    grads = [objnet.backward(lambda x=x: other.linear(x).sum()) for x in XS]

    def body(c, x):
        return c, objnet.backward(lambda: cell.linear(x).sum())

    close(objnet.scan(body, None, XS)[1], jnp.stack(grads))
    close(cell.linear.weight.grad, other.linear.weight.grad)


def test_scan_of_equal_modules_row_by_row():
    layers = [nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)) for _ in range(3)]
    stacked, x = objnet.func.stack_modules(layers), jax.random.normal(jax.random.key(1), (5, 3))
    out, _ = objnet.scan(lambda h, layer: (layer(h), None), x, stacked)
    for layer in layers:
        x = layer(x)
    close(out, x)
    for a, b in zip(objnet.func.unstack_modules(stacked), layers, strict=True):
        close(dict(a.state_dict()), dict(b.state_dict()))


def test_jit_in_scan_in_grad():
    cell, other = pair()
    inner = objnet.jit(lambda x: cell(x))

    def run(xs):
        return objnet.scan(lambda c, x: (c + inner(x).sum(), None), 0.0, xs)[0]

    def loop(xs):
        return sum((other(x).sum() for x in xs), start=jnp.zeros(()))

    close(objnet.value_and_grad(run, 0, wrt=cell)(XS), objnet.value_and_grad(loop, 0, wrt=other)(XS))
    close(state(cell), state(other))


def test_nested_loops_write_through():
    cell, other = pair()

    def row(c, x):
        return objnet.fori_loop(0, 2, lambda i, v: cell(v) + i, x) + c, None

    close(objnet.scan(row, jnp.zeros(3), XS)[0], _nested(other))
    close(state(cell), state(other))


def _nested(cell):
    carry = jnp.zeros(3)
    for x in XS:
        for i in range(2):
            x = cell(x) + i
        carry = x + carry
    return carry


@pytest.mark.parametrize("batch_size", [None, 1, 3, 8])
def test_map(batch_size):
    model = nn.Linear(3, 2)
    close(objnet.map(lambda x: {"y": model(x)}, XS, batch_size=batch_size)["y"], model(XS))
    cell, other = pair()
    if batch_size is None:
        close(objnet.map(cell, XS), jnp.stack([other(x) for x in XS]))
        close(state(cell), state(other))
    else:
        with pytest.raises(errors.SharedStateError):
            cell.steps  # noqa: B018
            objnet.map(cell, XS, batch_size=3)


def test_fori_loop_with_traced_bounds():
    cell, other = pair()
    cell(XS[0]), other(XS[0])
    close(objnet.fori_loop(jnp.int32(1), jnp.int32(4), lambda i, v: cell(v) * i.astype(jnp.float32), XS[1]), _times(other, 1, 4))
    close(state(cell), state(other))
    close(objnet.fori_loop(2, 2, lambda i, v: cell(v), XS[1]), XS[1])
    close(state(cell), state(other))


def _times(cell, lower, upper):
    v = XS[1]
    for i in range(lower, upper):
        v = cell(v) * i
    return v


def test_while_loop_sees_what_it_wrote_and_carries_what_its_condition_draws():
    cell, other = pair()
    cell(XS[0]), other(XS[0])
    close(objnet.while_loop(lambda v: cell.steps < 4, cell, XS[1]), _until(other))
    close(state(cell), state(other))

    class Tries(nn.Module):
        def __init__(self):
            super().__init__()
            self.count = jnp.zeros((), jnp.int32)

    tries = Tries()

    def rejected(value):
        tries.count = tries.count + 1
        return value < 0.9

    def draw(value):
        return jax.random.uniform(objnet.next_rng_key())

    value = objnet.while_loop(rejected, draw, jnp.float32(0))
    assert value >= 0.9 and tries.count >= 2


def _until(cell):
    v = XS[1]
    while cell.steps < 4:
        v = cell(v)
    return v


@pytest.mark.parametrize("positive", [False, True])
def test_grad_through_cond_with_state(positive):
    cell, other = pair()
    cell(XS[0]), other(XS[0])
    x = XS[1] if positive else -XS[1]

    def ours(x):
        return objnet.cond(x[0] * XS[1, 0] > 0, lambda x: cell(x).sum(), lambda x: (x**2).sum() * cell.linear.bias[0], x)

    def theirs(x):
        return other(x).sum() if positive else (x**2).sum() * other.linear.bias[0]

    for run in (objnet.value_and_grad(ours, 0, wrt=cell), objnet.jit(objnet.value_and_grad(ours, 0, wrt=cell))):
        (value, (of_x, grads)), (wanted, (wanted_x, wanted_grads)) = run(x), objnet.value_and_grad(theirs, 0, wrt=other)(x)
        close((value, of_x), (wanted, wanted_x))
        for name, gradient in wanted_grads.items():
            close(grads[name], jnp.zeros_like(grads[name]) if gradient is None else gradient)
        close(state(cell), state(other))


@pytest.mark.parametrize("index", [-1, 0, 1, 2, 7])
def test_switch(index):
    cell, other = pair()
    cell(XS[0]), other(XS[0])
    branches = [cell, lambda x: x, lambda x: cell(x) * jax.random.uniform(objnet.next_rng_key())]
    objnet.manual_seed(2)
    out = objnet.switch(jnp.int32(index), branches, XS[1])
    chosen = min(max(index, 0), 2)
    objnet.manual_seed(2)
    if chosen == 1:
        wanted = XS[1]
    else:
        wanted = other(XS[1]) * (jax.random.uniform(objnet.next_rng_key()) if chosen == 2 else 1.0)
    close(out, wanted)
    close(state(cell), state(other))


def test_what_no_program_can_carry_is_refused_by_name():
    class Grows(nn.Module):
        def __init__(self):
            super().__init__()
            self.seen = jnp.zeros((1,))

        def forward(self, x):
            self.seen = jnp.concatenate([self.seen, x])
            return x

    model = Grows()
    loops = (
        lambda: objnet.scan(lambda c, x: (model(c), None), jnp.ones(1), jnp.ones(3)),
        lambda: objnet.fori_loop(0, 3, lambda i, v: model(v), jnp.ones(1)),
        lambda: objnet.while_loop(lambda v: v[0] < 0, model, jnp.ones(1)),
        lambda: objnet.cond(True, model, lambda x: x, jnp.ones(1)),
    )
    for loop in loops:
        with pytest.raises(errors.StateStructureError, match=r"'seen' is float32\[\d\] before and float32\[\d\] after"):
            loop()
        assert model.seen.shape == (1,)
    with pytest.raises(errors.StateStructureError, match=r"'weight'.* was created inside the function that scan runs"):
        objnet.scan(lambda c, x: (nn.Linear(1, 1)(c), None), jnp.ones(1), jnp.ones(3))
    with pytest.raises(errors.StateStructureError, match="'hidden' was created"):
        objnet.while_loop(lambda v: v[0] < 0, Cell(), jnp.ones(3))


def test_modules_as_carries_and_operands_are_sent_to_closures():
    model = nn.Linear(3, 3)
    calls = (
        lambda: objnet.scan(lambda m, x: (m, m(x)), model, XS),
        lambda: objnet.fori_loop(0, 2, lambda i, m: m, model),
        lambda: objnet.while_loop(lambda m: False, lambda m: m, model),
        lambda: objnet.cond(True, lambda m, x: m(x), lambda m, x: x, model, XS),
    )
    for call in calls:
        with pytest.raises(errors.ModuleAsArrayError, match=r"Linear module was given as (the carry|an operand) of .*closure"):
            call()


def test_bad_arguments_name_what_is_wrong():
    with pytest.raises(TypeError, match="returns a pair"):
        objnet.scan(lambda c, x: c, 0.0, jnp.ones(3))
    with pytest.raises(TypeError, match="boolean scalar"):
        objnet.while_loop(lambda v: v, lambda v: v, jnp.ones(3))
    with pytest.raises(ValueError, match="Empty branch"):
        objnet.switch(0, [], 1.0)
    with pytest.raises(TypeError, match="two functions"):
        objnet.cond(True, 1.0, 2.0)
    with pytest.raises(ValueError, match="batch_size"):
        objnet.map(lambda x: x, XS, batch_size=0)


def test_equal_loops_outside_a_transform_share_one_program():
    model, traces = nn.Linear(3, 3), []

    def run():
        def body(c, x):
            traces.append(1)
            return model(c) + x, None

        return objnet.scan(body, jnp.zeros(3), XS)[0]

    first, count = run(), None
    count = len(traces)
    close(run(), first)
    assert len(traces) == count
    model.weight.data.mul_(2.0)
    assert not np.allclose(run(), first) and len(traces) == count
