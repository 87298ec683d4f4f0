"""The safetensors codec against the library that defines the format, and against hostile files."""

from __future__ import annotations

import json
import mmap
import os
import struct

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import assume, given, settings

from objnet.io import SafetensorError, SafetensorFile, TorchFileError, load_file, open_file, read_header, save_file
from objnet.io.header import DTYPES, NAMES
from objnet.io.safetensors import load, save

ALL_DTYPES = sorted(NAMES)
PACKED = "float4_e2m1fn"
KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(lambda key: key != "__metadata__")
SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)


def sample(name: str, shape: tuple[int, ...] = (3, 4), seed: int = 0) -> np.ndarray:
    """An array of any bit patterns of a dtype."""
    dtype = DTYPES[NAMES[name]]
    assert dtype is not None
    raw = np.random.default_rng(seed).integers(0, 256, (*shape, dtype.itemsize), np.uint8)
    raw &= {"bool": 1, PACKED: 0xF}.get(name, 0xFF)
    return np.ascontiguousarray(raw).view(dtype)[..., 0]


def same(a, b) -> bool:
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def build(header, data: bytes = b"") -> bytes:
    """A file with any header: an object, or its bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype="U8", shape=(4,), offsets=(0, 4), **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}


# ---------------------------------------------------------------------------------------------------- the library


@pytest.mark.parametrize("name", [name for name in ALL_DTYPES if name != PACKED])
def test_same_bytes_as_the_library(name, tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    tensors = {"b.weight": sample(name), "a": sample(name, ()), "empty": sample(name, (0, 3)), "": sample(name, (5,))}
    expected = library.save(tensors)
    assert save(tensors) == expected
    save_file(tensors, tmp_path / "ours", {"format": "pt"})
    library.save_file(tensors, tmp_path / "theirs", {"format": "pt"})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    loaded = load(expected)
    assert loaded.keys() == tensors.keys() and all(same(loaded[key], tensors[key]) for key in tensors)
    if not name.startswith("float8"):  # the library writes these, and cannot read them into numpy
        theirs = library.load_file(tmp_path / "ours")
        assert all(same(theirs[key], tensors[key]) for key in tensors)


@pytest.mark.parametrize(
    "name", ["bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu", PACKED]
)
def test_torch_reads_and_writes_the_same(name, tmp_path):
    torch = pytest.importorskip("torch")
    library = pytest.importorskip("safetensors.torch")
    array = sample(name, (3, 4))
    save_file({"x": array}, tmp_path / "ours")
    tensor = library.load_file(tmp_path / "ours")["x"]
    packed = name == PACKED
    assert tensor.dtype == getattr(torch, name + "_x2" if packed else name)
    raw = tensor.view(torch.uint8).numpy() if array.dtype.itemsize == 1 else tensor.view(torch.int16).numpy()
    if packed:  # torch keeps two numbers in a byte, the first in the low half
        raw = np.stack([raw & 0xF, raw >> 4], -1)
    assert raw.tobytes() == array.tobytes()
    library.save_file({"x": tensor}, tmp_path / "theirs")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert same(load_file(tmp_path / "theirs")["x"], array)


@given(
    st.dictionaries(KEYS, st.tuples(st.sampled_from([n for n in ALL_DTYPES if n != PACKED]), SHAPES), max_size=5),
    st.none() | st.dictionaries(KEYS, KEYS, max_size=1),  # the library's order of several is random
)
@settings(max_examples=30, deadline=None)
def test_same_bytes_as_the_library_always(specs, metadata):
    library = pytest.importorskip("safetensors.numpy")
    assume(specs or metadata != {})  # there the library 0.8.0 writes "{}," before the metadata, which nothing can read
    tensors = {key: sample(name, shape) for key, (name, shape) in specs.items()}
    data = library.save(tensors, metadata)
    assert save(tensors, metadata) == data
    file = SafetensorFile(data)
    assert file.metadata() == (metadata or {})
    assert all(same(file.get(key), array) for key, array in tensors.items())


def test_library_reads_several_metadata_and_the_other_way(tmp_path):
    library = pytest.importorskip("safetensors")
    numpy = pytest.importorskip("safetensors.numpy")
    metadata = {"z": "1", "a": 'quote " slash \\ newline \n nul \x00 del \x7f', "ä": "日本 😀", "": ""}
    save_file({"x": np.arange(3)}, tmp_path / "ours", metadata)
    with library.safe_open(tmp_path / "ours", "np") as file:
        assert file.metadata() == metadata
    numpy.save_file({"x": np.arange(3)}, tmp_path / "theirs", metadata)
    assert read_header(tmp_path / "theirs").metadata == metadata


def test_old_files_in_any_order_and_without_padding():
    """Writers may list keys in another order than the data and leave out the padding: arrays are then unaligned."""
    data = build({"late": entry("F32", (1,), (1, 5)), "early": entry("U8", (1,), (0, 1))}, b"\x07" + struct.pack("<f", 2.5))
    loaded = load(data)
    assert list(loaded) == ["late", "early"]
    assert loaded["early"] == [7] and loaded["late"] == [2.5]
    assert jnp.array(loaded["late"])[0] == 2.5


# ----------------------------------------------------------------------------------------------------------- layouts


LAYOUTS = {
    "transposed": lambda x: x.T,
    "fortran": np.asfortranarray,
    "strided": lambda x: x[::2, 1::2],
    "reversed": lambda x: x[::-1, ::-1],
    "broadcast": lambda x: np.broadcast_to(x[:1], (5, *x.shape)),
    "big endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "big endian transposed": lambda x: x.astype(x.dtype.newbyteorder(">")).T,
    "read-only": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
    "unaligned": lambda x: np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape),
    "jax": jnp.asarray,
    "jax transposed": lambda x: jnp.asarray(x).T,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["int16", "float32", "complex64"])
def test_every_memory_layout_is_written_right(layout, dtype):
    array = LAYOUTS[layout](np.arange(24).reshape(4, 6).astype(dtype))
    loaded = load(save({"x": array}))["x"]
    assert loaded.dtype == np.dtype(dtype) and loaded.flags.c_contiguous
    np.testing.assert_array_equal(loaded, np.asarray(array))


def test_scalars_and_parameters():
    class Parameter:
        def __jax_array__(self):
            return jnp.arange(3.0)

    loaded = load(save({"scalar": np.float32(2.5), "bool": np.bool_(True), "zero-d": np.array(3), "p": Parameter()}))
    assert loaded["scalar"].shape == () and loaded["scalar"] == np.float32(2.5)
    assert loaded["bool"] and loaded["zero-d"] == 3
    np.testing.assert_array_equal(loaded["p"], [0.0, 1.0, 2.0])


# ------------------------------------------------------------------------------------------------- reading lazily


def test_views_of_the_mapped_file(tmp_path):
    save_file({"x": np.arange(10.0), "y": np.arange(3)}, tmp_path / "f")
    with open_file(tmp_path / "f") as file:
        assert file.keys() == ["y", "x"] and file.metadata() == {}
        x = file.get("x")
        with pytest.raises(KeyError, match="missing"):
            file.get("missing")
    with pytest.raises(ValueError, match="closed"):
        file.get("x")
    assert not x.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        x[0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        x.flags.writeable = True
    base = x
    while isinstance(base, np.ndarray):
        base = base.base
    assert isinstance(base.obj if isinstance(base, memoryview) else base, mmap.mmap)
    save_file({"x": np.zeros(10)}, tmp_path / "f")
    os.unlink(tmp_path / "f")
    np.testing.assert_array_equal(x, np.arange(10.0))


def test_bytes_are_read_in_place():
    data = bytearray(save({"x": np.arange(10)}))
    x = load(data)["x"]
    data[-8:] = struct.pack("<q", 77)
    assert x[-1] == 77 and not x.flags.writeable


def test_only_what_is_asked_for_is_read(tmp_path):
    """A file of 256 GB, nearly all of it a hole."""
    size = 1 << 38
    path = tmp_path / "huge"
    path.write_bytes(build({"x": entry("U8", (size,), (0, size))}))
    os.truncate(path, path.stat().st_size + size)
    with open_file(path) as file:
        assert file.header.tensors["x"].shape == (size,)
        assert (file.get("x")[size // 2 : size // 2 + 4] == 0).all()


def test_no_file_handle_is_kept(tmp_path):
    save_file({"x": np.arange(10)}, tmp_path / "f")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        load_file(tmp_path / "f")
        read_header(tmp_path / "f")
    assert len(os.listdir("/proc/self/fd")) == before


# ------------------------------------------------------------------------------------------------------ bad arguments


@pytest.mark.parametrize(
    ("tensors", "error", "match"),
    [
        ({1: np.zeros(1)}, TypeError, "keys must be str, got 1 of type int"),
        ({"__metadata__": np.zeros(1)}, SafetensorError, "__metadata__"),
        ({"a\ud800": np.zeros(1)}, SafetensorError, "surrogate"),
        ({"w": [1.0]}, TypeError, "'w': expected a jax or numpy array, got builtins.list"),
        ({"w": 1.0}, TypeError, "builtins.float"),
        ({"w": np.array(["text"])}, TypeError, "'w'.*dtype <U4"),
        ({"w": np.array([None])}, TypeError, "'w'.*dtype object"),
        ({"w": np.zeros(1, np.complex128)}, TypeError, "'w'.*dtype complex128"),
        ({"w": np.zeros(1, "m8[s]")}, TypeError, "'w'.*timedelta64"),
        ({"w": np.zeros(1, [("a", "f4")])}, TypeError, "'w'.*dtype"),
        ({"w": np.zeros(2, ml_dtypes.int4)}, TypeError, "'w'.*int4"),
        ({"w": np.ma.masked_array([1.0, 2.0], [True, False])}, TypeError, "MaskedArray"),
        ({"w": np.zeros(3, ml_dtypes.float4_e2m1fn)}, SafetensorError, "'w'.*whole bytes"),
    ],
)
def test_what_cannot_be_saved(tensors, error, match, tmp_path):
    with pytest.raises(error, match=match):
        save(tensors)
    with pytest.raises(error, match=match):
        save_file(tensors, tmp_path / "f")
    assert os.listdir(tmp_path) == []


def test_keys_and_tracers_are_refused():
    with pytest.raises(TypeError, match="'w'.*key<fry>"):
        save({"w": jax.random.key(0)})
    with pytest.raises(TypeError, match="'w': traced by jax"):
        jax.jit(lambda x: save({"w": x}))(jnp.zeros(3))
    with pytest.raises(TypeError, match="torch.Tensor"):
        save({"w": pytest.importorskip("torch").zeros(3)})


@pytest.mark.parametrize("metadata", [{"a": 1}, {1: "a"}, {"a": None}, {"a": b"x"}])
def test_metadata_is_text(metadata):
    with pytest.raises(TypeError, match="metadata must map str to str"):
        save({}, metadata)
    with pytest.raises(SafetensorError, match="surrogate"):
        save({}, {"a": "\udc80"})


def test_header_too_large():
    with pytest.raises(SafetensorError, match="100000000"):
        save({}, {"a": "x" * 100_000_000})


# ---------------------------------------------------------------------------------------------------------- hostile


def nested(depth: int) -> bytes:
    return b'{"a":' + b"[" * depth + b"]" * depth + b"}"


HOSTILE = {
    "nothing": (b"", "of its first 8 bytes 8 are missing"),
    "three bytes": (b"abc", "of its first 8 bytes 5 are missing"),
    "only a length": (struct.pack("<Q", 10), "10 of its header's 10 bytes are missing"),
    "header cut": (struct.pack("<Q", 100) + b"{}", "98 of its header's 100 bytes are missing"),
    "header over 100 MB": (struct.pack("<Q", 100_000_001) + b"{}", "100000001 bytes; 100 MB"),
    "largest length": (b"\xff" * 16, "18446744073709551615 bytes; 100 MB"),
    "empty header": (build(b""), "must begin with"),
    "leading space": (build(b" {}"), "must begin with"),
    "byte order mark": (build("\ufeff{}".encode()), "must begin with"),
    "a list": (build(b"[]"), "must begin with"),
    "not UTF-8": (build(b'{"\xff": 1}'), "not UTF-8"),
    "not JSON": (build(b"{'a': 1}"), "not JSON"),
    "two objects": (build(b"{}{}"), "not JSON"),
    "nul padding": (build(b"{}\0\0"), "not JSON"),
    "control character": (build(b'{"a\nb": 1}'), "not JSON"),
    "NaN": (build(b'{"a": NaN}'), "not JSON"),
    "lone surrogate in a key": (build(rb'{"\ud800": 1}'), "surrogate"),
    "lone surrogate in metadata": (build(rb'{"__metadata__": {"a": "\ud800"}}'), "surrogate"),
    "nested deeply": (build(nested(200_000)), "nested too deeply|not JSON"),
    "long integer": (build(b'{"a": ' + b"9" * 10_000 + b"}"), "not JSON"),
    "duplicate key": (build(b'{"a": 1, "a": 1}'), "'a' is there twice"),
    "duplicate metadata": (build(b'{"__metadata__": {}, "__metadata__": {}}'), "twice"),
    "duplicate field": (build(b'{"a": {"dtype": "U8", "dtype": "I8"}}'), "twice"),
    "metadata of numbers": (build({"__metadata__": {"a": 1}}), "str to str"),
    "metadata of null": (build({"__metadata__": None}), "str to str"),
    "metadata list": (build({"__metadata__": ["a"]}), "str to str"),
    "nested metadata": (build({"__metadata__": {"a": {"b": "c"}}}), "str to str"),
    "tensor not an object": (build({"a": 1}), "'a' must have dtype, shape and data_offsets"),
    "missing field": (build({"a": {"dtype": "U8", "shape": [4]}}, b"1234"), "'a' must have"),
    "unknown field": (build({"a": entry(strides=[1])}, b"1234"), "nothing else"),
    "unknown dtype": (build({"a": entry("F128")}, b"1234"), "unknown dtype 'F128'"),
    "dtype of another type": (build({"a": entry(["U8"])}, b"1234"), "unknown dtype"),
    "negative extent": (build({"a": entry(shape=(-4,))}, b"1234"), "shape of 'a'"),
    "two negative extents": (build({"a": entry(shape=(-2, -2))}, b"1234"), "shape of 'a'"),
    "float extent": (build({"a": entry(shape=(4.0,))}, b"1234"), "shape of 'a'"),
    "bool extent": (build({"a": entry(shape=(True,), offsets=(0, 1))}, b"1"), "shape of 'a'"),
    "text extent": (build({"a": entry(shape=("4",))}, b"1234"), "shape of 'a'"),
    "shape no list": (build({"a": {**entry(), "shape": 4}}, b"1234"), "shape of 'a'"),
    "huge extent": (build({"a": entry(shape=(2**64 + 4,))}, b"1234"), "too large"),
    "overflowing product": (build({"a": entry(shape=(2**32, 2**32))}, b"1234"), "too large"),
    "overflowing bytes": (build({"a": entry("F64", (2**61,), (0, 0))}), "too large"),
    "overflow hidden by a zero": (build({"a": entry(shape=(2**40, 2**40, 0), offsets=(0, 0))}), "too large"),
    "65 dimensions": (build({"a": entry(shape=(1,) * 65, offsets=(0, 1))}, b"1"), "65 dimensions"),
    "three offsets": (build({"a": entry(offsets=(0, 2, 4))}, b"1234"), "data_offsets of 'a'"),
    "negative offset": (build({"a": entry(offsets=(-4, 0))}, b"1234"), "data_offsets of 'a'"),
    "float offset": (build({"a": entry(offsets=(0, 4.0))}, b"1234"), "data_offsets of 'a'"),
    "offsets reversed": (build({"a": entry(offsets=(4, 0))}, b"1234"), "has -4 bytes"),
    "size too small": (build({"a": entry(offsets=(0, 3))}, b"123"), "'a' has 3 bytes, but shape .4. of U8 takes 4"),
    "size too large": (build({"a": entry("F32", (1,), (0, 8))}, b"12345678"), "has 8 bytes"),
    "half a byte": (build({"a": entry("F4", (3,), (0, 2))}, b"12"), "whole bytes"),
    "overlap": (build({"a": entry(), "b": entry(offsets=(3, 7))}, b"1234567"), "'b' overlaps.*byte 3, not 4"),
    "the same bytes twice": (build({"a": entry(), "b": entry()}, b"1234"), "overlaps"),
    "hole": (build({"a": entry(), "b": entry(offsets=(5, 9))}, b"123456789"), "'b' leaves a hole.*byte 5, not 4"),
    "hole at the start": (build({"a": entry(offsets=(1, 5))}, b"12345"), "hole"),
    "data cut": (build({"a": entry()}, b"12"), "truncated: 2 of its .* bytes are missing"),
    "offsets beyond the file": (build({"a": entry(shape=(2**40,), offsets=(0, 2**40))}, b"1234"), "truncated"),
    "trailing bytes": (build({"a": entry()}, b"123456"), "2 bytes follow the last array"),
    "trailing bytes and no array": (build({}, b"1"), "1 bytes follow"),
    "bool of other bytes": (build({"a": entry("BOOL")}, b"\0\1\2\0"), "bytes other than 0 and 1"),
    "six-bit floats": (build({"a": entry("F6_E2M3", (4,), (0, 3))}, b"123"), "F6_E2M3"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused(case, tmp_path):
    data, match = HOSTILE[case]
    with pytest.raises(SafetensorError, match=match):
        load(data)
    (tmp_path / "bad.safetensors").write_bytes(data)
    with pytest.raises(SafetensorError, match="bad.safetensors") as caught:
        load_file(tmp_path / "bad.safetensors")
    assert isinstance(caught.value, ValueError) and len(str(caught.value)) < 1000


def test_extreme_headers_that_are_fine():
    assert load(build({})) == {} and load(build(b"{}      ")) == {}
    assert load(build({"a": entry(shape=(0, 2**60), offsets=(0, 0))}))["a"].shape == (0, 2**60)
    assert load(build({"a": entry(shape=(1,) * 64, offsets=(0, 1))}, b"1"))["a"].ndim == 64
    several = {"a": entry(shape=(0,), offsets=(4, 4)), "b": entry(), "c": entry(shape=(0,), offsets=(0, 0))}
    assert {key: x.size for key, x in load(build(several, b"1234")).items()} == {"a": 0, "b": 4, "c": 0}


def test_truncation_anywhere_is_an_error(tmp_path):
    data = save({"weight": np.arange(6.0), "bias": np.arange(5, dtype=np.int8)}, {"a": "b"})
    path = tmp_path / "cut.safetensors"
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(SafetensorError, match="cut.safetensors") as caught:
            load_file(path)
        if length >= len(data) - 53:
            assert f"truncated: {len(data) - length} of its {len(data)} bytes are missing" in str(caught.value)


def test_missing_files_and_folders(tmp_path):
    for function in (load_file, open_file, read_header):
        with pytest.raises(FileNotFoundError, match="missing.safetensors"):
            function(tmp_path / "missing.safetensors")
        with pytest.raises(IsADirectoryError):
            function(tmp_path)
        with pytest.raises(TypeError):  # and no file handle of that number is closed
            function(0)
    os.fstat(0)


@pytest.mark.parametrize("legacy", [False, True])
def test_torch_files_are_named(legacy, tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"w": torch.zeros(3)}, tmp_path / "model.pt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(TorchFileError, match=r"model.pt is a (pickle|zip archive), as torch.save writes.*save_file"):
        load_file(tmp_path / "model.pt")


def test_a_header_that_begins_like_a_zip_archive():
    """Its length spells a zip archive's first bytes: 67 MB of spaces, and still a safetensors file."""
    length = int.from_bytes(b"PK\x03\x04\0\0\0\0", "little")
    assert load(build(b"{}" + b" " * (length - 2))) == {}


def loads_or_refuses(data: bytes) -> None:
    try:
        loaded = load(data)
    except SafetensorError:
        return
    for array in loaded.values():
        assert isinstance(array, np.ndarray) and array.dtype.name in NAMES
        array.copy(), array.tobytes()


VALID = save(
    {
        "model.weight": sample("float32"),
        "b": sample("bfloat16", (2, 2)),
        "mask": sample("bool", (5,)),
        "scale": sample("float64", ()),
        "four": sample(PACKED, (2, 3)),
        "empty": sample("int32", (0, 7)),
    },
    {"format": "pt", "note": 'quote " ä'},
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["U8", "F32", "BOOL"]),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=5), children, max_size=4),
    max_leaves=8,
)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_random_corruption(data):
    """Bytes changed, cut out or put in, mostly in the header: an error of ours or well-formed arrays, nothing else."""
    end = 8 + struct.unpack("<Q", VALID[:8])[0]
    corrupt = bytearray(VALID)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(corrupt) - 1) | st.integers(8, end))
        kind = data.draw(st.sampled_from(["set", "flip", "cut", "insert", "digit"]))
        if kind == "set":
            corrupt[place] = data.draw(st.integers(0, 255))
        elif kind == "flip":
            corrupt[place] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "digit":
            corrupt[place] = data.draw(st.sampled_from(b'0123456789-.eE,:"[]{} \\u'))
        else:
            chunk = b"" if kind == "cut" else data.draw(st.binary(min_size=1, max_size=9))
            stop = place if kind == "insert" else place + data.draw(st.integers(1, 9))
            corrupt[place:stop] = chunk
            if data.draw(st.booleans()) and len(corrupt) > 8:  # keep the length right, so that the JSON is reached
                corrupt[:8] = struct.pack("<Q", max(0, end + len(corrupt) - len(VALID) - 8))
    loads_or_refuses(bytes(corrupt))


@given(
    st.dictionaries(
        st.sampled_from(["a", "b", "c", "__metadata__"]),
        JSON
        | st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(list(DTYPES)) | JSON,
                "shape": st.lists(st.integers(0, 4), max_size=3) | JSON,
                "data_offsets": st.lists(st.integers(0, 16), min_size=2, max_size=2).map(sorted) | JSON,
            }
        ),
        max_size=3,
    ),
    st.binary(max_size=16),
)
@settings(max_examples=100, deadline=None)
def test_random_headers(header, data):
    loads_or_refuses(build(header, data))


@given(st.binary(max_size=64))
@settings(max_examples=50, deadline=None)
def test_random_bytes(data):
    loads_or_refuses(data)


@given(st.dictionaries(KEYS, st.tuples(st.sampled_from(ALL_DTYPES), SHAPES), max_size=4), st.dictionaries(KEYS, KEYS))
@settings(max_examples=30, deadline=None)
def test_round_trip(specs, metadata):
    tensors = {key: sample(name, (*shape, 2) if name == PACKED else shape) for key, (name, shape) in specs.items()}
    data = save(tensors, metadata)
    file = SafetensorFile(data)
    assert file.metadata() == metadata and set(file.keys()) == set(tensors)
    assert all(same(file.get(key), array) for key, array in tensors.items())
    assert save({key: file.get(key) for key in reversed(file.keys())}, metadata) == data
    assert file.header.data_start % 8 == 0
