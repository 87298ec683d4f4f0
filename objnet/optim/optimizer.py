"""``Optimizer``, the base class: parameter groups, the three ways to step, and what compiled steps need.

An optimizer is a class with five static functions over plain numbers and arrays; everything else is here. The base class
looks after where state lives, what is data and what is program, and what a step may be given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from objnet.core import epoch, errors, frame
from objnet.core.variable import UNSET, Parameter, Variable
from objnet.optim.cells import Cells, copy_shared, named, new_cell, new_shared
from objnet.optim.gradients import match, mismatch
from objnet.optim.groups import ParamGroup, check_kind, check_parameters, plain
from objnet.optim.hooks import OptimizerHooks
from objnet.optim.progress import note
from objnet.optim.serialization import OptimizerSerialization
from objnet.optim.state import State
from objnet.optim.transformation import as_optax
from objnet.optim.update import run_rule, run_schedule
from objnet.transforms.autodiff import differentiate


class _Evaluation(NamedTuple):
    """What a closure gave, and whether its gradients are those it left in ``p.grad``."""

    value: Any
    aux: Any
    gradients: dict[Parameter, jax.Array]
    own: bool


class Optimizer(OptimizerSerialization, OptimizerHooks):
    """Base class of all optimizers (torch's ``optim.Optimizer``).

    A subclass states its maths in ``_options``, ``_derive``, ``_slots``, ``_shared``, ``_schedule`` and ``_rule``, all static
    functions. One moved over from torch may define ``step`` instead, and keep arrays and numbers in ``self.state[p]``; in it
    ``p.grad`` is a jax array, ``p.add_(...)`` and ``p.data = ...`` write the parameter, and a group's entries are numbers. In compiled
    functions ``group["lr"]`` is an array, so that schedulers reach it, and the other numbers are part of the program.

    Args:
        params: Parameters, (name, Parameter) pairs, or dicts with ``"params"`` and hyper-parameters of their own.
        defaults: hyper-parameters for groups that do not say otherwise.

    Raises:
        ValueError: for no parameters, or one given twice. TypeError: for anything but Parameters.
    """

    _saves_steps = True  # whether a state dict has "step", as torch's for this optimizer
    _takes_complex = True
    _begins_with_state = False  # whether there is state before the first step, as in torch for this optimizer

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        self = super().__new__(cls)
        # for wrappers that do not call __init__, but take over the groups of what they wrap
        self.__dict__.update(defaults={}, param_groups=[], _cells={}, _hooks={})
        if (inner := frame.current()) is not None:
            inner.note_built(self)
        return self

    def __init__(self, params: Any, defaults: Mapping[str, Any]):
        super().__init__()
        if isinstance(params, (Variable, jax.Array)) or hasattr(params, "named_parameters"):
            hint = f": pass [{'p' if isinstance(params, Variable) else 'parameter'}]"
            raise TypeError(
                "params argument given to the optimizer should be an iterable of Parameters or dicts, but got "
                f"{type(params).__name__}{': pass its .parameters()' if hasattr(params, 'named_parameters') else hint}"
            )
        self.defaults = {k: plain(k, v) for k, v in defaults.items()}
        self.param_groups: list[ParamGroup] = []
        self._cells: dict[Parameter, Cells] = {}
        groups: list[Any] = [{"params": params}]
        if not hasattr(params, "named"):
            items = list(params)
            groups = items if items and isinstance(items[0], dict) else [{"params": items}]
        for group in groups:
            self.add_param_group(group)
        if not any(group.params for group in self.param_groups):
            used = (
                " (an iterator that has been used up? model.parameters() gives a new one)" if hasattr(params, "__next__") else ""
            )
            raise ValueError(f"optimizer got an empty parameter list{used}")

    # -- the maths of a subclass ---------------------------------------------------------------------------------------

    @staticmethod
    def _options(group: Mapping[str, Any]) -> Any:
        """What of a group decides which operations and which state there are: hashable, and part of the program."""
        return ()

    @staticmethod
    def _derive(group: Mapping[str, Any]) -> dict[str, float]:
        """Further numbers, computed from a group's in double precision; like them they are data."""
        return {}

    @staticmethod
    def _slots(options: Any, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """The shapes of the arrays kept for a parameter of ``shape``, by torch's names; they start as zeros."""
        return {}

    @staticmethod
    def _shared(options: Any) -> dict[str, float]:
        """Numbers kept beside the count of steps, by torch's names, as they start; ``_schedule`` gives their next values."""
        return {}

    def _check_group(self, group: Mapping[str, Any]) -> None:
        """Raise ValueError for what a group of this optimizer cannot be."""

    @staticmethod
    def _check_key(key: str, known: Iterable[str]) -> None:
        """Raise KeyError for what a group cannot have beside the ``known`` hyper-parameters."""

    def _first(self, name: str) -> float:
        """What the array ``name`` starts as, everywhere."""
        return 0.0

    @staticmethod
    def _schedule(options: Any, numbers: dict[str, jax.Array], steps: Any) -> dict[str, jax.Array]:
        """The numbers the rule uses, computed once for all parameters of a group that are stepped together.

        Args:
            numbers: the group's, the derived and the shared ones, 0-d, by name (``lr``, ``betas.0``).
            steps: which step this is, 0-d, from 1; None if no arrays are kept.
        """
        return numbers

    @staticmethod
    def _rule(
        options: Any, p: jax.Array, g: jax.Array, state: dict[str, jax.Array], n: dict[str, jax.Array]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """One parameter's new value and new arrays, from its gradient and the numbers of ``_schedule``, all of one dtype.

        Among the numbers is ``epsilon``, that of the parameter's own dtype.
        """
        raise NotImplementedError("an Optimizer subclass defines _rule, or step")

    # -- groups --------------------------------------------------------------------------------------------------------

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters under ``"params"``, with hyper-parameters of their own where given.

        Raises:
            TypeError, ValueError: as torch; and for a parameter that appears twice.
        """
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        entries = dict(param_group)
        params, names, named = _split(entries["params"])
        check_parameters(params)
        entries["params"] = params
        if named:
            entries["param_names"] = names
        for name, default in self.defaults.items():
            entries.setdefault(name, default)
            check_kind(name, default, plain(name, entries[name]))
        for group in self.param_groups:
            if ("param_names" in entries) != ("param_names" in group):
                which = "with" if "param_names" in entries else "without"
                raise ValueError(
                    "all optimizer param groups should be with/without names. "
                    f"cannot add param group {which} names to the optimizer"
                )
        if {id(p) for p in params} & {id(p) for p in self._held()}:
            raise ValueError("some parameters appear in more than one parameter group")
        self._check_group(entries)
        self.param_groups.append(ParamGroup(type(self), entries, self.defaults, names))
        epoch.advance()
        if self._begins_with_state or self.param_groups[-1].local():
            self.__objnet_prepare__()

    def _report(self, cells: Cells) -> dict[str, Any]:
        """A parameter's state as torch lays it out."""
        return {name: cell._read() for name, cell in cells.items() if name != "step" or self._saves_steps}

    def _held(self) -> list[Parameter]:
        for group in self.param_groups:
            if not isinstance(group, ParamGroup):
                raise TypeError(
                    f"param_groups of {self._where()} holds a {type(group).__name__}{errors.where()}, which has no defaults and no place on "
                    "the device: add groups by add_param_group({...})"
                )
        return [p for group in self.param_groups for p in group.params]

    @classmethod
    def _keeps_its_own(cls) -> bool:
        """Whether this is a subclass of the user's with a ``step`` of its own, which puts into ``state`` what it likes."""
        return cls._slots is Optimizer._slots and cls._make_cells is Optimizer._make_cells

    def _group_of(self, parameter: Parameter) -> ParamGroup:
        return next(group for group in self.param_groups if any(p is parameter for p in group.params))

    def _is_own(self, parameter: Parameter, name: str) -> bool:
        """Whether this optimizer's maths keeps something of this name for a parameter."""
        options = self._group_of(parameter).options
        slots = self._slots(options, tuple(parameter.shape))
        return name in slots or (bool(slots) and (name == "step" or name in self._shared(options)))

    @property
    def state(self) -> State:
        """From each parameter that has been stepped to its arrays by torch's names."""
        return State(self)

    @state.setter
    def state(self, state: Mapping[Parameter, Mapping[str, Any]]) -> None:
        given = {p: dict(values) for p, values in state.items()}
        for p in self._held():
            self.state[p] = given.pop(p, {})
        for p in given:
            self.state[p]  # which refuses it

    # -- stepping ------------------------------------------------------------------------------------------------------

    def step(self, closure: Any = None, *, has_aux: bool = False) -> Any:
        """Update the parameters once.

        - ``loss = step(closure)``: ``closure`` returns the scalar loss, which is differentiated here. If it has called
          ``objnet.backward`` itself, the ``p.grad`` it left are taken.
        - ``step(grads)``: what ``objnet.value_and_grad`` gave, a list along the parameters, or a dict by their names.
        - ``step()``: takes ``p.grad``.

        A parameter without a gradient (None) is left alone: no weight decay, no step counted.

        Args:
            closure: the closure, or gradients, or None.
            has_aux: whether the closure returns (loss, aux); then so does this.

        Returns:
            The closure's loss; otherwise None.

        Raises:
            TypeError: for anything else. StructureMismatchError: for gradients that do not fit, before anything changes.
            DetachedLossError: for a closure whose loss depends on no parameter that requires grad.
        """
        note(self)
        args: tuple[Any, ...] = (self,) if closure is None else (self, closure)
        kwargs: dict[str, Any] = {"has_aux": True} if has_aux else {}
        for hook in self._hooks_of("step_pre"):
            changed = hook(self, args, kwargs)
            if changed is not None:
                if not isinstance(changed, tuple) or len(changed) != 2:
                    raise RuntimeError(f"{hook} must return None or a tuple of (new_args, new_kwargs), but got {changed}.")
                args, kwargs = changed
        result = self._step(*args[1:], **kwargs)
        for hook in self._hooks_of("step_post"):
            hook(self, args, kwargs)
        return result

    def _step(self, closure: Any = None, has_aux: bool = False) -> Any:
        if callable(closure):
            return self._step_closure(closure, has_aux)
        if has_aux:
            raise TypeError("has_aux=True says that a closure returns (loss, aux), and no closure was given")
        if closure is None:
            self._step_own()
        else:
            self._update(match(closure, self.param_groups))

    def _step_closure(self, closure: Callable[[], Any], has_aux: bool) -> Any:
        found = self._evaluate(closure, has_aux)
        if found.own:
            self._step_own()
        else:
            self._update(found.gradients)
        return (found.value, found.aux) if has_aux else found.value

    def _evaluate(self, closure: Callable[[], Any], has_aux: bool) -> _Evaluation:
        """Run a closure once, for the loss and the gradients there are."""
        held = self._held()
        before = [p._grad._peek() for p in held]
        found = differentiate(closure, parameters=[p for p in held if p.requires_grad], has_aux=has_aux)
        after = [p._grad._peek() for p in held]
        own = any(new is not old and new is not None for new, old in zip(after, before, strict=True))  # as torch's closures do
        if found.detached and not own:
            raise errors.detached()
        gradients = self._own() if own else {p: g for p, g in found.parameters.items() if g is not None}
        return _Evaluation(found.value, found.aux, gradients, own)

    def _own(self) -> dict[Parameter, jax.Array]:
        """Every ``p.grad`` there is."""
        grads: dict[Parameter, jax.Array] = {}
        for p in self._held():
            gradient = p.grad
            if gradient is not None:
                fault = mismatch(p, gradient)
                if fault:
                    raise RuntimeError(f"{p.describe()}.grad does not fit{errors.where()}: {fault}")
                grads[p] = gradient
        return grads

    def _step_own(self) -> None:
        grads = self._own()
        self._update(grads)
        inner = frame.current()
        if inner is not None:
            for p in grads:
                inner.consume(p._grad)

    def _update(self, grads: Mapping[Parameter, jax.Array]) -> None:
        for p in grads:
            if not self._takes_complex and jnp.issubdtype(p.dtype, jnp.complexfloating):
                raise RuntimeError(f"{type(self).__name__} does not support complex parameters: {p.describe()} is {p.dtype}")
        rule, schedule = type(self)._rule, type(self)._schedule
        for group in self.param_groups:
            self._follow(group)
            options, names = group.options, tuple(group.numbers)
            for shared, members in self._cohorts(group, grads):
                before = {name: cell._read() for name, cell in shared.items()}
                after, numbers = run_schedule(schedule, options, names, group.vector(), before)
                for p in members:
                    cells = self._cells.get(p, {})
                    state = {name: cells[name]._read() for name in self._slots(options, p.shape)}
                    value, state = run_rule(rule, options, p._read(), grads[p], state, numbers)
                    p._set(value)
                    for name, array in state.items():
                        cells[name]._set(array)
                for name, number in after.items():
                    shared[name]._set(number)

    def _cohorts(self, group: ParamGroup, grads: Mapping[Parameter, jax.Array]) -> list[tuple[Cells, list[Parameter]]]:
        """The parameters that take this step, by what they share: one lot, as long as all were always stepped together."""
        stepping = [p for p in group.params if p in grads]
        if not self._slots(group.options, ()):
            return [({}, stepping)] if stepping else []
        self._make_cells(group, stepping)
        cohorts: list[tuple[Cells, list[Parameter]]] = []
        names = ("step", *self._shared(group.options))
        lots = {id(cells["step"]): {name: cells[name] for name in names} for p in stepping if (cells := self._cells[p])}
        for shared in lots.values():
            mates = [p for p in group.params if self._cells.get(p, {}).get("step") is shared["step"]]
            members = [p for p in mates if p in grads]
            if len(members) < len(mates):
                shared = copy_shared(shared, group.local())
                for p in members:
                    self._cells[p] |= named(p, shared)
                epoch.advance()
            cohorts.append((shared, members))
        return cohorts

    def _follow(self, group: ParamGroup) -> None:
        """Take numbers and counters to where the parameters have gone."""
        if frame.trace_state() == frame.CLEAN and group.moved():
            names = ("step", *self._shared(group.options))
            shared = {id(c[name]): c[name] for p in group.params if (c := self._cells.get(p)) for name in names}
            for cell in shared.values():
                cell._set(jax.device_put(cell._read(), group.placement))

    def _make_cells(self, group: ParamGroup, params: Iterable[Parameter]) -> None:
        """Make the count of steps and the arrays that are missing."""
        local = group.local()
        names = ("step", *self._shared(group.options))
        shared: Cells = {}
        for p in params:
            cells = self._cells.get(p, {})
            slots = self._slots(group.options, p.shape)
            missing = {name: shape for name, shape in slots.items() if name not in cells}
            for name, shape in slots.items():
                if name not in missing and (held := cells[name]._read()).shape != shape:
                    raise ValueError(
                        f"the state {name!r} of {p.describe()} has shape {held.shape}, and the parameter calls for {shape}: give the one in "
                        "its place state of its shape (optimizer.state[p][...] = ...), or take it away (del optimizer.state[p])"
                    )
            begins = bool(slots) and any(name not in cells for name in names)
            if begins:
                shared = shared or new_shared(self._shared(group.options), group.placement, local)
                cells = {**shared, **{name: cell for name, cell in cells.items() if name not in shared}}
            if begins or missing:
                made = {name: new_cell(p, shape, self._first(name), local) for name, shape in missing.items()}
                made = named(p, cells | made)
                held = self._cells.setdefault(p, {})  # the same dict, of which views know
                held.clear()
                held.update(made)
                epoch.advance()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear every ``p.grad``, or with ``set_to_none=False`` fill those there are with zeros."""
        for p in self._held():
            p._zero_grad(set_to_none)

    @classmethod
    def as_optax(cls, **options: Any) -> optax.GradientTransformation:
        """This optimizer's maths as a pure transformation: ``tx = optim.AdamW.as_optax(lr=1e-3)``.

        Its updates, applied with ``optax.apply_updates``, are the steps taken here, to rounding. Gradients that are None leave
        their parameters alone; all others count one step together.

        Args:
            options: the constructor's hyper-parameters; ``lr`` may be a schedule of optax's too.

        Raises:
            TypeError, ValueError: as the constructor.
        """
        return as_optax(cls, options)

    # -- for compiled functions ----------------------------------------------------------------------------------------

    def __objnet_prepare__(self) -> None:
        """Make the state a step will need, so that the program which takes it can be traced at once."""
        for group in self.param_groups:
            self._follow(group)
            self._make_cells(group, [p for p in group.params if p.requires_grad and (p._value is not UNSET or group.local())])

    def __objnet_capture__(self, visit: Callable[[Any], Any]) -> Any:
        extra = {k: v for k, v in self.__dict__.items() if k not in ("param_groups", "_cells", "_hooks", "defaults")}
        return (
            visit(self.param_groups),
            tuple(tuple((name, visit(c)) for name, c in self._cells.get(p, {}).items()) for p in self._held()),
            tuple(visit(hook) for kind in ("step_pre", "step_post") for hook in self._hooks_of(kind)),
            tuple((k, visit(v)) for k, v in extra.items()),
        )

    def __objnet_create__(self, kind: str, name: tuple[int, str], value: Any) -> None:
        """Keep what a compiled function has begun to keep."""
        self.state[self._held()[name[0]]][name[1]] = value

    def __setattr__(self, name: str, value: Any) -> None:
        inner = frame.current()
        if inner is not None and not name.startswith("_"):
            space, old = self.__dict__, self.__dict__.get(name, UNSET)
            inner.note_attribute(self, name, old, value)
            inner.undo.append(lambda: space.pop(name, None) if old is UNSET else space.update({name: old}))
        object.__setattr__(self, name, value)
        epoch.advance()

    def _where(self) -> str:
        return f"this {type(self).__name__}"

    # -- copying and printing ------------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_hooks": {}}  # torch's copies have no hooks either

    def __repr__(self) -> str:
        lines = [type(self).__name__ + " ("]
        for i, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {i}")
            lines.extend(f"    {key}: {group[key]}" for key in sorted(group) if key != "params")
        return "\n".join([*lines, ")"])


def _split(params: Any) -> tuple[list[Any], Sequence[str] | None, bool]:
    """Parameters, their names if known, and whether the user gave the names."""
    if isinstance(params, Parameter):
        return [params], None, False
    if isinstance(params, (set, frozenset)):
        raise TypeError(
            "optimizer parameters need to be organized in ordered collections, but the ordering of tensors in sets will change "
            "between runs. Please use a list instead."
        )
    if hasattr(params, "named"):
        pairs = list(params.named())
        return [p for _, p in pairs], [name for name, _ in pairs], False
    items: Iterable[Any] = list(params)
    names = [item[0] for item in items if isinstance(item, tuple)]
    plain_items = [item[1] if isinstance(item, tuple) else item for item in items]
    if names and len(names) != len(plain_items):
        raise ValueError("all optimizer params should be with/without names. Some param names are missing")
    return plain_items, names or None, bool(names)
