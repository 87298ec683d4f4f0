"""``Variable``, the one mutable cell, and its kinds ``Parameter`` and ``Buffer``.

Identity is meaning: a Parameter held under two names is one parameter, in every transform and in every file.  A Variable's
value is a jax array, or a pytree of them (an LSTM's ``self.hidden = (h, c)``).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from objnet.core import epoch, errors, frame
from objnet.core.frame import DROPPED, UNSET
from objnet.core.hooks import HookDict, RemovableHandle, register
from objnet.core.tensor import TensorMethods, View

# Moves whenever a value becomes known outside its Variable; a compiled call copies such values before it donates them.
exposures = 0
# What may leave a new Variable without its value (core/abstract.py).
maker: ContextVar[Callable[[Variable, Any], bool] | None] = ContextVar("objnet_maker", default=None)


def settle(value: Any) -> Any:
    """``value`` as a Variable holds it: leaves are jax arrays without weak types, so that no program retraces for one."""
    return _settle_leaf(value) if isinstance(value, jax.Array) else jax.tree.map(_settle_leaf, value)


def _settle_leaf(leaf: Any) -> jax.Array:
    if not isinstance(leaf, (jax.Array, np.ndarray, np.generic, bool, int, float, complex)):
        raise TypeError(f"{leaf!r} is neither an array nor a number")
    if isinstance(leaf, jax.core.Tracer):
        return lax.convert_element_type(leaf, leaf.dtype) if _is_weak(leaf) else leaf
    if isinstance(leaf, jax.Array) and not _is_weak(leaf):
        return leaf
    with jax.ensure_compile_time_eval():  # what is a value now stays one, whatever is being traced around
        array = jnp.asarray(leaf)
        return lax.convert_element_type(array, array.dtype) if _is_weak(array) else array


def _is_weak(array: jax.Array) -> bool:
    return getattr(array, "weak_type", False)  # arrays of keys have no such attribute


class Variable:
    """A mutable cell that holds a jax array or a pytree of them.

    Args:
        value: the first value. Inside a transform it lives in the transform's frame.
    """

    _value: Any
    _exposed: bool
    _home: tuple[weakref.ref[Any], str] | None
    __slots__ = ("__weakref__", "_exposed", "_home", "_value")
    expected: jax.ShapeDtypeStruct | None = None  # what the value will be like, where that is known before the value is

    def __init__(self, value: Any):
        self._value = UNSET
        self._exposed = False
        self._home = None
        if value is not UNSET and not ((make := maker.get()) and make(self, value)):
            frame.create(self, settle(value))

    # -- for frames and programs ---------------------------------------------------------------------------------------

    def _own(self) -> Any:
        """The value outside any frame; handing it out exposes it."""
        value = self._value
        if value is UNSET:
            raise self.unset()
        if not self._exposed:
            self.expose()
        return value

    def expose(self) -> None:
        """Note that somebody else holds the value."""
        global exposures
        self._exposed = True
        exposures += 1

    def _store(self, value: Any) -> None:
        """Replace the value outside any frame. The array may be the user's own, so it counts as exposed."""
        self._value = value
        self.expose()

    def unset(self) -> errors.UnsetVariableError:
        """The error of reading a Variable without a value."""
        return errors.UnsetVariableError(
            f"{self.describe()} has no value{errors.where()}: it was made inside a transform that has ended, or without "
            "values. Load a state dict, or make the module outside."
        )

    def describe(self) -> str:
        """What and where this Variable is, for error messages."""
        kind = type(self).__name__
        path = path_of(self)
        return f"{kind} {path!r}" if path else f"a {kind} that belongs to no module"

    def awaits(self, inner: frame.Frame) -> bool:
        """Whether this will get its first value in ``inner``, and is to be left alone until then (lazy parameters)."""
        return False

    def restorer(self) -> Callable[[], None]:
        """What puts back the value of now, also where there is none."""
        value = self._peek()
        return lambda: None if self._peek() is value else frame.restore(self, value)

    def apply_(self, function: Callable[[Any], Any]) -> None:
        """Replace every array of the value by ``function`` of it."""
        self._set(jax.tree.map(function, self._read()))

    # -- for users -----------------------------------------------------------------------------------------------------

    @property
    def value(self) -> Any:
        """The value here and now: inside a transform, the transform's. Assigning replaces it."""
        return frame.get(self)

    @value.setter
    def value(self, value: Any) -> None:
        frame.set(self, settle(value))

    def _read(self) -> Any:
        return frame.get(self)

    def _set(self, value: Any) -> None:
        frame.set(self, settle(value))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._peek()!r})"

    def _peek(self) -> Any:
        """The value for printing: never raises, exposes nothing."""
        inner = frame.current()
        while inner is not None:
            if self in inner.values:
                return inner.values[self]
            inner = inner.parent
        return self._value

    def __copy__(self) -> Variable:
        return self.__deepcopy__({})

    def __deepcopy__(self, memo: dict[int, Any]) -> Variable:
        if id(self) in memo:
            return memo[id(self)]
        new = self._like(UNSET if self._peek() is UNSET else frame.get(self))  # arrays are immutable: sharing one is a copy
        memo[id(self)] = new
        return new

    def _like(self, value: Any) -> Variable:
        return type(self)(value)

    def __reduce__(self) -> Any:
        return type(self), (jax.device_get(frame.get(self)),)


def path_of(thing: Any) -> str:
    """Dotted path of a Variable or module from its outermost module, by the first name each was given."""
    names: list[str] = []
    for _ in range(100):
        home = getattr(thing, "_home", None)
        owner = home[0]() if home else None
        if owner is None:
            break
        names.append(home[1])
        thing = owner
    return ".".join(reversed(names))


class Buffer(TensorMethods, Variable):
    """State of a module that is no parameter, such as a running mean (torch's ``nn.Buffer``).

    Args:
        data: array of any shape and dtype.
        persistent: whether ``state_dict`` holds it.
    """

    __slots__ = ("__dict__", "persistent")

    def __init__(self, data: Any, *, persistent: bool = True):
        self.persistent = persistent
        super().__init__(data)

    def _like(self, value: Any) -> Buffer:
        return Buffer(value, persistent=self.persistent)

    def __reduce__(self) -> Any:
        return _rebuild_buffer, (jax.device_get(frame.get(self)), self.persistent)


def _rebuild_buffer(value: Any, persistent: bool) -> Buffer:
    return Buffer(value, persistent=persistent)


class Parameter(TensorMethods, Variable):
    """A trainable array of a module (torch's ``nn.Parameter``).

    Outside a forward it has operators, the Tensor methods torch code uses on parameters, in-place methods and writable views;
    inside a forward ``self.weight`` is its ``jax.Array``. As a pytree it unflattens to the bare array.

    Args:
        data: array of any shape; a floating or complex dtype if ``requires_grad``.
        requires_grad: whether gradients and optimizers take it.

    Raises:
        RuntimeError: ``requires_grad`` on integers or booleans, as torch.
    """

    _backward_hooks: HookDict | None = None
    _post_accumulate_grad_hooks: HookDict | None = None

    def __init__(self, data: Any = None, requires_grad: bool = True):
        if data is None:
            data = jnp.zeros(0)
        if isinstance(data, Variable | View):
            data = data._read()
        super().__init__(data)
        self._grad = Gradient(self)
        self._requires_grad = False
        if requires_grad:
            self.requires_grad = True

    def prepare(self) -> None:
        """Be a trainable parameter that has no value of its own."""
        Variable.__init__(self, UNSET)
        self._grad = Gradient(self)
        self._requires_grad = True

    @property
    def requires_grad(self) -> bool:
        """Whether gradients are taken with respect to this parameter."""
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        value = bool(value)
        if value and self._value is not UNSET and not jnp.issubdtype(self.dtype, jnp.inexact):
            raise RuntimeError("only Tensors of floating point and complex dtype can require gradients")
        if value != self._requires_grad:
            old = self._requires_grad
            self._requires_grad = value
            epoch.advance()
            inner = frame.current()
            if inner is not None:
                inner.undo.append(lambda: setattr(self, "_requires_grad", old))

    def requires_grad_(self, requires_grad: bool = True) -> Parameter:
        """Set :attr:`requires_grad` and return the parameter."""
        self.requires_grad = requires_grad
        return self

    @property
    def grad(self) -> jax.Array | None:
        """The gradient ``objnet.backward`` or an optimizer's closure left here; None when there is none.

        Raises:
            GradientDroppedError: a compiled step consumed it and did not keep it.
        """
        value = frame.get(self._grad)
        if value is DROPPED:
            raise errors.GradientDroppedError(
                f"the gradient of {self.describe()} was consumed inside a compiled step, which does not hand it out"
                f"{errors.where()}: compile the step with objnet.jit(..., keep_grads=True) to read it afterwards."
            )
        return value

    @grad.setter
    def grad(self, value: Any) -> None:
        if value is not None:
            value = settle(value._read() if isinstance(value, Variable | View) else value)
            if value.shape != self.shape:
                raise RuntimeError(
                    f"assigned grad has data of a different size: {self.describe()} has shape {tuple(self.shape)}, "
                    f"the gradient {tuple(value.shape)}"
                )
        frame.set(self._grad, value)

    def _zero_grad(self, set_to_none: bool) -> None:
        """Clear the gradient, or fill one that is there with zeros; one that was dropped is not asked for its value."""
        if set_to_none:
            self.grad = None
            return
        inner = frame.current()
        if inner is not None:
            inner.zero(self._grad)
        if self._grad._peek() is DROPPED or frame.get(self._grad) is not None:
            self.grad = jnp.zeros(self.shape, self.dtype)

    def register_hook(self, hook: Any) -> RemovableHandle:
        """Run ``hook(gradient)`` whenever the gradient with respect to this parameter is taken (torch).

        What it returns takes the gradient's place. Eager gradients give it a value; in a compiled function it gets a traced
        array, and runs when that is traced.

        Raises:
            RuntimeError: the parameter does not require gradients.
        """
        return self._register_hook("_backward_hooks", hook)

    def register_post_accumulate_grad_hook(self, hook: Any) -> RemovableHandle:
        """Run ``hook(parameter)`` whenever ``objnet.backward`` has added to :attr:`grad` (torch).

        Raises:
            RuntimeError: the parameter does not require gradients.
        """
        return self._register_hook("_post_accumulate_grad_hooks", hook)

    def _register_hook(self, kind: str, hook: Any) -> RemovableHandle:
        if not self.requires_grad:
            raise RuntimeError(f"cannot register a hook on a tensor that doesn't require gradient: {self.describe()}")
        if kind not in self.__dict__:
            setattr(self, kind, HookDict())
        return register(self.__dict__[kind], hook)

    def _attributes(self) -> dict[str, Any]:
        """What copies take over beside the value: neither the gradient nor hooks, as torch."""
        left = ("_grad", "_backward_hooks", "_post_accumulate_grad_hooks")
        return {k: v for k, v in self.__dict__.items() if k not in left}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        jax.tree_util.register_pytree_node(cls, _flatten, _unflatten)

    def _like(self, value: Any) -> Parameter:
        new = type(self).__new__(type(self))
        Variable.__init__(new, value)
        new.__dict__.update(self._attributes())
        new._grad = Gradient(new)
        return new

    def __reduce__(self) -> Any:
        value = self._peek()
        return _rebuild_parameter, (
            type(self),
            value if value is UNSET else jax.device_get(frame.get(self)),
            self._attributes(),
        )

    def __repr__(self) -> str:
        suffix = ", requires_grad=True" if self.requires_grad else ""
        return f"Parameter containing:\n{self._peek()!r}{suffix}"


def _rebuild_parameter(cls: type[Parameter], value: Any, attributes: dict[str, Any]) -> Parameter:
    new = cls.__new__(cls)
    Variable.__init__(new, value)
    new._grad = Gradient(new)
    new.__dict__.update(attributes)
    return new


class Gradient(Variable):
    """The cell behind ``p.grad``: an array, None, or dropped."""

    __slots__ = ()

    def __init__(self, parameter: Parameter):
        super().__init__(UNSET)
        self._home = (weakref.ref(parameter), "grad")
        if frame.current() is None:
            self._value = None
        else:
            frame.create(self, None)


def _flatten(variable: Any) -> tuple[tuple[Any], None]:
    return (variable._read(),), None


def _unflatten(_: None, children: Any) -> Any:
    return children[0]


# Unflattening to the bare array is what lets jnp functions, jit arguments and loop carries take a Parameter.
for _kind in (Parameter, Buffer, View):
    jax.tree_util.register_pytree_node(_kind, _flatten, _unflatten)
