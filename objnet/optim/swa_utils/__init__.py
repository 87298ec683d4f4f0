"""Averages of a model's parameters over training, and what goes with them (torch's ``optim.swa_utils``).

The one part of ``objnet.optim`` that imports ``objnet.nn``: an averaged model is a Module. Nothing of ``objnet.nn`` imports
``objnet.optim``.
"""

from __future__ import annotations

from objnet.optim.swa_utils.averaged_model import AveragedModel as AveragedModel
from objnet.optim.swa_utils.batch_statistics import update_bn as update_bn
from objnet.optim.swa_utils.functions import get_ema_avg_fn as get_ema_avg_fn
from objnet.optim.swa_utils.functions import get_ema_multi_avg_fn as get_ema_multi_avg_fn
from objnet.optim.swa_utils.functions import get_swa_avg_fn as get_swa_avg_fn
from objnet.optim.swa_utils.functions import get_swa_multi_avg_fn as get_swa_multi_avg_fn
from objnet.optim.swa_utils.swalr import SWALR as SWALR

__all__ = [
    "SWALR",
    "AveragedModel",
    "get_ema_avg_fn",
    "get_ema_multi_avg_fn",
    "get_swa_avg_fn",
    "get_swa_multi_avg_fn",
    "update_bn",
]
