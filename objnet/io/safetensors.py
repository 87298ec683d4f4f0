"""The safetensors format: a JSON header that says where each array lies, then the bytes of the arrays.

A file is an 8-byte little-endian length, that many bytes of JSON, and the data section::

    {"__metadata__": {"any": "text"}, "fc.weight": {"dtype": "F32", "shape": [10, 4], "data_offsets": [0, 160]}, ...}

Nothing in it is code, so a stranger's file is safe to read once its header is checked (:mod:`objnet.io.header`).
Arrays are read-only numpy views of the memory-mapped file: nothing is copied, and what nobody asks for stays on disk.

Files are byte for byte those of Hugging Face's safetensors library 0.8, which defines the format, wherever that library
writes the right data (it takes a transposed or strided numpy array for a contiguous one; here each layout is right).
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, BinaryIO

import jax
import numpy as np

from objnet.core.arrays import is_array
from objnet.io.atomic import atomic_write
from objnet.io.header import DTYPES, NAMES, Header, SafetensorError, format_header, lay_out, parse_header


def save_file(tensors: Mapping[str, Any], path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None) -> None:
    """Write arrays to a safetensors file, atomically (as ``safetensors.numpy.save_file``).

    Args:
        tensors: jax or numpy arrays of any shape and memory layout by key; numpy scalars are 0-d arrays.
        path: the file; an existing one is replaced only when the new one is complete on disk.
        metadata: free text by name.

    Raises:
        TypeError: for a key or metadata that is no str, a value that is no array, or a dtype the format does not have.
        SafetensorError: for a key named ``__metadata__``, text that is not Unicode, or a header over 100 MB.
        OSError: as :func:`objnet.io.atomic.atomic_write`.
    """
    buffers = serialize(tensors, metadata)
    with atomic_write(path) as file:
        for buffer in buffers:
            file.write(buffer)


def save(tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> bytes:
    """The bytes :func:`save_file` would write; same arguments, same errors."""
    return b"".join(serialize(tensors, metadata))


def serialize(
    tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None, *, keep_order: bool = False
) -> Iterator[bytes | memoryview]:
    """The file as buffers, one an array and each made only when asked for; the arguments are checked at once.

    With ``keep_order`` the header lists the keys in the order of ``tensors``, which every reader of the format accepts
    and :func:`load_file` gives back; the data lie where they always do.
    """
    arrays = {key: _as_storable(key, value) for key, value in tensors.items()}
    layout = lay_out({key: (NAMES[array.dtype.name], array.shape) for key, array in arrays.items()})
    header = format_header({key: layout[key] for key in arrays} if keep_order else layout, _check_metadata(metadata))
    return _buffers(header, [arrays[key] for key in layout])


def _buffers(header: bytes, arrays: list[Any]) -> Iterator[bytes | memoryview]:
    yield header
    for array in arrays:
        name = NAMES[array.dtype.name]
        flat: np.ndarray[Any, Any] = np.ascontiguousarray(array, dtype=DTYPES[name]).reshape(-1).view(np.uint8)
        if name == "F4":  # numpy holds one a byte, the file two, the first in the low half
            flat = flat[0::2] & 0xF | flat[1::2] << 4
        yield flat.data


def type_name(value: Any) -> str:
    """The full name of the type of ``value``."""
    return f"{type(value).__module__}.{type(value).__qualname__}"


def concrete_array(value: Any, where: str) -> Any:
    """``value``, or what a Parameter holds, if it is a jax or numpy array with a value; ``where`` begins the error.

    Raises:
        TypeError: for an array being traced, a masked array, whose mask would be lost, and anything that is no array.
    """
    if not is_array(value) and hasattr(value, "__jax_array__"):
        value = value.__jax_array__()
    if isinstance(value, jax.core.Tracer):
        raise TypeError(f"{where}: traced by jax ({value.aval}), so it has no value; save outside jit, grad and vmap")
    if isinstance(value, np.ma.MaskedArray) or not (is_array(value) or isinstance(value, (np.ndarray, np.generic))):
        raise TypeError(f"{where}: expected a jax or numpy array, got {type_name(value)}")
    return value


def is_storable(dtype: Any) -> bool:
    """Whether the format has a type for arrays of this dtype."""
    return dtype.name in NAMES


def _as_storable(key: Any, value: Any) -> Any:
    """``value`` as an array of a type the format has; jax arrays stay on their device until they are written."""
    if not isinstance(key, str):
        raise TypeError(f"keys must be str, got {key!r} of type {type(key).__name__}")
    if key == "__metadata__":
        raise SafetensorError("no array can be named '__metadata__': the format keeps that name for itself")
    array = concrete_array(value, repr(key))
    if not is_storable(array.dtype):
        raise TypeError(f"{key!r}: safetensors files cannot hold dtype {array.dtype}")
    return array


def _check_metadata(metadata: Mapping[str, str] | None) -> Mapping[str, str] | None:
    for name, text in (metadata or {}).items():
        if not (isinstance(name, str) and isinstance(text, str)):
            raise TypeError(f"metadata must map str to str, got {name!r}: {text!r}")
    return metadata


def load_file(path: str | os.PathLike[str]) -> dict[str, np.ndarray[Any, Any]]:
    """Every array of a safetensors file, in the header's order (as ``safetensors.numpy.load_file``).

    The arrays are read-only views of the memory-mapped file (``F4`` alone is unpacked), so this takes no memory until
    they are used. Replacing the file, as :func:`save_file` does, does not disturb them; writing into it in place does.

    Raises:
        FileNotFoundError: if there is no such file.
        SafetensorError: if it is not a well-formed safetensors file or holds an ``F6_*`` array; for a file cut short it
            says how many bytes are missing.
        TorchFileError: if ``torch.save`` wrote it.
    """
    with open_file(path) as file:
        return {key: file.get(key) for key in file.header.tensors}


def load(data: bytes | bytearray | memoryview) -> dict[str, np.ndarray[Any, Any]]:
    """Every array of a safetensors file held in memory, as read-only views of it; errors as :func:`load_file`."""
    with SafetensorFile(data) as file:
        return {key: file.get(key) for key in file.header.tensors}


def open_file(path: str | os.PathLike[str]) -> SafetensorFile:
    """Map a file and check its header, to read arrays one by one (as ``safetensors.safe_open``).

    Errors are those of :func:`load_file`.

    Example::

        with open_file("model.safetensors") as file:
            first_rows = file.get("embed.weight")[:100]  # only those rows are read from disk
    """
    return SafetensorFile(*read_or_map(path))


def read_or_map(path: str | os.PathLike[str] | BinaryIO) -> tuple[bytes | mmap.mmap, str]:
    """A whole file, memory-mapped, or what is left of a binary file object; and what errors call it."""
    if hasattr(path, "read"):
        return path.read(), f"<{type(path).__name__}>"
    name = os.fsdecode(path)
    with open(name, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b"", name


def read_header(path: str | os.PathLike[str]) -> Header:
    """The checked header of a file; errors as :func:`load_file`."""
    with open_file(path) as file:
        return file.header


class SafetensorFile:
    """A safetensors file with a checked header: what it holds, and its arrays on demand. :func:`open_file` makes one.

    Args:
        data: the bytes of the whole file, or a memory map of it.
        name: what errors call it.
    """

    def __init__(self, data: bytes | bytearray | memoryview | mmap.mmap, name: str = "<bytes>") -> None:
        self._name = name
        self._bytes: np.ndarray[Any, Any] | None = np.frombuffer(memoryview(data).toreadonly().cast("B"), np.uint8)
        self.header = parse_header(self._bytes, name)

    def keys(self) -> list[str]:
        """The keys in the header's order."""
        return list(self.header.tensors)

    def metadata(self) -> dict[str, str]:
        """The free text by name; empty where there is none."""
        return dict(self.header.metadata)

    def get(self, key: str) -> np.ndarray[Any, Any]:
        """One array, a read-only view of the file; slice it to read a part. It outlives :meth:`close`.

        Raises:
            KeyError: for an unknown key.
            SafetensorError: for an ``F6_*`` array, or a ``BOOL`` array with bytes other than 0 and 1.
            ValueError: after :meth:`close`.
        """
        if self._bytes is None:
            raise ValueError(f"{self._name} is closed")
        name, shape, start, stop = self.header.tensors[key]
        dtype = DTYPES[name]
        raw = self._bytes[self.header.data_start + start : self.header.data_start + stop]
        if dtype is None:
            raise SafetensorError(f"{self._name}: {key!r} has dtype {name}, whose packing the format does not define")
        if name == "BOOL" and (raw > 1).any():
            raise SafetensorError(f"{self._name}: {key!r} is BOOL but has bytes other than 0 and 1")
        if name == "F4":
            raw = np.stack([raw & 0xF, raw >> 4], axis=-1).reshape(-1)
            raw.flags.writeable = False
        return raw.view(dtype).reshape(shape)

    def close(self) -> None:
        """Let go of the file; it is unmapped when the last array from it is gone."""
        self._bytes = None

    def __enter__(self) -> SafetensorFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
