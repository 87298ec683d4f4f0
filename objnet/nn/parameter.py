"""``Parameter`` and ``Buffer`` under torch's module name."""

from __future__ import annotations

from objnet.core.variable import Buffer, Parameter

__all__ = ["Buffer", "Parameter"]
