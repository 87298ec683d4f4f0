"""How a function that jax runs many times for one trace (a loop's body, a branch) reads and writes Variables.

Such a program has to say before it is traced what it carries.  A trace starts from what is known to be written; where the
function writes more, the trace is given up and starts again with that too.  What is only read is read from outside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax

from objnet.core import errors, frame
from objnet.core.tensor import TensorMethods
from objnet.core.variable import Gradient, Variable
from objnet.transforms.jit import jit

T = TypeVar("T")


class Rewritten(frame.Abort):
    """A function wrote Variables that its program does not carry."""

    def __init__(self, inner: ThreadedFrame, variables: Sequence[Variable]):
        self.frame = inner
        self.variables = variables


class Restructured(frame.Abort):
    """A function created a Variable, or gave one another structure, shape or dtype, which a program cannot carry."""

    def __init__(self, inner: ThreadedFrame, error: errors.ObjnetError):
        self.frame = inner
        self.error = error


class ThreadedFrame(frame.Frame):
    """The frame of a function whose program carries Variables; made outside, and opened once for each trace.

    Args:
        carried: the Variables whose values go in and come out.
        what: the transform's name, for messages.
    """

    repeats = True

    def __init__(self, carried: Sequence[Variable], what: str):
        super().__init__()
        self.carried = dict.fromkeys(carried)  # in order; a list would compare its items by ==, which Parameters give to arrays
        self.what = what
        self.changed: dict[Variable, None] = {}  # written in any trace
        self.used_up: dict[Variable, None] = {}
        self._needed: dict[Variable, None] = {}  # read in any trace
        self.start = [_held(v) for v in self.carried]

    @property
    def inputs(self) -> list[Any]:
        """The values of the carried Variables outside; None where there is no array."""
        return [None if isinstance(value, frame.Sentinel) else value for value in self.start]

    def call(
        self, values: Sequence[Any], function: Callable[..., Any], *args: Any, rows: dict[Variable, Any] | None = None
    ) -> Any:
        """Run ``function`` once, the carried Variables holding ``values``; its result, and the values in the end.

        Args:
            rows: values of Variables of which each run has its own; what is written to those is put there.
        """
        for held in (self.values, self.read, self.written, self.created, self.first, self.consumed):
            held.clear()
        rows = {} if rows is None else rows
        with self.open():
            for v, value, at_first in zip(self.carried, values, self.start, strict=True):
                self.values[v] = at_first if isinstance(at_first, frame.Sentinel) else value
            self.values.update(rows)
            result = arrays(function(*args))
            if self.created:
                raise Restructured(self, self._created())
            unknown = [v for v in self.written if v not in self.carried and v not in rows]
            if unknown:
                raise Rewritten(self, unknown)
            for v in rows:
                if v in self.written:
                    rows[v] = self.values[v]
            out = [self._value_after(v, before) for v, before in zip(self.carried, values, strict=True)]
            self.changed.update(self.written)
            self.used_up.update(self.consumed)
            self._needed.update(self.read)
            self.close()
        return result, out

    def needs(self, variable: Variable) -> bool:
        """Whether any run has read the value that ``variable`` came in with."""
        return variable in self._needed

    def _value_after(self, variable: Variable, before: Any) -> Any:
        value = self.values[variable]
        if variable in self.consumed and before is None and (variable not in self.read or variable in self.zeroed):
            return None  # a gradient an optimizer used up inside
        value = None if isinstance(value, frame.Sentinel) else value
        was, now = jax.tree.structure(before), jax.tree.structure(value)
        if was != now or any(_kind(a) != _kind(b) for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(value), strict=True)):
            raise Restructured(self, self._other_kind(variable, before, value))
        return value

    def hand_over(self, values: Sequence[Any]) -> None:
        """Write the values that came out of the program where it was called."""
        if self.parent is not None:
            self.parent.undo.extend(self.undo)
        self.undo = []
        inner = frame.current()
        if inner is not None:
            for v in self.carried:
                if v in self._needed:
                    inner.lookup(v)
        for v, value in zip(self.carried, values, strict=True):
            if v in self.changed:
                used_up = v in self.used_up
                frame.set(v, frame.DROPPED if used_up and value is None else value)
                if used_up and inner is not None:
                    inner.consume(v)

    def _created(self) -> errors.StateStructureError:
        created = next((v for v in self.created if not isinstance(v, Gradient)), next(iter(self.created)))
        return errors.StateStructureError(
            f"{created.describe()} was created inside the function that {self.what} runs{errors.where()}: a program that runs "
            f"it any number of times cannot keep it. Create it before (build the module, or run the function once)."
        )

    def _other_kind(self, variable: Variable, before: Any, value: Any) -> errors.StateStructureError:
        return errors.StateStructureError(
            f"{variable.describe()} is {describe(before)} before and {describe(value)} after one run of the function that "
            f"{self.what} runs{errors.where()}: what is carried from run to run keeps its structure, shape and dtype. Give it its "
            "final form before, or convert it inside."
        )


def _held(variable: Variable) -> Any:
    """The value here and now, which may be a sentinel."""
    inner = frame.current()
    if isinstance(variable, Gradient) and ((value := variable._peek()) is None or isinstance(value, frame.Sentinel)):
        return value  # read only if the function reads it
    value = variable._value if inner is None else inner.lookup(variable)
    return value if isinstance(value, frame.Sentinel) else frame.get(variable)


def _kind(leaf: Any) -> Any:
    return jax.numpy.shape(leaf), jax.numpy.result_type(leaf)


def describe(value: Any) -> str:
    """Shapes and dtypes of a Variable's value, for messages."""
    if value is None:
        return "None"
    kinds = jax.tree.map(lambda leaf: f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]", value)
    return kinds if isinstance(kinds, str) else repr(kinds)


def arrays(result: Any) -> Any:
    """``result`` with arrays in place of Parameters; modules are left in it."""

    def is_leaf(x: Any) -> bool:
        return isinstance(x, TensorMethods) or hasattr(type(x), "__objnet_capture__")

    leaves, structure = jax.tree.flatten(result, is_leaf=is_leaf)
    if not any(isinstance(leaf, TensorMethods) for leaf in leaves):
        return result
    return jax.tree.unflatten(structure, [leaf._read() if isinstance(leaf, TensorMethods) else leaf for leaf in leaves])


def thread(attempt: Callable[[ThreadedFrame], T], what: str) -> T:
    """Run ``attempt(frame)``, again and again until the frame carries everything that is written.

    Raises:
        Restructured: of this frame, for the caller to deal with.
    """
    carried: list[Variable] = list(_carried_around())
    while True:
        inner = ThreadedFrame(carried, what)
        try:
            return attempt(inner)
        except Rewritten as found:
            if found.frame is not inner:
                raise
            carried += found.variables
        finally:
            inner.rollback()  # what an attempt that failed did to attributes
            inner.close()


def _carried_around() -> dict[Variable, None]:
    """What enclosing loops carry is likely to be written here: nested loops need not find it out anew at each depth."""
    found: dict[Variable, None] = {}
    outer = frame.current()
    while outer is not None:
        if isinstance(outer, ThreadedFrame):
            found.update(dict.fromkeys(outer.carried))
        outer = outer.parent
    return found


class Program:
    """A transform at work on functions of the user's, as the callable that ``objnet.jit`` compiles.

    Args:
        run: called with the functions, then the arguments, then the options.
    """

    def __init__(self, run: Callable[..., Any], functions: Sequence[Any], options: Mapping[str, Any]):
        self._run, self._functions, self._options = run, tuple(functions), dict(options)
        first = functions[0]
        self.__module__ = getattr(first, "__module__", None) or type(first).__module__
        self.__qualname__ = self.__name__ = getattr(first, "__qualname__", type(first).__name__)

    @property
    def __objnet_anchor__(self) -> Any:
        """What its programs hang on: the user's function."""
        return self._functions[0]

    def __call__(self, *args: Any) -> Any:
        return self._run(*self._functions, *args, **self._options)

    def __objnet_capture__(self, visit: Any) -> Any:
        return self._run.__qualname__, tuple(map(visit, self._functions)), tuple((k, visit(v)) for k, v in self._options.items())


def compiled_outside(run: Callable[..., Any], functions: Sequence[Any], *args: Any, **options: Any) -> Any:
    """``run(*functions, *args, **options)``, compiled where no transform is running, so that equal calls share a program."""
    program = Program(run, functions, options)
    if frame.current() is None and frame.trace_state() == frame.CLEAN and not jax.config.jax_disable_jit:
        return jit(program)(*args)
    return program(*args)
