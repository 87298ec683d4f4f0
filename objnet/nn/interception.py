"""Taking part, from a distance, in what modules do: reads, creation and writes of their Variables, and their calls.

Each of the four is a context manager around code that builds or calls modules, and is given the next one inward, so that
several nest: the outermost runs first.  They hold in eager code, under every transform and in the pure form; a compiled
program has them baked in and is another one under others.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import jax

from objnet.core import errors, frame, scope, settings
from objnet.core.capture import Capture, Identity
from objnet.core.variable import Buffer, Parameter, Variable, path_of

GETTER, CREATOR, SETTER, INTERCEPTOR, POLICY = "getter", "creator", "setter", "interceptor", "policy"


_busy: ContextVar[bool] = ContextVar("objnet_in_a_hook", default=False)


class GetterContext(NamedTuple):
    """What is read or created (Haiku's ``GetterContext``).

    Attributes:
        full_name: its key in a state dict, such as ``fc.weight``, as far as it is in a model yet.
        module: the module that holds it; None for one of the function itself.
        original_dtype, original_shape: of the value it holds, or was given first.
        original_init: what gives the first value, called with shape and dtype; None at a read.
    """

    full_name: str
    module: Any
    original_dtype: Any
    original_shape: tuple[int, ...]
    original_init: Callable[..., Any] | None = None

    @property
    def module_name(self) -> str:
        """The path of the module."""
        return self.full_name.rpartition(".")[0]

    @property
    def name(self) -> str:
        """The name of the attribute."""
        return self.full_name.rpartition(".")[2]


class SetterContext(NamedTuple):
    """What is written (Haiku's ``SetterContext``); see :class:`GetterContext`. Of a pytree, dtypes and shapes are pytrees."""

    full_name: str
    module: Any
    original_dtype: Any
    original_shape: Any

    module_name = GetterContext.module_name
    name = GetterContext.name


class MethodContext(NamedTuple):
    """What is called (Haiku's ``MethodContext``).

    Attributes:
        module: the module.
        method_name: ``"forward"``.
        orig_method: the bound method.
        orig_class: the class that defines it.
    """

    module: Any
    method_name: str
    orig_method: Callable[..., Any]
    orig_class: type


class _Hook(NamedTuple):
    function: Callable[..., Any]
    params: bool
    state: bool


def custom_getter(getter: Any, *, params: bool = True, state: bool = False) -> AbstractContextManager[None]:
    """Take part in reads of parameters and buffers in a forward (Haiku's ``custom_getter``).

    Args:
        getter: called as ``getter(next_getter, value, context)`` with a :class:`GetterContext`; what it returns is read. It may
            change ``value`` before it hands it to ``next_getter(value)``, or the result: cast it, stop its gradient, ...
        params, state: whether it runs for parameters, and for buffers and arrays.

    Raises:
        TypeError: ``getter`` cannot be called.
    """
    return _entered(GETTER, getter, params, state)


def custom_creator(creator: Any, *, params: bool = True, state: bool = False) -> AbstractContextManager[None]:
    """Take part in the creation of parameters and buffers of modules that are built inside (Haiku's ``custom_creator``).

    It runs once the constructor of the outermost module is through, but not in a pure ``apply``, whose values are given.

    Args:
        creator: called as ``creator(next_creator, shape, dtype, init, context)``; what it returns is the first value.
            ``init(shape, dtype)`` gives the value of the module's own constructor, for the shape it chose;
            ``next_creator(shape, dtype, init)`` goes on.
        params, state: whether it runs for parameters, and for buffers.

    Raises:
        TypeError: ``creator`` cannot be called.
    """
    return _entered(CREATOR, creator, params, state)


def custom_setter(setter: Any) -> AbstractContextManager[None]:
    """Take part in writes of buffers and arrays in a forward (Haiku's ``custom_setter``).

    Args:
        setter: called as ``setter(next_setter, value, context)`` with a :class:`SetterContext`; what it returns is written.

    Raises:
        TypeError: ``setter`` cannot be called.
    """
    return _entered(SETTER, setter, False, True)


def intercept_methods(interceptor: Any) -> AbstractContextManager[None]:
    """Take part in every call of a module (Haiku's ``intercept_methods``).

    Args:
        interceptor: called as ``interceptor(next_f, args, kwargs, context)`` with a :class:`MethodContext`; ``next_f(*args,
            **kwargs)`` runs the next one, and last the module with its hooks. What it returns is the result.

    Raises:
        TypeError: ``interceptor`` cannot be called.
    """
    return _entered(INTERCEPTOR, interceptor, True, True)


def _entered(kind: str, function: Any, params: bool, state: bool) -> AbstractContextManager[None]:
    if not callable(function):
        raise TypeError(f"a {kind} is a function, got {type(function).__name__}")
    capture = Capture()
    facts = capture.walk(function, ())
    key = (facts, tuple(map(Identity, capture.variables)), params, state)
    return settings.entered(kind, _Hook(function, params, state), key)


# -- for modules -------------------------------------------------------------------------------------------------------


def read(module: Any, name: str, variable: Variable, value: Any) -> Any:
    """What a forward reads as ``module.name``, whose value is ``value``."""
    is_parameter = isinstance(variable, Parameter)
    hooks = [h.function for h in settings.of(GETTER) if (h.params if is_parameter else h.state)]
    if hooks and isinstance(value, jax.Array) and not _busy.get():
        context = GetterContext(_path(module, name), module, value.dtype, value.shape)
        with _alone():
            value = _chain(hooks, lambda v: v, lambda hook, go_on: lambda v: hook(go_on, v, context))(value)
    policy = settings.last(POLICY)
    return value if policy is None or keeps_precision(module) else policy.cast_to_compute(value)


def keeps_precision(module: Any) -> bool:
    """Whether policies leave alone what a module holds: running statistics would not move any more in half precision."""
    return module is not None and "track_running_stats" in module.__dict__


def write(module: Any, name: str, variable: Variable, value: Any) -> Any:
    """What a forward writes as ``module.name = value``."""
    hooks = [h.function for h in settings.of(SETTER)]
    if hooks and not _busy.get():
        dtype, shape = jax.tree.map(jax.numpy.result_type, value), jax.tree.map(jax.numpy.shape, value)
        context = SetterContext(_path(module, name), module, dtype, shape)
        with _alone():
            value = _chain(hooks, lambda v: v, lambda hook, go_on: lambda v: hook(go_on, v, context))(value)
    if settings.last(POLICY) is not None and isinstance(value, jax.Array):
        held = variable._peek()  # state keeps its dtype, though it was computed in another
        if isinstance(held, jax.Array) and jax.numpy.issubdtype(held.dtype, jax.numpy.floating):
            value = value.astype(held.dtype)
    return value


def call(module: Any, run: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a module by way of the interceptors."""
    kind = next(c for c in type(module).__mro__ if "forward" in vars(c))
    context = MethodContext(module, "forward", module.forward, kind)
    hooks = [h.function for h in settings.of(INTERCEPTOR)]
    return _chain(hooks, run, lambda hook, go_on: lambda *a, **k: hook(go_on, a, k, context))(*args, **kwargs)


@contextmanager
def _alone() -> Iterator[None]:
    """What a getter or setter itself reads and writes is its own business."""
    reset = _busy.set(True)
    try:
        yield
    finally:
        _busy.reset(reset)


def _chain(hooks: Sequence[Any], last: Any, link: Callable[[Any, Any], Any]) -> Any:
    for hook in reversed(hooks):
        last = link(hook, last)
    return last


def _path(module: Any, name: str) -> str:
    path = "" if module is None else path_of(module)
    return f"{path}.{name}" if path else name


# -- creation ----------------------------------------------------------------------------------------------------------


class _Waiting(threading.local):
    """What was registered since the outermost constructor of this thread began."""

    def __init__(self) -> None:
        self.items: list[tuple[Any, str, str, Variable, list[Any]]] = []


_waiting = _Waiting()


def note_created(module: Any, registry: str, name: str, variable: Any) -> None:
    """A Parameter or Buffer was registered: creators run for it when the constructors are through."""
    is_parameter = isinstance(variable, Parameter)
    if not is_parameter and not isinstance(variable, Buffer):
        return
    hooks = [h.function for h in settings.of(CREATOR) if (h.params if is_parameter else h.state)]
    if hooks and all(waiting[3] is not variable for waiting in _waiting.items):
        _waiting.items.append((module, registry, name, variable, hooks))
        if not scope.constructing():
            with scope.entered(scope.BUILD):
                run_creators()


def forget_created() -> None:
    """The constructor failed."""
    _waiting.items.clear()


def run_creators() -> None:
    """Run the creators for everything that was built."""
    items, _waiting.items = _waiting.items, []
    inner = frame.current()
    if inner is not None and inner.phase() == "apply":
        return
    for module, registry, name, variable, hooks in items:
        if getattr(module, registry).get(name) is variable and not isinstance(variable._peek(), frame.Sentinel):
            value = variable._read()
            created = create(hooks, _path(module, name), module, value.shape, value.dtype, lambda s, d, v=value: _as(v, s, d))
            variable._set(created)


def create(hooks: Sequence[Any], path: str, module: Any, shape: Any, dtype: Any, init: Callable[..., Any]) -> Any:
    """The first value, by way of ``hooks``."""
    context = GetterContext(path, module, dtype, tuple(shape), init)
    run = _chain(hooks, lambda s, d, i: i(s, d), lambda hook, go_on: lambda s, d, i: hook(go_on, s, d, i, context))
    return run(tuple(shape), dtype, init)


def _as(value: jax.Array, shape: Any, dtype: Any) -> jax.Array:
    if tuple(shape) != value.shape:
        raise errors.CreationError(
            f"a creator asked the init of a module's own for shape {tuple(shape)}{errors.where()}, which has drawn {value.shape}: "
            "give another init, or keep the shape"
        )
    return value.astype(dtype)
