"""Losses, one module a kind; this one has them all.

``size_average`` and ``reduce`` are torch's legacy flags: where given they decide, with torch's warning.
"""

from __future__ import annotations

from objnet.nn.functional.binary_loss import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    multilabel_soft_margin_loss,
)
from objnet.nn.functional.class_loss import cross_entropy, nll_loss
from objnet.nn.functional.ctc import ctc_loss
from objnet.nn.functional.distribution_loss import gaussian_nll_loss, kl_div, poisson_nll_loss
from objnet.nn.functional.embedding_loss import (
    cosine_embedding_loss,
    triplet_margin_loss,
    triplet_margin_with_distance_loss,
)
from objnet.nn.functional.linear_cross_entropy import linear_cross_entropy
from objnet.nn.functional.margin_loss import (
    hinge_embedding_loss,
    margin_ranking_loss,
    multi_margin_loss,
    multilabel_margin_loss,
    soft_margin_loss,
)
from objnet.nn.functional.regression_loss import huber_loss, l1_loss, mse_loss, smooth_l1_loss

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cosine_embedding_loss",
    "cross_entropy",
    "ctc_loss",
    "gaussian_nll_loss",
    "hinge_embedding_loss",
    "huber_loss",
    "kl_div",
    "l1_loss",
    "linear_cross_entropy",
    "margin_ranking_loss",
    "mse_loss",
    "multi_margin_loss",
    "multilabel_margin_loss",
    "multilabel_soft_margin_loss",
    "nll_loss",
    "poisson_nll_loss",
    "smooth_l1_loss",
    "soft_margin_loss",
    "triplet_margin_loss",
    "triplet_margin_with_distance_loss",
]
