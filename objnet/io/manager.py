"""``CheckpointManager``: the checkpoints of a training run, each whole or not there (orbax's name and methods).

A checkpoint is a folder ``step_<number>`` (:mod:`objnet.io.step_folder`) that gets its name when all of it is on disk, and the
oldest go only after that: a crash at any moment leaves the newest complete one, and at most a temporary folder that the next
writer removes. Arrays are stored whole, wherever they lay, so that a checkpoint loads onto any mesh; the manifest says where.
"""

from __future__ import annotations

import atexit
import os
import re
import threading
import warnings
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from objnet.core import errors, frame
from objnet.io import step_folder
from objnet.io.lock import FolderLock
from objnet.io.placing import to_jax
from objnet.io.sizes import in_bytes
from objnet.io.structure import encode
from objnet.io.training_state import put_back, take_apart

_NAME = re.compile(r"step_(\d{8,})")


class CheckpointManager:
    """Saves and restores whole training states under step numbers, in one folder.

    ::

        with objnet.io.CheckpointManager("runs/lm", max_to_keep=3) as checkpoints:
            state = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
            epoch = 0
            if checkpoints.latest_step() is not None:
                epoch = checkpoints.restore(state)["epoch"] + 1
            for epoch in range(epoch, 10):
                ...
                checkpoints.save(epoch, {**state, "epoch": epoch}, asynchronous=True)

    Args:
        folder: where; made by the first save.
        max_to_keep: how many checkpoints are kept, the one just saved and the newest others; None for all.
        max_shard_size: how large a file of arrays may become, in bytes or as ``"5GB"``.
        rng: whether objnet's random state is saved and restored too.

    Raises:
        ValueError: for a number below 1.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        max_to_keep: int | None = None,
        *,
        max_shard_size: int | str = "5GB",
        rng: bool = True,
    ):
        if max_to_keep is not None and max_to_keep < 1:
            raise ValueError(f"max_to_keep must be at least 1, or None for all; got {max_to_keep}")
        self.folder = os.path.abspath(os.fsdecode(folder))
        self.max_to_keep = max_to_keep
        self._shard_bytes = in_bytes(max_shard_size)
        self._rng = rng
        self._lock: FolderLock | None = None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    # -- saving --------------------------------------------------------------------------------------------------------

    def save(self, step: int, state: Mapping[str, Any], *, asynchronous: bool = False) -> None:
        """Save a training state, whole or not at all.

        Args:
            step: its number, at least 0.
            state: nested dicts, lists and tuples. Objects with ``state_dict`` and ``load_state_dict`` (models, optimizers, schedulers,
                averages, samplers, ...) are saved by these; all else may be what :func:`objnet.save` takes.
            asynchronous: whether to return once the state is fixed, and write it in a thread. What training does meanwhile does
                not reach it. An error there is raised by the next call of this manager; the interpreter's exit waits.

        Raises:
            FileExistsError: if there is a checkpoint of this step that is not damaged. TypeError: naming the place of what cannot be saved.
            CheckpointError: if another manager writes to the folder. OSError: if it cannot be written (a full disk, a read-only
                folder); the checkpoints there are untouched.
        """
        _refuse_inside("saved")
        self.wait_until_finished()
        if isinstance(step, bool) or not isinstance(step, (int, np.integer)) or step < 0:
            raise ValueError(f"a step is a whole number from 0 on, got {step!r}")
        name = f"step_{step:08d}"
        tree, objects = take_apart(state, self._rng)
        structure, arrays = encode(tree, mark_numpy=True)
        for key, array in arrays.items():
            if isinstance(array, jax.Array) and not array.is_fully_addressable:
                raise NotImplementedError(
                    f"{key} lies on devices of other processes: a checkpoint holds whole arrays. Gather it first (jax.experimental."
                    "multihost_utils.process_allgather), or save with orbax."
                )
        if asynchronous:  # jax's arrays never change, and compiled steps copy what was handed out before they reuse it
            arrays = {key: np.array(array) if isinstance(array, np.ndarray) else array for key, array in arrays.items()}
        self._begin()
        if step_folder.is_undamaged(os.path.join(self.folder, name)):
            raise FileExistsError(
                f"{self.folder} has a checkpoint of step {step}: delete({step}) it first, or save under another"
            )
        about = {"step": int(step), "objects": objects, "meshes": _meshes(arrays)}

        def write() -> None:
            try:
                step_folder.write(self.folder, name, structure, arrays, self._shard_bytes, about)
            except OSError as error:
                error.add_note(f"step {step} was not saved to {self.folder}; the checkpoints there are whole")
                raise
            others = [other for other in self.all_steps() if other != step]
            for old in others[: max(0, len(others) + 1 - self.max_to_keep)] if self.max_to_keep else []:
                step_folder.remove(self.folder, f"step_{old:08d}")

        if not asynchronous:
            write()
            return

        def run() -> None:
            try:
                write()
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=run, name=f"objnet checkpoint {step}")
        self._thread.start()
        atexit.register(self._at_exit)

    def _begin(self) -> None:
        """Make the folder this manager's to write."""
        if self._lock is None or not self._lock.release.alive:  # which the child of a fork has not
            try:
                os.makedirs(self.folder, exist_ok=True)
                self._lock = FolderLock(self.folder)
            except OSError as error:
                error.add_note(f"nothing was saved: {self.folder} cannot be written; the checkpoints there are whole")
                raise
            step_folder.clean(self.folder)

    def _at_exit(self) -> None:
        self._join()
        if self._error is not None:
            warnings.warn(f"the last checkpoint was not saved to {self.folder}: {self._error!r}", stacklevel=1)

    def _join(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            try:
                thread.join()
            except BaseException:  # an interrupt: it is still writing
                self._thread = thread
                raise
            atexit.unregister(self._at_exit)

    def wait_until_finished(self) -> None:
        """Wait for an asynchronous save.

        Raises:
            OSError, ...: what it raised.
        """
        self._join()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def delete(self, step: int) -> None:
        """Delete the checkpoint of a step.

        Raises:
            FileNotFoundError: if there is none.
        """
        self.wait_until_finished()
        self._begin()
        step_folder.remove(self.folder, os.path.basename(self._path(step)))

    def close(self) -> None:
        """Wait for an asynchronous save, and let others write to the folder.

        Raises:
            OSError, ...: what the save raised.
        """
        try:
            self.wait_until_finished()
        finally:
            if self._lock is not None and self._thread is None:
                self._lock.release()
                self._lock = None

    def __enter__(self) -> CheckpointManager:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self.close()
            return
        try:
            self.close()
        except Exception as other:
            error.add_note(f"besides, the last checkpoint was not saved to {self.folder}: {other!r}")

    # -- restoring -----------------------------------------------------------------------------------------------------

    def all_steps(self) -> list[int]:
        """The steps there are checkpoints of, in order."""
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:
            return []
        found = {int(m[1]): name for name in names if (m := _NAME.fullmatch(name))}
        return sorted(step for step, name in found.items() if step_folder.exists(os.path.join(self.folder, name)))

    def latest_step(self) -> int | None:
        """The newest step there is a checkpoint of, or None."""
        steps = self.all_steps()
        return steps[-1] if steps else None

    def restore(self, state: Mapping[str, Any], step: int | None = None, *, partial: bool = False) -> dict[str, Any]:
        """Load a checkpoint into the objects of ``state``: all of them, or if anything does not fit, none.

        Args:
            state: as given to :meth:`save`; plain data in it may be anything, or left out.
            step: which; None for the newest that is undamaged.
            partial: whether objects that were saved may be left out of ``state``, and the random state stays as it is.

        Returns:
            ``state`` with the data that was saved in place of its own. Arrays that were numpy's are so again, others as
            :func:`objnet.load` gives them.

        Raises:
            StructureMismatchError: listing everything that does not fit, of all objects; another class of optimizer or scheduler
                does not. FileNotFoundError: if there is no checkpoint.
            CheckpointError: if the one asked for (or every one) is damaged, or of a format this objnet does not know.

        Warns:
            UserWarning: for each damaged one passed over.
        """
        _refuse_inside("restored")
        self.wait_until_finished()
        with self._open(step) as opened:
            saved, objects = opened.read(lambda array: array), opened.manifest["objects"]
            return put_back(state, saved, objects, partial or not self._rng, f"the checkpoint {opened.path}")

    def load(self, step: int | None = None) -> dict[str, Any]:
        """What was saved, with state dicts in place of objects and the random state as ``"objnet.rng"``.

        Args:
            step: which; None for the newest that is undamaged.

        Raises:
            FileNotFoundError, CheckpointError: as :meth:`restore`.
        """
        self.wait_until_finished()
        with self._open(step) as opened:
            loaded: dict[str, Any] = opened.read(to_jax)
            return loaded

    def _path(self, step: int) -> str:
        path = os.path.join(self.folder, f"step_{step:08d}")
        if not step_folder.exists(path):
            raise FileNotFoundError(f"{self.folder} has no checkpoint of step {step}; there are {self.all_steps()}")
        return path

    def _open(self, step: int | None) -> step_folder.StepFolder:
        if step is not None:
            return step_folder.StepFolder(self._path(step))
        last: errors.CheckpointError | None = None
        for found in reversed(self.all_steps()):
            try:
                with suppress(FileNotFoundError):  # another process keeps only the newest
                    return step_folder.StepFolder(self._path(found))
            except errors.CheckpointError as error:
                warnings.warn(f"passed over: {error}", UserWarning, stacklevel=3)
                last = error
        if last is not None:
            raise errors.CheckpointError(f"{self.folder} has no undamaged checkpoint; the last looked at: {last}") from last
        raise FileNotFoundError(f"{self.folder} has no checkpoint")


def _meshes(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Where arrays that were spread over a mesh lay: its axes, and theirs; for people to read."""
    spread = {key: a.sharding for key, a in arrays.items() if isinstance(a, jax.Array) and isinstance(a.sharding, NamedSharding)}
    return {key: {"mesh": dict(sharding.mesh.shape), "spec": [*map(_axes, sharding.spec)]} for key, sharding in spread.items()}


def _axes(entry: Any) -> Any:
    return entry if entry is None or isinstance(entry, (str, tuple)) else str(entry)


def _refuse_inside(what: str) -> None:
    if frame.current() is not None or frame.trace_state() != frame.CLEAN:
        raise errors.CompiledCallError(
            f"a checkpoint was {what} inside a transform{errors.where()}, where arrays have no values yet: do it outside, between calls."
        )
