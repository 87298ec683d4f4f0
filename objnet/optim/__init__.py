"""Optimizers with torch's names, arguments and results; their steps run eagerly and inside ``objnet.jit``."""

from __future__ import annotations

from objnet.optim import lr_scheduler as lr_scheduler
from objnet.optim import regularizers as regularizers
from objnet.optim import swa_utils as swa_utils
from objnet.optim.adadelta import Adadelta as Adadelta
from objnet.optim.adafactor import Adafactor as Adafactor
from objnet.optim.adagrad import Adagrad as Adagrad
from objnet.optim.adam import Adam as Adam
from objnet.optim.adamax import Adamax as Adamax
from objnet.optim.adamw import AdamW as AdamW
from objnet.optim.asgd import ASGD as ASGD
from objnet.optim.early_stopping import EarlyStopping as EarlyStopping
from objnet.optim.lbfgs import LBFGS as LBFGS
from objnet.optim.multi_steps import MultiSteps as MultiSteps
from objnet.optim.muon import Muon as Muon
from objnet.optim.nadam import NAdam as NAdam
from objnet.optim.optax_optimizer import Optax as Optax
from objnet.optim.optimizer import Optimizer as Optimizer
from objnet.optim.radam import RAdam as RAdam
from objnet.optim.rmsprop import RMSprop as RMSprop
from objnet.optim.rprop import Rprop as Rprop
from objnet.optim.scan_steps import scan_steps as scan_steps
from objnet.optim.sgd import SGD as SGD
from objnet.optim.torch_only import SparseAdam as SparseAdam
from objnet.optim.torch_only import swap_in_optimizer_params_and_state as swap_in_optimizer_params_and_state

__all__ = [
    "ASGD",
    "LBFGS",
    "SGD",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "EarlyStopping",
    "MultiSteps",
    "Muon",
    "NAdam",
    "Optax",
    "Optimizer",
    "RAdam",
    "RMSprop",
    "Rprop",
    "SparseAdam",
    "lr_scheduler",
    "regularizers",
    "scan_steps",
    "swa_utils",
    "swap_in_optimizer_params_and_state",
]
