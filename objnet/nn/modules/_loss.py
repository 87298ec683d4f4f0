"""What loss modules share: a ``reduction``, checked at the call, and torch's deprecated flags, which decide where given."""

from __future__ import annotations

import jax

from objnet.nn.functional._common import resolve_reduction
from objnet.nn.module import Module


class _Loss(Module):
    def __init__(self, size_average: bool | None = None, reduce: bool | None = None, reduction: str = "mean") -> None:
        super().__init__()
        legacy = size_average is not None or reduce is not None
        self.reduction = resolve_reduction(reduction, size_average, reduce) if legacy else reduction


class _WeightedLoss(_Loss):
    """A loss with a weight, which is a buffer and so in the state dict."""

    def __init__(
        self,
        weight: jax.Array | None = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.register_buffer("weight", weight)
