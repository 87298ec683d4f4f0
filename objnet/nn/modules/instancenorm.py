"""Instance normalisation."""

from __future__ import annotations

import warnings
from typing import Any

import jax

from objnet.core.arrays import as_array
from objnet.nn.functional.batchnorm import instance_norm_stats
from objnet.nn.modules.batchnorm import _NormBase

__all__ = ["InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d"]


class _InstanceNorm(_NormBase):
    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias)

    def _get_no_batch_dim(self) -> int:
        return self._dimensions[0]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *args: Any) -> None:
        stale = [f"{prefix}{name}" for name in ("running_mean", "running_var") if f"{prefix}{name}" in state_dict]
        if local_metadata.get("version") is None and not self.track_running_stats and stale:
            *_, errors = args
            errors.append(
                f"Unexpected running stats buffer(s) {' and '.join(map(repr, stale))} for {type(self).__name__} with "
                "track_running_stats=False: checkpoints saved before torch 0.4 hold them. Remove these keys from the state "
                "dict, or build the layer with track_running_stats=True."
            )
            for key in stale:
                state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def forward(self, input: jax.Array) -> jax.Array:
        input = as_array(input)
        self._check_input_dim(input)
        dim = input.ndim - self._get_no_batch_dim()
        if input.shape[dim] != self.num_features:
            if self.affine:
                raise ValueError(
                    f"expected input's size at dim={dim} to match num_features ({self.num_features}), "
                    f"but got: {input.shape[dim]}."
                )
            message = f"input's size at dim={dim} does not match num_features, which is not used because affine=False"
            warnings.warn(message, UserWarning, stacklevel=5)
        by_input = self.training or not self.track_running_stats
        output, mean, var = instance_norm_stats(
            input if dim else input[None],
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            by_input,
            0.0 if self.momentum is None else self.momentum,
            self.eps,
        )
        if by_input and mean is not None:
            self.running_mean, self.running_var = mean, var
        return output if dim else output[0]


class InstanceNorm1d(_InstanceNorm):
    """Mean 0 and variance 1 in every channel of every example, then ``* weight + bias`` (Ulyanov et al. 2016; torch's).

    Input (N, C, L) or (C, L), output the same shape and dtype.

    Args:
        num_features: channels C.
        eps: added to the variance.
        momentum: the share of a batch in the running statistics; None, as 0, keeps the old ones.
        affine: whether there are ``weight`` and ``bias`` (C,), starting at one and zero.
        track_running_stats: whether running statistics are kept in training, and normalised with in evaluation.
        device: where parameters and buffers live, as in :meth:`Module.to`.
        dtype: their dtype.
        bias: whether an affine layer has a bias.

    Raises:
        ValueError: from a call: another number of dimensions, one value a channel, or with ``affine`` other channels.
            Without ``affine`` other channels warn.
    """

    _dimensions = (2, 3)


class InstanceNorm2d(_InstanceNorm):
    """Instance normalisation of (N, C, H, W) or (C, H, W); arguments and errors as :class:`InstanceNorm1d` (torch's)."""

    _dimensions = (3, 4)


class InstanceNorm3d(_InstanceNorm):
    """Instance normalisation of (N, C, D, H, W) or (C, D, H, W); arguments and errors as :class:`InstanceNorm1d` (torch's)."""

    _dimensions = (4, 5)
