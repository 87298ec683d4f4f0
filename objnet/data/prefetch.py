"""``prefetch``: batches on the device before they are needed."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np

from objnet.core.arrays import narrowed
from objnet.core.foreign import is_torch_tensor, to_host_or_jax


class _Prefetch:
    """Batches of a source, moved ahead, anew at each iteration."""

    def __init__(self, batches: Iterable[Any], size: int, device: Any):
        self._batches, self._size, self._device = batches, size, device

    def __len__(self) -> int:
        return len(self._batches)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        # jax moves arrays asynchronously: what is asked for ahead travels while the program before runs. No thread is needed;
        # work that the dataset does itself is the DataLoader's workers' to do ahead.
        waiting: collections.deque[Any] = collections.deque()
        source = iter(self._batches)
        error: Exception | None = None
        while True:
            while error is None and len(waiting) < self._size:
                try:
                    waiting.append(self._put(next(source)))
                except Exception as found:  # Ctrl-C does not wait
                    error = found  # raised when the batches before it have been used
            if waiting:
                yield waiting.popleft()
            elif isinstance(error, StopIteration):
                return
            else:
                assert error is not None
                raise error

    def _put(self, batch: Any) -> Any:
        def put(path: Any, leaf: Any) -> Any:
            if own := is_torch_tensor(leaf):
                leaf = to_host_or_jax(leaf)  # a copy
            if not isinstance(leaf, (np.ndarray, np.generic, jax.Array, bool, int, float, complex)):
                return leaf  # text
            if isinstance(leaf, (np.ndarray, np.generic)):
                if leaf.dtype.kind in "OSUMm":
                    return leaf
                small = narrowed(leaf)
                # jax may take over the memory of an array, which the source may fill with its next batch
                leaf = np.array(small) if small is leaf and not own else small
            try:
                return jax.device_put(leaf, self._device)
            except ValueError as found:
                if isinstance(self._device, jax.sharding.Sharding):
                    fix = "use a batch size that divides, and drop_last=True" if np.ndim(leaf) else "give it a leading axis"
                    raise ValueError(
                        f"batch{jax.tree_util.keystr(path)} of shape {np.shape(leaf)} cannot be laid out as {self._device}: {fix}"
                    ) from found
                raise

        return jax.tree_util.tree_map_with_path(put, batch)


def prefetch(batches: Iterable[Any], size: int = 2, device: Any = None) -> Iterable[Any]:
    """``batches``, each put on the device while the ones before it are used.

    Args:
        batches: pytrees of numpy arrays, jax arrays, torch tensors or numbers, such as a ``DataLoader`` gives; other leaves stay.
        size: how many are on their way at a time.
        device: a ``jax.Device`` or ``jax.sharding.Sharding``; None for the default device.

    Returns:
        An iterable over the same batches in the same order, with the length of ``batches`` if that has one. What the source raises is
        raised in its place in that order.

    Raises:
        ValueError: for a size below 1; while iterating, naming what a sharding does not divide. IntegerRangeError: while iterating,
        64-bit integers that jax would wrap.
    """
    if size < 1:
        raise ValueError(f"size is a number of batches, 1 or more, got {size}")
    return _Prefetch(batches, size, device)
