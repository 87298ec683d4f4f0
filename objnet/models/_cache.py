"""The keys and values of a decoder's past, in arrays whose shapes never change.

A cache is a pytree: it goes through ``objnet.jit``, ``lax.while_loop`` and the like, and every call of the model returns the
next one.  One compiled program thus serves every position.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from objnet.nn.functional._common import host, is_concrete

__all__ = ["KVCache", "LayerCache", "advanced", "check_room", "layer_of", "make_cache", "store"]


class KVCache(NamedTuple):
    """``keys`` and ``values``, an array (B, heads, max_length, head_dim) a layer, of which ``length`` places are filled."""

    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]
    length: jax.Array

    @property
    def max_length(self) -> int:
        """The number of places."""
        return self.keys[0].shape[-2]


class LayerCache(NamedTuple):
    """One layer of a cache."""

    keys: jax.Array
    values: jax.Array
    length: jax.Array


def make_cache(layers: int, batch_size: int, heads: int, max_length: int, head_dim: int, dtype: Any) -> KVCache:
    """An empty cache."""
    arrays = [jnp.zeros((batch_size, heads, max_length, head_dim), dtype) for _ in range(2 * layers)]
    return KVCache(tuple(arrays[:layers]), tuple(arrays[layers:]), jnp.zeros((), jnp.int32))


def layer_of(cache: KVCache | None, index: int) -> LayerCache | None:
    """Layer ``index`` of a cache, None of None."""
    return None if cache is None else LayerCache(cache.keys[index], cache.values[index], cache.length)


def store(cache: LayerCache | None, key: jax.Array, value: jax.Array) -> tuple[jax.Array, jax.Array, LayerCache | None]:
    """All keys and values up to now, (B, heads, max_length, head_dim), and the layer's cache with the new ones.

    Without a cache the new keys and values come back.  Beyond the last place NaN is stored; see :func:`check_room` for
    the error of eager code.
    """
    if cache is None:
        return key, value, None
    fits = cache.length + key.shape[-2] <= cache.keys.shape[-2]
    start = (0, 0, cache.length, 0)
    keys, values = (
        lax.dynamic_update_slice(old, jnp.where(fits, new, jnp.nan).astype(old.dtype), start)
        for old, new in ((cache.keys, key), (cache.values, value))
    )
    return keys, values, LayerCache(keys, values, cache.length)


def advanced(cache: KVCache, layers: list[LayerCache], steps: int) -> KVCache:
    """The whole cache after ``steps`` more places."""
    return KVCache(tuple(c.keys for c in layers), tuple(c.values for c in layers), cache.length + steps)


def check_room(cache: KVCache, batch_size: int, steps: int) -> None:
    """Refuse a cache that is too small.

    Raises:
        ValueError: another batch size, or more steps than places.
        IndexError: in eager code, fewer free places than ``steps``. Compiled code gives NaN instead.
    """
    places = cache.max_length
    if cache.keys[0].shape[0] != batch_size:
        raise ValueError(f"the cache is for a batch of {cache.keys[0].shape[0]}, the input has {batch_size}")
    if steps > places:
        raise ValueError(f"{steps} tokens do not fit a cache of {places} places")
    if is_concrete(cache.length) and (taken := int(host(cache.length))) + steps > places:
        raise IndexError(f"the cache has {places} places, {taken} are taken: {steps} more do not fit")
