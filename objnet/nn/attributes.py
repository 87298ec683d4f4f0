"""How a Module keeps its attributes: parameters, buffers, submodules, arrays that are state, and plain Python values."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from objnet.core import epoch, errors, frame, reads, scope, settings
from objnet.core.hooks import HookDict
from objnet.core.variable import Buffer, Parameter, Variable, path_of, settle
from objnet.nn import interception

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_NUMBERS = (int, float, complex)
_MISSING = object()
# Hooks run as ``hook(module, name, value)`` whenever a module registers something in one of these places.
REGISTRATION = {kind: HookDict() for kind in ("_parameters", "_buffers", "_modules")}


def is_state(value: Any) -> bool:
    """Whether an attribute of this value is threaded state: a jax array, or a pytree that holds one."""
    if isinstance(value, jax.Array):
        return True
    if isinstance(value, _PLAIN) or jax.tree_util.all_leaves([value]):
        return False
    return any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(value))


def _holds_module(value: Any) -> bool:
    """Whether a plain container, or one in it, holds a module."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple, set)) else ()
    return any(isinstance(item, Attributes) or _holds_module(item) for item in items)


class Attributes:
    """Attribute storage and registration, torch's way, over the dicts ``_parameters``, ``_buffers``, ``_modules``.

    ``_arrays`` holds what torch keeps as plain tensor attributes: state that is in no state dict.
    """

    __slots__ = ("__weakref__", "_home")

    _parameters: dict[str, Parameter | None]
    _buffers: dict[str, Buffer | None]
    _arrays: dict[str, Variable]
    _modules: dict[str, Any]
    _non_persistent_buffers_set: set[str]

    # -- reading -------------------------------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        attributes = self.__dict__
        if "_parameters" in attributes:
            if name in attributes["_parameters"]:
                parameter = attributes["_parameters"][name]
                return self._get(name, parameter) if parameter is not None and scope.in_forward() else parameter
            if name in attributes["_buffers"]:
                if attributes["_buffers"][name] is None:
                    self._fill(name)
                buffer = attributes["_buffers"][name]
                return None if buffer is None else self._get(name, buffer)
            if name in attributes["_modules"]:
                return attributes["_modules"][name]
            if name in attributes["_arrays"] or self._fill(name):
                return self._get(name, attributes["_arrays"][name])
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")

    def _get(self, name: str, variable: Variable) -> Any:
        value = variable._read()
        return interception.read(self, name, variable, value) if settings.current() and scope.in_forward() else value

    def _fill(self, name: str) -> bool:
        """Ask for the value of state that a pure apply was given and that the module does not have by itself."""
        inner = frame.current()
        return inner is not None and inner.fill(self, name)

    def __dir__(self) -> Iterable[str]:
        names = set(super().__dir__())
        for kind in ("_parameters", "_buffers", "_modules", "_arrays"):
            names.update(self.__dict__.get(kind, ()))
        return sorted(n for n in names if not n[:1].isdigit())

    # -- writing -------------------------------------------------------------------------------------------------------

    @reads.tells
    def __setattr__(self, name: str, value: Any) -> None:
        reads.note(type(self), (name,))
        attributes = self.__dict__
        if name == "_home":  # a slot of ours, which no frame needs to know of
            object.__setattr__(self, name, value)
        elif isinstance(value, Parameter):
            self._must_be_initialised("parameters")
            self._forget(name, keep="_parameters")
            self.register_parameter(name, value)
        elif name in attributes.get("_parameters", ()):
            if value is not None:
                raise errors.ParameterAssignmentError(
                    f"cannot assign '{type(value).__name__}' as parameter '{name}' of {self._where()} (torch.nn.Parameter or "
                    f"None expected){errors.where()}: write self.{name} = nn.Parameter(value) to replace the parameter, or "
                    f"self._parameters['{name}'].data = value to give it a new value."
                )
            self.register_parameter(name, None)
        elif isinstance(value, Attributes):
            self._must_be_initialised("module")
            self._forget(name, keep="_modules")
            self._link("_modules", name, self._registered("_modules", name, value))
        elif name in attributes.get("_modules", ()):
            if value is not None:
                raise TypeError(
                    f"cannot assign '{type(value).__name__}' as child module '{name}' (torch.nn.Module or None expected)"
                )
            self._link("_modules", name, self._registered("_modules", name, None))
        elif isinstance(value, Buffer):
            self._must_be_initialised("buffers")
            self._forget(name, keep="_buffers")
            self.register_buffer(name, value, value.persistent)
        elif name in attributes.get("_buffers", ()):
            self._assign_buffer(name, value)
        elif isinstance(value, (Variable, *_PLAIN)):
            self._assign_plain(name, value)
        else:
            if _holds_module(value):
                raise self._hidden_modules(name, value)
            try:
                state = is_state(value)
                value = settle(value) if state else value
            except (TypeError, ValueError) as error:
                raise TypeError(
                    f"self.{name} of {self._where()} holds arrays, which makes it state{errors.where()}, but not all of it can be: keep "
                    f"what is no array or number in an attribute of its own ({error})"
                ) from None
            (self._assign_array if state else self._assign_plain)(name, value)

    @reads.tells
    def __delattr__(self, name: str) -> None:
        reads.note(type(self), (name,))
        if name in self.__dict__:
            self._note(name, self.__dict__[name], frame.UNSET)
            object.__delattr__(self, name)
            return
        for kind in ("_parameters", "_buffers", "_modules", "_arrays"):
            if name in self.__dict__.get(kind, ()):
                self._link(kind, name, _MISSING)
                self._non_persistent_buffers_set.discard(name)
                return
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")

    def _put(self, name: str, variable: Variable, value: Any) -> None:
        if settings.current() and scope.in_forward():
            value = interception.write(self, name, variable, value)
        variable._set(value)

    def _assign_buffer(self, name: str, value: Any) -> None:
        if value is not None and not isinstance(value, (jax.Array, np.ndarray, np.generic)) and not is_state(value):
            raise TypeError(
                f"cannot assign '{type(value).__name__}' object to buffer '{name}' (torch.nn.Buffer, torch.Tensor or None expected)"
            )
        buffer = self._buffers[name]
        if value is None:
            self._link("_buffers", name, None)
        elif buffer is None:
            self._link("_buffers", name, Buffer(value, persistent=name not in self._non_persistent_buffers_set))
        else:
            self._put(name, buffer, value)

    def _assign_array(self, name: str, value: Any) -> None:
        self._must_be_initialised("array")
        variable = self._arrays.get(name)
        if variable is None:
            hiding = next((vars(c)[name] for c in type(self).__mro__ if name in vars(c)), None)
            if hasattr(hiding, "__set__"):
                object.__setattr__(self, name, value)  # a property
                return
            if any(name in vars(c) for c in type(self).__mro__):
                raise AttributeError(
                    f"the class attribute {type(self).__name__}.{name} would hide an array of that name{errors.where()}: drop it, and "
                    f"write self.{name} = None in __init__."
                )
            self._forget(name, keep="_arrays")
            self._link("_arrays", name, Variable(value))
            return
        if variable._peek() is None:
            epoch.advance()
        self._put(name, variable, value)

    def _assign_plain(self, name: str, value: Any) -> None:
        array = self.__dict__.get("_arrays", {}).get(name)
        if array is not None and value is None:
            if array._peek() is not None:
                epoch.advance()
            array._set(None)  # kept as a cell, so that state reset and set again is the same state
            return
        inner = frame.current()
        if value is None and inner is not None and inner.expects(name) and "_arrays" in self.__dict__:
            self._forget(name, keep="_arrays")
            self._link("_arrays", name, Variable(None))  # a pure apply may have been given its value
            return
        self._forget(name, keep=None)
        old = self.__dict__.get(name, _MISSING)
        if type(old) is type(value) and isinstance(value, _PLAIN) and old == value:
            return
        self._note(name, old, value)
        object.__setattr__(self, name, value)

    def _forget(self, name: str, keep: str | None) -> None:
        """Drop ``name`` from every other place it may stand in."""
        attributes = self.__dict__
        if keep is not None and name in attributes:
            old = attributes.pop(name)  # what takes its place is what frames hear of
            inner = frame.current()
            if inner is not None:
                inner.undo.append(lambda: _restore(attributes, name, old))
        for kind in ("_parameters", "_buffers", "_modules", "_arrays"):
            if kind != keep and name in attributes.get(kind, ()):
                self._link(kind, name, _MISSING)
        if keep != "_buffers":
            attributes.get("_non_persistent_buffers_set", set()).discard(name)

    def _link(self, kind: str, name: str, value: Any) -> None:
        """Put ``value`` under ``name`` in one of the registries (or take it out), in a way a failed trace can undo."""
        registry = self.__dict__[kind]
        old = registry.get(name, _MISSING)
        if old is value:
            return
        inner = frame.current()
        if inner is not None:
            inner.note_link(self, kind, name, old, value)
            inner.undo.append(lambda: _restore(registry, name, old))
        _restore(registry, name, value)
        if isinstance(old, (Variable, Attributes)) and old._home is not None and old._home[0]() is self and old._home[1] == name:
            old._home = None
        if isinstance(value, (Variable, Attributes)) and (value._home is None or value._home[0]() is None):
            value._home = (weakref.ref(self), name)
        epoch.advance()

    def _note(self, name: str, old: Any, new: Any) -> None:
        """Tell the frames of a plain attribute about to change."""
        inner = frame.current()
        if inner is not None:
            attributes = self.__dict__
            inner.note_attribute(self, name, old, new)
            inner.undo.append(lambda: _restore(attributes, name, old))
        if name == "training" or reads.looked_at(type(self), name):
            epoch.advance()

    def _must_be_initialised(self, what: str) -> None:
        if "_parameters" not in self.__dict__:
            raise AttributeError(f"cannot assign {what} before Module.__init__() call")

    def _hidden_modules(self, name: str, value: Any) -> errors.UnregisteredModulesError:
        wrapper = "nn.ModuleDict" if isinstance(value, dict) else "nn.ModuleList"
        return errors.UnregisteredModulesError(
            f"self.{name} = {type(value).__name__} of modules in {self._where()}{errors.where()}: their parameters would be in no "
            f"parameters(), state_dict() or optimizer. Write self.{name} = {wrapper}(...), or "
            f"object.__setattr__(self, {name!r}, ...) to keep them unregistered on purpose."
        )

    def _where(self) -> str:
        path = path_of(self)
        return f"{path} ({type(self).__name__})" if path else type(self).__name__

    # -- registering ---------------------------------------------------------------------------------------------------

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Add a parameter under ``name``; None reserves the name.

        Raises:
            AttributeError, TypeError, KeyError: as torch, for a module not initialised, a bad name or a wrong type.
        """
        if "_parameters" not in self.__dict__:
            raise AttributeError("cannot assign parameter before Module.__init__() call")
        self._check_name("parameter", name, "_parameters")
        if param is not None and not isinstance(param, Parameter):
            raise TypeError(
                f"cannot assign '{_typename(param)}' object to parameter '{name}' (torch.nn.Parameter or None required)"
            )
        param = None if param is None else self._registered("_parameters", name, param)
        self._link("_parameters", name, param)
        if settings.current():
            interception.note_created(self, "_parameters", name, param)

    def register_buffer(self, name: str, tensor: Any, persistent: bool = True) -> None:
        """Add a buffer: a jax or numpy array of any shape, a :class:`Buffer`, or None to reserve the name.

        Raises:
            AttributeError, TypeError, KeyError: as torch.
        """
        if "_buffers" not in self.__dict__:
            raise AttributeError("cannot assign buffer before Module.__init__() call")
        self._check_name("buffer", name, "_buffers")
        if isinstance(tensor, Parameter):
            tensor = tensor._read()
        if tensor is not None and not isinstance(tensor, (jax.Array, np.ndarray, np.generic, Buffer)):
            raise TypeError(f"cannot assign '{_typename(tensor)}' object to buffer '{name}' (torch Tensor or None required)")
        tensor = self._registered("_buffers", name, tensor)
        if tensor is not None and not isinstance(tensor, Buffer):
            tensor = Buffer(tensor, persistent=persistent)
        self._link("_buffers", name, tensor)
        if settings.current():
            interception.note_created(self, "_buffers", name, tensor)
        if persistent:
            self._non_persistent_buffers_set.discard(name)
        else:
            self._non_persistent_buffers_set.add(name)

    def register_module(self, name: str, module: Any) -> None:
        """Alias of :meth:`add_module`."""
        self.add_module(name, module)

    def add_module(self, name: str, module: Any) -> None:
        """Add a child module under ``name``; None reserves the name.

        Raises:
            TypeError, KeyError: as torch.
        """
        if not isinstance(module, Attributes) and module is not None:
            raise TypeError(f"{_typename(module)} is not a Module subclass")
        self._check_name("module", name, "_modules")
        self._link("_modules", name, self._registered("_modules", name, module))

    def _registered(self, kind: str, name: str, value: Any) -> Any:
        """``value``, or what the registration hooks put in its place."""
        for hook in REGISTRATION[kind].values():
            result = hook(self, name, value)
            value = value if result is None else result
        return value

    def _check_name(self, what: str, name: Any, registry: str) -> None:
        if not isinstance(name, str):
            raise TypeError(f"{what} name should be a string. Got {_typename(name)}")
        held = name in self.__dict__ or any(name in self.__dict__[r] for r in ("_parameters", "_buffers", "_modules", "_arrays"))
        if (held or (hasattr(type(self), name) and hasattr(self, name))) and name not in self.__dict__[registry]:
            raise KeyError(f"attribute '{name}' already exists")
        if "." in name:
            raise KeyError(f'{what} name can\'t contain ".", got: {name}')
        if name == "":
            raise KeyError(f'{what} name can\'t be empty string ""')


def _restore(registry: dict[str, Any], name: str, value: Any) -> None:
    if value is _MISSING:
        registry.pop(name, None)
    else:
        registry[name] = value


def _typename(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")


def is_number(value: Any) -> bool:
    """Whether a plain attribute of this value counts something: changing it inside a compiled function is refused."""
    return isinstance(value, _NUMBERS) and not isinstance(value, bool)
