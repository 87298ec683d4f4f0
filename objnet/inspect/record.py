"""One abstract run of a function, as a jaxpr in which every module call is marked.

A hook before and one after each forward leave a mark, an operation without effect whose name holds the number of the call.  What
stands between the two marks is what the module computes; that holds inside scans, branches and checkpoints as well, and
however often jax traces a body, the marks in the final jaxpr are those that count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name

from objnet.nn.global_hooks import register_module_forward_hook, register_module_forward_pre_hook
from objnet.nn.running import path, running
from objnet.transforms.jit import Compiled
from objnet.transforms.lowering import trace

_BEGIN, _END = "objnet.begin:", "objnet.end:"
# Primitives whose jaxprs are the scalar computation of one operation.
_OPERATIONS = ("reduce", "scatter", "select_and", "sort", "cum", "arg")


class Call:
    """One call of a module.

    Attributes:
        path: dotted, from the outermost module running; empty for that one.
        inputs, outputs: pytrees of ``jax.ShapeDtypeStruct``; inputs are ``(args, kwargs)``.
    """

    def __init__(self, module: Any, path: str):
        self.module = module
        self.path = path
        self.inputs: Any = ((), {})
        self.outputs: Any = None


class Recording:
    """The jaxpr of one abstract run.

    Attributes:
        jaxpr: closed; its last ``arguments`` inputs are the function's, its last ``results`` outputs what it returned.
        calls: by the numbers in the marks; not all of them need have a mark in the jaxpr.
    """

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]):
        self.calls: list[Call] = []
        compiled = Compiled(function, (), (), False, False, None, False)
        hooks = (
            register_module_forward_pre_hook(self._begin),
            register_module_forward_hook(self._end, with_kwargs=True),
        )
        self._open: list[int] = []
        try:
            self.jaxpr, self.arguments, self.results = trace(compiled, args, kwargs)
        finally:
            for hook in hooks:
                hook.remove()

    def _begin(self, module: Any, args: Any) -> None:
        self._open.append(len(self.calls))
        checkpoint_name(0, f"{_BEGIN}{len(self.calls)}")
        self.calls.append(Call(module, path(running())))

    def _end(self, module: Any, args: Any, kwargs: Any, output: Any) -> None:
        number = self._open.pop()
        while self.calls[number].module is not module:  # calls that raised, or whose trace started again
            number = self._open.pop()
        self.calls[number].inputs, self.calls[number].outputs = shapes((args, kwargs)), shapes(output)
        checkpoint_name(0, f"{_END}{number}")


def shapes(value: Any) -> Any:
    """``value`` with ``jax.ShapeDtypeStruct`` for arrays and None for anything else."""
    return jax.tree.map(_shape, value, is_leaf=lambda x: hasattr(type(x), "__objnet_capture__"))


def _shape(leaf: Any) -> Any:
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    return None


def mark(equation: Any) -> tuple[bool, int] | None:
    """(whether a call begins, its number) if ``equation`` is a mark."""
    name = equation.params.get("name") if equation.primitive.name == "name" else None
    for prefix in (_BEGIN, _END):
        if isinstance(name, str) and name.startswith(prefix):
            return prefix is _BEGIN, int(name.removeprefix(prefix))
    return None


def inner_jaxprs(equation: Any) -> Iterator[Any]:
    """The jaxprs an equation runs (of a call, loop or branch)."""
    if equation.primitive.name.startswith(_OPERATIONS):
        return
    for value in equation.params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            inner = getattr(item, "jaxpr", item)
            if hasattr(inner, "eqns"):
                yield inner
