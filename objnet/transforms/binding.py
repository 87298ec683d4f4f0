"""The frame of pure functions, which gives the Variables a function meets the values of ``params`` and ``state``.

Constructors, and ``nn.init`` and ``load_state_dict`` in the function itself, say what ``init`` returns; ``apply`` puts
what it was given in their place.  Parameters are inputs only.  State written anywhere else is written: ``init`` returns
what was there before, ``apply`` what is there in the end.  ``transforms/naming.py`` says under which names.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

from objnet.core import errors, frame, scope
from objnet.core.hooks import with_gradient_hooks
from objnet.core.rng import key_stream
from objnet.core.tensor import TensorMethods
from objnet.core.variable import UNSET, Gradient, Parameter, Variable, settle
from objnet.transforms.naming import Names

Entries = dict[str, dict[str, Any]]
_NUMBERS = (int, float, complex)
_alone = threading.RLock()  # attributes of live modules change while a pure function runs


class PureFrame(frame.Frame):
    """The frame of one ``init`` or ``apply``.

    Args:
        live: modules, and Variables that may be in none, that exist already and that the function reaches.
        root: the module whose own leaves sit under ``"~"``, if one was transformed itself.
        given: ``(params, state)`` for apply, None for init; a state of None says that there is none.
        partial: whether entries that the function has no use for are let through.
    """

    def __init__(self, live: list[Any], root: Any, given: tuple[Entries, Entries | None] | None, partial: bool = False):
        super().__init__()
        self.applies = given is not None
        self.read = _Reads()
        self._params, self._state = (_strong(given[0]), _strong(given[1] or {})) if given is not None else ({}, {})
        self._stateless = given is not None and given[1] is None
        self._state_names = {name for entries in self._state.values() for name in entries}
        variables = [thing for thing in live if isinstance(thing, Variable)]
        self.names = Names([thing for thing in live if not isinstance(thing, Variable)], variables, root)
        self._built: set[int] = set()  # modules and optimizers
        self._kept: list[Any] = []  # optimizers, so that their ids stay their own
        self._created: dict[Variable, None] = {}  # what inner frames created too
        self._bound: dict[Variable, None] = {key_stream: None}
        self._initial: dict[Variable, Any] = {}
        self._before: dict[Variable, Any] = {}  # values from before a write that came before the binding
        self._plain: dict[tuple[int, str], Any] = {}  # Python values where state is given
        self._problems: list[str] = []
        self._partial = partial
        self._guarded = False
        self._aside: dict[Variable, None] = {}
        self.scope = ""  # the name scope that modules are built in
        self.lifts: list[Any] = []  # entries of inner pure functions (transforms/lift.py)

    def phase(self) -> str:
        return "apply" if self.applies else "init"

    # -- what happens inside; a pure function leaves nothing behind, so frames outside hear nothing of it --------------

    def note_built(self, thing: Any) -> None:
        self._built.add(id(thing))
        self._kept.append(thing)
        super().note_built(thing)

    def adopt(self, module: Any) -> None:
        if any(inner.closed for inner in self._inner()):
            raise errors.CompiledCallError(
                f"a {type(module).__name__} was built inside objnet.jit inside a pure function{errors.where()}: its "
                "parameters could not reach params. Build it outside the compiled function."
            )
        self.unbound = True
        self._built.add(id(module))
        self.names.add(module, self.scope)
        if scope.constructing(besides=module):
            self.names.doubt(module)
        self.unless_restarted(lambda: self.names.drop(module))

    def note_created(self, variable: Variable) -> None:
        if (
            isinstance(variable, Gradient) or variable in self._created or variable in self._aside
        ):  # an inner frame hands over what it created
            return
        self.unbound = True
        self._created[variable] = None
        if not scope.constructing():
            if isinstance(variable, Parameter) or not scope.running():
                self.names.add_loose(variable)
            else:
                self._before[variable] = None
        self.unless_restarted(lambda: self._drop(variable))

    def _drop(self, variable: Variable) -> None:
        self.names.drop_variable(variable)
        for held in (self._created, self._bound, self._initial, self._before):
            held.pop(variable, None)

    def unless_restarted(self, undo: Callable[[], None]) -> None:
        """Have ``undo`` called if an inner frame has to run its function again, which builds everything anew."""
        inner = next(self._inner(), None)
        if inner is not None:
            inner.undo.append(undo)

    def note_link(self, module: Any, kind: str, name: str, old: Any, new: Any) -> None:
        self.expire()
        self.unbound = True
        if kind == "_modules":
            self.names.doubt(old)
        if scope.constructing():
            self._plain.pop((id(module), name), None)
        elif isinstance(new, Variable) and (kind == "_arrays" or (kind == "_buffers" and old is None)):
            self._before.setdefault(new, None)  # an attribute that was None at the start

    def note_attribute(self, module: Any, name: str, old: Any, new: Any) -> None:
        self.expire()
        numbers = [v for v in (old, new) if isinstance(v, _NUMBERS) and not isinstance(v, bool)]
        if numbers and id(module) not in self._built:
            raise errors.StaticAttributeError(
                f"the Python number {module._where()}.{name} was changed inside a pure function{errors.where()}: that is "
                f"no state, so the change would be lost. Hold it as an array (self.{name} = jnp.asarray(...)), or change "
                "it outside."
            )
        if self.expects(name):
            self._plain[id(module), name] = new

    def expects(self, name: str) -> bool:
        return name in self._state_names

    def fill(self, module: Any, name: str) -> bool:
        if not self.expects(name) or scope.constructing():
            return False
        self.bind()
        path = self.names.path(module)
        value = self._state.get(path, {}).get(name)
        if not _is_state(value) or (path, name) in self.names.places.values():
            return False
        setattr(module, name, settle(value))
        self.bind()
        return True

    def set(self, variable: Variable, value: Any, created: bool = False) -> None:
        if created:
            super().set(variable, value, created)
        elif isinstance(variable, Parameter):
            self._set_parameter(variable, value)
        else:
            if variable not in self._bound and variable in self.values and not scope.constructing():
                self._before.setdefault(variable, self.values[variable])
            super().set(variable, value)

    def _set_parameter(self, parameter: Parameter, value: Any) -> None:
        """Initialisation by the function itself, or a mistake."""
        if parameter not in self._created or self.read.get(parameter) is scope.FORWARD:
            raise errors.WriteInTransformError(
                f"{parameter.describe()} was written inside a pure function{errors.where()}: params are inputs only, the "
                "new value would be lost. Return it, hold it in a buffer, or train with objnet.jit on a live model."
            )
        if parameter in self._bound:
            if self.applies:
                return
            self._initial[parameter] = value
        super().set(parameter, value)
        self.written.pop(parameter, None)  # so that reads of it are noted

    def miss(self, variable: Variable) -> None:
        raise errors.ReadInTransformError(
            f"{variable.describe()} was read inside a pure function that does not hold it{errors.where()}: no path leads "
            "from the function to it, so it would be a constant. Build the module inside the function, or name it there."
        )

    def _inner(self) -> Iterator[frame.Frame]:
        """The frames inside this one, innermost first."""
        inner = frame.current()
        while inner is not None and inner is not self:
            yield inner
            inner = inner.parent

    # -- values --------------------------------------------------------------------------------------------------------

    def bind(self, variable: Variable | None = None) -> None:
        """Name what is new; note its initial value (init), or put the given one in its place (apply)."""
        if variable in self._bound:
            return
        self.names.update(variable, self._attach)
        self.unbound = False
        inside = {v for inner in self._inner() for v in inner.created}
        for found, place in self.names.places.items():
            if found in self._bound or (found in inside and not self.applies):  # handed over when its frame ends
                continue
            if found.awaits(self):
                continue
            self._bound[found] = None
            if isinstance(found, Parameter):
                self.values.setdefault(found._grad, None)
            (self._load if self.applies else self._begin)(found, *place)

    def _attach(self, module: Any, path: str) -> None:
        """Make Variables of the attributes that are None until the state given fills them."""
        for name, value in self._state.get(path, {}).items():
            holder = module.__dict__ if name in module.__dict__ else module._buffers
            if holder.get(name, UNSET) is None and _is_state(value):
                setattr(module, name, settle(value))
            elif self._plain.pop((id(module), name), None) is not None:
                self._problems.append(
                    f"state {path}.{name} is given, but the model starts with a Python value there, not None or an array"
                )

    def _begin(self, variable: Variable, path: str, name: str) -> None:
        if variable in self._before:
            self._initial[variable] = _copy(self._before.pop(variable))
            return
        if variable not in self.values:
            self.values[variable] = _copy(self._outside(variable))
        self._initial[variable] = _copy(self.values[variable])

    def _outside(self, variable: Variable) -> Any:
        if self.parent is not None:
            return self.parent.get(variable)
        if self.foreign:
            raise frame.read_error(variable)
        return variable._own()

    def _load(self, variable: Variable, path: str, name: str) -> None:
        what, source = ("params", self._params) if isinstance(variable, Parameter) else ("state", self._state)
        value = source.get(path, {}).get(name)
        overwritten = variable in self._before
        model = self._before.pop(variable) if overwritten else variable._peek()
        if model is UNSET:
            model = UNSET if variable.expected is None else variable.expected
        if value is None:
            if model is not None:
                self._problems.append(f"missing from {what}: {path}.{name}, {_show(model)}")
        elif model is None or model is UNSET:
            if not _is_state(value):
                self._problems.append(f"{what} {path}.{name} is {_show(value)}, not an array")
                value = None
        elif _kind(value) != _kind(model):
            self._problems.append(f"{what} {path}.{name} is {_show(value)}, the model has {_show(model)}")
            value = None
        if not overwritten:  # the model's value stands in, so that the function ends and every problem is found
            bound = settle(value) if value is not None else UNSET if isinstance(model, jax.ShapeDtypeStruct) else model
            hooks = variable._backward_hooks if isinstance(variable, Parameter) else None
            self.values[variable] = with_gradient_hooks(hooks, bound) if hooks else bound

    # -- results -------------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Bind what the function left unread, and refuse what does not fit."""
        self.bind()
        places = self.names.places
        for variable in self._created:
            if variable not in places and self.read.get(variable, scope.BUILD) is not scope.BUILD:
                raise errors.ReadInTransformError(
                    f"a {type(variable).__name__} that is no attribute of a module was used inside a pure function"
                    f"{errors.where()}: it would be in neither params nor state. Assign it to an attribute "
                    "(self.weight = nn.Parameter(...))."
                )
        for what, source, params in (("params", self._params, True), ("state", self._state, False)):
            known = {place for v, place in places.items() if isinstance(v, Parameter) == params}
            given = [(path, name) for path, entries in source.items() for name in entries]
            if not self._partial:
                known.update(place for lift in self.lifts for place in lift.places(params))
                self._problems += [f"unknown in {what}: {path}.{name}" for path, name in given if (path, name) not in known]

    def misfit(self) -> errors.ObjnetError | None:
        """The error that lists every entry that does not fit."""
        if not self._problems:
            return None
        if self._stateless and all(p.startswith("missing from state") for p in self._problems):
            return stateful(p.partition(": ")[2] for p in self._problems)
        listed = "\n  ".join(self._problems)
        return errors.StructureMismatchError(
            f"params and state do not fit the transformed function:\n  {listed}\nAll parameters must be created as part of "
            "`init`: pass what init returned, changed only in values."
        )

    def results(self) -> tuple[Entries, Entries]:
        """The initial params, and the state: initial in init, current in apply; in dicts of their own."""
        values = self.values if self.applies else self._initial
        params, state = Entries(), Entries()
        if self._partial and self.applies:
            state = {path: dict(entries) for path, entries in self._state.items()}
        for variable, (path, name) in self.names.places.items():
            is_parameter = isinstance(variable, Parameter)
            value = (self._initial if is_parameter else values).get(variable)
            if value is not None:
                (params if is_parameter else state).setdefault(path, {})[name] = value
        for lift in self.lifts:
            lift.results(self, params, state)
        return params, state

    def given(self, params: bool) -> Entries:
        """A copy of what apply was given."""
        return {path: dict(entries) for path, entries in (self._params if params else self._state).items()}

    def put_aside(self, variable: Variable) -> None:
        """A Variable that was just created is nobody's: ``lifts`` look after it."""
        self._drop(variable)
        self._aside[variable] = None
        self.unless_restarted(lambda: self._aside.pop(variable, None))

    @contextmanager
    def lifting(self, guarded: bool) -> Iterator[None]:
        """An inner ``init`` runs, which may not (if ``guarded``) hold modules that were built here."""
        before, self._guarded = self._guarded, guarded
        try:
            yield
        finally:
            self._guarded = before

    def check_inner(self, live: list[Any]) -> None:
        """Refuse modules built here among those that an inner pure function reaches while it is lifted."""
        caught = [m for m in live if id(m) in self._built] if self._guarded else []
        if caught:
            raise errors.LiftError(
                f"a lifted init reaches a {type(caught[0]).__name__} that was built outside of it{errors.where()}: its parameters "
                "would be there twice, no longer shared. Build it inside, or lift with allow_reuse=True."
            )

    def first_value(self, variable: Variable) -> Any:
        """What a Variable put aside held before it was written again."""
        return self._before.get(variable, self.values.get(variable))

    def initial(self, variable: Variable) -> Any:
        """What ``init`` will return for a piece of state."""
        return self._initial.get(variable, self.values.get(variable))

    def adopt_place(self, variable: Variable, place: tuple[str, str]) -> None:
        """Give a Variable that was just created a name of its own."""
        self.names.put(variable, place)
        self.unbound = True
        self.unless_restarted(lambda: self._drop(variable))

    def named(self, place: tuple[str, str], parameter: bool) -> Variable | None:
        """The Variable of a function itself that has this name."""
        for variable, other in self.names.places.items():
            if other == place and isinstance(variable, Parameter) is parameter:
                return variable
        return None

    def load(self, variable: Variable, place: tuple[str, str]) -> None:
        """Give a Variable that has no value of its own the one of ``place`` in what apply was given."""
        self.names.put(variable, place)
        self._created[variable] = None
        self._bound[variable] = None
        self._load(variable, *place)
        self.unless_restarted(lambda: self._drop(variable))


class _Reads(dict[Variable, Any]):
    """Where each Variable was read: in a forward, in constructors only, or (True) at most in the function itself."""

    def __setitem__(self, variable: Variable, _: None) -> None:
        here = scope.BUILD if scope.constructing() else scope.FORWARD if scope.running() else True
        if variable not in self or (self[variable] is not scope.FORWARD and here is not scope.BUILD):
            super().__setitem__(variable, here)


def evaluate(
    call: Callable[[PureFrame], Any],
    key: Any,
    live: list[Any],
    root: Any = None,
    given: tuple[Entries, Entries | None] | None = None,
    partial: bool = False,
) -> tuple[Any, Entries, Entries]:
    """Run ``call(frame)`` in a :class:`PureFrame`; returns its result, the initial params, and the state.

    Args:
        key: what random keys are split from, or None.

    Raises:
        StructureMismatchError, NonEmptyStateError: what was given does not fit.
    """
    token = False
    while True:
        if live:
            _check_lifted(live)
        inner = PureFrame(live, root, given, partial)
        if live:
            _alone.acquire()
        try:
            with inner.open(token), scope.outside():
                inner.values[key_stream] = UNSET if key is None else key
                inner.bind()
                try:
                    result = call(inner)
                    if inner.applies:
                        result = _arrays(result)
                    inner.finish()
                except Exception as error:
                    if (misfit := inner.misfit()) is not None:
                        raise misfit from error
                    raise
                if (misfit := inner.misfit()) is not None:
                    raise misfit
            return result, *inner.results()
        except frame.TokenNeeded as needed:
            if needed.frame is not inner:
                raise
            token = True
        finally:
            inner.rollback()  # live modules keep their own attributes
            inner.close()
            if live:
                _alone.release()


def _check_lifted(live: list[Any]) -> None:
    outer = frame.current()
    while outer is not None:
        if isinstance(outer, PureFrame):
            outer.check_inner(live)
            return
        outer = outer.parent


def stateful(entries: Iterable[str]) -> errors.NonEmptyStateError:
    """The error of state where there should be none."""
    return errors.NonEmptyStateError(
        "state (a buffer such as a running mean, or an array attribute) was met where none was given: use "
        "objnet.transform_with_state, whose apply takes the state that init or the last apply returned. Its entries: "
        f"{'; '.join(entries)}."
    )


def _arrays(result: Any) -> Any:
    """``result`` with arrays in place of Parameters."""
    leaves = jax.tree.leaves(result, is_leaf=lambda x: isinstance(x, TensorMethods))
    return _copy(result) if any(isinstance(leaf, TensorMethods) for leaf in leaves) else result


def _copy(value: Any) -> Any:
    """``value`` in containers of its own, which the function may change in place."""
    return value if isinstance(value, jax.Array) else jax.tree.map(lambda leaf: leaf, value)


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct))


def _is_state(value: Any) -> bool:
    """Whether ``value`` is an array or a pytree of arrays."""
    leaves = jax.tree.leaves(value)
    return bool(leaves) and all(map(_is_array, leaves))


class _Kind(str):
    __slots__ = ()
    __repr__ = str.__str__


def _leaf_kind(leaf: Any) -> _Kind:
    return _Kind(f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]" if _is_array(leaf) else f"a {type(leaf).__name__}")


def _strong(entries: Entries) -> Entries:
    """What is given with weak types taken off here, and not inside a transform that binds it, whose tracer would outlive it."""
    return {path: jax.tree.map(lambda v: settle(v) if isinstance(v, jax.core.Tracer) else v, e) for path, e in entries.items()}


def _kind(value: Any) -> tuple[Any, list[str]]:
    """What has to be equal: the structure, shapes and dtypes."""
    leaves, tree = jax.tree.flatten(value)
    return tree, [*map(_leaf_kind, leaves)]


def _show(value: Any) -> str:
    return "not known" if value is UNSET else repr(jax.tree.map(_leaf_kind, value))
