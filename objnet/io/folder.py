"""Reading a folder of weights as one lazy mapping: safetensors or torch files, sharded or not."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from objnet.core.errors import FolderError, SafetensorError
from objnet.core.mapped import LazyMapping, MappedArray, MappedFile
from objnet.core.placement import place
from objnet.io.header import DTYPES, is_torch
from objnet.io.placing import to_jax
from objnet.io.safetensors import SafetensorFile
from objnet.io.torch_file import read_torch

# By precedence, as transformers looks for them: a single file, or the index that names several.
_LAYOUTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_MAX_INDEX_BYTES = 2**28
_Array = np.ndarray[Any, Any]


def open_folder(path: str | os.PathLike[str]) -> WeightsFolder:
    """Open a folder of weights, as :func:`save_sharded`, ``save_pretrained`` and the Hugging Face hub have them.

    Takes the first of ``model.safetensors``, ``model.safetensors.index.json``, ``pytorch_model.bin`` and
    ``pytorch_model.bin.index.json`` that is there.

    Args:
        path: the folder.

    Raises:
        FileNotFoundError, NotADirectoryError: if there is no such folder, or none of these files.
        FolderError: listing every shard that is missing or damaged, every key that is not in the file the index names for it,
            and every entry that points outside of the folder.

    Example::

        model.load_state_dict(open_folder("llama"))  # reads one array at a time, each straight to its devices
    """
    folder = os.fsdecode(path)
    names = os.listdir(folder)
    layout = next((name for name in _LAYOUTS if name in names), None)
    if layout is None:
        raise FileNotFoundError(f"{folder} holds no weights: none of {', '.join(_LAYOUTS)} is there")
    full = os.path.join(folder, layout)
    if not layout.endswith(".json"):
        return WeightsFolder({**_open_shard(full)})
    weight_map = _read_index(full)
    problems: list[str] = []
    shards: dict[str, dict[str, _Entry]] = {}
    for name in dict.fromkeys(weight_map.values()):
        if not _is_inside(name):
            problems.append(f"the index points outside of the folder: {name!r:.200}")
            continue
        try:
            shards[name] = _open_shard(os.path.join(folder, name))
        except FileNotFoundError:
            problems.append(f"{name} is missing: download or copy it again")
        except (SafetensorError, OSError) as error:
            problems.append(f"{name} cannot be read: {error}")
    for key, name in weight_map.items():
        if name in shards and key not in shards[name]:
            problems.append(f"{key!r} is not in {name}, where the index has it")
    if problems:
        raise FolderError(f"{full}: {len(problems)} faults:\n  " + "\n  ".join(problems))
    return WeightsFolder({key: shards[name][key] for key, name in weight_map.items()})


class _Entry:
    """One array of a file: what is known of it, and how to get its read-only view."""

    __slots__ = ("struct", "view")

    def __init__(self, shape: tuple[int, ...], dtype: Any, view: Callable[[], _Array]) -> None:
        self.struct, self.view = jax.ShapeDtypeStruct(shape, dtype), view


class WeightsFolder(LazyMapping):
    """A read-only mapping from keys to arrays in files, of which nothing is read until it is used. :func:`open_folder` makes one.

    ``folder[key]`` is a read-only numpy view of the memory-mapped file, for reading parts of it; :meth:`get_array` gives a jax
    array of its own. ``load_state_dict`` takes the whole.
    """

    def __init__(self, entries: dict[str, _Entry]) -> None:
        self._entries: dict[str, _Entry] | None = entries

    def __getitem__(self, key: str) -> _Array:
        return self._open()[key].view()

    def __contains__(self, key: object) -> bool:
        return key in self._open()

    def __iter__(self) -> Iterator[str]:
        return iter(self._open())

    def __len__(self) -> int:
        return len(self._open())

    def structs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and dtype by key; nothing is read."""
        return {key: entry.struct for key, entry in self._open().items()}

    def get_array(self, key: str, sharding: Any = None, dtype: Any = None) -> Any:
        """One array as a copy; the memory that reading the file took is let go of.

        Args:
            key: which.
            sharding: a device or sharding to put it on; with a sharding over several devices only the slices of this
                process's are read.
            dtype: to cast to; the file's if None.

        Returns:
            A jax array. Without ``sharding`` and ``dtype``, a numpy array where jax would narrow the dtype (int64, float64, ...
            without ``jax_enable_x64``), as :func:`objnet.load`.

        Raises:
            KeyError: for an unknown key.
            ValueError: for a dtype that jax would narrow; give one it has.
        """
        view = self[key]
        try:
            if sharding is None and dtype is None:
                return to_jax(view)
            wanted = jnp.dtype(view.dtype if dtype is None else dtype)
            if jax.dtypes.canonicalize_dtype(wanted) != wanted:
                raise ValueError(
                    f"{key!r} would be {wanted}, which jax narrows: pass dtype={jax.dtypes.canonicalize_dtype(wanted)} "
                    "or turn jax_enable_x64 on"
                )
            return place(view, wanted, sharding)
        finally:
            if isinstance(view, MappedArray):
                view.release()

    def close(self) -> None:
        """Let go of the files; each is unmapped when the last view of it is gone."""
        self._entries = None

    def __enter__(self) -> WeightsFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<WeightsFolder, {'closed' if self._entries is None else f'{len(self._entries)} arrays'}>"

    def _open(self) -> dict[str, _Entry]:
        if self._entries is None:
            raise ValueError("this folder of weights is closed")
        return self._entries


def _open_shard(path: str) -> dict[str, _Entry]:
    mapped = MappedFile(path)
    if is_torch(bytes(mapped.data[:9])):
        return _torch_entries(mapped, path)
    file = SafetensorFile(mapped.data, path)

    def view(key: str) -> Callable[[], _Array]:
        return lambda: MappedArray.of(file.get(key), mapped)

    entries: dict[str, _Entry] = {}
    for key, info in file.header.tensors.items():
        dtype = DTYPES[info.dtype]
        if dtype is None:
            raise SafetensorError(f"{path}: {key!r} has dtype {info.dtype}, whose packing the format does not define")
        entries[key] = _Entry(info.shape, dtype, view(key))
    return entries


def _torch_entries(mapped: MappedFile, name: str) -> dict[str, _Entry]:
    state = read_torch(mapped.data, name, lambda array: MappedArray.of(array, mapped))
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, MappedArray) for k, v in state.items()):
        raise SafetensorError(f"{name} is no flat dict of tensors by name; read it with objnet.load(path) and pick the part")
    return {key: _Entry(array.shape, array.dtype, lambda array=array: array) for key, array in state.items()}  # type: ignore[misc]


def _read_index(path: str) -> dict[str, str]:
    if os.path.getsize(path) > _MAX_INDEX_BYTES:
        raise FolderError(f"{path} is far too large for an index")
    try:
        with open(path, encoding="utf-8") as file:
            index = json.load(file)
        weight_map = index["weight_map"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FolderError(f"{path} is no index: {type(error).__name__}: {error}") from error
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise FolderError(f"{path} is no index: weight_map must name a file for every key")
    return weight_map


def _is_inside(name: str) -> bool:
    """Whether a name stays in the folder. Where a link in it leads does not matter: the hub's caches consist of links."""
    parts = name.replace("\\", "/").split("/")
    return not ("\0" in name or ":" in name or os.path.isabs(name) or any(part in ("", ".", "..") for part in parts))
