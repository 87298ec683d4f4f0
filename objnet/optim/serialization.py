"""``state_dict`` and ``load_state_dict`` in torch's layout, so that optimizers move between the two libraries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from objnet.core import epoch
from objnet.core.foreign import to_host_or_jax
from objnet.core.variable import Parameter, Variable
from objnet.optim.cells import Cells, named
from objnet.optim.groups import ParamGroup, check_kind, plain
from objnet.optim.state import settled

# What torch fills in when a state dict of an older version lacks it.
_ADDED_LATER = {
    "maximize": False,
    "foreach": None,
    "capturable": False,
    "differentiable": False,
    "fused": None,
    "nesterov": False,
    "amsgrad": False,
    "decoupled_weight_decay": False,
}


class OptimizerSerialization:
    """torch's state-dict protocol of optimizers."""

    param_groups: list[ParamGroup]
    defaults: dict[str, Any]
    _cells: dict[Parameter, Cells]

    def state_dict(self) -> dict[str, Any]:
        """``{"state": {0: {"step": ..., "exp_avg": ...}}, "param_groups": [{"lr": ..., "params": [0]}]}``.

        Parameters are numbered in the order of the groups; one that was never stepped has no state.
        """
        for hook in self._hooks_of("state_dict_pre"):  # type: ignore[attr-defined]
            hook(self)
        index: dict[Parameter, int] = {}
        groups = []
        for group in self.param_groups:
            index.update((p, i) for i, p in enumerate(group.params, len(index)))
            packed = {k: v for k, v in group.items() if k != "params"}
            groups.append({**packed, "params": [index[p] for p in group.params]})
        held = self.state.read().items()  # type: ignore[attr-defined]
        state_dict: dict[str, Any] = {"state": {index[p]: arrays for p, arrays in held}, "param_groups": groups}
        return self._replaced("state_dict_post", state_dict)  # type: ignore[attr-defined]

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take the hyper-parameters and state of another optimizer of this class, objnet's or torch's.

        Arrays may be jax's, numpy's or torch tensors; they are cast to the dtype of their parameter, as in torch.

        Raises:
            ValueError: if groups differ in number or size, or state is missing or of another shape; nothing has changed then.
        """
        state_dict = self._replaced("load_state_dict_pre", dict(state_dict))  # type: ignore[attr-defined]
        loaded, arrays = self._check(state_dict)
        for group, entries in zip(self.param_groups, loaded, strict=True):
            group.replace(entries)
        self._cells = {}
        for group in self.param_groups:
            names = ("step", *type(self)._shared(group.options))  # type: ignore[attr-defined]
            lots: dict[tuple[float, ...], Cells] = {}
            for p in group.params:
                if arrays[p] and self._keeps_its_own():  # type: ignore[attr-defined]
                    self._cells[p] = named(p, {k: Variable(v) for k, v in arrays[p].items()})
                elif arrays[p]:
                    numbers = tuple(arrays[p].pop(name) for name in names)
                    if numbers not in lots:
                        placed = (Variable(jax.device_put(np.float32(number), group.placement)) for number in numbers)
                        lots[numbers] = dict(zip(names, placed, strict=True))
                    self._cells[p] = named(p, lots[numbers] | {k: Variable(v) for k, v in arrays[p].items()})
        epoch.advance()
        for hook in self._hooks_of("load_state_dict_post"):  # type: ignore[attr-defined]
            hook(self)

    def _check(self, state_dict: Mapping[str, Any]) -> tuple[list[dict[str, Any]], dict[Parameter, dict[str, Any]]]:
        """What each group will hold and each parameter's arrays, if everything fits."""
        saved, state = state_dict["param_groups"], dict(state_dict["state"])
        sizes, own = [len(entries.get("params", ())) for entries in saved], [len(group.params) for group in self.param_groups]
        if sizes != own:
            what = (
                "has a different number of parameter groups"
                if len(sizes) != len(own)
                else "contains a parameter group that doesn't match the size of optimizer's group"
            )
            raise ValueError(f"loaded state dict {what}: its groups hold {sizes} parameters, the optimizer's {own}")
        problems: list[str] = []
        loaded, arrays = [], {}
        for i, (group, entries) in enumerate(zip(self.param_groups, saved, strict=True)):
            loaded.append(self._load_entries(i, group, entries, problems))
            try:
                options = type(self)._options(loaded[-1])  # type: ignore[attr-defined]
            except KeyError:
                continue  # of what is missing, which is among the problems
            for p, number in zip(group.params, entries["params"], strict=True):
                given = {k: v for k, v in state.pop(number, {}).items() if v is not None}
                arrays[p] = self._load_state(p, f"state {number} ({p.describe()})", given, options, problems)
        known = {number for entries in saved for number in entries["params"]}
        problems.extend(f"state {number}: no group has a parameter of this number" for number in state if number not in known)
        if problems:
            raise ValueError("the loaded state dict does not fit the optimizer:\n  " + "\n  ".join(problems))
        return loaded, arrays

    def _load_entries(self, i: int, group: ParamGroup, saved: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
        """The content a group will have; faults go to ``problems``."""
        entries = {k: plain(k, v) for k, v in saved.items() if k != "params"}
        if "param_names" in group:
            entries.setdefault("param_names", group["param_names"])
        for key, default in self.defaults.items():
            if key not in entries:
                if key not in _ADDED_LATER:
                    problems.append(f"group {i} has no {key!r}: was it saved by another optimizer?")
                    continue
                entries[key] = _ADDED_LATER[key]
            try:
                check_kind(key, default, entries[key])
            except TypeError as error:
                problems.append(f"group {i}: {error}")
        self._upgrade(entries)
        return entries

    def _upgrade(self, entries: dict[str, Any]) -> None:
        """Change the loaded content of a group to what this class needs."""

    def _load_state(self, p: Parameter, where: str, arrays: dict[str, Any], options: Any, problems: list[str]) -> dict[str, Any]:
        """The arrays of one parameter and its step, checked; faults go to ``problems``."""
        if not arrays:
            return {}
        value = p._read()
        if self._keeps_its_own():  # type: ignore[attr-defined]
            return {name: settled(array, f"{where}: {name!r}", value) for name, array in arrays.items()}
        slots = type(self)._slots(options, value.shape)  # type: ignore[attr-defined]
        saves_steps = self._saves_steps  # type: ignore[attr-defined]
        shared = ("step", *type(self)._shared(options))  # type: ignore[attr-defined]
        order = {name: i for i, name in enumerate((*shared, *slots))}
        missing = [name for name in order if name not in arrays and (saves_steps or name != "step")]
        problems.extend(f"{where} has no {name!r}" for name in missing)
        taken: dict[str, Any] = {}
        for name in sorted(arrays, key=lambda name: order.get(name, len(order))):
            array = to_host_or_jax(arrays[name])
            shape = () if name in shared else slots.get(name, value.shape)
            if np.shape(array) != shape:
                problems.append(f"{where}: {name} has shape {np.shape(array)}, not {shape} (the parameter's is {value.shape})")
            elif name in shared:
                taken[name] = float(np.asarray(array))
            elif np.iscomplexobj(array) and not np.iscomplexobj(value):
                problems.append(f"{where}: {name} is complex, the parameter {value.dtype}")
            else:
                taken[name] = _place(array, value)
        return taken if saves_steps else {**taken, "step": 1.0}


def _place(array: Any, like: jax.Array) -> jax.Array:
    """``array`` in the dtype and on the devices of ``like``; a copy if it is numpy's."""
    array = jnp.asarray(array, like.dtype) if isinstance(array, jax.Array) else np.array(array, like.dtype)
    return jax.device_put(array, like.sharding if like.committed else None)
