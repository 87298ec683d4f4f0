"""Convolutions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import jax

from objnet.nn import functional as F
from objnet.nn.module import Module
from objnet.nn.modules._parameters import blank, place, reset_fan_in
from objnet.nn.modules._sizes import Size1, Size2, Size3, spread

__all__ = ["Conv1d", "Conv2d", "Conv3d"]

_PADDINGS = ("same", "valid")
_MODES = ("zeros", "reflect", "replicate", "circular")


class _ConvNd(Module):
    """What convolutions share; sizes are tuples with an entry a dimension."""

    _function: ClassVar[Callable[..., jax.Array]]
    weight: Any
    bias: Any

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, ...],
        stride: tuple[int, ...],
        padding: str | tuple[int, ...],
        dilation: tuple[int, ...],
        transposed: bool,
        output_padding: tuple[int, ...],
        groups: int,
        bias: bool,
        padding_mode: str,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if groups <= 0:
            raise ValueError("groups must be a positive integer")
        for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            if channels % groups:
                raise ValueError(f"{name} must be divisible by groups, got {channels} and {groups}")
        if isinstance(padding, str):
            if padding not in _PADDINGS:
                raise ValueError(f"Invalid padding string {padding!r}, should be one of {_PADDINGS}")
            if padding == "same" and any(s != 1 for s in stride):
                raise ValueError(f"padding='same' is not supported for strided convolutions, got stride={stride}")
        if padding_mode not in _MODES:
            raise ValueError(f"padding_mode must be one of {_MODES}, but got padding_mode={padding_mode!r}")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding = padding
        self.dilation = dilation
        self.transposed = transposed
        self.output_padding = output_padding
        self.groups = groups
        self.padding_mode = padding_mode
        self._reversed_padding_repeated_twice = _pad_argument(padding, kernel_size, dilation)
        first, second = (in_channels, out_channels) if transposed else (out_channels, in_channels)
        self.weight = blank(first, second // groups, *kernel_size, dtype=dtype)
        if bias:
            self.bias = blank(out_channels, dtype=dtype)
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()
        place(self, device)

    def reset_parameters(self) -> None:
        """Draw new initial values."""
        reset_fan_in(self.weight, self.bias)

    def forward(self, input: jax.Array) -> jax.Array:
        return self._conv_forward(input, self.weight, self.bias)

    def _conv_forward(self, input: jax.Array, weight: jax.Array, bias: jax.Array | None) -> jax.Array:
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = 0
        return self._function(input, weight, bias, self.stride, padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        if self.padding != (0,) * len(self.padding):
            text += f", padding={self.padding}"
        if self.dilation != (1,) * len(self.dilation):
            text += f", dilation={self.dilation}"
        if self.output_padding != (0,) * len(self.output_padding):
            text += f", output_padding={self.output_padding}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        if self.bias is None:
            text += ", bias=False"
        if self.padding_mode != "zeros":
            text += f", padding_mode={self.padding_mode}"
        return text


def _pad_argument(padding: str | tuple[int, ...], kernel_size: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[int, ...]:
    """``padding`` as ``F.pad`` takes it: a pair (before, after) for each dimension, the last dimension first."""
    if padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilation, kernel_size, strict=True)]
        pairs = [(total // 2, total - total // 2) for total in totals]
    else:
        sizes = (0,) * len(kernel_size) if isinstance(padding, str) else padding
        pairs = [(size, size) for size in sizes]
    return tuple(size for pair in reversed(pairs) for size in pair)


class Conv1d(_ConvNd):
    """Cross-correlation over 1 dimension (torch's ``nn.Conv1d``).

    Input (N, in_channels, L) or (in_channels, L), output alike with out_channels. ``weight`` (out_channels,
    in_channels / groups, *kernel_size) and ``bias`` (out_channels,) start uniform within ``1 / sqrt(fan_in)``.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: one size, or one for each dimension; so are stride, padding and dilation.
        stride: steps between windows.
        padding: added on both sides; ``"same"`` keeps the size (stride 1 only), ``"valid"`` adds none.
        dilation: steps between the points of a window.
        groups: the channels are split into this many groups, convolved each with filters of its own.
        bias: whether there is a bias.
        padding_mode: what is added: ``"zeros"``, ``"reflect"``, ``"replicate"`` or ``"circular"``.
        device: where the parameters live, as in :meth:`Module.to`.
        dtype: their dtype.

    Raises:
        ValueError: groups that do not divide the channels, a padding or padding_mode that does not exist, ``"same"`` with
            a stride.
    """

    _function = staticmethod(F.conv1d)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size1,
        stride: Size1 = 1,
        padding: str | Size1 = 0,
        dilation: Size1 = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            spread(kernel_size, 1),
            spread(stride, 1),
            padding if isinstance(padding, str) else spread(padding, 1),
            spread(dilation, 1),
            False,
            (0,) * 1,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )


class Conv2d(_ConvNd):
    """Cross-correlation over 2 dimensions (torch's ``nn.Conv2d``).

    Input (N, in_channels, H, W) or (in_channels, H, W), output alike with out_channels. Arguments, initial values
    and errors as :class:`Conv1d`.
    """

    _function = staticmethod(F.conv2d)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size2,
        stride: Size2 = 1,
        padding: str | Size2 = 0,
        dilation: Size2 = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            spread(kernel_size, 2),
            spread(stride, 2),
            padding if isinstance(padding, str) else spread(padding, 2),
            spread(dilation, 2),
            False,
            (0,) * 2,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )


class Conv3d(_ConvNd):
    """Cross-correlation over 3 dimensions (torch's ``nn.Conv3d``).

    Input (N, in_channels, D, H, W) or (in_channels, D, H, W), output alike with out_channels. Arguments, initial values
    and errors as :class:`Conv1d`.
    """

    _function = staticmethod(F.conv3d)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size3,
        stride: Size3 = 1,
        padding: str | Size3 = 0,
        dilation: Size3 = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            spread(kernel_size, 3),
            spread(stride, 3),
            padding if isinstance(padding, str) else spread(padding, 3),
            spread(dilation, 3),
            False,
            (0,) * 3,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )
