"""``functional_call`` against torch's, and under jax's transforms."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from objnet import nn  # noqa: E402
from objnet.core import errors  # noqa: E402
from objnet.nn.utils import parametrizations, stateless  # noqa: E402
from objnet.transforms.autodiff import backward  # noqa: E402
from objnet.transforms.jit import jit  # noqa: E402
from tests.nn.two_worlds import OURS, same  # noqa: E402

call = stateless.functional_call


def tied(w):
    class Tied(w.nn.Module):
        def __init__(self):
            super().__init__()
            self.a = w.nn.Parameter(w.ones(1))
            self.b = self.a
            self.register_buffer("c", w.ones(1))
            self.inner = w.nn.Module()
            self.inner.d = w.nn.Parameter(w.ones(1))

        def forward(self, x, more=0):
            self.c = self.c * 2
            return x + self.a * 10 + self.b * 100 + self.c * 1000 + self.inner.d * 10000 + more

    return Tied()


@pytest.mark.parametrize(
    "given",
    [
        {"a": 2},
        {"b": 3, "c": 4},
        {"a": 2, "b": 3},
        {"a": 2, "q": 5},
        {"inner.d": 7, "c": 2},
        {"inner.e": 7},
        {"nowhere.d": 7},
        {"a.d": 7},
        {"inner": 7},
        {"training": 7},
        {"": 7},
        {"a": 2, "c": 1, "inner.d": 1},
        {"a": 2, "b": 2, "c": 1, "inner.d": 1, "q": 1},
        {},
    ],
)
@pytest.mark.parametrize("options", [{}, {"tie_weights": False}, {"strict": True}, {"strict": True, "tie_weights": False}])
def test_parity(given, options):
    def run(w):
        module = tied(w)
        functional = call if w is OURS else torch.func.functional_call
        values = {name: w.tensor([float(v)]) for name, v in given.items()}
        result = functional(module, values, (w.ones(1),), {"more": 1}, **options)
        return result, values, module.a, module.b, module.c, sorted(module.state_dict()), hasattr(module, "q"), module(w.ones(1))

    same(run, text="strict" in options)


def test_other_arguments():
    def run(w):
        functional = call if w is OURS else torch.func.functional_call
        layer = w.nn.Linear(2, 1)
        own = dict(layer.named_parameters())
        return [
            (functional(layer, own, *args) - layer(w.ones(2))).sum()
            for args in ((w.ones(2),), (((w.ones(2)),), {}), ((), {"input": w.ones(2)}))
        ]

    same(run)
    same(lambda w: (call if w is OURS else torch.func.functional_call)(w.nn.Linear(1, 1), {"weight": 5}, w.ones(1)))


def test_parametrized_names():
    layer = parametrizations.weight_norm(nn.Linear(2, 2))
    kind, keys, x = type(layer), list(layer.state_dict()), jnp.ones((1, 2))
    weight = jnp.asarray([[1.0, 2.0], [3.0, 4.0]])
    np.testing.assert_allclose(call(layer, {"weight": weight}, x), weight.sum(1)[None] + layer.bias._read(), rtol=1e-6)
    zeroed = {"parametrizations.weight.original0": jnp.zeros((2, 1))}
    np.testing.assert_allclose(call(layer, zeroed, x), layer.bias._read()[None], rtol=1e-6)
    with pytest.raises(RuntimeError):
        call(layer, {"weight": weight}, jnp.ones((1, 3)))
    assert type(layer) is kind
    assert list(layer.state_dict()) == keys


def test_plain_jax_transforms():
    model, x = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), jnp.asarray([[1.0, 2.0], [3.0, 5.0]])
    params, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    own = dict(model.named_buffers())

    def loss(params, buffers):
        values = {**params, **buffers}
        out = call(model, values, x)
        return (out**2 * x).sum(), {name: values[name] for name in buffers}

    gradient, after = jax.jit(jax.grad(loss, has_aux=True))(params, buffers)
    assert all(model.get_buffer(name) is own[name] for name in own)  # nothing was written
    backward(lambda: (model(x) ** 2 * x).sum())
    for name, p in model.named_parameters():
        np.testing.assert_allclose(gradient[name], p.grad, rtol=1e-3, atol=1e-5)
    for name, value in model.named_buffers():
        np.testing.assert_allclose(after[name], value, rtol=1e-5)
    model.eval()
    weights = jnp.stack([params["0.weight"]._read(), 2 * params["0.weight"]._read()])
    outs = jax.vmap(lambda w: call(model, {"0.weight": w}, x))(weights)
    np.testing.assert_allclose(outs[0], model(x), rtol=1e-5)
    with pytest.raises(errors.ReadInTransformError):
        jax.jit(lambda p: call(model, p, x))(params)
    np.testing.assert_allclose(jit(lambda w: call(model, {"0.weight": w}, x))(weights[1]), outs[1], rtol=1e-5)


def test_gradients_with_respect_to_the_own_parameters():
    layer = nn.Linear(2, 1)
    backward(lambda: call(layer, dict(layer.named_parameters()), jnp.ones((1, 2))).sum())
    np.testing.assert_array_equal(layer.weight.grad, [[1, 1]])
    untied = tied(OURS)
    gradient = jax.grad(lambda a: call(untied, {"a": a}, jnp.ones(1), tie_weights=False).sum())(jnp.ones(1))
    np.testing.assert_array_equal(gradient, [10])
