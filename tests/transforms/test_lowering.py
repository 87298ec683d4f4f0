"""``Compiled.lower``: the stages of a program, without a run and without a change of state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import objnet
import objnet.nn.functional as F
from objnet import nn, optim
from objnet.errors import CompiledCallError


def make():
    objnet.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    optimizer = optim.Adam(model.parameters(), lr=1e-2)

    @objnet.jit
    def train_step(x, y):
        return optimizer.step(lambda: F.cross_entropy(model(x), y))

    return model, optimizer, train_step


x, y = jnp.linspace(-1, 1, 20).reshape(5, 4), jnp.array([0, 1, 2, 0, 1])
specs = jax.ShapeDtypeStruct((5, 4), jnp.float32), jax.ShapeDtypeStruct((5,), jnp.int32)


def states(model):
    return {k: np.asarray(v) for k, v in model.state_dict().items()}, objnet.get_rng_state()["key"].copy()


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_lowering_changes_nothing_and_runs_nothing():
    model, optimizer, train_step = make()
    before, kept = states(model), repr(optimizer.state_dict())
    lowered = train_step.lower(*specs)
    lowered.compile()
    same(states(model), before)
    assert repr(optimizer.state_dict()) == kept
    assert lowered.out_info == jax.ShapeDtypeStruct((), jnp.float32)


def test_the_executable_does_what_the_call_does():
    model, _, train_step = make()
    executable = train_step.lower(*specs).compile()
    losses = [executable(x, y) for _ in range(3)]
    other, _, again = make()
    same([again(x, y) for _ in range(3)], losses)
    same(states(other), states(model))
    assert train_step(x, y).shape == () and executable(x, y).shape == ()  # either may go on


def test_analyses_and_text():
    _, _, train_step = make()
    lowered = train_step.lower(*specs)
    assert "jit_train_step" in lowered.as_text() and "stablehlo" in lowered.as_text()
    assert "HloModule" in lowered.as_text("hlo")
    assert lowered.cost_analysis()["flops"] > 0
    assert lowered.memory_analysis().argument_size_in_bytes > 0
    assert lowered.compile() is lowered.compile() and lowered.compile().cost_analysis()["flops"] > 0
    names = {v.describe() for v in lowered.writes}
    assert "Parameter '0.weight'" in names and any("exp_avg_sq" in name for name in names)


def test_programs_and_operations_carry_the_users_names():
    model, _, train_step = make()
    text = train_step.lower(x, y).compile().as_text()
    assert "HloModule jit_train_step" in text
    assert "Sequential)/0/" in text and "Sequential)/1/" in text

    class Stack(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4))])

        def forward(self, x):
            for block in self.blocks:
                x = block(x)
            return x

    text = objnet.jit(Stack()).lower(x).as_text(debug_info=True)
    assert "jit(Stack)/Stack/blocks.0/" in text and "jit(Stack)/Stack/blocks.1/0/" in text
    net = objnet.transform_with_state(Stack)
    params, state = net.init(0, x)
    assert "/Stack/blocks.1/0/" in jax.jit(net.apply).lower(params, state, None, x).as_text(debug_info=True)


def test_methods_and_partials_name_their_programs():
    import functools

    class Trainer:
        def evaluate(self, x, scale):
            return x * scale

    assert "@jit_evaluate" in objnet.jit(Trainer().evaluate).lower(x, 2.0).as_text()
    assert "@jit_evaluate" in objnet.jit(functools.partial(Trainer().evaluate, scale=2.0)).lower(x).as_text()


def test_another_shape_and_static_arguments():
    model, _, train_step = make()
    executable = train_step.lower(*specs).compile()
    with pytest.raises(TypeError, match="compiled with int32\\[5\\] and called with int32\\[4\\]"):
        executable(x, y[:4])

    @objnet.jit
    def scaled(x, *, twice):
        return model[0](x) * (2 if twice else 1)

    executable = scaled.lower(specs[0], twice=True).compile()
    np.testing.assert_array_equal(executable(x, twice=True), scaled(x, twice=True))
    with pytest.raises(TypeError, match="lowered for other arguments"):
        executable(x, twice=False)
    with pytest.raises(TypeError, match="lowered for other arguments"):
        executable(x)
    assert scaled.lower(x, twice=False).out_info.shape == (5, 8)


def test_what_it_was_made_from_is_watched():
    model, _, train_step = make()
    executable = train_step.lower(*specs).compile()
    model.eval()
    with pytest.raises(CompiledCallError, match="lower and compile it again"):
        executable(x, y)
    model.train()
    executable(x, y)


def test_symbolic_dimensions():
    (n,) = jax.export.symbolic_shape("n")
    model, _, train_step = make()
    shapes = jax.ShapeDtypeStruct((n, 4), jnp.float32), jax.ShapeDtypeStruct((n,), jnp.int32)
    assert "tensor<?x4xf32>" in train_step.lower(*shapes).as_text()
    assert train_step(x, y).shape == ()


def test_inside_a_transform_it_is_refused():
    model, _, _ = make()
    with pytest.raises(CompiledCallError, match="inside a transform"):
        jax.jit(lambda x: objnet.jit(model).lower(x).out_info and x)(x)


def test_a_shape_that_reads_other_state_gets_a_program_of_its_own():
    model = nn.ModuleList([nn.Linear(4, 2), nn.Linear(4, 2)])
    calls = objnet.jit(lambda x: model[x.shape[0] % 2](x))
    for rows in (2, 3):
        np.testing.assert_allclose(
            calls.lower(jnp.ones((rows, 4))).compile()(jnp.ones((rows, 4))), model[rows % 2](jnp.ones((rows, 4)))
        )
