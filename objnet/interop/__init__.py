"""Models of other libraries in objnet, and objnet's models in them; each library is an extra, imported when its bridge is.

``interop.flax`` needs ``pip install 'objnet[flax]'``, ``interop.haiku`` needs ``pip install 'objnet[haiku]'``. The conversions of
keys (:mod:`objnet.interop.keys`) need neither.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from objnet.interop import keys

if TYPE_CHECKING:
    from objnet.interop import flax, haiku

__all__ = ["flax", "haiku", "keys"]


def __getattr__(name: str) -> Any:
    if name in ("flax", "haiku"):
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
