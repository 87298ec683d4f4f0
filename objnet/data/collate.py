"""``numpy_collate``: samples to a batch of numpy arrays (torch's ``default_collate``, without tensors).

It runs in a ``DataLoader``'s workers: it asks jax for nothing, so that none of them starts a device.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np

from objnet.core.foreign import to_host_or_jax


def numpy_collate(batch: Sequence[Any]) -> Any:
    """Stack samples: ``DataLoader(dataset, batch_size=32, collate_fn=objnet.data.numpy_collate)``.

    With ``num_workers`` also pass ``multiprocessing_context="spawn"`` or ``"forkserver"``: jax has threads, which a fork does
    not survive.

    Args:
        batch: samples of one structure: numpy or jax arrays, torch tensors, numbers, text, in dicts, named tuples, tuples and lists.

    Returns:
        That structure, each array with one more leading axis; numbers as arrays of int64 and float64 (which jax narrows when it
        takes them, unless 64 bits are enabled), text as lists. Tuples stay tuples, where torch makes lists of them.

    Raises:
        TypeError: for anything else. ValueError: naming the place of what does not stack.
    """
    samples = list(batch)
    if not samples:
        raise ValueError("there is no sample to collate")
    return _collate(samples, "")


def _collate(samples: list[Any], path: str) -> Any:
    first = samples[0]
    if isinstance(first, (str, bytes)):
        return samples
    if isinstance(first, Mapping):
        for sample in samples:
            if not isinstance(sample, Mapping) or sample.keys() != first.keys():
                keys = sorted(map(str, sample)) if isinstance(sample, Mapping) else type(sample).__name__
                raise ValueError(f"samples{path} do not have the same keys: {sorted(map(str, first))} and {keys}")
        joined = {key: _collate([sample[key] for sample in samples], f"{path}[{key!r}]") for key in first}
        if isinstance(first, MutableMapping) and type(first) is not dict:
            like = copy.copy(first)  # as torch: with what else it holds, such as a default
            like.update(joined)
            return like
        return joined if type(first) is dict else type(first)(joined)  # type: ignore[call-arg]
    if isinstance(first, (tuple, list)):
        for sample in samples:
            if not isinstance(sample, (tuple, list)) or len(sample) != len(first):
                found = len(sample) if isinstance(sample, (tuple, list)) else type(sample).__name__
                raise ValueError(f"samples{path} are not equally long: {len(first)} and {found}")
        joined_list = [_collate(list(column), f"{path}[{i}]") for i, column in enumerate(zip(*samples, strict=True))]
        if hasattr(first, "_fields"):
            return type(first)(*joined_list)
        return tuple(joined_list) if isinstance(first, tuple) else joined_list
    arrays = [_array(sample, path) for sample in samples]
    for i, array in enumerate(arrays):
        if array.shape != arrays[0].shape:
            raise ValueError(
                f"samples{path} have different shapes, {arrays[0].shape} and {array.shape} (numbers 0 and {i} of the batch): pad or "
                "crop them in the dataset, or in a collate_fn of your own"
            )
    return np.stack(arrays)


def _array(sample: Any, path: str) -> np.ndarray[Any, Any]:
    try:
        array = np.asarray(sample if isinstance(sample, np.ndarray) else to_host_or_jax(sample))
    except TypeError:
        array = np.asarray(sample) if hasattr(sample, "__array__") else None
    if array is not None and array.dtype.kind not in "OSUMm":  # objects, text and dates are no numbers
        return array
    raise TypeError(
        f"samples{path} are {type(sample).__module__}.{type(sample).__qualname__}: numpy_collate takes arrays, numbers and text, in "
        "dicts, tuples and lists"
    )
