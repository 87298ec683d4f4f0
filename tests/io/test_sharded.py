"""Folders of weights: Hugging Face's layout, old or new and never mixed, and read one array at a time."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import objnet
from objnet import nn
from objnet.core import mapped
from objnet.io import FolderError, SafetensorError, load_file, open_folder, save_file, save_sharded, save_torch

INDEX = "model.safetensors.index.json"


def arrays(seed=0, count=6, n=64):
    """Some 256 bytes each."""
    return {f"k{i}": np.random.default_rng(seed + i).standard_normal(n, np.float32) for i in range(count)}


def check(folder, expected):
    """The folder holds just these arrays."""
    with open_folder(folder) as found:
        assert list(found) == list(expected) and len(found) == len(expected)
        for key, array in expected.items():
            assert found[key].dtype == array.dtype and found[key].shape == array.shape and found[key].tobytes() == array.tobytes()
            assert found.structs()[key] == jax.ShapeDtypeStruct(array.shape, array.dtype)
            assert np.asarray(found.get_array(key)).tobytes() == array.tobytes()


def test_a_small_model_is_one_file(tmp_path):
    save_sharded(arrays(), tmp_path / "new", metadata={"by": "me"})
    assert os.listdir(tmp_path / "new") == ["model.safetensors"]
    assert objnet.io.open_file(tmp_path / "new" / "model.safetensors").metadata() == {"format": "pt", "by": "me"}
    check(tmp_path / "new", arrays())
    save_sharded({}, tmp_path / "new")
    check(tmp_path / "new", {})


def test_shards_and_index(tmp_path):
    save_sharded({**arrays(), "big": np.zeros(1000, np.int8), "last": np.zeros(1, np.int8)}, tmp_path, 600, metadata={"by": "me"})
    names = [f"model-{i:05d}-of-00005.safetensors" for i in range(1, 6)]
    assert sorted(os.listdir(tmp_path)) == [*names, INDEX]
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["metadata"] == {"total_size": 6 * 256 + 1000 + 1, "by": "me"}
    assert list(index["weight_map"].values()) == [names[i] for i in (0, 0, 1, 1, 2, 2, 3, 4)]
    assert set(load_file(tmp_path / names[1])) == {"k2", "k3"}
    check(tmp_path, {**arrays(), "big": np.zeros(1000, np.int8), "last": np.zeros(1, np.int8)})


def test_transformers_and_the_hub_read_it(tmp_path):
    pytest.importorskip("torch")
    hub = pytest.importorskip("huggingface_hub")
    torch = sys.modules["torch"]
    state = {**arrays(), "low": jnp.ones(3, "bfloat16")}
    save_sharded(state, tmp_path, 600)
    module = torch.nn.Module()
    for key, array in state.items():
        module.register_buffer(key, torch.zeros(array.shape, dtype=torch.bfloat16 if key == "low" else torch.float32))
    assert not any(hub.load_torch_model(module, tmp_path))
    assert all(np.array_equal(module.get_buffer(key).float().numpy(), np.asarray(state[key], np.float32)) for key in state)


def test_what_the_hub_writes(tmp_path):
    torch = pytest.importorskip("torch")
    hub = pytest.importorskip("huggingface_hub")
    state = {key: torch.from_numpy(array) for key, array in arrays().items()}
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    hub.save_torch_state_dict(state, tmp_path / "a", max_shard_size=600)
    check(tmp_path / "a", arrays())
    hub.save_torch_state_dict(state, tmp_path / "b", max_shard_size=600, safe_serialization=False)
    assert (tmp_path / "b" / "pytorch_model.bin.index.json").exists()
    check(tmp_path / "b", arrays())


def test_torch_files(tmp_path):
    state = {**arrays(), "t": np.arange(6, dtype=np.int16).reshape(2, 3).T}
    save_torch(state, tmp_path / "pytorch_model.bin")
    check(tmp_path, state)
    model = nn.Module()
    for key, array in state.items():
        model.register_buffer(key, jnp.zeros_like(array))
    model.load_state_dict(open_folder(tmp_path))
    assert all(np.array_equal(model.get_buffer(key), array) for key, array in state.items())
    save_torch({"model": state}, tmp_path / "pytorch_model.bin")
    with pytest.raises(SafetensorError, match="no flat dict of tensors.*objnet.load"):
        open_folder(tmp_path)
    save_sharded(arrays(9), tmp_path)  # which comes first
    check(tmp_path, arrays(9))


# ------------------------------------------------------------------------------------------------------- saving over it

SAVES = [
    (arrays(0), 600),
    (arrays(100), 600),
    (arrays(200), "1MB"),
    (arrays(300), 300),
    (arrays(400, 3), 600),
    (arrays(500), 10**9),
]


def test_old_shards_go(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.fp16-00001-of-00002.safetensors").write_text("another's")
    for state, size in SAVES:
        save_sharded(state, tmp_path, size)
        check(tmp_path, state)
        names = set(os.listdir(tmp_path)) - {"config.json", "model.fp16-00001-of-00002.safetensors"}
        index = tmp_path / INDEX
        used = {INDEX, *json.loads(index.read_text())["weight_map"].values()} if index.exists() else {"model.safetensors"}
        assert names == used
    assert len(os.listdir(tmp_path)) == 3
    save_sharded(*SAVES[0][:1], tmp_path, 600)
    save_sharded(SAVES[1][0], tmp_path, 600)
    assert "model.2-00001-of-00003.safetensors" in os.listdir(tmp_path)
    save_sharded(SAVES[0][0], tmp_path, 600)
    assert "model-00001-of-00003.safetensors" in os.listdir(tmp_path)


class Crash(BaseException):
    pass


def crash_at(step, monkeypatch):
    """Let the process "die" before its ``step``-th rename or removal; whatever cleans up afterwards is dead too."""
    left = [step]

    def dying(function):
        def call(*args, **kwargs):
            if left[0] <= 0:
                raise Crash
            left[0] -= 1
            return function(*args, **kwargs)

        return call

    for name in ("replace", "unlink"):
        monkeypatch.setattr(os, name, dying(getattr(os, name)))
    return left


@pytest.mark.parametrize("old", [None, *range(len(SAVES))])
def test_a_crash_leaves_old_or_new(old, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # nothing of this must last
    outcomes = set()
    for new in range(len(SAVES)):
        for step in range(100):
            folder = tmp_path / f"{new}-{step}"
            folder.mkdir()
            if old is not None:
                save_sharded(SAVES[old][0], folder, SAVES[old][1])
            with monkeypatch.context() as patch:
                left = crash_at(step, patch)
                try:
                    save_sharded({k: -v for k, v in SAVES[new][0].items()}, folder, SAVES[new][1])
                except Crash:
                    pass
            expected_new = {k: -v for k, v in SAVES[new][0].items()}
            try:
                found = open_folder(folder)
            except FileNotFoundError:
                assert old is None
                outcomes.add("none")
            else:
                is_new = {k: v.tobytes() for k, v in found.items()} == {k: v.tobytes() for k, v in expected_new.items()}
                check(folder, expected_new if is_new else SAVES[old][0])
                outcomes.add("new" if is_new else "old")
            save_sharded(SAVES[0][0], folder, 600)  # and it can be saved to again, and gets clean
            check(folder, SAVES[0][0])
            assert {name for name in os.listdir(folder) if not name.startswith(".")} == {
                INDEX,
                *json.loads((folder / INDEX).read_text())["weight_map"].values(),
            }
            shutil.rmtree(folder)
            if left[0] > 0:
                break
    assert outcomes == ({"none", "new"} if old is None else {"old", "new"})


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"state_dict": {"a": 1}}, TypeError, "'a': expected a jax or numpy array"),
        ({"state_dict": {3: np.zeros(2)}}, TypeError, "keys must be str"),
        ({"state_dict": {**arrays(), "c": np.zeros(2, complex)}}, TypeError, "'c'.*complex128"),
        ({"max_shard_size": "5 parsecs"}, ValueError, "5 parsecs"),
        ({"max_shard_size": 0}, ValueError, "at least 1 byte"),
        ({"metadata": {"total_size": "3"}}, ValueError, "total_size"),
        ({"metadata": {"a": 3}}, TypeError, "metadata must map str to str"),
        ({"metadata": {"a": 3}, "max_shard_size": 600}, TypeError, "metadata must map str to str"),
        ({"folder": "file"}, NotADirectoryError, "file"),
        ({"folder": "no/folder"}, FileNotFoundError, "folder"),
    ],
)
def test_bad_arguments_change_nothing(arguments, error, message, tmp_path):
    save_sharded(arrays(), tmp_path, 600)
    (tmp_path / "file").write_text("")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    folder = tmp_path / arguments.pop("folder", ".")
    with pytest.raises(error, match=message):
        save_sharded(**{"state_dict": arrays(9), "folder": folder, **arguments})
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


# -------------------------------------------------------------------------------------------------------- bad folders


def test_all_faults_are_listed(tmp_path):
    save_sharded(arrays(), tmp_path, 300)
    names = [f"model-{i:05d}-of-00006.safetensors" for i in range(1, 7)]
    index = json.loads((tmp_path / INDEX).read_text())
    (tmp_path / names[0]).unlink()
    (tmp_path / names[1]).write_bytes((tmp_path / names[1]).read_bytes()[:-5])
    index["weight_map"] |= {"k9": names[2], "x": "../secret.safetensors", "y": "/etc/passwd", "z": "a/../../b", "w": ""}
    (tmp_path / INDEX).write_text(json.dumps(index))
    with pytest.raises(FolderError) as caught:
        open_folder(tmp_path)
    text = str(caught.value)
    assert "7 faults" in text and str(tmp_path / INDEX) in text
    for fault in (
        f"{names[0]} is missing",
        "truncated: 5 of its",
        f"'k9' is not in {names[2]}",
        "'../secret",
        "'/etc",
        "'a/..",
        "''",
    ):
        assert fault in text


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", "null", '{"weight_map": 3}', '{"weight_map": {"a": 1}}', '{"weight_map": ["a"]}', "[" * 10**5, '"\xff'],
)
def test_bad_indices(text, tmp_path):
    (tmp_path / INDEX).write_bytes(text.encode("latin-1"))
    with pytest.raises(FolderError, match="is no index"):
        open_folder(tmp_path)


def test_folders_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no weights: none of model.safetensors"):
        open_folder(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_folder(tmp_path / "missing")
    (tmp_path / "model.safetensors").write_bytes(b"x" * 20)
    with pytest.raises(SafetensorError, match="model.safetensors"):
        open_folder(tmp_path)
    with pytest.raises(NotADirectoryError):
        open_folder(tmp_path / "model.safetensors")


@pytest.mark.skipif(os.name != "posix", reason="links")
def test_the_hubs_cache_is_made_of_links(tmp_path):
    save_sharded(arrays(), tmp_path / "blobs", 600)
    (tmp_path / "snapshot").mkdir()
    for name in os.listdir(tmp_path / "blobs"):
        (tmp_path / "snapshot" / name).symlink_to(f"../blobs/{name}")
    check(tmp_path / "snapshot", arrays())


# --------------------------------------------------------------------------------------------------------- reading it


def test_it_is_read_only_and_can_be_closed(tmp_path):
    save_sharded(arrays(), tmp_path, 600)
    folder = open_folder(tmp_path)
    view = folder["k1"]
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 1
    with pytest.raises(KeyError):
        folder.get_array("k99")
    with pytest.raises(TypeError):
        folder["k1"] = view
    assert "k1" in folder and "k99" not in folder and repr(folder) == "<WeightsFolder, 6 arrays>"
    folder.close()
    with pytest.raises(ValueError, match="closed"):
        folder["k1"]
    assert np.array_equal(view, arrays()["k1"])  # which keeps its file


def test_saving_does_not_disturb_an_open_folder(tmp_path):
    save_sharded(arrays(), tmp_path, 600)
    folder = open_folder(tmp_path)
    save_sharded(arrays(50), tmp_path, 300)
    assert all(np.array_equal(folder.get_array(key), array) for key, array in arrays().items())


def mesh():
    return Mesh(np.array(jax.devices()[:2]), ("x",))


@pytest.mark.parametrize("spec", [(), ("x",), (None, "x"), (None, None)])
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_get_array(spec, dtype, tmp_path):
    array = np.arange(48, dtype=np.float32).reshape(8, 6)
    save_sharded({"w": array}, tmp_path)
    sharding = NamedSharding(mesh(), PartitionSpec(*spec))
    found = open_folder(tmp_path).get_array("w", sharding, dtype)
    assert found.sharding == sharding and found.dtype == (dtype or "float32") and np.array_equal(found.astype("float32"), array)
    alone = open_folder(tmp_path).get_array("w", jax.devices()[1])
    assert alone.devices() == {jax.devices()[1]} and np.array_equal(alone, array)


def test_get_array_of_wide_dtypes(tmp_path):
    save_sharded({"i": np.array([2**40]), "f": np.array([0.1])}, tmp_path)
    folder = open_folder(tmp_path)
    assert folder.get_array("i").dtype == np.int64 and folder.get_array("i")[0] == 2**40
    with pytest.raises(ValueError, match="dtype=int32"):
        folder.get_array("i", jax.devices()[0])
    assert folder.get_array("f", dtype="float32").dtype == jnp.float32


class Net(nn.Module):
    def __init__(self, n=16):
        super().__init__()
        self.fc, self.bn = nn.Linear(n, n), nn.BatchNorm1d(n)


def put(parameter, *spec):
    parameter.value = jax.device_put(parameter.value, NamedSharding(mesh(), PartitionSpec(*spec)))


@pytest.mark.parametrize("size", [10**9, 600])
@pytest.mark.parametrize("abstract", [False, True])
def test_load_state_dict(size, abstract, tmp_path):
    source = Net()
    state = dict(source.state_dict())
    state["bn.num_batches_tracked"] = np.array(7, np.int64)  # as torch has it
    save_sharded(state, tmp_path, size)
    if abstract:
        with objnet.abstract():
            model = Net()
    else:
        model = Net()
    assert not any(model.load_state_dict(open_folder(tmp_path)))
    for key, value in model.state_dict().items():
        assert value.dtype == source.state_dict()[key].dtype and np.array_equal(value, state[key])


@pytest.mark.parametrize("spec", [("x",), (None, "x"), ()])
def test_arrays_go_to_where_their_parameters_are(spec, tmp_path):
    source, model = Net(), Net()
    put(model.fc.weight, *spec)
    put(model.fc.bias)
    model.bn.weight.value = jax.device_put(model.bn.weight.value, jax.devices()[1])
    before = {key: value.sharding for key, value in model.state_dict().items()}
    save_sharded(source.state_dict(), tmp_path, 600)
    model.load_state_dict(open_folder(tmp_path))
    assert {key: value.sharding for key, value in model.state_dict().items()} == before
    assert all(np.array_equal(value, source.state_dict()[key]) for key, value in model.state_dict().items())
    model.load_state_dict({key: np.asarray(value) for key, value in source.state_dict().items()})  # a plain dict does as well
    assert model.fc.weight.value.sharding == before["fc.weight"]


def test_only_slices_are_read(tmp_path, monkeypatch):
    """No host copy of the whole is made for a sharded parameter."""
    source, model = nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False)
    put(model.weight, "x")
    save_sharded(source.state_dict(), tmp_path)
    reads = []
    original = mapped.MappedFile.read
    monkeypatch.setattr(
        mapped.MappedFile, "read", lambda self, offset, room: reads.append(len(room)) or original(self, offset, room)
    )
    model.load_state_dict(open_folder(tmp_path))
    assert reads == [64 * 64 * 4 // 2] * 2 and np.array_equal(model.weight.value, source.weight.value)


def values(model):
    return {key: np.asarray(value) for key, value in model.state_dict().items()}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"extra": np.zeros(3)}, "Unexpected key.*extra"),
        ({"fc.bias": None}, "Missing key.*fc.bias"),
        ({"fc.bias": np.zeros(3, np.float32)}, "size mismatch for fc.bias"),
        ({"bn.num_batches_tracked": np.array(2**40)}, "bn.num_batches_tracked.*do not fit int32"),
        ({"bn.bias": np.full(16, 1e300)}, "bn.bias.*overflow"),
    ],
)
def test_what_does_not_fit_changes_nothing(change, message, tmp_path):
    model = Net()
    before = values(model)
    state = {key: value for key, value in {**values(Net()), **change}.items() if value is not None}
    save_sharded(state, tmp_path, 600)
    with pytest.raises(RuntimeError, match=message):
        model.load_state_dict(open_folder(tmp_path))
    after = values(model)
    assert all(np.array_equal(before[key], after[key]) for key in before)


def test_bad_content_changes_nothing(tmp_path):
    model = nn.Linear(4, 4)
    model.register_buffer("mask", jnp.zeros(4, bool))
    state = {**values(model), "mask": np.ones(4, np.uint8) * 2}
    before = values(model)
    save_file(state, tmp_path / "model.safetensors")
    data = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(data.replace(b'"dtype":"U8"', b'"dtype":"BOOL"').replace(b"   ", b" ", 1))
    with pytest.raises(SafetensorError):
        model.load_state_dict(open_folder(tmp_path))
    assert all(np.array_equal(before[key], array) for key, array in values(model).items())


def test_a_part_of_the_keys(tmp_path):
    model = Net()
    kept = np.asarray(model.bn.weight.value)
    save_sharded({"fc.bias": np.full(16, 3, ml_dtypes.bfloat16), "other": np.zeros(1)}, tmp_path)
    result = model.load_state_dict(open_folder(tmp_path), strict=False)
    assert result.unexpected_keys == ["other"] and "bn.weight" in result.missing_keys
    assert model.fc.bias.dtype == jnp.float32 and (model.fc.bias.value == 3).all() and np.array_equal(model.bn.weight.value, kept)


def test_hooks_and_overrides_see_arrays(tmp_path):
    model = nn.Linear(4, 3, bias=False)
    weight = np.arange(12, dtype=np.float32).reshape(4, 3)
    save_sharded({"old": weight}, tmp_path)

    def rename(module, state_dict, prefix, *rest):
        state_dict["weight"] = state_dict.pop("old").T

    model.register_load_state_dict_pre_hook(rename)
    model.load_state_dict(open_folder(tmp_path))
    assert np.array_equal(model.weight.value, weight.T)


def test_old_values_go_one_by_one(tmp_path):
    """Not all are kept until the end, lest there be two models in memory."""
    model = nn.Sequential(*(nn.Linear(32, 32, bias=False) for _ in range(6)))
    save_sharded(model.state_dict(), tmp_path, 5000)
    alive = []
    shape = (32, 32)
    folder = open_folder(tmp_path)
    original = mapped.MappedArray.release

    def count(self):
        alive.append(sum(a.shape == shape and not a.is_deleted() for a in jax.live_arrays()))
        return original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mapped.MappedArray, "release", count)
        before = sum(a.shape == shape for a in jax.live_arrays())
        model.load_state_dict(folder)
    assert len(alive) == 6 and max(alive) <= before + 1


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux's peak of the resident set")
def test_peak_memory_and_no_torch(tmp_path):
    """Model and one shard: 96 MB from shards of 16 MB, half of it cast; in a process of its own, which cannot import torch."""
    state = {f"{i}.weight": np.full((1024, 1024), i, np.float64 if i % 2 else np.float32) for i in range(24)}
    save_sharded(state, tmp_path, "17MB")
    code = f"""
import sys
sys.modules["torch"] = None
import jax, objnet
from objnet import nn
from objnet.io import open_folder
objnet.save_torch({{"w": jax.numpy.ones(2)}}, {str(tmp_path / "f.pt")!r})
assert objnet.load({str(tmp_path / "f.pt")!r})["w"].sum() == 2
def memory(field):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(field)) / 1024
with objnet.abstract():
    model = nn.Sequential(*(nn.Linear(1024, 1024, bias=False) for _ in range(24)))
with objnet.abstract():
    warm = nn.Linear(1024, 1024, bias=False)
warm.load_state_dict({{"weight": open_folder({str(tmp_path)!r})["0.weight"]}})
open("/proc/self/clear_refs", "w").write("5")
before = memory("VmRSS")
model.load_state_dict(open_folder({str(tmp_path)!r}))
print(memory("VmHWM") - before, sum(float(m.weight.value[0, 0]) for m in model))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"}
    )
    peak, total = map(float, done.stdout.split())
    assert total == sum(range(24)) and 90 < peak < 96 + 16


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=6).filter(lambda key: key != "__metadata__")
dtypes = st.sampled_from(["float32", "int8", "bool", "bfloat16", "float8_e4m3fn", "complex64", "int64"])
shapes = st.lists(st.integers(0, 4), max_size=3)


@settings(max_examples=100)
@given(st.dictionaries(names, st.tuples(dtypes, shapes), max_size=8), st.integers(1, 200))
def test_random_state_dicts(tmp_path_factory, kinds, size):
    folder = tmp_path_factory.mktemp("f")
    random = np.random.default_rng(0)
    state = {key: random.integers(0, 2, shape).astype(jnp.dtype(dtype)) for key, (dtype, shape) in kinds.items()}
    save_sharded(state, folder, size)
    check(folder, state)
    shards = [load_file(path) for path in folder.glob("*.safetensors")]
    for shard in shards:
        assert len(shard) <= 1 or sum(array.nbytes for array in shard.values()) <= size
    save_sharded(dict(reversed(state.items())), folder, size)
    check(folder, dict(reversed(state.items())))
    shutil.rmtree(folder)
