"""Batch normalisation."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from objnet.core.arrays import as_array
from objnet.core.variable import Buffer
from objnet.nn import init
from objnet.nn.functional.batchnorm import AxisName, batch_norm_stats
from objnet.nn.module import Module
from objnet.nn.modules._parameters import blank, float_dtype, place, require_sizes

__all__ = ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d"]


class _NormBase(Module):
    """What normalisation with running statistics shares."""

    _version = 2
    _dimensions: ClassVar[tuple[int, ...]]
    weight: Any
    bias: Any
    running_mean: Any
    running_var: Any
    num_batches_tracked: Any

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        require_sizes(num_features)
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        for name, wanted in (("weight", affine), ("bias", affine and bias)):
            self.register_parameter(name, blank(num_features, dtype=dtype) if wanted else None)
        statistics = {
            "running_mean": lambda: Buffer(np.zeros(num_features, float_dtype(dtype))),
            "running_var": lambda: Buffer(np.ones(num_features, float_dtype(dtype))),
            "num_batches_tracked": lambda: Buffer(_no_batches()),
        }
        for name, make in statistics.items():
            self.register_buffer(name, make() if track_running_stats else None)
        self.reset_parameters()
        place(self, device)

    def reset_running_stats(self) -> None:
        """Forget the batches seen."""
        if self.track_running_stats:
            init.zeros_(self._buffers["running_mean"])
            init.ones_(self._buffers["running_var"])
            self.num_batches_tracked = _no_batches()

    def reset_parameters(self) -> None:
        """Forget the batches seen; weight one, bias zero."""
        self.reset_running_stats()
        if self.affine:
            init.ones_(self.weight)
            if self.bias is not None:
                init.zeros_(self.bias)

    def _check_input_dim(self, input: jax.Array) -> None:
        if input.ndim not in self._dimensions:
            expected = " or ".join(f"{n}D" for n in self._dimensions)
            raise ValueError(f"expected {expected} input (got {input.ndim}D input)")

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any) -> None:
        version = local_metadata.get("version")
        key = f"{prefix}num_batches_tracked"
        if (version is None or version < 2) and self.track_running_stats and key not in state_dict:
            state_dict[key] = self.num_batches_tracked  # checkpoints before version 2 did not count
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)


def _no_batches() -> np.ndarray:
    return np.zeros((), jax.dtypes.canonicalize_dtype(np.int64))


class _BatchNorm(_NormBase):
    def _synchronised_over(self) -> AxisName:
        """The mapped axes whose members make up one batch."""
        return None

    def forward(self, input: jax.Array) -> jax.Array:
        input = as_array(input)
        self._check_input_dim(input)
        tracks = self.training and self.track_running_stats
        seen = self.num_batches_tracked + 1 if tracks and self.num_batches_tracked is not None else None
        momentum: Any = self.momentum
        if momentum is None:  # the mean over all batches
            momentum = 0.0 if seen is None else 1.0 / seen.astype(jnp.float32)
        known = not self.training or self.track_running_stats
        mean, var = (self.running_mean, self.running_var) if known else (None, None)
        by_batch = self.training or (mean is None and var is None)
        axis_name = self._synchronised_over() if self.training else None
        output, mean, var = batch_norm_stats(input, mean, var, self.weight, self.bias, by_batch, momentum, self.eps, axis_name)
        if tracks:
            self.running_mean, self.running_var = mean, var
        if seen is not None:
            self.num_batches_tracked = seen
        return output


class BatchNorm1d(_BatchNorm):
    """Mean 0 and variance 1 in every channel, over the batch, then ``* weight + bias`` (Ioffe and Szegedy 2015; torch's).

    Input (N, C) or (N, C, L), output the same shape and dtype. In training it normalises with the statistics of the batch,
    and keeps running ones in the buffers ``running_mean``, ``running_var`` (C,) and ``num_batches_tracked``; in evaluation it
    normalises with those.

    Args:
        num_features: channels C.
        eps: added to the variance.
        momentum: the share of a batch in the running statistics; None means the mean over all batches.
        affine: whether there are ``weight`` and ``bias`` (C,), starting at one and zero.
        track_running_stats: whether running statistics are kept; without them evaluation is as training.
        device: where parameters and buffers live, as in :meth:`Module.to`.
        dtype: their dtype.
        bias: whether there is a bias.

    Raises:
        ValueError: from a call: another number of dimensions, or one value a channel in training.
    """

    _dimensions = (2, 3)


class BatchNorm2d(_BatchNorm):
    """Batch normalisation of (N, C, H, W); arguments and errors as :class:`BatchNorm1d` (torch's ``nn.BatchNorm2d``)."""

    _dimensions = (4,)


class BatchNorm3d(_BatchNorm):
    """Batch normalisation of (N, C, D, H, W); arguments and errors as :class:`BatchNorm1d` (torch's ``nn.BatchNorm3d``)."""

    _dimensions = (5,)
