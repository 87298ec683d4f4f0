"""A lock on a folder that one process holds to write in it, and that dies with the process."""

from __future__ import annotations

import os
import weakref
from typing import Any

from objnet.core import errors

try:
    import fcntl
except ImportError:  # no POSIX: the folder is then its user's own care
    fcntl: Any = None  # type: ignore[no-redef]

_NAME = ".lock"


class FolderLock:
    """The right to write in ``folder``. The file ``.lock`` in it stays; what counts is the system's lock on it.

    Raises:
        CheckpointError: another process, or another writer in this one, holds it.
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: str):
        handle = os.open(os.path.join(folder, _NAME), os.O_RDWR | os.O_CREAT, 0o666)
        self.release = weakref.finalize(self, os.close, handle)  # also when its owner is forgotten
        try:
            if fcntl is not None:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(handle, 100, 0).decode(errors="replace").strip()
            self.release()
            raise errors.CheckpointError(
                f"{folder} is being written by another CheckpointManager ({holder or 'unknown'}): two writers would delete each "
                "other's checkpoints. Close the other one (manager.close()), or write to a folder of its own."
            ) from error
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()}\n".encode(), 0)
