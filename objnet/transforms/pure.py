"""The pure form: ``transform`` and its family, Haiku's documented ``init``/``apply`` over torch-like modules.

``params`` and ``state`` are two-level dicts, module path to name to array.  A module built inside the transformed function is
named by its class in snake case, with ``_1``, ``_2`` for further ones; everything below it is named by attribute path.  Leaves
that stand in no module, and those of a root that was transformed itself, sit under ``"~"``.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from objnet.core import errors, frame, scope
from objnet.core.capture import Capture
from objnet.core.rng import NO_RNG, as_key, key_stream
from objnet.core.variable import Gradient, Parameter, Variable

Params = dict[str, dict[str, Any]]
State = dict[str, dict[str, Any]]
ROOT = "~"


class Transformed(NamedTuple):
    """Pure functions ``params = init(rng, *args)`` and ``out = apply(params, rng, *args)``."""

    init: Callable[..., Params]
    apply: Callable[..., Any]


class TransformedWithState(NamedTuple):
    """Pure functions ``params, state = init(rng, *args)`` and ``out, state = apply(params, state, rng, *args)``."""

    init: Callable[..., tuple[Params, State]]
    apply: Callable[..., tuple[Any, State]]


class PureFrame(frame.Frame):
    """The frame of one ``init`` or ``apply``.

    Modules are named, and Variables get their values, when one is first read outside a constructor.

    Args:
        live: modules that exist already and that the function reaches.
        root: the one of them (or the one the function will build) whose own leaves sit under ``"~"``.
        given: ``(params, state)`` for apply, None for init.
    """

    def __init__(self, live: list[Any], root: Any, given: tuple[Mapping[str, Any], Mapping[str, Any]] | None):
        super().__init__()
        self.applies = given is not None
        self.given = given
        self.root = root
        self.modules = list(live)
        self.names: dict[Variable, tuple[str, str]] = {}
        self.initial: dict[Variable, Any] = {}
        self._paths: dict[int, str] = {}
        self._loose: dict[Variable, None] = {}
        self._late: set[Variable] = set()
        self._fixed: set[Variable] = set()
        self._guessed: dict[Variable, tuple[str, str]] = {}
        self.unbound = True

    # -- what happens inside -------------------------------------------------------------------------------------------

    def adopt(self, module: Any) -> None:
        self.modules.append(module)
        self.unbound = True
        super().adopt(module)

    def note_link(self, module: Any, kind: str, name: str, old: Any, new: Any) -> None:
        self.unbound = True
        super().note_link(module, kind, name, old, new)

    def set(self, variable: Variable, value: Any, created: bool = False) -> None:
        if created:
            self.unbound = True
            if scope.in_forward():
                self._late.add(variable)
            elif isinstance(variable, Parameter):
                self._loose[variable] = None
        elif isinstance(variable, Parameter) and not scope.building():
            if scope.in_forward() or variable not in self.created:
                raise errors.WriteInTransformError(
                    f"{variable.describe()} was written inside a pure function{errors.where()}: params are inputs only, the new value "
                    "would be lost. Return it, hold it in a buffer, or train with objnet.jit on a live model."
                )
            if variable in self._fixed:  # initialisation by the function itself, after a first read
                if self.given is None:
                    self.initial[variable] = value
                else:
                    return
        super().set(variable, value, created)

    def miss(self, variable: Variable) -> None:
        raise errors.ReadInTransformError(
            f"{variable.describe()} was read inside a pure function that does not hold it{errors.where()}: no path leads from the "
            "function to it, so it would be a constant. Build the module inside the function, or name it there."
        )

    # -- names ---------------------------------------------------------------------------------------------------------

    def _name_all(self) -> None:
        held = {id(child) for m in self.modules for child in m._modules.values() if child is not None}
        counts: dict[str, int] = {}
        for module in self.modules:
            if id(module) in self._paths or id(module) not in held:
                base = _snake(type(module).__name__)
                path = "" if module is self.root else _numbered(base, counts)
                self._paths.setdefault(id(module), path)
        for root in self.modules:
            if id(root) in self._paths:
                for path, module in root.named_modules(prefix=self._paths[id(root)]):
                    self._name_members(path or ROOT, module)
        for variable in self._loose:
            if variable not in self.names:
                taken = {name for path, name in self.names.values() if path == ROOT}
                counts = {"parameter": 0}
                name = _numbered("parameter", counts)
                while name in taken:
                    name = _numbered("parameter", counts)
                self.names[variable] = (ROOT, name)

    def _name_members(self, path: str, module: Any) -> None:
        for registry in (module._parameters, module._buffers, module._arrays):
            for name, variable in registry.items():
                if variable is not None:
                    self.names.setdefault(variable, (path, name))
        if self.given is None:
            return
        # State that was None at the start and has appeared since: it exists only in what apply was given.
        for name, value in self.given[1].get(path, {}).items():
            known = (module._parameters, module._buffers, module._arrays, module._modules)
            if not any(name in registry for registry in known) and module.__dict__.get(name) is None:
                module._link("_arrays", name, Variable(value))
                variable = module._arrays[name]
                self.names[variable] = (path, name)
                if name not in module.__dict__:
                    self._guessed[variable] = (path, name)
                module.__dict__.pop(name, None)

    # -- values --------------------------------------------------------------------------------------------------------

    def bind(self) -> None:
        """Name what is new; note its initial value (init), or load its given one (apply)."""
        self.unbound = False
        self._name_all()
        self.unbound = False
        fresh = [v for v in self.names if v not in self._fixed and v not in self._late]
        self._fixed.update(fresh)
        problems = []
        for variable in fresh:
            if self.given is None:
                value = self.values[variable] if variable in self.values else self._outside(variable)
                self.initial[variable] = self.values[variable] = value
                continue
            path, name = self.names[variable]
            what = "params" if isinstance(variable, Parameter) else "state"
            source = self.given[0 if what == "params" else 1]
            model = self.values.get(variable, variable._value)
            entry = _show(path, name)
            if name not in source.get(path, {}):
                if model is not None:
                    problems.append(f"missing from {what}: {entry}, {_kind(model)}")
                self.values.setdefault(variable, model)
                continue
            value = source[path][name]
            value = value._read() if hasattr(value, "_read") else value
            if isinstance(model, jax.Array) and _kind(value) != _kind(model):
                problems.append(f"{what} {entry} is {_kind(value)}, the model has {_kind(model)}")
            self.values[variable] = value
        if problems:
            raise self._mismatch(problems)

    def _outside(self, variable: Variable) -> Any:
        if self.parent is not None:
            return self.parent.get(variable)
        if self.foreign:
            raise frame.read_error(variable)
        return variable._own()

    def _mismatch(self, problems: list[str]) -> errors.StructureMismatchError:
        return errors.StructureMismatchError(
            "params and state do not fit the transformed function:\n  " + "\n  ".join(problems) + "\nAll parameters must be "
            "created as part of `init`: pass what init returned, changed only in values."
        )

    def finish(self) -> None:
        """Bind what the function left unread, and refuse entries that belong to nothing."""
        self.bind()
        if self.given is None:
            return
        taken = {True: set(), False: set()}  # type: ignore[var-annotated]
        for variable, place in self.names.items():
            if variable not in self._guessed or variable in self.read or variable in self.written:
                taken[isinstance(variable, Parameter)].add(place)
        problems = [
            f"unknown in {what}: {_show(path, name)}"
            for what, source, places in (("params", self.given[0], taken[True]), ("state", self.given[1], taken[False]))
            for path, entries in source.items()
            for name in entries
            if (path, name) not in places
        ]
        if problems:
            raise self._mismatch(problems)

    def collect(self, values: Mapping[Variable, Any], params: bool) -> dict[str, dict[str, Any]]:
        """Fresh two-level dict of the parameters, or of everything else, that has a value."""
        result: dict[str, dict[str, Any]] = {}
        for variable, (path, name) in self.names.items():
            if isinstance(variable, Parameter) == params and values.get(variable) is not None:
                result.setdefault(path, {})[name] = values[variable]
        return result


def _show(path: str, name: str) -> str:
    return f"{path}.{name}"


def _kind(value: Any) -> str:
    if not hasattr(value, "shape"):
        return f"a {type(value).__name__}"
    return f"{value.dtype}[{','.join(map(str, value.shape))}]"


def _numbered(base: str, counts: dict[str, int]) -> str:
    number = counts.get(base, 0)
    counts[base] = number + 1
    return base if number == 0 else f"{base}_{number}"


def _snake(name: str) -> str:
    return re.sub(r"((?<=[a-z0-9])[A-Z]|(?!^)[A-Z](?=[a-z]))", r"_\1", name).lower()


def _is_module(value: Any) -> bool:
    return hasattr(value, "named_modules") and not isinstance(value, type)


def _live_modules(function: Any) -> list[Any]:
    capture = Capture()
    capture.walk(function, ())
    return [o for o in capture.objects if _is_module(o)]


def transform_with_state(function: Any) -> TransformedWithState:
    """Turn a function that builds and calls modules into two pure functions (Haiku's ``transform_with_state``).

    Args:
        function: a function, a Module class (built without arguments and called), or a live Module, whose ``init(None, ...)``
            gives its current values. Modules that exist already and that the function reaches take part as well.

    Returns:
        ``init(rng, *args, **kwargs) -> (params, state)`` and ``apply(params, state, rng, *args, **kwargs) -> (out, state)``.
        ``rng`` is a key, an int seed, or None where no random number is needed. ``init`` gives the initial state.

    Raises:
        TypeError: if ``function`` cannot be called. ValueError: if it is already jitted. From init and apply:
        StructureMismatchError listing every missing, unknown or unfitting entry; MissingRngError; ValueError for a bad rng.
    """
    if not callable(function):
        raise TypeError(f"transform takes a function, a Module class or a Module, got {type(function).__name__}")
    if not _is_module(function) and isinstance(function, jax.stages.Wrapped):
        raise ValueError("transform was given an already jitted (or pmapped) function: transform first, then jax.jit(net.apply)")
    is_class = isinstance(function, type)
    live_root = function if _is_module(function) else None

    def run(inner: PureFrame, key: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        inner.values[key_stream] = NO_RNG if key is None else key
        if is_class:
            module = function()
            inner.root = module
            result = module(*args, **kwargs)
        else:
            result = function(*args, **kwargs)
        inner.finish()
        return jax.tree.map(lambda x: x, result)  # Parameters become arrays

    def enter(given: Any, key: Any, args: tuple[Any, ...], kwargs: dict[str, Any], read: Callable[[PureFrame, Any], Any]) -> Any:
        live = [live_root] if live_root is not None else [] if is_class else _live_modules(function)
        token = False
        while True:
            inner = PureFrame(live, live_root, given)
            try:
                with inner.open(token):
                    result = read(inner, run(inner, key, args, kwargs))
                    if live:
                        inner.rollback()  # a live module keeps its own attributes
                return result
            except frame.TokenNeeded as needed:
                if needed.frame is not inner:
                    raise
                token = True
            finally:
                inner.close()

    def init_fn(rng: Any, /, *args: Any, **kwargs: Any) -> tuple[Params, State]:
        key = _check_key(rng, "init", "first", "init(rng, *args, **kwargs)")
        if live_root is not None:
            if key is not None:
                raise ValueError(
                    "a live module's init takes rng=None and gives the module's current values; fresh values come from transforming "
                    f"its class or a function: objnet.transform_with_state({type(live_root).__name__})"
                )
            inner = PureFrame([live_root], live_root, None)
            with inner.open():
                inner.finish()
                result = inner.collect(inner.initial, True), inner.collect(inner.initial, False)
            inner.close()
            return result
        return enter(
            None, key, args, kwargs, lambda inner, _: (inner.collect(inner.initial, True), inner.collect(inner.initial, False))
        )

    def apply_fn(params: Any, state: Any, rng: Any, /, *args: Any, **kwargs: Any) -> tuple[Any, State]:
        given = _check_dict(params, "params"), _check_dict(state, "state")
        key = _check_key(rng, "apply", "third", "apply(params, state, rng, *args, **kwargs)")
        return enter(given, key, args, kwargs, lambda inner, out: (out, inner.collect(inner.values, False)))

    _sign(init_fn, function, ("rng",))
    _sign(apply_fn, function, ("params", "state", "rng"))
    init_fn._original_fn = apply_fn._original_fn = function  # type: ignore[attr-defined]
    return TransformedWithState(init_fn, apply_fn)


def transform(function: Any) -> Transformed:
    """:func:`transform_with_state` for functions without state: ``init(rng, *args)`` and ``apply(params, rng, *args)``.

    Raises:
        NonEmptyStateError: from init and apply, if the function holds buffers or other state.
    """
    return without_state(transform_with_state(function))  # type: ignore[return-value]


def without_state(transformed: TransformedWithState) -> Transformed:
    """Drop the empty ``state`` from both signatures.

    Raises:
        NonEmptyStateError: from init and apply, if there is state after all.
    """

    def init_fn(rng: Any, /, *args: Any, **kwargs: Any) -> Params:
        params, state = transformed.init(rng, *args, **kwargs)
        _check_empty(state)
        return params

    def apply_fn(params: Any, rng: Any, /, *args: Any, **kwargs: Any) -> Any:
        key = _check_key(rng, "apply", "second", "apply(params, rng, *args, **kwargs)")
        try:
            out, state = transformed.apply(params, {}, key, *args, **kwargs)
        except errors.StructureMismatchError as error:
            if "missing from state" in str(error):
                raise errors.NonEmptyStateError(_STATE_MET) from error
            raise
        _check_empty(state)
        return out

    function = transformed.init._original_fn  # type: ignore[attr-defined]
    _sign(init_fn, function, ("rng",))
    _sign(apply_fn, function, ("params", "rng"))
    init_fn._original_fn = apply_fn._original_fn = function  # type: ignore[attr-defined]
    return Transformed(init_fn, apply_fn)


def with_empty_state(transformed: Transformed) -> TransformedWithState:
    """Add an empty ``state`` to both signatures."""

    def init_fn(rng: Any, /, *args: Any, **kwargs: Any) -> tuple[Params, State]:
        return transformed.init(rng, *args, **kwargs), {}

    def apply_fn(params: Any, state: Any, rng: Any, /, *args: Any, **kwargs: Any) -> tuple[Any, State]:
        if state:
            raise errors.NonEmptyStateError(f"this function holds no state, got entries {sorted(state)}")
        return transformed.apply(params, rng, *args, **kwargs), {}

    function = transformed.init._original_fn  # type: ignore[attr-defined]
    _sign(init_fn, function, ("rng",))
    _sign(apply_fn, function, ("params", "state", "rng"))
    init_fn._original_fn = apply_fn._original_fn = function  # type: ignore[attr-defined]
    return TransformedWithState(init_fn, apply_fn)


def without_apply_rng(transformed: Any) -> Any:
    """Drop ``rng`` from ``apply``, which then runs with None."""
    has_state = isinstance(transformed, TransformedWithState)
    if not isinstance(transformed, (Transformed, TransformedWithState)):
        raise TypeError(f"without_apply_rng takes what a transform returned, got {type(transformed).__name__}")

    def apply_fn(params: Any, /, *args: Any, **kwargs: Any) -> Any:
        if not has_state:
            return transformed.apply(params, None, *args, **kwargs)
        if not args:
            raise TypeError("apply() missing 1 required positional argument: 'state'")
        return transformed.apply(params, args[0], None, *args[1:], **kwargs)

    function = transformed.init._original_fn
    _sign(apply_fn, function, ("params", "state") if has_state else ("params",))
    apply_fn._original_fn = function  # type: ignore[attr-defined]
    return type(transformed)(transformed.init, apply_fn)


_STATE_MET = (
    "state (a buffer such as a running mean, or an array attribute) was met by a transform that carries none: use "
    "objnet.transform_with_state, whose apply takes and returns it."
)


def _check_empty(state: Any) -> None:
    if state:
        raise errors.NonEmptyStateError(f"{_STATE_MET} Its entries: {', '.join(f'{p}.{n}' for p, e in state.items() for n in e)}.")


def _check_dict(value: Any, what: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(v, Mapping) for v in value.values()):
        raise TypeError(
            f"{what} does not appear valid: it should be a two-level mapping, module path to name to array, but is of type "
            f"{type(value).__name__}"
        )
    return value


def _check_key(value: Any, function: str, position: str, signature: str) -> Any:
    if value is None:
        return None
    try:
        return as_key(value)
    except ValueError as error:
        raise ValueError(
            f"{function} must be called with an RNG as the {position} argument, the required signature is: `{signature}`; {error}"
        ) from None


def _sign(function: Any, original: Any, names: tuple[str, ...]) -> None:
    """Give a pure function the signature users see: the added arguments, then those of the original."""
    target = original.forward if _is_module(original) else original
    target = functools.partial(original.forward, None) if isinstance(original, type) and hasattr(original, "forward") else target
    try:
        own = list(inspect.signature(target).parameters.values())
    except (TypeError, ValueError):
        return
    added = [inspect.Parameter(n, inspect.Parameter.POSITIONAL_ONLY) for n in names]
    own = [p for p in own if p.kind is not p.POSITIONAL_ONLY or p.name not in names]
    positional_only = [p for p in own if p.kind is p.POSITIONAL_ONLY]
    rest = [p for p in own if p.kind is not p.POSITIONAL_ONLY]
    clash = {p.name for p in own} & set(names)
    if not clash:
        function.__signature__ = inspect.Signature([*added, *positional_only, *rest])
    function.__name__ = "apply" if "params" in names else "init"
    function.__doc__ = getattr(original, "__doc__", None)
