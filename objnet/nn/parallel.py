"""torch's ``nn.parallel``: classes that raise, naming what JAX has instead."""

from __future__ import annotations

from objnet.nn.torch_only import DataParallel, DistributedDataParallel

__all__ = ["DataParallel", "DistributedDataParallel"]
