"""``ParamGroup``: one entry of ``optimizer.param_groups``, a dict whose numbers are data on the device.

Every hyper-parameter that is a number (``lr``, both ``betas``, ...) and every number an optimizer derives from them on the
host in double precision (``1 - beta2``, ``log(beta2)``, ...) is one entry of one small vector, a single input of a compiled
step. Writing ``group["lr"] = x`` puts a new vector on the device at once; what else an optimizer reads of a group (flags, and
which numbers are zero) is part of the program. Numbers that no optimizer knows, such as a scheduler's ``initial_lr``, are
inputs of those programs only that read them.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from objnet.core import epoch, errors, frame
from objnet.core.foreign import is_torch_tensor, to_host_or_jax
from objnet.core.variable import Parameter, Variable
from objnet.optim.cells import outside
from objnet.optim.control import tracing

_PLAIN = (bool, int, float, complex, str, bytes, type(None))


def is_number(value: Any) -> bool:
    """Whether a hyper-parameter of this value is data."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def plain(name: str, value: Any) -> Any:
    """``value`` with arrays and numpy scalars of one element, alone or in a tuple or list, as Python numbers.

    Raises:
        ValueError: for an array of several elements, as torch.
    """
    if type(value) in (tuple, list):
        return type(value)(plain(name, v) for v in value)
    if is_torch_tensor(value):
        value = to_host_or_jax(value)
    if isinstance(value, Variable):
        value = value._read()
    if isinstance(value, jax.core.Tracer):
        raise errors.StaticAttributeError(
            f"the hyper-parameter {name!r} was given a traced value{errors.where()}: it is a number here, so no gradient, row or "
            "argument could reach it. Give a number, outside; to differentiate through updates or to map over learning rates, take "
            "optax's updates over the pure form (objnet.transform)."
        )
    if isinstance(value, (np.generic, np.ndarray, jax.Array)):
        if value.size != 1:
            raise ValueError(f"Tensor {name} must be 1-element")
        return value.item()
    return value


def numbers_of(key: str, value: Any) -> dict[str, float]:
    """The numbers in one entry by name: ``lr``, or ``betas.0`` and ``betas.1``."""
    if is_number(value):
        return {key: value}
    if type(value) in (tuple, list) and all(map(is_number, value)):
        return {f"{key}.{i}": v for i, v in enumerate(value)}
    return {}


def check_kind(key: str, default: Any, value: Any) -> None:
    """Refuse another kind of value where numbers belong.

    Raises:
        TypeError: if ``default`` is a number, or so many numbers, and ``value`` is not.
    """
    wanted = numbers_of(key, default)
    if wanted and wanted.keys() != numbers_of(key, value).keys():
        what = "a number" if is_number(default) else f"{len(wanted)} numbers"
        raise TypeError(f"the hyper-parameter {key!r} takes {what}, got {value!r}")


class Params(list[Parameter]):
    """The parameters of a group: a list whose changes compiled steps notice."""


def _noticed(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def change(self: Params, *args: Any, **kwargs: Any) -> Any:
        epoch.advance()
        return method(self, *args, **kwargs)

    return change


for _name in ("append", "extend", "insert", "pop", "remove", "clear", "sort", "reverse"):
    setattr(Params, _name, _noticed(getattr(list, _name)))
for _name in ("__setitem__", "__delitem__", "__iadd__", "__imul__"):
    setattr(Params, _name, _noticed(getattr(list, _name)))


class ParamGroup(dict[str, Any]):
    """Parameters and their hyper-parameters, under torch's keys; write any of them at any time, outside compiled functions.

    Inside a compiled function a number reads as a 0-d array, so that what is computed from it follows later changes.

    Args:
        kind: the optimizer's class, which derives numbers and options.
        entries: the content, ``"params"`` included.
        known: the names of the optimizer's hyper-parameters.
        names: of the parameters, if known.
    """

    def __init__(self, kind: Any, entries: Mapping[str, Any], known: Iterable[str], names: Sequence[str] | None = None):
        super().__init__({k: v if k == "params" else plain(k, v) for k, v in entries.items()})
        self._kind = kind
        self._known = frozenset(known)
        self._extras: dict[str, Variable] = {}
        dict.__setitem__(self, "params", Params(entries["params"]))
        self._names = dict(zip(self.params, names, strict=True)) if names else {}
        self.placement = _placement(self.params)
        self.numbers, self._statics = self._digest()
        self._vector = Variable(self._put(self.numbers))
        self._vector._home = (weakref.ref(self), "hyperparameters")

    # -- what a step needs ---------------------------------------------------------------------------------------------

    @property
    def params(self) -> Params:
        return dict.__getitem__(self, "params")

    @property
    def options(self) -> Any:
        """What of this group is part of a program, as the optimizer's class told; hashable."""
        return self._statics[0]

    def vector(self) -> jax.Array:
        """The values of :attr:`numbers`, shape (numbers,)."""
        return self._vector._read()

    def take(self, vector: jax.Array) -> None:
        """Let :attr:`numbers` be these for the rest of the program that is being traced, or until :meth:`refresh`."""
        self._vector._set(vector)

    def refresh(self) -> None:
        """Tell the device what the entries are."""
        self._vector._set(self._put(self.numbers))

    def names(self) -> list[str] | None:
        """The names of the parameters, if all are known."""
        names = [self._names.get(p) for p in self.params]
        return None if None in names else names  # type: ignore[return-value]

    def moved(self) -> bool:
        """Whether the parameters have gone to other devices since this was asked last; the vector follows them."""
        placement = _placement(self.params)
        if placement == self.placement:
            return False
        self.placement = placement
        self.refresh()
        return True

    def local(self) -> bool:
        """Whether this group was made inside a transform that is still running."""
        inner = frame.current()
        while inner is not None:
            if self._vector in inner.created:
                return True
            inner = inner.parent
        return False

    def __objnet_capture__(self, visit: Callable[[Any], Any]) -> Any:
        names, statics = tuple(self.numbers), self._statics[1]
        facts = (visit(names), visit(self.options), tuple((k, visit(v)) for k, v in statics.items()))
        extras = tuple((name, visit(cell)) for name, cell in self._extras.items())
        return (facts, visit(self._vector), extras, tuple(visit(p) for p in self.params))

    # -- numbers -------------------------------------------------------------------------------------------------------

    def _digest(self) -> tuple[dict[str, float], tuple[Any, dict[str, Any]]]:
        entries = dict(self)
        numbers: dict[str, float] = {}
        statics = {}
        for key, value in entries.items():
            if key != "params":
                found = numbers_of(key, value)
                if not found:
                    statics[key] = value
                elif key in self._known:
                    numbers.update(found)
        if entries.get("differentiable"):
            raise NotImplementedError(
                "differentiable=True is not supported: an update here is no part of a recorded graph. To differentiate through "
                "updates, take objnet.transform of the model and optax's updates, which are pure functions."
            )
        numbers.update(self._kind._derive(entries))
        options = self._kind._options(entries)
        if self._kind._keeps_its_own():
            options = tuple((key, value) for key, value in entries.items() if self._decides(key) and numbers_of(key, value))
        return numbers, (options, statics)

    def _decides(self, key: str) -> bool:
        """Whether a number is part of the program: an optimizer of the user's own may ask whether it is zero."""
        return self._kind._keeps_its_own() and key in self._known and key != "lr"

    def _put(self, numbers: Mapping[str, float]) -> jax.Array:
        dtype = jax.dtypes.canonicalize_dtype(np.float64)  # all the precision jax's mode has
        return jax.device_put(np.array(list(numbers.values()), dtype), self.placement)

    def _extra(self, name: str, value: float) -> jax.Array:
        """A number that is no hyper-parameter, as an input of the program that asks for it here."""
        if name not in self._extras:
            with jax.ensure_compile_time_eval():
                self._extras[name] = outside(jnp.squeeze(self._put({name: value})))
            epoch.advance()
        return self._extras[name]._read()

    def _change_extras(self) -> None:
        """Tell the programs that read numbers which are no hyper-parameters."""
        if self._extras:
            others = (numbers_of(k, v) for k, v in dict.items(self) if k != "params" and k not in self._known)
            now = {name: number for found in others for name, number in found.items()}
            for name in list(self._extras):
                if name in now:
                    self._extras[name]._set(jnp.squeeze(self._put({name: now[name]})))
                else:
                    del self._extras[name]
                    epoch.advance()

    def _change(self, key: str, change: Callable[[], Any]) -> None:
        """Run a change of the dict, and tell the device, or undo it."""
        if tracing():
            raise errors.StaticAttributeError(
                f"group[{key!r}] was written inside a compiled function{errors.where()}: that would happen once, when the "
                "function is traced, and not at every call. Write it (or call scheduler.step()) outside, between calls: that "
                "costs no retrace."
            )
        before = dict(self)
        try:
            change()
            numbers, statics = self._digest()
        except BaseException:
            dict.clear(self)
            dict.update(self, before)
            raise
        if numbers.keys() != self.numbers.keys() or not _same(statics, self._statics):
            epoch.advance()
        self.numbers, self._statics = numbers, statics
        self._vector._set(self._put(numbers))
        self._change_extras()

    def replace(self, entries: Mapping[str, Any]) -> None:
        """Exchange everything but the parameters."""
        entries = {k: plain(k, v) for k, v in entries.items()} | {"params": self.params}
        # in the order there was, of which programs know: jax.tree.map sorts the keys of a state dict
        entries = {k: entries[k] for k in (*(k for k in dict.keys(self) if k in entries), *(k for k in entries if k not in self))}

        def exchange() -> None:
            dict.clear(self)
            dict.update(self, entries)

        self._change("params", exchange)

    # -- being a dict --------------------------------------------------------------------------------------------------

    def __getitem__(self, key: str) -> Any:
        if key not in self:
            self._kind._check_key(key, self._known)
        value = dict.__getitem__(self, key)
        found = numbers_of(key, value) if key != "params" else {}
        if not found or not tracing() or self._decides(key):
            return value
        if key in self._known:
            inside: Any = dict(zip(self.numbers, jnp.unstack(self.vector()), strict=True))
        else:
            inside = {name: self._extra(name, number) for name, number in found.items()}
        return inside[key] if is_number(value) else type(value)(inside[name] for name in found)

    def __setitem__(self, key: str, value: Any) -> None:
        self._kind._check_key(key, self._known)

        def change() -> None:
            if key == "params":
                new: Any = Params([value] if isinstance(value, Parameter) else value)
                check_parameters(new)
                epoch.advance()
            else:
                new = plain(key, value)
                check_kind(key, dict.get(self, key), new)
            dict.__setitem__(self, key, new)

        self._change(key, change)

    def __delitem__(self, key: str) -> None:
        if key == "params":
            raise KeyError("the parameters of a group cannot be deleted")
        self._change(key, lambda: dict.__delitem__(self, key))

    get = MutableMapping.get  # type: ignore[assignment]
    items = MutableMapping.items  # type: ignore[assignment]
    values = MutableMapping.values  # type: ignore[assignment]
    pop = MutableMapping.pop  # type: ignore[assignment]
    popitem = MutableMapping.popitem  # type: ignore[assignment]
    update = MutableMapping.update  # type: ignore[assignment]
    setdefault = MutableMapping.setdefault  # type: ignore[assignment]

    def clear(self) -> None:
        raise TypeError("the hyper-parameters of a group cannot be cleared: the optimizer needs them")

    def __ior__(self, other: Any) -> ParamGroup:  # type: ignore[override,misc]
        self.update(other)
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        entries = dict(self) | {"params": list(self.params)}
        return ParamGroup, (self._kind, entries, self._known, self.names())


def check_parameters(params: Iterable[Any]) -> None:
    """Check what an optimizer is to update.

    Raises:
        TypeError: for anything but Parameters. ValueError: for one given twice.
    """
    seen = set()
    for p in params:
        if not isinstance(p, Parameter):
            kind = f"{type(p).__module__}.{type(p).__qualname__}".removeprefix("builtins.")
            hint = " (inside a forward self.weight is the array)" if isinstance(p, jax.Array) else ""
            raise TypeError(
                f"optimizer can only optimize Parameters, but one of the params is {kind}{hint}: pass model.parameters(), or "
                "hold the array in an nn.Parameter"
            )
        if id(p) in seen:
            raise ValueError(
                f"{p.describe()} appears more than once in one parameter group: it would be updated several times a step. Pass "
                "each parameter once; model.parameters() gives a tied one once."
            )
        seen.add(id(p))


def _same(a: tuple[Any, dict[str, Any]], b: tuple[Any, dict[str, Any]]) -> bool:
    """Whether options are equal and the static entries are the same, without comparing arrays."""
    if a[0] != b[0] or a[1].keys() != b[1].keys():
        return False
    pairs = ((v, b[1][k]) for k, v in a[1].items())
    return all(v is w or (type(v) is type(w) and type(v) in _PLAIN and v == w) for v, w in pairs)


def _placement(params: Sequence[Parameter]) -> Any:
    """Where the small vectors belong so that no step moves them: on every device of a mesh, or on a device chosen by name."""
    value = params[0]._value if params else None
    if not isinstance(value, jax.Array) or not value.committed:
        return None
    if isinstance(value.sharding, NamedSharding):
        return NamedSharding(value.sharding.mesh, PartitionSpec())
    return value.sharding
