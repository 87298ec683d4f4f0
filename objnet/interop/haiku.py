"""Haiku's functions in objnet (:func:`lift`), objnet's models in Haiku (:class:`Module`), and their weights.

:func:`torch_layout` and :func:`haiku_layout` convert the weights of layers that both libraries have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from objnet import nn
from objnet.core.rng import next_rng_key
from objnet.interop import haiku_layouts, layouts
from objnet.interop.keys import ROOT, Path, flatten, from_two_level, to_two_level, two_level_leaves, unflatten
from objnet.interop.lifted import Lifted, same
from objnet.interop.target import purify
from objnet.transforms.naming import snake

try:
    import haiku as hk
except ImportError as error:
    raise ImportError(f"objnet.interop.haiku needs Haiku: pip install 'objnet[haiku]' ({error})") from error

__all__ = [
    "LiftedHaiku",
    "Module",
    "flatten",
    "from_two_level",
    "haiku_layout",
    "lift",
    "to_two_level",
    "torch_layout",
    "unflatten",
]

_Levels = Mapping[str, Mapping[str, Any]]


# -- Haiku in objnet ---------------------------------------------------------------------------------------------------


def lift(
    transformed: Any,
    *args: Any,
    rng: bool = False,
    train_flag: str | None = None,
    eval_flag: str | None = None,
    **kwargs: Any,
) -> LiftedHaiku:
    """A Haiku function as an objnet Module.

    Its ``params`` are Parameters, its ``state`` Buffers that calls move on, and random keys come from objnet's stream.

    Args:
        transformed: what ``hk.transform`` or ``hk.transform_with_state`` returned, or a function to be transformed.
        args: example inputs, of which only shapes and dtypes count; without any the first call initialises.
        rng: whether each call is given a random key, rather than those that ask for one (``hk.next_rng_key``) only.
        train_flag: the keyword that is given ``self.training``, such as ``"is_training"``.
        eval_flag: the keyword that is given ``not self.training``.
        kwargs: more example inputs.

    Raises:
        TypeError: if ``transformed`` is neither transformed nor a function.
    """
    return LiftedHaiku(transformed, args, kwargs, rng=rng, train_flag=train_flag, eval_flag=eval_flag)


class LiftedHaiku(Lifted):
    """What :func:`lift` returns; ``transformed`` is the ``hk.TransformedWithState``."""

    transformed: hk.TransformedWithState

    def __init__(
        self,
        transformed: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        rng: bool = False,
        train_flag: str | None = None,
        eval_flag: str | None = None,
    ):
        super().__init__(train_flag, eval_flag)
        self.transformed = _with_state(transformed)
        self.rng = rng
        if args or kwargs:
            self._initialise(args, dict(kwargs or {}))

    def collections(self) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
        """Haiku's ``params`` and ``state`` as they are now."""
        return _levels(self._entries(), "params"), _levels(self._entries(), "state")

    def load_collections(self, params: _Levels, state: _Levels | None = None) -> None:
        """Take over Haiku's ``params`` and ``state``; what is not held yet is added.

        Raises:
            StructureMismatchError: an array of another shape than the one held; all are listed, and nothing has changed.
        """
        self._load([*_entries("params", params), *_entries("state", state or {})])

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Haiku's ``apply``, without params, state and rng.

        Raises:
            MissingRngError: the function asks for a random key, in a pure function that was given none.
        """
        self._initialised(args, kwargs)
        kwargs = self._with_flags(kwargs)
        held = self._entries()
        params, state = _levels(held, "params"), _levels(held, "state")

        def run(key: jax.Array | None) -> Any:
            return self.transformed.apply(params, state, key, *args, **kwargs)

        out, after = run(next_rng_key()) if self.rng else self._with_key(run, (args, kwargs))
        self._commit(held, _entries("state", after))
        return out

    def extra_repr(self) -> str:
        return getattr(getattr(self.transformed.init, "_original_fn", None), "__qualname__", "")

    def _init(self, key: jax.Array, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[tuple[Path, Any]]:
        params, state = self.transformed.init(key, *args, **kwargs)
        return [*_entries("params", params), *_entries("state", state)]

    def _asks_for_key(self, error: Exception) -> bool:
        return isinstance(error, ValueError) and type(error).__name__ == "MissingRNGError"  # Haiku does not export its class


def _with_state(transformed: Any) -> hk.TransformedWithState:
    if isinstance(transformed, hk.TransformedWithState):
        return transformed
    if isinstance(transformed, hk.Transformed):
        return hk.with_empty_state(transformed)
    if isinstance(transformed, (type, tuple, nn.Module)) or not callable(transformed):
        raise TypeError(
            f"lift takes what hk.transform or hk.transform_with_state returned, or a function, got {transformed!r}: a Haiku module is "
            "built in a function, lift(lambda x: hk.Linear(3)(x))"
        )
    return hk.transform_with_state(transformed)


def _entries(collection: str, levels: _Levels) -> list[tuple[Path, Any]]:
    return [((collection, *path), value) for path, value in two_level_leaves(levels, "/")]


def _levels(held: Mapping[Path, Any], collection: str) -> dict[str, dict[str, Any]]:
    levels: dict[str, dict[str, Any]] = {}
    for (kind, *path, name), value in held.items():
        if kind == collection:
            levels.setdefault("/".join(path) or ROOT, {})[name] = value
    return levels


# -- objnet in Haiku ---------------------------------------------------------------------------------------------------


class Module(hk.Module):
    """A model of objnet's as a Haiku module, inside ``hk.transform`` and ``hk.transform_with_state``.

    Parameters and state are Haiku's: ``hk.get_parameter`` and ``hk.get_state`` make them in ``init``, under this module's name and with
    torch's keys (``params["net"]["conv.weight"]``), so that getters, creators, sharing by calling twice and ``hk.lift`` work as for any
    Haiku module. A call takes what the model takes, and ``training=False`` to run modules in eval mode (for a function, its own
    arguments only).

    Args:
        target: a Module class that is built without arguments, a live Module, whose values ``init`` gives, what
            ``objnet.transform`` or ``objnet.transform_with_state`` returned, or a function that builds and calls modules.
        name: Haiku's name for it; the class's in snake case by default.
    """

    def __init__(self, target: Any, name: str | None = None):
        self._target = purify(target)
        super().__init__(name=name or snake(self._target.name))

    @classmethod
    def create(cls, module_class: Any, *args: Any, name: str | None = None, **kwargs: Any) -> Module:
        """A Module class with arguments for its constructor: ``Module.create(objnet.nn.Linear, 3, 4)``.

        Raises:
            TypeError: if it is no Module class.
        """
        return cls(purify(module_class, args, kwargs), name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if hk.running_init():
            params, state = self._target.init(hk.maybe_next_rng_key(), args, kwargs)
        else:
            params, state = (_two_level(held.get(self.module_name, {})) for held in (hk.get_params(), hk.get_current_state()))
        params, state = _mapped(_parameter, params), _mapped(_state, state)
        out, after = self._target.apply(params, state, hk.maybe_next_rng_key(), args, kwargs)
        for path, entries in after.items():
            for name, value in entries.items():
                if name not in state.get(path, {}) or not same(state[path][name], value):
                    hk.set_state(_key(path, name), value)
        return out


def _parameter(key: str, value: Any) -> Any:
    return hk.get_parameter(key, value.shape, value.dtype, init=lambda *_: value)


def _state(key: str, value: Any) -> Any:
    return hk.get_state(key, (), jax.numpy.float32, init=lambda *_: value)  # a shape is asked for, though state may be any tree


def _key(path: str, name: str) -> str:
    return name if path == ROOT else f"{path}.{name}"


def _mapped(function: Any, levels: _Levels) -> dict[str, dict[str, Any]]:
    return {path: {name: function(_key(path, name), v) for name, v in entries.items()} for path, entries in levels.items()}


def _two_level(keys: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """objnet's pure form of arrays under torch's keys."""
    levels: dict[str, dict[str, Any]] = {}
    for key, value in keys.items():
        path, _, name = key.rpartition(".")
        levels.setdefault(path or ROOT, {})[name] = value
    return levels


# -- weights -----------------------------------------------------------------------------------------------------------


def torch_layout(
    model: nn.Module, params: _Levels, state: _Levels | None = None, names: Mapping[str, str | Sequence[str]] | None = None
) -> dict[str, jax.Array]:
    """The weights of a Haiku model as the state dict of an objnet model made of the same layers: ``load_state_dict`` takes it.

    It knows Linear, Bias, Conv1d to 3d, DepthwiseConv, SeparableDepthwiseConv2d, ConvTranspose1d to 3d, Embedding, BatchNorm, LayerNorm,
    GroupNorm, InstanceNorm, RMSNorm, RNNCell and RNN (VanillaRNN, with relu), LSTMCell and LSTM, ConvLSTM cells,
    MultiheadAttention, ExponentialMovingAverage and VectorQuantizer. GRUs are refused: Haiku's is another cell. Weights are
    converted, options are not: padding ``"SAME"`` with a stride pads differently from any torch padding, and images are
    channels-last. Of BatchNorm, what Haiku evaluates with, the debiased average, becomes the running statistics, so that evaluation is
    equal; further training is not quite: torch's average is not debiased, and its running variance is that of an unbiased
    estimate. torch's LSTM and RNN have two biases where Haiku has one; the second is zero then.

    Args:
        model: the objnet model, or one layer.
        params: Haiku's, module path to name to array.
        state: Haiku's, with BatchNorm and other layers that have some.
        names: module paths of the model to Haiku's (``{"fc": "net/~/linear_1"}``), for those that differ; paths below follow. The root
            that all of Haiku's paths begin with, and ``~`` marks, need not be named. An RNN of several cells takes a
            list, a path for each, layer by layer and forward before reverse.

    Raises:
        StructureMismatchError: arrays without a counterpart, or of another shape; all are listed.
    """
    held = dict([*_entries("params", params), *_entries("state", state or {})])
    return layouts.torch_layout(model, haiku_layouts.TABLE, held, names)


def haiku_layout(
    model: nn.Module, params: _Levels, state: _Levels | None = None, names: Mapping[str, str | Sequence[str]] | None = None
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """The weights of an objnet model as a Haiku model's ``(params, state)``, made of the same layers; :func:`torch_layout` backwards.

    BatchNorm's counter is the number of batches tracked, and the sum that Haiku debiases the one that leads to the running statistics.

    Args:
        model: the objnet model, or one layer.
        params: the Haiku model's, or ``jax.eval_shape(net.init, key, x)``'s: names, shapes and dtypes to give.
        state: as ``params``.
        names: as for :func:`torch_layout`.

    Raises:
        StructureMismatchError: arrays without a counterpart, or of another shape; all are listed.
    """
    wanted = dict([*_entries("params", params), *_entries("state", state or {})])
    made = layouts.foreign_layout(model, haiku_layouts.TABLE, wanted, names)
    return _levels(made, "params"), _levels(made, "state")
