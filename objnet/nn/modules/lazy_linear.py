"""The linear layer whose number of input features is that of its first input."""

from __future__ import annotations

from typing import Any

import jax

from objnet.core.arrays import as_array
from objnet.nn.modules.lazy import LazyModuleMixin, materialize
from objnet.nn.modules.linear import Linear
from objnet.nn.parameter import UninitializedParameter

__all__ = ["LazyLinear"]


class LazyLinear(LazyModuleMixin, Linear):
    """:class:`Linear` whose ``in_features`` is the last size of the first input (torch's ``nn.LazyLinear``).

    Args:
        out_features: size of the last dimension of the output.
        bias: whether there is a bias.
        device: where the parameters live, as in :meth:`Module.to`.
        dtype: their dtype.
    """

    cls_to_become = Linear

    def __init__(self, out_features: int, bias: bool = True, device: Any = None, dtype: Any = None) -> None:
        super().__init__(0, 0, False)
        self.weight = UninitializedParameter(device=device, dtype=dtype)
        self.out_features = out_features
        if bias:
            self.bias = UninitializedParameter(device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        """Draw new initial values, once there are parameters."""
        if not self.has_uninitialized_params() and self.in_features != 0:
            super().reset_parameters()

    def initialize_parameters(self, input: jax.Array) -> None:  # type: ignore[override]
        """Materialise and initialise the parameters.

        Raises:
            AssertionError: a state dict was loaded whose weight is for another number of features.
        """
        features = as_array(input).shape[-1]
        if self.has_uninitialized_params():
            materialize(self, weight=(self.out_features, features), bias=(self.out_features,))
            self.in_features = features
            self.reset_parameters()
        elif self.in_features == 0:
            if self.weight.shape[-1] != features:
                raise AssertionError(f"the input has {features} features, but the weight that was loaded {self.weight.shape[-1]}")
            object.__setattr__(self, "in_features", features)  # past the frames, see LazyModuleMixin._infer_parameters
