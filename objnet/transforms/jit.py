"""``objnet.jit``: compile a function that reads and writes modules, optimizers and random keys as if they were its own.

The first call captures what the function can reach, traces it once and learns which Variables it reads and writes.  The
program is then an ordinary ``jax.jit`` function over flat lists: the Variables it writes (donated), the ones it only reads,
and the array arguments.  Later calls compare a handful of identities, gather, call and write back; call and write-back are one
C-level operation, so that an interrupt cannot fall between the donation of the old values and the arrival of the new ones.
"""

from __future__ import annotations

import functools
import itertools
import threading
import types
import warnings
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import jax

from objnet.core import errors, frame, settings, variable
from objnet.core.frame import DROPPED, UNSET
from objnet.core.reads import Reads
from objnet.core.rng import key_stream
from objnet.core.variable import Variable
from objnet.core.watch import Watch
from objnet.transforms import nonfinite
from objnet.transforms.arguments import ABSTRACT, Static, shape_of, split, static_arguments
from objnet.transforms.autodiff import gradients_in
from objnet.transforms.explain import Explainer, Explanation
from objnet.transforms.lowering import Lowered, lower
from objnet.transforms.program import (
    Binding,
    Program,
    ReadMore,
    Relayout,
    has_callback,
    in_progress,
    own_values,
    presence,
    refuse_dropped,
    replay,
)
from objnet.transforms.tracing import Traceable, relatives, under_plain_jit, unwrapped

_SET = Variable._value.__set__  # type: ignore[attr-defined]
_GET = attrgetter("_value")
_ARRAY_TYPES: set[type] = set()  # concrete array types, learnt from arguments: naming them here would start a backend
_lock = threading.RLock()  # a donating call must be alone between gathering the values and writing the new ones
_programs: weakref.WeakKeyDictionary[Any, OrderedDict[Any, Program]] = weakref.WeakKeyDictionary()
# What the code of a function changes while it is traced (a counter of traces), by identity: no part of any program's key.
_ignored: weakref.WeakKeyDictionary[Any, dict[Any, Any]] = weakref.WeakKeyDictionary()
_reads: weakref.WeakKeyDictionary[Any, Reads] = weakref.WeakKeyDictionary()
MAX_PROGRAMS = 256
MAX_BINDINGS = 32
MANY_TRACES = 16


class Compiled(Traceable):
    """A compiled function; what :func:`jit` returns."""

    def __init__(
        self,
        function: Callable[..., Any],
        static_argnums: Any,
        static_argnames: Any,
        keep_grads: bool,
        donate: bool,
        compiler_options: Any,
        explain: bool,
    ):
        anchor = _anchor(function)
        super().__init__(function, keep_grads, _ignored.setdefault(anchor, {}), _reads.setdefault(anchor, Reads()), explain)
        self._static_argnums, self._static_argnames = static_arguments(function, static_argnums, static_argnames)
        self._donate = donate
        self._compiler_options = compiler_options
        self._by_shape = False
        self._by_presence = False
        self._bindings: OrderedDict[Any, Binding] = OrderedDict()
        self._options = (self._static_argnums, self._static_argnames, keep_grads, donate, _key(compiler_options))
        functools.update_wrapper(self, function, updated=())
        self._explainer = Explainer(self._name(), function) if explain else None

    def __objnet_capture__(self, visit: Any) -> Any:
        return (self._options, visit(self._function))

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else types.MethodType(self, instance)

    def __repr__(self) -> str:
        return f"objnet.jit({self._function!r})"

    @property
    def explanations(self) -> list[Explanation]:
        """Why each trace happened, and what it captured; empty unless ``explain`` was set."""
        return [] if self._explainer is None else self._explainer.explanations

    # -- calling -------------------------------------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        dynamic: Any
        rebuild: Any = None
        if not kwargs and not self._static_argnums and all([type(a) in _ARRAY_TYPES for a in args]):
            dynamic, signature = args, self._signature(args)
        else:
            dynamic, signature, rebuild = self._split(args, kwargs)
        binding = self._bindings.get(signature)
        try:
            if binding is not None and binding.watch.valid():
                if not binding.lifted or presence(binding.lifted) == binding.presence:
                    return self._run(binding, dynamic, rebuild, ())
            binding, first = self._bind(signature, dynamic, rebuild)
            return self._run(binding, dynamic, rebuild, first)
        except ReadMore:  # for another shape than the binding was made for
            self._bindings.pop(signature, None)
            return self(*args, **kwargs)
        except Relayout:
            pass
        except frame.Unlifted as missing:
            if frame.is_open(missing.frame):
                raise  # it is an enclosing program that lacks an input
        self._separate_shapes()
        return self(*args, **kwargs)

    def _separate_shapes(self) -> None:
        """Another shape reads or writes other Variables: from now on each shape has its own program.

        If they have, then a gradient or other state that is there at one call and None at another makes the difference: from now on
        that tells programs apart too.
        """
        if self._by_presence:
            raise errors.CompiledCallError(
                f"{self._name()} reads or writes other state each time it is traced for the same arguments"
            )
        self._by_presence = self._by_shape
        self._by_shape = True
        self._bindings.clear()
        if self._explainer is not None:
            what = "another gradient or other state that is None" if self._by_presence else "another shape"
            self._explainer.note("layout", "", "", f"{what} reads or writes other Variables: each has its own program now")

    def lower(self, *args: Any, **kwargs: Any) -> Lowered:
        """Trace and lower for these arguments, ahead of time, without running anything (``jax.jit(f).lower``).

        Args:
            args, kwargs: as for a call; ``jax.ShapeDtypeStruct`` may stand for arrays, also with symbolic dimensions
                (``jax.export.symbolic_shape``).

        Returns:
            An object with ``compile()``, ``as_text()``, ``cost_analysis()`` and ``memory_analysis()``.
        """
        return lower(self, args, kwargs)

    def _run(self, binding: Binding, dynamic: Any, rebuild: Any, first: Any) -> Any:
        if frame.current() is not None or nonfinite.watching is not None or not frame.trace_state() == frame.CLEAN:
            return self._run_inside(binding, dynamic, rebuild, first)
        program = binding.program
        layout = program.layout
        result: Any = Variable.__new__(Variable)
        created: list[Any] = [Variable.__new__(Variable) for _ in layout.created]
        calling = in_progress.__dict__
        previous = calling.get("call")
        with _lock:
            if variable.exposures != binding.exposures:
                own_values(binding.out)
                binding.exposures = variable.exposures
            donated, kept = [*map(_GET, binding.donated)], [*map(_GET, binding.kept)]
            if binding.grads:
                refuse_dropped((*binding.donated, *binding.kept))
            calling["call"] = (self, binding, rebuild, first)
            function = program.plain if jax.config.jax_debug_nans else program.donating
            try:
                # One C-level operation: the call of the jitted function, and every new value into its Variable.
                deque(
                    map(
                        _SET,
                        itertools.chain(binding.out, created, (result,), binding.constants),
                        itertools.chain(
                            itertools.chain.from_iterable(map(function, (donated,), (kept,), (dynamic,))),
                            itertools.repeat(DROPPED, len(layout.dropped)),
                            itertools.repeat(None, len(layout.cleared)),
                        ),
                    ),
                    0,
                )
            except TypeError as error:
                for v in (*binding.donated, *binding.kept):
                    if v._value is UNSET:
                        raise v.unset() from None
                if frame.is_leak(error):
                    raise frame.leaked_error() from error
                raise
            finally:
                calling["call"] = previous
        if program.effects:
            self._finish(binding, [cell._value for cell in created], result._value)
        return result._value

    def _run_inside(self, binding: Binding, dynamic: Any, rebuild: Any, first: Any) -> Any:
        """Run inside another objnet transform, or under a jax transform: through frames, without donation."""
        layout = binding.program.layout
        if key_stream in binding.out:
            frame.check_draw(key_stream)
        donated, kept = [frame.get(v) for v in binding.donated], [frame.get(v) for v in binding.kept]
        calling = in_progress.__dict__
        previous = calling.get("call")
        calling["call"] = (self, binding, rebuild, first)
        try:
            out = binding.program.plain(donated, kept, dynamic)
        finally:
            calling["call"] = previous
        if nonfinite.watching is not None and frame.current() is None and frame.trace_state() == frame.CLEAN:
            values = dict(zip((*binding.donated, *binding.kept), (*donated, *kept), strict=True))
            again = functools.partial(self._run_once, values, rebuild, dynamic)
            nonfinite.watching.after_call(self, binding, out, again)
        constants = [*itertools.repeat(DROPPED, len(layout.dropped)), *itertools.repeat(None, len(layout.cleared))]
        for v, value in itertools.chain(zip(binding.out, out, strict=False), zip(binding.constants, constants, strict=True)):
            frame.set(v, value)
        if binding.program.effects:
            self._finish(binding, out[len(binding.out) : -1], out[-1])
        self._reads.pass_on()
        return out[-1]

    def _finish(self, binding: Binding, created: Sequence[Any], result: Any) -> None:
        """Attach new state, repeat what the function did to plain attributes, and note which values were handed out."""
        layout = binding.program.layout
        for (i, kind, name), value in zip(layout.created, created, strict=True):
            holder: Any = binding.objects[i]()
            holder.__objnet_create__(kind, name, value)
        for i, name, value in layout.attributes:
            setattr(binding.objects[i](), name, value)
        if layout.gradients:
            for grads, parameters in zip(gradients_in(result), binding.gradients, strict=True):
                grads.parameters = list(parameters)
        if layout.exposed:
            for v in (*binding.kept, *binding.out):
                if not v._exposed:
                    v.expose()

    # -- tracing -------------------------------------------------------------------------------------------------------

    def _signature(self, args: tuple[Any, ...]) -> Any:
        facts = tuple([(a.shape, a.dtype) for a in args]) if self._by_shape else len(args)
        return (facts, around) if (around := _surroundings()) else facts

    def _split(self, args: tuple[Any, ...], kwargs: dict[str, Any], abstract: bool = False) -> Any:
        """Array leaves of the arguments, a hashable signature of the rest, and how to put both together again."""
        if abstract and not kwargs and not self._static_argnums and all([isinstance(a, ABSTRACT) for a in args]):
            return args, self._signature(args), None
        if not kwargs and not self._static_argnums and all([isinstance(a, jax.Array) for a in args]):
            _ARRAY_TYPES.update(type(a) for a in args if not isinstance(a, jax.core.Tracer))
            return args, self._signature(args), None
        if self._static_argnums or self._static_argnames:
            chosen = {n + len(args) if n < 0 else n for n in self._static_argnums}
            args = tuple(Static(a) if i in chosen else a for i, a in enumerate(args))
            kwargs = {k: Static(v) if k in self._static_argnames else v for k, v in kwargs.items()}
        dynamic, signature, rebuild = split(args, kwargs, self._by_shape, abstract)
        return dynamic, ((signature, around) if (around := _surroundings()) else signature), rebuild

    def _bind(self, signature: Any, dynamic: Any, rebuild: Any) -> tuple[Binding, Any]:
        """Capture, find or build the program, and remember the binding."""
        statics = () if rebuild is None else rebuild[2]
        shape = signature if rebuild is None else shape_of(rebuild)
        programs = _programs.setdefault(_anchor(self._function), OrderedDict())
        met: list[Variable] = []  # while tracing, though no path leads to them
        while True:
            capture, facts = self._capture(statics)
            reachable = list(dict.fromkeys([*capture.variables, key_stream]))
            state = presence(reachable) if self._by_presence else ()
            lifted = list(dict.fromkeys([*(() if under_plain_jit() else reachable), *met]))
            program, first = programs.get((self._options, shape, facts, state)), None
            if program is not None:
                lifted = reachable
                if self._explainer is not None:
                    self._explainer.found((shape, facts))
                break
            try:
                found, jaxpr, shapes, traced = self._first_trace(capture, lifted, dynamic, rebuild)
            except frame.Unlifted as missing:
                if frame.is_open(missing.frame):
                    raise
                met += [missing.variable, *(() if under_plain_jit() else relatives(missing.variable))]
                if self._explainer is not None:
                    self._explainer.note("unreachable", missing.variable.describe(), "", "met while tracing, which starts again")
                continue
            except ReadMore:
                continue
            if found.changed or found.more or capture.imports() or self._reads.tell_more(capture.kinds):
                capture, facts = self._capture(statics)
                reachable = list(dict.fromkeys([*capture.variables, key_stream]))
                state = presence(reachable) if self._by_presence else ()
            lifted = list(dict.fromkeys([*reachable, *traced]))
            layout = found.layout(lifted, capture.objects)
            donates = self._donate and bool(layout.donated) and not has_callback(jaxpr.jaxpr)
            program = Program(self._short_name(), layout, donates, self._compiler_options)
            if self._explainer is not None:
                self._explainer.traced((shape, facts), capture, rebuild)
            first = replay(jaxpr, shapes, traced, list(found.out), layout, lifted)
            if max((*layout.donated, *layout.kept, *layout.extra, -1)) < len(reachable):
                programs[self._options, shape, facts, state] = program
                if len(programs) > MAX_PROGRAMS:
                    programs.popitem(last=False)
            break
        binding = Binding(program, capture, lifted, Watch(capture))
        if self._by_presence:
            binding.lifted, binding.presence = reachable, state
        if (before := self._bindings.get(signature)) is not None:
            binding.traces = before.traces + (first is not None)
            if binding.traces == MANY_TRACES - 1 and first is not None:
                self._warn_of_retracing()
        for root in (self._function, *statics):
            binding.watch.hold(root)
        self._bindings[signature] = binding
        self._bindings.move_to_end(signature)
        if len(self._bindings) > MAX_BINDINGS:
            self._bindings.popitem(last=False)
        return binding, [first] if first is not None else ()

    def _warn_of_retracing(self) -> None:
        """Say that each call compiles anew, since something that the function reaches changes between them."""
        warnings.warn(
            f"{self._name()} has been traced {MANY_TRACES} times for the same arguments: an attribute, a list or dict, or a global that it "
            "reaches changes between the calls (a counter or history kept beside the model?). objnet.jit(..., explain=True) says which; "
            "hold it where the function does not reach it, or as an array.",
            errors.RetracingWarning,
            stacklevel=4,
        )


def _surroundings() -> Any:
    """What a program depends on besides its function and arguments: settings in force, and whether a pure function initialises."""
    inner = frame.current()
    if inner is None and not settings.current():
        return ()
    phase = None if inner is None else inner.phase()
    return (settings.key(), phase) if phase is not None or settings.current() else ()


def _anchor(function: Any) -> Any:
    """What the programs of a function hang on, weakly: its code, or the class of a callable object."""
    function = unwrapped(function)
    return function.__code__ if isinstance(function, types.FunctionType) else type(function)


def jit(
    function: Any = None,
    *,
    static_argnums: Any = (),
    static_argnames: Any = (),
    keep_grads: bool = False,
    donate: bool = True,
    compiler_options: Mapping[str, Any] | None = None,
    explain: bool = False,
) -> Any:
    """Compile a function, a method or a module; models, optimizers and random keys it reaches are captured, not listed.

    Arrays, ints and floats among the arguments are traced; bools, strings, None and other objects are static. The result takes
    part in every objnet transform, and in eager ``jax.grad``, ``jax.vmap``, ... where it only reads.

    Args:
        function: what to compile; left out, a decorator is returned.
        static_argnums, static_argnames: arguments whose value is part of the program, as in ``jax.jit``.
        keep_grads: whether gradients an optimizer consumes inside stay readable as ``p.grad`` afterwards.
        donate: whether the old values of Variables the function writes give their memory to the new ones.
        compiler_options: XLA's, as in ``jax.jit``; None takes what :mod:`objnet.transforms.compiler` found to pay, ``{}`` none.
            Inside another program that program's options hold.
        explain: whether to say, at each trace, why it happened and what was captured: in ``.explanations`` of the result, and to
            the logger ``"objnet"`` at level INFO, or to stderr where that level is off.

    Raises:
        StaticAttributeError: a Python number, list or global was changed in a way the program cannot repeat.
        CompiledCallError: a module or parameter was replaced inside.
    """
    if function is None:
        return functools.partial(
            jit,
            static_argnums=static_argnums,
            static_argnames=static_argnames,
            keep_grads=keep_grads,
            donate=donate,
            compiler_options=compiler_options,
            explain=explain,
        )
    if not callable(function):
        raise TypeError(f"objnet.jit takes a function or a module, got {function!r}")
    options = (_key(static_argnums), _key(static_argnames), keep_grads, donate, _key(compiler_options), explain)
    cache = function.__dict__.setdefault("_objnet_jit", {}) if hasattr(type(function), "__objnet_capture__") else {}
    if options not in cache:
        cache[options] = Compiled(function, static_argnums, static_argnames, keep_grads, donate, compiler_options, explain)
    return cache[options]


def _key(value: Any) -> Any:
    """Options as a hashable value; None of compiler options is not the empty dict."""
    if isinstance(value, Mapping):
        return tuple(value.items())
    return value if isinstance(value, (int, str, type(None))) else tuple(value)
