"""Flax's linen modules in objnet (:func:`lift`), objnet's models as linen modules (:class:`Module`), and their weights.

:func:`torch_layout` and :func:`linen_layout` convert the weights of layers that both libraries have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

from objnet import nn
from objnet.core.rng import next_rng_key
from objnet.interop import flax_layouts, layouts
from objnet.interop.keys import Path, flatten, from_two_level, leaves, nested, to_two_level, two_level_leaves, unflatten
from objnet.interop.lifted import Lifted, same
from objnet.interop.target import Target, purify

try:
    from flax import linen
    from flax.core import DenyList
    from flax.errors import InvalidRngError
except ImportError as error:
    raise ImportError(f"objnet.interop.flax needs Flax: pip install 'objnet[flax]' ({error})") from error

__all__ = [
    "LiftedLinen",
    "Module",
    "flatten",
    "from_two_level",
    "lift",
    "linen_layout",
    "to_two_level",
    "torch_layout",
    "unflatten",
]


# -- linen in objnet ---------------------------------------------------------------------------------------------------


def lift(
    module: linen.Module,
    *args: Any,
    rngs: Sequence[str] = (),
    train_flag: str | None = None,
    eval_flag: str | None = None,
    **kwargs: Any,
) -> LiftedLinen:
    """A linen module as an objnet Module (``flax.nnx.bridge.ToNNX``).

    Its ``params`` are Parameters, its other collections (``batch_stats``, ``cache``, ...) Buffers that calls move on, and random
    keys come from objnet's stream. Metadata of partitioned variables is not kept.

    Args:
        module: the linen module, not bound to variables.
        args: example inputs, of which only shapes and dtypes count; without any the first call initialises.
        rngs: the names of random streams that each call is given; others, ``dropout`` among them, are given when the module asks.
        train_flag: the keyword that is given ``self.training``, such as ``"train"``.
        eval_flag: the keyword that is given ``not self.training``, such as ``"deterministic"`` or ``"use_running_average"``.
        kwargs: more example inputs, and ``method``, as linen's ``init`` takes them.

    Raises:
        TypeError: if ``module`` is no linen module. ValueError: if it is bound to variables.
    """
    return LiftedLinen(module, args, kwargs, rngs=rngs, train_flag=train_flag, eval_flag=eval_flag)


class LiftedLinen(Lifted):
    """What :func:`lift` returns; ``module`` is the linen module."""

    module: linen.Module

    def __init__(
        self,
        module: linen.Module,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        rngs: Sequence[str] = (),
        train_flag: str | None = None,
        eval_flag: str | None = None,
    ):
        if not isinstance(module, linen.Module):
            raise TypeError(f"lift takes an instance of a linen module, got {_kind(module)}")
        if module.scope is not None and module.variables:
            raise ValueError(
                f"lift makes variables of its own, and this {type(module).__name__} is bound to some: lift(module.clone(parent=None)), "
                "then load_variables(module.variables)"
            )
        super().__init__(train_flag, eval_flag)
        self.module = module.clone(parent=None, name=None)  # made inside another linen module, it would be that one's
        self.rngs = (rngs,) if isinstance(rngs, str) else tuple(rngs)
        if args or kwargs:
            self._initialise(args, dict(kwargs or {}))

    def variables(self) -> dict[str, Any]:
        """The linen variables as they are now: collection to nested dict of arrays."""
        return nested(self._entries().items())

    def load_variables(self, variables: Mapping[str, Any]) -> None:
        """Take over linen variables, collection to nested mapping of arrays; what is not held yet is added.

        Raises:
            StructureMismatchError: an array of another shape than the one held; all are listed, and nothing has changed.
        """
        self._load(_unboxed(variables))

    def forward(
        self,
        *args: Any,
        method: Any = None,
        mutable: Any = None,
        rngs: Any = None,
        capture_intermediates: Any = False,
        **kwargs: Any,
    ) -> Any:
        """linen's ``apply``, without the variables.

        Args:
            args: the linen module's own, and kwargs.
            method: the method to call, a name or a function; ``__call__`` by default.
            mutable: the collections the call may write, as linen's ``apply`` has it; by default all that are held but ``params``.
                If others than those held may be among them, such as ``intermediates``, the result is a pair, and the second
                entry a dict of those.
            rngs: random keys by name in place of objnet's stream.
            capture_intermediates: as linen's ``apply`` has it.

        Raises:
            MissingRngError: the module asks for a random key, in a pure function that was given none.
        """
        self._initialised(args, kwargs if method is None else {**kwargs, "method": method})
        kwargs = self._with_flags(kwargs)
        held = self._entries()
        variables = nested(held.items())
        writable, pair = self._writable(mutable)
        named = {name: next_rng_key() for name in self.rngs} if rngs is None else {}

        def run(key: jax.Array | None) -> Any:
            keys = rngs if rngs is not None else named if key is None else _keys(key) | named
            return self.module.apply(
                variables,
                *args,
                rngs=keys,
                method=method,
                mutable=writable,
                capture_intermediates=capture_intermediates,
                **kwargs,
            )

        call = (args, kwargs, repr(method), repr(mutable), repr(capture_intermediates), self.rngs)
        out = self._with_key(run, call) if rngs is None else run(None)
        if writable is False:
            return out
        out, updates = out
        others = {name: tree for name, tree in updates.items() if name not in self._modules}
        self._commit(held, ((path, value) for path, value in _unboxed(updates) if path[0] not in others))
        return (out, others) if pair else out

    def extra_repr(self) -> str:
        return type(self.module).__name__

    def _writable(self, mutable: Any) -> tuple[Any, bool]:
        """What linen's ``apply`` is told, and whether the result is a pair."""
        held = list(self._modules)
        if mutable is None:
            return [name for name in held if name != "params"] or False, False
        if isinstance(mutable, bool):
            return mutable, mutable
        if isinstance(mutable, DenyList):
            return mutable, True
        names = [mutable] if isinstance(mutable, str) else list(mutable)
        return names or False, any(name not in held for name in names)

    def _init(self, key: jax.Array, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[tuple[Path, Any]]:
        keys = {name: jax.random.fold_in(key, i) for i, name in enumerate(self.rngs)}
        return _unboxed(self.module.init({"params": key} | keys, *args, **kwargs))

    def _asks_for_key(self, error: Exception) -> bool:
        return isinstance(error, InvalidRngError)


def _unboxed(variables: Mapping[str, Any]) -> list[tuple[Path, Any]]:
    """(path, array) for everything in linen variables, without metadata, in their own order."""
    return [(path, linen.meta.unbox(value)) for path, value in leaves(variables)]


def _keys(key: jax.Array) -> dict[str, jax.Array]:
    """linen's streams from one key: it takes ``params`` for those that have none."""
    return {"params": key, "dropout": jax.random.fold_in(key, 1)}


def _kind(thing: Any) -> str:
    return f"the class {thing.__name__}" if isinstance(thing, type) else f"{type(thing).__module__}.{type(thing).__qualname__}"


# -- objnet in linen ---------------------------------------------------------------------------------------------------


class Module(linen.Module):
    """A model of objnet's as a linen module (``flax.nnx.bridge.ToLinen``, ``haiku.experimental.flax.Module``).

    Its parameters are in the collection ``params`` and its buffers and other state in ``state``, nested by module path, so that
    ``flatten(variables["params"])`` has torch's keys. ``apply(..., mutable=["state"])`` gives the new state, as linen has it; state that
    changes is refused where it is not mutable. A call takes what the model takes, and ``training=False`` to run modules in
    eval mode (for a function, its own arguments only).

    Attributes:
        target: a Module class that is built without arguments, a live Module, whose values ``init`` gives, what
            ``objnet.transform`` or ``objnet.transform_with_state`` returned, or a function that builds and calls modules.
        rng_name: the stream of linen's that random keys come from.
    """

    target: Any
    rng_name: str = "dropout"

    def __post_init__(self) -> None:
        object.__setattr__(self, "target", purify(self.target))
        super().__post_init__()

    @classmethod
    def create(cls, module_class: Any, *args: Any, name: str | None = None, **kwargs: Any) -> Module:
        """A Module class with arguments for its constructor, and linen's ``name``: ``Module.create(objnet.nn.Linear, 3, 4)``.

        Raises:
            TypeError: if it is no Module class.
        """
        return cls(purify(module_class, args, kwargs), name=name)

    @linen.compact
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        target: Target = self.target
        starts = self.is_initializing()
        if starts:
            params, state = target.init(self.make_rng("params"), args, kwargs)
            self._put("params", params)
            self._put("state", state)
        else:
            params, state = self._get("params"), self._get("state")
        streams = [self.rng_name, *(["params"] if starts else [])]
        key = next((self.make_rng(name) for name in streams if self.has_rng(name)), None)
        out, after = target.apply(params, state, key, args, kwargs)
        if not starts:
            self._put("state", _changed(state, after))
        return out

    def _put(self, collection: str, levels: dict[str, dict[str, Any]]) -> None:
        tree = dict(leaves(self._tree(collection)))
        written = {path: _Held(v) if isinstance(v, Mapping) else v for path, v in two_level_leaves(levels, ".")}
        for name, value in nested((tree | written).items()).items():
            if any(path[0] == name for path in written):
                self.put_variable(collection, name, value)

    def _tree(self, collection: str) -> Mapping[str, Any]:
        return self.variables.get(collection, {})

    def _get(self, collection: str) -> dict[str, dict[str, Any]]:
        levels = to_two_level(self._tree(collection), ".")
        return {path: {k: v.value if isinstance(v, _Held) else v for k, v in held.items()} for path, held in levels.items()}


class _Held(NamedTuple):
    """State that is a mapping itself, which nested dicts would take for modules."""

    value: Any


def _changed(before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The entries of ``after`` that are not those of ``before``."""
    changed = {
        path: {name: v for name, v in entries.items() if name not in before.get(path, {}) or not same(before[path][name], v)}
        for path, entries in after.items()
    }
    return {path: entries for path, entries in changed.items() if entries}


# -- weights -----------------------------------------------------------------------------------------------------------


def torch_layout(
    model: nn.Module, variables: Mapping[str, Any], names: Mapping[str, str | Sequence[str]] | None = None
) -> dict[str, jax.Array]:
    """The weights of a linen model as the state dict of an objnet model made of the same layers: ``load_state_dict`` takes it.

    It knows Linear (Dense), Conv1d to 3d (Conv), ConvTranspose1d to 3d (ConvTranspose, without ``transpose_kernel``), Embedding (Embed),
    BatchNorm, LayerNorm, GroupNorm, InstanceNorm, RMSNorm, PReLU, RNNCell (SimpleCell), LSTMCell and LSTM (LSTMCell,
    OptimizedLSTMCell, RNN), GRUCell and GRU (GRUCell), ConvLSTM cells and MultiheadAttention. Weights are converted, options are
    not: linen's ``epsilon`` of LayerNorm, GroupNorm and RMSNorm is 1e-6, its ``momentum`` is one minus torch's, padding
    ``"SAME"`` with a stride pads differently from any torch padding, and images are channels-last. linen's running variance is
    biased, torch's is not: evaluation is equal, further training not quite. torch's LSTM and RNN have two biases where
    linen has one; the second is zero then.

    Args:
        model: the objnet model, or one layer.
        variables: collections ``params`` and, with BatchNorm, ``batch_stats``.
        names: module paths of the model to paths in ``variables`` (``{"encoder": "Encoder_0"}``), for those that differ; paths
            below follow. ``layers.0`` is found as ``layers_0`` too. An RNN of several cells takes a list, a path for each, layer by
            layer and forward before reverse.

    Raises:
        StructureMismatchError: arrays without a counterpart, or of another shape; all are listed.
    """
    return layouts.torch_layout(model, flax_layouts.TABLE, dict(_unboxed(variables)), names)


def linen_layout(
    model: nn.Module, like: Mapping[str, Any], names: Mapping[str, str | Sequence[str]] | None = None
) -> dict[str, Any]:
    """The weights of an objnet model as variables of a linen model made of the same layers; :func:`torch_layout` backwards.

    Args:
        model: the objnet model, or one layer.
        like: the linen model's variables, or ``jax.eval_shape(linen_model.init, key, x)``: names, shapes and dtypes to give.
        names: as for :func:`torch_layout`.

    Raises:
        StructureMismatchError: arrays without a counterpart, or of another shape; all are listed.
    """
    wanted = dict(_unboxed(like))
    return nested(layouts.foreign_layout(model, flax_layouts.TABLE, wanted, names).items())
