"""Parameters and state by name, made where they are first asked for (Haiku's ``get_parameter``, ``get_state``, ``set_state``).

In a method of a module they are its parameters and buffers; in a pure function outside of any, they sit under ``"~"``.
``nn.Parameter`` and ``register_buffer`` in a constructor are torch's way to say the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from objnet.core import errors, frame, scope, settings
from objnet.core.variable import UNSET, Buffer, Parameter, Variable, settle
from objnet.nn import interception
from objnet.transforms.inside import find_pure_frame

__all__ = ["get_parameter", "get_state", "set_state"]


def get_parameter(name: str, shape: Sequence[int], dtype: Any = None, init: Callable[..., Any] | None = None) -> jax.Array:
    """The parameter of this name of the module whose method runs, or of the pure function; created where there is none.

    Args:
        name: an attribute's name.
        shape: its shape.
        dtype: its dtype when it is created, float32 by default.
        init: called with shape and dtype for the first value; in a pure ``apply`` it is not needed and not called.

    Raises:
        OutsideTransformError: neither in a method of a module nor in a pure function. ValueError: it has another shape, or has to
            be created and ``init`` is None.
    """
    dtype = jnp.dtype(jnp.float32 if dtype is None else dtype)
    module, variable = _find(name, "get_parameter", Parameter)
    if variable is None:
        variable = _create(module, name, Parameter, lambda: _first(name, module, tuple(shape), dtype, init, True))
    value = variable._read()
    if value.shape != tuple(shape):
        raise ValueError(
            f"{interception._path(module, name) if module is not None else name!r} has shape {value.shape}, which does not match "
            f"shape={tuple(shape)}"
        )
    return interception.read(module, name, variable, value) if settings.current() else value


def get_state(name: str, shape: Sequence[int] | None = None, dtype: Any = None, init: Callable[..., Any] | None = None) -> Any:
    """The state of this name of the module whose method runs, or of the pure function; created where there is none.

    Args:
        name: an attribute's name.
        shape, dtype: given to ``init`` where there is one; float32 by default.
        init: called with shape and dtype for the first value, which ``init`` of the pure form returns; in a pure ``apply`` it is
            not called.

    Raises:
        OutsideTransformError: neither in a method of a module nor in a pure function. ValueError: it has to be created, and
            ``init`` is None.
    """
    module, variable = _find(name, "get_state", Variable)
    if variable is None:
        kind = jnp.dtype(jnp.float32 if dtype is None else dtype)
        variable = _create(module, name, Variable, lambda: _first(name, module, shape, kind, init, False))
    value = variable._read()
    return interception.read(module, name, variable, value) if settings.current() else value


def set_state(name: str, value: Any) -> None:
    """Write the state of this name; the first value written is the initial one if :func:`get_state` gave none.

    Args:
        name: an attribute's name.
        value: an array, a number or a pytree of them.

    Raises:
        OutsideTransformError: neither in a method of a module nor in a pure function.
    """
    module, variable = _find(name, "set_state", Variable)
    if variable is None:
        variable = _create(module, name, Variable, lambda: value)
    if settings.current():
        value = interception.write(module, name, variable, value)
    variable._set(value)


def _find(name: str, what: str, kind: type) -> tuple[Any, Variable | None]:
    """The module whose method runs (None in a function), and what it holds under ``name``."""
    here = scope.current()
    while here is not None and here.module is None:
        here = here.outer
    if here is not None:
        module = here.module
        for registry in (module._parameters,) if kind is Parameter else (module._buffers, module._arrays):
            if registry.get(name) is not None:
                return module, registry[name]
        return module, None
    pure = find_pure_frame()
    if pure is None:
        raise errors.OutsideTransformError(
            f"objnet.{what} was used neither in a method of a module nor in a pure function{errors.where()}: there it has no place"
        )
    return None, pure.named(_place(pure, None, name), kind is Parameter)


def _place(pure: Any, module: Any, name: str) -> tuple[str, str]:
    inner = frame.current()
    assert inner is not None
    if inner.unbound and not scope.constructing():
        inner.bind()
    return (pure.names.path(module) if module is not None else pure.scope.rstrip(".") or "~"), name


def _create(module: Any, name: str, kind: type, value: Callable[[], Any]) -> Variable:
    pure = find_pure_frame()
    if pure is not None and pure.applies and not scope.constructing():
        return _given(pure, module, name, kind)
    with scope.entered(scope.BUILD):
        first = settle(value())
        if kind is Parameter:
            variable: Variable = Parameter(first, requires_grad=bool(jnp.issubdtype(first.dtype, jnp.inexact)))
        else:
            variable = Buffer(first) if isinstance(first, jax.Array) else Variable(first)
        if module is not None:
            _hold(module, name, variable)
        elif pure is not None:
            pure.adopt_place(variable, _place(pure, None, name))
    return variable


def _given(pure: Any, module: Any, name: str, kind: type) -> Variable:
    """What a pure apply was given under the name."""
    place = _place(pure, module, name)
    variable: Variable = Parameter.__new__(Parameter) if kind is Parameter else Variable(UNSET)
    if isinstance(variable, Parameter):
        variable.prepare()
    pure.load(variable, place)
    if module is not None:
        with scope.entered(scope.BUILD):
            _hold(module, name, variable)
    return variable


def _hold(module: Any, name: str, variable: Variable) -> None:
    registry = "_parameters" if isinstance(variable, Parameter) else "_buffers" if isinstance(variable, Buffer) else "_arrays"
    module._check_name("attribute", name, registry)
    module._link(registry, name, variable)


def _first(name: str, module: Any, shape: Any, dtype: Any, init: Callable[..., Any] | None, is_parameter: bool) -> Any:
    if init is None:
        raise ValueError(f"{name!r} does not exist yet{errors.where()}: an init function is needed to create it")
    hooks = [h.function for h in settings.of(interception.CREATOR) if (h.params if is_parameter else h.state)]
    if not hooks:
        return init(shape, dtype)
    path = interception._path(module, name) if module is not None else name
    return interception.create(hooks, path, module, () if shape is None else shape, dtype, init)
