"""Random programs over random module trees: through objnet's transforms they do what the plain Python does."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import objnet
from objnet import nn

MODULES = 3


class Cell(nn.Module):
    def __init__(self, memory):
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.register_buffer("running", jnp.zeros(2))
        self.count = jnp.zeros(())
        self.memory = jnp.zeros(2) if memory else None


class Tree(nn.Module):
    def __init__(self, nested, tied, memory):
        super().__init__()
        self.cells = nn.ModuleList([Cell(memory) for _ in range(MODULES)])
        if nested:
            self.cells[0].inner = self.cells[1]
        if tied:
            self.cells[2].linear.weight = self.cells[0].linear.weight


# -- what a program does, step by step ---------------------------------------------------------------------------------


def affine(cell, x):
    return jnp.tanh(cell.linear(x))


def count(cell, x):
    cell.count = cell.count + 1
    return x * (0.5 + 0.1 * cell.count)


def running(cell, x):
    cell.running = 0.5 * cell.running + 0.5 * x
    return x + cell.running


def noise(cell, x):
    return x + jax.random.uniform(objnet.next_rng_key(), (2,))


def memory(cell, x):
    cell.memory = x if cell.memory is None else 0.5 * cell.memory + x
    return jnp.tanh(x + cell.memory)


def weight(cell, x):
    cell.linear.weight.data.mul_(0.9)
    return x


EFFECTS = (affine, count, running, noise, weight)
single = st.tuples(st.sampled_from(EFFECTS), st.integers(0, MODULES - 1))
lazy = st.tuples(st.just(memory), st.integers(0, MODULES - 1))


def programs(children):
    number = st.integers(1, 3)
    return st.one_of(
        st.tuples(st.just("seq"), st.lists(children, min_size=1, max_size=3)),
        st.tuples(st.sampled_from(["scan", "fori_loop", "while_loop"]), number, children),
        st.tuples(st.sampled_from(["checkpoint", "jit", "grad", "jvp"]), children),
        st.tuples(st.just("cond"), st.booleans(), children, children),
    )


def run(program, tree, x, plain):
    """``program`` by objnet's transforms, or by the Python they stand for."""
    kind, *rest = program
    if callable(kind):
        return kind(tree.cells[rest[0]], x)
    if kind == "seq":
        for part in rest[0]:
            x = run(part, tree, x, plain)
        return x
    if kind == "cond":
        positive, yes, no = rest
        return _cond(x[0] > 0 if positive else x[0] <= 0, yes, no, tree, x, plain)
    body = rest[-1]

    def step(x):
        return run(body, tree, x, plain)

    if kind in ("scan", "fori_loop", "while_loop"):
        return _loop(kind, rest[0], step, x, plain)
    if kind == "grad":
        return x + objnet.grad(lambda x: step(x).sum())(x)
    if kind == "jvp":
        return sum(objnet.jvp(step, (x,), (jnp.ones(2),)))
    return step(x) if plain else getattr(objnet, kind)(step)(x)


def _cond(condition, yes, no, tree, x, plain):
    if plain:
        return run(yes if condition else no, tree, x, plain)
    return objnet.cond(condition, lambda x: run(yes, tree, x, plain), lambda x: run(no, tree, x, plain), x)


def _loop(kind, times, step, x, plain):
    if plain:
        for _ in range(times):
            x = step(x)
        return x
    if kind == "scan":
        return objnet.scan(lambda x, _: (step(x), None), x, None, length=times)[0]
    if kind == "fori_loop":
        return objnet.fori_loop(0, times, lambda _, x: step(x), x)
    return objnet.while_loop(lambda state: state[0] < times, lambda state: (state[0] + 1, step(state[1])), (jnp.int32(0), x))[1]


def values(tree):
    cells = [(c.linear.weight.data, c.running, c.count, c.memory) for c in tree.cells]
    return jax.tree.map(np.asarray, (cells, objnet.get_rng_state()["key"]))


def has(program, kinds):
    kind, *rest = program
    return kind in kinds or any(
        has(part, kinds) for r in rest for part in (r if isinstance(r, list) else [r]) if isinstance(part, tuple)
    )


@settings(max_examples=25)
@given(
    st.recursive(single, programs, max_leaves=5),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["eager", "jit", "value_and_grad"]),
)
def test_programs_do_what_python_does(program, nested, tied, around):
    if around == "value_and_grad" and has(program, ("while_loop",)):
        around = "jit"  # jax has no reverse mode for it
    check(program, Tree(nested, tied, memory=True), around)


@settings(max_examples=10)
@given(
    st.tuples(
        st.sampled_from(["scan", "fori_loop"]),
        st.integers(1, 3),
        st.tuples(st.just("seq"), st.lists(st.one_of(single, lazy), min_size=1, max_size=3)),
    ),
    st.sampled_from(["eager", "jit", "value_and_grad"]),
)
def test_loops_that_create_state(program, around):
    check(program, Tree(False, False, memory=False), around)


def check(program, tree, around):
    other = copy.deepcopy(tree)
    x = jnp.asarray([0.3, -0.7])

    def ours(x):
        return run(program, tree, x, False).sum()

    def theirs(x):
        return run(program, other, x, True).sum()

    if around == "value_and_grad":
        ours, theirs = objnet.value_and_grad(ours, 0, wrt=tree), objnet.value_and_grad(theirs, 0, wrt=other)
    if around == "jit":
        ours = objnet.jit(ours)
    results = []
    for function, model in ((ours, tree), (theirs, other)):
        objnet.manual_seed(0)
        results.append((jax.tree.map(np.asarray, [function(x), function(x * 2)]), values(model)))
    (out, after), (wanted, wanted_after) = results
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), _filled(out, wanted), _filled(wanted, out))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), after, wanted_after)


def _filled(tree, like):
    """A gradient that a program computes as zero may be none in the Python that leaves a branch out."""
    a = jax.tree.leaves(tree, is_leaf=lambda x: x is None)
    b = jax.tree.leaves(like, is_leaf=lambda x: x is None)
    return [np.zeros_like(y) if x is None and y is not None else x for x, y in zip(a, b, strict=True)]
