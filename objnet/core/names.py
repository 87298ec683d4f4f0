"""What code names: the globals and attributes it loads, the globals it assigns, the modules it imports."""

from __future__ import annotations

import dis
import functools
import importlib.util
import types
from typing import NamedTuple


class Names(NamedTuple):
    """What a code object and the code nested in it name: globals, attributes, globals it assigns, (level, module) it imports."""

    loaded: tuple[str, ...]
    attributes: tuple[str, ...]
    stored: tuple[str, ...]
    imported: tuple[tuple[int, str], ...]


@functools.lru_cache(maxsize=4096)
def names_in(code: types.CodeType) -> Names:
    loaded: dict[str, None] = {}
    attributes: dict[str, None] = {}
    stored: dict[str, None] = {}
    imported: dict[tuple[int, str], None] = {}
    instructions = list(dis.get_instructions(code))
    for index, instruction in enumerate(instructions):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            loaded[instruction.argval] = None
        elif instruction.opname in ("LOAD_ATTR", "LOAD_METHOD", "IMPORT_FROM"):
            attributes[instruction.argval] = None
        elif instruction.opname == "STORE_GLOBAL":
            stored[instruction.argval] = None
        elif instruction.opname == "IMPORT_NAME":  # after the level and the names to import from it
            imported[instructions[index - 2].argval, instruction.argval] = None
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            for mine, inner in zip((loaded, attributes, stored, imported), names_in(constant), strict=True):
                mine.update(dict.fromkeys(inner))
    return Names(tuple(loaded), tuple(attributes), tuple(stored), tuple(imported))


def modules(name: str, package: str | None) -> list[str]:
    """The full names of an imported module and those it is in; none for a relative one outside of a package."""
    try:
        parts = importlib.util.resolve_name(name, package or "").split(".")
    except ImportError:
        return []
    return [".".join(parts[: i + 1]) for i in range(len(parts))]
