"""VGG networks (Simonyan and Zisserman 2014) with the keys, arguments and initial values of ``torchvision.models.vgg``.

Images are (N, 3, H, W) floats, H and W at least 32; the result is (N, num_classes).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from objnet import nn
from objnet.models._common import no_download

__all__ = ["VGG", "make_layers", "vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn"]

# convolutions by depth in each of the five stages; a stage ends with pooling
WIDTHS = (64, 128, 256, 512, 512)
DEPTHS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


def make_layers(cfg: Sequence[int | str], batch_norm: bool = False) -> nn.Sequential:
    """3x3 convolutions of the widths in ``cfg``, each followed by ReLU; "M" is 2x2 max pooling (torchvision's)."""
    layers: list[nn.Module] = []
    channels = 3
    for width in cfg:
        if width == "M":
            layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
            continue
        layers.append(nn.Conv2d(channels, int(width), kernel_size=3, padding=1))
        if batch_norm:
            layers.append(nn.BatchNorm2d(int(width)))
        layers.append(nn.ReLU(inplace=True))
        channels = int(width)
    return nn.Sequential(*layers)


class VGG(nn.Module):
    """Convolutional ``features`` of 512 channels, pooled to 7x7, and three linear layers (torchvision's ``VGG``).

    Args:
        features: maps images to (N, 512, H', W'); see :func:`make_layers`.
        num_classes: number of logits.
        init_weights: draw torchvision's initial values; otherwise the layers keep their own.
        dropout: probability, twice in the classifier.
    """

    def __init__(self, features: nn.Module, num_classes: int = 1000, init_weights: bool = True, dropout: float = 0.5) -> None:
        super().__init__()
        self.features = features
        self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096),
            nn.ReLU(True),
            nn.Dropout(p=dropout),
            nn.Linear(4096, 4096),
            nn.ReLU(True),
            nn.Dropout(p=dropout),
            nn.Linear(4096, num_classes),
        )
        if init_weights:
            self._initialize_weights()

    def _initialize_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
                nn.init.zeros_(module.bias)

    def forward(self, x: jax.Array) -> jax.Array:
        x = self.avgpool(self.features(x))
        return self.classifier(x.reshape(x.shape[0], -1))


def _vgg(depth: int, batch_norm: bool, weights: Any, kwargs: dict[str, Any]) -> VGG:
    no_download(weights)
    cfg: list[int | str] = []
    for width, repeats in zip(WIDTHS, DEPTHS[depth]):
        cfg += [*[width] * repeats, "M"]
    return VGG(make_layers(cfg, batch_norm), **kwargs)


def vgg11(*, weights: None = None, **kwargs: Any) -> VGG:
    """VGG-11; ``kwargs`` go to :class:`VGG`, and ``weights`` must be None (nothing is downloaded)."""
    return _vgg(11, False, weights, kwargs)


def vgg11_bn(*, weights: None = None, **kwargs: Any) -> VGG:
    """VGG-11 with batch normalisation; arguments as :func:`vgg11`."""
    return _vgg(11, True, weights, kwargs)


def vgg13(*, weights: None = None, **kwargs: Any) -> VGG:
    """VGG-13; arguments as :func:`vgg11`."""
    return _vgg(13, False, weights, kwargs)


def vgg13_bn(*, weights: None = None, **kwargs: Any) -> VGG:
    """VGG-13 with batch normalisation; arguments as :func:`vgg11`."""
    return _vgg(13, True, weights, kwargs)


def vgg16(*, weights: None = None, **kwargs: Any) -> VGG:
    """VGG-16; arguments as :func:`vgg11`."""
    return _vgg(16, False, weights, kwargs)


def vgg16_bn(*, weights: None = None, **kwargs: Any) -> VGG:
    """VGG-16 with batch normalisation; arguments as :func:`vgg11`."""
    return _vgg(16, True, weights, kwargs)


def vgg19(*, weights: None = None, **kwargs: Any) -> VGG:
    """VGG-19; arguments as :func:`vgg11`."""
    return _vgg(19, False, weights, kwargs)


def vgg19_bn(*, weights: None = None, **kwargs: Any) -> VGG:
    """VGG-19 with batch normalisation; arguments as :func:`vgg11`."""
    return _vgg(19, True, weights, kwargs)
