"""What torch's pickles mention, in numpy's terms: storages, the functions that make tensors of them, dtypes, sizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from objnet.io.unpickle import PLAIN, Function, Machine, UnpickleError, refuse

_MAX_RANK = 64  # numpy's own limits
_MAX_BYTES = 2**63 - 1
_SPARE_BYTES = 2**28
_Array = np.ndarray[Any, Any]

DTYPES: dict[str, np.dtype[Any]] = {
    "float64": np.dtype("f8"),
    "float32": np.dtype("f4"),
    "float16": np.dtype("f2"),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "int64": np.dtype("i8"),
    "int32": np.dtype("i4"),
    "int16": np.dtype("i2"),
    "int8": np.dtype("i1"),
    "uint8": np.dtype("u1"),
    "bool": np.dtype("?"),
    "complex64": np.dtype("c8"),
    "complex128": np.dtype("c16"),
    "uint16": np.dtype("u2"),
    "uint32": np.dtype("u4"),
    "uint64": np.dtype("u8"),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e4m3fnuz": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "float8_e5m2fnuz": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "float8_e8m0fnu": np.dtype(ml_dtypes.float8_e8m0fnu),
}
# Dtypes that are older than untyped storages have a storage class each, which is how files name them.
STORAGES = {
    "Double": "float64",
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
    "ComplexFloat": "complex64",
    "ComplexDouble": "complex128",
}
_ALIASES = {"float": "float32", "double": "float64", "half": "float16", "long": "int64", "int": "int32", "short": "int16"}
_ALIASES |= {"cfloat": "complex64", "cdouble": "complex128"}


class _StorageType(NamedTuple):
    dtype: np.dtype[Any] | None  # None: bytes, of which each tensor says what they are


class Storage(NamedTuple):
    """Bytes that tensors are views of."""

    key: str
    dtype: np.dtype[Any] | None
    content: _Array | None  # uint8; None while they have not been found yet


class TensorReader:
    """Reads objects with tensors from torch's pickles.

    Args:
        size: bytes of the whole file: tensors may not come to many times that (a file can hold one number and call it a
            million by a stride of 0).
        storage: the bytes (uint8) by a storage's key and their number; None if not known yet, and all tensors are None then.
        place: what to make of a tensor, which is given as a numpy view of the storage, or a copy where a view cannot be.
        swap: whether the bytes of each number are in the order that is not this machine's.
    """

    def __init__(
        self,
        size: int,
        storage: Callable[[str, int], _Array | None],
        place: Callable[[_Array], Any],
        swap: bool = False,
    ) -> None:
        self._storage, self._place, self._swap = storage, place, swap
        self._left = 4 * size + _SPARE_BYTES
        self._tensors: dict[Any, Any] = {}
        self._globals = {**PLAIN, **_VALUES, **self._functions()}

    def machine(self, stream: BinaryIO, size: int) -> Machine:
        """A machine that reads pickles with tensors from ``stream``, which has ``size`` bytes."""
        return Machine(stream, size, self._find, self._persistent)

    def _find(self, name: str) -> Any:
        try:
            return self._globals[name]
        except KeyError:
            raise UnpickleError(f"it holds a {name[:200]}, {_advice(name)}") from None

    def _functions(self) -> dict[str, Function]:
        functions: dict[str, Callable[..., Any]] = {
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_tensor_v2": self._tensor_v2,
            "torch._utils._rebuild_tensor_v3": self._tensor_v3,
            "torch._utils._rebuild_parameter": _first,
            "torch._utils._rebuild_parameter_with_state": _first,
            "torch._tensor._rebuild_from_type_v2": self._from_type,
            "torch.Size": _size,
            "torch.device": _device,
        }
        return {name: Function(name, call) for name, call in functions.items()}

    def _persistent(self, reference: Any) -> Storage:
        match reference:
            case ("storage", _StorageType() as kind, str(key), str(), int(count), *_) if count >= 0:
                nbytes = count * (1 if kind.dtype is None else kind.dtype.itemsize)
                view = reference[5] if len(reference) > 5 else None
                if view is not None:
                    raise UnpickleError("it holds a view of a storage, which torch before 0.4 wrote: load and save it with torch")
                return Storage(key, kind.dtype, self._storage(key, nbytes))
        raise UnpickleError("its pickle refers to something that is no storage")

    def _tensor_v3(
        self,
        machine: Machine,
        storage: Any,
        offset: Any,
        shape: Any,
        strides: Any,
        grad: Any,
        hooks: Any,
        dtype: Any,
        metadata: Any = None,
    ) -> Any:
        if not isinstance(storage, Storage) or not isinstance(dtype, np.dtype):
            refuse("a tensor is made of no storage or dtype")
        return self._tensor_v2(machine, storage._replace(dtype=dtype), offset, shape, strides, grad, hooks, metadata)

    def _tensor_v2(
        self,
        machine: Machine,
        storage: Any,
        offset: Any,
        shape: Any,
        strides: Any,
        grad: Any = None,
        hooks: Any = None,
        metadata: Any = None,
    ) -> Any:
        marks = metadata if isinstance(metadata, dict) else {}
        return self._tensor(machine, storage, offset, shape, strides, bool(marks.get("conj")), bool(marks.get("neg")))

    def _tensor(
        self,
        machine: Machine,
        storage: Any,
        offset: Any,
        shape: Any,
        strides: Any,
        conjugate: bool = False,
        negate: bool = False,
    ) -> Any:
        """The same storage viewed in the same way is the same tensor: that is how files tie one to another."""
        if not isinstance(storage, Storage) or storage.dtype is None:
            refuse("a tensor is made of no storage")
        shape, strides = _sizes(shape), _sizes(strides)
        if len(shape) != len(strides) or type(offset) is not int or offset < 0:
            refuse("a tensor's offset, size and stride do not fit each other")
        if storage.content is None:
            return None
        key = (storage.key, storage.dtype, offset, shape, strides, conjugate, negate)
        if key not in self._tensors:
            array = self._view(storage.content, storage.dtype, offset, shape, strides)
            array = np.conjugate(array) if conjugate else array
            self._tensors[key] = self._place(np.negative(array) if negate else array)
        return self._tensors[key]

    def _view(
        self, content: _Array, dtype: np.dtype[Any], offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
    ) -> _Array:
        count = len(content) // dtype.itemsize
        last = offset + sum((extent - 1) * stride for extent, stride in zip(shape, strides, strict=True))
        if 0 not in shape and last >= count:
            refuse(f"a tensor reaches to element {last} of a storage of {count}")
        if math.prod(extent or 1 for extent in shape) * dtype.itemsize > _MAX_BYTES:
            refuse(f"a tensor's size {shape} is too large")
        self._left -= math.prod(shape) * dtype.itemsize
        if self._left < 0:
            raise UnpickleError("its tensors take many times the bytes it has; it is damaged or hostile")
        if content.ctypes.data % dtype.alignment:
            content = content.copy()
        if 0 in shape:
            return np.empty(shape, dtype)
        steps = [stride * dtype.itemsize for stride in strides]
        array: _Array = np.ndarray(shape, dtype, content.data, offset * dtype.itemsize, steps)
        if dtype == np.bool_ and (array.view(np.uint8) > 1).any():
            refuse("a tensor of bool has bytes other than 0 and 1")
        return _swapped(array) if self._swap else array

    def _from_type(self, machine: Machine, function: Any, kind: Any, arguments: Any, state: Any) -> Any:
        """A tensor with attributes, or of torch's own subclasses; of user's ones the pickle would have refused the name."""
        if not isinstance(function, Function) or kind not in _KINDS or not isinstance(arguments, tuple):
            refuse("a tensor's type is no tensor")
        return function.call(machine, *arguments)


def _swapped(array: _Array) -> _Array:
    part = array.dtype.itemsize // (2 if array.dtype.kind == "c" else 1)
    array = np.array(array, order="C", ndmin=1).reshape(array.shape)
    array.reshape(-1).view(f"u{part}").byteswap(inplace=True)
    return array


def _sizes(values: Any) -> tuple[int, ...]:
    if not isinstance(values, (tuple, list)) or len(values) > _MAX_RANK:
        refuse("a tensor's size is no short tuple")
    if not all(type(value) is int and 0 <= value <= _MAX_BYTES for value in values):
        refuse("a tensor's size or stride is no natural number")
    return tuple(values)


def _first(machine: Machine, data: Any, *rest: Any) -> Any:
    return data


def _size(machine: Machine, extents: Any = ()) -> tuple[int, ...]:
    return _sizes(extents)


def _device(machine: Machine, kind: Any, index: Any = None) -> str:
    if not isinstance(kind, str) or not (index is None or type(index) is int):
        refuse("a device has no name")
    return kind if index is None else f"{kind}:{index}"


def _advice(name: str) -> str:
    module = name.rpartition(".")[0]
    if module.startswith(("jax", "objnet", "flax")):
        return "an object of JAX's, which torch.save pickled: write the file with objnet.save or objnet.save_torch instead"
    if module.startswith("torch.nn.modules") or not module.startswith(("torch", "numpy", "collections", "builtins")):
        return (
            "which would run code of that name: only tensors, containers and plain values are read. If the file is of a "
            "whole model or holds other objects, load it with torch (weights_only=False, if you trust it) and "
            "torch.save(model.state_dict(), path)"
        )
    if name.endswith("Storage") or "qtensor" in name or "sparse" in name or "nested" in name or "meta" in name:
        return "a kind of tensor that has no counterpart here: convert it to a dense tensor in torch and save it again"
    if module.startswith("numpy"):
        return "an object of numpy's: convert it to a tensor or a Python number in torch and save it again"
    return "which is none of the plain values that are read: load it with torch, and save tensors and plain values only"


_KINDS = ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")
_VALUES: dict[str, Any] = {
    **{f"torch.{name}": dtype for name, dtype in DTYPES.items()},
    **{f"torch.{name}": DTYPES[full] for name, full in _ALIASES.items()},
    **{f"torch.{name}Storage": _StorageType(DTYPES[dtype]) for name, dtype in STORAGES.items()},
    "torch.storage.UntypedStorage": _StorageType(None),
    "torch.UntypedStorage": _StorageType(None),
    **{name: name for name in _KINDS},
}
# files written where the tensors were on a GPU name its classes
_VALUES |= {f"torch.cuda.{name}Storage": _StorageType(DTYPES[dtype]) for name, dtype in STORAGES.items()}
