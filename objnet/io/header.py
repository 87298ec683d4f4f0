"""The header of a safetensors file: what it can say, and the checks that make a stranger's header safe to believe."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from objnet.core.errors import SafetensorError, TorchFileError

MAX_HEADER_BYTES = 100_000_000
_ZIP = b"PK\x03\x04"
_MAX_RANK = 64  # numpy's own limits, past which a shape cannot be an array
_MAX_BYTES = 2**63 - 1

# The format's types by rising alignment: the order, reversed, in which their arrays lie in the data section.
# F6_* pack four numbers into three bytes in an order that the format does not define, so they have no numpy type here.
DTYPES: dict[str, np.dtype[Any] | None] = {
    "BOOL": np.dtype(bool),
    "F4": np.dtype(ml_dtypes.float4_e2m1fn),
    "F6_E2M3": None,
    "F6_E3M2": None,
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "F8_E4M3FNUZ": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "F8_E5M2FNUZ": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "I16": np.dtype("<i2"),
    "U16": np.dtype("<u2"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I32": np.dtype("<i4"),
    "U32": np.dtype("<u4"),
    "F32": np.dtype("<f4"),
    "C64": np.dtype("<c8"),
    "F64": np.dtype("<f8"),
    "I64": np.dtype("<i8"),
    "U64": np.dtype("<u8"),
}
NAMES = {dtype.name: name for name, dtype in DTYPES.items() if dtype is not None}
_ALIGNMENT = {name: rank for rank, name in enumerate(DTYPES)}
_BITS = {name: 8 * dtype.itemsize for name, dtype in DTYPES.items() if dtype is not None}
_BITS |= {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}


class TensorInfo(NamedTuple):
    """What a header says of one array: the format's dtype name, the shape, and its bytes within the data section."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


class Header(NamedTuple):
    """A header: arrays by key in the order it lists them, free text by name, and where in the file the data start."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]
    data_start: int


def lay_out(arrays: Mapping[str, tuple[str, Sequence[int]]]) -> dict[str, TensorInfo]:
    """Where arrays, given as dtype name and shape by key, go in the data section: widest dtype first, then by key."""
    layout: dict[str, TensorInfo] = {}
    position = 0
    for key in sorted(arrays, key=lambda key: (-_ALIGNMENT[arrays[key][0]], key)):
        name, shape = arrays[key]
        start, position = position, position + _byte_size(key, name, shape)
        layout[key] = TensorInfo(name, tuple(shape), start, position)
    return layout


def format_header(tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str] | None) -> bytes:
    """A header's bytes, its length before and spaces behind, so that the data start at a multiple of 8."""
    entries: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    for key, info in tensors.items():
        entries[key] = {"dtype": info.dtype, "shape": info.shape, "data_offsets": (info.start, info.stop)}
    try:
        text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        raise SafetensorError(f"a key or metadata holds a lone surrogate, which is no Unicode text: {error}") from None
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER_BYTES:
        raise SafetensorError(f"the header would take {len(text)} bytes; the format allows {MAX_HEADER_BYTES}")
    return len(text).to_bytes(8, "little") + text


def parse_header(data: np.ndarray[Any, Any], name: str) -> Header:
    """The header of a file given as bytes, every claim in it checked against the others and the file's size.

    Raises:
        SafetensorError: naming the file, for anything that is not in order.
        TorchFileError: if ``torch.save`` wrote the file.
    """
    size = len(data)
    if size < 8:
        raise SafetensorError(f"{name} is no safetensors file: of its first 8 bytes {8 - size} are missing")
    _refuse_torch(data[:9].tobytes(), name)
    length = int.from_bytes(data[:8].tobytes(), "little")
    if length > MAX_HEADER_BYTES:
        raise SafetensorError(f"{name} is no safetensors file: it claims a header of {length} bytes; 100 MB are allowed")
    data_start = 8 + length
    if data_start > size:
        raise SafetensorError(f"{name} is truncated: {data_start - size} of its header's {length} bytes are missing")
    try:
        entries = _parse_json(data[8:data_start].tobytes())
        metadata = _parse_metadata(entries.pop("__metadata__", {}))
        tensors = {key: _parse_tensor(key, entry) for key, entry in entries.items()}
        end = data_start + _check_coverage(tensors)
    except SafetensorError as error:
        raise SafetensorError(f"{name}: bad safetensors header: {error}") from None
    if end > size:
        raise SafetensorError(f"{name} is truncated: {end - size} of its {end} bytes are missing")
    if end < size:
        raise SafetensorError(f"{name}: {size - end} bytes follow the last array; its header accounts for {end} bytes")
    return Header(tensors, metadata, data_start)


def is_torch(head: bytes) -> bool:
    """Whether a file that begins with these 9 bytes is a zip archive or a pickle, as ``torch.save`` writes."""
    is_pickle = len(head) > 1 and head[0] == 0x80 and head[1] in range(2, 6)
    return (head.startswith(_ZIP) or is_pickle) and head[8:9] != b"{"  # a safetensors file of such a length has its brace there


def _refuse_torch(head: bytes, name: str) -> None:
    if is_torch(head):
        raise TorchFileError(
            f"{name} is a {'zip archive' if head.startswith(_ZIP) else 'pickle'}, as torch.save writes (.pt, .pth, .bin), and no "
            "safetensors file; objnet.load(path) reads it, and objnet.io.save_file(objnet.load(path), 'model.safetensors') "
            "makes one of it"
        )


def _parse_json(text: bytes) -> dict[str, Any]:
    if not text.startswith(b"{"):
        raise SafetensorError(f"it must begin with '{{', not {text[:1]!r}")
    try:
        return dict(json.loads(text.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant))
    except SafetensorError:
        raise
    except UnicodeDecodeError as error:
        raise SafetensorError(f"not UTF-8: {error}") from None
    except ValueError as error:  # JSONDecodeError, and integers of thousands of digits
        raise SafetensorError(f"not JSON: {error}") from None
    except RecursionError:
        raise SafetensorError("nested too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for key, value in pairs:
        _check_text(key)
        if key in entries:
            raise SafetensorError(f"{key!r} is there twice")
        entries[key] = value
    return entries


def _refuse_constant(text: str) -> None:
    raise SafetensorError(f"not JSON: {text}")


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise SafetensorError(f"{text!r} holds a lone surrogate, which is no Unicode text") from None


def _parse_metadata(metadata: Any) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise SafetensorError("__metadata__ must map str to str")
    for text in metadata.values():
        _check_text(text)
    return metadata


def _parse_tensor(key: str, entry: Any) -> TensorInfo:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise SafetensorError(f"{key!r} must have dtype, shape and data_offsets, and nothing else")
    name, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(name, str) or name not in DTYPES:
        raise SafetensorError(f"{key!r} has an unknown dtype {name!r}; known are {', '.join(DTYPES)}")
    if not _are_sizes(shape):
        raise SafetensorError(f"the shape of {key!r} must be a list of non-negative integers")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise SafetensorError(f"the data_offsets of {key!r} must be two non-negative integers")
    start, stop = offsets
    nbytes = _byte_size(key, name, shape)
    if stop - start != nbytes:
        raise SafetensorError(f"{key!r} has {stop - start} bytes, but shape {shape} of {name} takes {nbytes}")
    return TensorInfo(name, tuple(shape), start, stop)


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _byte_size(key: str, name: str, shape: Sequence[int]) -> int:
    if len(shape) > _MAX_RANK:
        raise SafetensorError(f"{key!r} has {len(shape)} dimensions, more than {_MAX_RANK}")
    # numpy counts zeros as ones when it checks that a shape can be addressed
    if math.prod(extent or 1 for extent in shape) * max(_BITS[name] // 8, 1) > _MAX_BYTES:
        raise SafetensorError(f"the shape of {key!r} is too large")
    bits = math.prod(shape) * _BITS[name]
    if bits % 8:
        raise SafetensorError(f"{key!r}: shape {list(shape)} of {name} does not fill whole bytes")
    return bits // 8


def _check_coverage(tensors: Mapping[str, TensorInfo]) -> int:
    """The size of the data section, which the arrays must fill from its start, one right after the other."""
    position = 0
    for key, info in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)):
        if info.start != position:
            fault = "overlaps the array before it" if info.start < position else "leaves a hole before it"
            raise SafetensorError(f"{key!r} {fault}: it starts at byte {info.start}, not {position}")
        position = info.stop
    return position
