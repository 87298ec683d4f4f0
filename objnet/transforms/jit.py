"""``objnet.jit``: compile a function that reads and writes modules, optimizers and random keys as if they were its own.

The first call captures what the function can reach, traces it once and learns which Variables it reads and writes.  The
program is then an ordinary ``jax.jit`` function over flat lists: the Variables it writes (donated), the ones it only reads,
and the array arguments.  Later calls compare a handful of identities, gather, call and write back; call and write-back are one
C-level operation, so that an interrupt cannot fall between the donation of the old values and the arrival of the new ones.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import threading
import types
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import jax
import numpy as np

from objnet.core import errors, frame, variable
from objnet.core.capture import Capture, Snapshot, Watch
from objnet.core.rng import key_stream
from objnet.core.frame import DROPPED, UNSET
from objnet.core.variable import Buffer, Gradient, Parameter, Variable

_ARRAY_TYPES: set[type] = set()  # concrete array types, learnt from arguments: naming them here would start a backend
_SET = Variable._value.__set__  # type: ignore[attr-defined]
_GET = attrgetter("_value")
_NUMBERS = (int, float, complex)
_DYNAMIC = (jax.Array, np.ndarray, np.generic, int, float, complex)
_lock = threading.RLock()  # a donating call must be alone between gathering the values and writing the new ones
_calling = threading.local()
_programs: weakref.WeakKeyDictionary[Any, OrderedDict[Any, Program]] = weakref.WeakKeyDictionary()
MAX_PROGRAMS = 256
MAX_BINDINGS = 32


class _Static(NamedTuple):
    """An argument named by ``static_argnums`` or ``static_argnames``."""

    value: Any


class _Relayout(frame.Abort):
    """A retrace for another shape needs other inputs or outputs than its program has."""


class ProgramFrame(frame.Frame):
    """The frame of one trace of a compiled function."""

    def __init__(self) -> None:
        super().__init__(closed=True)
        self.built: set[int] = set()
        self._kept: list[Any] = []
        self.attributes: dict[tuple[int, str], tuple[Any, str, Any, Any]] = {}
        self.links: dict[tuple[int, str, str], tuple[Any, str, str, Any]] = {}

    def adopt(self, module: Any) -> None:
        self.built.add(id(module))
        self._kept.append(module)

    def note_attribute(self, module: Any, name: str, old: Any, new: Any) -> None:
        self.expire()
        if id(module) in self.built:
            return
        if any(isinstance(v, _NUMBERS) and not isinstance(v, bool) for v in (old, new)):
            raise errors.StaticAttributeError(
                f"the Python number {module._where()}.{name} was changed inside a compiled function{errors.where()}: that would "
                "happen once, when the function is traced, and not at every call. Hold it as an array "
                f"(self.{name} = jnp.asarray(...)), which is state and is threaded, or change it outside."
            )
        if new is UNSET:
            raise errors.CompiledCallError(f"{module._where()}.{name} was deleted inside a compiled function{errors.where()}: delete it outside.")
        first = self.attributes.get((id(module), name))
        self.attributes[id(module), name] = (module, name, old if first is None else first[2], new)

    def note_link(self, module: Any, kind: str, name: str, old: Any, new: Any) -> None:
        self.expire()
        if id(module) in self.built:
            return
        if kind in ("_modules", "_parameters") or not isinstance(new, Variable):
            raise errors.CompiledCallError(
                f"{module._where()}.{name} was replaced inside a compiled function{errors.where()}: the program cannot repeat "
                "that. Replace modules, parameters and buffers outside; give a parameter a new value with .data = ..."
            )
        self.links[id(module), kind, name] = (module, kind, name, new)

    def close(self) -> None:
        super().close()
        self._kept.clear()
        self.links.clear()
        self.attributes.clear()


class Layout(NamedTuple):
    """What one trace found, addressed by position, so that it holds for every equal set of objects."""

    donated: tuple[int, ...]  # written Variables that are inputs too
    kept: tuple[int, ...]  # read only
    extra: tuple[int, ...]  # written, their old value not needed
    dropped: tuple[int, ...]  # consumed gradients: set to DROPPED
    cleared: tuple[int, ...]  # gradients left at None
    created: tuple[tuple[int, str, str], ...]  # new state: object, registry, name
    attributes: tuple[tuple[int, str, Any], ...]  # plain attributes left at another value: object, name, value
    exposed: tuple[int, ...]  # inputs handed out unchanged


class Program:
    """One compiled program: its layout and the jitted function, with and without donation."""

    def __init__(self, layout: Layout, donates: bool):
        def body(donated: list[Any], kept: list[Any], dynamic: tuple[Any, ...]) -> list[Any]:
            return _run_body(donated, kept, dynamic)

        self.layout = layout
        self.plain = jax.jit(body)  # of the same function, so that both share their traces
        self.donating = jax.jit(body, donate_argnums=(0,)) if donates else self.plain
        self.effects = layout.created or layout.attributes or layout.exposed


class Binding:
    """A program bound to the objects of one function: the lists a call gathers from and writes to."""

    __slots__ = ("__weakref__", "constants", "donated", "exposures", "grads", "kept", "objects", "out", "program", "watch")

    def __init__(self, program: Program, capture: Capture, lifted: Sequence[Variable], watch: Watch):
        layout = program.layout
        self.program = program
        self.watch = watch
        self.donated = [lifted[i] for i in layout.donated]
        self.kept = [lifted[i] for i in layout.kept]
        self.out = self.donated + [lifted[i] for i in layout.extra]
        self.constants = [lifted[i] for i in (*layout.dropped, *layout.cleared)]
        self.grads = any(isinstance(v, Gradient) for v in (*self.donated, *self.kept))
        self.objects = {i: weakref.ref(capture.objects[i]) for i, *_ in (*layout.created, *layout.attributes)}
        self.exposures = -1
        me = weakref.ref(self)
        watch.on_end = lambda: binding.clear() if (binding := me()) is not None else None

    def clear(self) -> None:
        """Let go of the Variables of a model that is gone."""
        self.donated, self.kept, self.out, self.constants = [], [], [], []


def _run_body(donated: list[Any], kept: list[Any], dynamic: tuple[Any, ...]) -> list[Any]:
    """The function under ``jax.jit``: replays the first trace, which came before the program, or traces another shape."""
    compiled, binding, rebuild, first = _calling.call  # jax may trace again, for another shape, at any call
    if first:
        return first.pop()(jax.tree.leaves((donated, kept, dynamic)))
    values = dict(zip((*binding.donated, *binding.kept), (*donated, *kept), strict=True))
    found, result = compiled._trace(values, rebuild, dynamic)
    if found.differs(binding):
        raise _Relayout
    return [*(found.out[v] if v in found.out else values[v] for v in binding.out), *found.created_values, result]


class _Found:
    """What one trace read and wrote."""

    def __init__(self, inner: ProgramFrame, result: Any, values: dict[Variable, Any], leaves: Any, keep_grads: bool):
        written = {v: inner.values[v] for v in inner.written if v not in inner.created}
        for v in inner.read:  # a list or dict changed in place was written
            if v in leaves and v not in written and not _same(jax.tree.leaves(values[v]), leaves[v]):
                written[v] = values[v]
        self.read = [v for v in inner.read if v in values]
        self.dropped: list[Variable] = []
        self.cleared: list[Variable] = []
        self.out: dict[Variable, Any] = {}
        for v, value in written.items():
            if isinstance(v, Gradient) and value is None:
                self.cleared.append(v)
            elif isinstance(v, Gradient) and v in inner.consumed and not keep_grads:
                self.dropped.append(v)
            else:
                self.out[v] = value
        links = [link for link in inner.links.values() if link[3] in inner.values]
        self.created = [link[:3] for link in links]
        self.created_values = [inner.values[link[3]] for link in links]
        self.attributes = [
            (m, name, new) for m, name, old, new in inner.attributes.values() if type(old) is not type(new) or old != new
        ]
        handed = {id(leaf) for leaf in jax.tree.leaves((result, list(self.out.values())))}
        self.exposed = [v for v in self.read if any(id(leaf) in handed for leaf in leaves.get(v, ()))]

    def drop_tracers(self) -> None:
        """Forget the traced values, which must not outlive their trace."""
        self.out = dict.fromkeys(self.out)
        self.created_values = []

    def layout(self, lifted: Sequence[Variable], objects: Sequence[Any]) -> Layout:
        position = {v: i for i, v in enumerate(lifted)}
        place = {id(o): i for i, o in enumerate(objects)}
        read = set(self.read)
        inputs = [v for v in lifted if v in read]
        return Layout(
            donated=tuple(position[v] for v in inputs if v in self.out),
            kept=tuple(position[v] for v in inputs if v not in self.out),
            extra=tuple(position[v] for v in self.out if v not in read),
            dropped=tuple(position[v] for v in self.dropped),
            cleared=tuple(position[v] for v in self.cleared),
            created=tuple((place[id(m)], kind, name) for m, kind, name in self.created),
            attributes=tuple((place[id(m)], name, value) for m, name, value in self.attributes),
            exposed=tuple(position[v] for v in self.exposed if v not in self.out),
        )

    def differs(self, binding: Binding) -> bool:
        """Whether the bound program cannot carry this trace's effects."""
        layout = binding.program.layout
        return (
            not set(self.out) <= set(binding.out)
            or any(v not in self.out for v in binding.out[len(binding.donated) :])
            or {*self.dropped, *self.cleared} != set(binding.constants)
            or [c[1:] for c in self.created] != [c[1:] for c in layout.created]
            or [a[1:] for a in self.attributes] != [a[1:] for a in layout.attributes]
            or len([v for v in self.exposed if v not in self.out]) > len(layout.exposed)
        )


class Compiled:
    """A compiled function; what :func:`jit` returns."""

    def __init__(self, function: Callable[..., Any], static_argnums: Any, static_argnames: Any, keep_grads: bool, donate: bool):
        self._function = function
        self._static_argnums, self._static_argnames = _statics(function, static_argnums, static_argnames)
        self._keep_grads = keep_grads
        self._donate = donate
        self._by_shape = False
        self._ignored: dict[Any, Any] = {}
        self._bindings: OrderedDict[Any, Binding] = OrderedDict()
        self._options = (self._static_argnums, self._static_argnames, keep_grads, donate)
        functools.update_wrapper(self, function, updated=())

    def __objnet_capture__(self, visit: Any) -> Any:
        return (self._options, visit(self._function))

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else types.MethodType(self, instance)

    def __repr__(self) -> str:
        return f"objnet.jit({self._function!r})"

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
                return self._run(binding, dynamic, rebuild, ())
            binding, first = self._bind(signature, dynamic, rebuild)
            return self._run(binding, dynamic, rebuild, first)
        except _Relayout:
            pass
        except frame.Unlifted as missing:
            if _is_open(missing.frame):
                raise  # it is an enclosing program that lacks an input
        if self._by_shape:
            raise errors.CompiledCallError(f"{self._name()} reads or writes other state each time it is traced for the same arguments")
        # Another shape reads or writes other Variables: from now on each shape has its own program.
        self._by_shape = True
        self._bindings.clear()
        return self(*args, **kwargs)

    def _run(self, binding: Binding, dynamic: Any, rebuild: Any, first: Any) -> Any:
        if frame.current() is not None or not frame.trace_state() == frame.CLEAN:
            return self._run_inside(binding, dynamic, rebuild, first)
        program = binding.program
        layout = program.layout
        result: Any = Variable.__new__(Variable)
        created: list[Any] = [Variable.__new__(Variable) for _ in layout.created]
        calling = _calling.__dict__
        previous = calling.get("call")
        with _lock:
            if variable.exposures != binding.exposures:
                _own_values(binding.out)
                binding.exposures = variable.exposures
            donated, kept = [*map(_GET, binding.donated)], [*map(_GET, binding.kept)]
            if binding.grads:
                _refuse_dropped((*binding.donated, *binding.kept))
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
            except TypeError:
                for v in (*binding.donated, *binding.kept):
                    if v._value is UNSET:
                        raise v.unset() from None
                raise
            finally:
                calling["call"] = previous
        if program.effects:
            self._finish(binding, [cell._value for cell in created])
        return result._value

    def _run_inside(self, binding: Binding, dynamic: Any, rebuild: Any, first: Any) -> Any:
        """Run inside another objnet transform, or under a jax transform: through frames, without donation."""
        layout = binding.program.layout
        if key_stream in binding.out:
            frame.check_draw(key_stream)
        donated, kept = [frame.get(v) for v in binding.donated], [frame.get(v) for v in binding.kept]
        calling = _calling.__dict__
        previous = calling.get("call")
        calling["call"] = (self, binding, rebuild, first)
        try:
            out = binding.program.plain(donated, kept, dynamic)
        finally:
            calling["call"] = previous
        constants = [*itertools.repeat(DROPPED, len(layout.dropped)), *itertools.repeat(None, len(layout.cleared))]
        for v, value in itertools.chain(zip(binding.out, out, strict=False), zip(binding.constants, constants, strict=True)):
            frame.set(v, value)
        if binding.program.effects:
            self._finish(binding, out[len(binding.out) : -1])
        return out[-1]

    def _finish(self, binding: Binding, created: Sequence[Any]) -> None:
        """Attach new state, repeat what the function did to plain attributes, and note which values were handed out."""
        layout = binding.program.layout
        for (i, kind, name), value in zip(layout.created, created, strict=True):
            holder: Any = binding.objects[i]()
            if kind == "_buffers":
                value = Buffer(value, persistent=name not in holder._non_persistent_buffers_set)
            setattr(holder, name, value)
        for i, name, value in layout.attributes:
            setattr(binding.objects[i](), name, value)
        if layout.exposed:
            for v in (*binding.kept, *binding.out):
                if not v._exposed:
                    v.expose()

    # -- tracing -------------------------------------------------------------------------------------------------------

    def _signature(self, args: tuple[Any, ...]) -> Any:
        return tuple([(a.shape, a.dtype) for a in args]) if self._by_shape else len(args)

    def _split(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Array leaves of the arguments, a hashable signature of the rest, and how to put both together again."""
        if not kwargs and not self._static_argnums and all([isinstance(a, jax.Array) for a in args]):
            _ARRAY_TYPES.update(type(a) for a in args if not isinstance(a, jax.core.Tracer))
            return args, self._signature(args), None
        if self._static_argnums or self._static_argnames:
            chosen = {n + len(args) if n < 0 else n for n in self._static_argnums}
            args = tuple(_Static(a) if i in chosen else a for i, a in enumerate(args))
            kwargs = {k: _Static(v) if k in self._static_argnames else v for k, v in kwargs.items()}
        leaves, tree = jax.tree.flatten((args, kwargs), is_leaf=_is_root)
        dynamic, statics, kinds = [], [], []
        for leaf in leaves:
            if isinstance(leaf, _DYNAMIC) and not isinstance(leaf, bool):
                dynamic.append(leaf)
                kinds.append((np.shape(leaf), getattr(leaf, "dtype", type(leaf))) if self._by_shape else None)
            else:
                value = leaf.value if isinstance(leaf, _Static) else leaf
                statics.append(value)
                kinds.append((type(value), value) if type(value) in (bool, str, bytes, int, float) else (id(value),))
        return tuple(dynamic), (tree, tuple(kinds)), (tree, tuple(kinds), tuple(statics))

    def _bind(self, signature: Any, dynamic: Any, rebuild: Any) -> tuple[Binding, Any]:
        """Capture, find or build the program, and remember the binding."""
        statics = () if rebuild is None else rebuild[2]
        shape = signature if rebuild is None else (rebuild[0], tuple(k if k is None or len(k) == 2 else () for k in rebuild[1]))
        programs = _programs.setdefault(_anchor(self._function), OrderedDict())
        met: list[Variable] = []  # while tracing, though no path leads to them
        while True:
            capture, facts = self._capture(statics)
            reachable = list(dict.fromkeys([*capture.variables, key_stream]))
            lifted = list(dict.fromkeys([*(() if _under_plain_jit() else reachable), *met]))
            program, first = programs.get((self._options, shape, facts)), None
            if program is not None:
                lifted = reachable
                break
            try:
                found, jaxpr, shapes, traced = self._first_trace(capture, lifted, dynamic, rebuild)
            except frame.Unlifted as missing:
                if _is_open(missing.frame):
                    raise
                met += [missing.variable, *(() if _under_plain_jit() else _relatives(missing.variable))]
                continue
            if found.changed:
                capture, facts = self._capture(statics)
                reachable = list(dict.fromkeys([*capture.variables, key_stream]))
            lifted = list(dict.fromkeys([*reachable, *traced]))
            layout = found.layout(lifted, capture.objects)
            program = Program(layout, self._donate and bool(layout.donated) and not _has_callback(jaxpr.jaxpr))
            first = _replay(jaxpr, shapes, traced, list(found.out), layout, lifted)
            if max((*layout.donated, *layout.kept, *layout.extra, -1)) < len(reachable):
                programs[self._options, shape, facts] = program
                if len(programs) > MAX_PROGRAMS:
                    programs.popitem(last=False)
            break
        binding = Binding(program, capture, lifted, Watch(capture))
        for root in (self._function, *statics):
            binding.watch.hold(root)
        self._bindings[signature] = binding
        self._bindings.move_to_end(signature)
        if len(self._bindings) > MAX_BINDINGS:
            self._bindings.popitem(last=False)
        return binding, [first] if first is not None else ()

    def _capture(self, statics: Any) -> tuple[Capture, Any]:
        """Walk what the function reaches; optimizers make their state first, so that one trace suffices."""
        prepared: set[int] = set()
        while True:
            capture = Capture(self._ignored)
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
        found: list[_Found] = []

        def body(values: list[Any], dynamic: tuple[Any, ...]) -> list[Any]:
            trace, result = self._trace(dict(zip(lifted, values, strict=True)), rebuild, dynamic)
            found.append(trace)
            out = [list(trace.out.values()), list(trace.created_values), result]
            trace.drop_tracers()
            return out

        try:
            jaxpr, shapes = jax.make_jaxpr(body, return_shape=True)([_input(v) for v in lifted], dynamic)
        except BaseException:
            snapshot.restore()
            raise
        changes = snapshot.changes()
        for key, owner, values, instance in changes:
            if instance is not None or not frame.is_concrete(values):
                snapshot.restore()
                where = type(instance).__name__ if instance is not None else "a global, an enclosing variable, a list or a dict"
                raise errors.StaticAttributeError(
                    f"{where} was changed inside {self._name()}{self._changed_names(values)}: that would happen once, when the "
                    "function is traced, and not at every call. Return the value, or hold it as an array attribute of a module."
                )
            self._ignored[key] = owner
        found[0].changed = bool(changes)
        return found[0], jaxpr, shapes, lifted

    @staticmethod
    def _changed_names(values: Any) -> str:
        return f" ({', '.join(map(str, values))})" if isinstance(values, dict) and values else ""

    def _trace(self, values: dict[Variable, Any], rebuild: Any, dynamic: Any) -> tuple[_Found, Any]:
        """Run the user's function once over tracers."""
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
                    args, kwargs = _rebuild(rebuild, dynamic)
                    result = self._function(*args, **kwargs)
                result = jax.tree.map(lambda x: x, result)  # Parameters become arrays
                for v, before in frozen.items():
                    if v.requires_grad != before:
                        raise errors.CompiledCallError(
                            f"requires_grad of {v.describe()} was changed inside {self._name()}: change it outside, between calls."
                        )
                found = _Found(inner, result, values, leaves, self._keep_grads)
                inner.rollback()  # attribute writes are repeated after every call, with that call's values
            return found, result
        finally:
            inner.close()

    def _name(self) -> str:
        return getattr(self._function, "__qualname__", type(self._function).__name__)


def _statics(function: Any, argnums: Any, argnames: Any) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Static positions and names; each given as the other too, where the signature tells."""
    nums = (argnums,) if isinstance(argnums, int) else tuple(argnums or ())
    names = (argnames,) if isinstance(argnames, str) else tuple(argnames or ())
    if not nums and not names:
        return (), ()
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return nums, names
    positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    known = {p.name for p in parameters}
    if not any(p.kind is p.VAR_KEYWORD for p in parameters) and not set(names) <= known:
        raise ValueError(f"static_argnames {sorted(set(names) - known)} are no arguments of {function!r}")
    all_nums = dict.fromkeys([*nums, *(positional.index(n) for n in names if n in positional)])
    all_names = dict.fromkeys([*names, *(positional[n] for n in nums if -len(positional) <= n < len(positional))])
    return tuple(all_nums), tuple(all_names)


def _rebuild(rebuild: Any, dynamic: Any) -> Any:
    tree, kinds, statics = rebuild
    arrays, others = iter(dynamic), iter(statics)
    dynamic_kinds = [k is None or (len(k) == 2 and isinstance(k[0], tuple)) for k in kinds]
    return jax.tree.unflatten(tree, [next(arrays) if d else next(others) for d in dynamic_kinds])


def _is_root(leaf: Any) -> bool:
    return isinstance(leaf, (Variable, _Static)) or hasattr(type(leaf), "__objnet_capture__")


def _under_plain_jit() -> bool:
    """Whether a plain jax transform is tracing here, so that only what is really read may be touched (and refused)."""
    return frame.current() is None and frame.trace_state() != frame.CLEAN and frame.staged()


def _relatives(v: Variable) -> list[Variable]:
    """Every Variable of the model that ``v`` belongs to, so that an unreachable model costs one more trace, not many."""
    root: Any = v
    while root._home is not None and root._home[0]() is not None:
        root = root._home[0]()
    if not hasattr(root, "__objnet_capture__"):
        return []
    capture = Capture()
    capture.visit(root)
    return capture.variables


def _is_open(inner: frame.Frame) -> bool:
    here = frame.current()
    while here is not None:
        if here is inner:
            return True
        here = here.parent
    return False


def _same(a: Sequence[Any], b: Sequence[Any]) -> bool:
    return len(a) == len(b) and all(x is y for x, y in zip(a, b, strict=True))


def _input(v: Variable) -> Any:
    """The value a trace starts from; None where there is none, which matters only if it is read."""
    if v._value is UNSET and v is not key_stream and frame.current() is None:
        return None
    try:
        value = frame.get(v) if frame.current() is not None or v is key_stream else v._value
    except errors.UnsetVariableError:
        return None
    return None if isinstance(value, frame.Sentinel) else value


@jax.jit
def _copy(value: Any) -> Any:
    """Jitted, so that it runs in C++, where no interrupt can fall into jax's own bookkeeping."""
    return jax.tree.map(jax.numpy.copy, value)


def _own_values(variables: Sequence[Variable]) -> None:
    """Copy the values somebody else may hold, so that they can be donated."""
    for v in variables:
        if v._exposed:
            if not isinstance(v._value, frame.Sentinel):
                v._value = _copy(v._value)
            v._exposed = False


def _refuse_dropped(variables: Sequence[Variable]) -> None:
    for v in variables:
        if v._value is DROPPED:
            raise errors.GradientDroppedError(
                f"{v.describe()} was consumed by an earlier compiled step, which did not hand it out, and is needed here: call "
                "optimizer.zero_grad() first, or compile that step with objnet.jit(..., keep_grads=True)."
            )


def _anchor(function: Any) -> Any:
    """What the programs of a function hang on, weakly: its code, or the class of a callable object."""
    if isinstance(function, types.MethodType):
        return _anchor(function.__func__)
    if isinstance(function, functools.partial):
        return _anchor(function.func)
    return function.__code__ if isinstance(function, types.FunctionType) else type(function)


def _has_callback(jaxpr: Any) -> bool:
    """Whether a program calls back into Python, where an exception may end it after its inputs were donated."""
    for equation in jaxpr.eqns:
        if "callback" in equation.primitive.name:
            return True
        for value in equation.params.values():
            for item in value if isinstance(value, (list, tuple)) else (value,):
                inner = getattr(item, "jaxpr", item)
                if hasattr(inner, "eqns") and _has_callback(inner):
                    return True
    return False


def _replay(jaxpr: Any, shapes: Any, traced: Any, outs: Any, layout: Layout, lifted: Any) -> Callable[[list[Any]], list[Any]]:
    """A function from a program's flat inputs to its outputs that replays the first trace."""
    sizes = [len(jax.tree.leaves(_input(v))) for v in traced]
    ends = np.cumsum([0, *sizes])
    at = {v: range(ends[i], ends[i + 1]) for i, v in enumerate(traced)}
    out_shapes, created, result = shapes
    out_ends = np.cumsum([0, *(len(jax.tree.leaves(s)) for s in out_shapes)])
    out_at = {v: range(out_ends[i], out_ends[i + 1]) for i, v in enumerate(outs)}
    total = len(jaxpr.jaxpr.invars)
    inputs = [i for p in (*layout.donated, *layout.kept) for i in at[lifted[p]]] + [*range(ends[-1], total)]
    wanted = [lifted[p] for p in (*layout.donated, *layout.extra)]
    outputs = [i for v in wanted for i in out_at[v]] + [*range(out_ends[-1], len(jaxpr.jaxpr.outvars))]
    by_variable = dict(zip(outs, out_shapes, strict=True))
    tree = jax.tree.structure([*(by_variable[v] for v in wanted), *created, result])

    def replay(flat: list[Any]) -> list[Any]:
        full: list[Any] = [None] * total  # inputs nobody reads stay out
        for i, value in zip(inputs, flat, strict=True):
            full[i] = value
        results = jax.core.eval_jaxpr(jaxpr.jaxpr, jaxpr.consts, *full)
        return jax.tree.unflatten(tree, [results[i] for i in outputs])

    return replay


def jit(
    function: Any = None,
    *,
    static_argnums: Any = (),
    static_argnames: Any = (),
    keep_grads: bool = False,
    donate: bool = True,
) -> Any:
    """Compile a function, a method or a module; models, optimizers and random keys it reaches are captured, not listed.

    Arrays, ints and floats among the arguments are traced; bools, strings, None and other objects are static. The result takes
    part in every objnet transform, and in eager ``jax.grad``, ``jax.vmap``, ... where it only reads.

    Args:
        function: what to compile; left out, a decorator is returned.
        static_argnums, static_argnames: arguments whose value is part of the program, as in ``jax.jit``.
        keep_grads: whether gradients an optimizer consumes inside stay readable as ``p.grad`` afterwards.
        donate: whether the old values of Variables the function writes give their memory to the new ones.

    Raises:
        StaticAttributeError: a Python number, list or global was changed in a way the program cannot repeat.
        CompiledCallError: a module or parameter was replaced inside.
    """
    if function is None:
        return functools.partial(
            jit, static_argnums=static_argnums, static_argnames=static_argnames, keep_grads=keep_grads, donate=donate
        )
    if not callable(function):
        raise TypeError(f"objnet.jit takes a function or a module, got {function!r}")
    options = (_key(static_argnums), _key(static_argnames), keep_grads, donate)
    cache = function.__dict__.setdefault("_objnet_jit", {}) if hasattr(type(function), "__objnet_capture__") else {}
    if options not in cache:
        cache[options] = Compiled(function, static_argnums, static_argnames, keep_grads, donate)
    return cache[options]


def _key(value: Any) -> Any:
    return value if isinstance(value, (int, str)) else tuple(value or ())
