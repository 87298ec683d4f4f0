"""Training states in orbax's format, which writes arrays that lie on many processes from where they lie."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

from objnet.core import errors
from objnet.io.structure import decode, encode
from objnet.io.training_state import pending, put_back, take_apart


def _orbax() -> ModuleType:
    try:
        import orbax.checkpoint as ocp
    except ImportError as error:
        raise ImportError("orbax's format needs orbax-checkpoint: pip install objnet[orbax]") from error
    module: ModuleType = ocp
    return module


def save_orbax(path: str | os.PathLike[str], state: Mapping[str, Any], *, rng: bool = True) -> None:
    """Save a training state as an orbax checkpoint at ``path``, which must not exist (``orbax.checkpoint``).

    Args:
        path: the folder to make. Whether it may be a bucket's is orbax's to say.
        state: as for :meth:`objnet.io.CheckpointManager.save`.
        rng: whether objnet's random state goes with it.

    Raises:
        ImportError: without orbax. TypeError: naming the place of what cannot be saved. ValueError: if ``path`` exists.
    """
    ocp = _orbax()
    tree, objects = take_apart(state, rng)
    structure, arrays = encode({"state": tree, "one": np.zeros(1)}, mark_numpy=True)  # orbax refuses an empty tree
    about = {"structure": structure, "objects": objects, "names": list(arrays)}
    parts = {f"array_{i}": array for i, array in enumerate(arrays.values())}  # names of ours, which no file system splits
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        args = ocp.args.Composite(arrays=ocp.args.PyTreeSave(parts), about=ocp.args.JsonSave(about))
        checkpointer.save(_whole(path), args=args)


def restore_orbax(path: str | os.PathLike[str], state: Mapping[str, Any], *, partial: bool = False) -> dict[str, Any]:
    """Load what :func:`save_orbax` saved into the objects of ``state``, all of them or none.

    Args:
        path: the folder.
        state, partial: as for :meth:`objnet.io.CheckpointManager.restore`; so is what is returned and raised.

    Raises:
        ImportError: without orbax. FileNotFoundError: if there is no such folder. CheckpointError: if it is no checkpoint of ours.
    """
    ocp = _orbax()
    if not os.path.isdir(path):
        raise FileNotFoundError(f"there is no folder {os.fsdecode(path)}")
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        try:
            about = checkpointer.restore(_whole(path), args=ocp.args.Composite(about=ocp.args.JsonRestore()))["about"]
            names, structure, objects = about["names"], about["structure"], about["objects"]
        except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
            raise errors.CheckpointError(f"{os.fsdecode(path)} is no checkpoint that save_orbax wrote: {error}") from error
        wanted = {f"array_{i}": ocp.RestoreArgs(restore_type=np.ndarray) for i in range(len(names))}
        args = ocp.args.Composite(arrays=ocp.args.PyTreeRestore(restore_args=wanted))
        parts = checkpointer.restore(_whole(path), args=args)["arrays"]
    arrays = {name: parts[f"array_{i}"] for i, name in enumerate(names)}
    saved = decode(structure, arrays, arrays.__getitem__, pending)["state"]
    return put_back(state, saved, objects, partial, f"the checkpoint {os.fsdecode(path)}")


def _whole(path: str | os.PathLike[str]) -> str:
    """What orbax asks for: an absolute path."""
    text = os.fspath(path)
    return str(text) if "://" in str(text) else os.path.abspath(text)
