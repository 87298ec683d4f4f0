"""Nested Python objects as arrays by name and a JSON tree of everything else: a pickle's job without a pickle's code.

In the tree ``None``, ``bool``, ``str``, small ``int`` and finite ``float`` stand for themselves, and a JSON list is a
list. Everything else is a JSON object that says what it is, such as ``{"tuple": [...]}``, ``{"dict": [[key, value]]}``
or ``{"array": "model.fc.weight"}``, which names an array stored beside the tree; ``"numpy"`` beside that says that it is to come
back as numpy's.
"""

from __future__ import annotations

import json
import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from objnet.io.header import SafetensorError
from objnet.io.safetensors import concrete_array, is_storable, type_name

_VERSION = 1
_MAX_DEPTH = 100  # keeps the tree well within Python's own recursion limit when it is read
_EXACT_INT = 2**53  # larger ones are written as text: other JSON readers round them
# Types of numpy and jax arrays that the file format lacks; their arrays are stored as bytes along one more axis.
_AS_BYTES = {
    dtype.name: dtype
    for dtype in map(
        np.dtype,
        (
            np.complex128,
            ml_dtypes.int2,
            ml_dtypes.int4,
            ml_dtypes.uint2,
            ml_dtypes.uint4,
            ml_dtypes.float8_e3m4,
            ml_dtypes.float8_e4m3,
            ml_dtypes.float8_e4m3b11fnuz,
        ),
    )
}
_Path = tuple[Any, ...]
_Array = np.ndarray[Any, Any]


def encode(value: Any, mark_numpy: bool = False) -> tuple[str | None, dict[str, Any]]:
    """Take a nested object apart.

    Args:
        mark_numpy: whether numpy arrays and scalars come back as such, and not as jax arrays.

    Returns:
        The tree as JSON text, or None for a flat dict of arrays by text, which needs none; and the arrays, named by
        their keys joined by dots.

    Raises:
        TypeError: naming the place, for an object of any other type than those :mod:`objnet.io.checkpoint` lists.
        ValueError: for nesting of over 100 levels, or without end.
    """
    encoder = _Encoder(mark_numpy)
    root = encoder.encode(value, ())
    flat = [[name, {"array": name}] for name in encoder.arrays]
    if root in ({"dict": flat}, {"ordered_dict": flat}):
        return None, encoder.arrays
    return json.dumps({"version": _VERSION, "value": root}, allow_nan=False, separators=(",", ":")), encoder.arrays


def decode(text: str, names: Iterable[str], fetch: Callable[[str], _Array], place: Callable[[_Array], Any]) -> Any:
    """Put a nested object together again.

    Args:
        text: the tree.
        names: the arrays there are; the tree must use every one.
        fetch: gives an array by name.
        place: makes of it the array to hand out; of one marked as numpy's a copy is.

    Raises:
        SafetensorError: if the tree is malformed, or does not fit the arrays.
    """
    try:
        tree = json.loads(text)
        if not isinstance(tree, dict) or tree.get("version") != _VERSION or "value" not in tree:
            raise SafetensorError(f"its structure is not of version {_VERSION}, the one this objnet reads")
        decoder = _Decoder(names, fetch, place)
        value = decoder.decode(tree["value"])
    except SafetensorError:
        raise
    except (ValueError, TypeError) as error:
        raise SafetensorError(f"its structure is malformed: {error}") from error
    except RecursionError:
        raise SafetensorError("its structure is nested too deeply") from None
    if decoder.unused:
        raise SafetensorError(f"its structure has no place for the arrays {sorted(decoder.unused)}")
    return value


class _Encoder:
    def __init__(self, mark_numpy: bool) -> None:
        self.arrays: dict[str, Any] = {}
        self._mark_numpy = mark_numpy

    def encode(self, value: Any, path: _Path) -> Any:
        if len(path) > _MAX_DEPTH:
            raise ValueError(f"{_show(path[:3])}...: nested over {_MAX_DEPTH} levels deep; does it contain itself?")
        kind = type(value)
        if value is None or kind in (bool, str):
            return value
        if kind is int:
            return value if abs(value) <= _EXACT_INT else {"int": hex(value)}
        if kind is float:
            return value if math.isfinite(value) else {"float": repr(value)}
        if kind is bytes:
            return {"bytes": self._store(np.frombuffer(value, np.uint8), path)}
        if kind in (list, tuple):
            items = [self.encode(item, (*path, index)) for index, item in enumerate(value)]
            return items if kind is list else {"tuple": items}
        if kind in (dict, OrderedDict):
            pairs = [[self._encode_key(key, path), self.encode(item, (*path, key))] for key, item in value.items()]
            return {"dict" if kind is dict else "ordered_dict": pairs}
        if kind is Counter:
            return {"counter": self.encode(dict(value), path)["dict"]}
        return self._encode_array(value, path)

    def _encode_key(self, key: Any, path: _Path) -> Any:
        if not _is_key(key):
            raise TypeError(f"{_show(path)}: cannot save a dict key of type {type_name(key)}: {key!r}")
        return self.encode(key, path)

    def _encode_array(self, value: Any, path: _Path) -> Any:
        if not (isinstance(value, (jax.Array, np.ndarray, np.generic)) or hasattr(value, "__jax_array__")):
            raise TypeError(f"{_show(path)}: cannot save {type_name(value)}; {_advice(value)}")
        array = concrete_array(value, _show(path))
        if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
            impl = jax.random.key_impl(array)
            if not isinstance(impl, str):
                raise TypeError(f"{_show(path)}: cannot save a key of the unregistered implementation {impl}")
            return {"key": self._store(jax.random.key_data(array), path), "impl": impl}
        mark: dict[str, str] = {}
        if self._mark_numpy and isinstance(array, (np.ndarray, np.generic)):
            mark = {"numpy": "array" if isinstance(array, np.ndarray) else "scalar"}
        name = array.dtype.name
        if name in _AS_BYTES:
            raw = np.ascontiguousarray(np.asarray(array, _AS_BYTES[name])[..., None]).view(np.uint8)
            return {"as_bytes": self._store(raw, path), "dtype": name, **mark}
        if not is_storable(array.dtype):
            raise TypeError(f"{_show(path)}: cannot save an array of dtype {array.dtype}")
        return {"array": self._store(array, path), **mark}

    def _store(self, array: Any, path: _Path) -> str:
        name = ".".join(map(_as_text, path)) if path else "value"
        while name in self.arrays or name == "__metadata__":  # {"a": {"b": x}, "a.b": y}
            name += "'"
        self.arrays[name] = array
        return name


class _Decoder:
    def __init__(self, names: Iterable[str], fetch: Callable[[str], _Array], place: Callable[[_Array], Any]) -> None:
        self._names, self._fetch, self._place = frozenset(names), fetch, place
        self.unused = set(self._names)

    def decode(self, node: Any) -> Any:
        match node:
            case None | bool() | int() | float() | str():
                return node
            case list():
                return [self.decode(item) for item in node]
            case {"int": str(text)}:
                return int(text, 16)
            case {"float": "nan" | "inf" | "-inf" as text}:
                return float(text)
            case {"bytes": str(name)}:
                return self._take(name).tobytes()
            case {"tuple": list(items)}:
                return tuple(self.decode(item) for item in items)
            case {"dict": list(pairs)}:
                return dict(self._pairs(pairs))
            case {"ordered_dict": list(pairs)}:
                return OrderedDict(self._pairs(pairs))
            case {"counter": list(pairs)}:
                return Counter(dict(self._pairs(pairs)))
            case {"array": str(name)}:
                return self._hand_out(node, self._take(name))
            case {"as_bytes": str(name), "dtype": str(dtype)} if dtype in _AS_BYTES:
                return self._hand_out(node, _from_bytes(self._take(name), _AS_BYTES[dtype]))
            case {"key": str(name), "impl": str(impl)}:
                return jax.random.wrap_key_data(self._place(self._take(name)), impl=impl)
        raise SafetensorError(f"its structure is malformed: {str(node)[:100]}")

    def _hand_out(self, node: dict[str, Any], array: _Array) -> Any:
        if "numpy" not in node:
            return self._place(array)
        copy = np.array(array)
        return copy[()] if node["numpy"] == "scalar" else copy

    def _pairs(self, pairs: list[Any]) -> list[tuple[Any, Any]]:
        decoded = [(self.decode(key), self.decode(item)) for key, item in pairs]
        if len({key for key, _ in decoded}) < len(decoded):
            raise SafetensorError("its structure has a dict key twice")
        return decoded

    def _take(self, name: str) -> _Array:
        if name not in self._names:
            raise SafetensorError(f"its structure has a place for an array {name!r}, which is not there")
        self.unused.discard(name)
        return self._fetch(name)


def _from_bytes(raw: _Array, dtype: np.dtype[Any]) -> _Array:
    if raw.dtype != np.uint8 or raw.shape[-1:] != (dtype.itemsize,):
        raise SafetensorError(f"an array of {dtype} is stored as {raw.dtype} of shape {raw.shape}")
    return raw.view(dtype)[..., 0]


def _is_key(key: Any) -> bool:
    return key is None or type(key) in (bool, int, float, str) or (type(key) is tuple and all(map(_is_key, key)))


def _as_text(part: Any) -> str:
    """A dict key or list index within the name of an array; a lone surrogate, which no file can hold, is escaped."""
    return str(part).encode(errors="backslashreplace").decode()


def _show(path: _Path) -> str:
    return "at " + "".join(f"[{part!r}]" for part in path) if path else "at the top level"


def _advice(value: Any) -> str:
    if hasattr(value, "state_dict"):
        return "pass its .state_dict() and load with .load_state_dict()"
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return "a named tuple would come back as a plain one; pass ._asdict() or tuple(...)"
    if type(value).__module__.partition(".")[0] == "torch":
        return "pass tensor.detach().cpu().numpy()"
    return "arrays, None, bool, int, float, str and bytes in dict, OrderedDict, Counter, list and tuple can be saved"
