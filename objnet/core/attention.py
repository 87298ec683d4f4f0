"""Which ways of computing attention are allowed: a setting that compiled programs bake in, like the matmul precision."""

from __future__ import annotations

import enum
from collections.abc import Collection

from objnet.core import epoch


class SDPBackend(enum.IntEnum):
    """Ways of computing attention, by torch's names and numbers (``torch.nn.attention.SDPBackend``).

    MATH is two products with the whole matrix of weights between them, differentiable any number of times and ways.
    EFFICIENT_ATTENTION takes heads and blocks of queries one by one and keeps no such matrix, and so does
    FLASH_ATTENTION on CPU.  On GPUs FLASH_ATTENTION and CUDNN_ATTENTION are cuDNN's.
    """

    ERROR = -1
    MATH = 0
    FLASH_ATTENTION = 1
    EFFICIENT_ATTENTION = 2
    CUDNN_ATTENTION = 3
    OVERRIDEABLE = 4


_ALL = frozenset(SDPBackend) - {SDPBackend.ERROR}
_enabled = _ALL


def enabled() -> frozenset[SDPBackend]:
    """The ways allowed now, all unless something else was set."""
    return _enabled


def enable(backends: Collection[SDPBackend]) -> None:
    """Allow these ways and no others."""
    global _enabled
    if frozenset(backends) != _enabled:
        _enabled = frozenset(backends)
        epoch.advance()
