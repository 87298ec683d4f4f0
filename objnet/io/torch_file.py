"""Reading what ``torch.save`` wrote (``.pt``, ``.pth``, ``.bin``) without torch and without running anything in it.

Since torch 1.6 a file is a zip archive whose records are stored as they are, not compressed::

    model/data.pkl      a pickle, in which a tensor names its storage, offset, size and stride
    model/byteorder     "little" or "big"
    model/data/0, ...   the storages' bytes

Older files are five pickles one after the other (a magic number, a version, facts on the system, the object, the storages'
keys) and then the storages, each with its number of elements before it.
"""

from __future__ import annotations

import io
import mmap
import os
import struct
import sys
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

from objnet.io.header import TorchFileError
from objnet.io.placing import to_jax
from objnet.io.safetensors import read_or_map
from objnet.io.torch_pickle import TensorReader
from objnet.io.unpickle import UnpickleError

_ZIP = b"PK\x03\x04"
_MAGIC = 0x1950A86A20F9469CFC6C
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, lengths of the name and of the extra field
_Array = np.ndarray[Any, Any]


def load_torch(path: str | os.PathLike[str] | BinaryIO) -> Any:
    """Load a file of ``torch.save`` (as ``torch.load(path, weights_only=True, map_location="cpu")``).

    Args:
        path: the file, or a binary file object open for reading, which is read to its end.

    Returns:
        The saved object. Tensors are jax arrays on the default device, or numpy arrays where jax would narrow the dtype
        (int64 without ``jax_enable_x64``); tensors that were one view of one storage are one array. Parameters are arrays,
        a ``torch.Size`` is a tuple, a ``torch.dtype`` a numpy dtype, a ``torch.device`` a str.

    Raises:
        FileNotFoundError: if there is no such file.
        TorchFileError: if ``torch.save`` did not write it, if it is damaged, cut short or hostile, or if it holds anything
            but tensors, containers and plain values: the error names it.
    """
    return read_torch(*read_or_map(path), to_jax)


def read_torch(data: bytes | mmap.mmap, name: str, place: Callable[[_Array], Any]) -> Any:
    """The object in a whole file given as bytes or a memory map; ``place`` makes an array of each read-only view of it."""
    content = np.frombuffer(memoryview(data).toreadonly(), np.uint8)
    try:
        if content[:4].tobytes() == _ZIP:
            return _Archive(content).read(place)
        return _read_legacy(content, place)
    except UnpickleError as error:
        raise TorchFileError(f"{name}: {error}") from error
    except MemoryError as error:
        raise TorchFileError(f"{name}: what it holds does not fit into memory") from error


class _View(io.RawIOBase):
    """A file object over bytes in memory or a memory map, of which nothing is copied but what is read."""

    def __init__(self, content: _Array) -> None:
        self._content, self._position = content, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = self._content[self._position : self._position + len(buffer)]
        memoryview(buffer)[: len(part)] = part.data
        self._position += len(part)
        return len(part)

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = max(0, offset + (0, self._position, len(self._content))[whence])
        return self._position

    def tell(self) -> int:
        return self._position


class _Archive:
    def __init__(self, content: _Array) -> None:
        self._content = content
        try:
            with zipfile.ZipFile(io.BufferedReader(_View(content))) as archive:
                infos = archive.infolist()
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, struct.error, OSError) as error:
            raise UnpickleError(f"it is cut short or no zip archive ({error})") from error
        self._records: dict[str, zipfile.ZipInfo] = {}
        for info in infos:
            if info.filename in self._records:
                raise UnpickleError(f"its record {info.filename!r} is there twice")
            self._records[info.filename] = info
        folders = [name.removesuffix("/data.pkl") for name in self._records if name.endswith("/data.pkl")]
        folders = [folder for folder in folders if "/" not in folder]
        if len(folders) != 1:
            raise UnpickleError("it is a zip archive, but torch.save did not write it: it has no data.pkl")
        self._folder = folders[0]
        if f"{self._folder}/constants.pkl" in self._records:
            raise UnpickleError(
                "it is a TorchScript program: load it with torch.jit.load and torch.save(module.state_dict(), path)"
            )

    def read(self, place: Callable[[_Array], Any]) -> Any:
        order = self._record("byteorder").tobytes() if f"{self._folder}/byteorder" in self._records else b"little"
        if order not in (b"little", b"big"):
            raise UnpickleError(f"its byteorder is {order[:20]!r}, neither little nor big")
        program = self._record("data.pkl")
        reader = TensorReader(len(self._content), self._storage, place, order != sys.byteorder.encode())
        return reader.machine(io.BytesIO(program.tobytes()), len(program)).read()

    def _storage(self, key: str, nbytes: int) -> _Array:
        content = self._record(f"data/{key}")
        if len(content) < nbytes:
            raise UnpickleError(f"its storage {key[:100]!r} should have {nbytes} bytes, but has {len(content)}")
        return content[:nbytes]

    def _record(self, name: str) -> _Array:
        """A record's bytes, as a view of the file."""
        info = self._records.get(f"{self._folder}/{name}")
        if info is None:
            raise UnpickleError(f"its record {name[:100]!r} is missing")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size or info.flag_bits & 1:
            raise UnpickleError(
                f"its record {name[:100]!r} is compressed or encrypted, which torch.save does not do: pack it anew (zip -0)"
            )
        head = self._content[info.header_offset : info.header_offset + _LOCAL_HEADER.size].tobytes()
        if info.header_offset < 0 or len(head) < _LOCAL_HEADER.size:
            raise UnpickleError(f"its record {name[:100]!r} lies outside of the file")
        signature, name_length, extra_length = _LOCAL_HEADER.unpack(head)
        start = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
        if signature != _ZIP or start + info.file_size > len(self._content):
            raise UnpickleError(f"its record {name[:100]!r} does not lie where the archive says")
        return self._content[start : start + info.file_size]


def _read_legacy(content: _Array, place: Callable[[_Array], Any]) -> Any:
    """The object is read twice: what storages there are must be known to find their bytes, which lie behind it."""
    stream = io.BufferedReader(_View(content))
    size = len(content)
    counts: dict[str, int] = {}
    found: dict[str, _Array] = {}

    def note(key: str, nbytes: int) -> None:
        if counts.setdefault(key, nbytes) != nbytes:
            raise UnpickleError(f"its storage {key[:100]!r} has two sizes")

    first = TensorReader(size, note, place).machine(stream, size)
    try:
        magic = first.read() if content[:1].tobytes() == b"\x80" else None
    except UnpickleError:
        magic = None
    if magic != _MAGIC:
        raise UnpickleError(
            "torch.save did not write it: it is neither a zip archive nor begins with torch's magic number. If torch itself "
            "loads it, save it from there again"
        )
    version, system = first.read(), first.read()
    if version != 1001 or not isinstance(system, dict):
        raise UnpickleError(f"it is of the unknown version {version!r:.50}")
    start = stream.tell()
    first.read()
    keys = first.read()
    if not isinstance(keys, list) or {key for key in keys if isinstance(key, str)} != counts.keys() or len(keys) != len(counts):
        raise UnpickleError("the list of its storages does not fit them")
    position = stream.tell()
    for key in keys:
        nbytes = counts[key]
        if size - position < 8 + nbytes:
            raise UnpickleError(
                f"it is cut short: of its storage {key[:100]!r} {8 + nbytes - (size - position)} bytes are missing"
            )
        found[key] = content[position + 8 : position + 8 + nbytes]
        position += 8 + nbytes
    is_big = system.get("little_endian") is False
    reader = TensorReader(size, lambda key, nbytes: found[key], place, is_big == (sys.byteorder == "little"))
    stream.seek(start)
    return reader.machine(stream, size).read()
