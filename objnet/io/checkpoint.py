"""``save`` and ``load``: what ``torch.save`` and ``torch.load`` are used for, in safetensors files and without pickle.

A flat dict of arrays by name, such as ``model.state_dict()``, becomes a plain safetensors file with just those keys,
which any safetensors reader takes; and any safetensors file loads as such a dict. Anything nested, such as
``{"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3, "rng": objnet.get_rng_state()}``, is a
safetensors file too: its arrays under dotted keys, and the rest, exactly, as JSON in the file's metadata.

What can be saved: jax arrays (typed keys of ``jax.random`` as well), numpy arrays and scalars, the values of
Parameters, ``None``, ``bool``, ``int``, ``float``, ``str`` and ``bytes``; in ``list``, ``tuple``, ``dict``,
``OrderedDict`` and ``Counter``, whose keys may be ``str``, ``int``, ``float``, ``bool``, ``None`` and tuples of these.

What comes back: equal objects of the same types, with two exceptions. Every array is a jax array on the default device,
except that one of a dtype jax would narrow (int64, uint64, float64, complex128 where ``jax_enable_x64`` is off) is a
numpy array, so that no value changes. And a flat ``OrderedDict`` of arrays comes as a ``dict``, in its order. An array
saved under several names is stored under each, and comes back as several arrays.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

from objnet.core.placement import named_device
from objnet.io.atomic import atomic_write
from objnet.io.header import SafetensorError, is_torch
from objnet.io.placing import to_jax as to_jax
from objnet.io.safetensors import SafetensorFile, read_or_map, serialize
from objnet.io.structure import decode, encode
from objnet.io.torch_file import read_torch

_STRUCTURE = "objnet.structure"


def save(obj: Any, path: str | os.PathLike[str] | BinaryIO, metadata: Mapping[str, str] | None = None) -> None:
    """Save a state dict, or any nested structure of arrays and plain Python values, to one file (as ``torch.save``).

    An existing file is replaced only when the new one is complete on disk: a crash leaves the old one whole.

    Args:
        obj: what to save; see the module for what it may hold.
        path: the file, or a binary file object open for writing.
        metadata: free text by name to put into the file, such as ``{"format": "pt"}``;
            ``objnet.io.open_file(path).metadata()`` gives it back.

    Raises:
        TypeError: naming the place, for a Module or optimizer (pass its ``.state_dict()``), a named tuple or any other
            type that would not come back as it was; for an array inside ``jit``; for metadata that is not text.
        ValueError: for an object that contains itself, or metadata named ``objnet.structure``.
        OSError: as :func:`objnet.io.atomic.atomic_write`.
    """
    if metadata is not None and _STRUCTURE in metadata:
        raise ValueError(f"metadata cannot be named {_STRUCTURE!r}: the structure of what is saved goes there")
    structure, arrays = encode(obj)
    if structure is not None:
        metadata = {**(metadata or {}), _STRUCTURE: structure}
    buffers = serialize(arrays, metadata, keep_order=True)
    if hasattr(path, "write"):
        _write(buffers, path)
    else:
        with atomic_write(path) as file:
            _write(buffers, file)


def load(path: str | os.PathLike[str] | BinaryIO, map_location: Any = None, *, weights_only: bool | None = None) -> Any:
    """Load what :func:`save` or ``torch.save`` saved, or any safetensors file as a flat dict of arrays by name.

    Files of torch are read without torch, and nothing in them is run; :func:`objnet.io.load_torch` says what comes of them.

    Args:
        path: the file, or a binary file object open for reading, which is read to its end.
        map_location: the device (a ``jax.Device``, ``"cpu"``, ``"cuda:1"``) or sharding to put arrays on; None for the default one.
        weights_only: torch's; True or None, for nothing in a file is ever run.

    Returns:
        The saved object. Arrays are copies, independent of the file; see the module for their types.

    Raises:
        FileNotFoundError: if there is no such file. ValueError: for ``weights_only=False``. RuntimeError: for a device that is not
        there.
        SafetensorError: if the file is damaged or cut short, or is neither a safetensors file nor one of torch.
        TorchFileError: if it is a file of torch that is damaged, or holds anything but tensors, containers and plain values.
    """
    if weights_only is not None and not weights_only:
        raise ValueError(
            "load(weights_only=False) would run code that a file holds: only arrays and plain values are read here. Load such a file "
            "with torch, and save the state dicts in it again"
        )
    if callable(map_location) or isinstance(map_location, Mapping):
        raise TypeError("load takes one device or sharding as map_location; move arrays with jax.device_put afterwards")
    put = functools.partial(to_jax, device=named_device(map_location))
    data, name = read_or_map(path)
    if is_torch(bytes(data[:9])):
        return read_torch(data, name, put)
    opened = SafetensorFile(data, name)
    with opened as file:
        structure = file.metadata().get(_STRUCTURE)
        if structure is None:
            return {key: put(file.get(key)) for key in file.header.tensors}
        try:
            return decode(structure, file.header.tensors, file.get, put)
        except SafetensorError as error:
            raise SafetensorError(f"{name}: {error}") from error


def _write(buffers: Iterable[bytes | memoryview], file: Any) -> None:
    for buffer in buffers:
        rest = memoryview(buffer)
        while rest:  # an unbuffered file may take a part only
            written = file.write(rest)
            rest = rest[len(rest) if written is None else written :]
