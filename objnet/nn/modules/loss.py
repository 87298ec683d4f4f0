"""Losses as modules, one Python module a kind; this one has them all.

All take a ``reduction``: ``"mean"``, ``"sum"`` or ``"none"``, checked at the call.  ``size_average`` and ``reduce`` are torch's
deprecated flags, which decide, with a warning, where one is given.
"""

from __future__ import annotations

from objnet.nn.modules.binary_loss import BCELoss, BCEWithLogitsLoss, MultiLabelSoftMarginLoss
from objnet.nn.modules.class_loss import CrossEntropyLoss, CTCLoss, LinearCrossEntropyLoss, NLLLoss, NLLLoss2d
from objnet.nn.modules.distribution_loss import GaussianNLLLoss, KLDivLoss, PoissonNLLLoss
from objnet.nn.modules.embedding_loss import CosineEmbeddingLoss, TripletMarginLoss, TripletMarginWithDistanceLoss
from objnet.nn.modules.margin_loss import (
    HingeEmbeddingLoss,
    MarginRankingLoss,
    MultiLabelMarginLoss,
    MultiMarginLoss,
    SoftMarginLoss,
)
from objnet.nn.modules.regression_loss import HuberLoss, L1Loss, MSELoss, SmoothL1Loss

__all__ = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "CTCLoss",
    "CosineEmbeddingLoss",
    "CrossEntropyLoss",
    "GaussianNLLLoss",
    "HingeEmbeddingLoss",
    "HuberLoss",
    "KLDivLoss",
    "L1Loss",
    "LinearCrossEntropyLoss",
    "MSELoss",
    "MarginRankingLoss",
    "MultiLabelMarginLoss",
    "MultiLabelSoftMarginLoss",
    "MultiMarginLoss",
    "NLLLoss",
    "NLLLoss2d",
    "PoissonNLLLoss",
    "SmoothL1Loss",
    "SoftMarginLoss",
    "TripletMarginLoss",
    "TripletMarginWithDistanceLoss",
]
