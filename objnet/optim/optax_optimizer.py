"""``Optax``: any ``optax.GradientTransformation`` as an optimizer over Parameters."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
import optax

from objnet.core import epoch, errors, frame
from objnet.core.foreign import to_host_or_jax
from objnet.core.variable import UNSET, Parameter, Variable
from objnet.optim.cells import outside
from objnet.optim.groups import ParamGroup
from objnet.optim.optimizer import Optimizer

_LR = "learning_rate"  # optax's word for torch's lr


class Optax(Optimizer):
    """An optax transformation that steps like any other optimizer: ``optim.Optax(model.parameters(), optax.lion(1e-4))``.

    The transformation sees a dict of arrays by parameter name (``"fc.weight"``; ``"0"``, ``"1"``, ... where names are unknown), so
    masks and labels are dicts by name too. It sees the parameters that require gradients when the optimizer is built. One without
    a gradient is left alone: it counts as zero in what mixes parameters, such as a global norm, and keeps its value and state.
    A closure's loss reaches transformations that ask for ``value``.

    Numbers made data by ``optax.inject_hyperparams`` stand in ``param_groups[0]`` (``learning_rate`` as ``lr``), where
    schedulers write them; those that follow a schedule of optax's own do not.

    Args:
        params: Parameters, or (name, Parameter) pairs; one group.
        tx: the transformation.

    Raises:
        TypeError: if ``tx`` is none. ValueError: for several groups, or parameters without values.
    """

    def __init__(self, params: Any, tx: optax.GradientTransformation):
        if not (callable(getattr(tx, "init", None)) and callable(getattr(tx, "update", None))):
            raise TypeError(
                f"tx must be an optax.GradientTransformation such as optax.adam(1e-3), got {type(tx).__name__}{errors.where()}"
            )
        self.tx = optax.with_extra_args_support(tx)
        super().__init__(params, {})
        group = self.param_groups[0]
        names = group.names() or [str(i) for i in range(len(group.params))]
        if len(set(names)) < len(names):
            names = [str(i) for i in range(len(group.params))]
        self._by_name = {name: p for name, p in zip(names, group.params, strict=True) if p.requires_grad}
        missing = [p.describe() for p in self._by_name.values() if p._value is UNSET and not group.local()]
        if missing:
            raise ValueError(f"Optax needs the parameters' values, and these have none yet: {', '.join(missing)}")
        state = _init(self.tx, {name: p._read() for name, p in self._by_name.items()})
        leaves, self._structure = jax.tree.flatten(state)
        self._leaves = [Variable(leaf) if group.local() else outside(jnp.asarray(leaf)) for leaf in leaves]
        paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(state)[0]]
        self._paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path in paths]
        self._owners = [next((str(k.key) for k in path if _names(k, self._by_name)), None) for path in paths]
        self._injected = _injected(state)
        self.defaults = {name: _shortest(value) for name, value in self._injected.items()}
        self.param_groups[0] = ParamGroup(type(self), {**group, **self.defaults}, self.defaults, names)
        epoch.advance()

    @staticmethod
    def _check_key(key: str, known: Iterable[str]) -> None:
        if key == "lr" and key not in known:
            raise KeyError(
                f"this Optax has no 'lr' to read, set or schedule{errors.where()}: the numbers of its transformation are part of the "
                "program. Make them data: optim.Optax(params, optax.inject_hyperparams(optax.sgd)(learning_rate=0.1))"
            )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Only the constructor's: a transformation's state is made for all its parameters at once.

        Raises:
            ValueError: after that.
        """
        if self.param_groups:
            raise ValueError(
                "Optax keeps one state for all its parameters: build it anew for more, or give groups rules of their own with "
                "optax.partition"
            )
        super().add_param_group(param_group)

    @property
    def state(self) -> Any:
        """The transformation's state, as optax gave it."""
        return jax.tree.unflatten(self._structure, [cell._read() for cell in self._leaves])

    def _make_cells(self, group: ParamGroup, params: Iterable[Parameter]) -> None:
        """All state was made with the optimizer."""

    def _follow(self, group: ParamGroup) -> None:
        if frame.trace_state() == frame.CLEAN and group.moved():
            for cell, name in zip(self._leaves, self._owners, strict=True):
                value = cell._read()
                owner = None if name is None else self._by_name[name]._read()
                same = owner is not None and owner.shape == value.shape
                cell._set(jax.device_put(value, owner.sharding if same and owner is not None else group.placement))

    def _step_closure(self, closure: Callable[[], Any], has_aux: bool) -> Any:
        found = self._evaluate(closure, has_aux)
        self._update(found.gradients, found.value)
        return (found.value, found.aux) if has_aux else found.value

    def _update(self, grads: Mapping[Parameter, jax.Array], value: Any = None) -> None:
        group = self.param_groups[0]
        self._follow(group)
        names = {p: name for name, p in self._by_name.items()}
        unknown = [p.describe() for p in grads if p not in names]
        if unknown:
            raise errors.StructureMismatchError(
                f"these parameters did not require gradients when Optax was built{errors.where()}, so its state has no place for "
                f"them: {', '.join(unknown)}. Build the optimizer after unfreezing them."
            )
        numbers = dict(zip(group.numbers, jnp.unstack(group.vector()), strict=True)) if group.numbers else {}
        params = {name: p._read() for name, p in self._by_name.items()}
        given = {names[p]: gradient for p, gradient in grads.items()}
        skipped = tuple(name for name in params if name not in given)
        state = _with_hyperparameters(self.state, {name: numbers[name] for name in self._injected})
        new, after = _run(self.tx, skipped, tuple(self._owners), given, state, params, value)
        leaves, structure = jax.tree.flatten(after)
        if structure != self._structure:
            raise errors.StructureMismatchError(
                f"the optax transformation gave a state of another structure{errors.where()}: {structure} after {self._structure}. A "
                "transformation's update keeps the structure its init made."
            )
        for cell, leaf in zip(self._leaves, leaves, strict=True):
            cell._set(leaf)
        for name, array in new.items():
            self._by_name[name]._set(array)

    # -- saving --------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """``{"state": {path: array}, "param_groups": [...]}``, paths being those of optax's state, as ``"0/mu/fc.weight"``."""
        for hook in self._hooks_of("state_dict_pre"):
            hook(self)
        group = self.param_groups[0]
        entries = {k: v for k, v in group.items() if k != "params"} | {"params": list(range(len(group.params)))}
        cells = zip(self._paths, self._leaves, strict=True)
        state_dict: dict[str, Any] = {"state": {path: cell._read() for path, cell in cells}, "param_groups": [entries]}
        return self._replaced("state_dict_post", state_dict)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take the state of an Optax of the same transformation.

        Raises:
            ValueError: listing all that is missing, unknown or of another shape; nothing has changed then.
        """
        state_dict = self._replaced("load_state_dict_pre", dict(state_dict))
        given, groups = state_dict["state"], state_dict["param_groups"]
        problems = [f"missing: {path}" for path in self._paths if path not in given]
        problems += [f"unknown: {path}" for path in given if path not in self._paths]
        arrays = {path: to_host_or_jax(given[path]) for path in self._paths if path in given}
        for path, cell in zip(self._paths, self._leaves, strict=True):
            shape = np.shape(cell._read())
            if path in arrays and np.shape(arrays[path]) != shape:
                problems.append(f"{path} has shape {np.shape(arrays[path])}, not {shape}")
        count = len(self.param_groups[0].params)
        if len(groups) != 1 or len(groups[0]["params"]) != count:
            problems.append(f"the groups hold {[len(g['params']) for g in groups]} parameters, not [{count}]")
        if problems:
            listed = "\n  ".join(problems)
            raise ValueError(f"the loaded state dict does not fit the optax transformation:\n  {listed}")
        self.param_groups[0].replace({**self.param_groups[0], **{k: v for k, v in groups[0].items() if k != "params"}})
        for path, cell in zip(self._paths, self._leaves, strict=True):
            old = cell._read()
            if jnp.issubdtype(old.dtype, jax.dtypes.prng_key):
                cell._set(arrays[path])
            else:
                cell._set(jax.device_put(jnp.asarray(arrays[path], old.dtype), old.sharding if old.committed else None))
        for hook in self._hooks_of("load_state_dict_post"):
            hook(self)

    @classmethod
    def as_optax(cls, **options: Any) -> NoReturn:
        """The transformation is optax's already.

        Raises:
            TypeError: always.
        """
        raise TypeError("optim.Optax wraps a transformation of optax: use that in the pure form")


@functools.partial(jax.jit, static_argnums=0)
def _init(tx: Any, params: dict[str, jax.Array]) -> Any:
    with jax.numpy_dtype_promotion("standard"):  # which optax's own code needs
        return jax.tree.map(jnp.asarray, tx.init(params))


@functools.partial(jax.jit, static_argnums=(0, 1, 2), inline=True)
def _run(
    tx: Any,
    skipped: tuple[str, ...],
    owners: tuple[str | None, ...],
    grads: dict[str, jax.Array],
    state: Any,
    params: dict[str, jax.Array],
    value: Any,
) -> tuple[dict[str, jax.Array], Any]:
    """New values of the parameters that have gradients, and the new state, in which the others' parts are the old ones."""
    whole = {name: grads[name] if name in grads else jnp.zeros_like(p) for name, p in params.items()}
    extra = {} if value is None else {"value": value}
    with jax.numpy_dtype_promotion("standard"):
        updates, after = tx.update(whole, state, params, **extra)
    if skipped:
        old, (new, structure) = jax.tree.leaves(state), jax.tree.flatten(after)
        if len(old) == len(new):
            kept = [o if owner in skipped else n for o, n, owner in zip(old, new, owners, strict=True)]
            after = jax.tree.unflatten(structure, kept)
    moved = {name: p for name, p in params.items() if name not in skipped}
    with jax.numpy_dtype_promotion("standard"):
        return optax.apply_updates(moved, {name: updates[name] for name in moved}), after


def _names(key: Any, names: Mapping[str, Any]) -> bool:
    return isinstance(key, jax.tree_util.DictKey) and key.key in names


def _injected(state: Any) -> dict[str, Any]:
    """The hyper-parameters that ``optax.inject_hyperparams`` made data and no schedule of optax's sets, by torch's names."""
    own = getattr(state, "hyperparams", None)
    if not isinstance(own, dict):
        return {}
    scheduled = getattr(state, "hyperparams_states", {})
    return {"lr" if name == _LR else name: v for name, v in own.items() if name not in scheduled and np.shape(v) == ()}


def _shortest(value: Any) -> Any:
    """The Python number that was meant: 0.1 where float32's nearest is held."""
    number = np.asarray(value)[()]
    return float(str(number)) if isinstance(number, np.floating) else number.item()


def _with_hyperparameters(state: Any, numbers: Mapping[str, jax.Array]) -> Any:
    if not numbers:
        return state
    own = state.hyperparams
    new = {_LR if name == "lr" else name: number for name, number in numbers.items()}
    return state._replace(hyperparams={**own, **{name: number.astype(own[name].dtype) for name, number in new.items()}})
