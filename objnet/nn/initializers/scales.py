"""How wide initial values spread: gains of nonlinearities, fans of shapes (out, in, spatial sizes...)."""

from __future__ import annotations

import math

from objnet.nn.initializers.form import Shape

__all__ = ["calculate_gain", "fan", "fans", "kaiming_std", "xavier_std"]

_GAINS = {
    **dict.fromkeys(("linear", "conv1d", "conv2d", "conv3d"), 1),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "sigmoid"), 1),
    "tanh": 5.0 / 3,
    "relu": math.sqrt(2.0),
    "selu": 3.0 / 4,
}


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor by which a nonlinearity's weights are enlarged to keep the scale of activations (torch).

    Args:
        nonlinearity: the function's name in ``nn.functional``.
        param: the negative slope of ``"leaky_relu"``, 0.01 if None; other functions have none.

    Raises:
        ValueError: an unknown name, or a slope that is no number.
    """
    if nonlinearity == "leaky_relu":
        slope = 0.01 if param is None else param
        if isinstance(slope, bool) or not isinstance(slope, (int, float)):
            raise ValueError(f"negative_slope {slope} is not a valid number")
        return math.sqrt(2.0 / (1 + slope**2))
    if nonlinearity not in _GAINS:
        raise ValueError(f"unsupported nonlinearity {nonlinearity!r}: expected 'leaky_relu' or one of {sorted(_GAINS)}")
    return _GAINS[nonlinearity]


def fans(shape: Shape) -> tuple[int, int]:
    """How many numbers enter and leave a unit of a weight of shape (out, in, spatial sizes...).

    Raises:
        ValueError: fewer than 2 dimensions.
    """
    if len(shape) < 2:
        raise ValueError(f"fan in and fan out need a tensor of 2 or more dimensions, got {len(shape)}")
    field = math.prod(shape[2:])
    return shape[1] * field, shape[0] * field


def fan(shape: Shape, mode: str) -> int:
    """The fan that ``mode`` names, in any case of letters.

    Raises:
        ValueError: ``mode`` is neither ``"fan_in"`` nor ``"fan_out"``.
    """
    modes = ("fan_in", "fan_out")
    if mode.lower() not in modes:
        raise ValueError(f"mode {mode!r} is not supported, expected one of {modes}")
    return fans(shape)[modes.index(mode.lower())]


def xavier_std(shape: Shape, gain: float) -> float:
    return gain * math.sqrt(2.0 / float(sum(fans(shape))))


def kaiming_std(shape: Shape, a: float, mode: str, nonlinearity: str) -> float:
    if 0 in shape:  # nothing will be drawn
        return 0.0
    return calculate_gain(nonlinearity, a) / math.sqrt(fan(shape, mode))
