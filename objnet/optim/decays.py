"""Powers of decays that lose no digits."""

from __future__ import annotations

import math


def log_decay(beta: float) -> float:
    """``log(beta)``, from which ``beta**t`` is ``exp(t * log(beta))`` and ``1 - beta**t`` is ``-expm1(t * log(beta))``.

    Raises:
        ValueError: for a negative number.
    """
    if beta < 0:
        raise ValueError(f"Invalid beta parameter: {beta}")
    return math.log(beta) if beta else -math.inf
