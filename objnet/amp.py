"""torch.amp's names and arguments: :func:`autocast` with the device type first, and :class:`GradScaler`."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from objnet.core import autocast as _autocast
from objnet.optim.grad_scaler import GradScaler

__all__ = ["GradScaler", "autocast", "is_autocast_available"]

_DEVICE_TYPES = ("cpu", "cuda", "gpu", "rocm", "tpu", "xla")


def autocast(
    device_type: str, dtype: Any = None, enabled: bool = True, cache_enabled: bool | None = None
) -> AbstractContextManager[None]:
    """Run functionals in the precision each is safe in; see :func:`objnet.autocast`.

    Args:
        device_type: decides the default dtype alone: float16 for ``"cuda"`` and ``"gpu"``, bfloat16 for others.
        dtype: ``jnp.bfloat16`` or ``jnp.float16``.
        enabled: False turns an enclosing autocast off.
        cache_enabled: taken for torch's sake.

    Raises:
        ValueError: ``device_type`` is no string. RuntimeError: an unknown device type, another dtype.
    """
    if not isinstance(device_type, str):
        raise ValueError(f"Expected `device_type` of type `str`, got: `{type(device_type)}`")
    if not is_autocast_available(device_type):
        raise RuntimeError(
            f"User specified an unsupported autocast device_type {device_type!r}: it is one of {', '.join(_DEVICE_TYPES)}"
        )
    return _autocast.autocast(device_type, dtype, enabled, cache_enabled)


def is_autocast_available(device_type: str) -> bool:
    """Whether :func:`autocast` takes this device type (torch)."""
    return device_type.partition(":")[0] in _DEVICE_TYPES
