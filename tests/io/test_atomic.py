"""A file under ``atomic_write`` is the old one or the new one, whole, whatever goes wrong."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
from pathlib import Path

import pytest

from objnet.io import atomic_write

ROOT = Path(__file__).resolve().parents[2]


def run(script: str, *arguments: object) -> str:
    """Run a script in a fresh interpreter; what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_creates_and_replaces(tmp_path):
    path = tmp_path / "f"
    for content in (b"first", b"", b"x" * 3_000_000):
        with atomic_write(path) as file:
            file.write(content[:2])
            file.write(content[2:])
        assert path.read_bytes() == content
    assert names(tmp_path) == ["f"]


def test_path_kinds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("a", os.fsencode("b"), Path("c"), str(tmp_path / "d"), "ä" * 127):  # the last is as long as names get
        with atomic_write(path) as file:
            file.write(b"1")
    assert names(tmp_path) == ["a", "b", "c", "d", "ä" * 127]


def test_old_content_until_the_end(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"old")
    with atomic_write(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError])
@pytest.mark.parametrize("existing", [True, False])
def test_an_exception_in_the_block_changes_nothing(tmp_path, error, existing):
    path = tmp_path / "f"
    if existing:
        path.write_bytes(b"old")
    with pytest.raises(error), atomic_write(path) as file:
        file.write(b"new" * 100_000)
        raise error
    assert names(tmp_path) == (["f"] if existing else [])
    assert not existing or path.read_bytes() == b"old"


@pytest.mark.parametrize("call", ["fsync", "replace", "chmod"])
def test_a_failing_system_call_changes_nothing(tmp_path, monkeypatch, call):
    path = tmp_path / "f"
    path.write_bytes(b"old")

    def fail(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="No space left"), atomic_write(path) as file:
        file.write(b"new")
    assert names(tmp_path) == ["f"] and path.read_bytes() == b"old"


def test_a_file_closed_in_the_block_is_not_taken_for_written(tmp_path):
    with pytest.raises(ValueError, match="closed file"), atomic_write(tmp_path / "f") as file:
        file.close()
    assert names(tmp_path) == []


def test_synced_before_and_after_the_rename(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(handle):
        calls.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else os.fstat(handle).st_size)
        fsync(handle)

    def note_replace(old, new):
        calls.append("rename")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    with atomic_write(tmp_path / "f") as file:
        file.write(b"12345")
    assert calls == [5, "rename", "folder"]


@pytest.mark.parametrize(("code", "raises"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_folder_sync(tmp_path, monkeypatch, code, raises):
    """Some network file systems have no folder sync, which is no failure; a failing disk is one."""
    fsync = os.fsync

    def no_folders(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(code, os.strerror(code))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", no_folders)
    path = tmp_path / "f"
    if raises:
        with pytest.raises(OSError, match=os.strerror(code)), atomic_write(path) as file:
            file.write(b"1")
    else:
        with atomic_write(path) as file:
            file.write(b"1")
    assert path.read_bytes() == b"1" and names(tmp_path) == ["f"]


def test_disk_full(tmp_path):
    """A file size limit makes the kernel refuse the write itself."""
    path = tmp_path / "f"
    path.write_bytes(b"old")
    assert "File too large" in run(
        """
        import resource, sys
        from objnet.io import atomic_write, save_file
        import numpy as np
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            save_file({"x": np.zeros(1_000_000)}, sys.argv[1])
        except OSError as error:
            print(error)
        """,
        path,
    )
    assert names(tmp_path) == ["f"] and path.read_bytes() == b"old"


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_new_file_permissions(tmp_path, umask):
    old = os.umask(umask)
    try:
        with atomic_write(tmp_path / "f") as file:
            file.write(b"1")
        (tmp_path / "g").write_bytes(b"1")
    finally:
        os.umask(old)
    assert (tmp_path / "f").stat().st_mode == (tmp_path / "g").stat().st_mode


def test_existing_file_keeps_its_permissions(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"old")
    path.chmod(0o604)
    with atomic_write(path) as file:
        file.write(b"new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o604 and path.read_bytes() == b"new"


@pytest.mark.parametrize("existing", [True, False])
def test_symbolic_links_are_followed(tmp_path, existing):
    (tmp_path / "real").mkdir()
    (tmp_path / "links").mkdir()
    target, link = tmp_path / "real" / "f", tmp_path / "links" / "l"
    if existing:
        target.write_bytes(b"old")
    link.symlink_to("../real/f")
    with atomic_write(link) as file:
        file.write(b"new")
    assert os.readlink(link) == "../real/f" and target.read_bytes() == b"new"
    assert names(tmp_path / "real") == ["f"] and names(tmp_path / "links") == ["l"]


def test_circular_links(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="circle"), atomic_write(tmp_path / "a"):
        pass
    assert names(tmp_path) == ["a", "b"]


def test_bad_places(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/null")
    for path, error, match in [
        ("missing/deeper/f", FileNotFoundError, "missing/deeper"),
        ("file/f", NotADirectoryError, "file"),
        ("folder", IsADirectoryError, "folder"),
        ("folder/", IsADirectoryError, "folder"),
        ("new/", IsADirectoryError, "new/"),
        ("pipe", OSError, "regular file.*pipe"),
        ("device", OSError, "regular file.*device"),
    ]:
        with pytest.raises(error, match=match), atomic_write(f"{tmp_path}/{path}"):
            pytest.fail("the block must not run")
    assert names(tmp_path) == ["device", "file", "folder", "pipe"]
    assert names(tmp_path / "folder") == []


def test_write_protected_folder_and_file():
    """As a user without root's powers."""
    with tempfile.TemporaryDirectory() as name:  # tmp_path lies in a folder that other users cannot enter
        top, folder = Path(name), Path(name) / "protected"
        top.chmod(0o777)
        folder.mkdir()
        for path, mode in ((folder / "f", 0o666), (top / "g", 0o444)):
            path.write_bytes(b"old")
            path.chmod(mode)
        folder.chmod(0o555)
        printed = run(
            """
            import os, sys
            from objnet.io import atomic_write
            if os.getuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            for path in ("protected/new", "protected/f", "g"):
                try:
                    with atomic_write(f"{sys.argv[1]}/{path}") as file:
                        file.write(b"new")
                except PermissionError as error:
                    print(error)
            """,
            top,
        ).splitlines()
        folder.chmod(0o755)
        assert len(printed) == 3
        assert all("cannot create a file in this folder" in line and str(folder) in line for line in printed[:2])
        assert "write-protected" in printed[2] and str(top / "g") in printed[2]
        assert names(folder) == ["f"] and names(top) == ["g", "protected"]
        assert (folder / "f").read_bytes() == (top / "g").read_bytes() == b"old"


def test_many_writers_at_once(tmp_path):
    path = tmp_path / "f"
    contents = [bytes([number]) * 200_000 for number in range(8)]

    def write(content: bytes) -> None:
        with atomic_write(path) as file:
            for start in range(0, len(content), 10_000):
                file.write(content[start : start + 10_000])

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in contents and names(tmp_path) == ["f"]


@pytest.mark.slow
def test_interrupted_at_any_moment(tmp_path):
    """A timer raises KeyboardInterrupt at random moments: the file is always whole and no temporary file stays."""
    path = tmp_path / "f"
    assert (
        int(
            run(
                """
            import os, random, signal, sys
            from objnet.io import atomic_write

            def interrupt(number, frame):
                raise KeyboardInterrupt

            signal.signal(signal.SIGALRM, interrupt)
            generator = random.Random(0)
            path, interrupted = sys.argv[1], 0
            for step in range(200):
                content = bytes([step % 256]) * 300_000
                try:
                    try:
                        signal.setitimer(signal.ITIMER_REAL, generator.uniform(1e-6, 2e-3))
                        with atomic_write(path) as file:
                            for _ in range(3):
                                file.write(content)
                    finally:
                        signal.setitimer(signal.ITIMER_REAL, 0)
                except KeyboardInterrupt:
                    interrupted += 1
                found = os.listdir(os.path.dirname(path))
                assert found in ([], ["f"]), found
                if found:
                    data = open(path, "rb").read()
                    assert len(data) == 900_000 and len(set(data)) == 1
            print(interrupted)
            """,
                path,
            )
        )
        > 20
    )


def test_killed_at_any_moment(tmp_path):
    """SIGKILL while checkpoints are saved in a loop, 20 times: the file is always a complete checkpoint."""
    assert (
        run(
            """
            import os, random, signal, sys, time, warnings
            import numpy as np
            from objnet.io import load_file, read_header, save_file

            warnings.simplefilter("ignore")  # jax warns of any fork; the children do not use jax
            generator = random.Random(0)
            path, steps = sys.argv[1], []
            for kill in range(20):
                child = os.fork()
                if child == 0:
                    for step in range(kill * 1_000_000, (kill + 1) * 1_000_000):
                        tensors = {f"w{i}": np.full((50, 1000), step, np.int32) for i in range(4)}
                        save_file(tensors, path, {"step": str(step)})
                time.sleep(generator.uniform(0.005, 0.06))
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                if os.path.exists(path):
                    step = int(read_header(path).metadata["step"])
                    tensors = load_file(path)
                    assert len(tensors) == 4 and all((x == step).all() and x.size == 50_000 for x in tensors.values())
                    steps.append(step // 1_000_000)
            print(len(set(steps)) > 10)
            """,
            tmp_path / "f",
        )
        == "True"
    )
    left = [name for name in names(tmp_path) if name != "f"]
    assert all(name.startswith(".objnet-") and name.endswith(".tmp") for name in left)
