"""Networks of Haiku's that torchvision lacks: MobileNetV1 with the same weights, ResNet-200 by its size."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from objnet import models, nn
from objnet.transforms.autodiff import value_and_grad
from objnet.transforms.jit import jit

SETTING = ((6, 1), (4, 2))


def arrays_of(hk_params, hk_state):
    """Haiku's arrays under our keys: a convolution, then blocks of two, each followed by a normalisation if there is one."""
    root = "mobile_net_v1/~/" if any("/~/" in path for path in hk_params) else "mobile_net_v1/"
    blocks = [f"{root}mobile_net_v1_block{suffix}" for suffix in ("", "_1")]
    pairs = [(f"{root}conv2_d", f"{root}batch_norm", "features.0")]
    for index, block in enumerate(blocks, 1):
        pairs.append((f"{block}/depthwise_conv", f"{block}/batch_norm", f"features.{index}.0"))
        pairs.append((f"{block}/pointwise_conv", f"{block}/batch_norm_1", f"features.{index}.1"))
    arrays = {}
    for conv, norm, ours in pairs:
        arrays[f"{ours}.0.weight"] = jnp.moveaxis(hk_params[conv]["w"], (-1, -2), (0, 1))
        if norm not in hk_params:
            arrays[f"{ours}.0.bias"] = hk_params[conv]["b"]
            continue
        arrays[f"{ours}.1.weight"] = hk_params[norm]["scale"].reshape(-1)
        arrays[f"{ours}.1.bias"] = hk_params[norm]["offset"].reshape(-1)
        for name in ("mean", "var"):
            arrays[f"{ours}.1.running_{name}"] = hk_state[f"{norm}/~/{name}_ema"]["average"].reshape(-1)
    logits = hk_params[f"{root}logits"]
    return arrays | {"classifier.weight": logits["w"].T, "classifier.bias": logits["b"]}


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.slow
def test_equals_haikus(norm):
    hk = pytest.importorskip("haiku")
    channels, strides = zip(*SETTING)

    def network(x, training):
        with jax.numpy_dtype_promotion("standard"):  # the averages mix dtypes
            return hk.nets.MobileNetV1(strides, channels, num_classes=3, use_bn=norm)(x, training)

    net = hk.transform_with_state(network)
    x = jnp.asarray(np.random.RandomState(0).randn(2, 3, 13, 11), "float32")
    shapes = jax.eval_shape(lambda key: net.init(key, jnp.moveaxis(x, 1, -1), True), jax.random.key(0))
    random = np.random.RandomState(1)
    params, state = jax.tree.map(lambda s: jnp.asarray(random.rand(*s.shape) + 0.1, s.dtype), shapes)
    model = models.MobileNetV1(3, SETTING, nn.BatchNorm2d if norm else None)
    found = model.load_state_dict(arrays_of(params, state), strict=False)
    assert not found.unexpected_keys
    assert all("num_batches" in key for key in found.missing_keys)
    for training in (False, True) if norm else (False,):
        model.train(training)

        def loss(params, training=training):
            logits, _ = net.apply(params, state, None, jnp.moveaxis(x, 1, -1), training)
            return jnp.sum(jnp.sin(logits)), logits

        if norm and not training:
            np.testing.assert_allclose(jit(model)(x), jax.jit(loss)(params)[1], rtol=1e-4, atol=1e-4)
            continue
        (_, wanted), expected = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)

        def ours():
            logits = model(x)
            return jnp.sum(jnp.sin(logits)), logits

        (_, logits), gradients = jit(value_and_grad(ours, has_aux=True, wrt=model))()
        np.testing.assert_allclose(logits, wanted, rtol=1e-4, atol=1e-4)
        expected = arrays_of(expected, state)
        for name, gradient in gradients.items():
            scale = float(jnp.abs(expected[name]).max()) + 1e-3
            np.testing.assert_allclose(gradient / scale, expected[name] / scale, atol=2e-3, err_msg=name)


def test_size():
    with pytest.raises(ValueError, match="rows of two"):
        models.MobileNetV1(3, ((8, 1, 2),))
    assert [m.stride for m in models.mobilenet_v1(num_classes=2).features.modules() if isinstance(m, nn.Conv2d)][::2][:4] == [
        (2, 2), (1, 1), (1, 1), (1, 1),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="downloads nothing"):
        models.mobilenet_v1(weights="x")


@pytest.mark.parametrize(("name", "size"), [("resnet200", 64_673_832), ("resnet200_v2", 64_666_152)])
def test_resnet200(name, size, monkeypatch):
    """As many numbers as haiku.nets.ResNet200 has for 1000 classes."""
    monkeypatch.setattr(nn.init, "_fill", lambda tensor, *_: tensor)
    assert sum(math.prod(p.shape) for p in getattr(models, name)().parameters()) == size
