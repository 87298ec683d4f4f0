"""Transposed convolutions: arguments checked as torch checks them, computed by :mod:`objnet.nn.functional._transposed`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from objnet.core.arrays import as_array
from objnet.core.autocast import low_precision
from objnet.nn.functional._convolution import biased
from objnet.nn.functional._spatial import batched, require, size, sizes
from objnet.nn.functional._transposed import Layout, convolve_transposed
from objnet.nn.functional.conv import check_arrays

__all__ = ["conv_transpose1d", "conv_transpose2d", "conv_transpose3d"]


@low_precision
def conv_transpose1d(
    input: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None = None,
    stride: int | tuple[int] = 1,
    padding: int | tuple[int] = 0,
    output_padding: int | tuple[int] = 0,
    groups: int = 1,
    dilation: int | tuple[int] = 1,
) -> jax.Array:
    """The transpose of a convolution in its input, over 1 dimension (torch's ``conv_transpose1d``).

    Args:
        input: (N, C, L) or (C, L).
        weight: (C, O / groups, K), of the input's dtype.
        bias: (O,), of the input's dtype.
        stride: steps in the output from one element of the input to the next; it, the paddings and dilation are one int, or
            one for each dimension.
        padding: what is taken from both ends of the output.
        output_padding: what is added to its end; less than the stride or the dilation.
        groups: the channels are split into this many groups, each convolved with its own part of ``weight``.
        dilation: steps between the taps of the kernel.

    Returns:
        (N, O, L') or (O, L'), L' = (L - 1) * stride - 2 * padding + dilation * (K - 1) + output_padding + 1, of the input's
        dtype.

    Raises:
        RuntimeError: shapes that do not fit, an output of negative size, sizes that are too small, dtypes that differ.
        TypeError: a size that is no integer.
        NotImplementedError: booleans.
    """
    return _conv_transpose("conv_transpose1d", 1, input, weight, bias, stride, padding, output_padding, groups, dilation)


@low_precision
def conv_transpose2d(
    input: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    output_padding: int | tuple[int, int] = 0,
    groups: int = 1,
    dilation: int | tuple[int, int] = 1,
) -> jax.Array:
    """The transpose of a convolution in its input, over 2 dimensions (torch's ``conv_transpose2d``).

    Input (N, C, H, W) or (C, H, W), weight (C, O / groups, KH, KW). The rest is as in :func:`conv_transpose1d`.
    """
    return _conv_transpose("conv_transpose2d", 2, input, weight, bias, stride, padding, output_padding, groups, dilation)


@low_precision
def conv_transpose3d(
    input: jax.Array,
    weight: jax.Array,
    bias: jax.Array | None = None,
    stride: int | tuple[int, int, int] = 1,
    padding: int | tuple[int, int, int] = 0,
    output_padding: int | tuple[int, int, int] = 0,
    groups: int = 1,
    dilation: int | tuple[int, int, int] = 1,
) -> jax.Array:
    """The transpose of a convolution in its input, over 3 dimensions (torch's ``conv_transpose3d``).

    Input (N, C, D, H, W) or (C, D, H, W), weight (C, O / groups, KD, KH, KW). The rest is as in :func:`conv_transpose1d`.
    """
    return _conv_transpose("conv_transpose3d", 3, input, weight, bias, stride, padding, output_padding, groups, dilation)


def _conv_transpose(
    function: str,
    n: int,
    input: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: Any,
    dilation: Any,
) -> jax.Array:
    x, w = as_array(input), as_array(weight)
    b = None if bias is None else as_array(bias)
    check_arrays(function, n, x, w, b if n == 3 else None, "(C, O / groups, *kernel)")
    x, unbatched = batched(function, x, n)
    groups = size(function, "groups", groups)
    _check_channels(function, x, w, b, groups)
    layout = _layout(function, w.shape[2:], stride, padding, output_padding, dilation)
    if x.shape[0]:  # torch does not look at this for an empty batch
        _check_output_padding(function, layout)
    lengths = layout.lengths(x.shape[2:], w.shape[2:])
    # of a batch, torch makes an empty output of float32 only; in 3 dimensions not with every back end
    least = int(x.shape[0] > 0 and (x.dtype != jnp.float32 or n == 3))
    if min(lengths) < least or (0 in x.shape[2:] and x.shape[0]):
        raise RuntimeError(
            f"{function}: an input of spatial shape {x.shape[2:]}, which may not be empty, with a kernel of {w.shape[2:]}, stride "
            f"{layout.stride} and padding {layout.padding} gives an output of spatial shape {lengths}"
        )
    if x.size == 0 or 0 in lengths:
        return unbatched(jnp.zeros((x.shape[0], w.shape[1] * groups, *lengths), x.dtype))
    b = None if b is None else b.astype(x.dtype)  # of any dtype in 1 and 2 dimensions, as in torch
    return unbatched(biased(convolve_transposed(x, w, layout, groups), b))


def _check_channels(function: str, x: jax.Array, w: jax.Array, b: jax.Array | None, groups: int) -> None:
    require(function, "groups", (groups,), 1)
    if w.shape[0] < groups or w.shape[0] % groups:
        raise RuntimeError(f"{function}: {groups} groups must divide the input channels, got a weight of shape {w.shape}")
    if x.shape[1] != w.shape[0]:
        raise RuntimeError(
            f"{function}: with a weight of shape {w.shape} the input must have {w.shape[0]} channels, got {x.shape[1]} (input of "
            f"shape {x.shape})"
        )
    outputs = w.shape[1] * groups
    if outputs == 0:
        raise RuntimeError(f"{function}: a weight of shape {w.shape} gives no output channels")
    if b is not None and b.shape != (outputs,):
        raise RuntimeError(f"{function}: bias must be of shape {(outputs,)}, one for each output channel, got {b.shape}")


def _layout(function: str, kernel: tuple[int, ...], stride: Any, padding: Any, output_padding: Any, dilation: Any) -> Layout:
    n = len(kernel)
    given = {"stride": stride, "padding": padding, "output_padding": output_padding, "dilation": dilation}
    layout = Layout(**{name: sizes(function, name, value, n) for name, value in given.items()})
    for name, at_least in (("stride", 1), ("padding", 0), ("output_padding", 0), ("dilation", 1)):
        require(function, name, getattr(layout, name), at_least)
    require(function, "the kernel's size", kernel, 1)
    return layout


def _check_output_padding(function: str, layout: Layout) -> None:
    if any(o >= s and o >= d for o, s, d in zip(layout.output_padding, layout.stride, layout.dilation, strict=True)):
        raise RuntimeError(
            f"{function}: output_padding must be smaller than either stride or dilation, got {layout.output_padding} with stride "
            f"{layout.stride} and dilation {layout.dilation}"
        )
