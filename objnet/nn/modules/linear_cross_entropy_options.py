"""How ``linear_cross_entropy`` goes through its rows."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Literal

import jax.numpy as jnp

__all__ = ["LinearCrossEntropyOptions"]

_METHOD = re.compile("aspect_ratio(:0*[1-9][0-9]*)?")
_POLICIES = ("accurate", "balanced", "compact")
_DTYPES = ("float16", "bfloat16", "float32", "float64")


@dataclasses.dataclass(slots=True, frozen=True)
class LinearCrossEntropyOptions:
    """Chunks and precision of ``linear_cross_entropy`` (torch's ``nn.LinearCrossEntropyOptions``).

    It pays where there are more rows than features, and more classes than features.

    Args:
        allow_retain_graph: torch's, whose chunks can otherwise be differentiated only once. Here they always can, any number
            of times and to any order, at no cost: both values mean the same.
        batch_chunk_size: rows of a chunk; None leaves it to ``chunking_method``.
        chunking_method: ``"aspect_ratio"`` gives a chunk's logits about the size of the input: the rows divided by
            ``num_classes / in_features``, rounded up to a power of two; ``"aspect_ratio:N"`` a size N times smaller; ``"auto"``
            one of them, by device and dtype; None all rows at once, where ``batch_chunk_size`` gives no size.
        acc_policy: ``"accurate"`` multiplies with the gradient of the logits in ``acc_dtype``; ``"balanced"`` rounds it to
            the input's dtype first; ``"compact"`` also adds up the weight's gradient in the input's dtype; ``"auto"`` is
            ``"accurate"`` for half precision on CPUs, else ``"compact"``.
        acc_dtype: dtype of the logits, and of what is added up: float32 for half precision inputs, or the input's own, which
            None is too unless ``acc_policy`` is ``"auto"`` and the input half precision.

    Raises:
        ValueError: any other value; at the call, a ``batch_chunk_size`` and a ``chunking_method`` that disagree.
    """

    allow_retain_graph: bool = False
    batch_chunk_size: int | None = None
    chunking_method: str | None = "auto"
    acc_policy: Literal["accurate", "balanced", "compact", "auto"] = "auto"
    acc_dtype: Any = None

    def __post_init__(self) -> None:
        if self.acc_policy not in (*_POLICIES, "auto"):
            raise ValueError(f"invalid acc_policy: {self.acc_policy!r}: pass one of {(*_POLICIES, 'auto')}")
        if self.chunking_method not in (None, "auto") and not _METHOD.fullmatch(str(self.chunking_method)):
            valid = "'auto', 'aspect_ratio', 'aspect_ratio:N' or None"
            raise ValueError(f"invalid chunking_method: {self.chunking_method!r}: pass {valid}")
        size = self.batch_chunk_size
        if size is not None and not (isinstance(size, int) and size > 0):
            raise ValueError(f"batch_chunk_size must be a positive int or None, got {size!r}")
        if self.acc_dtype is not None and jnp.dtype(self.acc_dtype).name not in _DTYPES:
            raise ValueError(f"acc_dtype must be one of {_DTYPES} or None, got {self.acc_dtype!r}")
