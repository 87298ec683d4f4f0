"""Which modules are running, innermost last: their dotted path, for errors, for checks and for the names of operations."""

from __future__ import annotations

import itertools
from typing import Any

from objnet.core import scope
from objnet.nn.habits import advice


def running() -> list[Any]:
    """The modules whose forwards are running here, the outermost first."""
    stack: list[Any] = []
    here = scope.current()
    while here is not None:
        if here.kind is scope.FORWARD and (not stack or stack[-1] is not here.module):
            stack.append(here.module)
        here = here.outer
    stack.reverse()
    return stack


def path(stack: list[Any]) -> str:
    """Dotted path from the outermost running module to the innermost, as far as one holds the next."""
    parts: list[str] = []
    for outer, inner in itertools.pairwise(stack):
        for name, module in outer.named_modules():
            if module is inner:
                if name:
                    parts.append(name)
                break
        else:
            parts = []  # called without being held: the path starts anew
    return ".".join(parts)


def described(stack: list[Any]) -> str:
    """``encoder.layers.3.linear1 (Linear(in_features=512, out_features=2048))``."""
    where = path(stack)
    return f"{where} ({summary(stack[-1])})" if where else summary(stack[-1])


def summary(module: Any) -> str:
    """The first line of a module's ``repr``, closed."""
    with scope.outside():  # where a parameter that has no value yet is not read
        head = repr(module).split("\n")[0]
    return head if head.endswith(")") else f"{type(module).__name__}(...)"


def note_path(error: Exception) -> None:
    """Add to an exception from a forward the path of the innermost module it left, once."""
    if getattr(error, "_objnet_noted", False):
        return
    try:
        error._objnet_noted = True  # type: ignore[attr-defined]
    except AttributeError:
        return
    error.add_note(f"in {described(running())}")
    if (line := advice(error)) is not None:
        error.add_note(line)


def operation_scope(module: Any) -> str:
    """The name of a running module's operations in programs and profiles: its path from the module that called it."""
    here = scope.current()
    while here is not None and (here.kind is not scope.FORWARD or here.module is module):
        here = here.outer
    caller = None if here is None else here.module
    names: list[str] = []
    held: Any = module
    while held is not caller and caller is not None:
        home = held._home
        held = None if home is None else home[0]()
        if held is None:
            break
        names.append(home[1])
    return ".".join(reversed(names)) if names and held is caller else type(module).__name__
