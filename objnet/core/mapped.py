"""Arrays that lie in memory-mapped files, and mappings to them of which nothing is read until it is used."""

from __future__ import annotations

import mmap
import os
import weakref
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from objnet.core.host_memory import give_back_freed_memory

# Systems without madvise keep the pages until the file is unmapped, or until they need the memory.
_DONTNEED = getattr(mmap, "MADV_DONTNEED", None)
_TRIM_EVERY = 2**27  # bytes released
_released = 0


class MappedFile:
    """A file that is memory-mapped, and open to be read from as well, until the last :class:`MappedArray` of it is gone.

    Args:
        path: which. The file may be replaced or removed meanwhile, but not written into.
    """

    def __init__(self, path: str) -> None:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
            self.handle = os.dup(file.fileno())
        weakref.finalize(self, os.close, self.handle)
        self._start = np.frombuffer(self.data, np.uint8).ctypes.data
        self._path = path

    def extent(self, array: np.ndarray[Any, Any]) -> tuple[int, int] | None:
        """The file's bytes from the first to past the last element of ``array``; None if it lies elsewhere or is empty."""
        if not array.size:
            return None
        low, high = (address - self._start for address in np.lib.array_utils.byte_bounds(array))
        return (low, high) if low >= 0 and high <= len(self.data) else None

    def read(self, offset: int, room: memoryview) -> None:
        """Fill ``room`` with the bytes at ``offset``."""
        while room:
            count = os.preadv(self.handle, [room], offset)
            if not count:
                raise OSError(f"{self._path} has been cut short since it was opened")
            room, offset = room[count:], offset + count

    def release(self, low: int, high: int) -> None:
        """Let go of the pages that hold these bytes."""
        if _DONTNEED is not None and isinstance(self.data, mmap.mmap):
            start = low // mmap.PAGESIZE * mmap.PAGESIZE
            self.data.madvise(_DONTNEED, start, high - start)


class MappedArray(np.ndarray):
    """A read-only numpy view of a :class:`MappedFile`, which can let go of the memory that reading it took."""

    _file: MappedFile | None = None

    @classmethod
    def of(cls, array: np.ndarray[Any, Any], file: MappedFile) -> MappedArray:
        """``array`` as one of ``file``; a copy of what lies there does as well, and is read and let go of as any array."""
        view = array.view(cls)
        view._file = file
        return view

    def __array_finalize__(self, source: Any) -> None:
        self._file = getattr(source, "_file", None)  # of results too; where they lie tells them apart

    def read_into(self, room: np.ndarray[Any, Any]) -> bool:
        """Fill ``room``, contiguous and of the same shape and dtype, by a read, which is faster than by the map.

        Returns:
            Whether that was possible: False, with nothing done, for what is not one run of bytes in the file.
        """
        extent = self._file.extent(self) if self._file is not None and hasattr(os, "preadv") else None
        if extent is None or room.dtype != self.dtype or not self.flags.c_contiguous:
            return False
        self._file.read(extent[0], room.reshape(-1).view(np.uint8).data)  # type: ignore[union-attr]
        return True

    def release(self) -> None:
        """Let go of the pages this lies in: they count as this process's memory once read, and are read again if used."""
        global _released
        extent = None if self._file is None else self._file.extent(self)
        if extent is not None:
            self._file.release(*extent)  # type: ignore[union-attr]
        _released += self.nbytes
        if _released >= _TRIM_EVERY:  # the values that these replace are often too small for malloc to give back unasked
            _released = 0
            give_back_freed_memory()


class LazyMapping(Mapping[str, np.ndarray]):
    """Arrays by key that are read when used; their shapes and dtypes are known without."""

    @abstractmethod
    def structs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes by key."""
