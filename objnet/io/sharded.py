"""Saving a state dict as a folder of safetensors files in Hugging Face's layout.

A small model is ``model.safetensors``; a large one is ``model-00001-of-00003.safetensors``, ... and
``model.safetensors.index.json``, which names each key's file. Readers (transformers, and :func:`objnet.io.open_folder`) take
the single file if it is there, and else what the index names.

So one step decides which model a folder holds: a single file comes with its rename; shards, which no file of an older save is
overwritten for, come with the index's rename, or if there is a single file with its removal. All that is no longer part of
the model is removed after that step.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from objnet.io.atomic import atomic_write, sync_folder
from objnet.io.header import NAMES, lay_out
from objnet.io.safetensors import concrete_array, serialize
from objnet.io.sizes import in_bytes

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_SHARD = re.compile(r"model(\.\d+)?-\d{5,}-of-\d{5,}\.safetensors")
_FORMAT = {"format": "pt"}  # transformers refuses files that do not say so; the arrays are the same in any framework


def save_sharded(
    state_dict: Mapping[str, Any],
    folder: str | os.PathLike[str],
    max_shard_size: int | str = "5GB",
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Save arrays by name as a folder that ``from_pretrained`` and :func:`objnet.io.open_folder` read.

    Arrays fill shards in their order; one that is larger than a shard gets its own. A crash leaves a folder that loads as the
    old model or as the new one, whole. The first save of a sharded model has Hugging Face's file names; saving over it takes
    ``model.2-00001-of-...`` (so that nothing of the old is overwritten), and the first names again the next time. Other files in
    the folder are left alone. Two processes must not save to one folder at once.

    Args:
        state_dict: jax or numpy arrays or Parameters by key; at most one shard of them is copied to the host at a time.
        folder: is made if it is not there; its parent must be.
        max_shard_size: in bytes, or text such as ``"500MB"``.
        metadata: free text by name for the file, or for the index where there is one.

    Raises:
        TypeError, SafetensorError: as :func:`objnet.io.save_file`, before anything is written.
        ValueError: for a ``max_shard_size`` that is none, or metadata named ``total_size``.
        OSError: if the folder cannot be made or written.
    """
    if "total_size" in (metadata or {}):
        raise ValueError("metadata cannot be named 'total_size': the index has the size of all arrays there")
    shards = _split(state_dict, in_bytes(max_shard_size))
    path = os.fsdecode(folder)
    is_single = len(shards) == 1
    texts = {**_FORMAT, **(metadata or {})} if is_single else _FORMAT
    contents = [serialize(shard, texts, keep_order=True) for shard in shards]  # which checks, and does not convert yet
    index = None if is_single else _index(state_dict, shards, metadata)
    with suppress(FileExistsError):
        os.mkdir(path)
    names = [SINGLE] if is_single else _free_names(path, len(shards))
    for name, content in zip(names, contents, strict=True):
        with atomic_write(os.path.join(path, name)) as file:
            for buffer in content:
                file.write(buffer)
    if index is not None:
        index["weight_map"] = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
        with atomic_write(os.path.join(path, INDEX)) as file:
            file.write(json.dumps(index, indent=2, ensure_ascii=False).encode() + b"\n")
        _remove(path, [SINGLE])
    else:
        _remove(path, [INDEX])
    _remove(path, [name for name in os.listdir(path) if _SHARD.fullmatch(name) and name not in names])


def _split(state_dict: Mapping[str, Any], limit: int) -> list[dict[str, Any]]:
    shards: list[dict[str, Any]] = [{}]
    filled = 0
    for key, value in state_dict.items():
        size = _nbytes(key, value)
        if shards[-1] and filled + size > limit:
            shards.append({})
            filled = 0
        shards[-1][key] = value
        filled += size
    return shards


def _nbytes(key: str, value: Any) -> int:
    array = concrete_array(value, repr(key))
    name = NAMES.get(array.dtype.name)
    if name is None or not isinstance(key, str):
        return 0  # which is refused when the shard is made
    if name == "F4":  # packed
        return lay_out({key: (name, array.shape)})[key].stop
    return math.prod(array.shape) * array.dtype.itemsize


def _index(
    state_dict: Mapping[str, Any], shards: list[dict[str, Any]], metadata: Mapping[str, str] | None
) -> dict[str, dict[str, Any]]:
    for name, text in (metadata or {}).items():
        if not (isinstance(name, str) and isinstance(text, str)):
            raise TypeError(f"metadata must map str to str, got {name!r}: {text!r}")
    size = sum(_nbytes(key, value) for key, value in state_dict.items())
    return {"metadata": {"total_size": size, **(metadata or {})}}


def _free_names(folder: str, count: int) -> list[str]:
    """Names of shards of which the folder has none: a file of an older save stays what it is until its index is gone."""
    there = set(os.listdir(folder))
    for attempt in itertools.count(1):
        stem = "model" if attempt == 1 else f"model.{attempt}"
        names = [f"{stem}-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
        if there.isdisjoint(names):
            break
    return names


def _remove(folder: str, names: list[str]) -> None:
    removed = False
    for name in names:
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(folder, name))
            removed = True
    if removed:
        sync_folder(folder)
