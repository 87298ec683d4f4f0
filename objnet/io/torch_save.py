"""Writing what ``torch.load`` reads, without torch: a zip archive of a pickle and the tensors' bytes (see torch_file.py)."""

from __future__ import annotations

import os
import pickle
import struct
import sys
import zipfile
import zlib
from collections import Counter, OrderedDict
from typing import Any, BinaryIO

import numpy as np

from objnet.io.atomic import atomic_write
from objnet.io.safetensors import concrete_array, type_name
from objnet.io.torch_pickle import DTYPES, STORAGES

_TORCH_NAMES = {dtype.name: name for name, dtype in DTYPES.items()}
_STORAGE_CLASSES = {dtype: f"{name}Storage" for name, dtype in STORAGES.items()}
_MAX_DEPTH = 100
_ALIGNMENT = 64  # of the storages within the file, so that they can be used where they are mapped
_ZIP64_FROM = 2_000_000_000  # bytes; zipfile itself goes over at a little more
_Path = tuple[Any, ...]


def save_torch(obj: Any, path: str | os.PathLike[str] | BinaryIO) -> None:
    """Save arrays and plain Python values as a file for ``torch.load(path, weights_only=True)`` (as ``torch.save``).

    Arrays become tensors of the same dtype and shape; one array in several places (tied weights) becomes tensors that share a
    storage, but not in an optimizer's state dict, nor 0-d ones: torch counts steps up in place. An existing file is replaced only when the new one is complete on disk.

    Args:
        obj: jax or numpy arrays, Parameters (as plain tensors), None, bool, int, float, complex, str, bytes and dtypes, in
            dict, OrderedDict (with the ``_metadata`` of a state dict), Counter, list, tuple and set. Dict keys: str, int,
            float, bool, None, bytes and tuples of these.
        path: the file, or a binary file object open for writing.

    Raises:
        TypeError: naming the place, for any other type, and for dtypes that torch does not have.
        ValueError: for an object that contains itself.
        OSError: as :func:`objnet.io.atomic.atomic_write`.
    """
    writer = _PickleWriter()
    program = writer.write(obj)  # before any file is touched
    if hasattr(path, "write"):
        _write_archive(path, "archive", program, writer.storages)
        return
    stem = os.path.splitext(os.path.basename(os.fsdecode(path)))[0]
    folder = stem if stem.isascii() and stem.isprintable() and "\\" not in stem and ":" not in stem else "archive"
    with atomic_write(path) as file:
        _write_archive(file, folder, program, writer.storages)


class _PickleWriter:
    """Writes protocol 2, which torch's own restricted reader takes, with names of torch's that need not exist here."""

    def __init__(self) -> None:
        self.storages: list[Any] = []
        self._out = bytearray(b"\x80\x02")
        self._memo: dict[Any, int] = {}
        self._keys: dict[int, str] = {}
        self._apart = 0  # the depth of dicts in which no two tensors share a storage

    def write(self, obj: Any) -> bytes:
        self._value(obj, ())
        self._out += b"."
        return bytes(self._out)

    def _value(self, value: Any, path: _Path) -> None:
        if len(path) > _MAX_DEPTH:
            raise ValueError(f"{_show(path[:3])}...: nested over {_MAX_DEPTH} levels deep; does it contain itself?")
        kind, out = type(value), self._out
        if value is None or kind in (bool, int, float):
            out += pickle.dumps(value, 2)[2:-1]  # without the protocol before and the stop behind
        elif kind is str:
            self._text(value)
        elif kind is bytes:
            self._global("_codecs", "encode")
            self._text(value.decode("latin-1"))
            self._text("latin1")
            out += b"\x86R"
        elif kind is complex:
            self._global("__builtin__", "complex")
            out += struct.pack(">cdcd", b"G", value.real, b"G", value.imag) + b"\x86R"
        elif kind is list:
            out += b"](" if value else b"]"
            self._items(value, path)
            out += b"e" if value else b""
        elif kind is tuple:
            out += b"(" if value else b")"
            self._items(value, path)
            out += b"t" if value else b""
        elif kind is set:
            self._global("__builtin__", "set")
            out += b"]("
            for item in value:
                self._key(item, path)
            out += b"e\x85R"
        elif kind is dict:
            out += b"}"
            optimizer = {"state", "param_groups"} <= value.keys()
            self._apart += optimizer
            self._pairs(value, path)
            self._apart -= optimizer
        elif kind is Counter:
            self._global("collections", "Counter")
            out += b"}"
            self._pairs(value, path)
            out += b"\x85R"
        elif kind is OrderedDict:
            self._global("collections", "OrderedDict")
            out += b")R"
            self._pairs(value, path)
            if isinstance(getattr(value, "_metadata", None), dict):
                self._value({"_metadata": value._metadata}, (*path, "_metadata"))  # type: ignore[attr-defined]
                out += b"b"
        elif isinstance(value, np.dtype) and value.name in _TORCH_NAMES:
            self._global("torch", _TORCH_NAMES[value.name])
        else:
            self._tensor(value, path)

    def _items(self, items: Any, path: _Path) -> None:
        for index, item in enumerate(items):
            self._value(item, (*path, index))

    def _pairs(self, pairs: Any, path: _Path) -> None:
        if not pairs:
            return
        self._out += b"("
        for key, item in pairs.items():
            self._key(key, path)
            self._value(item, (*path, key))
        self._out += b"u"

    def _key(self, key: Any, path: _Path) -> None:
        if not _is_key(key):
            raise TypeError(f"{_show(path)}: cannot save a dict key or set item of type {type_name(key)}: {key!r:.100}")
        self._value(key, (*path, key))

    def _tensor(self, value: Any, path: _Path) -> None:
        if not (hasattr(value, "dtype") or hasattr(value, "__jax_array__")):
            raise TypeError(f"{_show(path)}: cannot save {type_name(value)}; {_advice(value)}")
        array = concrete_array(value, _show(path))
        name = _TORCH_NAMES.get(array.dtype.name)
        if name is None:
            raise TypeError(f"{_show(path)}: torch has no dtype {array.dtype}; convert the array to one it has")
        storage_class = _STORAGE_CLASSES.get(name)  # the younger dtypes have none: their tensors say what their bytes are
        self._global("torch._utils", "_rebuild_tensor_v2" if storage_class else "_rebuild_tensor_v3")
        self._out += b"(("
        self._text("storage")
        self._global(*(("torch", storage_class) if storage_class else ("torch.storage", "UntypedStorage")))
        self._text(self._storage(array))
        self._text("cpu")
        self._value(array.size * (1 if storage_class else array.dtype.itemsize), path)
        self._out += b"tQK\x00"  # a persistent id; the offset 0
        self._numbers(array.shape)
        self._numbers(
            [int(np.prod([extent or 1 for extent in array.shape[axis + 1 :]], dtype=object)) for axis in range(array.ndim)]
        )
        self._out += b"\x89"  # requires_grad
        self._global("collections", "OrderedDict")  # hooks
        self._out += b")R"
        if not storage_class:
            self._global("torch", name)
        self._out += b"tR"

    def _numbers(self, numbers: Any) -> None:
        self._value(tuple(int(number) for number in numbers), ())

    def _storage(self, array: Any) -> str:
        if id(array) not in self._keys or self._apart or not array.shape:
            self._keys[id(array)] = str(len(self.storages))
            self.storages.append(array)  # which keeps it alive, so that no other gets its id
        return self._keys[id(array)]

    def _text(self, text: str) -> None:
        encoded = text.encode("utf-8", "surrogatepass")
        self._remembered(text, b"X" + struct.pack("<I", len(encoded)) + encoded)

    def _global(self, module: str, name: str) -> None:
        self._remembered((module, name), f"c{module}\n{name}\n".encode())

    def _remembered(self, key: Any, written: bytes) -> None:
        index = self._memo.get(key)
        if index is None:
            index = self._memo[key] = len(self._memo)
            self._out += written + (struct.pack("<cB", b"q", index) if index < 256 else struct.pack("<cI", b"r", index))
        else:
            self._out += struct.pack("<cB", b"h", index) if index < 256 else struct.pack("<cI", b"j", index)


def _write_archive(file: Any, folder: str, program: bytes, storages: list[Any]) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        identity = [zlib.crc32(program), len(storages)]

        def record(name: str, content: Any) -> int:
            info = zipfile.ZipInfo(f"{folder}/{name}")
            info.file_size = len(content)
            is_large = len(content) > _ZIP64_FROM
            start = archive.fp.tell() + 30 + len(info.filename) + (20 if is_large else 0) + 4  # type: ignore[union-attr]
            padding = -start % _ALIGNMENT
            info.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
            with archive.open(info, "w", force_zip64=is_large) as target:
                target.write(content)
            return info.CRC

        record("data.pkl", program)
        record(".format_version", b"1")
        record(".storage_alignment", str(_ALIGNMENT).encode())
        record("byteorder", sys.byteorder.encode())
        for index, array in enumerate(storages):
            flat = np.ascontiguousarray(array, DTYPES[_TORCH_NAMES[array.dtype.name]]).reshape(-1).view(np.uint8)
            identity[1] = zlib.crc32(record(f"data/{index}", flat.data).to_bytes(4, "little"), identity[1])
        record("version", b"3\n")
        record(".data/serialization_id", "".join(f"{part:020d}" for part in identity).encode())


def _is_key(key: Any) -> bool:
    return key is None or type(key) in (bool, int, float, str, bytes) or (type(key) is tuple and all(map(_is_key, key)))


def _show(path: _Path) -> str:
    return "at " + "".join(f"[{part!r}]" for part in path) if path else "at the top level"


def _advice(value: Any) -> str:
    if hasattr(value, "state_dict"):
        return "pass its .state_dict()"
    if isinstance(value, tuple):
        return "pass a plain tuple(...)"
    return (
        "arrays, None, bool, int, float, complex, str and bytes in dict, OrderedDict, Counter, list, tuple and set can be saved"
    )
