"""A training state: models, optimizers and plain data in nested dicts, taken apart to be saved and put back all or not at all."""

from __future__ import annotations

import copy
import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial as partial_call
from typing import Any

import numpy as np

from objnet.core import errors
from objnet.core.mapped import MappedArray
from objnet.core.rng import get_rng_state, set_rng_state
from objnet.io.placing import to_jax
from objnet.nn.module import Module
from objnet.nn.serialization import EXTRA_STATE

RNG = "objnet.rng"
_OPTIMIZERS = ("objnet.optim.", "torch.optim.")


def is_object(value: Any) -> bool:
    """Whether ``value`` keeps a state of its own: a module, an optimizer, a scheduler, ..."""
    return callable(getattr(value, "state_dict", None)) and callable(getattr(value, "load_state_dict", None))


def take_apart(state: Mapping[str, Any], rng: bool) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """``state`` with state dicts in place of objects.

    Returns:
        The plain tree, with the random state under ``"objnet.rng"``; and what there is to know of the objects, by path: the
        ``"class"``, and the ``"versions"`` of a module's state dict where it has them, as JSON takes it.

    Raises:
        TypeError: if ``state`` is no dict, or versions are nothing for JSON. ValueError: if it has an entry of that name.
    """
    if not isinstance(state, Mapping):
        raise TypeError(
            "a checkpoint's state is a dict such as {'model': model, 'optimizer': optimizer, 'epoch': epoch}, got "
            f"{type(state).__name__}"
        )
    if RNG in state:
        raise ValueError(f"an entry of the state cannot be named {RNG!r}: the random state goes there")
    objects: dict[str, dict[str, Any]] = {}

    def plain(value: Any, path: str) -> Any:
        if is_object(value):
            entries = value.state_dict()
            objects[path] = {"class": _kind(value), **_versions(entries, path)}
            return entries
        if type(value) is dict:
            return {k: plain(v, f"{path}.{k}" if path else str(k)) for k, v in value.items()}
        if type(value) in (list, tuple):
            return type(value)(plain(v, f"{path}.{i}") for i, v in enumerate(value))
        return value

    tree = plain(dict(state), "")
    if rng:
        tree[RNG] = get_rng_state()
    return tree, objects


def _kind(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _versions(entries: Any, path: str) -> dict[str, Any]:
    """The versions of modules, which tell what an older layout is, and are an attribute of the state dict."""
    versions = getattr(entries, "_metadata", None)
    if not versions:
        return {}
    if json.loads(json.dumps(versions, default=repr)) != versions:
        raise TypeError(f"{path}: the state dict's _metadata holds more than text and numbers by text: {versions!r:.300}")
    return {"versions": versions}


def put_back(
    state: Mapping[str, Any], saved: Mapping[str, Any], objects: Mapping[str, Any], partial: bool, where: str
) -> dict[str, Any]:
    """Load every object of ``state`` with what was saved of it, and the random state; or none.

    Args:
        saved: the tree, in which what is to be a jax array is a :class:`MappedArray`.
        objects: what there is to know of the objects there, by path.
        partial: whether objects that were saved may be left out, and the random state with them.
        where: the checkpoint, for messages.

    Returns:
        ``state`` with what was saved in place of plain data; data that ``state`` does not name comes with it.

    Raises:
        StructureMismatchError: listing all that does not fit, of all objects. Nothing has changed then.
    """
    saved = dict(saved)
    rng = saved.pop(RNG, None)
    problems: list[str] = []
    loads: list[tuple[str, Any, Any]] = []
    found = _match(dict(state), saved, objects, "", loads, problems)
    named = {path for path, _, _ in loads}
    if not partial:
        problems += [
            f"{path} ({about['class']}) was saved and is not asked for; partial=True leaves it out"
            for path, about in objects.items()
            if path not in named and not any(_within(path, problem.split(" ", 1)[0]) for problem in problems)
        ]
    undo: list[Callable[[], None]] = []
    try:
        for path, target, entries in loads:
            kind, was = _kind(target), objects[path]["class"]
            if _is_another(kind, was):
                problems.append(f"{path} is a {kind}, and a {was} was saved: the manager's load() has its state dict")
                continue
            try:
                undo.append(_undoer(target))
                target.load_state_dict(_for_loading(target, entries, objects[path].get("versions")))
            except (OSError, MemoryError):
                raise
            except Exception as error:
                problems.append(f"{path}{'' if was == kind else f' (a {kind}; a {was} was saved)'}: {error}")
        if not problems and rng is not None and not partial:
            undo.append(partial_call(set_rng_state, get_rng_state()))
            set_rng_state(rng)
    except BaseException as error:  # an interrupt, a failing disk
        for problem in _run(undo):
            error.add_note(problem)
        raise
    if problems:
        problems += _run(undo)
        listed = "\n  ".join(problem.replace("\n", "\n    ") for problem in problems)
        raise errors.StructureMismatchError(f"{where} does not fit, and nothing has been loaded:\n  {listed}")
    return found


def _is_another(kind: str, was: str) -> bool:
    """Whether states of two classes must not be mixed. A model's keys tell; Adam's and AdamW's state, or what two schedulers have, is
    alike and means something else. Users rename their own classes, and may."""
    mixed = kind.startswith(_OPTIMIZERS) and was.startswith(_OPTIMIZERS)
    return mixed and kind.rpartition(".")[2] != was.rpartition(".")[2]


def _copies(target: Any) -> bool:
    """Whether loading ``target`` copies arrays to where they belong, and changes none that ``state_dict`` gave before."""
    is_ours = any(c.__module__.startswith("objnet.optim.") for c in type(target).__mro__)
    return isinstance(target, Module) or (is_ours and hasattr(target, "param_groups"))


def _undoer(target: Any) -> Callable[[], None]:
    """What puts back the state of now."""
    if isinstance(target, Module):  # also one that has no values yet
        held = [v for m in target.modules() for v in (*m._parameters.values(), *m._buffers.values()) if v is not None]
        undo = [v.restorer() for v in held]
        extended = [m for m in target.modules() if type(m).set_extra_state is not Module.set_extra_state]
        undo += [partial_call(m.set_extra_state, copy.deepcopy(m.get_extra_state())) for m in extended]

        def put_back_all() -> None:
            for put in undo:
                put()

        return put_back_all
    entries = target.state_dict()  # which may be the very lists and arrays that the object changes in place
    return partial_call(target.load_state_dict, entries if _copies(target) else copy.deepcopy(entries))


def _for_loading(target: Any, entries: Any, versions: Any) -> Any:
    """What ``load_state_dict`` is given: arrays of its own, but where it copies them anyway."""
    if not _copies(target):
        return jax_arrays(entries)
    if isinstance(target, Module) and isinstance(entries, dict):
        extra = {k: jax_arrays(v) for k, v in entries.items() if k.rpartition(".")[2] == EXTRA_STATE}
        entries = OrderedDict(entries | extra)
        if versions:
            entries._metadata = copy.deepcopy(versions)  # type: ignore[attr-defined]
    return entries


def _run(undo: list[Callable[[], None]]) -> list[str]:
    """Put the old states back; what could not be."""
    failures = []
    for put in reversed(undo):
        try:
            put()
        except BaseException as error:  # also a second interrupt: the rest is put back first
            failures.append(f"besides, an old state could not be put back: {error!r}")
    return failures


def _match(state: Any, saved: Any, objects: Any, path: str, loads: Any, problems: list[str]) -> Any:
    """Pair what is asked for with what was saved; the result to return."""
    if is_object(state):
        if path in objects:
            loads.append((path, state, saved))
        else:
            problems.append(f"{path} is a {type(state).__name__} here, and plain data was saved under that name")
        return state
    if path in objects:
        kind = objects[path]["class"]
        problems.append(f"{path} is plain data here, and a {kind} was saved under that name: pass the object to load")
        return state
    if type(state) is dict and type(saved) is dict:
        join = (lambda k: f"{path}.{k}") if path else str
        problems += [f"{join(k)} was not saved" for k in state if k not in saved]
        result = {k: _match(v, saved[k], objects, join(k), loads, problems) for k, v in state.items() if k in saved}
        rest = (k for k in saved if k not in state and not any(_within(join(k), p) for p in objects))
        return result | {k: jax_arrays(saved[k]) for k in rest}
    if type(state) in (list, tuple) and any(map(is_object, state)):
        if type(saved) is not type(state) or len(saved) != len(state):
            problems.append(
                f"{path} holds {len(state)} entries, and {len(saved) if isinstance(saved, (list, tuple)) else 'other data'} were saved"
            )
            return state
        pairs = enumerate(zip(state, saved, strict=True))
        return type(state)(_match(a, b, objects, f"{path}.{i}", loads, problems) for i, (a, b) in pairs)
    if any(map(is_object, _leaves(state))):
        problems.append(f"{path} holds objects here, and other data was saved under that name")
        return state
    return jax_arrays(saved)


def _leaves(value: Any) -> list[Any]:
    if type(value) is dict:
        return [leaf for v in value.values() for leaf in _leaves(v)]
    return [leaf for v in value for leaf in _leaves(v)] if type(value) in (list, tuple) else [value]


def _within(path: str, other: str) -> bool:
    return other == path or other.startswith(f"{path}.")


def jax_arrays(value: Any) -> Any:
    """``value`` with a jax array in place of each :class:`MappedArray` in it."""
    if isinstance(value, dict):
        return type(value)({k: jax_arrays(v) for k, v in value.items()})
    if isinstance(value, (list, tuple)):
        return type(value)(jax_arrays(v) for v in value)
    if not isinstance(value, MappedArray):
        return value
    try:
        return to_jax(value)
    finally:
        value.release()


def pending(array: np.ndarray[Any, Any]) -> MappedArray:
    """An array of host memory as one that has yet to become a jax array."""
    return array.view(MappedArray)
