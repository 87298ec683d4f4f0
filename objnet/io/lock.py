"""A lock on a folder that one process holds to write in it, and that dies with the process."""

from __future__ import annotations

import errno
import os
import weakref
from contextlib import suppress
from typing import Any

from objnet.core import errors

try:
    import fcntl
except ImportError:  # no POSIX: the folder is then its user's own care
    fcntl: Any = None  # type: ignore[no-redef]

_NAME = ".lock"
# What a file system answers that has no locks, as some of networks; the folder is then its user's own care, too.
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}


class FolderLock:
    """The right to write in ``folder``. The file ``.lock`` in it stays; what counts is the system's lock on it.

    Raises:
        CheckpointError: another process, or another writer in this one, holds it.
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: str):
        handle = os.open(os.path.join(folder, _NAME), os.O_RDWR | os.O_CREAT, 0o666)
        self.release = weakref.finalize(self, _release, handle, os.getpid())  # also when its owner is forgotten
        _held.add(self)
        try:
            if fcntl is not None:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return
            holder = os.pread(handle, 100, 0).decode(errors="replace").strip()
            self.release()
            raise errors.CheckpointError(
                f"{folder} is being written by another CheckpointManager ({holder or 'unknown'}): two writers would delete each "
                "other's checkpoints. Close the other one (manager.close()), or write to a folder of its own."
            ) from error
        with suppress(OSError):  # for messages alone; on a full disk checkpoints can still be deleted
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()}\n".encode(), 0)


def _release(handle: int, owner: int) -> None:
    """Unlock, and not by closing alone: forked children, such as those that load data, may have the file open as well."""
    with suppress(OSError):
        if fcntl is not None and os.getpid() == owner:
            fcntl.flock(handle, fcntl.LOCK_UN)
    os.close(handle)


def _let_go() -> None:
    """In a forked child: the lock is the parent's, and must not outlive it here."""
    for lock in _held:
        lock.release()


_held: weakref.WeakSet[FolderLock] = weakref.WeakSet()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
