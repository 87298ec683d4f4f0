"""Ahead-of-time stages of a compiled function (``jax.stages``): lowered, compiled, without a call and without a change of state."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax

from objnet.core import errors, frame
from objnet.core.reads import Reads
from objnet.core.rng import key_stream
from objnet.core.variable import Variable
from objnet.transforms.program import Binding, ReadMore, Relayout, in_progress


class Lowered:
    """A compiled function's program for given shapes, as StableHLO (the counterpart of ``jax.stages.Lowered``)."""

    def __init__(self, function: Any, binding: Binding, rebuild: Any, facts: Any, lowered: jax.stages.Lowered):
        self._function = function
        self._binding = binding
        self._rebuild = rebuild
        self._facts = facts
        self._lowered = lowered
        self._executable: Executable | None = None

    def compile(self, compiler_options: Any = None) -> Executable:
        """The executable.

        Args:
            compiler_options: XLA's, beside those of the function.
        """
        if compiler_options is not None:
            return self._compile(self._lowered.compile(compiler_options))
        if self._executable is None:
            self._executable = self._compile(self._lowered.compile())
        return self._executable

    def _compile(self, compiled: jax.stages.Compiled) -> Executable:
        return Executable(self._function, self._binding, self._rebuild, self._facts, compiled)

    def as_text(self, dialect: str | None = None, *, debug_info: bool = False) -> str:
        """The program's text.

        Args:
            dialect: ``"stablehlo"`` (the default) or ``"hlo"``.
            debug_info: whether to show locations, which name the module path of each operation.
        """
        return self._lowered.as_text(dialect, debug_info=debug_info)

    def cost_analysis(self) -> Any:
        """XLA's estimates (``"flops"``, ``"bytes accessed"``, ...) before optimisation; None where the backend gives none."""
        return self._lowered.cost_analysis()

    def memory_analysis(self) -> Any:
        """Sizes of arguments, results and temporaries in bytes; compiles, once."""
        return self.compile().memory_analysis()

    def compiler_ir(self, dialect: str | None = None) -> Any:
        """The program as an object of the compiler's (``jax.stages.Lowered.compiler_ir``)."""
        return self._lowered.compiler_ir(dialect)

    @property
    def out_info(self) -> Any:
        """Shapes and dtypes of what the function returns."""
        return self._lowered.out_info[-1]

    @property
    def reads(self) -> list[Variable]:
        """The Variables the program takes."""
        return [*self._binding.donated, *self._binding.kept]

    @property
    def writes(self) -> list[Variable]:
        """The Variables the program gives new values."""
        return [*self._binding.out, *self._binding.constants]


class Executable:
    """A program compiled ahead of time: called like the function, it reads and writes the same Variables.

    Args of a call have the shapes and dtypes it was lowered for; it never traces again.
    """

    def __init__(self, function: Any, binding: Binding, rebuild: Any, facts: Any, compiled: jax.stages.Compiled):
        self._function = function
        self._rebuild = rebuild
        self._facts = facts
        self._compiled = compiled
        self._watch = binding.watch
        self._binding = copy.copy(binding)
        self._binding.program = copy.copy(binding.program)
        self._binding.program.donating = compiled  # type: ignore[assignment]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it on the Variables' current values.

        Raises:
            TypeError: arguments of another structure, shape or dtype.
            CompiledCallError: what the program was made from (a mode, an attribute, a global) has changed since.
        """
        dynamic, _, rebuild = self._function._split(args, kwargs)
        statics = () if self._rebuild is None else self._rebuild[2]
        if _arguments(rebuild, len(dynamic)) != _arguments(self._rebuild, self._count()):
            raise TypeError(f"{self._function._name()} was lowered for other arguments: arrays and static values in other places")
        if not self._watch.valid() and self._function._capture(statics, Reads(self._binding.kinds))[1] != self._facts:
            raise errors.CompiledCallError(
                f"{self._function._name()} was compiled ahead of time, and a mode, attribute, global or class it was made from "
                "has changed since: lower and compile it again."
            )
        return self._function._run(self._binding, dynamic, self._rebuild, ())

    def _count(self) -> int:
        return len(self._compiled.in_tree.children()[0].children()[2].children())

    def as_text(self) -> str:
        """The optimised program's text."""
        return self._compiled.as_text() or ""

    def cost_analysis(self) -> Any:
        """XLA's estimates (``"flops"``, ``"bytes accessed"``, ...) after optimisation; None where the backend gives none."""
        return self._compiled.cost_analysis()

    def memory_analysis(self) -> Any:
        """Sizes of arguments, results and temporaries in bytes."""
        return self._compiled.memory_analysis()


def _arguments(rebuild: Any, count: int) -> Any:
    """The structure of arguments without shapes, and what is static."""
    if rebuild is None:
        rebuild = (jax.tree.structure(((0,) * count, {})), (None,) * count, ())
    return rebuild[0], tuple(kind if kind is None or not isinstance(kind[0], tuple) else None for kind in rebuild[1])


@contextmanager
def call_in_progress(*call: Any) -> Iterator[None]:
    """Say to a trace that jax may make here which call it is for."""
    calling = in_progress.__dict__
    previous = calling.get("call")
    calling["call"] = call
    try:
        yield
    finally:
        calling["call"] = previous


def values_of(variables: Sequence[Variable]) -> list[Any]:
    """The values as they are, exposing none.

    Raises:
        UnsetVariableError: one has no value.
    """
    for v in variables:
        if v._value is frame.UNSET:
            raise v.unset()
    return [v._value for v in variables]


def _refuse_inside(function: Any) -> None:
    if frame.current() is not None or frame.trace_state() != frame.CLEAN:
        raise errors.CompiledCallError(
            f"{function._name()} was lowered inside a transform{errors.where()}: lower it outside, on jax.ShapeDtypeStruct arguments."
        )


def bind_abstract(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Binding, Any, Any, Any]:
    """Capture and trace a compiled function on arrays or ``jax.ShapeDtypeStruct``: binding, arrays, rebuild, first trace."""
    _refuse_inside(function)
    dynamic, signature, rebuild = function._split(args, kwargs, abstract=True)
    binding = function._bindings.get(signature)
    first: Any = ()
    if binding is None or not binding.watch.valid():
        binding, first = function._bind(signature, dynamic, rebuild)
    return binding, dynamic, rebuild, first


def lower(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Lowered:
    """Lower a compiled function; see ``Compiled.lower``."""
    while True:
        binding, dynamic, rebuild, first = bind_abstract(function, args, kwargs)
        try:
            with call_in_progress(function, binding, rebuild, first):
                lowered = binding.program.donating.lower(values_of(binding.donated), values_of(binding.kept), dynamic)
            break
        except ReadMore:
            function._bindings.clear()
        except (Relayout, frame.Unlifted):
            function._separate_shapes()
    facts = function._capture(() if rebuild is None else rebuild[2], Reads(binding.kinds))[1]
    return Lowered(function, binding, rebuild, facts, lowered)


def trace(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, int, int]:
    """A compiled function's whole jaxpr, how many of its last inputs are the arguments, and of its last outputs the result."""
    _refuse_inside(function)
    dynamic, _, rebuild = function._split(args, kwargs, abstract=True)
    met: list[Variable] = []
    while True:
        capture, _ = function._capture(() if rebuild is None else rebuild[2])
        lifted = list(dict.fromkeys([*capture.variables, key_stream, *met]))
        try:
            _, jaxpr, shapes, _ = function._first_trace(capture, lifted, dynamic, rebuild)
            return jaxpr, len(jax.tree.leaves(dynamic)), len(jax.tree.leaves(shapes[-1]))
        except ReadMore:
            continue
        except frame.Unlifted as missing:
            met.append(missing.variable)
