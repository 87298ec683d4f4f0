"""One checkpoint on disk: a folder with the arrays in safetensors files, and ``manifest.json`` which makes it complete.

``manifest.json`` is written last, and holds the format's version, the tree of everything that is no array, the size and SHA-256
of each file, and the SHA-256 of all this. The folder gets its name when all of it is on disk, so that a name stands for a whole
checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from objnet._version import __version__
from objnet.core import errors
from objnet.core.mapped import MappedArray, MappedFile
from objnet.io.atomic import sync_folder
from objnet.io.header import SafetensorError
from objnet.io.safetensors import SafetensorFile, serialize
from objnet.io.structure import decode

FORMAT = 1
_MANIFEST = "manifest.json"
_TEMPORARY = ".objnet-"  # what a killed writer leaves begins so


def write(
    folder: str, name: str, tree: str | None, arrays: Mapping[str, Any], shard_bytes: int, about: Mapping[str, Any]
) -> None:
    """Write a checkpoint into ``folder`` under ``name``, in place of what has that name, or leave everything as it was.

    Args:
        tree, arrays: what :func:`objnet.io.structure.encode` gives.
        shard_bytes: how large a file of arrays may become; an array that is larger has a file of its own.
        about: further entries of the manifest.

    Raises:
        OSError: if it cannot be written; the parts that were are removed.
    """
    temporary = os.path.join(folder, f"{_TEMPORARY}{secrets.token_hex(8)}.tmp")
    os.mkdir(temporary)
    try:
        files: dict[str, dict[str, Any]] = {}
        shards = _shards(arrays, shard_bytes)
        for number, keys in enumerate(shards, 1):
            file = f"arrays-{number:05d}-of-{len(shards):05d}.safetensors"
            buffers = serialize({key: arrays[key] for key in keys}, keep_order=True)
            files[file] = _write(os.path.join(temporary, file), buffers)
        manifest = {"format": FORMAT, "objnet": __version__, **about, "files": files, "structure": tree}
        manifest["sha256"] = _digest(manifest)
        _write(os.path.join(temporary, _MANIFEST), [json.dumps(manifest, allow_nan=False).encode()])
        sync_folder(temporary)
        if os.path.isdir(os.path.join(folder, name)):
            remove(folder, name)
        os.rename(temporary, os.path.join(folder, name))
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(folder)


def remove(folder: str, name: str) -> None:
    """Delete a checkpoint; it loses its name first, so that no half of it is ever taken for one."""
    gone = os.path.join(folder, f"{_TEMPORARY}{secrets.token_hex(8)}.old")
    os.rename(os.path.join(folder, name), gone)
    shutil.rmtree(gone, ignore_errors=True)


def clean(folder: str) -> None:
    """Delete what writers that were killed have left."""
    for name in os.listdir(folder):
        if name.startswith(_TEMPORARY):
            shutil.rmtree(os.path.join(folder, name), ignore_errors=True)


def exists(path: str) -> bool:
    """Whether a checkpoint is there."""
    return os.path.isfile(os.path.join(path, _MANIFEST))


def is_undamaged(path: str) -> bool:
    """Whether a checkpoint is there that may not be written over: not damaged, as far as this objnet knows its format.

    Raises:
        OSError: if it cannot be read.
    """
    try:
        StepFolder(path)
    except (FileNotFoundError, errors.DamagedCheckpointError):
        return False
    except errors.CheckpointError:
        pass
    return True


class StepFolder:
    """A checkpoint opened for reading, every file of it checked against the manifest.

    Raises:
        DamagedCheckpointError: listing all that is damaged or missing. CheckpointError: for a format this objnet does not know.
        OSError: if it cannot be read.
    """

    def __init__(self, path: str):
        self.path = path
        with open(os.path.join(path, _MANIFEST), "rb") as file:
            text = file.read()
        try:
            self.manifest: dict[str, Any] = json.loads(text)
            version, files = self.manifest["format"], self.manifest["files"]
            expected = {str(name): (int(entry["bytes"]), str(entry["sha256"])) for name, entry in files.items()}
            tree, digest = self.manifest["structure"], self.manifest.pop("sha256", None)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise errors.DamagedCheckpointError(f"{path} is damaged: {_MANIFEST} is no manifest ({error!r})") from error
        if version != FORMAT:
            raise errors.CheckpointError(
                f"{path} has format {version!r}, written by objnet {self.manifest.get('objnet')}; this is objnet {__version__}, "
                f"which reads format {FORMAT}: load it with that version"
            )
        if digest != _digest(self.manifest):
            raise errors.DamagedCheckpointError(
                f"{path} is damaged: {_MANIFEST} has SHA-256 {_digest(self.manifest)}, not {digest}"
            )
        problems = [problem for name, (size, digest) in expected.items() if (problem := _damage(path, name, size, digest))]
        if problems:
            listed = "\n  ".join(problems)
            raise errors.DamagedCheckpointError(f"{path} is damaged:\n  {listed}")
        self._tree = tree
        self._where: dict[str, tuple[SafetensorFile, MappedFile]] = {}
        for name in expected:
            mapped = MappedFile(os.path.join(path, name))
            opened = SafetensorFile(mapped.data, os.path.join(path, name))
            self._where.update(dict.fromkeys(opened.keys(), (opened, mapped)))

    def read(self, place: Callable[[np.ndarray[Any, Any]], Any]) -> Any:
        """What was saved.

        Args:
            place: makes of each array, a :class:`MappedArray`, the one to hand out; numpy's own come as copies.

        Raises:
            DamagedCheckpointError: if the tree does not fit the arrays.
        """
        if self._tree is None:
            return {name: place(self._get(name)) for name in self._where}
        try:
            return decode(self._tree, self._where, self._get, place)
        except SafetensorError as error:
            raise errors.DamagedCheckpointError(f"{self.path} is damaged: {error}") from error

    def _get(self, name: str) -> np.ndarray[Any, Any]:
        file, mapped = self._where[name]
        return MappedArray.of(file.get(name), mapped)

    def __enter__(self) -> StepFolder:
        return self

    def __exit__(self, *error: object) -> None:
        self._where = {}


def _shards(arrays: Mapping[str, Any], limit: int) -> list[list[str]]:
    """The keys of each file, in order."""
    shards: list[list[str]] = [[]]
    size = 0
    for key, array in arrays.items():
        if shards[-1] and size + array.nbytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(key)
        size += array.nbytes
    return shards


def _write(path: str, buffers: Sequence[bytes] | Iterator[Any]) -> dict[str, Any]:
    """Write a file to disk for good; its size and SHA-256."""
    digest, size = hashlib.sha256(), 0
    with open(path, "xb") as file:
        for buffer in buffers:
            file.write(buffer)
            digest.update(buffer)
            size += len(buffer)
        file.flush()
        os.fsync(file.fileno())
    return {"bytes": size, "sha256": digest.hexdigest()}


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest).encode()).hexdigest()


def _damage(folder: str, name: str, size: int, digest: str) -> str:
    """What is wrong with a file, or the empty string."""
    path = os.path.join(folder, name)
    if os.path.basename(name) != name or not os.path.isfile(path):
        return f"{name} is missing"
    if os.path.getsize(path) != size:
        return f"{name} has {os.path.getsize(path)} bytes, not {size}"
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    return "" if found == digest else f"{name} has SHA-256 {found}, not {digest}"
