"""Cross-entropy of yes-or-no targets, as modules."""

from __future__ import annotations

import jax

from objnet.nn import functional as F
from objnet.nn.modules._loss import _Loss, _WeightedLoss

__all__ = ["BCELoss", "BCEWithLogitsLoss", "MultiLabelSoftMarginLoss"]


class BCELoss(_WeightedLoss):
    """Cross-entropy of probabilities and targets in [0, 1], with a weight an element (torch's ``nn.BCELoss``)."""

    def forward(self, input: jax.Array, target: jax.Array) -> jax.Array:
        return F.binary_cross_entropy(input, target, weight=self.weight, reduction=self.reduction)


class BCEWithLogitsLoss(_Loss):
    """:class:`BCELoss` of logits, without overflow (torch's ``nn.BCEWithLogitsLoss``).

    Args:
        weight: broadcasts to the input, the weight of each element.
        pos_weight: broadcasts to the input, the weight of positive targets.
    """

    def __init__(
        self,
        weight: jax.Array | None = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        pos_weight: jax.Array | None = None,
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.register_buffer("weight", weight)
        self.register_buffer("pos_weight", pos_weight)

    def forward(self, input: jax.Array, target: jax.Array) -> jax.Array:
        return F.binary_cross_entropy_with_logits(
            input, target, self.weight, pos_weight=self.pos_weight, reduction=self.reduction
        )


class MultiLabelSoftMarginLoss(_WeightedLoss):
    """The mean over classes of :class:`BCEWithLogitsLoss` (torch's ``nn.MultiLabelSoftMarginLoss``).

    Args:
        weight: shape (C,), the weight of each class.
    """

    def forward(self, input: jax.Array, target: jax.Array) -> jax.Array:
        return F.multilabel_soft_margin_loss(input, target, weight=self.weight, reduction=self.reduction)
