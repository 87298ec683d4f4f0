"""Vectors of parameters, fusion, modules without initial values, and what has no meaning here, against torch's."""

from __future__ import annotations

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from objnet import nn  # noqa: E402
from objnet.core import rng  # noqa: E402
from objnet.transforms.autodiff import value_and_grad  # noqa: E402
from objnet.transforms.jit import jit  # noqa: E402
from tests.nn.module_parity import converted  # noqa: E402
from tests.nn.two_worlds import OURS, THEIRS, same  # noqa: E402


def test_names_and_signatures():
    assert set(torch.nn.utils.__all__) <= set(nn.utils.__all__)
    for name in torch.nn.utils.__all__:
        ours, theirs = getattr(nn.utils, name), getattr(torch.nn.utils, name)
        if inspect.isfunction(theirs):
            assert [(p.name, p.kind, p.default) for p in inspect.signature(ours).parameters.values()] == [
                (p.name, p.kind, p.default) for p in inspect.signature(theirs).parameters.values()
            ]


def values(w):
    return (
        w.nn.Parameter(w.tensor([[1.0, 2.0], [3.0, 4.0]])),
        w.nn.Parameter(w.tensor([5.0, 6.0])),
        w.nn.Parameter(w.tensor([[[7.0]]])),
    )


@pytest.mark.parametrize(
    "action",
    [
        lambda w: w.nn.utils.parameters_to_vector(values(w)),
        lambda w: w.nn.utils.parameters_to_vector([w.ones(2), w.integers([1, 2])]),
        lambda w: w.nn.utils.parameters_to_vector([]),
        lambda w: w.nn.utils.parameters_to_vector([1.0]),
        lambda w: w.nn.utils.parameters_to_vector(values(w)[0]),
    ],
)
def test_parameters_to_vector(action):
    same(action)


@pytest.mark.parametrize(
    "vec",
    [
        lambda w: w.tensor([float(i) for i in range(7)]),
        lambda w: w.tensor([float(i) for i in range(9)]),
        lambda w: w.tensor([1.0, 2.0]),
        lambda w: w.integers(list(range(7))),
        lambda w: [1.0] * 7,
        lambda w: w.ones(7).astype("float16") if w is OURS else w.ones(7).half(),
    ],
)
def test_vector_to_parameters(vec):
    def run(w):
        parameters = values(w)
        w.nn.utils.vector_to_parameters(vec(w), parameters)
        return parameters, [str(p.dtype).removeprefix("torch.") for p in parameters]

    same(run)
    same(lambda w: w.nn.utils.vector_to_parameters(w.ones(2), [1.0]))


def test_vectors_inside_a_compiled_step():
    layer = nn.Linear(2, 2)

    @jit
    def double():
        nn.utils.vector_to_parameters(2 * nn.utils.parameters_to_vector(layer.parameters()), layer.parameters())

    before = np.asarray(nn.utils.parameters_to_vector(layer.parameters()))
    double()
    np.testing.assert_array_equal(nn.utils.parameters_to_vector(layer.parameters()), 2 * before)
    gradient = value_and_grad(lambda: (nn.utils.parameters_to_vector(layer.parameters()) ** 2).sum(), wrt=layer)()[1]
    np.testing.assert_allclose(gradient["bias"], 4 * before[4:], rtol=1e-6)


def statistics(bn):
    for p in bn.parameters():
        p.data.add_(0.5)
    if isinstance(bn, torch.nn.Module):
        bn.running_mean.copy_(torch.linspace(-1, 1, bn.num_features))
        bn.running_var.copy_(torch.linspace(0.5, 2, bn.num_features))
    else:
        bn.running_mean = jnp.linspace(-1, 1, bn.num_features)
        bn.running_var = jnp.linspace(0.5, 2, bn.num_features)
    return bn.eval()


@pytest.mark.parametrize(
    ("layer", "bn", "kwargs", "bias"),
    [
        (("Conv2d", 2, 3, 2), ("BatchNorm2d", 3), {}, True),
        (("Conv1d", 2, 3, 2), ("BatchNorm1d", 3, 1e-3, 0.1, False), {}, False),
        (("ConvTranspose1d", 2, 3, 2), ("BatchNorm1d", 3), {"transpose": True}, True),
        (("Linear", 2, 3), ("BatchNorm1d", 3), {}, False),
        (("Linear", 2, 3), ("BatchNorm1d", 1), {}, True),
    ],
)
def test_fusion(layer, bn, kwargs, bias):
    function = "fuse_linear_bn_eval" if layer[0] == "Linear" else "fuse_conv_bn_eval"

    def run(w):
        rng.manual_seed(1)
        torch.manual_seed(1)
        inner = getattr(w.nn, layer[0])(*layer[1:], bias=bias).eval()
        outer = statistics(getattr(w.nn, bn[0])(*bn[1:]))
        fused = getattr(w.nn.utils, function)(inner, outer, **kwargs)
        return fused, inner, outer

    (fused, *parts), (expected, *_) = run(OURS), run(THEIRS)
    for name, p in expected.named_parameters():
        ours = dict(fused.named_parameters())[name]
        np.testing.assert_allclose(ours, p.detach(), rtol=1e-5, atol=1e-6)
        assert ours.requires_grad == p.requires_grad
    assert [n for n, _ in fused.named_parameters()] == [n for n, _ in expected.named_parameters()]
    if bn[1] != 1:
        x = converted(torch.randn(2, 2, *[4] * (layer[0] != "Linear"), *[4] * (layer[0] == "Conv2d")))
        np.testing.assert_allclose(fused(x), parts[1](parts[0](x)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "action",
    [
        lambda w: w.nn.utils.fuse_conv_bn_eval(w.nn.Conv1d(1, 1, 1), w.nn.BatchNorm1d(1)),
        lambda w: w.nn.utils.fuse_conv_bn_eval(
            w.nn.Conv1d(1, 1, 1).eval(), w.nn.BatchNorm1d(1, track_running_stats=False).eval()
        ),
        lambda w: w.nn.utils.fuse_linear_bn_eval(w.nn.Linear(1, 3).eval(), w.nn.BatchNorm1d(2).eval()),
        lambda w: w.nn.utils.fuse_linear_bn_eval(w.nn.Linear(1, 3).eval(), w.nn.BatchNorm1d(3, affine=False).eval()),
        lambda w: w.nn.utils.fuse_linear_bn_eval(w.nn.Linear(1, 3), w.nn.BatchNorm1d(3)),
        lambda w: w.nn.utils.skip_init(w.nn.ReLU),
        lambda w: w.nn.utils.skip_init(int),
        lambda w: w.nn.utils.skip_init(3),
        lambda w: w.nn.utils.skip_init(w.nn.Linear, 2, 2, device="nowhere"),
        lambda w: w.nn.utils.skip_init(w.nn.Linear, 2),
    ],
)
def test_bad_input(action):
    same(action)


def test_half_precision_is_kept():
    fused = nn.utils.fuse_conv_bn_eval(nn.Conv1d(1, 2, 1).half().eval(), nn.BatchNorm1d(2).eval())
    assert fused.weight.dtype == fused.bias.dtype == jnp.float16


def test_skip_init_draws_nothing():
    rng.manual_seed(0)
    before = rng.default_generator.get_state()
    layer = nn.utils.skip_init(nn.LSTM, 2, hidden_size=3, num_layers=2, device="cpu")
    np.testing.assert_array_equal(rng.default_generator.get_state(), before)
    assert [tuple(p.shape) for p in layer.parameters()] == [tuple(p.shape) for p in nn.LSTM(2, 3, 2).parameters()]
    assert all(isinstance(p._value, jax.Array) for p in layer.parameters())
    assert float(jnp.abs(jnp.asarray(nn.Linear(2, 2).weight)).sum()) > 0


def test_memory_formats_are_refused():
    for name in ("convert_conv2d_weight_memory_format", "convert_conv3d_weight_memory_format"):
        with pytest.raises(NotImplementedError, match="memory format"):
            getattr(nn.utils, name)(nn.Conv2d(1, 1, 1), None)


def test_the_old_name_of_clip_grad_norm_():
    p = nn.Parameter(jnp.asarray([3.0, 4.0]))
    p.grad = p.data
    with pytest.warns(FutureWarning, match="clip_grad_norm_"):
        total = nn.utils.clip_grad_norm([p], 1.0)
    assert float(total) == 5
    np.testing.assert_allclose(p.grad, [0.6, 0.8], rtol=1e-5)
