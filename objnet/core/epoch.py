"""One integer that moves whenever something static about any model may have changed.

A compiled call compares it with the value it saw last and, in the common case, looks no further: attributes of modules,
modes, ``requires_grad``, hooks and global settings all advance it.
"""

from __future__ import annotations

_epoch = 0


def advance() -> None:
    """Note that something compiled programs may have baked in has changed."""
    global _epoch
    _epoch += 1


def current() -> int:
    """The value to compare with later."""
    return _epoch
