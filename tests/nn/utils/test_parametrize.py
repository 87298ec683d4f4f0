"""``parametrize``: registering, reading, assigning and removing as in torch, and under every transform."""

from __future__ import annotations

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.utils.parametrize as theirs  # noqa: E402

from objnet import nn, optim  # noqa: E402
from objnet.core import errors  # noqa: E402
from objnet.nn.utils import parametrize as ours  # noqa: E402
from objnet.transforms.autodiff import backward, value_and_grad  # noqa: E402
from objnet.transforms.jit import jit  # noqa: E402
from objnet.transforms.pure import transform_with_state  # noqa: E402
from tests.nn.two_worlds import OURS, same  # noqa: E402


def both(action, **kwargs):
    """``action(world, parametrize, parametrizations)`` does the same in both."""
    return same(lambda w: action(w, ours if w is OURS else theirs, Kinds(w)), **kwargs)


class Kinds:
    """Parametrizations of every sort, in either world."""

    def __init__(self, w):
        ours_ = w is OURS

        class Double(w.nn.Module):
            def forward(self, x):
                return x * 2

            def right_inverse(self, x):
                return x / 2

        class Add(w.nn.Module):
            def __init__(self):
                super().__init__()
                self.by = w.nn.Parameter(w.ones(1))

            def forward(self, x):
                return x + self.by

        class Product(w.nn.Module):
            def forward(self, a, b):
                return a * b

            def right_inverse(self, x):
                return x * 4, w.ones(1) / 4

        class Grows(w.nn.Module):
            def forward(self, x):
                return (jnp.concatenate if ours_ else torch.cat)([x, x])

        class Refuses(Add):
            def right_inverse(self, x):
                raise NotImplementedError

        class Single(w.nn.Module):
            def forward(self, *x):
                return x[0]

            def right_inverse(self, x):
                return x, 5

        class Half(w.nn.Module):
            def forward(self, x):
                return x.astype("float16") if ours_ else x.half()

        class NoTensor(w.nn.Module):
            def forward(self, x):
                return 5

        class NoInverse(w.nn.Module):
            def forward(self, x):
                return x

            def right_inverse(self, x):
                return 5

        self.__dict__.update({k: v for k, v in locals().items() if isinstance(v, type)})


def filled(w, *sizes):
    layer = w.nn.Linear(*sizes)
    for i, p in enumerate(layer.parameters()):
        p.data.fill_(i + 1.0)
    return layer


@pytest.mark.parametrize(
    "names", [["Double"], ["Add"], ["Product"], ["Refuses"], ["Double", "Add"], ["Product", "Double", "Add"]]
)
def test_registering_and_removing(names):
    def run(w, u, kinds):
        layer = filled(w, 2, 1)
        layer.register_buffer("scale", w.ones(2))
        original = layer.weight
        found = [u.is_parametrized(layer), u.is_parametrized(layer, "weight")]
        for name in names:
            u.register_parametrization(layer, "weight", getattr(kinds, name)())
        u.register_parametrization(layer, "scale", kinds.Double())
        held = layer.parametrizations.weight
        found += [u.is_parametrized(layer), u.is_parametrized(layer, "weight"), u.is_parametrized(layer, "bias"), layer]
        found += [type(layer).__name__, u.type_before_parametrizations(layer) is w.nn.Linear, layer.weight, layer.scale]
        found += [held.is_tensor, held.ntensors, held.unsafe, len(held), getattr(held, "original", None) is original]
        found += [[n for n, _ in layer.named_parameters()], [n for n, _ in layer.named_buffers()], isinstance(layer, w.nn.Linear)]
        with u.cached():
            found += [layer.weight is layer.weight]
        found += [layer.weight is layer.weight]
        u.remove_parametrizations(layer, "scale", leave_parametrized=False)
        found += [layer, layer.scale, "scale" in layer._buffers]
        u.remove_parametrizations(layer, "weight")
        found += [layer, type(layer) is w.nn.Linear, hasattr(layer, "parametrizations"), layer.weight]
        return [*found, isinstance(layer.weight, w.nn.Parameter), (layer.weight is original) == held.is_tensor]

    both(run)


def test_assigning():
    def run(w, u, kinds):
        layer = u.register_parametrization(filled(w, 2, 1), "weight", kinds.Double())
        layer.weight = w.tensor([[3.0, 5.0]])
        pair = u.register_parametrization(filled(w, 2, 1), "weight", kinds.Product())
        pair.weight = w.tensor([[3.0, 5.0]])
        return layer.weight, layer, pair

    both(run)


@pytest.mark.parametrize(
    "action",
    [
        lambda w, u, k: u.register_parametrization(filled(w, 2, 1), "nothing", k.Double()),
        lambda w, u, k: u.register_parametrization(filled(w, 2, 1), "weight", k.Grows()),
        lambda w, u, k: u.register_parametrization(filled(w, 2, 1), "weight", k.Half()),
        lambda w, u, k: u.register_parametrization(filled(w, 2, 1), "weight", k.NoTensor()),
        lambda w, u, k: u.register_parametrization(filled(w, 2, 1), "weight", k.NoInverse()),
        lambda w, u, k: u.register_parametrization(filled(w, 2, 1), "weight", k.Single()),
        lambda w, u, k: u.register_parametrization(
            u.register_parametrization(filled(w, 2, 1), "weight", k.Double()), "weight", k.Grows()
        ),
        lambda w, u, k: u.register_parametrization(
            u.register_parametrization(filled(w, 2, 1), "weight", k.Double()), "weight", k.NoInverse()
        ),
        lambda w, u, k: u.remove_parametrizations(filled(w, 2, 1), "weight"),
        lambda w, u, k: u.remove_parametrizations(
            u.register_parametrization(filled(w, 2, 1), "weight", k.Product()), "weight", False
        ),
        lambda w, u, k: setattr(u.register_parametrization(filled(w, 2, 1), "weight", k.Add()), "weight", w.ones(1, 2)),
        lambda w, u, k: setattr(
            u.register_parametrization(filled(w, 2, 1), "weight", k.Double()), "weight", w.nn.Parameter(w.ones(1, 2))
        ),
        lambda w, u, k: pickle.dumps(u.register_parametrization(filled(w, 2, 1), "weight", k.Double())),
        lambda w, u, k: copy.copy(u.register_parametrization(filled(w, 2, 1), "weight", k.Double())),
        lambda w, u, k: u.ParametrizationList([], w.nn.Parameter(w.ones(1))),
    ],
)
def test_bad_input(action):
    both(action)


def test_unsafe_and_transfer():
    def run(w, u, kinds):
        layer = u.register_parametrization(filled(w, 2, 1), "weight", kinds.Grows(), unsafe=True)
        grown = layer.weight
        source = filled(w, 2, 1)
        u.register_parametrization(source, "weight", kinds.Product())
        u.register_parametrization(source, "bias", kinds.Double())
        target = u.transfer_parametrizations_and_params(source, filled(w, 2, 1))
        other = u.transfer_parametrizations_and_params(source, w.nn.Module(), "bias")
        shared = source.parametrizations.weight.original0 is target.parametrizations.weight.original0
        return (
            grown,
            target,
            target.weight,
            shared,
            other,
            u.transfer_parametrizations_and_params(filled(w, 1, 1), other) is other,
        )

    both(run)


def test_copies_and_state_dicts():
    def run(w, u, kinds):
        layer = u.register_parametrization(filled(w, 2, 1), "weight", kinds.Add())
        other = copy.deepcopy(layer)
        other.parametrizations.weight.original.data.fill_(7.0)
        layer.load_state_dict(other.state_dict())
        return (
            layer,
            other,
            layer.weight,
            u.is_parametrized(other),
            layer.parametrizations.weight[0] is other.parametrizations.weight[0],
        )

    both(run)


# -------------------------------------------------------------------------------------------------------- transforms


class Doubled(nn.Module):
    def forward(self, x):
        return x * 2

    def right_inverse(self, x):
        return x / 2


class Counted(nn.Module):
    """Counts its uses in a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("uses", jnp.zeros(()))

    def forward(self, x):
        self.uses = self.uses + 1
        return x * 2


def test_training_keeps_the_parameter_and_the_program():
    def build():
        layer = nn.Linear(2, 1)
        optimizer = optim.SGD(layer.parameters(), lr=0.1)
        ours.register_parametrization(layer, "weight", Doubled())
        return layer, optimizer

    traces = []

    def step_of(layer, optimizer):
        def loss(x):
            traces.append(1)
            return layer(x).sum()

        return jit(lambda x: optimizer.step(lambda: loss(x)))

    x = jnp.ones((1, 2))
    for layer, optimizer in (build(), build()):
        before = np.asarray(layer.parametrizations.weight.original)
        step_of(layer, optimizer)(x)
        np.testing.assert_allclose(layer.parametrizations.weight.original, before - 0.2, rtol=1e-6)
    assert len(traces) == 1  # an equal model, parametrized alike, finds the program


def test_a_compiled_function_notices():
    layer = nn.Linear(2, 1, bias=False)
    compiled, x = jit(layer), jnp.ones((1, 2))
    plain = compiled(x)
    ours.register_parametrization(layer, "weight", Doubled())
    np.testing.assert_allclose(compiled(x), plain, rtol=1e-6)
    layer.parametrizations.weight[0].forward = lambda w: w * 4
    np.testing.assert_allclose(compiled(x), 2 * plain, rtol=1e-6)
    ours.remove_parametrizations(layer, "weight", leave_parametrized=False)
    np.testing.assert_allclose(compiled(x), plain / 2, rtol=1e-6)
    with pytest.raises(errors.CompiledCallError):
        jit(lambda x: ours.register_parametrization(layer, "weight", Doubled())(x))(x)
    assert not ours.is_parametrized(layer)
    assert type(layer) is nn.Linear


def test_caching():
    layer = ours.register_parametrization(nn.Linear(2, 2), "weight", Counted())
    uses = layer.parametrizations.weight[0]
    start = float(uses.uses)
    x = jnp.ones((1, 2))

    def twice(x):
        return layer(layer(x)).sum()

    compiled = jit(twice)
    compiled(x)
    assert float(uses.uses) == start + 2
    with ours.cached():
        compiled(x)  # another program
        assert float(uses.uses) == start + 3
        backward(lambda: twice(x))
        assert float(uses.uses) == start + 4
        held = layer.weight
        assert layer.weight is held
        assert not isinstance(held, jax.core.Tracer)
        with ours.cached():
            assert layer.weight is held
        assert layer.weight is held
    assert layer.weight is not held
    assert layer.parametrizations.weight.original.grad is not None


def test_the_pure_form_of_a_function_that_parametrizes():
    net = transform_with_state(lambda x: ours.register_parametrization(nn.Linear(2, 1), "weight", Doubled())(x))
    params, state = net.init(0, jnp.ones((1, 2)))
    plain = transform_with_state(lambda x: nn.Linear(2, 1)(x)).init(0, jnp.ones((1, 2)))[0]
    np.testing.assert_allclose(
        params["parametrized_linear.parametrizations.weight"]["original"] * 2, plain["linear"]["weight"], rtol=1e-6
    )
    out, _ = jax.jit(net.apply)(params, state, None, jnp.ones((1, 2)))
    np.testing.assert_allclose(out, plain["linear"]["weight"].sum() + plain["linear"]["bias"][None], rtol=1e-5)


def test_gradients_do_not_go_through_right_inverses():
    layer = ours.register_parametrization(nn.Linear(2, 1), "weight", Doubled())
    gradient = value_and_grad(lambda: layer(jnp.ones((1, 2))).sum(), wrt=layer)()[1]
    np.testing.assert_array_equal(gradient["parametrizations.weight.original"], [[2, 2]])
    assert set(ours.__all__) == set(theirs.__all__)
