"""Optimizers with torch's names, arguments and results; their steps run eagerly and inside ``objnet.jit``."""

from __future__ import annotations

from objnet.optim.adadelta import Adadelta as Adadelta
from objnet.optim.adam import Adam as Adam
from objnet.optim.adamw import AdamW as AdamW
from objnet.optim.optimizer import Optimizer as Optimizer
from objnet.optim.sgd import SGD as SGD

__all__ = ["SGD", "Adadelta", "Adam", "AdamW", "Optimizer"]
