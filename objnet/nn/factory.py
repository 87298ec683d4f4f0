"""Arguments that every layer's constructor takes."""

from __future__ import annotations

from typing import Any

_KEYS = ("device", "dtype", "memory_format")


def factory_kwargs(kwargs: dict[str, Any] | None) -> dict[str, Any]:
    """``device``, ``dtype`` and ``memory_format`` of a constructor's keyword arguments (torch's ``nn.factory_kwargs``).

    A dict under ``factory_kwargs`` adds those that would clash with arguments of the same name.

    Raises:
        TypeError: another keyword, or one given in both places.
    """
    if kwargs is None:
        return {}
    unknown = kwargs.keys() - {*_KEYS, "factory_kwargs"}
    if unknown:
        raise TypeError(f"unexpected kwargs {unknown}: a layer's factory takes {', '.join(_KEYS)}")
    found = dict(kwargs.get("factory_kwargs", {}))
    for key in _KEYS:
        if key in kwargs and key in found:
            raise TypeError(f"{key} is given twice: as a keyword and in factory_kwargs")
        if key in kwargs:
            found[key] = kwargs[key]
    unknown = found.keys() - set(_KEYS)
    if unknown:
        raise TypeError(f"unexpected kwargs {unknown} in factory_kwargs: a layer's factory takes {', '.join(_KEYS)}")
    return found
