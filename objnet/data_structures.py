"""Working on ``params`` and ``state``, two-level dicts of module path to name to array (Haiku's ``data_structures``).

Every function leaves its arguments alone and returns plain dicts of its own; modules without entries are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

__all__ = [
    "filter",
    "is_subset",
    "map",
    "merge",
    "partition",
    "partition_n",
    "to_mutable_dict",
    "traverse",
    "tree_bytes",
    "tree_size",
]

Structure = Mapping[str, Mapping[str, Any]]
Predicate = Callable[[str, str, Any], bool]


def traverse(structure: Structure) -> Iterator[tuple[str, str, Any]]:
    """Every ``(module path, name, value)``, sorted."""
    for path in sorted(structure):
        for name in sorted(structure[path]):
            yield path, name, structure[path][name]


def filter(predicate: Predicate, structure: Structure) -> dict[str, dict[str, Any]]:
    """The entries for which ``predicate(module path, name, value)`` holds."""
    return partition(predicate, structure)[0]


def map(function: Callable[[str, str, Any], Any], structure: Structure) -> dict[str, dict[str, Any]]:
    """``function(module path, name, value)`` in place of every value."""
    found: dict[str, dict[str, Any]] = {}
    for path, name, value in traverse(structure):
        found.setdefault(path, {})[name] = function(path, name, value)
    return found


def partition(predicate: Predicate, structure: Structure) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """The entries for which ``predicate(module path, name, value)`` holds, and the others: what is trained, and what is not."""
    others, chosen = partition_n(lambda *entry: bool(predicate(*entry)), structure, 2)
    return chosen, others


def partition_n(function: Callable[[str, str, Any], int], structure: Structure, n: int) -> tuple[dict[str, dict[str, Any]], ...]:
    """``n`` dicts; ``function(module path, name, value)`` says which one an entry goes to.

    Raises:
        IndexError: it gives a number below 0, or ``n`` or more.
    """
    parts: tuple[dict[str, dict[str, Any]], ...] = tuple({} for _ in range(n))
    for path, name, value in traverse(structure):
        index = int(function(path, name, value))
        if not 0 <= index < n:
            raise IndexError(f"the part of {path}.{name} is {index}, and there are parts 0 to {n - 1}")
        parts[index].setdefault(path, {})[name] = value
    return parts


def merge(*structures: Structure, check_duplicates: bool = False) -> dict[str, dict[str, Any]]:
    """All entries in one; of an entry in several the last one counts.

    Args:
        check_duplicates: whether entries of the same name must have the same shape and dtype.

    Raises:
        ValueError: with ``check_duplicates``, two of a name do not.
    """
    found: dict[str, dict[str, Any]] = {}
    for structure in structures:
        for path, name, value in traverse(structure):
            own = found.setdefault(path, {})
            if check_duplicates and name in own and _kind(own[name]) != _kind(value):
                raise ValueError(f"{path}.{name} is there twice, as {_kind(own[name])} and as {_kind(value)}")
            own[name] = value
    return found


def _kind(value: Any) -> Any:
    return jax.tree.map(lambda leaf: f"{jax.numpy.result_type(leaf)}{list(np.shape(leaf))}", value)


def is_subset(*, subset: Structure, superset: Structure) -> bool:
    """Whether every name in ``subset`` is in ``superset`` too, whatever the values."""
    return all(name in superset.get(path, {}) for path, name, _ in traverse(subset))


def to_mutable_dict(structure: Structure) -> dict[str, dict[str, Any]]:
    """A copy in plain dicts, in the same order; arrays are shared."""
    return {path: dict(entries) for path, entries in structure.items()}


def tree_size(tree: Any) -> int:
    """How many numbers the arrays of a pytree hold."""
    return sum(int(np.prod(np.shape(leaf), dtype=np.int64)) for leaf in jax.tree.leaves(tree))


def tree_bytes(tree: Any) -> int:
    """How many bytes the arrays of a pytree take."""
    return sum(
        int(np.prod(np.shape(leaf), dtype=np.int64)) * jax.numpy.result_type(leaf).itemsize for leaf in jax.tree.leaves(tree)
    )
