"""``CheckpointManager`` on real disks and in real processes: full, read-only, forked, killed, ended, damaged."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from objnet.core import errors
from objnet.io import CheckpointManager
from objnet.io import lock as lock_file

ROOT = Path(__file__).parents[2]


def run(script, *arguments, **options):
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120, **options)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("only root can mount a file system")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_full_disk(small_disk, asynchronous):
    folder = small_disk / "run"
    with CheckpointManager(folder, max_to_keep=1) as manager:
        manager.save(1, {"values": np.arange(80_000.0)})  # 0.64 MB
        for _ in range(2):  # what was written of it is gone, or it would fail for another reason
            with pytest.raises(OSError, match="No space left") as caught:
                manager.save(2, {"values": np.arange(80_000.0)}, asynchronous=asynchronous)
                manager.wait_until_finished()
            assert caught.value.errno == errno.ENOSPC and "step 2 was not saved" in caught.value.__notes__[0]
        assert sorted(os.listdir(folder)) == [".lock", "step_00000001"]
        assert manager.restore({})["values"][-1] == 79_999
    (folder / ".lock").unlink()
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while file.write(b"\0" * 4096):
            pass
    with CheckpointManager(folder) as manager:  # there is not even room to note who holds the lock
        manager.delete(1)
        manager.save(2, {"values": np.arange(80_000.0)})
        assert manager.all_steps() == [2]


def test_a_read_only_folder():
    """Root may write anywhere, so a process of root's gives that right up first."""
    script = """
        import os, sys, traceback
        from objnet.io import CheckpointManager
        manager = CheckpointManager(sys.argv[1])
        manager.save(0, {"a": 1})
        manager.close()
        os.chmod(sys.argv[1], 0o555)
        os.chmod(sys.argv[1] + "/.lock", 0o444)
        if os.getuid() == 0:
            os.seteuid(65534)
        for again in (False, True):
            try:
                manager.save(1, {"a": 2}) if not again else manager.delete(0)
            except PermissionError as error:
                print(error, error.__notes__)
        print(manager.restore({}), manager.all_steps())
    """
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        done = run(script, f"{place}/run")
        os.chmod(f"{place}/run", 0o755)
    assert done.returncode == 0, done.stderr
    first, second, last = done.stdout.splitlines()
    for line in (first, second):
        assert "Permission denied" in line and "cannot be written; the checkpoints there are whole" in line
    assert last == "{'a': 1} [0]"


def test_the_lock_dies_with_its_process_and_not_with_its_children(tmp_path):
    """A loader's forked worker may outlive a training that was killed."""
    script = """
        import os, signal, sys, time, warnings
        from objnet.io import CheckpointManager
        warnings.simplefilter("ignore")
        manager = CheckpointManager(sys.argv[1])
        manager.save(0, {})
        if (child := os.fork()) == 0:
            os.close(1), os.close(2)
            time.sleep(60)
            os._exit(0)
        print(child, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = run(script, tmp_path)
    assert done.returncode == -signal.SIGKILL
    child = int(done.stdout)
    os.kill(child, 0)  # is alive
    try:
        with CheckpointManager(tmp_path) as manager:
            manager.save(1, {})
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.slow
def test_a_forked_child_neither_holds_nor_breaks_the_lock(tmp_path):
    script = """
        import os, sys, warnings
        from objnet.core import errors
        from objnet.io import CheckpointManager
        warnings.simplefilter("ignore")
        manager = CheckpointManager(sys.argv[1])
        manager.save(0, {})
        if os.fork() == 0:
            try:
                manager.save(1, {})
                print("saved in the child")
            except errors.CheckpointError as error:
                print("refused:", error)
            sys.stdout.flush()
            os._exit(0)
        os.wait()
        try:
            CheckpointManager(sys.argv[1]).save(2, {})
        except errors.CheckpointError:
            print("still locked")
        manager.save(3, {})
        manager.close()
        CheckpointManager(sys.argv[1]).save(4, {})
        print(manager.all_steps())
    """
    done = run(script, tmp_path)
    child, parent, last = done.stdout.splitlines()
    assert child.startswith("refused:") and parent == "still locked" and last == "[0, 3, 4]", done.stderr


def test_file_systems_without_locks_are_written_to(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock_file.fcntl, "flock", refuse)
    with CheckpointManager(tmp_path) as manager:
        manager.save(0, {})
    assert manager.all_steps() == [0]


@pytest.mark.parametrize(
    "end",
    [
        "raise ValueError('end')",
        pytest.param("", marks=pytest.mark.slow),
        pytest.param("raise SystemExit(3)", marks=pytest.mark.slow),
    ],
)
def test_the_end_of_a_script_waits(tmp_path, end):
    script = f"""
        import sys, time, numpy as np
        from objnet.io import CheckpointManager, step_folder
        write = step_folder.write
        step_folder.write = lambda *args: (time.sleep(1), write(*args))
        manager = CheckpointManager(sys.argv[1])
        manager.save(4, {{"values": np.arange(1000)}}, asynchronous=True)
        {end}
    """
    done = run(script, tmp_path)
    assert done.returncode == (3 if "Exit" in end else 1 if end else 0)
    assert CheckpointManager(tmp_path).restore({})["values"].sum() == 499_500


def test_an_error_at_the_end_of_a_script_is_said(tmp_path):
    script = """
        import sys
        from objnet.io import CheckpointManager, step_folder
        def write(*args):
            raise OSError(5, "Input/output error")
        step_folder.write = write
        CheckpointManager(sys.argv[1]).save(4, {}, asynchronous=True)
    """
    assert "the last checkpoint was not saved" in run(script, tmp_path).stderr


# -- damage ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    with CheckpointManager(folder, max_shard_size=40) as manager:
        manager.save(0, {"values": jnp.arange(9.0), "more": np.arange(5), "epoch": 33, "name": "a"})
    return folder


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_changed_bit_goes_unnoticed(written, data):
    """Of the arrays, and of the manifest as well, whose every number is somebody's epoch."""
    step = written / "step_00000000"
    path = step / data.draw(st.sampled_from(sorted(os.listdir(step))))
    content = path.read_bytes()
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    path.write_bytes(changed)
    try:
        with pytest.raises(errors.CheckpointError):
            CheckpointManager(written).restore({}, step=0)
    finally:
        path.write_bytes(content)
    assert CheckpointManager(written).restore({}, step=0)["epoch"] == 33


@pytest.mark.parametrize("damage", ["a bit", "no manifest"])
def test_a_damaged_one_is_written_over_and_a_good_one_is_not(tmp_path, damage):
    """A run that went on from the one before comes to its step again."""
    with CheckpointManager(tmp_path) as manager:
        manager.save(0, {"value": 0})
        manager.save(1, {"value": jnp.ones(3)})
        with pytest.raises(FileExistsError, match="delete\\(1\\)"):
            manager.save(1, {"value": 2})
        step = tmp_path / "step_00000001"
        if damage == "a bit":
            arrays = step / "arrays-00001-of-00001.safetensors"
            arrays.write_bytes(arrays.read_bytes()[:-1] + b"\1")
        else:
            (step / "manifest.json").unlink()
        manager.save(1, {"value": 2})
        assert manager.restore({}) == {"value": 2} and manager.all_steps() == [0, 1]
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "step_00000000", "step_00000001"]


def test_one_of_a_newer_format_is_not_written_over(tmp_path):
    with CheckpointManager(tmp_path) as manager:
        manager.save(1, {})
        manifest = tmp_path / "step_00000001" / "manifest.json"
        manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 2'))
        with pytest.raises(FileExistsError):
            manager.save(1, {})


def test_the_one_just_saved_is_kept(tmp_path):
    """Also when an earlier step is gone back to: it is what the run goes on from."""
    with CheckpointManager(tmp_path, max_to_keep=2) as manager:
        for step in (7, 8, 3):
            manager.save(step, {})
        assert manager.all_steps() == [3, 8]


def test_the_manifest_says_where_arrays_lay(tmp_path):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.device_put(jnp.arange(4.0), NamedSharding(mesh, PartitionSpec("data")))
    with CheckpointManager(tmp_path) as manager:
        manager.save(0, {"spread": spread, "plain": jnp.ones(2)})
        assert manager.restore({})["spread"].tolist() == [0, 1, 2, 3]
    text = (tmp_path / "step_00000000" / "manifest.json").read_text()
    assert '"meshes": {"spread": {"mesh": {"data": 2}, "spec": ["data"]}}' in text


def test_a_half_written_folder_is_no_checkpoint(tmp_path):
    """What a killed writer leaves is passed over by readers, and removed by the next writer."""
    (tmp_path / ".objnet-0123456789abcdef.tmp").mkdir()
    (tmp_path / ".objnet-0123456789abcdef.tmp" / "manifest.json").write_text("{")
    manager = CheckpointManager(tmp_path)
    assert manager.all_steps() == []
    manager.save(0, {})
    manager.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "step_00000000"]
