"""How precisely matrix products are taken.

torch computes float32 matrix products and convolutions in float32 unless told otherwise; XLA's default falls to TF32 or
bfloat16 passes on accelerators.  Every product in objnet passes :func:`matmul_precision`, so float32 means float32.
"""

from __future__ import annotations

import jax
from jax import lax

from objnet.core import epoch

_LEVELS = {"highest": lax.Precision.HIGHEST, "high": lax.Precision.HIGH, "medium": lax.Precision.DEFAULT}
_level = "highest"


def set_float32_matmul_precision(precision: str) -> None:
    """Set how float32 matrix products and convolutions are taken (torch's ``set_float32_matmul_precision``).

    Args:
        precision: ``"highest"`` (float32, the default), ``"high"`` (TF32 or three bfloat16 passes) or ``"medium"``
            (one bfloat16 pass where the hardware prefers it).

    Raises:
        RuntimeError: for any other value, as torch.
    """
    global _level
    if precision not in _LEVELS:
        raise RuntimeError(f"Float32 matmul precision must be one of {sorted(_LEVELS)}, got {precision!r}")
    if precision != _level:
        _level = precision
        epoch.advance()  # compiled programs baked the old level in


def get_float32_matmul_precision() -> str:
    """The level set by :func:`set_float32_matmul_precision`."""
    return _level


def matmul_precision(*arrays: jax.Array) -> lax.Precision | None:
    """The ``precision=`` to hand to ``jnp.matmul``, ``lax.dot_general``, ``lax.conv_general_dilated`` for these operands."""
    return None if any(a.dtype.itemsize < 4 for a in arrays) else _LEVELS[_level]
