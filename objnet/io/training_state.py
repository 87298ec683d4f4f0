"""A training state: models, optimizers and plain data in nested dicts, taken apart to be saved and put back all or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from objnet.core import errors
from objnet.core.rng import get_rng_state, set_rng_state
from objnet.io.checkpoint import to_jax

RNG = "objnet.rng"


def is_object(value: Any) -> bool:
    """Whether ``value`` keeps a state of its own: a module, an optimizer, a scheduler, ..."""
    return callable(getattr(value, "state_dict", None)) and callable(getattr(value, "load_state_dict", None))


def take_apart(state: Mapping[str, Any], rng: bool) -> tuple[dict[str, Any], dict[str, str]]:
    """``state`` with state dicts in place of objects.

    Returns:
        The plain tree, with the random state under ``"objnet.rng"``; and the classes of the objects by path.

    Raises:
        TypeError: if ``state`` is no dict. ValueError: if it has an entry of that name.
    """
    if not isinstance(state, Mapping):
        raise TypeError(
            "a checkpoint's state is a dict such as {'model': model, 'optimizer': optimizer, 'epoch': epoch}, got "
            f"{type(state).__name__}"
        )
    if RNG in state:
        raise ValueError(f"an entry of the state cannot be named {RNG!r}: the random state goes there")
    kinds: dict[str, str] = {}

    def plain(value: Any, path: str) -> Any:
        if is_object(value):
            kinds[path] = f"{type(value).__module__}.{type(value).__qualname__}"
            return value.state_dict()
        if isinstance(value, Mapping) and type(value) is dict:
            return {k: plain(v, f"{path}.{k}" if path else str(k)) for k, v in value.items()}
        if type(value) in (list, tuple):
            return type(value)(plain(v, f"{path}.{i}") for i, v in enumerate(value))
        return value

    tree = plain(dict(state), "")
    if rng:
        tree[RNG] = get_rng_state()
    return tree, kinds


def put_back(
    state: Mapping[str, Any],
    saved: Mapping[str, Any],
    kinds: Mapping[str, str],
    partial: bool,
    place: Callable[[Any], Any],
    where: str,
) -> dict[str, Any]:
    """Load every object of ``state`` with what was saved of it, and the random state; or none.

    Args:
        saved: the tree.
        kinds: the classes of the objects there, by path.
        partial: whether objects that were saved may be left out, and the random state with them.
        place: what to make of the arrays of plain data.
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
    found = _match(dict(state), saved, kinds, "", place, loads, problems)
    named = {path for path, _, _ in loads}
    if not partial:
        problems += [
            f"{path} ({kind}) was saved and is not asked for; partial=True leaves it out"
            for path, kind in kinds.items()
            if path not in named
        ]
    before: list[tuple[Any, Any]] = []
    try:
        if not problems:
            for path, target, entries in loads:
                before.append((target, target.state_dict()))
                try:
                    target.load_state_dict(entries)
                except Exception as error:
                    kind = f"{type(target).__module__}.{type(target).__qualname__}"
                    was = "" if kinds.get(path) == kind else f" (a {kind}; a {kinds.get(path)} was saved)"
                    problems.append(f"{path}{was}: {error}")
        if not problems and rng is not None and not partial:
            before.append((_Rng(), get_rng_state()))
            set_rng_state(rng)
    except BaseException:  # an interrupt
        _undo(before)
        raise
    if problems:
        _undo(before)
        listed = "\n  ".join(problem.replace("\n", "\n    ") for problem in problems)
        raise errors.StructureMismatchError(f"{where} does not fit, and nothing has been loaded:\n  {listed}")
    return found


class _Rng:
    """The random state as an object."""

    @staticmethod
    def load_state_dict(state: Any) -> None:
        set_rng_state(state)


def _undo(before: list[tuple[Any, Any]]) -> None:
    for target, entries in reversed(before):
        target.load_state_dict(entries)


def _match(state: Any, saved: Any, kinds: Any, path: str, place: Any, loads: Any, problems: list[str]) -> Any:
    """Pair what is asked for with what was saved; the result to return."""
    if is_object(state):
        if path in kinds:
            loads.append((path, state, saved))
        else:
            problems.append(f"{path} is a {type(state).__name__} here, and plain data was saved under that name")
        return state
    if path in kinds:
        problems.append(f"{path} is plain data here, and a {kinds[path]} was saved under that name: pass the object to load")
        return state
    if type(state) is dict and type(saved) is dict:
        join = (lambda k: f"{path}.{k}") if path else str
        problems += [f"{join(k)} was not saved" for k in state if k not in saved]
        result = {k: _match(v, saved[k], kinds, join(k), place, loads, problems) for k, v in state.items() if k in saved}
        rest = (k for k in saved if k not in state and not any(_within(join(k), p) for p in kinds))
        return result | {k: place(saved[k]) for k in rest}
    if type(state) in (list, tuple) and any(map(is_object, state)):
        if type(saved) is not type(state) or len(saved) != len(state):
            problems.append(
                f"{path} holds {len(state)} entries, and {len(saved) if isinstance(saved, (list, tuple)) else 'other data'} were saved"
            )
            return state
        pairs = enumerate(zip(state, saved, strict=True))
        return type(state)(_match(a, b, kinds, f"{path}.{i}", place, loads, problems) for i, (a, b) in pairs)
    if any(map(is_object, _leaves(state))):
        problems.append(f"{path} holds objects here, and other data was saved under that name")
        return state
    return place(saved)


def _leaves(value: Any) -> list[Any]:
    if type(value) is dict:
        return [leaf for v in value.values() for leaf in _leaves(v)]
    return [leaf for v in value for leaf in _leaves(v)] if type(value) in (list, tuple) else [value]


def _within(path: str, other: str) -> bool:
    return other == path or other.startswith(f"{path}.")


def plain_arrays(value: Any, convert: Callable[[Any], Any]) -> Any:
    """``value`` with ``convert`` applied to the arrays in it."""
    if isinstance(value, dict):
        return type(value)({k: plain_arrays(v, convert) for k, v in value.items()})
    if isinstance(value, (list, tuple)):
        return type(value)(plain_arrays(v, convert) for v in value)
    return convert(value)


def whole(value: Any) -> Any:
    """A numpy array as :func:`objnet.load` gives it; anything else as it is."""
    return to_jax(value) if isinstance(value, np.ndarray) else value
