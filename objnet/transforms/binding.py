"""The frame of pure functions: it names the Variables a function meets and gives them the values of ``params`` and ``state``.

*Names.*  A module that stands in no other is named by its class in snake case, with ``_1``, ``_2`` for further ones, in the
order they were made; everything below it by attribute path.  Leaves that stand in no module, and those of a root that was
transformed itself, sit under ``"~"``.  A name is given when a value is first needed outside constructors, and then kept, so
``init`` and ``apply`` agree whatever the function does afterwards.

*Values.*  Constructors, and ``nn.init`` and ``load_state_dict`` in the function itself, say what ``init`` returns; ``apply``
puts what it was given in their place.  Parameters are inputs only.  State written anywhere else is written.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax

from objnet.core import errors, frame, scope
from objnet.core.rng import key_stream
from objnet.core.tensor import TensorMethods
from objnet.core.variable import UNSET, Gradient, Parameter, Variable, settle

Entries = dict[str, dict[str, Any]]
ROOT = "~"
_NUMBERS = (int, float, complex)
_alone = threading.RLock()  # attributes of live modules change while a pure function runs


class PureFrame(frame.Frame):
    """The frame of one ``init`` or ``apply``.

    Args:
        live: modules, and Variables that may be in none, that exist already and that the function reaches.
        root: the module whose own leaves sit under ``"~"``, if one was transformed itself.
        given: ``(params, state)`` for apply, None for init; a state of None says that there is none.
    """

    def __init__(self, live: list[Any], root: Any, given: tuple[Mapping[str, Any], Mapping[str, Any] | None] | None):
        super().__init__()
        self.root = root
        self.applies = given is not None
        self.read = _Reads()
        self._params, self._state = (given[0], given[1] or {}) if given is not None else ({}, {})
        self._stateless = given is not None and given[1] is None
        self._state_names = {name for entries in self._state.values() for name in entries}
        self._modules = [thing for thing in live if not isinstance(thing, Variable)]
        self._loose = dict.fromkeys(thing for thing in live if isinstance(thing, Variable))  # perhaps in no module
        self._made: set[int] = set()  # modules built here
        self._doubtful: set[int] = set()  # modules perhaps dropped: replaced, or built inside a constructor
        self._known: dict[Variable, None] = {}  # Variables created here
        self._paths: dict[int, str] = {}
        self._tops: dict[str, Any] = {}  # modules named by their class
        self._places: dict[Variable, tuple[str, str]] = {}
        self._bound: set[Variable] = {key_stream}
        self._initial: dict[Variable, Any] = {}
        self._before: dict[Variable, Any] = {}  # values from before a write that came before the binding
        self._plain: dict[tuple[int, str], Any] = {}  # Python values where state is given
        self._problems: list[str] = []

    # -- what happens inside; a pure function leaves nothing behind, so frames outside hear nothing of it ----------------

    def adopt(self, module: Any) -> None:
        if any(inner.closed for inner in self._inner()):
            raise errors.CompiledCallError(
                f"a {type(module).__name__} was built inside objnet.jit inside a pure function{errors.where()}: its parameters "
                "could not reach params. Build it outside the compiled function."
            )
        self._modules.append(module)
        self._made.add(id(module))
        if scope.constructing(besides=module):
            self._doubtful.add(id(module))
        self.unbound = True
        for inner in self._inner():
            inner.undo.append(lambda: self._drop_module(module))
            break

    def _drop_module(self, module: Any) -> None:
        """An inner transform starts again and will build it anew."""
        self._modules.remove(module)
        self._made.discard(id(module))
        self._doubtful.discard(id(module))
        self._tops.pop(self._paths.pop(id(module), ROOT), None)

    def note_created(self, variable: Variable) -> None:
        if isinstance(variable, Gradient) or variable in self._known:  # known if an inner transform hands it over
            return
        self._known[variable] = None
        self.unbound = True
        for inner in self._inner():
            inner.undo.append(lambda: self._drop_variable(variable))
            break
        if scope.constructing():
            return
        if isinstance(variable, Parameter) or not scope.running():
            self._loose[variable] = None
        else:
            self._before[variable] = None

    def _drop_variable(self, variable: Variable) -> None:
        for held in (self._known, self._loose, self._before, self._places, self._initial):
            held.pop(variable, None)  # type: ignore[attr-defined]
        self._bound.discard(variable)

    def note_link(self, module: Any, kind: str, name: str, old: Any, new: Any) -> None:
        self.expire()
        self.unbound = True
        if kind == "_modules":
            self._doubtful.add(id(old))
        if scope.constructing():
            self._plain.pop((id(module), name), None)
        elif isinstance(new, Variable) and (kind == "_arrays" or (kind == "_buffers" and old is None)):
            self._before.setdefault(new, None)  # an attribute that was None at the start

    def note_attribute(self, module: Any, name: str, old: Any, new: Any) -> None:
        self.expire()
        if id(module) not in self._made and any(isinstance(v, _NUMBERS) and not isinstance(v, bool) for v in (old, new)):
            raise errors.StaticAttributeError(
                f"the Python number {module._where()}.{name} was changed inside a pure function{errors.where()}: that is no state, "
                f"so the change would be lost. Hold it as an array (self.{name} = jnp.asarray(...)), or change it outside."
            )
        if self.expects(name):
            self._plain[id(module), name] = new

    def expects(self, name: str) -> bool:
        return name in self._state_names

    def fill(self, module: Any, name: str) -> bool:
        if not self.expects(name) or scope.constructing():
            return False
        self.bind()
        path = self._paths.get(id(module), "") or ROOT
        value = self._state.get(path, {}).get(name)
        if not _is_state(value) or (path, name) in self._places.values():
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
        if parameter not in self._known or self.read.get(parameter) is scope.FORWARD:
            raise errors.WriteInTransformError(
                f"{parameter.describe()} was written inside a pure function{errors.where()}: params are inputs only, the new value "
                "would be lost. Return it, hold it in a buffer, or train with objnet.jit on a live model."
            )
        if parameter in self._bound:
            if self.applies:
                return
            self._initial[parameter] = value
        super().set(parameter, value)
        self.written.pop(parameter, None)  # so that reads of it are noted

    def miss(self, variable: Variable) -> None:
        raise errors.ReadInTransformError(
            f"{variable.describe()} was read inside a pure function that does not hold it{errors.where()}: no path leads from the "
            "function to it, so it would be a constant. Build the module inside the function, or name it there."
        )

    def _inner(self) -> Iterator[frame.Frame]:
        """The frames inside this one, innermost first."""
        inner = frame.current()
        while inner is not None and inner is not self:
            yield inner
            inner = inner.parent

    # -- names ---------------------------------------------------------------------------------------------------------

    def _name_all(self, wanted: Variable | None) -> None:
        """Name every module that is not inside another and was not dropped, what is below, and what holds ``wanted``."""
        held = {id(child) for module in self._modules for child in module._modules.values() if child is not None}
        for module in self._modules:
            if id(module) not in self._paths and id(module) not in held and id(module) not in self._doubtful:
                self._name_top(module)
        seen: set[int] = set()
        for module in self._modules:
            if id(module) in self._paths:
                self._name_below(module, self._paths[id(module)], seen)
        if wanted is not None and wanted not in self._places:
            holders = [m for m in self._modules if id(m) not in self._paths and any(v is wanted for v in _variables(m))]
            if holders:
                holder = next((m for m in holders if id(m) not in held), holders[0])
                self._name_below(holder, self._name_top(holder), seen)
        for variable in self._loose:
            if variable not in self._places:
                taken = {name for path, name in self._places.values() if path == ROOT}
                self._places[variable] = (ROOT, _free(_snake(type(variable).__name__), taken))

    def _name_top(self, module: Any) -> str:
        taken = {*self._tops, *(self.root._modules if self.root is not None else ())}
        path = "" if module is self.root else _free(_snake(type(module).__name__), taken)
        self._paths[id(module)] = path
        self._tops[path] = module
        return path

    def _name_below(self, module: Any, path: str, seen: set[int]) -> None:
        if id(module) in seen:
            return
        seen.add(id(module))
        path = self._paths.setdefault(id(module), path)
        if self._tops.get(path, module) is not module:
            raise errors.StructureMismatchError(
                f"two modules are called {path!r}: one that a forward built, and a later attribute of the transformed module. Set "
                "the attribute in __init__, or give it another name."
            )
        self._attach(module, path or ROOT)
        for registry in (module._parameters, module._buffers, module._arrays):
            for name, variable in registry.items():
                if variable is not None:
                    self._places.setdefault(variable, (path or ROOT, name))
        for name, child in module._modules.items():
            if child is not None:
                self._name_below(child, f"{path}.{name}" if path else name, seen)

    def _attach(self, module: Any, path: str) -> None:
        """Make Variables of the attributes that are None until the state given fills them."""
        for name, value in self._state.get(path, {}).items():
            holder = module.__dict__ if name in module.__dict__ else module._buffers
            if holder.get(name, UNSET) is None and _is_state(value):
                setattr(module, name, settle(value))
            elif self._plain.pop((id(module), name), None) is not None:
                self._problems.append(f"state {path}.{name} is given, but the model starts with a Python value there, not None or an array")

    # -- values --------------------------------------------------------------------------------------------------------

    def bind(self, variable: Variable | None = None) -> None:
        """Name what is new; note its initial value (init), or put the given one in its place (apply)."""
        if variable in self._bound:
            return
        self._name_all(variable)
        self.unbound = False
        held_inside = {v for inner in self._inner() for v in inner.created}
        for variable, place in self._places.items():
            if variable in self._bound or (variable in held_inside and not self.applies):  # handed over when its frame ends
                continue
            self._bound.add(variable)
            if isinstance(variable, Parameter):
                self.values.setdefault(variable._grad, None)
            (self._load if self.applies else self._begin)(variable, *place)

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
        if value is None and model is not None:
            self._problems.append(f"missing from {what}: {path}.{name}, {_show(model)}")
        elif model is not None and model is not UNSET and _kind(value) != _kind(model):
            self._problems.append(f"{what} {path}.{name} is {_show(value)}, the model has {_show(model)}")
            value = None
        if not overwritten:  # what does not fit keeps the model's value, so that the function ends and every problem is found
            self.values[variable] = model if value is None else settle(value)

    # -- results -------------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Bind what the function left unread, and refuse what does not fit."""
        self.bind()
        for variable in self._known:
            if variable not in self._places and self.read.get(variable, scope.BUILD) is not scope.BUILD:
                raise errors.ReadInTransformError(
                    f"a {type(variable).__name__} that is no attribute of a module was used inside a pure function{errors.where()}: "
                    "it would be in neither params nor state. Assign it to an attribute (self.weight = nn.Parameter(...))."
                )
        for what, source, params in (("params", self._params, True), ("state", self._state, False)):
            places = {place for v, place in self._places.items() if isinstance(v, Parameter) == params}
            given = [(path, name) for path, entries in source.items() for name in entries]
            self._problems += [f"unknown in {what}: {path}.{name}" for path, name in given if (path, name) not in places]

    def misfit(self) -> errors.ObjnetError | None:
        """The error that lists every entry that does not fit."""
        if not self._problems:
            return None
        if self._stateless and all(p.startswith("missing from state") for p in self._problems):
            return stateful(p.partition(": ")[2] for p in self._problems)
        return errors.StructureMismatchError(
            "params and state do not fit the transformed function:\n  " + "\n  ".join(self._problems) + "\nAll parameters must be "
            "created as part of `init`: pass what init returned, changed only in values."
        )

    def params(self) -> Entries:
        """The parameters at the start, in dicts of their own."""
        return self._collect({v: value for v, value in self._initial.items() if isinstance(v, Parameter)})

    def final_state(self) -> Entries:
        """The state as it was at the start (init) or as it is now (apply), in dicts of its own."""
        values = self.values if self.applies else self._initial
        return self._collect({v: values.get(v) for v in self._places if not isinstance(v, Parameter)})

    def _collect(self, values: Mapping[Variable, Any]) -> Entries:
        result: Entries = {}
        for variable, value in values.items():
            if value is not None:
                path, name = self._places[variable]
                result.setdefault(path, {})[name] = value
        return result


class _Reads(dict[Variable, Any]):
    """Where each Variable was read: in a forward, in constructors only, or (True) at most in the function itself."""

    def __setitem__(self, variable: Variable, _: None) -> None:
        here = scope.BUILD if scope.constructing() else scope.FORWARD if scope.running() else True
        if variable not in self or (self[variable] is not scope.FORWARD and here is not scope.BUILD):
            super().__setitem__(variable, here)


def evaluate(
    call: Callable[[PureFrame], Any],
    key: Any,
    live: Iterable[Any],
    root: Any = None,
    given: tuple[Mapping[str, Any], Mapping[str, Any] | None] | None = None,
) -> tuple[Any, Entries, Entries]:
    """Run ``call(frame)`` in a :class:`PureFrame`; returns its result, the initial params, and the state.

    Args:
        key: what random keys are split from, or None.

    Raises:
        StructureMismatchError, NonEmptyStateError: what was given does not fit.
    """
    live = list(live)
    token = False
    while True:
        inner = PureFrame(live, root, given)
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
            return result, inner.params(), inner.final_state()
        except frame.TokenNeeded as needed:
            if needed.frame is not inner:
                raise
            token = True
        finally:
            inner.rollback()  # live modules keep their own attributes
            inner.close()
            if live:
                _alone.release()


def stateful(entries: Iterable[str]) -> errors.NonEmptyStateError:
    """The error of state where there should be none."""
    return errors.NonEmptyStateError(
        "state (a buffer such as a running mean, or an array attribute) was met where none was given: use "
        "objnet.transform_with_state, whose apply takes the state that init or the last apply returned. Its entries: "
        f"{'; '.join(entries)}."
    )


def _arrays(result: Any) -> Any:
    """``result`` with arrays in place of Parameters."""
    if any(isinstance(leaf, TensorMethods) for leaf in jax.tree.leaves(result, is_leaf=lambda x: isinstance(x, TensorMethods))):
        return jax.tree.map(lambda leaf: leaf, result)
    return result


def _variables(module: Any) -> Iterator[Variable | None]:
    """Everything ``module`` and the modules below hold."""
    for below in module.modules():
        for registry in (below._parameters, below._buffers, below._arrays):
            yield from registry.values()


def _copy(value: Any) -> Any:
    """``value`` in containers of its own, which the function may change in place."""
    return value if isinstance(value, jax.Array) else jax.tree.map(lambda leaf: leaf, value)


def _is_state(value: Any) -> bool:
    """Whether ``value`` is an array or a pytree of arrays."""
    leaves = jax.tree.leaves(value)
    return bool(leaves) and all(hasattr(leaf, "shape") and hasattr(leaf, "dtype") for leaf in leaves)


class _Kind(str):
    __slots__ = ()
    __repr__ = str.__str__


def _leaf_kind(leaf: Any) -> _Kind:
    if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
        return _Kind(f"a {type(leaf).__name__}")
    return _Kind(f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]")


def _kind(value: Any) -> Any:
    """What has to be equal: the structure, shapes and dtypes."""
    leaves, tree = jax.tree.flatten(value)
    return tree, [*map(_leaf_kind, leaves)]


def _show(value: Any) -> str:
    return "not known" if value is UNSET else repr(jax.tree.map(_leaf_kind, value))


def _free(base: str, taken: set[str]) -> str:
    """``base``, or with the first number that makes it a name of its own."""
    name, number = base, 0
    while name in taken:
        number += 1
        name = f"{base}_{number}"
    return name


def _snake(name: str) -> str:
    """``MultiHeadLSTM`` as ``multi_head_lstm``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
