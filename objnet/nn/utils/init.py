"""Modules without initial values."""

from __future__ import annotations

import inspect
from typing import Any

from objnet.core import rng
from objnet.nn.module import Module

__all__ = ["skip_init"]


def skip_init(module_cls: Any, *args: Any, **kwargs: Any) -> Any:
    """Build ``module_cls(*args, **kwargs)`` without drawing random numbers (torch); zeros stand in for what would be drawn.

    Raises:
        RuntimeError: it is no Module class, or its constructor takes no ``device``.
    """
    if not issubclass(module_cls, Module):
        raise RuntimeError(f"Expected a Module; got {module_cls}")
    if "device" not in inspect.signature(module_cls).parameters:
        raise RuntimeError(f"Module must support a 'device' arg to skip initialization: {module_cls.__name__} does not")
    with rng.nothing_drawn():
        return module_cls(*args, **kwargs)
