"""Containers of parameters: ``ParameterList`` and ``ParameterDict``.

Arrays put in become Parameters; anything else is kept as it is.  Like any attribute, an item that is a Parameter reads as its
array inside a forward; whatever copies items takes the Parameters themselves, so that a slice or a copy is tied to the
original there too.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, KeysView, Mapping
from typing import Any, NoReturn, Self

import jax

from objnet.core.tensor import TensorMethods
from objnet.core.variable import Parameter
from objnet.nn.module import Module
from objnet.nn.modules.container import absolute, pairs

__all__ = ["ParameterDict", "ParameterList"]

# Tensor classes as torch's ParameterDict prints them.
_TENSOR_CLASSES = {
    "float32": "Float",
    "float64": "Double",
    "float16": "Half",
    "bfloat16": "BFloat16",
    "complex64": "ComplexFloat",
    "complex128": "ComplexDouble",
    "int64": "Long",
    "int32": "Int",
    "int16": "Short",
    "int8": "Char",
    "uint8": "Byte",
    "bool": "Bool",
}


class _Held(Module):
    """What both containers share: how an item is put, taken and printed."""

    def _put(self, name: str, value: Any) -> None:
        if isinstance(value, (jax.Array, TensorMethods)) and not isinstance(value, Parameter):
            value = Parameter(value)
        setattr(self, name, value)

    def _take(self, name: str) -> Any:
        """An item, a Parameter as itself wherever this is called."""
        return self._parameters[name] if name in self._parameters else getattr(self, name)

    def _show(self, name: str, dtype_name: Any) -> str:
        item = self._take(name)
        if not isinstance(item, Parameter):
            return f"  ({name}): Object of type: {type(item).__name__}"
        value = item._peek()
        if not hasattr(value, "dtype"):
            return f"  ({name}): Parameter without a value"
        return f"  ({name}): Parameter containing: [{dtype_name(str(value.dtype))} of size {'x'.join(map(str, value.shape))}]"

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise RuntimeError(f"{type(self).__name__} should not be called.")


class ParameterList(_Held):
    """A list whose Parameters are registered; arrays become Parameters (torch's ``nn.ParameterList``).

    Args:
        values: the items to start with.

    Raises:
        TypeError: no iterable. IndexError: as a list. RuntimeError: an array of integers, which has no gradients.
    """

    def __init__(self, values: Iterable[Any] | None = None) -> None:
        super().__init__()
        self._size = 0
        if values is not None:
            self.extend(values)

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, idx: int | slice) -> Any:
        if not isinstance(idx, slice):
            return getattr(self, str(absolute(idx, len(self))))
        part = type(self)()
        for index in range(len(self))[idx]:
            part.append(self._take(str(index)))
        return part

    def __setitem__(self, idx: int, param: Any) -> None:
        self._put(str(absolute(idx, len(self))), param)

    def __iadd__(self, parameters: Iterable[Any]) -> Self:
        return self.extend(parameters)

    def append(self, value: Any) -> Self:
        """Add an item at the end."""
        self._put(str(len(self)), value)
        self._size += 1
        return self

    def extend(self, values: Iterable[Any]) -> Self:
        """Add items at the end.

        Raises:
            TypeError: no iterable, or a single array.
        """
        if not isinstance(values, Iterable) or isinstance(values, (jax.Array, TensorMethods)):
            raise TypeError(f"ParameterList.extend should be called with an iterable, but got {type(values).__name__}")
        if isinstance(values, ParameterList):
            values = [values._take(str(index)) for index in range(len(values))]
        for value in values:
            self.append(value)
        return self

    def extra_repr(self) -> str:
        return "\n".join(self._show(str(index), "torch.{}".format) for index in range(len(self)))


class ParameterDict(_Held):
    """A dict whose Parameters are registered; arrays become Parameters (torch's ``nn.ParameterDict``).

    Args:
        parameters: a mapping from names to items, or an iterable of such pairs. As in torch a mapping other than an
            OrderedDict or ParameterDict is sorted by name.

    Raises:
        TypeError: neither of these, or a name that is no string. AttributeError: an item that is missing, as in torch.
        RuntimeError: an array of integers, which has no gradients.
    """

    def __init__(self, parameters: Any = None) -> None:
        super().__init__()
        self._keys: dict[str, None] = {}
        if parameters is not None:
            self.update(parameters)

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __reversed__(self) -> Iterator[str]:
        return reversed(self._keys)

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def __getitem__(self, key: str) -> Any:
        self._check_key(key)
        if key not in self._keys and key not in self._parameters:
            raise AttributeError(f"ParameterDict has no item {key!r}; it has {list(self._keys)}")
        return getattr(self, key)

    def __setitem__(self, key: str, value: Any) -> None:
        self._check_key(key)
        self._put(key, value)
        self._keys = {**self._keys, key: None}  # replaced, not changed: a transform can take it back

    def __delitem__(self, key: str) -> None:
        if key not in self._keys:
            raise KeyError(key)
        self._keys = {k: None for k in self._keys if k != key}
        delattr(self, key)

    def _check_key(self, key: Any) -> None:
        if not isinstance(key, str):
            raise TypeError(f"Index given to ParameterDict must be a string, got {key!r} of type {type(key).__name__}")

    def keys(self) -> KeysView[str]:
        """The names."""
        return self._keys.keys()

    def items(self) -> Iterable[tuple[str, Any]]:
        """(name, item) pairs."""
        return ((key, self[key]) for key in self._keys)

    def values(self) -> Iterable[Any]:
        """The items."""
        return (self[key] for key in self._keys)

    def get(self, key: str, default: Any = None) -> Any:
        """The item of this name, or ``default``."""
        return self[key] if key in self._keys else default

    def setdefault(self, key: str, default: Any = None) -> Any:
        """The item of this name, which is put there first if there is none."""
        if key not in self:
            self[key] = default
        return self[key]

    def pop(self, key: str) -> Any:
        """Remove and return the item of this name."""
        item = self[key]
        del self[key]
        return item

    def popitem(self) -> tuple[str, Any]:
        """Remove and return the (name, item) pair put last.

        Raises:
            KeyError: the dict is empty.
        """
        if not self._keys:
            raise KeyError("popitem(): ParameterDict is empty")
        key = next(reversed(self._keys))
        return key, self.pop(key)

    def clear(self) -> None:
        """Remove every item."""
        for key in reversed(list(self._keys)):
            del self[key]

    def copy(self) -> ParameterDict:
        """Another dict of the same items."""
        return ParameterDict(self)

    def fromkeys(self, keys: Iterable[str], default: Any = None) -> ParameterDict:
        """A new dict with ``default`` under every one of these names."""
        return ParameterDict((key, default) for key in keys)

    def update(self, parameters: Any) -> None:
        """Put the items of a mapping, or of an iterable of (name, item) pairs; see the class for their order."""
        if isinstance(parameters, ParameterDict):
            named: Any = [(key, parameters._take(key)) for key in parameters]
        elif isinstance(parameters, Mapping) and not isinstance(parameters, OrderedDict):
            named = sorted(parameters.items())
        else:
            named = pairs(parameters, "ParameterDict")
        for key, value in named:
            self[key] = value

    def __or__(self, other: Any) -> ParameterDict:
        both = self.copy()
        both.update(other)
        return both

    def __ror__(self, other: Any) -> ParameterDict:
        both = other.copy()
        both.update(self)
        return both

    def __ior__(self, other: Any) -> Self:  # type: ignore[misc]  # it changes this one
        self.update(other)
        return self

    def extra_repr(self) -> str:
        return "\n".join(self._show(key, _tensor_class) for key in self._keys)


def _tensor_class(dtype: str) -> str:
    return f"torch.{_TENSOR_CLASSES.get(dtype, dtype.capitalize())}Tensor"
