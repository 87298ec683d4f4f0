"""Batch normalisation whose batch is spread over the members of a mapped axis."""

from __future__ import annotations

from typing import Any

import jax
from jax import lax

from objnet.nn.functional.batchnorm import AxisName
from objnet.nn.module import Module
from objnet.nn.modules.batchnorm import _BatchNorm

__all__ = ["SyncBatchNorm"]


class SyncBatchNorm(_BatchNorm):
    """Batch normalisation with the statistics of all devices (torch's ``nn.SyncBatchNorm``).

    Input (N, C, ...). In training the statistics are summed over a mapped axis of ``jax.pmap``, ``jax.shard_map`` or
    ``jax.vmap``, around the pure form; outside of one, and in evaluation, this is :class:`BatchNorm1d`. Under ``jax.jit``
    with sharded arrays every batch normalisation sees the whole batch, and needs no synchronisation.

    Args:
        num_features, eps, momentum, affine, track_running_stats, device, dtype, bias: as :class:`BatchNorm1d`.
        process_group: the name of the axis, or a tuple of names, in the place of torch's process group. None takes all
            device axes in force, those of ``jax.pmap`` and ``jax.shard_map``; an axis of ``jax.vmap`` must be named.

    Raises:
        ValueError: from a call: fewer than two dimensions, no channels, one value a channel in training, or device axes
            in force of which none is called ``process_group``.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: Any = None,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias)
        self.process_group = process_group

    def _check_input_dim(self, input: jax.Array) -> None:
        if input.ndim < 2:
            raise ValueError(f"expected at least 2D input (got {input.ndim}D input)")
        if input.shape[1] == 0:
            raise ValueError("SyncBatchNorm number of input channels should be non-zero")

    def _synchronised_over(self) -> AxisName:
        devices = tuple(jax.sharding.get_abstract_mesh().manual_axes)
        if self.process_group is None:
            return devices or None
        try:
            lax.axis_size(self.process_group)
        except NameError:
            if not devices:
                return None
            raise ValueError(
                f"SyncBatchNorm: there is no mapped axis {self.process_group!r} here, only {devices}: name one of them "
                "as process_group, or pass None for all"
            ) from None
        return self.process_group

    @classmethod
    def convert_sync_batchnorm(cls, module: Module, process_group: Any = None) -> Module:
        """``module`` with every batch normalisation in it replaced by one of this class, which takes over its Parameters
        and Buffers; a new module if it is one itself (torch's).
        """
        output = module
        if isinstance(module, _BatchNorm):
            output = SyncBatchNorm(
                module.num_features,
                module.eps,
                module.momentum,
                module.affine,
                module.track_running_stats,
                process_group,
                bias=module._parameters["bias"] is not None,
            )
            for name, held in (*module._parameters.items(), *module._buffers.items()):
                setattr(output, name, held)
            output.training = module.training
        for name, child in module.named_children():
            output.add_module(name, cls.convert_sync_batchnorm(child, process_group))
        return output
