"""``vmap``: a function of one row over all rows, where state is shared by the rows or each row has its own.

What the function reads is shared.  What it writes is either the same for every row, and stays shared; or it belongs to a
module that was handed over with an axis of its own, as an ensemble of models is, and is stacked again along that axis.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax

from objnet.core import errors, frame
from objnet.core.once import once
from objnet.core.rng import key_stream, next_rng_key, split
from objnet.core.variable import Variable
from objnet.transforms.rows import Taken, is_leaf, is_module, spread, variables_of
from objnet.transforms.threaded import arrays

_SHARED = "objnet_shared"
_OWN = "objnet_own"


class KeysNeeded(frame.Abort):
    """A function that has run without keys draws one."""

    def __init__(self, inner: RowFrame):
        self.frame = inner


class RowFrame(frame.Frame):
    """The frame of a function of one row, or of one device.

    Args:
        what: the transform's name, for messages.
        randomness: whether each row draws keys of its own ("different"), all rows the same ("same"), or none ("error").
        key: with "different", the row's key, once it is known that one is drawn.
    """

    repeats = True

    def __init__(self, what: str, randomness: str):
        super().__init__()
        self.what = what
        self._randomness = randomness
        self.keyed = False

    def note_draw(self) -> None:
        if self._randomness == "error":
            raise errors.RngInTransformError(
                f"a random key was drawn inside {self.what}{errors.where()}, which does not say what the rows are to get: pass "
                'randomness="different" for numbers of its own in each row, or randomness="same" for the same in all.'
            )
        if self._randomness == "different" and not self.keyed:
            raise KeysNeeded(self)


def check_randomness(randomness: str) -> None:
    if randomness not in ("error", "different", "same"):
        raise RuntimeError(f"Only allowed values for randomness are 'error', 'different', or 'same'. Got {randomness}")


def with_keys(attempt: Callable[[RowFrame, bool, bool], Any], make: Callable[[], RowFrame]) -> Any:
    """Run ``attempt(frame, token, keyed)``, again with keys if one is drawn."""

    def run(keyed: bool) -> Any:
        return once(lambda inner, token: attempt(inner, token, keyed), make)  # type: ignore[arg-type, return-value]

    try:
        return run(False)
    except KeysNeeded as needed:
        if frame.is_open(needed.frame):
            raise  # of a transform around this one
        return run(True)


class Returned(NamedTuple):
    """A result in which each module that the function built is replaced by the values of its new Variables."""

    structure: Any
    modules: dict[int, Any]
    variables: dict[int, list[Variable]]

    @staticmethod
    def split(result: Any, created: Iterable[Variable], value: Callable[[Variable], Any]) -> tuple[Any, Returned]:
        leaves, structure = jax.tree.flatten(result, is_leaf=is_module)
        modules = {i: leaf for i, leaf in enumerate(leaves) if is_module(leaf)}
        new = set(created)
        variables: dict[int, list[Variable]] = {}
        for i, module in modules.items():
            variables[i] = [v for v in variables_of(module) if v in new]
            new.difference_update(variables[i])
            leaves[i] = [value(v) for v in variables[i]]
        return jax.tree.unflatten(structure, leaves), Returned(structure, modules, variables)

    def join(self, result: Any) -> Any:
        leaves = self.structure.flatten_up_to(result)
        for i, module in self.modules.items():
            for v, value in zip(self.variables[i], leaves[i], strict=True):
                frame.create(v, value)
            leaves[i] = module
        return jax.tree.unflatten(self.structure, leaves)


def vmap(
    function: Any = None,
    in_axes: Any = 0,
    out_axes: Any = 0,
    axis_name: Any = None,
    axis_size: int | None = None,
    spmd_axis_name: Any = None,
    *,
    randomness: str = "error",
    over: Any = None,
) -> Any:
    """``function`` over every row of its arguments (``jax.vmap``).

    Args:
        function: may read any module. What it writes must be the same for all rows, but for modules with an axis.
        in_axes, out_axes: as in jax. A module among the arguments is one leaf: with an axis every row gets its own row of the
            Variables (an ensemble made by :func:`objnet.func.stack_modules`), and what it writes there is stacked again; with
            None it is shared. A module that the function builds and returns is stacked along ``out_axes``.
        axis_name, axis_size, spmd_axis_name: as in jax.
        randomness: whether random keys may be drawn: ``"error"``; or ``"different"`` ones in each row, or the ``"same"`` in all
            (torch.func's argument).
        over: modules that the function reaches by itself, one or a list, to be mapped along axis 0 too.

    Raises:
        SharedStateError: rows wrote different values to a Variable they share. RngInTransformError: a key was drawn and
            ``randomness`` is "error". ValueError: of jax, for axes that do not fit. RuntimeError: unknown ``randomness``.
    """
    check_randomness(randomness)
    options = {"axis_name": axis_name, "axis_size": axis_size, "spmd_axis_name": spmd_axis_name}
    if function is None:
        return functools.partial(vmap, in_axes=in_axes, out_axes=out_axes, **options, randomness=randomness, over=over)
    prefix = tuple(in_axes) if isinstance(in_axes, list) else in_axes

    @functools.wraps(function, updated=())
    def mapped(*args: Any, **kwargs: Any) -> Any:
        given = (args, kwargs, over)
        own = prefix if isinstance(prefix, tuple) else (prefix,) * len(args)
        if len(own) != len(args):
            raise ValueError(f"vmap in_axes has {len(own)} entries for {len(args)} positional arguments")
        axes = spread((own, 0, 0), given, is_leaf)
        taken = Taken(given, keep=lambda i: axes[i] is None)

        def attempt(inner: RowFrame, token: bool, keyed: bool) -> Any:
            return _run(inner, token, keyed, function, taken, axes, out_axes, options)

        return with_keys(attempt, lambda: RowFrame("objnet.vmap", randomness))

    return mapped


def _run(
    inner: RowFrame, token: bool, keyed: bool, function: Any, taken: Taken, axes: list[Any], out_axes: Any, options: Any
) -> Any:
    inner.keyed = keyed
    mapped = [i for i, axis in enumerate(axes) if axis is not None and taken.values[i] is not None]
    values, in_axes = [taken.values[i] for i in mapped], [axes[i] for i in mapped]
    kinds = sorted(set(in_axes))  # the axes that a mapped module's state may go back to
    keys = split(next_rng_key(), _size(values, in_axes, options)) if keyed else None
    shared: list[Variable] = []
    own: dict[int, list[Variable]] = {}
    returned: list[Returned] = []

    def row(values: list[Any], key: Any) -> Any:
        full = list(taken.leaves)
        for i, value in zip(mapped, values, strict=True):
            full[i] = value
        with inner.open(token):
            (args, kwargs, _), rows = taken.put_back(full)
            inner.values.update(rows)
            if keyed:
                inner.values[key_stream] = key
            result = arrays(function(*args, **kwargs))
            out, split_result = Returned.split(result, inner.created, lambda v: inner.values[v])
            built = {v for variables in split_result.variables.values() for v in variables}
            outcome = {v: pair for v, pair in inner.outcome().items() if v not in built and not (keyed and v is key_stream)}
            axis_of = {v: axes[home] for v in outcome if (home := taken.home(v)) is not None}
            own.update((axis, [v for v in outcome if axis_of.get(v) == axis]) for axis in kinds)
            shared[:] = [v for v in outcome if v not in axis_of]
            returned[:] = [split_result]
            inner.close()
        return out, {_OWN: [[outcome[v] for v in own[axis]] for axis in kinds], _SHARED: [outcome[v] for v in shared]}

    run = jax.vmap(row, in_axes=(in_axes, 0), out_axes=(out_axes, {_OWN: kinds, _SHARED: None}), **options)
    try:
        out, states = run(values, keys)
    except ValueError as error:
        found = re.search(rf"\['{_SHARED}'\]\[(\d+)\]", str(error))
        if found is None and not (shared and "got axis spec None" in str(error) and jax.tree.leaves(out_axes)):
            raise
        raise _differs(inner.what, shared if found is None else [shared[int(found[1])]]) from None
    by_variable = dict(zip(shared, states[_SHARED], strict=True))
    for axis, stacked in zip(kinds, states[_OWN], strict=True):
        by_variable.update(zip(own[axis], stacked, strict=True))
    inner.commit(by_variable)
    return returned[0].join(out)


def _size(values: Sequence[Any], axes: Sequence[Any], options: Any) -> int:
    """The number of rows; jax says what is wrong where the arguments do not agree."""
    for value, axis in zip(values, axes, strict=True):
        for leaf in jax.tree.leaves(value):
            if jax.numpy.ndim(leaf):
                return leaf.shape[axis]
    return options["axis_size"] or 1


def _differs(what: str, variables: Sequence[Variable]) -> errors.SharedStateError:
    named = " or ".join(v.describe() for v in variables)
    return errors.SharedStateError(
        f"{named} was given a different value in each row of {what}{errors.where()}, but all rows share it. Give "
        "each row a module of its own (objnet.func.stack_modules, handed over with in_axes=0 or over=...), write what is the same "
        "for all rows (a mean over axis_name, as SyncBatchNorm does), or put the module in eval mode."
    )
