"""Files that are either the old ones or the new ones, whole, whatever happens in between."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

# What a file system answers when its folders cannot be synced at all; the rename is then as durable as it gets.
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM}


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a new file that takes the place of ``path`` when the block ends well, and never otherwise.

    The bytes go to a temporary file in the same folder, which is synced to disk and then renamed over ``path``. A
    crash, a full disk, Ctrl-C or any other exception leaves the old file as it was; only a killed process or a power
    cut can leave the temporary file (``.objnet-*.tmp``) behind. A symbolic link is kept and its target replaced; an
    existing file keeps its permissions, a new one gets those of ``open()``. Other hard links keep the old content.

    Args:
        path: the file to create or replace.

    Yields:
        The binary file to write to; the context manager closes it.

    Raises:
        FileNotFoundError, NotADirectoryError: if the folder is missing or no folder.
        PermissionError: if the folder or the existing file cannot be written.
        IsADirectoryError: if ``path`` is a folder.
        OSError: if ``path`` is a device, a pipe or a socket, which cannot be replaced; or if writing fails.
    """
    target = os.path.realpath(os.fsdecode(path))
    folder = os.path.dirname(target)
    mode = _check(os.fsdecode(path), target, folder)
    temporary = os.path.join(folder, f".objnet-{secrets.token_hex(8)}.tmp")
    try:
        with _create(temporary, folder) as file:
            if mode is not None:
                os.chmod(temporary, mode)
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    sync_folder(folder)


def _check(path: str, target: str, folder: str) -> int | None:
    """Refuse what cannot be replaced; the permission bits of the file to be replaced, None where there is none."""
    if not os.path.exists(folder):
        raise FileNotFoundError(errno.ENOENT, "cannot write a file: its folder does not exist", folder)
    if not os.path.isdir(folder):
        raise NotADirectoryError(errno.ENOTDIR, "cannot write a file: this is no folder", folder)
    if os.path.isdir(target) or not os.path.basename(path):
        raise IsADirectoryError(errno.EISDIR, "cannot write a file: this is a folder", path)
    if os.path.islink(target):
        raise OSError(errno.ELOOP, "cannot write a file: symbolic links go round in a circle", path)
    if not os.path.exists(target):
        return None
    if not os.path.isfile(target):
        raise OSError(errno.EINVAL, "only a regular file can be replaced; open this yourself and pass the file", path)
    if not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, "the existing file is write-protected", path)
    return os.stat(target).st_mode & 0o7777


def _create(temporary: str, folder: str) -> BinaryIO:
    try:
        return open(temporary, "xb")
    except OSError as error:
        raise OSError(error.errno, f"cannot create a file in this folder ({error.strerror})", folder) from error


def sync_folder(folder: str) -> None:
    """Make the rename itself durable; systems without POSIX folder handles have no call for it."""
    if os.name != "posix":
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
