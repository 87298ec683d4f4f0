"""``nn.utils.weight_norm`` and ``spectral_norm`` against torch's: keys, values, gradients, removal, older state dicts."""

from __future__ import annotations

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from objnet import nn  # noqa: E402
from objnet.core import rng  # noqa: E402
from objnet.transforms.autodiff import value_and_grad  # noqa: E402
from objnet.transforms.jit import jit  # noqa: E402
from objnet.transforms.pure import transform_with_state  # noqa: E402
from tests.nn.module_parity import Pair, check_state, converted  # noqa: E402
from tests.nn.two_worlds import same  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


def build(function, layer, *args, **kwargs):
    rng.manual_seed(3)
    torch.manual_seed(3)
    return Pair(
        getattr(nn.utils, function)(getattr(nn, layer[0])(*layer[1:]), *args, **kwargs),
        getattr(torch.nn.utils, function)(getattr(torch.nn, layer[0])(*layer[1:]), *args, **kwargs),
    )


@pytest.mark.parametrize(
    ("function", "layer", "kwargs"),
    [
        ("weight_norm", ("Linear", 3, 4), {}),
        ("weight_norm", ("Conv1d", 3, 4, 2), {"dim": None}),
        ("spectral_norm", ("Linear", 3, 4), {"n_power_iterations": 2, "eps": 1e-3}),
        ("spectral_norm", ("ConvTranspose1d", 3, 4, 2), {}),
    ],
)
def test_training_and_removal(function, layer, kwargs):
    pair = build(function, layer, **kwargs)
    assert repr(pair.ours) == repr(pair.theirs)
    check_state(pair, **TOLERANCE)
    np.testing.assert_allclose(pair.ours.weight, pair.theirs.weight.detach(), **TOLERANCE)
    x = torch.randn(2, layer[1], *([5] if layer[0] != "Linear" else []))
    step = jit(value_and_grad(lambda x: (pair.ours(x) ** 2).sum(), argnums=(), wrt=pair.ours))
    for _ in range(2):
        pair.theirs.zero_grad()
        (pair.theirs(x) ** 2).sum().backward()
        _, (_, gradients) = step(converted(x))
        for name, p in pair.theirs.named_parameters():
            np.testing.assert_allclose(gradients[name], p.grad, rtol=1e-4, atol=1e-4)
    check_state(pair, **TOLERANCE)
    pair.ours.eval()
    pair.theirs.eval()
    np.testing.assert_allclose(copy.deepcopy(pair.ours)(converted(x)), pair.theirs(x).detach(), rtol=1e-4, atol=1e-4)
    check_state(pair, **TOLERANCE)
    getattr(nn.utils, f"remove_{function}")(pair.ours)
    getattr(torch.nn.utils, f"remove_{function}")(pair.theirs)
    check_state(pair, **TOLERANCE)
    assert isinstance(pair.ours.weight, nn.Parameter)
    for kind in ("_forward_pre_hooks", "_state_dict_hooks", "_load_state_dict_pre_hooks"):
        assert not getattr(pair.ours, kind)


@pytest.mark.parametrize(
    "action",
    [
        lambda w: w.nn.utils.weight_norm(w.nn.utils.weight_norm(w.nn.Linear(2, 2))),
        lambda w: w.nn.utils.weight_norm(w.nn.Linear(2, 2), "nothing"),
        lambda w: w.nn.utils.weight_norm(w.nn.Linear(2, 2, bias=False), "bias"),
        lambda w: w.nn.utils.weight_norm(w.nn.Linear(2, 2), dim=2),
        lambda w: w.nn.utils.remove_weight_norm(w.nn.Linear(2, 2)),
        lambda w: w.nn.utils.spectral_norm(w.nn.utils.spectral_norm(w.nn.Linear(2, 2))),
        lambda w: w.nn.utils.spectral_norm(w.nn.Linear(2, 2), "nothing"),
        lambda w: w.nn.utils.spectral_norm(w.nn.Linear(2, 2, bias=False), "bias"),
        lambda w: w.nn.utils.spectral_norm(w.nn.Linear(2, 2), n_power_iterations=0),
        lambda w: w.nn.utils.spectral_norm(w.nn.Linear(2, 2), dim=2),
        lambda w: w.nn.utils.remove_spectral_norm(w.nn.Linear(2, 2), "bias"),
    ],
)
def test_bad_input(action):
    same(action)


def test_weight_norm_warns():
    with pytest.warns(FutureWarning, match="parametrizations"):
        nn.utils.weight_norm(nn.Linear(1, 1))


def test_a_state_dict_of_before_versions():
    pair = build("spectral_norm", ("Linear", 3, 4))
    old = dict(pair.theirs.state_dict())
    del old["weight_v"]
    old["weight"] = old["weight_orig"] / 2
    for module in pair:
        module.load_state_dict(dict(old))
    np.testing.assert_allclose(pair.ours.weight_v, pair.theirs.weight_v, rtol=1e-3, atol=1e-4)
    broken = {k: v for k, v in old.items() if k != "weight_u"}
    same(lambda w: (pair.ours if w.nn is nn else pair.theirs).load_state_dict(dict(broken)))
    pair.ours.load_state_dict(dict(pair.theirs.state_dict()))  # of now, its metadata lost


def test_the_pure_form():
    function = "spectral_norm"
    x = jnp.ones((2, 3))
    layer = getattr(nn.utils, function)(nn.Linear(3, 4))
    net = transform_with_state(layer)
    params, state = net.init(None)
    built = transform_with_state(lambda x: getattr(nn.utils, function)(nn.Linear(3, 4))(x))
    held = built.init(jax.random.key(0), x)
    assert jax.tree.structure(held) == jax.tree.structure(({"linear": params["~"]}, {"linear": state["~"]}))
    expected = layer(x)
    for apply, *given in ((net.apply, params, state), (built.apply, {"linear": params["~"]}, {"linear": state["~"]})):
        out, after = jax.jit(apply)(*given, None, x)
        np.testing.assert_allclose(out, expected, **TOLERANCE)
        for name, value in layer.named_buffers():
            np.testing.assert_allclose(next(iter(after.values()))[name], value, **TOLERANCE)
