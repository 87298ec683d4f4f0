"""Modules, functionals and initial values under torch's names (``torch.nn``)."""

from __future__ import annotations

from objnet.nn import attention, common_types, functional, grad, init, initializers, modules, parallel, parameter, utils
from objnet.nn.deferred import Deferred, to_module
from objnet.nn.factory import factory_kwargs
from objnet.nn.modules import *  # noqa: F403  (every layer has one list of names, in modules/__init__.py)
from objnet.nn.modules.batch_apply import expand_apply
from objnet.nn.parameter import Buffer, Parameter, UninitializedBuffer, UninitializedParameter
from objnet.nn.stacking import rolled, stack_modules, unstack_modules
from objnet.nn.torch_only import DataParallel, intrinsic, qat, quantizable, quantized

__all__ = [
    "Buffer",
    "DataParallel",
    "Deferred",
    "Parameter",
    "UninitializedBuffer",
    "UninitializedParameter",
    "attention",
    "common_types",
    "expand_apply",
    "factory_kwargs",
    "functional",
    "grad",
    "init",
    "initializers",
    "intrinsic",
    "modules",
    "parallel",
    "parameter",
    "qat",
    "quantizable",
    "quantized",
    "rolled",
    "stack_modules",
    "to_module",
    "unstack_modules",
    "utils",
    *modules.__all__,
]
