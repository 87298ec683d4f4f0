"""Layers of Haiku's that torch lacks, against dm-haiku on the same weights."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import objnet.nn.functional as F
from objnet import nn
from objnet.transforms.autodiff import value_and_grad
from objnet.transforms.jit import jit
from objnet.transforms.pure import transform_with_state


def normal(*shape, seed=0):
    return jnp.asarray(np.random.RandomState(seed).randn(*shape), "float32")


def close(ours, theirs):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), ours, theirs)


def compiled(function, **options):
    """A function of Haiku's, which mixes dtypes."""
    run = jax.jit(function, **options)

    def call(*args):
        with jax.numpy_dtype_promotion("standard"):
            return run(*args)

    return call


def channels_last(x):
    return jnp.moveaxis(x, 1, -1)


# ------------------------------------------------------------------------------------------------ depthwise convolutions


def load(conv, params):
    """Haiku's (*kernel, 1, channels) weights."""
    state = {"weight": np.moveaxis(np.asarray(params["w"]), (-1, -2), (0, 1))}
    conv.load_state_dict(state | ({"bias": params["b"]} if "b" in params else {}))


@pytest.mark.parametrize(("rank", "options"), [(1, {"stride": 2}), (2, {"dilation": 2, "bias": False}), (3, {"padding": "same"})])
def test_depthwise_convolutions(rank, options):
    hk = pytest.importorskip("haiku")
    x = normal(2, 3, *(6, 5, 4)[:rank])
    names = {"dilation": "rate", "bias": "with_bias"}
    theirs = {"padding": "VALID", **{names.get(k, k): v.upper() if isinstance(v, str) else v for k, v in options.items()}}
    net = hk.without_apply_rng(hk.transform(lambda x: getattr(hk, f"DepthwiseConv{rank}D")(2, 2, **theirs)(x)))
    params = jax.eval_shape(net.init, jax.random.key(0), channels_last(x))
    params = jax.tree.map(lambda p: normal(*p.shape, seed=p.ndim), params)
    layer = getattr(nn, f"DepthwiseConv{rank}d")(3, 2, 2, **options)
    load(layer, *params.values())
    close(channels_last(jit(layer)(x)), jax.jit(net.apply)(params, channels_last(x)))
    assert layer.channel_multiplier == 2
    assert layer.out_channels == 6


@pytest.mark.parametrize(("stride", "padding"), [(1, "same"), (2, "valid")])
def test_separable_convolution(stride, padding):
    hk = pytest.importorskip("haiku")
    x = normal(2, 3, 6, 5)
    net = hk.without_apply_rng(
        hk.transform(lambda x: hk.SeparableDepthwiseConv2D(2, (3, 2), stride=stride, padding=padding.upper())(x))
    )
    params = jax.eval_shape(net.init, jax.random.key(0), channels_last(x))
    params = jax.tree.map(lambda p: normal(*p.shape, seed=p.ndim), params)
    layer = nn.SeparableDepthwiseConv2d(3, 2, (3, 2), stride=stride, padding=padding)
    for conv, values in zip(layer, params.values()):
        load(conv, values)
    close(channels_last(jit(layer)(x)), jax.jit(net.apply)(params, channels_last(x)))
    assert list(layer.state_dict()) == ["0.weight", "1.weight", "1.bias"]


def test_a_separable_kernel_is_an_outer_product():
    x, layer = normal(2, 3, 6, 5), nn.SeparableDepthwiseConv2d(3, 2, 3, padding=(2, 1))
    kernel = layer[0].weight * layer[1].weight
    close(layer(x), F.conv2d(x, kernel, layer[1].bias, padding=(2, 1), groups=3))


# ------------------------------------------------------------------------------------------------------ changes of shape


@pytest.mark.parametrize("dims", [None, (), (1,), (-1,), (2, 3), (1, -1)])
def test_bias(dims):
    hk = pytest.importorskip("haiku")
    x = normal(2, 3, 4, 5)
    net = hk.without_apply_rng(hk.transform(lambda x: hk.Bias(bias_dims=dims)(x, multiplier=-2.0)))
    params = net.init(None, x)
    layer = nn.Bias((3, 4, 5), dims)
    (entries,) = params.values()
    assert layer.bias.shape == entries["b"].shape
    assert (layer.bias.value == 0).all()
    layer.bias.data = normal(*layer.bias.shape)
    close(layer(x, multiplier=-2.0), net.apply({name: {"b": layer.bias.value} for name in params}, x))
    close(layer(layer(x), -1), x)


def test_bias_of_any_size():
    layer = nn.Bias((3, None, None), bias_dims=[1])
    layer.bias.data = jnp.arange(3.0).reshape(3, 1, 1)
    for size in (2, 5):
        close(layer(jnp.zeros((2, 3, size, 1)))[1, :, 0, 0], jnp.arange(3.0))
    assert repr(layer) == "Bias(output_size=(3, None, None), bias_dims=(1,))"


@pytest.mark.parametrize(("shape", "kept"), [((-1, 5), 1), ((-1, 5), 2), ((-1, 5), -2), ((12, 5), 1), ((1, -1), 3), ((7,), 4)])
def test_reshape(shape, kept):
    hk = pytest.importorskip("haiku")
    x = normal(2, 3, 4, 5)
    net = hk.without_apply_rng(hk.transform(lambda x: hk.Reshape(shape, kept)(x)))
    np.testing.assert_array_equal(nn.Reshape(shape, kept)(x), net.apply({}, x))


def test_batch_apply_and_expand_apply():
    hk = pytest.importorskip("haiku")
    x, y = normal(2, 3, 4), normal(4, seed=1)
    layer = nn.BatchApply(nn.Linear(4, 5))
    assert list(layer.state_dict()) == ["module.weight", "module.bias"]
    close(jit(layer)(x), layer.module(x))

    def outer(tree, y):
        return {"sum": tree["x"] + y, "first": tree["x"][:, 0]}

    close(nn.BatchApply(outer)({"x": x}, y), hk.BatchApply(outer)({"x": x}, y))
    close(nn.BatchApply(lambda x: x[::-1], 3)(x), x[::-1, ::-1, ::-1])
    assert nn.BatchApply(outer)({"x": x[:0]}, y)["sum"].shape == (0, 3, 4)
    lstm = nn.LSTM(4, 5)
    for dim in (0, -1):
        f = (lambda x: lstm(x)[0]) if dim == 0 else (lambda x: jnp.cumsum(x, 0))
        close(nn.expand_apply(f, dim)(x[0]), hk.expand_apply(f, dim)(x[0]))
    assert repr(nn.BatchApply(outer)) == "BatchApply(outer, num_dims=2)"


# ----------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        (lambda: nn.Bias((3, 4), [0]), ValueError, "got 0"),
        (lambda: nn.Bias((3, 4), [3]), ValueError, "got 3"),
        (lambda: nn.Bias((3, None), [2]), ValueError, "dimension 2"),
        (lambda: nn.Bias((3, 4))(jnp.ones((2, 4, 3))), ValueError, r"\(N, 3, 4\)"),
        (lambda: nn.Bias((1, 4))(jnp.ones((2, 3, 4))), ValueError, r"\(N, 1, 4\)"),
        (lambda: nn.Bias(())(jnp.ones(())), ValueError, "scalar"),
        (lambda: nn.Reshape((3,), 0), ValueError, "zero"),
        (lambda: nn.Reshape((-1, -1)), ValueError, "-1 once"),
        (lambda: nn.Reshape((3, -1))(jnp.ones((2, 4))), RuntimeError, "multiply to 4"),
        (lambda: nn.Reshape((0, -1))(jnp.ones((2, 4))), RuntimeError, "multiply to 4"),
        (lambda: nn.Reshape((4,), -3)(jnp.ones((2, 4))), RuntimeError, "3 trailing"),
        (lambda: nn.BatchApply(F.relu, 0), ValueError, "num_dims"),
        (lambda: nn.BatchApply(F.relu)(jnp.ones(3)), ValueError, "no array"),
        (lambda: nn.BatchApply(jnp.add)(jnp.ones((2, 3)), jnp.ones((3, 2))), ValueError, r"\(2, 3\), \(3, 2\)"),
        (lambda: nn.BatchApply(jnp.sum)(jnp.ones((2, 3))), RuntimeError, "leading dimension 6"),
        (lambda: nn.expand_apply(F.relu, 1), ValueError, "dim 0 or -1"),
        (lambda: nn.expand_apply(lambda x: jnp.concatenate([x, x]))(jnp.ones(3)), ValueError, "size"),
        (lambda: nn.ExponentialMovingAverage(3, 1.0), ValueError, "decay"),
        (lambda: nn.ExponentialMovingAverage(3, 0.9, warmup_length=2), ValueError, "zero_debias"),
        (lambda: nn.ExponentialMovingAverage(3, 0.9, False, -1), ValueError, "warmup_length"),
        (lambda: nn.ExponentialMovingAverage(3, 0.9)(jnp.ones(2)), RuntimeError, r"shape \(3,\)"),
        (lambda: nn.ExponentialMovingAverage(3, 0.9)(jnp.ones(3, jnp.int32)), RuntimeError, "int32"),
        (lambda: nn.EMAModel(nn.Linear(2, 2), 0.9).update_parameters(nn.Linear(2, 2, bias=False)), ValueError, "bias"),
        (lambda: nn.EMAModel(nn.Linear(2, 2), 0.9).update_parameters(nn.Linear(3, 2)), RuntimeError, "weight"),
        (lambda: nn.VectorQuantizer(0, 3), ValueError, "num_embeddings=0"),
        (lambda: nn.VectorQuantizer(4, 3)(jnp.ones((2, 4))), RuntimeError, "vectors of 3"),
        (lambda: nn.VectorQuantizer(4, 3)(jnp.ones(3)), IndexError, "dim 1"),
        (lambda: nn.VectorQuantizer(4, 3)(jnp.ones((2, 3), jnp.float16)), RuntimeError, "float16"),
        (lambda: nn.VectorQuantizerEMA(4, 3, decay=1.5), ValueError, "decay"),
    ],
)  # fmt: skip
def test_refused(run, error, message):
    with pytest.raises(error, match=message):
        run()


# ----------------------------------------------------------------------------------------------------- moving averages

EMA_OPTIONS = [(0.9, True, 0), (0.99, False, 0), (0.5, False, 2), (0.0, True, 0)]


@pytest.mark.parametrize("options", EMA_OPTIONS)
def test_moving_average(options):
    hk = pytest.importorskip("haiku")
    net = hk.transform_with_state(lambda x, update: hk.ExponentialMovingAverage(*options)(x, update))
    layer = nn.ExponentialMovingAverage((2, 3), *options)
    run = jit(layer)
    values = [normal(2, 3, seed=seed) for seed in range(4)]
    _, state = net.init(None, values[0], False)
    for step, value in enumerate(values):
        layer.train(step != 2)
        average, state = net.apply({}, state, None, value, step != 2)
        close(run(value), average)
        ((_, entries),) = state.items()
        close((layer.average, layer.counter), (entries["average"], entries["counter"]))
    gradient = value_and_grad(lambda x: jnp.sum(layer.eval()(x)), argnums=0)(values[0])[1]
    close(gradient, jax.grad(lambda x: jnp.sum(net.apply({}, state, None, x, False)[0]))(values[0]))


def test_moving_average_of_double_precision():
    with jax.enable_x64(True):
        layer = nn.ExponentialMovingAverage(2, 0.9, dtype="float64")
        for value in (1.0, 2.0):
            average = layer(jnp.full(2, value, jnp.float64))
        np.testing.assert_allclose(average, (0.9 * 0.1 * 1 + 0.1 * 2) / (1 - 0.9**2), rtol=1e-14)


def test_moving_average_of_half_precision():
    layer = nn.ExponentialMovingAverage((), 0.5, dtype="bfloat16")
    assert layer(jnp.asarray(3, jnp.bfloat16)).dtype == layer.average.dtype == jnp.bfloat16
    assert layer.average == 3
    assert repr(layer) == "ExponentialMovingAverage(decay=0.5, zero_debias=True)"


@pytest.mark.parametrize("options", [o for o in EMA_OPTIONS if o[1] or o[2]])
def test_averaged_model(options):
    hk = pytest.importorskip("haiku")
    net = hk.transform_with_state(lambda tree: hk.EMAParamsTree(*options, ignore_regex=".*bias")(tree))
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    average = nn.EMAModel(model, *options, ignore_regex=".*bias")
    state = None

    @jit
    def update(x):
        for parameter in model.parameters():
            parameter.value = jnp.cos(parameter.value * 3)
        model(x)
        average.update_parameters(model)

    def named(model):
        return {name.replace(".", "_"): parameter.value for name, parameter in model.named_parameters()}

    average_of = compiled(net.apply)
    for step in range(4):
        if step == 1:  # eagerly, in between
            model.train()(normal(5, 3, seed=9))
            average.update_parameters(model)
        else:
            update(normal(5, 3, seed=step))
        tree = {"net": named(model)}
        state = net.init(None, tree)[1] if state is None else state
        wanted, state = average_of({}, state, None, tree)
        close(named(average.module), wanted["net"])
        close(dict(average.module.named_buffers()), dict(model.named_buffers()))
    assert not any(p.requires_grad for p in average.parameters())
    assert list(average.state_dict()) == ["counter", *(f"module.{key}" for key in model.state_dict())]
    x = normal(5, 3)
    close(average.eval()(x), average.module(x))


def test_average_without_debiasing_begins_with_the_model():
    model = nn.Linear(2, 2)
    average, first = nn.EMAModel(model, 0.75, zero_debias=False), model.weight.value
    model.weight.data = first + 4
    average.update_parameters(model)
    close(average.module.weight.value, first + 1)
    model.weight.data = first
    close(average.module.weight.value, first + 1)


# -------------------------------------------------------------------------------------------------- vector quantization


@pytest.mark.parametrize("dim", [1, -1])
def test_vector_quantizer(dim):
    hk = pytest.importorskip("haiku")
    net = hk.without_apply_rng(hk.transform(lambda x: hk.nets.VectorQuantizer(3, 6, 0.3)(x, True)))
    layer = nn.VectorQuantizer(6, 3, 0.3, dim=dim)
    assert float(jnp.abs(layer.weight.value).max()) <= 1
    x = normal(2, 3, 4, 5) if dim == 1 else normal(2, 4, 3)
    last = channels_last(x) if dim == 1 else x
    params = {"vector_quantizer": {"embeddings": layer.weight.value.T}}
    ours, theirs = jit(layer)(x), jax.jit(net.apply)(params, last)
    close({k: v for k, v in ours._asdict().items() if k != "quantize"}, {k: v for k, v in theirs.items() if k != "quantize"})
    close(jnp.moveaxis(ours.quantize, dim, -1), theirs["quantize"])
    close(layer.quantize(ours.encoding_indices), ours.quantize)

    def objective(result):
        return result["loss"] + jnp.sum(jnp.cos(result["quantize"])) + 0.01 * jnp.sum(jnp.sin(result["distances"]))

    (_, (by_x, by_weight)) = jit(value_and_grad(lambda x: objective(layer(x)._asdict()), argnums=0, wrt=layer))(x)
    expected = jax.jit(jax.grad(lambda params, x: objective(net.apply(params, x)), (0, 1)))(params, last)
    close(by_weight["weight"].T, expected[0]["vector_quantizer"]["embeddings"])
    close(jnp.moveaxis(by_x, dim, -1), expected[1])


@pytest.mark.slow
def test_vector_quantizer_by_averages():
    hk = pytest.importorskip("haiku")
    net = hk.transform_with_state(lambda x, training: hk.nets.VectorQuantizerEMA(3, 6, 0.3, 0.9)(x, training))
    layer = nn.VectorQuantizerEMA(6, 3, 0.3, 0.9)
    x = normal(2, 3, 4)
    _, state = net.init(jax.random.key(0), channels_last(x), True)
    state["vector_quantizer_ema"]["embeddings"] = layer.weight.T
    run, apply = jit(layer), compiled(net.apply, static_argnums=4)
    for step in range(3):
        x = normal(2, 3, 4, seed=step)
        layer.train(step != 1)
        ours, (theirs, state) = run(x), apply({}, state, None, channels_last(x), step != 1)
        close(ours._asdict() | {"quantize": channels_last(ours.quantize)}, theirs)
        close(layer.weight.T, state["vector_quantizer_ema"]["embeddings"])
        prefix = "vector_quantizer_ema/~/"
        close(layer.ema_cluster_size.average, state[f"{prefix}ema_cluster_size"]["average"])
        close(layer.ema_dw.average.T, state[f"{prefix}ema_dw"]["average"])
    gradient = value_and_grad(lambda x: jnp.sum(layer(x).quantize * 2) + layer(x).loss, argnums=0)(x)[1]
    assert gradient.shape == x.shape
    assert list(layer.state_dict()) == [
        "weight", "ema_cluster_size.counter", "ema_cluster_size.average", "ema_dw.counter", "ema_dw.average",
    ]  # fmt: skip
    assert not list(layer.parameters())
    layer.reset_parameters()
    assert layer.ema_dw.counter == 0
    assert repr(layer).startswith("VectorQuantizerEMA(\n  6, 3, commitment_cost=0.3, decay=0.9, epsilon=1e-05\n")


def test_quantizers_over_mapped_axes():
    layer = nn.VectorQuantizerEMA(4, 3, axis_name="rows").eval()
    whole = nn.VectorQuantizerEMA(4, 3).eval()
    whole.load_state_dict(layer.state_dict())
    x = normal(6, 3)

    def of(layer, training):
        net = transform_with_state(layer.train(training))
        return net, net.init(None)

    net, entries = of(layer, True)
    rows = jax.vmap(lambda x: net.apply(*entries, None, x), axis_name="rows", out_axes=(0, None))
    outs, state = jax.jit(rows)(x.reshape(2, 3, 3))
    net, entries = of(whole, True)
    out, wanted = jax.jit(net.apply)(*entries, None, x)
    close(outs.perplexity, jnp.stack([out.perplexity] * 2))
    close(state, wanted)
