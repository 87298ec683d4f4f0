"""What a pure function can ask about itself: whether it initialises, and what its ``params`` and ``state`` are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax

from objnet.core import errors, frame, scope
from objnet.core.variable import UNSET, Parameter, Variable, path_of
from objnet.transforms.binding import Entries, PureFrame

_phase = Variable(UNSET)  # stands for whether a pure function initialises, in the books of what jax's caches depend on


def pure_frame(what: str) -> PureFrame:
    """The frame of the pure function that runs here.

    Raises:
        OutsideTransformError: there is none.
    """
    inner = find_pure_frame()
    if inner is None:
        raise errors.OutsideTransformError(
            f"{what} was used outside of a pure function{errors.where()}: call it in a function that you hand to objnet.transform."
        )
    return inner


def find_pure_frame() -> PureFrame | None:
    inner = frame.current()
    while inner is not None and not isinstance(inner, PureFrame):
        inner = inner.parent
    return inner


def running_init() -> bool:
    """Whether the pure function that runs here is an ``init`` (True) or an ``apply`` (False) (Haiku's ``running_init``).

    Raises:
        OutsideTransformError: outside of a pure function.
    """
    pure = pure_frame("objnet.running_init")
    inner, state = frame.current(), frame.trace_state()
    while inner is not None:
        if state != inner.state:  # jax must not reuse in apply what it has traced in init
            inner._crossed(_phase, not inner.tokened and frame.staged())
        if inner is pure:
            break
        inner, state = inner.parent, inner.outside
    return not pure.applies


def get_params() -> Entries:
    """A copy of ``params``: in ``init`` what has been created so far, in ``apply`` what was given (Haiku's ``get_params``).

    Raises:
        OutsideTransformError: outside of a pure function.
    """
    pure = pure_frame("objnet.get_params")
    return pure.given(params=True) if pure.applies else _entries(pure, True, frame.get)


def get_initial_state() -> Entries:
    """A copy of ``state`` as it was when the pure function began, or was created since (Haiku's ``get_initial_state``).

    Raises:
        OutsideTransformError: outside of a pure function.
    """
    pure = pure_frame("objnet.get_initial_state")
    return pure.given(params=False) if pure.applies else _entries(pure, False, pure.initial)


def get_current_state() -> Entries:
    """A copy of ``state`` as it is now (Haiku's ``get_current_state``).

    Raises:
        OutsideTransformError: outside of a pure function.
    """
    pure = pure_frame("objnet.get_current_state")
    return pure.given(params=False) | _entries(pure, False, frame.get)


def _entries(pure: PureFrame, params: bool, value_of: Any) -> Entries:
    inner = frame.current()
    assert inner is not None
    inner.bind()
    found = Entries()
    for variable, (path, name) in pure.names.places.items():
        if isinstance(variable, Parameter) is params and not isinstance(variable._peek(), frame.Sentinel):
            value = value_of(variable)
            if value is not None:
                found.setdefault(path, {})[name] = value
    for lift in pure.lifts:
        lift.show(params, found)
    return found


@contextmanager
def name_scope(name: str) -> Iterator[None]:
    """Put ``name`` in front of the names of modules built inside the block (Haiku's ``name_scope``, ``jax.named_scope``).

    In a pure function it is part of the paths in ``params`` and ``state``, and a further scope of the same name gets a number;
    elsewhere, as there, it names operations in programs and profiles.

    Args:
        name: components joined by ``"."`` or ``"/"``.

    Raises:
        ValueError: it has an empty component.
    """
    parts = name.replace("/", ".").split(".")
    if not all(parts):
        raise ValueError(f"a name scope is made of names joined by '.', got {name!r}")
    pure = find_pure_frame()
    with jax.named_scope("/".join(parts)):
        if pure is None:
            yield
            return
        before = pure.scope
        own = pure.names.reserve(before + ".".join(parts))
        pure.unless_restarted(lambda: pure.names.release(own))
        pure.scope = own + "."
        try:
            yield
        finally:
            pure.scope = before


def current_name() -> str:
    """The path of the module that runs or is built here, as it is in ``params``; ``"~"`` in none (Haiku's ``current_name``).

    Outside of a pure function it is the module's path in the model that holds it.
    """
    here = scope.current()
    while here is not None and here.module is None:
        here = here.outer
    pure = find_pure_frame()
    if here is None:
        return "~" if pure is None or not pure.scope else pure.scope.rstrip(".")
    if pure is None:
        return path_of(here.module) or "~"
    inner = frame.current()
    assert inner is not None
    if inner.unbound and not scope.constructing():
        inner.bind()
    return pure.names.path(here.module)
