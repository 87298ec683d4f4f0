"""Normalisations whose number of channels is that of their first input."""

from __future__ import annotations

from typing import Any

import jax

from objnet.core.arrays import as_array
from objnet.nn.modules._parameters import place
from objnet.nn.modules.batchnorm import BatchNorm1d, BatchNorm2d, BatchNorm3d, _no_batches
from objnet.nn.modules.instancenorm import InstanceNorm1d, InstanceNorm2d, InstanceNorm3d
from objnet.nn.modules.lazy import LazyModuleMixin, materialize
from objnet.nn.parameter import UninitializedBuffer, UninitializedParameter

__all__ = [
    "LazyBatchNorm1d",
    "LazyBatchNorm2d",
    "LazyBatchNorm3d",
    "LazyInstanceNorm1d",
    "LazyInstanceNorm2d",
    "LazyInstanceNorm3d",
]


class _LazyNormBase(LazyModuleMixin):
    """What lazy normalisations share."""

    weight: Any
    bias: Any
    running_mean: Any
    running_var: Any
    num_batches_tracked: Any
    num_features: int

    def __init__(
        self,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(0, eps, momentum, False, False, bias=False)
        self.affine = affine
        self.track_running_stats = track_running_stats
        for name, wanted in (("weight", affine), ("bias", affine and bias)):
            if wanted:
                setattr(self, name, UninitializedParameter(device=device, dtype=dtype))
        if track_running_stats:
            self.running_mean = UninitializedBuffer(device=device, dtype=dtype)
            self.running_var = UninitializedBuffer(device=device, dtype=dtype)
            self.num_batches_tracked = _no_batches()
        place(self, device)  # type: ignore[arg-type]

    def reset_parameters(self) -> None:
        """Forget the batches seen; weight one, bias zero; once there are parameters."""
        if not self.has_uninitialized_params() and self.num_features != 0:
            super().reset_parameters()  # type: ignore[misc]

    def initialize_parameters(self, input: jax.Array) -> None:  # type: ignore[override]
        """Materialise and initialise parameters and buffers.

        Raises:
            AssertionError: only some of them were loaded.
        """
        if self.has_uninitialized_params():
            features = as_array(input).shape[1]
            names = ("weight", "bias", "running_mean", "running_var")
            materialize(self, **dict.fromkeys(names, (features,)))
            self.num_features = features
            self.reset_parameters()


class LazyBatchNorm1d(_LazyNormBase, BatchNorm1d):
    """:class:`BatchNorm1d` whose ``num_features`` is that of the first input (torch's ``nn.LazyBatchNorm1d``).

    Arguments as there without the first.
    """

    cls_to_become = BatchNorm1d


class LazyBatchNorm2d(_LazyNormBase, BatchNorm2d):
    """:class:`BatchNorm2d` whose ``num_features`` is that of the first input (torch's ``nn.LazyBatchNorm2d``).

    Arguments as there without the first.
    """

    cls_to_become = BatchNorm2d


class LazyBatchNorm3d(_LazyNormBase, BatchNorm3d):
    """:class:`BatchNorm3d` whose ``num_features`` is that of the first input (torch's ``nn.LazyBatchNorm3d``).

    Arguments as there without the first.
    """

    cls_to_become = BatchNorm3d


class LazyInstanceNorm1d(_LazyNormBase, InstanceNorm1d):
    """:class:`InstanceNorm1d` whose ``num_features`` is that of the first input (torch's ``nn.LazyInstanceNorm1d``).

    Arguments as there without the first; affine and track_running_stats are True by default.
    """

    cls_to_become = InstanceNorm1d


class LazyInstanceNorm2d(_LazyNormBase, InstanceNorm2d):
    """:class:`InstanceNorm2d` whose ``num_features`` is that of the first input (torch's ``nn.LazyInstanceNorm2d``).

    Arguments as there without the first; affine and track_running_stats are True by default.
    """

    cls_to_become = InstanceNorm2d


class LazyInstanceNorm3d(_LazyNormBase, InstanceNorm3d):
    """:class:`InstanceNorm3d` whose ``num_features`` is that of the first input (torch's ``nn.LazyInstanceNorm3d``).

    Arguments as there without the first; affine and track_running_stats are True by default.
    """

    cls_to_become = InstanceNorm3d
