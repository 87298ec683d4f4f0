"""``lift``: the parameters and state of an inner pure function as entries of the one around it (Haiku's ``lift``).

Inside a pure function, ``lift(init)`` gives a function that runs ``init`` in the outer ``init`` and files its entries under a
name, and that in the outer ``apply`` hands out what was given under that name.  The inner ``apply`` takes them from there,
under any plain jax transform: that is what lifting is for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from objnet.core import errors, frame
from objnet.core.variable import UNSET, Variable, settle
from objnet.transforms.binding import Entries, PureFrame
from objnet.transforms.inside import current_name, pure_frame
from objnet.transforms.pure_function import PartialEntries


class _Entries(Variable):
    """All entries of one lifted function, in ``init`` or ``apply``."""

    __slots__ = ()

    def describe(self) -> str:
        return "lifted params or state"


class Lift:
    """The entries of one lifted function in a :class:`PureFrame`.

    Attributes:
        prefix: what the outer names of the entries begin with: ``"lifted."``, or what encloses a transparent lift.
    """

    def __init__(self, pure: PureFrame, prefix: str, transparent: bool, reuse: bool):
        self.prefix = prefix
        self.transparent = transparent
        self.reuse = reuse
        self.updates = True  # whether nothing more has to be said of the state
        self._pure = pure
        self._cells: dict[bool, Variable] = {}

    def _name(self, path: str) -> str:
        return self.prefix[:-1] if path == "~" and self.prefix else self.prefix + path

    def begin(self, params: Entries, state: Entries) -> None:
        """File the first values: of ``init``."""
        if self._cells:
            if self.reuse:
                return
            raise errors.LiftError(
                f"a lifted init ran twice in one init{errors.where()}: its entries {sorted(map(self._name, params))} exist "
                "already. Lift it once for each use, or allow_reuse=True to have them shared."
            )
        for kind, entries in ((True, params), (False, state)):
            cell = _Entries(settle(entries))
            self._pure.put_aside(cell)
            self._cells[kind] = cell

    def take(self) -> None:
        """Look up the values: of ``apply``."""
        for kind in (True, False):
            if kind not in self._cells:
                cell = self._cells[kind] = _Entries(UNSET)
                self._pure.values[cell] = self._below(self._pure.given(kind))

    def _below(self, given: Entries) -> Entries:
        """What lies under the prefix; of a transparent lift, as far as nobody else is known to use it."""
        known = {*self._pure.names.places.values()} if self.transparent else set()
        found = PartialEntries() if self.transparent else Entries()
        for path, leaves in given.items():
            left = {name: value for name, value in leaves.items() if (path, name) not in known}
            if left and path.startswith(self.prefix):
                found[path[len(self.prefix) :]] = left
            elif left and path == self.prefix[:-1]:
                found["~"] = left
        return found

    def read(self) -> tuple[Entries, Entries]:
        """Copies of the values here and now."""
        params, state = (frame.get(self._cells[kind]) for kind in (True, False))
        return _copy(params), _copy(state)

    def update(self, state: Entries) -> None:
        frame.set(self._cells[False], settle(_copy(state)))

    # -- for the frame -------------------------------------------------------------------------------------------------

    def places(self, params: bool) -> set[tuple[str, str]]:
        """The outer names of what was taken from ``params`` or ``state``."""
        entries = self._pure.values.get(self._cells[params], {}) if params in self._cells else {}
        return {(self._name(path), name) for path, leaves in entries.items() for name in leaves}

    def results(self, pure: PureFrame, params: Entries, state: Entries) -> None:
        """Add what ``init`` or ``apply`` returns."""
        if not self.updates:
            raise errors.LiftError(
                f"the state of {self.prefix[:-1] or 'a lifted function'} was neither updated nor left alone on purpose: call "
                "updater.update(new_state), or updater.ignore_update(), once."
            )
        for kind, target in ((True, params), (False, state)):
            if kind in self._cells and not (pure.applies and kind):
                cell = self._cells[kind]
                for path, entries in (pure.values[cell] if pure.applies else pure.first_value(cell)).items():
                    own = target.setdefault(self._name(path), {})
                    if not pure.applies and not self.reuse and own.keys() & entries.keys():
                        raise self._clash(self._name(path))
                    if pure.applies and self.transparent:
                        entries = {name: value for name, value in entries.items() if name not in own}  # the others' are theirs
                    own.update(entries)
        if self.transparent and not pure.applies:
            tops = {path.partition(".")[0] for path in (*self._first(True), *self._first(False))}
            for top in tops & pure.names.classes():
                raise self._clash(top)

    def _first(self, kind: bool) -> Entries:
        return self._pure.first_value(self._cells[kind]) if kind in self._cells and not self.prefix else {}

    def _clash(self, path: str) -> errors.LiftError:
        return errors.LiftError(
            f"a lifted function has entries under {path!r}, where a module of the function around it has its own: use objnet.lift, "
            "which puts a name of its own in front."
        )

    def show(self, params: bool, found: Entries) -> None:
        """Add what is there now."""
        if params in self._cells:
            for path, entries in frame.get(self._cells[params]).items():
                found.setdefault(self._name(path), {}).update(entries)


class LiftWithStateUpdater:
    """Takes the new state of a function lifted by :func:`lift_with_state`; one of its methods is to be called, once."""

    def __init__(self, lifted: Lift, pure: PureFrame):
        self._lifted = lifted
        self._pure = pure

    def _use(self) -> None:
        if pure_frame("the updater of objnet.lift_with_state") is not self._pure:
            raise errors.LiftError(f"a state updater is to be used in the call of init or apply that made it{errors.where()}")
        if self._lifted.updates:
            raise errors.LiftError(f"a state updater is to be used only once{errors.where()}")
        self._lifted.updates = True

    def update(self, state: Mapping[str, Any]) -> None:
        """Have this state returned by the outer ``apply``.

        Raises:
            LiftError: a second use, or one in another call of init or apply.
        """
        self._use()
        self._lifted.update(state)  # type: ignore[arg-type]

    def ignore_update(self) -> None:
        """Have the state returned as it was; raises as :meth:`update`."""
        self._use()


def lift(init: Callable[..., Any], *, allow_reuse: bool = False, name: str = "lifted") -> Callable[..., Any]:
    """Register the parameters of an inner ``init`` with the pure function that runs here (Haiku's ``lift``).

    Args:
        init: of an :func:`objnet.transform`, or such an ``init`` under jax's transforms.
        allow_reuse: whether the function that is returned may run several times, sharing parameters, and whether ``init`` may
            reach modules of the function around it.
        name: what the names of the parameters begin with.

    Returns:
        A function with the arguments of ``init`` that gives the parameters for the inner ``apply``; in the outer ``apply``
        its arguments are not used.

    Raises:
        OutsideTransformError: outside of a pure function. NonEmptyStateError: ``init`` returns state too. LiftError: see
        ``allow_reuse``.
    """
    return _stateless(init, "objnet.lift", _new(name, allow_reuse))


def transparent_lift(init: Callable[..., Any], *, allow_reuse: bool = False) -> Callable[..., Any]:
    """:func:`lift` without a name in front; in ``apply`` it hands out all parameters that nobody else has used (Haiku's).

    Raises:
        As :func:`lift`; LiftError if a name exists already.
    """
    return _stateless(init, "objnet.transparent_lift", _new(None, allow_reuse))


def lift_with_state(
    init: Callable[..., Any], *, allow_reuse: bool = False, name: str = "lifted"
) -> tuple[Callable[..., Any], LiftWithStateUpdater]:
    """:func:`lift` for functions with state (Haiku's ``lift_with_state``).

    Returns:
        A function that gives ``(params, state)``, and the updater that takes the new state.
    """
    return _stateful(init, _new(name, allow_reuse))


def transparent_lift_with_state(
    init: Callable[..., Any], *, allow_reuse: bool = False
) -> tuple[Callable[..., Any], LiftWithStateUpdater]:
    """:func:`lift_with_state` without a name in front; see :func:`transparent_lift`."""
    return _stateful(init, _new(None, allow_reuse))


def _new(name: str | None, reuse: bool) -> Lift:
    pure = pure_frame("objnet.lift")
    around = current_name()
    prefix = "" if around == "~" else around + "."
    if name is not None:
        prefix = pure.names.reserve(name if around == "~" else f"{around}.{name}") + "."
        pure.unless_restarted(lambda: pure.names.release(prefix[:-1]))
    lifted = Lift(pure, prefix, name is None, reuse)
    pure.lifts.append(lifted)
    pure.unless_restarted(lambda: pure.lifts.remove(lifted))
    return lifted


def _stateless(init: Any, what: str, lifted: Lift) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        params = init(*args, **kwargs)
        if not isinstance(params, Mapping):
            raise errors.NonEmptyStateError(f"{what} was given an init that returns state too: use {what}_with_state")
        return params, {}

    return lambda *args, **kwargs: _run(run, lifted, args, kwargs)[0]


def _stateful(init: Any, lifted: Lift) -> Any:
    lifted.updates = False
    return lambda *args, **kwargs: _run(init, lifted, args, kwargs), LiftWithStateUpdater(lifted, lifted._pure)


def _run(init: Any, lifted: Lift, args: Any, kwargs: Any) -> tuple[Entries, Entries]:
    pure = pure_frame("a lifted function")
    if pure is not lifted._pure:
        raise errors.LiftError(f"a lifted function is to be called in the call of init or apply that made it{errors.where()}")
    if pure.applies:
        lifted.take()
    else:
        with pure.lifting(not lifted.reuse):
            params, state = init(*args, **kwargs)
        lifted.begin(params, state)
    return lifted.read()


def _copy(entries: Entries) -> Entries:
    return type(entries)({path: dict(leaves) for path, leaves in entries.items()})
