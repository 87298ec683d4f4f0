"""A bias of its own, which torch lacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from objnet.core.arrays import as_array
from objnet.nn import init
from objnet.nn.module import Module
from objnet.nn.modules._parameters import blank, place
from objnet.nn.modules._sizes import spread

__all__ = ["Bias"]


class Bias(Module):
    """Adds a learned bias (Haiku's).

    Input (N, *output_size), output the same. ``bias`` starts at zero; its shape is ``output_size`` with a one wherever ``bias_dims``
    does not name the dimension, without leading ones.

    Args:
        output_size: the input's shape without N. A size in a dimension over which the bias is broadcast may be None: any.
        bias_dims: the dimensions of the input in which the bias differs, N being 0, which is refused; negative ones count from the
            end. None for all of them, empty for one number.
        device: where the bias lives, as in :meth:`Module.to`.
        dtype: its dtype.

    Raises:
        ValueError: a dimension that is N, is not there, or has no size; from a call: an input of another shape.
    """

    bias: Any

    def __init__(
        self,
        output_size: int | Sequence[int | None],
        bias_dims: Sequence[int] | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.output_size = spread(output_size, 1)
        self.bias_dims = None if bias_dims is None else tuple(bias_dims)
        self.bias = blank(*self._bias_shape(), dtype=dtype)
        place(self, device)

    def reset_parameters(self) -> None:
        """Set the bias to zero."""
        init.zeros_(self.bias)

    def _bias_shape(self) -> tuple[int, ...]:
        rank = len(self.output_size) + 1
        dims = range(1, rank) if self.bias_dims is None else self.bias_dims
        shape = [1] * rank
        for dim in dims:
            if not -rank <= dim < rank or dim % rank == 0:
                raise ValueError(f"bias_dims must be dimensions 1 to {rank - 1} of an input of {rank} dimensions, got {dim}")
            size = self.output_size[dim % rank - 1]
            if size is None:
                raise ValueError(f"the bias differs along dimension {dim}, whose size in output_size must be given")
            shape[dim % rank] = size
        first = next((i for i, size in enumerate(shape) if size != 1), rank)
        return tuple(shape[1:] if self.bias_dims is None else shape[first:])

    def forward(self, input: jax.Array, multiplier: Any = None) -> jax.Array:
        """``input + bias``, or ``input + bias * multiplier``."""
        input, bias = as_array(input), self.bias
        sizes = input.shape[1:]
        if len(sizes) != len(self.output_size) or any(want not in (None, size) for want, size in zip(self.output_size, sizes)):
            raise ValueError(f"Bias takes inputs of shape (N, {', '.join(map(str, self.output_size))}), got {input.shape}")
        if input.ndim == 0:
            raise ValueError("Bias takes inputs of at least 1 dimension, got a scalar")
        if multiplier is not None:
            bias = bias * as_array(multiplier).astype(bias.dtype)
        return input + bias

    def extra_repr(self) -> str:
        text = f"output_size={self.output_size}"
        return text if self.bias_dims is None else f"{text}, bias_dims={self.bias_dims}"
