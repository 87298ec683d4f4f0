"""Transposed convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import jax

from objnet.core.arrays import as_array
from objnet.nn import functional as F
from objnet.nn.functional._spatial import size
from objnet.nn.modules._sizes import Size1, Size2, Size3, spread
from objnet.nn.modules.conv import _ConvNd

__all__ = ["ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"]


class _ConvTransposeNd(_ConvNd):
    """What transposed convolutions share."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, ...],
        stride: tuple[int, ...],
        padding: tuple[int, ...],
        dilation: tuple[int, ...],
        transposed: bool,
        output_padding: tuple[int, ...],
        groups: int,
        bias: bool,
        padding_mode: str,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        if padding_mode != "zeros":
            raise ValueError(f'Only "zeros" padding mode is supported for {type(self).__name__}, got {padding_mode!r}')
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            transposed,
            output_padding,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )

    def forward(self, input: jax.Array, output_size: list[int] | None = None) -> jax.Array:
        input = as_array(input)
        rest = (self.stride, self.padding, self._output_padding(input, output_size), self.groups, self.dilation)
        return self._function(input, self.weight, self.bias, *rest)

    def _output_padding(self, input: jax.Array, output_size: Sequence[int] | None) -> tuple[int, ...]:
        """``output_padding``, or what makes the output of size ``output_size``.

        Raises:
            ValueError: no padding does, or the size has another length.
            TypeError: something in it is no integer (a traced one: write the size into the compiled function).
        """
        if output_size is None:
            return self.output_padding
        n, wanted = len(self.kernel_size), [size(type(self).__name__, "output_size", each) for each in output_size]
        batch = input.ndim - n
        if len(wanted) == n + (2 if batch == 2 else 1):
            wanted = wanted[-n:]
        if len(wanted) != n:
            raise ValueError(
                f"{type(self).__name__}: output_size of a {input.ndim}D input must have {n} elements, or {n + (2 if batch == 2 else 1)} with "
                f"those before the spatial ones, got {len(wanted)}"
            )
        every = zip(input.shape[-n:], self.stride, self.padding, self.dilation, self.kernel_size, strict=True)
        least = [(length - 1) * s - 2 * p + d * (k - 1) + 1 for length, s, p, d, k in every]
        most = [low + s - 1 for low, s in zip(least, self.stride, strict=True)]
        if any(not low <= each <= high for low, each, high in zip(least, wanted, most, strict=True)):
            raise ValueError(
                f"requested an output size of {wanted}, but valid sizes range from {least} to {most} (for an input of spatial "
                f"shape {input.shape[-n:]})"
            )
        return tuple(each - low for each, low in zip(wanted, least, strict=True))


class ConvTranspose1d(_ConvTransposeNd):
    """The transpose of a convolution in its input, over 1 dimension (torch's ``nn.ConvTranspose1d``).

    Input (N, in_channels, L) or (in_channels, L), output alike with out_channels and the length
    ``(L - 1) * stride - 2 * padding + dilation * (kernel_size - 1) + output_padding + 1``. ``weight`` (in_channels,
    out_channels / groups, *kernel_size) and ``bias`` (out_channels,) start uniform within
    ``1 / sqrt(out_channels / groups * kernel size)``.

    A call may give ``output_size``, the spatial sizes of the output (or all its sizes), in place of output_padding.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: one size, or one for each dimension; so are stride, the paddings and dilation.
        stride: steps in the output from one element of the input to the next.
        padding: what is taken from both ends of the output.
        output_padding: what is added to its end; less than the stride or the dilation.
        groups: the channels are split into this many groups, convolved each with filters of its own.
        bias: whether there is a bias.
        dilation: steps between the taps of the kernel.
        padding_mode: only ``"zeros"``.
        device: where the parameters live, as in :meth:`Module.to`.
        dtype: their dtype.

    Raises:
        ValueError: groups that do not divide the channels, another padding_mode; from a call: an output_size that no
            output_padding gives.
    """

    _function = staticmethod(F.conv_transpose1d)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size1,
        stride: Size1 = 1,
        padding: Size1 = 0,
        output_padding: Size1 = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Size1 = 1,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            spread(kernel_size, 1),
            spread(stride, 1),
            spread(padding, 1),
            spread(dilation, 1),
            True,
            spread(output_padding, 1),
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )


class ConvTranspose2d(_ConvTransposeNd):
    """The transpose of a convolution in its input, over 2 dimensions (torch's ``nn.ConvTranspose2d``).

    Input (N, in_channels, H, W) or (in_channels, H, W), output alike with out_channels. Arguments, initial values
    and errors as :class:`ConvTranspose1d`.
    """

    _function = staticmethod(F.conv_transpose2d)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size2,
        stride: Size2 = 1,
        padding: Size2 = 0,
        output_padding: Size2 = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Size2 = 1,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            spread(kernel_size, 2),
            spread(stride, 2),
            spread(padding, 2),
            spread(dilation, 2),
            True,
            spread(output_padding, 2),
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )


class ConvTranspose3d(_ConvTransposeNd):
    """The transpose of a convolution in its input, over 3 dimensions (torch's ``nn.ConvTranspose3d``).

    Input (N, in_channels, D, H, W) or (in_channels, D, H, W), output alike with out_channels. Arguments, initial values
    and errors as :class:`ConvTranspose1d`.
    """

    _function = staticmethod(F.conv_transpose3d)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size3,
        stride: Size3 = 1,
        padding: Size3 = 0,
        output_padding: Size3 = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Size3 = 1,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            spread(kernel_size, 3),
            spread(stride, 3),
            spread(padding, 3),
            spread(dilation, 3),
            True,
            spread(output_padding, 3),
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )
