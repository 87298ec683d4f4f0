"""Frames: where a read or write of a Variable goes while a transform is running.

Outside any frame a Variable holds its own value.  A transform opens a frame: from then on reads look through the open frames,
innermost first, and writes stay in the innermost one, which remembers what was read and written so that the transform can
thread it.  No value is swapped on a shared object, so other threads, and the transform's own failure, see nothing.

Two things stand guard here.  *Foreign transforms*: jax's trace state tells whether a plain ``jax`` transform runs between the
innermost frame and this very operation; a write there would leak a tracer or be lost, and is refused.  *jax's caches*: scan,
cond, checkpoint and jit cache the jaxpr of a callable, so a Variable read inside would not be read again when its value has
changed; a frame inside a staged trace therefore enters a token of its own, which is part of jax's cache key.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax import lax
from jax.extend.core import get_opaque_trace_state

from objnet.core import epoch, errors, scope

if TYPE_CHECKING:
    from objnet.core.variable import Variable

trace_state = get_opaque_trace_state
CLEAN = trace_state()  # equal in every thread
_MISSING = object()
_token = jax.make_user_context(default_value=None)
_tokens = itertools.count(1)
_frame: ContextVar[Frame | None] = ContextVar("objnet_frame", default=None)


def staged() -> bool:
    """Whether jax is building a program here (jit, scan, pmap, checkpoint, ...) rather than running operations one by one."""
    return isinstance(lax.neg(np.float32(1)), jax.core.Tracer)


class Sentinel:
    """A value that stands for none; it survives pickling as itself."""

    def __init__(self, name: str):
        self._name = name

    def __repr__(self) -> str:
        return f"<{self._name.lower()}>"

    def __reduce__(self) -> str:
        return self._name


UNSET = Sentinel("UNSET")  # no value: abstract, or its trace ended
DROPPED = Sentinel("DROPPED")  # a gradient a compiled step consumed and did not keep


class Abort(BaseException):
    """Unwinds a trace that has to start again; a BaseException so that user code's ``except Exception`` lets it through."""


class Unlifted(Abort):
    """A closed frame met a Variable it has no input for."""

    def __init__(self, variable: Variable, frame: Frame):
        self.variable = variable
        self.frame = frame


class TokenNeeded(Abort):
    """An eager frame's Variable was read inside a staged transform, whose jaxpr jax would cache under no token."""

    def __init__(self, frame: Frame):
        self.frame = frame


class Frame:
    """The values of Variables inside one running transform: made outside of it, opened inside.

    Args:
        closed: whether a Variable without a value here may not be looked up further out (a compiled program's inputs are
            all it has); it raises :class:`Unlifted`.
        no_grad: whether reads give values cut off from differentiation.
    """

    repeats = False  # whether one trace here stands for many runs, each with random numbers of its own

    def __init__(self, *, closed: bool = False, no_grad: bool = False):
        self.closed = closed
        self.no_grad = no_grad
        self.values: dict[Variable, Any] = {}
        self.read: dict[Variable, None] = {}
        self.written: dict[Variable, None] = {}
        self.created: dict[Variable, None] = {}
        self.first: dict[Variable, Any] = {}  # inside a pure function: what was created here, before it was written again
        self.offered: dict[Variable, None] = {}  # given to what may turn out not to read them
        self.consumed: dict[Variable, None] = {}  # gradients an optimizer has used up
        self.zeroed: dict[Variable, None] = {}  # gradients filled with zeros if they are there, which so matter afterwards
        self.undo: list[Callable[[], None]] = []
        self.reserved: list[Any] = []  # random keys split off in advance, for draws right here
        self.parent: Frame | None = None
        self.outside = trace_state()
        self.made_in_program = self.outside != CLEAN and staged()
        self.state: Any = None
        self.in_program = False  # whether it was opened inside a staged transform
        self.tokened = False
        self.unbound = False  # whether new Variables still wait for the values a pure apply was given
        self._nested: dict[Variable, None] = {}  # read under a plain jax transform inside this frame
        self._expired = False  # whether the token is to be renewed once this is the innermost frame again
        self._scope: Any = None

    # -- entering and leaving ------------------------------------------------------------------------------------------

    @contextmanager
    def open(self, token: bool = False) -> Iterator[Frame]:
        """Make this the innermost frame; call it inside the transform, so that the trace state noted is the transform's."""
        self.parent = _frame.get()
        self.reserved = []
        self.state = trace_state()
        self.in_program = self.made_in_program if self.state == self.outside else staged()
        # A root frame inside somebody's jax.jit must not bake in what it reads from outside.
        self.foreign = self.parent is None and self.made_in_program
        if token or self.in_program:
            self._enter_token()
        reset = _frame.set(self)
        try:
            yield self
        except BaseException as error:
            self.rollback()
            if isinstance(error, AttributeError) and "attribute 'backward'" in str(error).replace(
                "attribute backward", "attribute 'backward'"
            ):
                raise errors.leftover_backward() from error  # a tracer's own words say nothing of what to write
            if is_leak(error):
                raise leaked_error() from error
            raise
        finally:
            _frame.reset(reset)
            if self.tokened:
                self._scope.__exit__(None, None, None)
            if self.parent is not None and self.parent._expired:
                self.parent._renew_token()

    def _enter_token(self) -> None:
        self._scope = _token(next(_tokens))
        self._scope.__enter__()
        self.tokened = True

    def _renew_token(self) -> None:
        self._scope.__exit__(None, None, None)
        self._enter_token()
        self._nested.clear()
        self._expired = False

    def expire(self) -> None:
        """What nested programs saw has changed, and jax shall build them anew; a constructor changes what none has seen."""
        if scope.constructing():
            return
        if self.tokened and _frame.get() is self:
            self._renew_token()
        else:
            self._expired = self.tokened

    def rollback(self) -> None:
        """Take back the attribute writes noted in ``undo``, last first."""
        if self.undo:
            epoch.advance()  # a program compiled meanwhile has seen what is taken back
        while self.undo:
            self.undo.pop()()

    def close(self) -> None:
        """Drop every value, so that no tracer outlives its trace."""
        self.values.clear()
        self.first.clear()
        self.reserved = []
        self._nested.clear()

    def outcome(self) -> dict[Variable, tuple[Any, Any]]:
        """What was created and written here, to hand through the transform to :meth:`commit`: now, and (or None) at first."""
        return {v: (self.values[v], self.first.get(v)) for v in (*self.created, *self.written)}

    def commit(self, outcome: dict[Variable, tuple[Any, Any]]) -> None:
        """Hand what was written here on to the frame outside (or to the Variables), after the transform has ended."""
        for variable, (value, first) in outcome.items():
            if variable in self.created:
                create(variable, value if first is None else first)
            if variable in self.written:
                set(variable, value)
        if self.parent is not None:
            self.parent.undo.extend(self.undo)
        self.undo = []

    # -- what modules tell -----------------------------------------------------------------------------------------------

    def adopt(self, module: Any) -> None:
        """A module was constructed here."""
        self._pass_on("adopt", module)

    def note_built(self, thing: Any) -> None:
        """A module or optimizer came to be here."""
        self._pass_on("note_built", thing)

    def note_created(self, variable: Variable) -> None:
        """A Variable was created here."""
        if not self.closed:
            self._pass_on("note_created", variable)

    def note_attribute(self, module: Any, name: str, old: Any, new: Any) -> None:
        """A plain attribute of ``module`` is about to change."""
        self.expire()
        self._pass_on("note_attribute", module, name, old, new)

    def note_link(self, module: Any, kind: str, name: Any, old: Any, new: Any) -> None:
        """A parameter, buffer, array or submodule is about to be put under a name of ``module``, or taken away.

        Of an optimizer, something into its state: the name is the parameter's place and the name there.
        """
        self.expire()
        self._pass_on("note_link", module, kind, name, old, new)

    def _pass_on(self, note: str, *facts: Any) -> None:
        if self.parent is not None:
            getattr(self.parent, note)(*facts)
            self.unbound |= self.parent.unbound

    def expects(self, name: str) -> bool:
        """Whether a pure apply was given state of this name, which an attribute that is None now may stand for."""
        return self.parent is not None and not self.closed and self.parent.expects(name)

    def fill(self, module: Any, name: str) -> bool:
        """Give an attribute that ``module`` lacks the value a pure apply was given for it; False if there is none."""
        return self.parent is not None and not self.closed and self.parent.fill(module, name)

    def phase(self) -> str | None:
        """``"init"`` or ``"apply"`` inside a pure function, and None elsewhere."""
        return None if self.parent is None else self.parent.phase()

    def note_draw(self) -> None:
        """A random key is about to be drawn."""

    # -- reads and writes ----------------------------------------------------------------------------------------------

    def consume(self, variable: Variable) -> None:
        """Note that a gradient has been used up by an optimizer."""
        frame: Frame | None = self
        while frame is not None:
            frame.consumed[variable] = None
            frame = frame.parent

    def zero(self, variable: Variable) -> None:
        """Note that a gradient is filled with zeros if it is there."""
        frame: Frame | None = self
        while frame is not None:
            frame.zeroed[variable] = None
            frame = frame.parent

    def bind(self, variable: Variable | None = None) -> None:
        """Let the pure function around give what was created here the value it was given: ``variable`` (or all) is read."""
        if self.parent is None or (variable is not None and variable not in self.created):
            return
        self.unbound = False
        self.first.update((v, self.values[v]) for v in self.created if v not in self.first)
        self.parent.bind(variable)
        for bound in [v for v in self.created if self.parent.holds(v)]:
            for held in (self.values, self.created, self.first):
                del held[bound]  # type: ignore[attr-defined]

    def holds(self, variable: Variable) -> bool:
        """Whether this frame or one outside has a value of ``variable``."""
        return variable in self.values or (self.parent is not None and not self.closed and self.parent.holds(variable))

    def miss(self, variable: Variable) -> None:
        """A Variable that has no value here is about to be looked up further out."""

    def lookup(self, variable: Variable) -> Any:
        frame: Frame | None = self
        while frame is not None:
            if frame.unbound and not scope.constructing():
                frame.bind(variable)
            value = frame.values.get(variable, _MISSING)
            if value is not _MISSING:
                if variable not in frame.written:  # else nothing from outside was needed
                    frame.read[variable] = None
                return value
            if frame.closed:
                raise Unlifted(variable, frame)
            if frame.parent is None and frame.foreign:
                raise read_error(variable)
            frame.miss(variable)
            frame.read[variable] = None
            if frame.parent is not None and frame.outside != frame.parent.state:
                frame.parent._crossed(variable, frame.in_program)
            frame = frame.parent
        return variable._own()

    def _crossed(self, variable: Variable, in_program: bool) -> None:
        """A plain jax transform lies between this frame and the place where ``variable`` is read."""
        if self.tokened:
            self._nested[variable] = None
        elif in_program:
            raise TokenNeeded(self)

    def get(self, variable: Variable) -> Any:
        if trace_state() != self.state:
            self._crossed(variable, not self.tokened and staged())
        value = self.lookup(variable)
        if value is UNSET:
            raise variable.unset()
        frame: Frame | None = self
        while frame is not None and not frame.closed:
            if frame.no_grad:
                return jax.tree.map(lax.stop_gradient, value)
            frame = frame.parent
        return value

    def set(self, variable: Variable, value: Any, created: bool = False) -> None:
        if trace_state() != self.state and (self.tokened or staged() or not is_concrete(value)):
            raise write_error(variable)
        self.values[variable] = value
        self.consumed.pop(variable, None)
        if created:
            self.created[variable] = None
            self.note_created(variable)
        elif not (self.unbound and variable in self.created):  # else it belongs to the first value
            self.written[variable] = None
        if variable in self._nested:
            self._renew_token()


def is_concrete(value: Any) -> bool:
    """Whether no leaf of ``value`` is a tracer."""
    leaves = jax.tree.leaves(value, is_leaf=lambda x: hasattr(type(x), "__objnet_capture__"))
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)


def current() -> Frame | None:
    """The innermost open frame."""
    return _frame.get()


def is_open(frame: Frame) -> bool:
    """Whether ``frame`` is open around here."""
    inner = _frame.get()
    while inner is not None and inner is not frame:
        inner = inner.parent
    return inner is not None


def get(variable: Variable) -> Any:
    """The value of ``variable`` here and now.

    Raises:
        ReadInTransformError: under a plain staged jax transform, with no frame to thread the value.
    """
    frame = _frame.get()
    if frame is not None:
        return frame.get(variable)
    if trace_state() != CLEAN and staged():
        raise read_error(variable)
    return variable._own()


def offer(variable: Variable) -> Any:
    """The value for something that may have no use for it: in a compiled function no read until :func:`take`."""
    inner = _frame.get()
    if inner is None or not inner.closed or inner.unbound or variable not in inner.values or trace_state() != inner.state:
        return get(variable)
    if inner.values[variable] is UNSET:
        raise variable.unset()
    inner.offered[variable] = None
    return inner.values[variable]


def take(variables: Iterable[Variable]) -> None:
    """Count as read here those of ``variables`` that were offered."""
    inner = _frame.get()
    if inner is not None:
        inner.read.update((v, None) for v in variables if v in inner.offered)


def reaches(variable: Variable) -> bool:
    """Whether a read would find ``variable`` among the inputs of the compiled function around, if there is one."""
    inner = _frame.get()
    while inner is not None and variable not in inner.values and not inner.closed:
        inner = inner.parent
    return inner is None or variable in inner.values


def set(variable: Variable, value: Any) -> None:
    """Write ``value``: into the innermost frame, or into the Variable.

    Raises:
        WriteInTransformError: under a plain jax transform, where the value would be lost or a tracer would leak.
    """
    frame = _frame.get()
    if frame is not None:
        frame.set(variable, value)
        return
    if trace_state() != CLEAN and (not is_concrete(value) or staged()):
        raise write_error(variable)
    variable._store(value)


def restore(variable: Variable, value: Any) -> None:
    """Put back a value seen earlier by ``_peek``, which may be no value at all."""
    inner = _frame.get()
    if inner is None:
        variable._store(value)
    else:
        inner.values[variable] = value


def create(variable: Variable, value: Any) -> None:
    """Give a new Variable its first value, which lives in the innermost frame if there is one."""
    frame = _frame.get()
    if frame is not None:
        frame.set(variable, value, created=True)
    elif trace_state() != CLEAN and (not is_concrete(value) or staged()):
        raise write_error(variable)
    else:
        variable._store(value)


def check_draw(stream: Variable) -> None:
    """Refuse to draw from ``stream`` where a plain jax transform lies between here and the frame that holds it.

    Raises:
        RngInTransformError: always there: every row of a vmap, every step of a scan and every later call would share it.
    """
    state, frame = trace_state(), _frame.get()
    while frame is not None and state == frame.state:
        frame.note_draw()
        if frame.closed or stream in frame.values:
            return
        state, frame = frame.outside, frame.parent
    if frame is not None or state != CLEAN:
        raise errors.RngInTransformError(
            f"a random key was drawn under a plain jax transform{errors.where()}: every row, step or later call would share "
            "it. Use the transform of the same name in objnet (objnet.jit, objnet.grad, ...), draw the key outside, or "
            "purify the function with objnet.transform and pass rng."
        )


def read_error(variable: Variable) -> errors.ReadInTransformError:
    return errors.ReadInTransformError(
        f"{variable.describe()} was read while a plain jax transform (jax.jit, lax.scan, jax.checkpoint, ...) is tracing"
        f"{errors.where()}: its value of today would be baked into the program. Use objnet.jit in place of jax.jit, or "
        "purify the model with objnet.transform_with_state and pass params and state as arguments."
    )


def write_error(variable: Variable) -> errors.WriteInTransformError:
    return errors.WriteInTransformError(
        f"{variable.describe()} was written or created under a plain jax transform{errors.where()}: the value would be lost "
        "when the transform ends, or a tracer would leak. Use the transform of the same name in objnet (objnet.jit, "
        "objnet.grad, ...), or purify the model with objnet.transform_with_state, whose apply returns the new state."
    )


def is_leak(error: BaseException) -> bool:
    """Whether jax says that a tracer has outlived its trace."""
    constant = isinstance(error, TypeError) and "No constant handler" in str(error) and "Tracer" in str(error)
    return constant or isinstance(error, jax.errors.UnexpectedTracerError)


def leaked_error() -> errors.LeakedTracerError:
    return errors.LeakedTracerError(
        f"a traced value was used outside the transform it belongs to{errors.where()}. Often a jax.custom_jvp or jax.custom_vjp "
        "function reads a parameter that a gradient is taken for, and its rule says nothing of it: pass the parameter as an "
        "argument of that function. Otherwise a value was kept (in a list, a global, ...) from a transform that has ended: return it."
    )
