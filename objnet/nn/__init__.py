"""Modules, functionals and initial values under torch's names (``torch.nn``)."""

from __future__ import annotations

from objnet.nn import functional, init, modules, parameter, utils
from objnet.nn.module import Module
from objnet.nn.modules import *  # noqa: F403  (every layer has one list of names, in modules/__init__.py)
from objnet.nn.parameter import Buffer, Parameter

__all__ = ["Buffer", "Module", "Parameter", "functional", "init", "modules", "parameter", "utils", *modules.__all__]
