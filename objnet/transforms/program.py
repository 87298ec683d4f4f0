"""What a trace finds and what a program is made of: the pieces under :mod:`objnet.transforms.jit`."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from objnet.core import errors, frame
from objnet.core.capture import Capture
from objnet.core.frame import DROPPED, UNSET
from objnet.core.reads import Names
from objnet.core.rng import key_stream
from objnet.core.variable import Gradient, Variable
from objnet.core.watch import Watch
from objnet.transforms.autodiff import gradients_in
from objnet.transforms.compiler import default_options

_NUMBERS = (int, float, complex)
in_progress = threading.local()  # .call is what a trace needs of the call in progress


class ReadMore(frame.Abort):
    """A trace read attributes that the capture before it, going by the traces before, had left out: to be done again."""


class Relayout(frame.Abort):
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
        self.note_built(module)
        super().adopt(module)

    def note_built(self, thing: Any) -> None:
        self.built.add(id(thing))
        self._kept.append(thing)
        super().note_built(thing)

    def note_attribute(self, module: Any, name: str, old: Any, new: Any) -> None:
        self.expire()
        if id(module) in self.built:
            return
        threads = hasattr(module, "_arrays")  # as modules do with arrays
        kinds = _NUMBERS if threads else (*_NUMBERS, jax.Array)
        if any(isinstance(v, kinds) and not isinstance(v, bool) for v in (old, new)):
            remedy = f"Hold it as an array (self.{name} = jnp.asarray(...)), which is state and is threaded"
            raise errors.StaticAttributeError(
                f"the {'Python number' if threads else 'number or array'} {module._where()}.{name} was changed inside a compiled "
                f"function{errors.where()}: that would happen once, when the function is traced, and not at every call. "
                f"{remedy if threads else 'An optimizer keeps what changes in self.state[p]: do that'}, or change it outside."
            )
        if new is UNSET:
            raise errors.CompiledCallError(
                f"{module._where()}.{name} was deleted inside a compiled function{errors.where()}: delete it outside."
            )
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
    gradients: tuple[tuple[int, ...], ...]  # the parameters of each Gradients in the result


class Program:
    """One compiled program: its layout and the jitted function, as the outermost program and as part of another one."""

    def __init__(self, name: str, layout: Layout, donates: bool, compiler_options: Mapping[str, Any] | None):
        def body(donated: list[Any], kept: list[Any], dynamic: tuple[Any, ...]) -> list[Any]:
            return run_body(donated, kept, dynamic)

        body.__name__ = body.__qualname__ = name  # jax's name for the program
        self.layout = layout
        self.donates = donates
        # of the same function, so that both share their traces; jax takes options and donates in the outermost program only
        self.plain = jax.jit(body)
        options = dict(default_options() if compiler_options is None else compiler_options)
        self.donating = jax.jit(body, donate_argnums=(0,) if donates else (), compiler_options=options)
        self.effects = layout.created or layout.attributes or layout.exposed or layout.gradients


class Binding:
    """A program bound to the objects of one function: the lists a call gathers from and writes to."""

    __slots__ = (
        "__weakref__",
        "constants",
        "donated",
        "exposures",
        "gradients",
        "grads",
        "kept",
        "kinds",
        "lifted",
        "objects",
        "out",
        "presence",
        "program",
        "traces",
        "watch",
    )

    def __init__(self, program: Program, capture: Capture, lifted: Sequence[Variable], watch: Watch):
        layout = program.layout
        self.program = program
        self.watch = watch
        self.kinds = capture.kinds
        self.lifted: Sequence[Variable] = ()  # and which of them have a value, where the program depends on that
        self.presence: tuple[Any, ...] = ()
        self.traces = 0  # how often this call was traced though it had been before
        self.donated = [lifted[i] for i in layout.donated]
        self.kept = [lifted[i] for i in layout.kept]
        self.out = self.donated + [lifted[i] for i in layout.extra]
        self.constants = [lifted[i] for i in (*layout.dropped, *layout.cleared)]
        self.grads = any(isinstance(v, Gradient) for v in (*self.donated, *self.kept))
        self.gradients = [[lifted[i] for i in positions] for positions in layout.gradients]
        self.objects = {i: weakref.ref(capture.objects[i]) for i, *_ in (*layout.created, *layout.attributes)}
        self.exposures = -1
        me = weakref.ref(self)
        watch.on_end = lambda: binding.clear() if (binding := me()) is not None else None

    def clear(self) -> None:
        """Let go of the Variables of a model that is gone."""
        self.donated, self.kept, self.out, self.constants, self.gradients = [], [], [], [], []
        self.lifted, self.presence = (), ()


def presence(variables: Sequence[Variable]) -> tuple[Any, ...]:
    """Of each Variable whether it has a value, is None, or is a gradient that was dropped."""
    return tuple([value if (value := v._peek()) is None or value is DROPPED else True for v in variables])


def run_body(donated: list[Any], kept: list[Any], dynamic: tuple[Any, ...]) -> list[Any]:
    """The function under ``jax.jit``: replays the first trace, which came before the program, or traces another shape."""
    compiled, binding, rebuild, first = in_progress.call  # jax may trace again, for another shape, at any call
    if compiled._explainer is not None:
        compiled._explainer.lowered(binding, rebuild, (donated, kept, dynamic), bool(first))
    if first:
        return first.pop()(jax.tree.leaves((donated, kept, dynamic)))
    values = dict(zip((*binding.donated, *binding.kept), (*donated, *kept), strict=True))
    found, result = compiled._trace(values, rebuild, dynamic, binding.kinds)
    if binding.program.layout.created:
        found.create_others(binding.out)
    if found.more:
        raise ReadMore
    if found.differs(binding):
        raise Relayout
    return [*(found.out[v] if v in found.out else values[v] for v in binding.out), *found.created_values, result]


class Found:
    """What one trace read and wrote."""

    changed = False  # whether it changed what belongs to no program, such as a counter of traces
    more: Names = {}  # attributes read that the capture had left out

    def __init__(self, inner: ProgramFrame, result: Any, values: dict[Variable, Any], leaves: Any, keep_grads: bool):
        written = {v: inner.values[v] for v in inner.written if v not in inner.created}
        for v in inner.read:  # a list or dict changed in place was written
            if v in leaves and v not in written and not same_leaves(jax.tree.leaves(values[v]), leaves[v]):
                written[v] = values[v]
        self.read = [v for v in inner.read if v in values]
        self.offered = [v for v in inner.offered if v not in inner.read]
        self.dropped: list[Variable] = []
        self.cleared: list[Variable] = []
        self.out: dict[Variable, Any] = {}
        for v, value in written.items():
            if isinstance(v, Gradient) and value is None:
                self.cleared.append(v)
            elif isinstance(v, Gradient) and v in inner.consumed and not (keep_grads or v in inner.zeroed):
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

        self.gradients = [g.parameters for g in gradients_in(result)]
        for g in gradients_in(result):
            g.parameters = []  # a program knows no model; each call puts in its own

    def create_others(self, known: Collection[Variable]) -> None:
        """Count state that was None, which is no input, as created where it was written, but for the ``known``."""
        inputs = {*known}  # variables are equal by value
        for v, home in [(v, v._home) for v in self.out if v not in inputs]:
            if home is not None:
                self.created.append((home[0](), "_arrays", home[1]))
                self.created_values.append(self.out.pop(v))

    def read_offered(self, jaxpr: Any, inputs: Mapping[Variable, Sequence[Any]]) -> None:
        """Count as read those offered that the program has come to use."""
        used = {id(v) for equation in jaxpr.eqns for v in equation.invars} | {id(v) for v in jaxpr.outvars}
        self.read += [v for v in self.offered if any(id(i) in used for i in inputs[v])]

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
            gradients=tuple(tuple(position[p] for p in parameters if p in position) for parameters in self.gradients),
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


def same_leaves(a: Sequence[Any], b: Sequence[Any]) -> bool:
    return len(a) == len(b) and all(x is y for x, y in zip(a, b, strict=True))


def replay(jaxpr: Any, shapes: Any, traced: Any, outs: Any, layout: Layout, lifted: Any) -> Callable[[list[Any]], list[Any]]:
    """A function from a program's flat inputs to its outputs that replays the first trace."""
    sizes = [len(jax.tree.leaves(initial(v))) for v in traced]
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

    def run(flat: list[Any]) -> list[Any]:
        full: list[Any] = [None] * total  # inputs nobody reads stay out
        for i, value in zip(inputs, flat, strict=True):
            full[i] = value
        results = jax.core.eval_jaxpr(jaxpr.jaxpr, jaxpr.consts, *full)
        return jax.tree.unflatten(tree, [results[i] for i in outputs])

    return run


def has_callback(jaxpr: Any) -> bool:
    """Whether a program calls back into Python, where an exception may end it after its inputs were donated."""
    for equation in jaxpr.eqns:
        if "callback" in equation.primitive.name:
            return True
        for value in equation.params.values():
            for item in value if isinstance(value, (list, tuple)) else (value,):
                inner = getattr(item, "jaxpr", item)
                if hasattr(inner, "eqns") and has_callback(inner):
                    return True
    return False


def initial(v: Variable) -> Any:
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


def own_values(variables: Sequence[Variable]) -> None:
    """Copy the values somebody else may hold, so that they can be donated."""
    for v in variables:
        if v._exposed:
            if not isinstance(v._value, frame.Sentinel):
                v._value = _copy(v._value)
            v._exposed = False


def refuse_dropped(variables: Sequence[Variable]) -> None:
    for v in variables:
        if v._value is DROPPED:
            raise errors.GradientDroppedError(
                f"{v.describe()} was consumed by an earlier compiled step, which did not hand it out, and is needed here: call "
                "optimizer.zero_grad() first, or compile that step with objnet.jit(..., keep_grads=True)."
            )
