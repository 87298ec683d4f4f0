"""A data set for workers: it imports no more than it needs."""

from __future__ import annotations

import sys

import numpy as np


def devices_started() -> bool:
    """Whether jax has started devices in this process."""
    bridge = sys.modules.get("jax._src.xla_bridge")
    return bridge is not None and bridge.backends_are_initialized()


class Squares:
    """Pairs of a vector of squares and whether devices have been started where it was made."""

    def __init__(self, count: int):
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> tuple[np.ndarray, bool]:
        return np.full(2, i * i, np.float32), devices_started()
