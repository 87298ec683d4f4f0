"""``Parameter`` and ``Buffer`` under torch's module name, and their kinds that have no shape yet.

An uninitialised Variable is one whose cell holds no value.  :meth:`materialize` gives it one, and turns it into an ordinary
Parameter or Buffer: the same object, so that whoever holds it (an optimizer, another module that shares it) holds the real
one.  Until then whatever needs a value raises.  It remembers the frame it was made in: getting its first value inside another
one (a compiled step, a gradient, the pure form of a live model) would lose the value when that ends.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from objnet.core import epoch, errors, frame
from objnet.core.placement import named_device
from objnet.core.variable import UNSET, Buffer, Gradient, Parameter, Variable, _flatten, _unflatten
from objnet.nn.module import _check_dtype

__all__ = ["Buffer", "Parameter", "UninitializedBuffer", "UninitializedParameter", "UninitializedTensorMixin", "is_lazy"]


class _Blank(NamedTuple):
    """What is known already: dtype, device, and the frame it was made in."""

    dtype: Any
    device: Any
    born: weakref.ref[frame.Frame] | None

    def __reduce__(self) -> Any:
        return _Blank, (self.dtype, None, None)

    def __objnet_capture__(self, visit: Callable[[Any], Any]) -> Any:
        return (self.dtype,)


def _blank(dtype: Any, device: Any) -> _Blank:
    inner = frame.current()
    dtype = _check_dtype(jnp.dtype(jnp.float32 if dtype is None else dtype))
    return _Blank(dtype, named_device(device), None if inner is None else weakref.ref(inner))


class UninitializedTensorMixin:
    """What a Parameter or Buffer without a value shares (torch's class of that name)."""

    __slots__ = ()
    cls_to_become: ClassVar[Any]
    _blank: _Blank

    def materialize(self, shape: Sequence[int], device: Any = None, dtype: Any = None) -> None:
        """Become an ordinary Parameter or Buffer of this shape, filled with zeros, to be initialised.

        Args:
            shape: its shape.
            device: where it lives; the one given to the constructor by default.
            dtype: its dtype; by default the one given to the constructor, or by ``to()`` since.

        Raises:
            UninitializedError: inside a transform that began after this was made.
            RuntimeError: a negative size, 64 bits without jax's 64-bit mode.
        """
        known = self._blank
        if not self._at_home():
            raise self.unset()
        if any(size < 0 for size in shape):
            raise RuntimeError(f"Trying to create tensor with negative dimension {min(shape)}: {list(shape)}")
        value: Any = np.zeros(tuple(shape), known.dtype if dtype is None else _check_dtype(jnp.dtype(dtype)))
        device = known.device if device is None else named_device(device)
        value = jnp.asarray(value) if device is None else jax.device_put(value, device)
        del self._blank
        self.__class__ = self.cls_to_become
        epoch.advance()
        frame.create(self, value)  # type: ignore[arg-type]

    def _at_home(self) -> bool:
        """Whether this was made just here, as far as transforms go."""
        born = None if self._blank.born is None else self._blank.born()
        inner, state = frame.current(), frame.trace_state()
        while inner is not None and inner is not born and inner.no_grad and state == inner.state:
            inner, state = inner.parent, inner.outside
        if inner is None:
            return self._blank.born is None and state == frame.CLEAN
        return inner is born and state == inner.state

    def awaits(self, inner: frame.Frame) -> bool:
        born = self._blank.born
        if born is not None and born() is not None:
            return True
        raise self.unset()

    def unset(self) -> errors.UnsetVariableError:
        return errors.UninitializedError(
            f"{self.describe()} is uninitialised{errors.where()}: its shape is not known before its lazy module has seen an "  # type: ignore[attr-defined]
            "input, and cannot be found out inside a transform. Call the model once eagerly, on inputs of the shape it will get "
            "(or load a state dict), before you use its parameters, compile it, take gradients or transform it."
        )

    def restorer(self) -> Callable[[], None]:
        kind, known = type(self), self._blank

        def restore() -> None:
            if type(self) is not kind:
                frame.restore(self, UNSET)  # type: ignore[arg-type]
                self.__class__ = kind  # type: ignore[assignment]
                self._blank = known

        return restore

    def apply_(self, function: Callable[[Any], Any]) -> None:
        example = function(jnp.zeros(0, self.dtype))
        moved = example.committed and example.device != self.device
        self._blank = self._blank._replace(dtype=example.dtype, device=example.device if moved else self._blank.device)

    def _read(self) -> Any:
        raise self.unset()

    def _set(self, value: Any) -> None:
        raise self.unset()

    value = property(_read, _set)

    def __getitem__(self, index: Any) -> Any:
        raise self.unset()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not hasattr(jax.Array, name):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        raise self.unset()

    @property
    def dtype(self) -> Any:
        """The dtype it will have."""
        return self._blank.dtype

    @property
    def device(self) -> Any:
        """The device it will live on."""
        return jax.devices()[0] if self._blank.device is None else self._blank.device

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


class UninitializedParameter(UninitializedTensorMixin, Parameter):
    """A parameter whose shape is not known yet (torch's ``nn.UninitializedParameter``).

    It can be moved, cast and copied, and :meth:`materialize` makes a :class:`Parameter` of it; all else raises.

    Args:
        requires_grad: whether gradients and optimizers will take it.
        device: where it will live, as in :meth:`Module.to`.
        dtype: its dtype, float32 by default.
    """

    cls_to_become = Parameter

    def __init__(self, requires_grad: bool = True, device: Any = None, dtype: Any = None):
        Variable.__init__(self, UNSET)
        self._blank = _blank(dtype, device)
        self._grad = Gradient(self)
        self._requires_grad = bool(requires_grad)


class UninitializedBuffer(UninitializedTensorMixin, Buffer):
    """A buffer whose shape is not known yet (torch's ``nn.UninitializedBuffer``); see :class:`UninitializedParameter`.

    Args:
        requires_grad: taken for torch's sake: buffers have no gradients here, so it must be False.
        device: where it will live, as in :meth:`Module.to`.
        dtype: its dtype, float32 by default.
        persistent: whether ``state_dict`` will hold it.

    Raises:
        NotImplementedError: with ``requires_grad``.
    """

    __slots__ = ()
    cls_to_become = Buffer

    def __init__(self, requires_grad: bool = False, device: Any = None, dtype: Any = None, persistent: bool = True):
        if requires_grad:
            raise NotImplementedError("buffers have no gradients: use an nn.UninitializedParameter instead")
        Variable.__init__(self, UNSET)
        self._blank = _blank(dtype, device)
        self.persistent = persistent

    def _like(self, value: Any) -> Buffer:
        new = UninitializedBuffer(persistent=self.persistent)
        new._blank = self._blank
        return new

    def __reduce__(self) -> Any:
        return UninitializedBuffer, (False, None, self.dtype, self.persistent)


jax.tree_util.register_pytree_node(UninitializedBuffer, _flatten, _unflatten)


def is_lazy(param: Any) -> bool:
    """Whether ``param`` is an :class:`UninitializedParameter` or :class:`UninitializedBuffer`."""
    return isinstance(param, UninitializedTensorMixin)
