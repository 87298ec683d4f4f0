"""Host arrays on their way to devices: one copy, cast on the way, straight to where it belongs."""

from __future__ import annotations

import mmap
from typing import Any

import jax
import numpy as np

from objnet.core.mapped import MappedArray

_ALIGNMENT = 64  # at an address that is a multiple of it, XLA on CPU takes host memory over as it is
# From this size on memory comes from the kernel, and goes back to it as soon as it is free. malloc would keep blocks of up to
# 32 MB, and numpy asks for huge pages, which take up to three times as long to get where there are few.
_OWN_PAGES = 2**20
_PRIVATE: dict[str, Any] = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_ANONYMOUS") else {}


def place(array: np.ndarray[Any, Any], dtype: Any, sharding: Any = None) -> jax.Array:
    """A copy of a host array as a jax array; of a memory-mapped one only what this process's devices hold is read.

    Args:
        array: any shape, dtype and memory layout.
        dtype: one that jax does not narrow; numpy's casting, whose errors ``np.errstate`` decides on.
        sharding: a device or sharding; the default device, uncommitted, where it is None.
    """
    # jnp.array would compile a program for every new shape (10 ms each); device_put compiles nothing.
    with jax.ensure_compile_time_eval():
        if sharding is None or isinstance(sharding, jax.Device) or len(sharding.device_set) == 1:
            return jax.device_put(_aligned_copy(array, dtype), sharding)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: _aligned_copy(array[index], dtype))


def named_device(device: Any) -> Any:
    """The device that torch's ``"cpu"`` or ``"cuda:1"`` names here; anything but text is given back.

    Raises:
        RuntimeError: there is none.
    """
    if not isinstance(device, str):
        return device
    platform, _, index = device.partition(":")
    platform = {"cuda": "gpu"}.get(platform, platform)
    try:
        return jax.devices(platform)[int(index or 0)]
    except (RuntimeError, IndexError, ValueError) as error:
        raise RuntimeError(f"there is no device {device!r} here; jax.devices() gives {jax.devices()}") from error


def _aligned_copy(array: np.ndarray[Any, Any], dtype: Any) -> np.ndarray[Any, Any]:
    dtype = np.dtype(dtype)
    copy = _room(array.size * dtype.itemsize).view(dtype).reshape(array.shape)
    if not (isinstance(array, MappedArray) and array.read_into(copy)):
        np.copyto(copy, array, casting="unsafe")
    return copy


def _room(nbytes: int) -> np.ndarray[Any, Any]:
    if nbytes >= _OWN_PAGES:
        return np.frombuffer(mmap.mmap(-1, nbytes, **_PRIVATE), np.uint8)
    room = np.empty(nbytes + _ALIGNMENT, np.uint8)
    start = -room.ctypes.data % _ALIGNMENT
    return room[start : start + nbytes]


def committed_sharding(variable: Any) -> Any:
    """Where the value of a Variable was put, or where that of one without values is to be; None if it was left to jax."""
    value = variable._peek()
    if isinstance(value, jax.Array) and not isinstance(value, jax.core.Tracer):
        return value.sharding if value.committed else None
    return getattr(variable, "_device", None)
