"""What feeds torch's ``DataLoader`` and numpy's arrays to compiled steps: collating, and moving to devices ahead of use."""

from __future__ import annotations

from objnet.data.collate import numpy_collate as numpy_collate
from objnet.data.prefetch import prefetch as prefetch

__all__ = ["numpy_collate", "prefetch"]
