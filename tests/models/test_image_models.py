"""Image models equal torchvision's: keys, initial values, logits, gradients and running statistics, as recorded."""

from __future__ import annotations

import json
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import objnet
from objnet import models, nn
from tests.models import torchvision_cases as cases

RECORD = json.loads(cases.RECORD.read_text())


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def assert_summaries(ours: dict[str, Any], expected: dict[str, list[float]], tolerance: float) -> None:
    """Products with a random array agree, relative to the size they can have."""
    assert list(ours) == list(expected)
    for key, (product, size) in expected.items():
        assert abs(cases.summary(ours[key])[0] - product) <= tolerance * size + 1e-5, key


@pytest.mark.parametrize("name", cases.WHOLE)
def test_keys_and_shapes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.init, "_fill", lambda tensor, *_: tensor)  # drawing so many numbers takes long
    monkeypatch.setattr(nn, "Linear", cases.narrow(nn))
    assert cases.digest(shapes_of(getattr(models, name)())) == RECORD["whole"][name]


@pytest.mark.parametrize("name", cases.SMALL)
def test_equals_torchvision(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn, "Linear", cases.narrow(nn))
    build, size, mode = cases.SMALL[name]
    expected = RECORD["small"][name]
    objnet.manual_seed(cases.SEED)
    model = build(models)
    assert cases.digest(shapes_of(model)) == expected["digest"]
    assert repr(model) == expected["repr"]
    assert_summaries(model.state_dict(), expected["initial"], 1e-6)
    assert str(model.load_state_dict(cases.values(shapes_of(model)))) == "<All keys matched successfully>"
    x = jnp.asarray(cases.images(size))
    wanted = np.asarray(expected["logits"], np.float32)
    if mode == "eval":
        np.testing.assert_allclose(np.asarray(objnet.jit(model.eval())(x)), wanted, rtol=1e-4, atol=1e-5)
        return

    def loss(x: Any, cotangents: Any) -> Any:
        logits = model(x).reshape(len(x), -1)
        return jnp.sum(logits * cotangents), logits

    step = objnet.jit(objnet.value_and_grad(loss, has_aux=True, wrt=model))
    (_, logits), gradients = step(x, jnp.asarray(cases.cotangents(wanted.shape)))
    np.testing.assert_allclose(np.asarray(logits), wanted, rtol=1e-3, atol=1e-4)
    assert_summaries(gradients, expected["gradients"], 1e-3)
    assert_summaries(dict(model.named_buffers()), expected["buffers"], 1e-5)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("vit_b_16", (16, 12, 12, 768, 3072)),
        ("vit_b_32", (32, 12, 12, 768, 3072)),
        ("vit_l_16", (16, 24, 16, 1024, 4096)),
        ("vit_l_32", (32, 24, 16, 1024, 4096)),
        ("vit_h_14", (14, 32, 16, 1280, 5120)),
    ],
)
def test_sizes_of_vision_transformers(name: str, sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """The builders' arguments: patch, layers, heads, hidden and perceptron size."""
    module = models.vision_transformer
    monkeypatch.setattr(module, "VisionTransformer", lambda *args, **kwargs: (args, kwargs))
    assert getattr(module, name)(num_classes=3) == ((224, *sizes), {"num_classes": 3})
    assert getattr(module, name)(image_size=448) == ((448, *sizes), {})


def test_nothing_is_downloaded() -> None:
    for build in (models.resnet18, models.resnext50_32x4d, models.vgg11_bn, models.mobilenet_v2, models.vit_b_16):
        with pytest.raises(ValueError, match="downloads nothing.*load_state_dict"):
            build(weights="DEFAULT")


def test_bad_arguments() -> None:
    resnet, vit = models.resnet, models.VisionTransformer
    with pytest.raises(ValueError, match="replace_stride_with_dilation"):
        models.resnet18(replace_stride_with_dilation=[True])
    with pytest.raises(ValueError, match="BasicBlock only supports"):
        models.resnet18(groups=2)
    with pytest.raises(NotImplementedError, match="Dilation > 1"):
        resnet.BasicBlock(4, 4, dilation=2)
    with pytest.raises(ValueError, match="inverted_residual_setting"):
        models.MobileNetV2(inverted_residual_setting=[[1, 2]])
    with pytest.raises(ValueError, match="stride should be 1 or 2"):
        models.mobilenetv2.InvertedResidual(4, 4, 3, 1)
    with pytest.raises(ValueError, match="must divide image_size"):
        vit(17, 4, 1, 1, 4, 4)
    with pytest.raises(ValueError, match="Wrong image size"):
        vit(8, 4, 1, 1, 4, 4)(jnp.zeros((1, 3, 4, 8)))


def test_zero_init_residual(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last normalisation (v2: convolution) of each residual branch is zero, and nothing else is."""
    monkeypatch.setattr(nn.init, "kaiming_normal_", lambda tensor, **_: tensor)
    for model, last in (
        (models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1], zero_init_residual=True), "bn2.weight"),
        (models.ResNet(models.resnet.Bottleneck, [1, 1, 1, 1], zero_init_residual=True), "bn3.weight"),
        (models.ResNetV2(models.resnet_v2.PreActBlock, [1, 1, 1, 1], zero_init_residual=True), "conv2.weight"),
        (models.ResNetV2(models.resnet_v2.PreActBottleneck, [1, 1, 1, 1], zero_init_residual=True), "conv3.weight"),
    ):
        weights = {name: np.asarray(value) for name, value in model.state_dict().items() if name.endswith("weight")}
        assert {name for name, value in weights.items() if not value.any()} == {n for n in weights if n.endswith(last)}


class TestResNetV2:
    def test_a_block_is_the_papers(self) -> None:
        """``x + W2 relu(bn(W1 relu(bn(x))))``, and with a projection of the activated input."""
        block = models.resnet_v2.PreActBlock(3, 3)
        x = objnet.randn(2, 3, 5, 5)
        relu, f = nn.functional.relu, nn.functional.conv2d

        def expected(x: Any, downsample: Any = None) -> Any:
            active = relu(x / np.sqrt(1 + 1e-5))
            inner = relu(f(active, block.conv1.weight, padding=1, stride=block.stride) / np.sqrt(1 + 1e-5))
            return f(inner, block.conv2.weight, padding=1) + (x if downsample is None else downsample(active))

        block.eval()
        np.testing.assert_allclose(np.asarray(objnet.jit(block)(x)), np.asarray(expected(x)), rtol=1e-5, atol=1e-5)
        block = models.resnet_v2.PreActBlock(3, 4, 2, nn.Conv2d(3, 4, 1, 2, bias=False)).eval()
        np.testing.assert_allclose(
            np.asarray(objnet.jit(block)(x)), np.asarray(expected(x, block.downsample)), rtol=1e-5, atol=1e-5
        )

    def test_shapes_and_names(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(nn.init, "_fill", lambda tensor, *_: tensor)
        model = models.ResNetV2(models.resnet_v2.PreActBottleneck, [1, 1, 1, 1], num_classes=5, groups=2, width_per_group=8)
        names = {name.split(".")[0] for name in model.state_dict()}
        assert names == {"conv1", "layer1", "layer2", "layer3", "layer4", "bn", "fc"}
        assert model.layer2[0].downsample.weight.shape == (512, 256, 1, 1)
        assert model.layer1[0].bn1.num_features == 64

    @pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
    def test_depths(self, depth: int, monkeypatch: pytest.MonkeyPatch) -> None:
        module = models.resnet_v2
        monkeypatch.setattr(module, "ResNetV2", lambda block, layers, **kwargs: (block, layers, kwargs))
        block, layers, kwargs = getattr(module, f"resnet{depth}_v2")(num_classes=2)
        convolutions = {module.PreActBlock: 2, module.PreActBottleneck: 3}[block]
        assert sum(layers) * convolutions + 2 == depth
        assert kwargs == {"num_classes": 2}


class TestMLP:
    def test_layers(self) -> None:
        model = models.MLP(3, [4, 5], norm_layer=nn.LayerNorm, activation_layer=nn.GELU, dropout=0.1)
        assert [type(m).__name__ for m in model] == ["Linear", "LayerNorm", "GELU", "Dropout", "Linear", "Dropout"]
        assert list(model.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias", "4.weight", "4.bias"]
        assert [type(m).__name__ for m in models.MLP(3, [4, 5], activation_layer=None, bias=False)] == [
            *("Linear", "Dropout"),
            *("Linear", "Dropout"),
        ]
        assert models.MLP(3, [4, 5], inplace=True)[1].inplace is True

    def test_needs_a_size(self) -> None:
        with pytest.raises(ValueError, match="hidden_channels"):
            models.MLP(3, [])
