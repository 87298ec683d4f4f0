"""``objnet.abstract()``: building a model without values, of which only shapes and dtypes are known until a checkpoint is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from objnet.core import epoch, errors, frame, variable
from objnet.core.frame import UNSET
from objnet.core.rng import nothing_drawn
from objnet.core.variable import Buffer, Parameter, Variable, _flatten, _unflatten

_building: ContextVar[bool] = ContextVar("objnet_abstract", default=False)


@contextmanager
def abstract() -> Iterator[None]:
    """Build modules without values: nothing is drawn, and no memory is taken (torch's ``torch.device("meta")``).

    Parameters and persistent buffers made inside have a shape and a dtype only; ``state_dict()`` gives them as
    ``jax.ShapeDtypeStruct``. ``load_state_dict`` (checked and cast as ever), or any other write of the whole, gives them their
    values. Other buffers and arrays, which no checkpoint holds, are computed as usual. In a pure function's ``apply`` they have
    the values it is given.

    Raises:
        UnsetVariableError: later, whenever a value that has not been loaded is needed.
    """
    reset = _building.set(True)
    made = variable.maker.set(_make)
    try:
        with nothing_drawn():
            yield
    finally:
        variable.maker.reset(made)
        _building.reset(reset)


def skips(target: Any) -> bool:
    """Whether ``target`` is (a view of) something abstract that is being built, so that filling it has no effect."""
    return _building.get() and isinstance(target._owner(), _Abstract)


def _make(new: Variable, value: Any) -> bool:
    """Leave a new Variable without its value; False for kinds that need one."""
    kind = {Parameter: AbstractParameter, Buffer: AbstractBuffer}.get(type(new))
    if kind is None or not getattr(new, "persistent", True):
        return False
    new.__class__ = kind
    new._keep_kind(value.shape, value.dtype)  # type: ignore[attr-defined]
    return True


class _Abstract:
    """What a Parameter and a Buffer without values share."""

    __slots__ = ()
    becomes: type
    expected: Any
    _device: Any

    def _keep_kind(self, shape: Any, dtype: Any, device: Any = None) -> None:
        self.expected = jax.ShapeDtypeStruct(shape, jax.dtypes.canonicalize_dtype(dtype))
        self._device = device

    @property
    def shape(self) -> tuple[int, ...]:
        return self.expected.shape

    @property
    def dtype(self) -> Any:
        return self.expected.dtype

    @property
    def ndim(self) -> int:
        return len(self.expected.shape)

    def _read(self) -> Any:
        if _building.get() and self._peek() is UNSET:  # type: ignore[attr-defined]
            return jnp.asarray(np.zeros(self.shape, self.dtype))  # for constructors that compute with what they made
        return frame.get(self)  # type: ignore[arg-type]

    def _set(self, value: Any) -> None:
        if _building.get():
            self._keep_kind(value.shape, value.dtype, self._device)
        else:
            self.become(value)

    def become(self, value: Any) -> None:
        """Take a first value, and be an ordinary Parameter or Buffer from then on."""
        value = value if self._device is None else jax.device_put(value, self._device)
        if frame.current() is not None:
            frame.set(self, value)  # type: ignore[arg-type]  # which may not last
            return
        del self.expected, self._device
        self.__class__ = self.becomes  # type: ignore[assignment]
        epoch.advance()
        self._set(value)

    def restorer(self) -> Callable[[], None]:
        kind, expected, device = type(self), self.expected, self._device

        def restore() -> None:
            if type(self) is not kind:
                frame.restore(self, UNSET)  # type: ignore[arg-type]
                self.__class__ = kind  # type: ignore[assignment]
                self.expected, self._device = expected, device

        return restore

    def apply_(self, function: Callable[[Any], Any]) -> None:
        example = function(jnp.zeros(0, self.dtype))
        self._keep_kind(self.shape, example.dtype, example.device if example.committed else self._device)

    def unset(self) -> errors.UnsetVariableError:
        return errors.UnsetVariableError(
            f"{self.describe()} was built in objnet.abstract() and has no value yet{errors.where()}: load a state dict first "  # type: ignore[attr-defined]
            "(model.load_state_dict(objnet.load(path)))."
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}(shape={self.shape}, dtype={self.dtype})"


class AbstractParameter(_Abstract, Parameter):
    """A parameter of a model built in :func:`abstract`."""

    becomes = Parameter


class AbstractBuffer(_Abstract, Buffer):
    """A buffer of a model built in :func:`abstract`."""

    __slots__ = ()
    becomes = Buffer

    def _like(self, value: Any) -> Buffer:
        return _rebuild_buffer(self.expected.shape, self.expected.dtype)

    def __reduce__(self) -> Any:
        return _rebuild_buffer, (self.expected.shape, self.expected.dtype)


def _rebuild_buffer(shape: Any, dtype: Any) -> AbstractBuffer:
    new = AbstractBuffer.__new__(AbstractBuffer)
    Variable.__init__(new, UNSET)
    new.persistent = True
    new._keep_kind(shape, dtype)
    return new


jax.tree_util.register_pytree_node(AbstractBuffer, _flatten, _unflatten)
__all__ = ["AbstractBuffer", "AbstractParameter", "abstract", "skips"]
