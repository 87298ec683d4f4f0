"""``Lifted``, a model of another library as a Module: what lifting from Flax and from Haiku share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from objnet.core import errors, rng, scope
from objnet.core.foreign import to_host_or_jax
from objnet.core.rng import next_rng_key
from objnet.core.variable import Variable
from objnet.interop.collection import Collection, cells, hold
from objnet.interop.keys import Path
from objnet.nn.module import Module
from objnet.nn.parameter import UninitializedParameter, is_lazy

__all__ = ["Lifted"]

_TRAINABLE = "params"  # both libraries' name for it
_ASKS = "_objnet_asks"  # of a module's __dict__: which kinds of calls need a random key


class Lifted(Module):
    """A model of another library, whose variables are this module's Parameters and Buffers.

    A state dict has the library's own names: collection, path and name, joined by dots (``params.Dense_0.kernel``). Made without
    example inputs it is lazy: the first call, which runs eagerly or in the function that made it, initialises it, and so does a
    state dict.

    Attributes:
        train_flag: the argument of the library's model that is given ``training``, where the caller does not give it.
        eval_flag: the argument that is given ``not training``.
    """

    train_flag: str | None
    eval_flag: str | None

    def __init__(self, train_flag: str | None, eval_flag: str | None) -> None:
        super().__init__()
        self.train_flag = train_flag
        self.eval_flag = eval_flag
        self.params = UninitializedParameter()

    # -- what a library defines ----------------------------------------------------------------------------------------

    def _init(self, key: jax.Array, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[tuple[Path, Any]]:
        """(collection and path, value) for each of the library's initial variables."""
        raise NotImplementedError

    def _asks_for_key(self, error: Exception) -> bool:
        """Whether the library says with this error that a random key is needed."""
        raise NotImplementedError

    # -- variables -----------------------------------------------------------------------------------------------------

    def _entries(self) -> dict[Path, Any]:
        """Every value held, by collection and path."""
        return {path: cell._read() for path, cell in self._cells().items()}

    def _cells(self) -> dict[Path, Variable]:
        return {(name, *path): cell for name, collection in self._modules.items() for path, cell in cells(collection)}

    def _hold(self, entries: Iterable[tuple[Path, Any]]) -> None:
        for (name, *path), value in entries:
            if name not in self._modules:
                self._link("_modules", name, Collection())
            hold(self._modules[name], [(tuple(path), value)], name == _TRAINABLE)

    def _load(self, given: list[tuple[Path, Any]]) -> None:
        """Take over values of the shapes held, or nothing."""
        held = self._cells()
        pairs = [(path, held[path]._read(), value) for path, value in given if path in held]
        wrong = [
            f"{'.'.join(path)} is {jax.tree.map(jnp.shape, value)}, the module has {jax.tree.map(jnp.shape, own)}"
            for path, own, value in pairs
            if jax.tree.map(jnp.shape, own) != jax.tree.map(jnp.shape, value)
        ]
        if wrong:
            raise errors.StructureMismatchError("the variables do not fit the lifted module:\n  " + "\n  ".join(wrong))
        self._replace(given)

    def _replace(self, entries: Iterable[tuple[Path, Any]]) -> None:
        """Take over values given from outside; in a pure function they are first values, as a constructor's are."""
        with scope.entered(scope.BUILD, self):
            if is_lazy(self._parameters.get(_TRAINABLE)):
                del self.params
            self._hold(entries)

    def _commit(self, before: dict[Path, Any], after: Iterable[tuple[Path, Any]]) -> None:
        """Write what a call changed; what it left alone is not written, so that it may run where nothing may be."""
        self._hold((path, value) for path, value in after if path not in before or not same(before[path], value))

    def _initialised(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Make the variables, if this is the first call."""
        placeholder = self._parameters.get(_TRAINABLE)
        if not is_lazy(placeholder):
            return
        if not placeholder._at_home():  # type: ignore[union-attr]
            raise placeholder.unset()  # type: ignore[union-attr]
        self._initialise(args, kwargs)

    def _initialise(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        kwargs = self._with_flags(kwargs)
        with scope.entered(scope.BUILD, self):
            key = next_rng_key()
            if rng.binding():  # the values are about to be replaced: their shapes will do
                paths: list[Path] = []

                def values() -> list[Any]:
                    made = self._init(key, args, kwargs)
                    paths[:] = [path for path, _ in made]
                    return [value for _, value in made]

                shapes = jax.eval_shape(values)
                entries = list(zip(paths, jax.tree.map(_zeros, shapes), strict=True))
            else:
                entries = self._init(key, args, kwargs)
            del self.params
            self._hold(entries)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if is_lazy(self._parameters.get(_TRAINABLE)) and prefix + _TRAINABLE not in state_dict:
            given = [(key[len(prefix) :].split("."), value) for key, value in state_dict.items() if key.startswith(prefix)]
            if given:
                self._replace((tuple(path), jnp.asarray(to_host_or_jax(value))) for path, value in given)
        super()._load_from_state_dict(state_dict, prefix, *args)

    # -- calls ---------------------------------------------------------------------------------------------------------

    def _with_flags(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        flags = {self.train_flag: self.training, self.eval_flag: not self.training}
        return {name: value for name, value in flags.items() if name is not None} | kwargs

    def _with_key(self, run: Callable[[jax.Array | None], Any], call: Any) -> Any:
        """``run(None)``, or with a random key if the model asks for one: the stream stays as it is where nothing is random.

        Args:
            call: everything that may decide whether it asks.
        """
        asks = self.__dict__.setdefault(_ASKS, {})
        kind = _kind(call)
        if kind not in asks:
            asks[kind] = self._probe(run)
        if not asks[kind]:
            try:
                return run(None)
            except Exception as error:
                if not self._asks_for_key(error):
                    raise
            asks[kind] = True
        return run(next_rng_key())

    def _probe(self, run: Callable[[None], Any]) -> bool:
        try:
            jax.eval_shape(lambda: _arrays_only(run(None)))
        except Exception as error:
            return self._asks_for_key(error)  # other errors are for the real call to raise, or not
        return False


def _arrays_only(result: Any) -> list[Any]:
    return [leaf for leaf in jax.tree.leaves(result) if isinstance(leaf, jax.Array)]


def _zeros(shape: jax.ShapeDtypeStruct) -> jax.Array:
    if jnp.issubdtype(shape.dtype, jax.dtypes.prng_key):
        return jnp.broadcast_to(jax.random.key(0), shape.shape)
    return jnp.zeros(shape.shape, shape.dtype)


def same(before: Any, after: Any) -> bool:
    """Whether a value is the very one there was."""
    if jax.tree.structure(before) != jax.tree.structure(after):
        return False
    return all(a is b for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True))


def _kind(call: Any) -> Any:
    """``call`` as a key: arrays by shape and dtype, everything else by value or identity."""
    found, tree = jax.tree.flatten(call)
    return str(tree), tuple(map(_leaf_kind, found))


def _leaf_kind(leaf: Any) -> Any:
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
        return tuple(leaf.shape), str(leaf.dtype)
    return type(leaf), repr(leaf)
