"""Sizes given as one number for every dimension, or one number each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

Size1: TypeAlias = int | tuple[int]
Size2: TypeAlias = int | tuple[int, int]
Size3: TypeAlias = int | tuple[int, int, int]
Size4: TypeAlias = int | tuple[int, int, int, int]
Size6: TypeAlias = int | tuple[int, int, int, int, int, int]
SizeAny: TypeAlias = int | tuple[int, ...]
SizeAnyOpt: TypeAlias = int | tuple[int | None, ...] | None


def spread(value: Any, count: int) -> tuple[Any, ...]:
    """``value`` as a tuple: its items if it has any, else itself ``count`` times."""
    return tuple(value) if isinstance(value, Iterable) else (value,) * count
