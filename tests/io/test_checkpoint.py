"""``save`` and ``load`` give back what they were given, exactly, or say what they cannot take."""

from __future__ import annotations

import io
import json
import math
import os
import struct
from collections import Counter, OrderedDict, defaultdict, namedtuple
from pathlib import Path

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings

from objnet.io import SafetensorError, TorchFileError, load, load_file, open_file, save, save_file
from objnet.io.header import DTYPES
from objnet.io.safetensors import save as save_bytes

STRUCTURE = "objnet.structure"
WIDE = {"int64", "uint64", "float64", "complex128"}


def round_trip(obj):
    file = io.BytesIO()
    save(obj, file)
    file.seek(0)
    return load(file)


def is_array(x) -> bool:
    return isinstance(x, (jax.Array, np.ndarray, np.generic))


def is_flat(obj) -> bool:
    """Whether it becomes a plain file; complex128 is no dtype of the format, and the structure keeps what holds it."""
    return type(obj) in (dict, OrderedDict) and all(
        type(key) is str and is_array(obj[key]) and np.asarray(obj[key]).dtype.name != "complex128" for key in obj
    )


def check(found, saved) -> None:
    """The same types all the way down, arrays of the same dtype, shape and bits, floats of the same bits."""
    if is_array(saved):
        saved = np.asarray(saved)
        assert isinstance(found, np.ndarray if saved.dtype.name in WIDE and not jax.config.jax_enable_x64 else jax.Array)
        found = np.asarray(found)
        assert found.dtype == saved.dtype and found.shape == saved.shape and found.tobytes() == saved.tobytes()
        return
    assert type(found) is type(saved)
    if isinstance(saved, float):
        assert struct.pack("<d", found) == struct.pack("<d", saved) or math.isnan(found) and math.isnan(saved)
    elif isinstance(saved, (list, tuple)):
        assert len(found) == len(saved)
        for a, b in zip(found, saved, strict=True):
            check(a, b)
    elif isinstance(saved, dict):
        assert len(found) == len(saved)
        for (key_a, a), (key_b, b) in zip(found.items(), saved.items(), strict=True):
            check(key_a, key_b)
            check(a, b)
    else:
        assert found == saved


def structure_file(value, arrays=None) -> bytes:
    return save_bytes(arrays or {}, {STRUCTURE: json.dumps({"version": 1, "value": value})})


# ------------------------------------------------------------------------------------------------------ state dicts


def test_a_state_dict_is_a_plain_file(tmp_path):
    state = OrderedDict(
        [
            ("fc.weight", jnp.arange(6.0).reshape(2, 3)),
            ("fc.bias", np.ones(2, np.float32)),
            ("bn.num_batches_tracked", np.array(7)),
            ("half", jnp.ones(3, jnp.bfloat16)),
            ("", jnp.zeros(1, bool)),
            ("odd 'name' ä/\\\n.", jnp.zeros((0, 3), jnp.int8)),
            ("1", jnp.float32(2)),
        ]
    )
    path = tmp_path / "model.safetensors"
    save(state, path)
    loaded = load(path)
    assert type(loaded) is dict and list(loaded) == list(state)
    check(loaded, dict(state))
    with open_file(path) as file:
        assert file.metadata() == {} and set(file.keys()) == set(state)
    library = pytest.importorskip("safetensors.numpy")
    theirs = library.load_file(path)
    assert theirs.keys() == state.keys()
    assert all(theirs[key].tobytes() == np.asarray(state[key]).tobytes() for key in state)
    assert all(theirs[key].dtype == state[key].dtype and theirs[key].shape == state[key].shape for key in state)


def test_state_dict_to_and_from_torch(tmp_path):
    torch = pytest.importorskip("torch")
    library = pytest.importorskip("safetensors.torch")
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    library.save_file(model.state_dict(), tmp_path / "theirs", {"format": "pt"})
    state = load(tmp_path / "theirs")
    assert state.keys() == model.state_dict().keys()
    assert isinstance(state["0.weight"], jax.Array) and isinstance(state["1.num_batches_tracked"], np.ndarray)
    save(state, tmp_path / "ours", {"format": "pt"})
    twin = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    twin.load_state_dict(library.load_file(tmp_path / "ours"))
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in twin.state_dict().items())
    assert open_file(tmp_path / "ours").metadata() == {"format": "pt"}


def test_tied_arrays_are_written_under_each_name(tmp_path):
    weight = jnp.arange(4.0)
    save({"encoder": weight, "decoder": weight}, tmp_path / "f")
    assert {key: x.tolist() for key, x in load_file(tmp_path / "f").items()} == {
        "encoder": [0, 1, 2, 3],
        "decoder": [0, 1, 2, 3],
    }


@pytest.mark.parametrize("empty", [{}, [], (), OrderedDict(), None, "", b"", {"a": {}}, [[], ()]])
def test_empty(empty):
    check(round_trip(empty), {} if type(empty) is OrderedDict else empty)


# -------------------------------------------------------------------------------------------------- training states


def training_state():
    return {
        "model": OrderedDict([("fc.weight", jnp.ones((3, 2))), ("fc.bias", jnp.zeros(3))]),
        "optimizer": {
            "state": {0: {"step": jnp.float32(3), "exp_avg": jnp.ones((3, 2))}, 1: {"step": jnp.float32(3)}},
            "param_groups": [{"lr": 0.1, "betas": (0.9, 0.999), "foreach": None, "amsgrad": False, "params": [0, 1]}],
        },
        "epoch": 3,
        "best": float("inf"),
        "rng": {"mt19937": np.arange(624, dtype=np.uint32), "position": 7, "seed": 2**64 - 1, "cached": None},
    }


def test_a_training_state(tmp_path):
    state = training_state()
    path = tmp_path / "checkpoint"
    save(state, path, metadata={"note": "ä"})
    check(load(path), state)
    with open_file(path) as file:
        assert file.metadata()["note"] == "ä"
        assert set(file.keys()) == {
            "model.fc.weight",
            "model.fc.bias",
            "optimizer.state.0.step",
            "optimizer.state.0.exp_avg",
            "optimizer.state.1.step",
            "rng.mt19937",
        }
    library = pytest.importorskip("safetensors.numpy")
    assert library.load_file(path)["model.fc.weight"].shape == (3, 2)


@pytest.mark.parametrize(
    "value",
    [
        True,
        0,
        -1,
        2**53,
        2**53 + 1,
        -(2**53) - 1,
        2**64,
        -(10**5000),
        0.1,
        -0.0,
        5e-324,
        1.7976931348623157e308,
        math.nan,
        math.inf,
        -math.inf,
        "text",
        'quote " ä \n \x00 \ud800 😀',
        b"\x00\xff bytes",
        (1, (2, [3, (4,)]), ()),
        {1: "int", "1": "text", None: "none", 2.5: "float", (1, "a", (None,)): "tuple", -(2**70): "big", "": "empty"},
        {True: 1, False: 2},
        {(): 1},
        {math.inf: 1},
        OrderedDict([("b", 1), ("a", [OrderedDict()])]),
        {"\ud800": jnp.ones(1)},
        {"__metadata__": jnp.ones(1)},
        {"model": {"__metadata__": jnp.ones(1)}},
        {1: jnp.ones(1)},
        jnp.ones(3),
        np.float64(0.1),
        np.array(0.1),
        [jnp.ones(3), np.ones((2, 0), np.int8)],
        {"a": OrderedDict(w=jnp.ones(1))},
    ],
    ids=lambda value: type(value).__name__,
)
def test_values(value):
    check(round_trip(value), value)


@pytest.mark.parametrize(
    "obj",
    [
        {"a": {"b.c": jnp.ones(1)}, "a.b": {"c": jnp.zeros(1)}},
        {"a": {"b": jnp.ones(1)}, "a.b": jnp.zeros(1), "a.b'": jnp.full(1, 2.0)},
        {1: jnp.ones(1), "1": jnp.zeros(1)},
        [[jnp.ones(1)], {0: jnp.zeros(1)}],
        {"value": jnp.ones(1), "x": [jnp.zeros(1)]},
        {None: jnp.ones(1), "None": jnp.zeros(1), "": {"": jnp.full(1, 2.0)}, ".": jnp.full(1, 3.0)},
    ],
    ids=range(6),
)
def test_keys_that_clash_when_joined(obj):
    check(round_trip(obj), obj)


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_typed_keys(impl):
    key = jax.random.key(3, impl=impl)
    loaded = round_trip({"key": key, "many": jax.random.split(key, (2, 3)), "old": jax.random.PRNGKey(0)})
    assert loaded["key"].dtype == key.dtype and loaded["many"].shape == (2, 3) and loaded["old"].dtype == jnp.uint32
    assert jax.random.normal(loaded["key"]) == jax.random.normal(key)
    assert (jax.random.key_data(loaded["many"]) == jax.random.key_data(jax.random.split(key, (2, 3)))).all()


def test_a_dict_of_keys_alone():
    """Nothing but typed keys: not a plain file, or their type would be lost."""
    assert round_trip({"key": jax.random.key(0)})["key"].dtype == jax.random.key(0).dtype


DTYPE_NAMES = sorted(
    {dtype.name for dtype in DTYPES.values() if dtype is not None}
    | {"complex128", "int4", "uint4", "int2", "uint2", "float8_e3m4", "float8_e4m3", "float8_e4m3b11fnuz"}
)


@pytest.mark.parametrize("name", DTYPE_NAMES)
def test_every_dtype(name):
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    arrays = {
        "a": np.array([[1, 0, 1], [1, 1, 0]], dtype),
        "scalar": np.array(1, dtype),
        "empty": np.zeros((0, 2), dtype),
    }
    if name.startswith("float4"):
        arrays = {"a": np.array([[1, 0], [1, 1]], dtype)}
    check(round_trip(arrays), arrays)
    check(round_trip([arrays["a"].T]), [arrays["a"].T.copy()])
    if name not in WIDE:
        check(round_trip([jnp.asarray(arrays["a"])]), [arrays["a"]])


def test_with_x64():
    with jax.enable_x64(True):
        state = {"d": jnp.arange(3.0), "i": np.array([2**40]), "c": np.array([1j])}
        check(round_trip(state), state)
        assert all(isinstance(value, jax.Array) for value in round_trip(state).values())
    assert isinstance(round_trip({"i": np.array([2**40])})["i"], np.ndarray)


def test_loaded_arrays_are_their_own(tmp_path):
    """Not views of the file: writing into it, in place, changes nothing; and numpy ones are writeable."""
    path = tmp_path / "f"
    save({"x": jnp.arange(1000.0), "y": np.arange(1000.0)}, path)
    loaded = load(path)
    with open(path, "r+b") as file:
        file.seek(-16000 + 4000, os.SEEK_END)
        file.write(b"\xff" * 12000)
    np.testing.assert_array_equal(loaded["x"], np.arange(1000.0))
    loaded["y"][0] = 5
    assert loaded["y"].tolist() == [5, *range(1, 1000)]


def test_loaded_arrays_can_be_donated(tmp_path):
    save({"x": jnp.arange(1000.0)}, tmp_path / "f")
    x = load(tmp_path / "f")["x"]
    np.testing.assert_array_equal(jax.jit(lambda x: x * 2, donate_argnums=0)(x), np.arange(1000.0) * 2)
    np.testing.assert_array_equal(load(tmp_path / "f")["x"], np.arange(1000.0))


def test_load_within_a_trace_gives_values(tmp_path):
    save({"x": jnp.arange(3.0)}, tmp_path / "f")

    @jax.jit
    def total():
        x = load(tmp_path / "f")["x"]
        assert not isinstance(x, jax.core.Tracer)
        return x.sum()

    assert total() == 3


# --------------------------------------------------------------------------------------------------------- hypothesis


FINITE_KEYS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda children: st.lists(children, max_size=2).map(tuple),
    max_leaves=3,
)
NUMPY = hnp.arrays(
    st.sampled_from(["bool", "int8", "uint16", "int32", "int64", "float16", "float32", "float64", "complex64", "complex128"]),
    hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=3),
)
ARRAYS = NUMPY | NUMPY.map(np.asfortranarray) | NUMPY.filter(lambda x: x.dtype.name not in WIDE).map(jax.device_put)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.binary(max_size=4) | ARRAYS
OBJECTS = st.recursive(
    LEAVES,
    lambda children: (
        st.lists(children, max_size=3)
        | st.lists(children, max_size=3).map(tuple)
        | st.dictionaries(FINITE_KEYS, children, max_size=3)
        | st.dictionaries(st.text(max_size=3), children, max_size=3).map(OrderedDict)
    ),
    max_leaves=10,
)


@given(OBJECTS)
@settings(max_examples=100, deadline=None)
def test_any_structure(obj):
    check(round_trip(obj), dict(obj) if is_flat(obj) else obj)


SEED = training_state() | {"key": jax.random.key(0), "odd": [b"bytes", 2**80, math.nan, np.array([1j]), ()]}


def touch(x) -> None:
    if isinstance(x, dict):  # keys of several types, which jax.tree cannot sort
        for value in x.values():
            jax.tree.map(touch, value, is_leaf=lambda x: isinstance(x, dict))
    elif is_array(x) and not jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        assert np.asarray(x).nbytes >= 0


def loads_or_refuses(data: bytes) -> None:
    try:
        loaded = load(io.BytesIO(data))
    except SafetensorError:
        return
    jax.tree.map(touch, loaded, is_leaf=lambda x: isinstance(x, dict))


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_random_corruption(data):
    file = io.BytesIO()
    save(SEED, file)
    corrupt = bytearray(file.getvalue())
    end = 8 + struct.unpack("<Q", corrupt[:8])[0]
    for _ in range(data.draw(st.integers(1, 3))):
        corrupt[data.draw(st.integers(8, end - 1))] = data.draw(
            st.sampled_from(b'0123456789-x.eE,:"[]{} \\uabk') | st.integers(0, 255)
        )
    loads_or_refuses(bytes(corrupt))


TAGS = ["int", "float", "bytes", "tuple", "dict", "ordered_dict", "array", "as_bytes", "dtype", "key", "impl", "?"]
NODES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["a", "b", "nan", "0x1f", "-0x1", "complex128", "int4", "threefry2x32", "rbg", "?"]),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(st.sampled_from(TAGS), children | st.lists(st.lists(children, max_size=2), max_size=2), max_size=2)
    ),
    max_leaves=8,
)


@given(NODES)
@settings(max_examples=150, deadline=None)
def test_random_structures(node):
    loads_or_refuses(structure_file(node))
    loads_or_refuses(structure_file(["a", {"array": "a"}, {"bytes": "b"}, node], {"a": jnp.ones(2), "b": np.zeros(16, np.uint8)}))


# ------------------------------------------------------------------------------------------------------------ refusals


class Module:
    def state_dict(self):
        return {}


Point = namedtuple("Point", "x y")


class Colour(int):
    pass


@pytest.mark.parametrize(
    ("obj", "match"),
    [
        (Module(), r"at the top level: cannot save .*Module; pass its .state_dict\(\)"),
        ({"model": Module()}, r"at \['model'\]: cannot save .*Module; pass its .state_dict\(\)"),
        (
            {"optimizer": {"state": [{"exp_avg": object()}]}},
            r"at \['optimizer'\]\['state'\]\[0\]\['exp_avg'\]: .*object",
        ),
        ({"w": jnp.ones(1), "x": {1, 2}}, r"at \['x'\]: cannot save builtins.set"),
        ([Point(1, 2)], r"at \[0\]: .*Point; a named tuple would .*_asdict"),
        ([Colour(1)], r"at \[0\]: .*Colour"),
        ([1j], r"at \[0\]: .*complex"),
        ([bytearray(b"")], r"at \[0\]: .*bytearray"),
        ([Path("a")], "Path"),
        ([print], r"at \[0\]"),
        ([Module], r"at \[0\]"),
        ([np.float32], r"at \[0\]"),
        ([defaultdict(list)], "defaultdict"),
        ([Counter()], "Counter"),
        ({b"key": 1}, "at the top level: cannot save a dict key of type builtins.bytes: b'key'"),
        ({"a": {np.int64(1): 1}}, r"at \['a'\]: cannot save a dict key of type numpy.int64"),
        ({(1, Colour(2)): 1}, "dict key"),
        ({"a": np.array(["x"])}, r"at \['a'\]: cannot save an array of dtype <U1"),
        ({"a": [np.array([None])]}, r"at \['a'\]\[0\]: cannot save an array of dtype object"),
        ({"a": np.ma.masked_array([1.0], [True])}, r"at \['a'\]: .*MaskedArray"),
        ({"a": np.zeros(1, np.longdouble)}, r"at \['a'\]: .*float128"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_cannot_be_saved(obj, match, tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"old")
    with pytest.raises(TypeError, match=match):
        save(obj, path)
    assert os.listdir(tmp_path) == ["f"] and path.read_bytes() == b"old"


def test_torch_tensors_are_named():
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match=r"at \['w'\]: cannot save torch.Tensor; pass tensor.detach"):
        save({"w": torch.zeros(1)}, io.BytesIO())


def test_traced_arrays_are_named():
    with pytest.raises(TypeError, match=r"at \['w'\]\[0\]: traced by jax"):
        jax.jit(lambda x: save({"w": [x]}, io.BytesIO()))(jnp.ones(3))
    with pytest.raises(TypeError, match=r"at \['w'\]: traced by jax"):
        jax.grad(lambda x: save({"w": x}, io.BytesIO()))(1.0)


def test_objects_that_contain_themselves():
    loop: dict = {"a": []}
    loop["a"].append(loop)
    with pytest.raises(ValueError, match=r"\['a'\]\[0\]\['a'\].*contain itself"):
        save(loop, io.BytesIO())


def test_the_deepest_nesting():
    deep: object = 1
    for _ in range(33):
        deep = {"a": ([deep],)}
    check(round_trip([deep]), [deep])
    with pytest.raises(ValueError, match="100 levels"):
        save([[deep]], io.BytesIO())


def test_metadata_is_checked(tmp_path):
    with pytest.raises(ValueError, match=STRUCTURE):
        save({}, tmp_path / "f", {STRUCTURE: "x"})
    for obj in ({}, [1]):
        with pytest.raises(TypeError, match="str to str"):
            save(obj, tmp_path / "f", {"epoch": 1})
    assert os.listdir(tmp_path) == []


HOSTILE = {
    "not JSON": (save_bytes({}, {STRUCTURE: "{"}), "malformed"),
    "no version": (save_bytes({}, {STRUCTURE: '{"value": 1}'}), "version 1"),
    "later version": (save_bytes({}, {STRUCTURE: '{"version": 2, "value": 1}'}), "version 1"),
    "deep": (
        save_bytes({}, {STRUCTURE: '{"version": 1, "value": ' + "[" * 50000 + "]" * 50000 + "}"}),
        "nested too deeply",
    ),
    "unknown tag": (structure_file({"set": [1]}), "malformed"),
    "array missing": (structure_file({"array": "a"}), "'a', which is not there"),
    "array unused": (structure_file([1], {"a": np.ones(1)}), r"no place for the arrays \['a'\]"),
    "unhashable key": (structure_file({"dict": [[[1], 1]]}), "unhashable"),
    "array as key": (structure_file({"dict": [[{"array": "a"}, 1]]}, {"a": np.ones(1)}), "unhashable"),
    "key twice": (structure_file({"dict": [["a", 1], ["a", 2]]}), "key twice"),
    "pair of three": (structure_file({"dict": [[1, 2, 3]]}), "malformed"),
    "no pair": (structure_file({"dict": [1]}), "malformed"),
    "bad integer": (structure_file({"int": "0xzz"}), "malformed"),
    "long integer": (save_bytes({}, {STRUCTURE: '{"version": 1, "value": ' + "9" * 5000 + "}"}), "malformed"),
    "bad float": (structure_file({"float": "1.5"}), "malformed"),
    "unknown random numbers": (structure_file({"key": "a", "impl": "?"}, {"a": np.zeros(2, np.uint32)}), "malformed"),
    "key of another shape": (structure_file({"key": "a", "impl": "rbg"}, {"a": np.zeros(2, np.uint32)}), "malformed"),
    "bytes of another dtype": (structure_file({"as_bytes": "a", "dtype": "int4"}, {"a": np.zeros(2, np.int8)}), "int4"),
    "bytes of another size": (
        structure_file({"as_bytes": "a", "dtype": "complex128"}, {"a": np.zeros((2, 8), np.uint8)}),
        "complex128",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_structures_are_refused(case, tmp_path):
    data, match = HOSTILE[case]
    (tmp_path / "bad").write_bytes(data)
    with pytest.raises(SafetensorError, match=match) as caught:
        load(tmp_path / "bad")
    assert str(tmp_path / "bad") in str(caught.value)


def test_bad_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing.pt"):
        load(tmp_path / "missing.pt")
    save({"x": jnp.arange(10.0)}, tmp_path / "f")
    os.truncate(tmp_path / "f", (tmp_path / "f").stat().st_size - 7)
    with pytest.raises(SafetensorError, match=r"f is truncated: 7 of its"):
        load(tmp_path / "f")
    (tmp_path / "empty").touch()
    with pytest.raises(SafetensorError, match="empty is no safetensors file"):
        load(tmp_path / "empty")


def test_bad_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing"):
        save({}, tmp_path / "missing" / "f")
    with pytest.raises(TypeError):
        save({}, 3)
    with pytest.raises(TypeError):
        load(None)


@pytest.mark.parametrize("legacy", [False, True])
def test_torch_files_are_read(legacy, tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "model.pt"
    torch.save({"w": torch.arange(3.0), "steps": [1, None]}, path, _use_new_zipfile_serialization=not legacy)
    with open(path, "rb") as file:
        for loaded in (load(path), load(file)):
            check(loaded, {"w": np.arange(3, dtype=np.float32), "steps": [1, None]})
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(TorchFileError, match="model.pt.*cut short"):
        load(path)


# -------------------------------------------------------------------------------------------------- files and failures


def test_file_objects(tmp_path):
    state = training_state()
    for buffering in (-1, 0):
        with open(tmp_path / "f", "wb", buffering=buffering) as file:
            save(state, file)
        with open(tmp_path / "f", "rb", buffering=buffering) as file:
            check(load(file), state)
    assert load_file(tmp_path / "f").keys() and os.listdir(tmp_path) == ["f"]
    with pytest.raises(TypeError), open(tmp_path / "g", "w") as text:
        save({"x": jnp.ones(1)}, text)
    with pytest.raises(TypeError), open(tmp_path / "g") as text:
        load(text)


def test_files_that_take_a_part_at_a_time():
    class Slow(io.RawIOBase):
        def __init__(self):
            self.content = bytearray()

        def writable(self):
            return True

        def write(self, data):
            self.content += bytes(data[:7])
            return min(7, len(data))

    slow, whole = Slow(), io.BytesIO()
    save(training_state(), slow)
    save(training_state(), whole)
    assert slow.content == whole.getvalue()


def test_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("a", Path("b"), str(tmp_path / "c")):
        save({"x": jnp.ones(2)}, path)
        check(load(path), {"x": jnp.ones(2)})


def test_an_interrupted_save_keeps_the_old_file(tmp_path):
    """Ctrl-C while the second array is fetched from its device."""
    path = tmp_path / "f"
    save({"a": jnp.ones(3)}, path)
    before = path.read_bytes()
    original = np.ascontiguousarray
    calls = []

    def interrupt(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "ascontiguousarray", interrupt)
        with pytest.raises(KeyboardInterrupt):
            save({"a": jnp.zeros(300_000), "b": jnp.zeros(3)}, path)
    assert len(calls) == 2 and path.read_bytes() == before and os.listdir(tmp_path) == ["f"]


def test_saving_what_was_loaded_gives_the_same_file(tmp_path):
    for number, obj in enumerate([{"b": jnp.ones(3), "a": np.ones(2)}, training_state()]):
        save(obj, tmp_path / f"{number}")
        save(load(tmp_path / f"{number}"), tmp_path / f"{number}again")
        assert (tmp_path / f"{number}").read_bytes() == (tmp_path / f"{number}again").read_bytes()
    save_file(load_file(tmp_path / "0"), tmp_path / "plain")
    check(load(tmp_path / "plain"), dict(sorted(load(tmp_path / "0").items())))


def test_torchs_arguments_of_load(tmp_path):
    path = tmp_path / "x.safetensors"
    save({"a": np.ones(3, np.float32), "n": {"b": np.ones(2, np.float32)}}, path)
    device = jax.devices()[1]
    for where in (device, "cpu:1"):
        loaded = load(path, map_location=where, weights_only=True)
        assert loaded["a"].devices() == loaded["n"]["b"].devices() == {device}
    assert load(path, "cpu")["a"].devices() == {jax.devices()[0]}
    with pytest.raises(ValueError, match="would run code"):
        load(path, weights_only=False)
    with pytest.raises(TypeError, match="one device"):
        load(path, lambda storage, where: storage)
    with pytest.raises(RuntimeError, match="no device 'cuda'"):
        load(path, "cuda")


def test_jax_arrays_that_torch_pickled(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "x.pt"
    torch.save({"weight": jnp.ones(2)}, path)
    with pytest.raises(TorchFileError, match="an object of JAX's.*write the file with objnet.save or objnet.save_torch"):
        load(path)
