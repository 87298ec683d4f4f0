"""Modules that are built late, or made of a function (Haiku's ``Deferred`` and ``to_module``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from objnet.core import scope
from objnet.nn.module import Module

__all__ = ["Deferred", "to_module"]


class Deferred(Module):
    """A module that is built when it is first called, as its submodule ``target`` (Haiku's ``Deferred``).

    The first call belongs outside of compiled functions and gradients, or inside a pure function.

    Args:
        factory: builds the module; called once, without arguments.
        call_methods: other methods of it that may be called first.
    """

    def __init__(self, factory: Callable[[], Module], call_methods: Sequence[str] = ("__call__",)):
        super().__init__()
        self.factory = factory
        self.call_methods = tuple(call_methods)
        self.register_module("target", None)

    def _built(self) -> Any:
        if self._modules["target"] is None:
            with scope.entered(scope.BUILD):
                self.target = self.factory()
        return self._modules["target"]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._built()(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in self.__dict__.get("call_methods", ()):
                return getattr(self._built(), name)
            target = self.__dict__.get("_modules", {}).get("target")
            if target is None or name.startswith("__"):
                raise
            return getattr(target, name)


def to_module(function: Callable[..., Any]) -> type[Module]:
    """A Module class whose forward is ``function`` (Haiku's ``to_module``); :func:`objnet.get_parameter` and its kin inside
    are the module's own.

    Raises:
        TypeError: ``function`` cannot be called.
    """
    if not callable(function):
        raise TypeError(f"to_module takes a function, got {type(function).__name__}")
    name = getattr(function, "__name__", type(function).__name__)

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    camel = "".join(part[:1].upper() + part[1:] for part in name.split("_")) if name.isidentifier() else "FunctionModule"
    return type(camel, (Module,), {"forward": forward, "__doc__": function.__doc__, "__module__": function.__module__})
