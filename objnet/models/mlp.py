"""The multi-layer perceptron, with the arguments and keys of ``torchvision.ops.MLP``."""

from __future__ import annotations

from collections.abc import Sequence

from objnet import nn
from objnet.models._common import Layer

__all__ = ["MLP"]


class MLP(nn.Sequential):
    """Linear layers, each but the last followed by normalisation, activation and dropout: (..., in_channels) to
    (..., hidden_channels[-1]).

    Args:
        in_channels: size of the input's last dimension.
        hidden_channels: output sizes of the linear layers.
        norm_layer: makes a normalisation from a size; None leaves it out.
        activation_layer: makes the activation; None leaves it out.
        inplace: given to the activation and the dropout if not None.
        bias: whether the linear layers have biases.
        dropout: probability, after every activation and at the end.

    Raises:
        ValueError: no ``hidden_channels``.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: Sequence[int],
        norm_layer: Layer | None = None,
        activation_layer: Layer | None = nn.ReLU,
        inplace: bool | None = None,
        bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        if not hidden_channels:
            raise ValueError("hidden_channels must name at least one size, got none")
        options = {} if inplace is None else {"inplace": inplace}
        layers: list[nn.Module] = []
        for index, channels in enumerate(hidden_channels):
            layers.append(nn.Linear(in_channels, channels, bias=bias))
            if index < len(hidden_channels) - 1:
                layers += [] if norm_layer is None else [norm_layer(channels)]
                layers += [] if activation_layer is None else [activation_layer(**options)]
            layers.append(nn.Dropout(dropout, **options))
            in_channels = channels
        super().__init__(*layers)
