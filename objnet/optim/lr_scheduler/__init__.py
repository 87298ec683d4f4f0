"""Learning-rate schedulers with torch's names, arguments, results and state dicts.

A scheduler writes ``group["lr"]`` (and momentum) between calls of a compiled step, which takes them as data: no schedule costs
a retrace.
"""

from __future__ import annotations

from objnet.optim.lr_scheduler.base import LRScheduler as LRScheduler
from objnet.optim.lr_scheduler.base import _LRScheduler as _LRScheduler
from objnet.optim.lr_scheduler.composites import ChainedScheduler as ChainedScheduler
from objnet.optim.lr_scheduler.composites import SequentialLR as SequentialLR
from objnet.optim.lr_scheduler.cosine import CosineAnnealingLR as CosineAnnealingLR
from objnet.optim.lr_scheduler.cosine import CosineAnnealingWarmRestarts as CosineAnnealingWarmRestarts
from objnet.optim.lr_scheduler.cyclic import CyclicLR as CyclicLR
from objnet.optim.lr_scheduler.decays import ConstantLR as ConstantLR
from objnet.optim.lr_scheduler.decays import ExponentialLR as ExponentialLR
from objnet.optim.lr_scheduler.decays import LinearLR as LinearLR
from objnet.optim.lr_scheduler.decays import MultiStepLR as MultiStepLR
from objnet.optim.lr_scheduler.decays import PolynomialLR as PolynomialLR
from objnet.optim.lr_scheduler.decays import StepLR as StepLR
from objnet.optim.lr_scheduler.functions import LambdaLR as LambdaLR
from objnet.optim.lr_scheduler.functions import MultiplicativeLR as MultiplicativeLR
from objnet.optim.lr_scheduler.one_cycle import OneCycleLR as OneCycleLR
from objnet.optim.lr_scheduler.plateau import ReduceLROnPlateau as ReduceLROnPlateau

__all__ = [
    "ChainedScheduler",
    "ConstantLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "CyclicLR",
    "ExponentialLR",
    "LRScheduler",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "MultiplicativeLR",
    "OneCycleLR",
    "PolynomialLR",
    "ReduceLROnPlateau",
    "SequentialLR",
    "StepLR",
]
