"""Small image models that torchvision and objnet build alike, and the numbers to compare them by.

``torchvision.json`` holds torchvision's results: it does not import beside the CPU build of torch that the tests install,
and the recorded numbers also serve where there is no torch.  To record them again, with torchvision in a folder of its own::

    pip install --no-deps --target DIR torchvision==0.28.0
    PYTHONPATH=DIR python -m tests.models.torchvision_cases
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

RECORD = Path(__file__).with_name("torchvision.json")
SEED = 3

WHOLE = [
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d"),
    *("resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2", "mobilenet_v2"),
    *("vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn"),
    "vit_b_16",
]

# The model from its package, the size of its images, and the mode; gradients are compared in training only.
SMALL: dict[str, tuple[Callable[[Any], Any], int, str]] = {
    "resnet_basic": (lambda m: m.resnet.ResNet(m.resnet.BasicBlock, [1, 1, 1, 1], num_classes=7), 64, "train"),
    "resnet_bottleneck": (
        lambda m: m.resnet.ResNet(
            m.resnet.Bottleneck,
            [1, 1, 1, 1],
            num_classes=7,
            groups=2,
            width_per_group=16,
            replace_stride_with_dilation=[False, True, True],
        ),
        32,
        "eval",
    ),
    # gradients of the other blocks alone: those of a whole residual network take long to compile
    "bottleneck": (
        lambda m: m.resnet.Bottleneck(3, 4, 2, m.resnet.conv1x1(3, 16, 2), groups=2, base_width=32, dilation=2),
        4,
        "train",
    ),
    "inverted_residual": (lambda m: m.mobilenetv2.InvertedResidual(3, 3, 1, 2), 4, "train"),
    "vgg": (lambda m: m.vgg.VGG(m.vgg.make_layers([8, "M", 16, 512, "M"]), num_classes=5), 32, "eval"),
    "vgg_bn": (
        lambda m: m.vgg.VGG(m.vgg.make_layers([8, "M", 512, "M"], batch_norm=True), num_classes=5, dropout=0.0),
        32,
        "train",
    ),
    "mobilenet": (
        lambda m: m.mobilenetv2.MobileNetV2(
            num_classes=6, width_mult=0.25, inverted_residual_setting=[[1, 8, 1, 1], [6, 8, 1, 1]], dropout=0.0
        ),
        32,
        "eval",
    ),
    "vit": (
        lambda m: m.vision_transformer.VisionTransformer(16, 4, 2, 2, 8, 16, num_classes=5, representation_size=6),
        16,
        "train",
    ),
    "vit_conv_stem": (
        lambda m: m.vision_transformer.VisionTransformer(
            *(16, 4, 1, 2, 8, 16),
            num_classes=5,
            conv_stem_configs=[m.vision_transformer.ConvStemConfig(c, 3, 2) for c in (4, 8)],
        ),
        16,
        "eval",
    ),
}


def digest(shapes: dict[str, tuple[int, ...]]) -> str:
    """A hash of every key and shape, in order."""
    lines = "".join(f"{key} {list(shape)}\n" for key, shape in shapes.items())
    return f"{len(shapes)} keys {hashlib.sha256(lines.encode()).hexdigest()}"


def narrow(nn: Any) -> Any:
    """A Linear with 12 in place of VGG's 4096 features, which take seconds to draw."""

    class Linear(nn.Linear):
        def __init__(self, in_features: int, out_features: int, *args: Any, **kwargs: Any) -> None:
            small = {4096: 12}
            super().__init__(small.get(in_features, in_features), small.get(out_features, out_features), *args, **kwargs)

    return Linear


def values(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Values for a state dict that keep the activations' size."""
    random, found = np.random.RandomState(SEED), {}
    for key, shape in shapes.items():
        noise = np.asarray(random.randn(*shape), np.float32)
        if key.endswith("num_batches_tracked"):
            found[key] = np.zeros(shape, np.int32)
        elif key.endswith("running_var"):
            found[key] = 1 + 0.2 * np.abs(noise)
        elif len(shape) == 1:
            found[key] = 0.2 * noise + (1 if key.endswith("weight") else 0)
        else:
            found[key] = noise / np.float32(np.sqrt(max(np.prod(shape[1:]), 4)))
    return found


def images(size: int) -> np.ndarray:
    """Four images."""
    return np.random.RandomState(SEED + 1).randn(4, 3, size, size).astype(np.float32)


def cotangents(shape: tuple[int, ...]) -> np.ndarray:
    """What the logits are multiplied with for the loss."""
    return np.random.RandomState(SEED + 2).randn(*shape).astype(np.float32)


def summary(array: Any) -> list[float]:
    """The product with a random array, and the size it can have."""
    array = np.asarray(array, np.float64)
    weights = np.random.RandomState(SEED + 3).randn(*array.shape)
    return [float(f"{x:.9g}") for x in (np.sum(array * weights), np.linalg.norm(array))]


def record() -> None:
    """Write torchvision's results."""
    import torch

    library = torch.library.Library("torchvision", "DEF")  # what torchvision's compiled part would have defined
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision
    from torchvision import models

    def shapes_of(model: Any) -> dict[str, tuple[int, ...]]:
        return {key: tuple(value.shape) for key, value in model.state_dict().items()}

    torch.nn.Linear = narrow(torch.nn)
    result: dict[str, Any] = {"torchvision": torchvision.__version__, "whole": {}, "small": {}}
    for name in WHOLE:
        with torch.device("meta"):
            result["whole"][name] = digest(shapes_of(getattr(models, name)()))
    for name, (build, size, mode) in SMALL.items():
        torch.manual_seed(SEED)
        model = build(models)
        entry: dict[str, Any] = {"digest": digest(shapes_of(model)), "repr": repr(model)}
        entry["initial"] = {k: summary(v.numpy()) for k, v in model.state_dict().items()}
        model.load_state_dict({k: torch.tensor(v) for k, v in values(shapes_of(model)).items()})
        model.train(mode == "train")
        logits = model(torch.tensor(images(size))).flatten(1)
        entry["logits"] = [[float(f"{x:.9g}") for x in row] for row in logits.tolist()]
        if mode == "train":
            (logits * torch.tensor(cotangents(tuple(logits.shape)))).sum().backward()
            entry["gradients"] = {k: summary(p.grad.numpy()) for k, p in model.named_parameters()}
            entry["buffers"] = {k: summary(b.numpy()) for k, b in model.named_buffers()}
        result["small"][name] = entry
    RECORD.write_text(json.dumps(result, indent=None, separators=(",", ":")).replace('},"', '},\n"') + "\n")


if __name__ == "__main__":
    record()
