"""``Module``, the base class of every layer and model: torch's protocol over objnet's Variables."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from objnet.core import errors, frame, scope, settings
from objnet.core.foreign import own_dtype
from objnet.core.placement import named_device
from objnet.core.variable import Parameter
from objnet.nn import html, interception, mixed_precision
from objnet.nn.attributes import Attributes
from objnet.nn.hooks import GLOBAL_RUNNING, HOOKS, Hooks, install_backward_error, new_hooks
from objnet.nn.running import note_path, operation_scope
from objnet.nn.serialization import Serialization
from objnet.nn.torch_only import TorchOnlyMethods
from objnet.nn.traversal import Traversal

_M = TypeVar("_M", bound="Module")


def _scoped(method: Callable[..., Any], kind: str) -> Callable[..., Any]:
    """``method`` running in a scope of ``kind``, so that a direct call reads parameters as a call of the module does."""

    @functools.wraps(method)
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        here = scope.current()
        if here is not None and here.kind is kind and here.module is self:
            return method(self, *args, **kwargs)
        reset = scope.enter(kind, self)
        outermost = kind is scope.BUILD and not scope.constructing(besides=self)
        try:
            result = method(self, *args, **kwargs)
            if outermost and settings.current():
                mixed_precision.built(self)
                interception.run_creators()
        except BaseException:
            if outermost:
                interception.forget_created()
            raise
        finally:
            scope.reset(reset)
        return result

    run._objnet_scoped = True  # type: ignore[attr-defined]
    return run


def _settle_dataclass(cls: Any) -> None:
    """Give a dataclass the scope of a constructor, and let its instances be told apart by identity, as modules are."""
    cls._objnet_dataclass = True
    if "__init__" in cls.__dict__ and not getattr(cls.__init__, "_objnet_scoped", False):
        cls.__init__ = _scoped(cls.__init__, scope.BUILD)
    for name in cls.__dataclass_fields__:
        if name in cls.__dict__:
            delattr(cls, name)  # a default, which would hide a module or parameter; the constructor has it anyway
    if cls.__dataclass_params__.eq and "__eq__" in cls.__dict__:
        cls.__eq__, cls.__hash__ = object.__eq__, object.__hash__


def _refuse_flattening(module: Any) -> Any:
    """Modules count as pytrees only to say, wherever plain jax flattens one, what to do instead."""
    raise errors.ModuleAsArrayError(
        f"a {type(module).__name__} module was handed to plain jax{errors.where()} as an argument, carry or result: jax passes "
        "arrays. Use objnet's transform of the same name, which takes modules, or purify it: objnet.transform_with_state(model) "
        "gives params and state to pass."
    )


def _refuse_unflattening(_: Any, __: Any) -> Any:
    raise AssertionError("modules are never flattened")


class Module(Attributes, Traversal, Serialization, Hooks, TorchOnlyMethods):
    """Base class of all modules (torch's ``nn.Module``).

    Assigning a Parameter, Buffer or Module to an attribute registers it; assigning a jax array (or a tuple, list or dict of
    them) makes it state that every objnet transform threads. While ``forward`` runs, ``self.weight`` is a ``jax.Array``;
    elsewhere it is the :class:`Parameter`.
    """

    training: bool
    _precision_policy: Any = None
    call_super_init: bool = False  # whether __init__ hands its arguments to the next class, for mixins (torch's)
    dump_patches: bool = False  # torch's, which reads it no more
    T_destination = TypeVar("T_destination", bound=dict[str, Any])

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        jax.tree_util.register_pytree_node(cls, _refuse_flattening, _refuse_unflattening)
        for name, kind in (("forward", scope.FORWARD), ("__init__", scope.BUILD)):
            method = cls.__dict__.get(name)
            if callable(method) and not getattr(method, "_objnet_scoped", False):
                setattr(cls, name, _scoped(method, kind))

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        self = super().__new__(cls)
        if "__dataclass_params__" in cls.__dict__ and "_objnet_dataclass" not in cls.__dict__:
            _settle_dataclass(cls)
        if hasattr(cls, "__dataclass_params__"):
            Module.__init__(self)
        return self

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if "_modules" in self.__dict__ and hasattr(type(self), "__dataclass_params__"):
            return  # a dataclass sets its fields first
        if (args or kwargs) and not self.call_super_init:
            given = f"{len(args)} positional arguments" if args else f"keyword argument '{next(iter(kwargs))}'"
            raise TypeError(f"{type(self).__name__}.__init__() got unexpected {given}: nn.Module takes none")
        self._home = None
        self.__dict__.update(
            training=True,
            _parameters={},
            _buffers={},
            _non_persistent_buffers_set=set(),
            _arrays={},
            _modules={},
            **new_hooks(),
        )
        install_backward_error()
        inner = frame.current()
        if inner is not None:
            inner.adopt(self)
        if self.call_super_init:
            super().__init__(*args, **kwargs)

    # -- running -------------------------------------------------------------------------------------------------------

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The computation of this module; every subclass defines it."""
        raise NotImplementedError(f'Module [{type(self).__name__}] is missing the required "forward" function')

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if "_modules" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__} was called before super().__init__() ran: make it __init__'s first line")
        reset = scope.enter(scope.FORWARD, self)
        try:
            if frame.current() is not None:
                with jax.named_scope(operation_scope(self)):
                    return self._call_impl(args, kwargs)
            return self._call_impl(args, kwargs)
        except Exception as error:
            note_path(error)
            raise
        finally:
            scope.reset(reset)

    def _call_impl(self, args: tuple[Any, ...], kwargs: dict[str, Any], plain: bool = False) -> Any:
        """``forward`` with what hooks do around it, and (unless ``plain``) interceptors and precision policies around that."""
        if not plain and (settings.current() or self._precision_policy is not None):
            return mixed_precision.call(self, lambda *a, **k: self._call_impl(a, k, True), args, kwargs)
        if self._forward_hooks or self._forward_pre_hooks or self._backward_hooks or self._backward_pre_hooks or GLOBAL_RUNNING:
            return self._call_with_hooks(args, kwargs)
        return self.forward(*args, **kwargs)

    # -- modes and gradients -------------------------------------------------------------------------------------------

    def train(self: _M, mode: bool = True) -> _M:
        """Set ``training`` on this module and every descendant; returns it.

        Raises:
            ValueError: if ``mode`` is no bool, as torch.
        """
        if not isinstance(mode, bool):
            raise ValueError("training mode is expected to be boolean")
        self.training = mode
        for module in self.children():
            module.train(mode)
        return self

    def eval(self: _M) -> _M:
        """``train(False)``."""
        return self.train(False)

    def requires_grad_(self: _M, requires_grad: bool = True) -> _M:
        """Set ``requires_grad`` on every parameter; returns the module."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear every ``p.grad`` (or fill it with zeros)."""
        for parameter in self.parameters():
            parameter._zero_grad(set_to_none)

    # -- dtypes and devices --------------------------------------------------------------------------------------------

    def _apply(self: _M, fn: Callable[[jax.Array], jax.Array], recurse: bool = True) -> _M:
        """Replace every parameter, gradient, buffer and array attribute ``a`` by ``fn(a)``."""
        seen: set[int] = set()
        for module in self.modules() if recurse else [self]:
            cells = (*module._parameters.values(), *module._buffers.values(), *module._arrays.values())
            for cell in cells:
                if cell is None or id(cell) in seen or cell._peek() is None:
                    continue
                seen.add(id(cell))
                cell.apply_(fn)
                if isinstance(cell, Parameter) and isinstance(cell._grad._peek(), jax.Array):
                    cell.grad = fn(cell.grad)  # type: ignore[arg-type]
        return self

    def to(self: _M, *args: Any, **kwargs: Any) -> _M:
        """Move and cast parameters and buffers: ``to(device)``, ``to(dtype)``, ``to(device, dtype)`` or ``to(array)``.

        A dtype casts floating (and complex) entries only. Devices are jax devices, shardings, or ``"cpu"``, ``"gpu"``,
        ``"cuda:1"``, ``"tpu"``.

        Raises:
            TypeError: for a dtype that is neither floating nor complex, as torch. RuntimeError: no such device, or float64
            without x64.
        """
        device, dtype = _parse_to(args, dict(kwargs))

        def move(array: jax.Array) -> jax.Array:
            if dtype is not None and jnp.issubdtype(array.dtype, jnp.inexact):
                array = array.astype(dtype)
            return array if device is None else jax.device_put(array, device)

        return self._apply(move)

    def _cast(self: _M, dtype: Any) -> _M:
        return self._apply(lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a)

    def float(self: _M) -> _M:
        """Floating parameters and buffers to float32."""
        return self._cast(jnp.float32)

    def half(self: _M) -> _M:
        """Floating parameters and buffers to float16."""
        return self._cast(jnp.float16)

    def bfloat16(self: _M) -> _M:
        """Floating parameters and buffers to bfloat16."""
        return self._cast(jnp.bfloat16)

    def double(self: _M) -> _M:
        """Floating parameters and buffers to float64; needs jax's x64 mode."""
        return self._cast(_check_dtype(jnp.dtype("float64")))

    def type(self: _M, dst_type: Any) -> _M:
        """Every parameter and buffer to ``dst_type``."""
        dtype = _check_dtype(jnp.dtype(dst_type))
        return self._apply(lambda a: a.astype(dtype))

    def cpu(self: _M) -> _M:
        """Everything to the first CPU device."""
        return self.to("cpu")

    def cuda(self: _M, device: Any = None) -> _M:
        """Everything to a GPU."""
        return self.to("cuda" if device is None else f"cuda:{device}" if isinstance(device, int) else device)

    # -- for objnet's transforms ---------------------------------------------------------------------------------------

    def __objnet_plain__(self) -> dict[str, Any]:
        """The plain attributes, of which a program bakes in those it reads (see ``core.capture``)."""
        plain = {k: v for k, v in self.__dict__.items() if k not in _REGISTRIES and not k.startswith("_objnet")}
        plain.update((k, None) for k, v in self._arrays.items() if v._peek() is None)
        return plain

    def __objnet_capture__(self, visit: Callable[[Any], Any]) -> Any:
        """This module's other static facts, hashable, and a visit to everything it holds (see ``core.capture``)."""
        return (
            tuple((k, visit(p)) for k, p in self._parameters.items()),
            tuple((k, k in self._non_persistent_buffers_set, visit(b)) for k, b in self._buffers.items()),
            tuple((k, visit(v)) for k, v in self._arrays.items() if v._peek() is not None),
            tuple((k, visit(m)) for k, m in self._modules.items()),
            self._captured_hooks(visit),
        )

    def __objnet_create__(self, kind: str, name: str, value: Any) -> None:
        """Attach state that a compiled function has made."""
        if kind == "_buffers" and name not in self._buffers:
            self.register_buffer(name, value, name not in self._non_persistent_buffers_set)
        setattr(self, name, value)

    # -- printing and copying ------------------------------------------------------------------------------------------

    def _get_name(self) -> str:
        return self.__class__.__name__

    def extra_repr(self) -> str:
        """What ``repr`` shows between the parentheses; override it."""
        return ""

    def __repr__(self) -> str:
        extra = self.extra_repr()
        lines = extra.split("\n") if extra else []
        children = [f"({name}): {_indent(repr(module))}" for name, module in self._modules.items()]
        if not children:
            return f"{self._get_name()}({extra})" if len(lines) <= 1 else _block(self._get_name(), lines)
        return _block(self._get_name(), lines + children)

    def _repr_html_(self) -> str:
        return html.tree(self)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        for kind in list(state):
            if kind.startswith("_objnet"):
                del state[kind]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._home = None
        self.__dict__.update({"_arrays": {}, **new_hooks(), **state})
        for kind in ("_parameters", "_buffers", "_modules", "_arrays"):
            registry = self.__dict__[kind]
            self.__dict__[kind] = {}
            for name, value in registry.items():
                self._link(kind, name, value)
        inner = frame.current()
        if inner is not None:
            inner.adopt(self)


_REGISTRIES = frozenset({"_parameters", "_buffers", "_non_persistent_buffers_set", "_arrays", "_modules", *HOOKS})


def _block(name: str, lines: list[str]) -> str:
    return f"{name}(\n  " + "\n  ".join(lines) + "\n)"


def _indent(text: str) -> str:
    return text.replace("\n", "\n  ")


def _check_dtype(dtype: Any) -> Any:
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise RuntimeError(f"{dtype} needs jax's 64-bit mode: jax.config.update('jax_enable_x64', True) at the program's start")
    return dtype


def _parse_to(args: tuple[Any, ...], kwargs: dict[str, Any], inexact: bool = True) -> tuple[Any, Any]:
    device, dtype = kwargs.pop("device", None), kwargs.pop("dtype", None)
    for name in ("non_blocking", "copy", "memory_format"):
        kwargs.pop(name, None)
    if kwargs:
        raise TypeError(f"to() received an invalid keyword argument: {next(iter(kwargs))!r}")
    for arg in args:
        if isinstance(arg, bool) or arg is None:
            continue
        if isinstance(arg, (str, jax.Device, jax.sharding.Sharding)) and not _names_dtype(arg):
            device = arg
        elif isinstance(arg, jax.Array) or hasattr(arg, "_read"):
            dtype, device = arg.dtype, jax.tree.leaves(arg)[0].sharding
        else:
            dtype = arg
    if dtype is not None:
        try:
            dtype = jnp.dtype(own_dtype(dtype))
        except TypeError:
            raise TypeError(f"to() takes a device, a dtype or an array, got {dtype!r}") from None
        if inexact and not jnp.issubdtype(dtype, jnp.inexact):
            raise TypeError(f"nn.Module.to only accepts floating point or complex dtypes, but got desired dtype={dtype}")
        dtype = _check_dtype(dtype)
    return named_device(device), dtype


def _names_dtype(arg: Any) -> bool:
    if not isinstance(arg, str):
        return False
    try:
        jnp.dtype(arg)
    except TypeError:
        return False
    return True
