"""Checks of hyper-parameters that optimizers have in common, with torch's messages."""

from __future__ import annotations

from typing import Any


def at_least_zero(what: str, value: Any) -> None:
    """Raise ValueError for a negative number or NaN."""
    if not value >= 0.0:
        raise ValueError(f"Invalid {what}: {value}")


def check_betas(betas: tuple[float, float]) -> None:
    """Raise ValueError unless both decays are in [0, 1)."""
    for i, beta in enumerate(betas):
        if not 0.0 <= beta < 1.0:
            raise ValueError(f"Invalid beta parameter at index {i}: {beta}")
