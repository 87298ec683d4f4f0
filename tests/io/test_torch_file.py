"""Files for torch and of torch: equal both ways, tied as they were, and nothing in them is run or believed unchecked."""

from __future__ import annotations

import io
import os
import pickle
import struct
import sys
import zipfile
from collections import Counter, OrderedDict, defaultdict

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

import objnet
from objnet import nn
from objnet.io import TorchFileError, load_torch, save_torch
from objnet.io.torch_pickle import DTYPES, STORAGES

WIDE = {"int64", "uint64", "float64", "complex128"}  # which jax narrows
try:
    import torch
except ImportError:
    torch = None
needs_torch = pytest.mark.skipif(torch is None, reason="torch is not installed")


def as_numpy(x):
    """A tensor's or array's bits, dtype name and shape."""
    if torch is not None and isinstance(x, torch.Tensor):
        name = str(x.dtype).removeprefix("torch.")
        x = x.detach().resolve_conj().resolve_neg().contiguous()
        return name, tuple(x.shape), x.reshape(-1).view(torch.uint8).numpy().tobytes() if x.numel() else b""
    x = np.asarray(x)
    return x.dtype.name, x.shape, x.tobytes()


def check(found, saved):
    if hasattr(saved, "dtype") and hasattr(saved, "shape"):
        assert as_numpy(found) == as_numpy(saved)
        return
    assert type(found) is type(saved)
    if isinstance(saved, (list, tuple)):
        assert len(found) == len(saved)
        for a, b in zip(found, saved, strict=True):
            check(a, b)
    elif isinstance(saved, dict):
        assert list(found) == list(saved)
        for key in saved:
            check(found[key], saved[key])
    else:
        assert found == saved or (found != found and saved != saved)


def by_torch(obj, **options):
    file = io.BytesIO()
    torch.save(obj, file, **options)
    return file.getvalue()


def written(obj):
    file = io.BytesIO()
    save_torch(obj, file)
    return file.getvalue()


def read(data):
    return load_torch(io.BytesIO(data))


def example():
    return {
        "weights": OrderedDict(a=jnp.arange(6.0).reshape(2, 3), b=np.ones((2, 0, 3), np.float64)),
        "list": [
            1,
            -300,
            2**31,
            2**70,
            0.5,
            float("inf"),
            None,
            True,
            "tëxt",
            "\ud800",
            b"\0\xff",
            2 - 3j,
            (),
            [],
            {},
            OrderedDict(),
        ],
        (1, "key"): {3: (jnp.zeros((), "bfloat16"), ["x"])},
        "milestones": Counter({3: 1, 8: 2}),
        "set": {1, "a"},
    }


# ------------------------------------------------------------------------------------------------------------- to torch


@needs_torch
@pytest.mark.parametrize("mapped", [False, True])
def test_torch_loads_what_is_saved(mapped, tmp_path):
    path = tmp_path / "model.pt"
    save_torch(example(), path)
    check(torch.load(path, weights_only=True, mmap=mapped), example())
    save_torch({"all": 3}, path)  # replaces it
    assert torch.load(path, weights_only=True) == {"all": 3}


@needs_torch
@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_both_ways(name, tmp_path):
    array = np.arange(12).reshape(3, 4)[:, ::2].astype(DTYPES[name])
    found = torch.load(io.BytesIO(written([array, array.T, np.array(array[1, 1])])), weights_only=True)
    assert found[0].dtype == getattr(torch, name)
    check(found, [array, array.T, np.array(array[1, 1])])
    back = read(by_torch([found[0].T, found[2], getattr(torch, name)]))
    check(back[:2], [array.T, np.array(array[1, 1])])
    assert back[2] == DTYPES[name]
    assert isinstance(back[0], np.ndarray if name in WIDE else jax.Array)


@needs_torch
def test_one_array_twice_is_one_storage():
    a, p = jnp.ones(1000), nn.Parameter(jnp.ones(1000))
    data = written({"a": a, "b": [a], "c": jnp.ones(1000), "p": p, "q": p})
    found = torch.load(io.BytesIO(data), weights_only=True)
    assert found["a"].data_ptr() == found["b"][0].data_ptr() != found["c"].data_ptr()
    assert found["p"].data_ptr() == found["q"].data_ptr()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert sum("/data/" in name for name in archive.namelist()) == 3
    ours = read(data)
    assert ours["a"] is ours["b"][0] and ours["a"] is not ours["c"] and ours["p"] is ours["q"]


@needs_torch
def test_state_dicts_go_both_ways_with_their_versions(tmp_path):
    ours, theirs = nn.BatchNorm1d(3), torch.nn.BatchNorm1d(3)
    ours.weight.data = jnp.array([1.0, 2.0, 3.0])
    save_torch(ours.state_dict(), tmp_path / "a.pth")
    found = torch.load(tmp_path / "a.pth", weights_only=True)
    assert found._metadata[""] == {"version": 2}
    theirs.load_state_dict(found)
    assert theirs.weight.tolist() == [1, 2, 3]
    torch.save(theirs.state_dict(), tmp_path / "b.pth")
    again = nn.BatchNorm1d(3)
    loaded = objnet.load(tmp_path / "b.pth")
    again.load_state_dict(loaded)
    assert again.weight.tolist() == [1, 2, 3] and loaded._metadata[""] == {"version": 2}


@needs_torch
def test_a_training_state(tmp_path):
    group = {"lr": 0.1, "betas": (0.9, 0.999), "foreach": None, "amsgrad": False, "params": [0, 1]}
    moments = {i: {"step": torch.tensor(3.0), "exp_avg": torch.randn(2, 3)} for i in range(2)}
    schedule = {"milestones": Counter([2, 5]), "gamma": 0.1, "last_epoch": 1, "_last_lr": [0.1]}
    saved = {"optimizer": {"state": moments, "param_groups": [group]}, "scheduler": schedule, "rng": torch.get_rng_state()}
    check(read(by_torch(saved)), saved)


@needs_torch
@pytest.mark.slow  # torch.optim takes seconds to import
def test_an_optimizer_state_of_torch(tmp_path):
    module = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 5])
    module(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    scheduler.step()
    saved = {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict(), "rng": torch.get_rng_state()}
    check(read(by_torch(saved)), saved)


def test_the_archive_is_as_torch_makes_it(tmp_path):
    save_torch({"w": jnp.ones(100), "v": np.ones(3, np.int8)}, tmp_path / "net.pt")
    data = (tmp_path / "net.pt").read_bytes()
    with zipfile.ZipFile(tmp_path / "net.pt") as archive:
        assert archive.testzip() is None
        for name, content in (("version", b"3\n"), ("byteorder", sys.byteorder.encode()), (".format_version", b"1")):
            assert archive.read(f"net/{name}") == content
        for info in archive.infolist():
            lengths = struct.unpack("<HH", data[info.header_offset + 26 : info.header_offset + 30])
            assert (info.header_offset + 30 + sum(lengths)) % 64 == 0


@pytest.mark.parametrize(
    "obj, message",
    [
        ({"a": [1, object()]}, r"at \['a'\]\[1\]: cannot save builtins.object"),
        ({"m": nn.Identity()}, r"at \['m'\].*state_dict"),
        ({"k": jax.random.key(0)}, r"at \['k'\]: torch has no dtype key"),
        ({"i": jnp.zeros(2, "int4")}, "torch has no dtype int4"),
        ({frozenset(): 1}, "dict key or set item of type builtins.frozenset"),
        (Counter, "at the top level: cannot save"),
        ({"d": defaultdict(int)}, "defaultdict"),
    ],
)
def test_what_cannot_be_saved_is_named_and_harms_nothing(obj, message, tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"old")
    with pytest.raises(TypeError, match=message):
        save_torch(obj, path)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["f"]


def test_what_contains_itself():
    endless = []
    endless.append(endless)
    with pytest.raises(ValueError, match="contain itself"):
        written(endless)
    with pytest.raises(TypeError, match="traced"):
        jax.jit(lambda x: written({"x": x}))(1.0)


def test_odd_file_names(tmp_path):
    for name in ("ä.pt", "a:b.pt", "no_ending", "a b.tar.pt"):
        save_torch([jnp.ones(2)], tmp_path / name)
        assert load_torch(tmp_path / name)[0].tolist() == [1, 1]
        if torch is not None:
            assert torch.load(tmp_path / name, weights_only=True)[0].tolist() == [1, 1]


# ------------------------------------------------------------------------------------------------------------ from torch


def views():
    base = torch.arange(24.0).reshape(4, 6)
    return {
        "base": base,
        "t": base.T,
        "rows": base[1:3],
        "odd": base[1:, 1::2],
        "tied": base.detach(),
        "expanded": torch.ones(1, 3).expand(5, 3),
        "permuted": torch.arange(24).reshape(2, 3, 4).permute(2, 0, 1),
        "scalar": base[2, 3],
        "empty": torch.zeros(0, 3),
        "channels": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "parameter": torch.nn.Parameter(base * 2),
        "buffer": torch.nn.Buffer(base * 3),
        "conj": torch.tensor([[1 + 2j, 3 - 4j]]).conj(),
        "neg": torch.tensor([[1 + 2j, 3 - 4j]]).conj().imag,
        "bf": torch.randn(5).bfloat16()[1:4],
        "half": [torch.randn(3).half(), torch.tensor([True, False])],
    }


@needs_torch
@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}])
def test_views_of_storages(options):
    saved = views()
    found = read(by_torch(saved, **options))
    check(found, saved)
    assert found["tied"] is found["base"] and found["rows"] is not found["base"]


@needs_torch
@pytest.mark.parametrize("legacy", [False, True])
def test_plain_values_of_torch(legacy):
    saved = [torch.Size([2, 3]), torch.device("cuda", 1), torch.float64, {1, 2}, 3j, bytearray(b"ab"), b"\xff", Counter("ab")]
    found = read(by_torch(saved, _use_new_zipfile_serialization=not legacy))
    assert found == [(2, 3), "cuda:1", np.dtype("float64"), {1, 2}, 3j, bytearray(b"ab"), b"\xff", Counter("ab")]


@needs_torch
@pytest.mark.filterwarnings("ignore:.*quantized tensor creation functions")
@pytest.mark.parametrize(
    "obj, message",
    [
        (lambda: torch.nn.Linear(1, 1), "torch.nn.modules.linear.Linear.*would run code.*state_dict"),
        (lambda: {"x": torch.eye(2).to_sparse()}, "_rebuild_sparse_tensor.*dense"),
        (lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "_rebuild_qtensor.*dense"),
        (lambda: [np.float64(3)], "numpy.*scalar.*Python number"),
        (lambda: torch.zeros(2, device="meta"), "meta.*dense"),
        (lambda: defaultdict(int), "collections.defaultdict"),
    ],
)
def test_what_is_not_plain_is_named(obj, message):
    for legacy in (False, True):
        try:
            data = by_torch(obj(), _use_new_zipfile_serialization=not legacy)
        except Exception:
            assert legacy  # which cannot hold it
            continue
        with pytest.raises(TorchFileError, match=message):
            read(data)


class Evil:
    def __init__(self, function, *arguments):
        self._reduced = function, arguments

    def __reduce__(self):
        return self._reduced


def archive(program, records=(), order=b"little", folder="archive", compress=zipfile.ZIP_STORED):
    """A zip archive of these bytes of pickle and records by name."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compress) as target:
        for name, content in (("data.pkl", program), ("byteorder", order), *dict(records).items()):
            target.writestr(f"{folder}/{name}", content)
    return file.getvalue()


def tensor(offset=0, shape=(2,), strides=(1,), count=4, key="0", kind="FloatStorage", prefix=b"", suffix=b""):
    """A pickle of one tensor, with numbers of your choice."""

    def atom(value):
        return pickle.dumps(value, 2)[2:-1]

    out = b"\x80\x02" + prefix + b"ctorch._utils\n_rebuild_tensor_v2\n(("
    out += atom("storage") + f"ctorch\n{kind}\n".encode() + atom(key) + atom("cpu") + atom(count) + b"tQ"
    out += atom(offset) + atom(shape) + atom(strides) + b"\x89ccollections\nOrderedDict\n)RtR" + suffix + b"."
    return out


STORED = {"data/0": np.arange(4, dtype="<f4").tobytes()}


def test_the_handmade_file_is_good():
    assert read(archive(tensor(), STORED)).tolist() == [0, 1]
    assert read(archive(tensor(1, (3,), (1,)), STORED)).tolist() == [1, 2, 3]


@pytest.mark.parametrize("name", [name for name in STORAGES.values() if name != "bool"])
def test_big_endian_files(name):
    kind = next(f"{kind}Storage" for kind, dtype in STORAGES.items() if dtype == name)
    values = np.array([1, 2, 3, 100]).astype(DTYPES[name])
    part = DTYPES[name].itemsize // (2 if DTYPES[name].kind == "c" else 1)
    content = values.view(f"u{part}").byteswap().tobytes()
    found = read(archive(tensor(1, kind=kind), {"data/0": content}, b"big"))
    assert as_numpy(found) == as_numpy(values[1:3])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"count": 5}, "storage '0' should have 20 bytes, but has 16"),
        ({"offset": 3}, "reaches to element 4 of a storage of 4"),
        ({"offset": -1}, "do not fit each other"),
        ({"shape": (2,), "strides": (4,)}, "reaches to element 4"),
        ({"shape": (2,), "strides": (-1,)}, "no natural number"),
        ({"shape": (-2,)}, "no natural number"),
        ({"shape": (2.0,)}, "no natural number"),
        ({"shape": (2, 2)}, "do not fit each other"),
        ({"shape": (1,) * 65, "strides": (1,) * 65}, "no short tuple"),
        ({"shape": (2**40, 2**40), "strides": (0, 0)}, "too large"),
        ({"shape": (2**40, 0), "strides": (0, 0)}, None),
        ({"shape": (2**62, 2**62, 0), "strides": (0, 0, 0)}, "too large"),
        ({"shape": (2**33,), "strides": (0,)}, "many times the bytes"),
        ({"key": "1"}, "record 'data/1' is missing"),
        ({"key": "../data.pkl"}, "is missing"),
        ({"key": 3}, "no storage"),
        ({"count": -1}, "no storage"),
        ({"count": 2**70}, "should have"),
        ({"kind": "QInt8Storage"}, "torch.QInt8Storage.*no counterpart"),
        ({"kind": "BoolStorage", "count": 16, "shape": (16,)}, "bytes other than 0 and 1"),
        ({"suffix": b"}b"}, "sets the state of"),
    ],
)
def test_hostile_tensors(change, message):
    if message is None:
        read(archive(tensor(**change), STORED))
        return
    with pytest.raises(TorchFileError, match=f"BytesIO.*{message}"):
        read(archive(tensor(**change), STORED))


def test_many_views_of_one_storage_are_limited():
    one = tensor(0, (1000, 1000, 20), (0, 0, 0))[2:-1]  # 80 MB of 16 bytes
    views = [tensor(0, (1000, 1000, 20 + i), (0, 0, 0))[2:-1] for i in range(10)]
    assert read(archive(b"\x80\x02](" + one * 10 + b"e.", STORED))[9].shape == (1000, 1000, 20)  # one and the same
    with pytest.raises(TorchFileError, match="many times the bytes"):
        read(archive(b"\x80\x02](" + b"".join(views) + b"e.", STORED))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("protocol", [2, 4])
def test_nothing_is_run(legacy, protocol, tmp_path):
    victim = tmp_path / "victim"
    program = pickle.dumps({"a": Evil(os.mkdir, str(victim))}, protocol)
    if legacy:
        head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
        data = b"".join(pickle.dumps(part, 2) for part in head) + program + pickle.dumps([], 2)
    else:
        data = archive(program)
    with pytest.raises(TorchFileError, match="posix.mkdir|nt.mkdir"):
        read(data)
    assert not victim.exists()


@pytest.mark.parametrize(
    "program, message",
    [
        (b"\x80\x02ccollections\nOrderedDict\nN}b.", "sets the state"),
        (b"\x80\x02ccollections\nOrderedDict\n}X\x01\0\0\0ak\x86b.", "malformed"),
        (b"\x80\x02K\x01)R.", "no function"),
        (b"\x80\x02ctorch\nfloat32\n)R.", "no function"),
        (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.", "malformed"),
        (b"\x80\x02i__builtin__\neval\n.", "malformed|opcode INST"),
        (b"\x80\x02(ios\nsystem\n.", "opcode INST"),
        (b"\x80\x02c__builtin__\neval\n.", "__builtin__.eval"),
        (b"\x80\x02\x82\x01.", "opcode EXT1"),
        (b"\x80\x02K\x01Q.", "no storage"),
        (b"\x80\x02}]K\x01s.", "key or set item is a list"),
        (b"\x80\x02}.extra", None),
        (b"\x80\x02", "cut short"),
        (b"\x80\x02X\xff\xff\xff\x7fabc.", "cut short"),
        (b"\x80\x02\x8b\xff\xff\xff\x7f\x01.", "cut short"),
        (b"\x80\x02h\x05.", "malformed"),
        (b"\x80\x02.", "malformed"),
        (b"\x80\x02t.", "malformed"),
        (b"\x80\x02(a.", "malformed"),
        (b"\x80\x02K\x01K\x02a.", "puts items into"),
        (b"\x80\x02ccollections\nCounter\nK\x05\x85R.", "Counter"),
        (b"\x80\x02c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R.", "bytearray"),
        (b"\x80\x02ctorch\nSize\n]\x85R.", None),
        (b"I" + b"9" * 5000 + b"\n.", "malformed"),
        (b"\x80\x02\xff.", "malformed"),
        # a tuple of a tuple of ... twice each, as a key: 2 ** 60 parts to hash
        (b"\x80\x02}K\x01" + b"2\x86" * 60 + b"K\x01s.", "key or set item is a tuple"),
        # one long list, copied again and again
        (
            b"\x80\x02](" + b"K\x01" * 10_000 + b"eq\x00](" + b"c__builtin__\nset\nh\x00\x85R" * 5_000 + b"e.",
            "far more than its own length",
        ),
    ],
)
def test_hostile_pickles(program, message):
    if message is None:
        read(archive(program))
        return
    with pytest.raises(TorchFileError, match=message):
        read(archive(program))


def test_odd_archives():
    good = archive(tensor(), STORED)
    with pytest.raises(TorchFileError, match="compressed"):
        read(archive(tensor(), STORED, compress=zipfile.ZIP_DEFLATED))
    with pytest.raises(TorchFileError, match="no data.pkl"):
        read(archive(tensor(), STORED, folder="a/b"))
    with pytest.raises(TorchFileError, match="TorchScript"):
        read(archive(tensor(), {**STORED, "constants.pkl": b""}))
    with pytest.raises(TorchFileError, match="neither little nor big"):
        read(archive(tensor(), STORED, b"middle"))
    with pytest.warns(UserWarning, match="Duplicate"):
        twice = archive(tensor(), {**STORED, "byteorder": b"big"})
    with pytest.raises(TorchFileError, match="twice"):
        read(twice)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as target:  # as torch before 2.1: no byteorder
        target.writestr("m/data.pkl", tensor())
        target.writestr("m/data/0", STORED["data/0"])
    assert read(file.getvalue()).tolist() == [0, 1]
    # a record that claims to be as large as it likes, in the directory and in its own header
    size = struct.pack("<II", 16, 16)
    with pytest.raises(TorchFileError):
        read(good.replace(size, struct.pack("<II", 2**31, 2**31)))
    with pytest.raises(TorchFileError, match="neither a zip archive nor begins"):
        read(pickle.dumps({"a": 1}))
    for data in (b"", b"PK\x03\x04", b"hello", b"\x80", b"\x80\x02"):
        with pytest.raises(TorchFileError):
            read(data)


@needs_torch
@pytest.mark.parametrize("legacy", [False, True])
def test_truncated_anywhere(legacy):
    data = by_torch({"a": torch.ones(3), "b": [torch.zeros(2, dtype=torch.int16)]}, _use_new_zipfile_serialization=not legacy)
    for length in range(0, len(data), 7):
        with pytest.raises(TorchFileError):
            read(data[:length])


@needs_torch
@settings(max_examples=300)
@given(st.booleans(), st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=4))
def test_corruption_is_refused_or_harmless(legacy, changes):
    data = bytearray(CORRUPTIBLE[legacy]())
    for place, byte in changes:
        data[int(place * len(data))] = byte
    try:
        read(bytes(data))
    except TorchFileError:
        pass


CORRUPTIBLE = {
    legacy: lambda legacy=legacy: by_torch(
        {"a": torch.ones(3), "s": OrderedDict(x=(1, 2.0, "t"))}, _use_new_zipfile_serialization=not legacy
    )
    for legacy in (False, True)
}

arrays = st.sampled_from(sorted(DTYPES)).flatmap(
    lambda name: hnp.arrays(np.uint8, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)).map(
        lambda raw: raw.astype(DTYPES[name])
    )
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=20) | st.complex_numbers()
keys = st.text() | st.integers() | st.tuples(st.integers(), st.text())
structures = st.recursive(
    scalars | arrays,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(keys, inner, max_size=4)
        | st.dictionaries(keys, inner, max_size=4).map(OrderedDict)
    ),
    max_leaves=12,
)


@settings(max_examples=200)
@given(structures)
def test_random_structures(obj):
    data = written(obj)
    check(read(data), obj)
    if torch is not None:
        found = torch.load(io.BytesIO(data), weights_only=True)
        check(found, obj)
        check(read(by_torch(found)), obj)
        check(read(by_torch(found, _use_new_zipfile_serialization=False)), obj)


@pytest.mark.slow
def test_more_than_four_gigabytes(tmp_path):
    big = np.zeros(2**32 + 100, np.uint8)
    big[-1] = 7
    save_torch({"big": big, "after": np.arange(3, dtype=np.int32)}, tmp_path / "big.pt")
    found = load_torch(tmp_path / "big.pt")
    assert found["big"].shape == big.shape and int(np.asarray(found["big"])[-1]) == 7 and found["after"].tolist() == [0, 1, 2]
    if torch is not None:
        theirs = torch.load(tmp_path / "big.pt", weights_only=True, mmap=True)
        assert int(theirs["big"][-1]) == 7 and theirs["after"].tolist() == [0, 1, 2]
