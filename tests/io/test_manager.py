"""``CheckpointManager``: whole or not there, all or nothing, whatever happens in between."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import objnet
import objnet.nn.functional as F
from objnet import nn, optim
from objnet.core import errors
from objnet.io import CheckpointManager, step_folder

ROOT = Path(__file__).parents[2]
X = np.ones((4, 3), np.float32)


class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 2)

    def forward(self, x):
        return self.last(F.relu(self.norm(self.first(x))))


def _setup(width=4, **options):
    model = Net(width)
    optimizer = optim.AdamW(model.parameters(), lr=0.01, **options)
    scheduler = optim.lr_scheduler.MultiStepLR(optimizer, [2, 4])
    return {"model": model, "optimizer": optimizer, "scheduler": scheduler}


def _train(state, steps=2):
    step = objnet.jit(lambda: state["optimizer"].step(lambda: (state["model"](X) ** 2).mean()))
    for _ in range(steps):
        step()
        state["scheduler"].step()


def _values(state):
    return jax.tree.map(np.asarray, [dict(state["model"].state_dict()), state["optimizer"].state_dict()["state"]])


def _same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("shard", ["5GB", 100])
def test_a_whole_state_comes_back(tmp_path, asynchronous, shard):
    state = _setup()
    _train(state)
    data = {"epoch": 3, "best": float("inf"), "seen": np.arange(5), "names": ["a", ("b", None)], "nested": {"more": jnp.ones(2)}}
    with CheckpointManager(tmp_path / "run", max_shard_size=shard) as manager:
        assert manager.latest_step() is None and manager.all_steps() == []
        manager.save(7, {**state, "data": data}, asynchronous=asynchronous)
        saved = _values(state)
        objnet.manual_seed(11)
        _train(state)  # donates what was saved
        again = _setup()
        found = manager.restore({**again, "data": {"epoch": 0}})
    _same(_values(again), saved)
    assert again["scheduler"].state_dict() == {**state["scheduler"].state_dict(), **again["scheduler"].state_dict()}
    assert again["scheduler"].last_epoch == 2 and again["optimizer"].param_groups[0]["lr"] == pytest.approx(0.001)
    assert found["model"] is again["model"]
    back = found["data"]
    assert back["epoch"] == 3 and back["best"] == float("inf") and back["names"] == ["a", ("b", None)]
    assert back["seen"].tolist() == [0, 1, 2, 3, 4] and isinstance(back["nested"]["more"], jax.Array)
    files = [p.name for p in (tmp_path / "run" / "step_00000007").iterdir()]
    assert (len(files) > 3) == (shard == 100)


def test_the_random_state_comes_back(tmp_path):
    manager = CheckpointManager(tmp_path)
    objnet.manual_seed(5)
    objnet.next_rng_key()
    manager.save(0, {})
    wanted = [np.asarray(jax.random.key_data(objnet.next_rng_key())), np.asarray(nn.Linear(3, 3).weight)]
    for rng in (True, False):
        objnet.manual_seed(6)
        CheckpointManager(tmp_path, rng=rng).restore({})
        found = [np.asarray(jax.random.key_data(objnet.next_rng_key())), np.asarray(nn.Linear(3, 3).weight)]
        assert all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True)) == rng
    assert set(manager.load()) == {"objnet.rng"}


def test_arrays_a_user_changes_in_place_are_fixed_when_saved(tmp_path, monkeypatch):
    go = threading.Event()
    write = step_folder.write
    monkeypatch.setattr(step_folder, "write", lambda *args: (go.wait(30), write(*args)))
    position = np.zeros(3)
    manager = CheckpointManager(tmp_path)
    manager.save(0, {"position": position}, asynchronous=True)
    position[:] = 9
    go.set()
    manager.wait_until_finished()
    assert manager.load()["position"].tolist() == [0, 0, 0]


def test_the_newest_are_kept(tmp_path):
    with CheckpointManager(tmp_path, max_to_keep=2) as manager:
        for step in (1, 5, 3, 9):
            manager.save(step, {"step": step}, asynchronous=step % 2 == 0)
        assert manager.all_steps() == [5, 9] and manager.latest_step() == 9
        assert manager.restore({})["step"] == 9 and manager.restore({}, step=5)["step"] == 5
        with pytest.raises(FileExistsError, match="delete\\(9\\)"):
            manager.save(9, {})
        manager.delete(9)
        manager.save(9, {"step": "again"})
        assert manager.restore({})["step"] == "again"
        with pytest.raises(FileNotFoundError, match=r"step 3; there are \[5, 9\]"):
            manager.restore({}, step=3)
        for wrong in (-1, 1.5, True, "1"):
            with pytest.raises(ValueError, match="whole number"):
                manager.save(wrong, {})
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".objnet")]


def test_everything_that_does_not_fit_is_listed_once_and_nothing_is_loaded(tmp_path):
    saved = _setup()
    _train(saved)
    manager = CheckpointManager(tmp_path)
    manager.save(0, {**saved, "extra": saved["model"], "epoch": 4})
    other = _setup(width=5)
    extra = optim.SGD([nn.Parameter(jnp.ones(1))], lr=0.5)
    before = _values(other)
    with pytest.raises(errors.StructureMismatchError) as caught:
        manager.restore({**other, "ema": Net(), "epoch": extra})
    text = str(caught.value)
    for part in ("ema was not saved", "extra (tests.io.test_manager.Net) was saved and is not", "epoch is a SGD here", "exp_avg"):
        assert part in text
    with pytest.raises(errors.StructureMismatchError) as caught:
        manager.restore({**other, "extra": Net()})
    text = str(caught.value)
    for part in ("nothing has been loaded", "model:", "first.weight", "optimizer:", "exp_avg"):
        assert part in text
    assert text.count("first.weight") >= 1 and "extra" not in text.split("\n", 1)[1]
    _same(_values(other), before)
    assert other["optimizer"].param_groups[0]["lr"] == 0.01 and other["scheduler"].last_epoch == 0
    assert manager.restore({"model": Net()}, partial=True)["epoch"] == 4


def test_the_class_that_was_saved_is_named(tmp_path):
    manager = CheckpointManager(tmp_path)
    manager.save(0, {"optimizer": optim.SGD([nn.Parameter(jnp.ones(1))], lr=0.1)})
    with pytest.raises(
        errors.StructureMismatchError, match=r"a objnet\.optim\.adam\.Adam, and a objnet\.optim\.sgd\.SGD was saved"
    ):
        manager.restore({"optimizer": optim.Adam([nn.Parameter(jnp.ones(1))])})


def test_any_mesh_takes_it(tmp_path):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    model = nn.Linear(4, 6)
    sharded = jax.device_put(model.weight._read(), NamedSharding(mesh, PartitionSpec("data")))
    wanted = np.asarray(sharded)
    model.weight.data = sharded
    manager = CheckpointManager(tmp_path)
    manager.save(0, {"model": model})
    plain = nn.Linear(4, 6)
    manager.restore({"model": plain})
    np.testing.assert_array_equal(plain.weight._read(), wanted)
    other = nn.Linear(4, 6)
    other.weight.data = jax.device_put(other.weight._read(), NamedSharding(mesh, PartitionSpec(None, "data")))
    manager.restore({"model": other})
    np.testing.assert_array_equal(other.weight._read(), wanted)
    assert other.weight._read().sharding.spec == PartitionSpec(None, "data")


# -- damage ------------------------------------------------------------------------------------------------------------


def _flip(path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "flipped bit": (lambda p: _flip(p / "arrays-00001-of-00001.safetensors"), "SHA-256"),
    "cut short": (lambda p: os.truncate(p / "arrays-00001-of-00001.safetensors", 20), "has 20 bytes"),
    "missing file": (lambda p: (p / "arrays-00001-of-00001.safetensors").unlink(), "is missing"),
    "no manifest": (lambda p: (p / "manifest.json").write_text("{"), "no manifest"),
    "another format": (
        lambda p: (p / "manifest.json").write_text(json.dumps({**json.loads((p / "manifest.json").read_text()), "format": 2})),
        "format 2",
    ),
    "a path outside": (
        lambda p: (p / "manifest.json").write_text(
            json.dumps({**json.loads((p / "manifest.json").read_text()), "files": {"../x": {"bytes": 1, "sha256": ""}}})
        ),
        "SHA-256",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over(tmp_path, damage):
    hurt, message = DAMAGES[damage]
    manager = CheckpointManager(tmp_path)
    for step in (1, 2):
        manager.save(step, {"value": jnp.full(3, step)})
    hurt(tmp_path / "step_00000002")
    with pytest.raises(errors.CheckpointError, match=message):
        manager.restore({}, step=2)
    with pytest.warns(UserWarning, match="passed over"):
        assert manager.restore({})["value"].tolist() == [1, 1, 1]
    hurt(tmp_path / "step_00000001")
    with pytest.warns(UserWarning, match="passed over"), pytest.raises(errors.CheckpointError, match="no undamaged"):
        manager.load()


# -- failures while writing --------------------------------------------------------------------------------------------


class _Full:
    """A disk that is full after some bytes."""

    def __init__(self, monkeypatch, room, error=errno.ENOSPC):
        self.left, self.error = room, error
        monkeypatch.setattr(step_folder, "open", self._open, raising=False)

    def _open(self, path, mode="r"):
        file = open(path, mode)
        if "x" not in mode:
            return file
        real = file.write

        class Limited:
            def __enter__(inner):
                return inner

            def __exit__(inner, *error):
                file.close()

            def __getattr__(inner, name):
                return getattr(file, name)

            def write(inner, data):
                self.left -= len(data)
                if self.left < 0:
                    raise OSError(self.error, os.strerror(self.error))
                return real(data)

        return Limited()


@pytest.mark.parametrize("room", [0, 300, 1000])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_full_disk_leaves_the_old_ones_whole(tmp_path, monkeypatch, room, asynchronous):
    manager = CheckpointManager(tmp_path, max_to_keep=1)
    manager.save(1, {"value": jnp.arange(100.0)})
    with monkeypatch.context() as patch:
        _Full(patch, room)
        with pytest.raises(OSError, match="No space left") as caught:
            manager.save(2, {"value": jnp.arange(200.0)}, asynchronous=asynchronous)
            manager.wait_until_finished()
    assert "step 2 was not saved" in caught.value.__notes__[0]
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "step_00000001"]
    assert manager.restore({})["value"].shape == (100,)
    manager.save(2, {"value": jnp.arange(200.0)})
    assert manager.all_steps() == [2]


@pytest.mark.parametrize("how", ["next save", "restore", "close", "with"])
def test_an_error_in_the_thread_is_not_lost(tmp_path, monkeypatch, how):
    manager = CheckpointManager(tmp_path)
    _Full(monkeypatch, 10, errno.EIO)
    manager.save(1, {"value": jnp.arange(3.0)}, asynchronous=True)
    manager._thread.join()
    with pytest.raises(OSError, match="Input/output error"):
        if how == "with":
            with manager:
                pass
        else:
            {"next save": lambda: manager.save(2, {}), "restore": lambda: manager.restore({}), "close": manager.close}[how]()
    manager.close()


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(OSError):
        CheckpointManager(blocked / "run").save(0, {})
    manager = CheckpointManager(tmp_path / "run")
    manager.save(0, {"a": 1})
    refuse = lambda *args: (_ for _ in ()).throw(PermissionError(errno.EACCES, "Permission denied", str(tmp_path)))
    monkeypatch.setattr(os, "mkdir", refuse)  # what a read-only folder does to all but root
    with pytest.raises(PermissionError, match="Permission denied") as caught:
        manager.save(1, {"a": 2})
    assert "whole" in caught.value.__notes__[0]
    assert manager.restore({})["a"] == 1


def test_a_second_writer_is_refused(tmp_path):
    first = CheckpointManager(tmp_path)
    first.save(0, {})
    second = CheckpointManager(tmp_path)
    assert second.restore({}) == {}  # reading is well
    with pytest.raises(errors.CheckpointError, match=rf"process {os.getpid()}.*close"):
        second.save(1, {})
    other = f"from objnet.io import CheckpointManager; CheckpointManager({str(tmp_path)!r}).save(1, {{}})"
    done = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode and "another CheckpointManager" in done.stderr
    first.close()
    second.save(1, {})
    assert second.all_steps() == [0, 1]
    second.close()


def test_what_cannot_be_saved_is_named_before_anything_is_written(tmp_path):
    manager = CheckpointManager(tmp_path)
    with pytest.raises(TypeError, match=r"at \['a'\]\['b'\]"):
        manager.save(0, {"a": {"b": object()}})
    with pytest.raises(TypeError, match="a checkpoint's state is a dict"):
        manager.save(0, nn.Linear(2, 2))
    with pytest.raises(ValueError, match="random state goes there"):
        manager.save(0, {"objnet.rng": 1})
    with pytest.raises(ValueError, match="max_to_keep"):
        CheckpointManager(tmp_path, max_to_keep=0)
    with pytest.raises(ValueError, match="200MiB"):
        CheckpointManager(tmp_path, max_shard_size="lots")
    with pytest.raises(FileNotFoundError, match="has no checkpoint"):
        manager.restore({})
    assert list(tmp_path.iterdir()) == []


_LOOP = """
    import sys, numpy as np
    from objnet.io import CheckpointManager
    manager = CheckpointManager(sys.argv[1], max_to_keep=2)
    step = (manager.latest_step() or 0) + 1
    print("ready", flush=True)
    while True:
        manager.save(step, {"step": step, "values": np.full(200_000, step)}, asynchronous=step % 2 == 0)
        step += 1
"""


@pytest.mark.parametrize("kills", [6, pytest.param(200, marks=pytest.mark.slow)])
def test_a_killed_writer_leaves_whole_checkpoints(tmp_path, kills):
    """SIGKILL at random moments; each writer goes on from what the last one left."""
    rng = np.random.default_rng(0)
    last = 0
    for _ in range(kills):
        writer = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(_LOOP), str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT, text=True
        )
        assert writer.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0, 0.3))
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        reader = CheckpointManager(tmp_path)
        steps = reader.all_steps()
        for step in steps:
            found = reader.restore({}, step=step)
            assert found["step"] == step and (found["values"] == step).all()
        assert not steps or steps[-1] >= last
        last = steps[-1] if steps else 0
    with CheckpointManager(tmp_path, max_to_keep=2) as manager:
        manager.save(last + 1, {})
    assert len(manager.all_steps()) == 2 or last < 2
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".objnet")]


def test_saving_inside_a_program_is_refused(tmp_path):
    model = nn.Linear(2, 2)
    with CheckpointManager(tmp_path) as manager:
        with pytest.raises(errors.CompiledCallError, match="a checkpoint was saved inside a transform.*test_manager.py"):
            objnet.jit(lambda: manager.save(0, {"model": model.state_dict()}))()
        assert manager.all_steps() == []
        manager.save(0, {"model": model})
        with pytest.raises(errors.CompiledCallError, match="restored inside"):
            objnet.jit(lambda: manager.restore({"model": model}))()
