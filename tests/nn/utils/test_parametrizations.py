"""Weight, spectral and orthogonal parametrizations against torch's: initial state, gradients, state after steps."""

from __future__ import annotations

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.utils.parametrizations as theirs  # noqa: E402

from objnet import nn  # noqa: E402
from objnet.core import rng  # noqa: E402
from objnet.nn.utils import parametrizations as ours  # noqa: E402
from objnet.transforms.autodiff import value_and_grad  # noqa: E402
from objnet.transforms.jit import jit  # noqa: E402
from objnet.transforms.pure import transform_with_state  # noqa: E402
from tests.nn.module_parity import Pair, check_state, converted  # noqa: E402
from tests.nn.parity import assert_same_error  # noqa: E402
from tests.nn.two_worlds import OURS, THEIRS, same  # noqa: E402

INPUTS = {"Linear": (2,), "Conv1d": (2, None, 5), "Conv2d": (1, None, 4, 4), "ConvTranspose1d": (2, None, 4)}


def build(function, layer, *args, **kwargs):
    """Both modules from one seed, and that they use up the same random numbers."""
    rng.manual_seed(3)
    torch.manual_seed(3)
    pair = Pair(
        getattr(ours, function)(getattr(nn, layer[0])(*layer[1:]), *args, **kwargs),
        getattr(theirs, function)(getattr(torch.nn, layer[0])(*layer[1:]), *args, **kwargs),
    )
    np.testing.assert_array_equal(rng.default_generator.get_state(), torch.get_rng_state().numpy())
    return pair


def check(function, layer, *args, compiled=True, **kwargs):
    pair = build(function, layer, *args, **kwargs)
    assert repr(pair.ours) == repr(pair.theirs)
    check_state(pair, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(pair.ours.weight, pair.theirs.weight.detach(), rtol=1e-4, atol=1e-5)
    check_state(pair, rtol=1e-4, atol=1e-5)  # after one more read
    for p in pair.theirs.parameters():
        p.data.add_(0.1 * torch.randn_like(p))
    pair.ours.load_state_dict(pair.theirs.state_dict())
    size = [layer[1] if n is None else n for n in INPUTS[layer[0]]] + ([layer[1]] if layer[0] == "Linear" else [])
    step = value_and_grad(lambda x: (pair.ours(x) ** 2).sum(), argnums=(), wrt=pair.ours)
    step = jit(step) if compiled else step
    for _ in range(2):
        x = torch.randn(*size)
        pair.theirs.zero_grad()
        (pair.theirs(x) ** 2).sum().backward()
        _, (_, gradients) = step(converted(x))
        for name, p in pair.theirs.named_parameters():
            assert (gradients[name] is None) == (p.grad is None)
            if p.grad is not None:
                np.testing.assert_allclose(gradients[name], p.grad, rtol=1e-4, atol=1e-4)
    check_state(pair, rtol=1e-4, atol=1e-5)
    pair.ours.eval()
    pair.theirs.eval()
    np.testing.assert_allclose(pair.ours(converted(x)), pair.theirs(x).detach(), rtol=1e-4, atol=1e-5)
    check_state(pair, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "kwargs"),
    [
        (("Linear", 3, 4), {}),
        (("Linear", 3, 4), {"dim": None}),
        (("Conv1d", 3, 4, 2), {"dim": -2}),
        (("Linear", 3, 4), {"name": "bias"}),
    ],
)
def test_weight_norm(layer, kwargs):
    check("weight_norm", layer, **kwargs)


@pytest.mark.parametrize(
    ("layer", "kwargs"),
    [
        (("Linear", 3, 4), {}),
        (("Conv2d", 3, 4, 2), {"n_power_iterations": 3, "eps": 1e-3, "dim": -1}),
        (("Linear", 3, 4), {"name": "bias", "n_power_iterations": 6}),
    ],
)
def test_spectral_norm(layer, kwargs):
    check("spectral_norm", layer, **kwargs)


@pytest.mark.parametrize(
    ("sizes", "kind", "trivialized"),
    [
        ((4, 4), None, True),
        ((5, 3), "cayley", True),
        ((3, 5), None, True),
        ((5, 3), "householder", False),
    ],
)
def test_orthogonal(sizes, kind, trivialized):
    check("orthogonal", ("Linear", *sizes), orthogonal_map=kind, use_trivialization=trivialized)


def test_orthogonal_batches():
    check("orthogonal", ("Conv1d", 2, 2, 3), orthogonal_map="householder", use_trivialization=False)


def test_an_orthogonal_weight_is_kept_and_assigned():
    def run(w, world):
        layer = w.nn.Linear(3, 3)
        layer.weight.data.copy_(w.tensor([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]]))
        world.orthogonal(layer)
        first = layer.weight
        layer.weight = w.tensor([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])
        return [np.round(np.asarray(v.detach() if w is THEIRS else v), 4).tolist() for v in (first, layer.weight)]

    assert run(OURS, ours) == run(THEIRS, theirs)


@pytest.mark.parametrize(
    "action",
    [
        lambda w, u: u.orthogonal(w.nn.Linear(2, 2), "nothing"),
        lambda w, u: u.orthogonal(w.nn.Linear(2, 2), "bias"),
        lambda w, u: u.orthogonal(w.nn.Linear(2, 2), orthogonal_map="other"),
        lambda w, u: setattr(u.orthogonal(w.nn.Linear(2, 2), use_trivialization=False), "weight", w.ones(2, 2)),
        lambda w, u: setattr(u.orthogonal(w.nn.Linear(2, 2)), "weight", w.ones(3, 2)),
        lambda w, u: u.spectral_norm(w.nn.Linear(2, 2), "nothing"),
        lambda w, u: u.spectral_norm(w.nn.Linear(2, 2), dim=2),
        lambda w, u: u.spectral_norm(w.nn.Linear(2, 2), n_power_iterations=0),
        lambda w, u: u.weight_norm(w.nn.Linear(2, 2), "nothing"),
        lambda w, u: u.weight_norm(w.nn.Linear(2, 2), dim=2),
        lambda w, u: u.spectral_norm(w.nn.Linear(2, 2, bias=False), "bias"),
    ],
)
def test_bad_input(action):
    assert_same_error(lambda: action(OURS, ours), lambda: action(THEIRS, theirs))


def test_complex_weights():
    rng.manual_seed(0)
    layer = nn.Linear(3, 3)
    layer._parameters["weight"].data = jnp.asarray(np.random.RandomState(0).randn(3, 3, 2) @ [1, 1j], jnp.complex64)
    weight = ours.orthogonal(layer).weight
    np.testing.assert_allclose(jnp.conj(weight.T) @ weight, np.eye(3), atol=1e-5)
    with pytest.raises(ValueError, match="complex"):
        ours.orthogonal(_with(layer.weight), "weight", "householder")


def _with(weight):
    module = nn.Module()
    module.weight = nn.Parameter(weight)
    return module


def test_state_dicts_of_the_older_weight_norm():
    with pytest.warns(FutureWarning):
        old = torch.nn.utils.weight_norm(torch.nn.Linear(3, 4))
    new = nn.Sequential(ours.weight_norm(nn.Linear(3, 4)))
    new.load_state_dict({f"0.{k}": v for k, v in old.state_dict().items()})
    np.testing.assert_allclose(new[0].weight, old.weight.detach(), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(dtype):
    def run(w):
        layer = w.nn.Linear(8, 4)
        for p in layer.parameters():
            p.data.copy_(w.tensor(np.linspace(-1, 1, p.numel()).reshape(tuple(p.shape)).tolist()))
        layer = (ours if w is OURS else theirs).weight_norm(layer.to(w.dtype(dtype)))
        return [
            np.asarray((v if w is OURS else v.detach().float()), np.float32)
            for v in (layer.weight, layer.parametrizations.weight.original0)
        ]

    for got, wanted in zip(run(OURS), run(THEIRS), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-2)


@pytest.mark.parametrize("function", ["weight_norm", "spectral_norm"])
def test_pure_forms(function):
    """A live model and a function that builds one, in training mode, compiled and batched by plain jax."""
    x = jnp.ones((2, 3))
    model = nn.Sequential(getattr(ours, function)(nn.Linear(3, 4)))
    net = transform_with_state(model)
    params, state = net.init(None)
    gradient, after = jax.jit(jax.grad(lambda p: _loss(net, p, state, x), has_aux=True))(params)
    expected = jit(value_and_grad(lambda: (model(x) ** 2).sum(), wrt=model))()[1]
    paths = {f"{path}.{name}": g for path, entries in gradient.items() for name, g in entries.items()}
    for name, value in expected.items():
        np.testing.assert_allclose(paths[name], value, rtol=1e-4, atol=1e-5)
    for name, value in model.named_buffers():
        np.testing.assert_allclose(after[name.rpartition(".")[0]][name.rpartition(".")[2]], value, rtol=1e-4, atol=1e-6)
    built = transform_with_state(lambda x: getattr(ours, function)(nn.Linear(3, 4))(x))
    held = built.init(jax.random.key(0), x)
    top = "parametrized_linear"
    moved = (
        {path.replace("0", top, 1): entries for path, entries in params.items()},
        {path.replace("0", top, 1): entries for path, entries in state.items()},
    )
    assert jax.tree.structure(held) == jax.tree.structure(moved)
    same_gradient, _ = jax.jit(jax.grad(lambda p: _loss(built, p, moved[1], x), has_aux=True))(moved[0])
    for (_, got), (_, wanted) in zip(sorted(same_gradient.items()), sorted(gradient.items()), strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, wanted)


def _loss(net, params, state, x):
    out, after = net.apply(params, state, None, x)
    return (out**2).sum(), after


def test_signatures():
    for name in theirs.__all__:
        ours_, theirs_ = (inspect.signature(getattr(m, name)).parameters.values() for m in (ours, theirs))
        assert [(p.name, p.kind, p.default) for p in ours_] == [(p.name, p.kind, p.default) for p in theirs_]
    assert same(lambda w: sorted((ours if w is OURS else theirs).__all__))
