"""Losses over classes, as modules."""

from __future__ import annotations

import math
from typing import Any

import jax
from typing_extensions import deprecated

from objnet.nn import functional as F
from objnet.nn.modules._loss import _Loss, _WeightedLoss
from objnet.nn.modules.linear import Linear
from objnet.nn.modules.linear_cross_entropy_options import LinearCrossEntropyOptions

__all__ = ["CTCLoss", "CrossEntropyLoss", "LinearCrossEntropyLoss", "NLLLoss", "NLLLoss2d"]


class NLLLoss(_WeightedLoss):
    """Minus the log-probability of the target class (torch's ``nn.NLLLoss``).

    Args:
        weight: shape (C,), the weight of each class.
        ignore_index: targets of this class do not count.
    """

    def __init__(
        self,
        weight: jax.Array | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(weight, size_average, reduce, reduction)
        self.ignore_index = ignore_index

    def forward(self, input: jax.Array, target: jax.Array) -> jax.Array:
        return F.nll_loss(input, target, weight=self.weight, ignore_index=self.ignore_index, reduction=self.reduction)


@deprecated("NLLLoss2d is deprecated: use NLLLoss, which takes the same arguments and inputs", category=FutureWarning)
class NLLLoss2d(NLLLoss):
    """:class:`NLLLoss` under an old name, with torch's warning."""

    def __init__(
        self,
        weight: jax.Array | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(weight, size_average, ignore_index, reduce, reduction)


class CrossEntropyLoss(_WeightedLoss):
    """Cross-entropy of logits and classes or class probabilities (torch's ``nn.CrossEntropyLoss``).

    Args:
        weight: shape (C,), the weight of each class.
        ignore_index: target classes of this number do not count.
        label_smoothing: in [0, 1], the share of the uniform distribution in the target (Szegedy et al. 2016).
    """

    def __init__(
        self,
        weight: jax.Array | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(weight, size_average, reduce, reduction)
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing

    def forward(self, input: jax.Array, target: jax.Array) -> jax.Array:
        return F.cross_entropy(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )


class LinearCrossEntropyLoss(_WeightedLoss):
    """A :class:`Linear` layer without or with bias, and :class:`CrossEntropyLoss` (torch's ``nn.LinearCrossEntropyLoss``).

    Input (N, in_features) or (in_features,); target as for logits (N, num_classes, *out_features).

    Args:
        in_features: size of the input.
        num_classes: number of classes.
        out_features: further dimensions of the logits.
        bias: whether the layer has a bias.
        device, dtype: of the layer.
        weight: shape (num_classes,), the weight of each class.
        ignore_index: target classes of this number do not count; None is -100, and nothing for probabilities.
        label_smoothing: in [0, 1], the share of the uniform distribution in the target.
        options: do the rows in chunks, so that only a chunk's logits are in memory.

    Raises:
        RuntimeError: a weight of another shape, ``label_smoothing`` out of range.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        out_features: tuple[int, ...] = (),
        bias: bool = False,
        device: Any = None,
        dtype: Any = None,
        reduction: str = "mean",
        weight: jax.Array | None = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        options: LinearCrossEntropyOptions | None = None,
    ) -> None:
        if weight is not None and tuple(weight.shape) != (num_classes,):
            raise RuntimeError(f"the weight must have the shape {(num_classes,)}, got {tuple(weight.shape)}")
        if not 0.0 <= label_smoothing <= 1.0:
            raise RuntimeError(f"label_smoothing must be in [0, 1], got {label_smoothing}")
        super().__init__(weight, None, None, reduction)
        self.num_classes = num_classes
        self.out_features = out_features
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing
        self.linear = Linear(in_features, math.prod(out_features, start=num_classes), bias=bias, device=device, dtype=dtype)
        self.options = options

    def forward(self, input: jax.Array, target: jax.Array) -> jax.Array:
        outputs = (self.num_classes, *self.out_features)
        bias = self.linear.bias
        return F.linear_cross_entropy(
            input,
            self.linear.weight.reshape(*outputs, self.linear.in_features),
            target,
            linear_bias=None if bias is None else bias.reshape(outputs),
            weight=self.weight,
            reduction=self.reduction,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            options=self.options,
        )

    def extra_repr(self) -> str:
        names = ("num_classes", "out_features", "bias", "reduction", "ignore_index", "label_smoothing", "options")
        shown = {n: self.linear.bias is not None if n == "bias" else getattr(self, n) for n in names}
        return ", ".join(f"{n}={v}" for n, v in {"in_features": self.linear.in_features, **shown}.items())


class CTCLoss(_Loss):
    """Connectionist temporal classification (Graves et al. 2006; torch's ``nn.CTCLoss``).

    Args:
        blank: the class between labels.
        reduction: ``"mean"`` first divides each loss by the length of its target.
        zero_infinity: losses that are infinite are zero and have gradient zero.
    """

    def __init__(self, blank: int = 0, reduction: str = "mean", zero_infinity: bool = False) -> None:
        super().__init__(reduction=reduction)
        self.blank = blank
        self.zero_infinity = zero_infinity

    def forward(self, log_probs: jax.Array, targets: jax.Array, input_lengths: jax.Array, target_lengths: jax.Array) -> jax.Array:
        return F.ctc_loss(log_probs, targets, input_lengths, target_lengths, self.blank, self.reduction, self.zero_infinity)
