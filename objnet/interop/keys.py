"""Names of arrays in three forms: Flax's nested dicts, torch's dotted keys, and Haiku's two-level dicts.

``{"fc": {"weight": w}}``, ``{"fc.weight": w}`` and ``{"fc": {"weight": w}}``; one level deeper ``{"net": {"fc": {"weight": w}}}``,
``{"net.fc.weight": w}`` and ``{"net/fc": {"weight": w}}`` (objnet's own pure form has ``"net.fc"``).  Everything that is no mapping
is a leaf; mappings without leaves vanish.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["flatten", "from_two_level", "to_two_level", "unflatten"]

ROOT = "~"  # where two-level dicts keep leaves that are in no module
Path = tuple[str, ...]


def leaves(tree: Mapping[str, Any], path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """(path, leaf) for everything in a nested mapping."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, (*path, name))
        else:
            yield (*path, name), value


def nested(entries: Any) -> dict[str, Any]:
    """The nested dict of (path, leaf) pairs.

    Raises:
        ValueError: a name stands for a leaf and for a dict, or twice.
    """
    tree: dict[str, Any] = {}
    nodes: dict[Path, dict[str, Any]] = {(): tree}
    for path, value in entries:
        for depth in range(1, len(path)):
            if path[:depth] not in nodes:
                nodes[path[:depth]] = _new(nodes[path[: depth - 1]], path[:depth], {})
        _new(nodes[path[:-1]], path, value)
    return tree


def _new(node: dict[str, Any], path: Path, value: Any) -> Any:
    if path[-1] in node:
        raise ValueError(f"{'.'.join(path)!r} is the name of two things, an array and what would hold others, or two arrays")
    node[path[-1]] = value
    return value


def flatten(tree: Mapping[str, Any], sep: str = ".") -> dict[str, Any]:
    """A nested mapping as one dict, the names on the way joined (``flax.traverse_util.flatten_dict``).

    Args:
        tree: nested mappings from names to leaves, such as ``variables["params"]``.
        sep: what joins the names: ``"."`` gives torch's keys.

    Raises:
        TypeError: a name that is no string, or ``tree`` is no mapping. ValueError: a name that holds ``sep``.
    """
    _check_mapping(tree)
    flat = {}
    for path, value in leaves(tree):
        _check_names(path, sep)
        flat[sep.join(path)] = value
    return flat


def unflatten(flat: Mapping[str, Any], sep: str = ".") -> dict[str, Any]:
    """The nested dict of a mapping from joined names to leaves; :func:`flatten` backwards.

    Args:
        flat: for instance a state dict.
        sep: what joins the names.

    Raises:
        TypeError: a name that is no string, or ``flat`` is no mapping. ValueError: ``a`` and ``a.b`` are both names.
    """
    _check_mapping(flat)
    for name in flat:
        _check_names((name,), None)
    return nested((tuple(name.split(sep)), value) for name, value in flat.items())


def to_two_level(tree: Mapping[str, Any], sep: str = "/") -> dict[str, dict[str, Any]]:
    """A nested mapping as a two-level dict, module path to name to leaf (Haiku's form); leaves in no module sit under ``"~"``.

    Args:
        tree: nested mappings from names to leaves.
        sep: what joins a module path: ``"/"`` for Haiku, ``"."`` for objnet's pure form.

    Raises:
        TypeError: a name that is no string, or ``tree`` is no mapping. ValueError: a name that holds ``sep``.
    """
    _check_mapping(tree)
    levels: dict[str, dict[str, Any]] = {}
    for path, value in leaves(tree):
        _check_names(path[:-1], sep)
        levels.setdefault(sep.join(path[:-1]) or ROOT, {})[path[-1]] = value
    return levels


def from_two_level(levels: Mapping[str, Mapping[str, Any]], sep: str = "/") -> dict[str, Any]:
    """The nested dict of a two-level mapping; :func:`to_two_level` backwards.

    Args:
        levels: module path to name to leaf, as Haiku and objnet's pure form have it.
        sep: what joins a module path.

    Raises:
        TypeError: if ``levels`` is no two-level mapping. ValueError: a name stands for a leaf and for a module.
    """
    return nested(two_level_leaves(levels, sep))


def two_level_leaves(levels: Mapping[str, Mapping[str, Any]], sep: str) -> Iterator[tuple[Path, Any]]:
    """(path, leaf) for everything in a two-level mapping."""
    _check_mapping(levels)
    for module, entries in levels.items():
        _check_names((module,), None)
        if not isinstance(entries, Mapping):
            raise TypeError(
                f"expected a two-level mapping, module path to name to array, got {type(entries).__name__} at {module!r}"
            )
        parts = () if module == ROOT else tuple(module.split(sep))
        for name, value in entries.items():
            yield (*parts, name), value


def _check_mapping(tree: Any) -> None:
    if not isinstance(tree, Mapping):
        raise TypeError(f"expected a mapping from names to arrays, got {type(tree).__name__}")


def _check_names(names: tuple[Any, ...], sep: str | None) -> None:
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"names are strings, got {name!r}")
        if sep is not None and sep in name:
            raise ValueError(f"the name {name!r} holds the separator {sep!r}: choose another with sep=...")
