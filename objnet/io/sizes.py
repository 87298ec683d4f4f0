"""Sizes of files as people write them."""

from __future__ import annotations

import re

_UNITS = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}


def in_bytes(size: int | str) -> int:
    """``"5GB"`` (or ``5_000_000_000``) as a number of bytes; ``KiB``, ``MiB``, ``GiB`` are powers of 1024.

    Raises:
        ValueError: for anything else, or less than a byte.
    """
    if isinstance(size, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", size)
        if found is None or found[2].upper() not in _UNITS:
            raise ValueError(f"a size is a number of bytes or text such as '5GB' or '200MiB', got {size!r}")
        size = int(float(found[1]) * _UNITS[found[2].upper()])
    if size < 1:
        raise ValueError(f"a size must be at least 1 byte, got {size}")
    return size
