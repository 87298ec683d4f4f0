"""Tracing a function of the user's: what it can reach, one run of it over tracers, and what that run changed.

Attribute writes on modules are noted and repeated after every call; what no program can repeat is refused.
"""

from __future__ import annotations

import functools
import itertools
import types
from typing import Any

import jax

from objnet.core import errors, frame
from objnet.core.capture import Capture
from objnet.core.reads import Names, Reads, recording
from objnet.core.variable import Parameter, Variable
from objnet.core.watch import Snapshot
from objnet.transforms.arguments import join
from objnet.transforms.differences import NamedCapture
from objnet.transforms.program import Found, ProgramFrame, ReadMore, initial


class Traceable:
    """A function to be traced.

    Args:
        function: the user's.
        keep_grads: whether gradients an optimizer consumes inside leave the program.
        ignored: what its code changes while it is traced (a counter of traces), by identity.
        reads: which attributes of plain objects its traces have read.
        named: whether the walk over what it reaches keeps names for explanations.
    """

    def __init__(self, function: Any, keep_grads: bool, ignored: dict[Any, Any], reads: Reads, named: bool):
        self._function = function
        self._keep_grads = keep_grads
        self._ignored = ignored
        self._reads = reads
        self._named = named

    def _capture(self, statics: Any, reads: Reads | None = None) -> tuple[Capture, Any]:
        """Walk what the function reaches; optimizers make their state first, so that one trace suffices."""
        prepared: set[int] = set()
        while True:
            capture = (NamedCapture if self._named else Capture)(self._ignored, self._reads if reads is None else reads)
            facts = capture.walk(self._function, statics)
            waiting = [o for o in capture.objects if id(o) not in prepared and hasattr(o, "__objnet_prepare__")]
            if not waiting:
                return capture, facts
            prepared.update(map(id, waiting))
            for o in waiting:
                o.__objnet_prepare__()

    def _first_trace(self, capture: Capture, lifted: list[Variable], dynamic: Any, rebuild: Any) -> Any:
        """Trace to a jaxpr, and refuse what the trace changed and no program can repeat."""
        snapshot = Snapshot(capture)
        found: list[Found] = []

        def body(values: list[Any], dynamic: tuple[Any, ...]) -> list[Any]:
            trace, result = self._trace(dict(zip(lifted, values, strict=True)), rebuild, dynamic, capture.kinds)
            trace.create_others(lifted)
            found.append(trace)
            out = [list(trace.out.values()), list(trace.created_values), result]
            trace.drop_tracers()
            return out

        starts = [initial(v) for v in lifted]
        try:
            jaxpr, shapes = jax.make_jaxpr(body, return_shape=True)(starts, dynamic)
        except BaseException as error:
            snapshot.restore()
            if frame.is_leak(error):
                raise frame.leaked_error() from error
            raise
        if found[0].more and capture.left_out(found[0].more):
            snapshot.restore()  # of which the snapshot knows not all
            raise ReadMore
        changes = snapshot.changes()
        for key, owner, values, instance in changes:
            if instance is not None or not frame.is_concrete(values):
                snapshot.restore()
                where, more = type(instance).__name__, ""
                if instance is None:
                    where = "a global, an enclosing variable, a list or a dict"
                    more = (
                        ' A hook that keeps a feature can write setattr(module, "feature", output); or take the value out again '
                        "before the function returns, to return it: features.pop(...)."
                    )
                raise errors.StaticAttributeError(
                    f"{where} was changed inside {self._name()}{self._changed_names(values)}: that would happen once, when the "
                    f"function is traced, and not at every call. Return the value, or hold it as an array attribute of a module.{more}"
                )
            self._ignored[key] = owner
        found[0].changed = bool(changes)
        if found[0].offered:
            inputs = iter(jaxpr.jaxpr.invars)
            by_variable = {
                v: [*itertools.islice(inputs, len(jax.tree.leaves(value)))] for v, value in zip(lifted, starts, strict=True)
            }
            found[0].read_offered(jaxpr.jaxpr, by_variable)
        return found[0], jaxpr, shapes, lifted

    @staticmethod
    def _changed_names(values: Any) -> str:
        return f" ({', '.join(map(str, values))})" if isinstance(values, dict) and values else ""

    def _trace(self, values: dict[Variable, Any], rebuild: Any, dynamic: Any, kinds: Names) -> tuple[Found, Any]:
        """Run the user's function once over tracers, noting which attributes of instances of ``kinds`` it reads."""
        with recording(kinds) as read:
            try:
                traced = self._run_once(values, rebuild, dynamic)
            except BaseException:
                self._reads.add(read, kinds, finished=False)
                raise
        traced[0].more = self._reads.add(read, kinds)
        return traced

    def _run_once(self, values: dict[Variable, Any], rebuild: Any, dynamic: Any) -> tuple[Found, Any]:
        inner = ProgramFrame()
        leaves = {v: jax.tree.leaves(value) for v, value in values.items()}
        frozen = {v: v.requires_grad for v in values if isinstance(v, Parameter)}
        try:
            with inner.open():
                for v, value in values.items():
                    inner.values[v] = v._value if value is None and isinstance(v._value, frame.Sentinel) else value
                if rebuild is None:
                    result = self._function(*dynamic)
                else:
                    args, kwargs = join(rebuild, dynamic)
                    result = self._function(*args, **kwargs)
                result = jax.tree.map(lambda x: x, result)  # Parameters become arrays
                for v, before in frozen.items():
                    if v.requires_grad != before:
                        raise errors.CompiledCallError(
                            f"requires_grad of {v.describe()} was changed inside {self._name()}: change it outside, between calls."
                        )
                found = Found(inner, result, values, leaves, self._keep_grads)
                inner.rollback()  # attribute writes are repeated after every call, with that call's values
            return found, result
        finally:
            inner.close()

    def _name(self) -> str:
        return getattr(self._function, "__qualname__", type(self._function).__name__)

    def _short_name(self) -> str:
        """What the program is called in HLO and in profiles."""
        return getattr(unwrapped(self._function), "__name__", type(unwrapped(self._function)).__name__)


def under_plain_jit() -> bool:
    """Whether a plain jax transform is tracing here, so that only what is really read may be touched (and refused)."""
    return frame.current() is None and frame.trace_state() != frame.CLEAN and frame.staged()


def relatives(v: Variable) -> list[Variable]:
    """Every Variable of the model that ``v`` belongs to, so that an unreachable model costs one more trace, not many."""
    root: Any = v
    while (home := getattr(root, "_home", None)) is not None and home[0]() is not None:
        root = home[0]()
    if not hasattr(root, "__objnet_capture__"):
        return []
    capture = Capture()
    capture.visit(root)
    return capture.variables


def unwrapped(function: Any) -> Any:
    """The function behind methods, partials and transforms."""
    function = getattr(function, "__objnet_anchor__", function)
    while isinstance(function, (types.MethodType, functools.partial)):
        function = function.__func__ if isinstance(function, types.MethodType) else function.func
    return function
