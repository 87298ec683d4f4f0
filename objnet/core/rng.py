"""Random numbers.

There are two streams, both set by :func:`manual_seed` and neither part of any module or state dict.  Outside every trace,
numbers that torch would draw eagerly (initial weights, ``objnet.rand``) come from the host generator, which reproduces
torch's CPU generator: same seed, same numbers.  Everything else comes from a stream of jax keys held in one Variable, so
every transform threads it like any other state; a pure function binds that Variable to the ``rng`` it was given.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from objnet.core import errors, frame, scope
from objnet.core.generator import Generator
from objnet.core.variable import UNSET, Parameter, Variable


class _KeyStream(Variable):
    """The Variable that holds the key; its first value is made when it is first read, not at import."""

    __slots__ = ()

    def _own(self) -> Any:
        if self._value is UNSET:
            self._store(_key(default_generator.initial_seed()))
        return super()._own()

    def unset(self) -> errors.UnsetVariableError:
        return errors.MissingRngError(
            f"a random key is needed{errors.where()}, but init or apply was given rng=None: pass a key or an int seed."
        )

    def describe(self) -> str:
        return "the random key stream"


default_generator = Generator()
_unwanted: ContextVar[bool] = ContextVar("objnet_nothing_drawn", default=False)
key_stream = _KeyStream(UNSET)


def _key(seed: int) -> jax.Array:
    return jax.random.PRNGKey(np.uint32(seed & 0xFFFFFFFF))


def manual_seed(seed: int) -> Generator:
    """Seed both streams (torch's ``manual_seed``); initial weights then equal torch's for the same seed.

    Raises:
        RuntimeError: for a seed torch refuses.
        CompiledCallError: inside a transform, where the host generator cannot follow.
    """
    if frame.current() is not None:
        raise errors.CompiledCallError(f"manual_seed was called inside a transform{errors.where()}: seed outside of it.")
    frame.check_draw(key_stream)
    default_generator.manual_seed(int(seed))
    key_stream._store(_key(default_generator.initial_seed()))
    return default_generator


def seed() -> int:
    """Seed both streams from the operating system's entropy and return the seed (torch's ``seed``)."""
    value = int.from_bytes(np.random.SeedSequence().generate_state(2).tobytes(), "little")
    manual_seed(value)
    return value


def initial_seed() -> int:
    """The seed last set."""
    return default_generator.initial_seed()


def get_rng_state() -> dict[str, np.ndarray]:
    """Both streams' states as numpy arrays, to be saved and handed to :func:`set_rng_state`."""
    return {"generator": default_generator.get_state(), "key": np.asarray(frame.get(key_stream))}


def set_rng_state(state: dict[str, Any]) -> None:
    """Put back what :func:`get_rng_state` gave.

    Raises:
        ValueError: if ``state`` is not of that form; nothing is changed then.
    """
    if not isinstance(state, dict) or set(state) != {"generator", "key"}:
        raise ValueError("expected the dict get_rng_state() returns, with the entries 'generator' and 'key'")
    key = np.asarray(state["key"])
    if key.dtype != np.uint32 or key.ndim != 1:
        raise ValueError(f"the 'key' of a random state is a uint32 vector, got {key.dtype} of shape {key.shape}")
    if frame.current() is not None:
        raise errors.CompiledCallError(f"set_rng_state was called inside a transform{errors.where()}: call it outside.")
    default_generator.set_state(np.asarray(state["generator"]))
    key_stream._store(jnp.asarray(key))


def split(key: jax.Array, num: int) -> jax.Array:
    """``num`` keys from one."""
    return jax.random.split(key, num)


def next_rng_key() -> jax.Array:
    """A key nobody else gets, from the stream in force (Haiku's ``next_rng_key``).

    Raises:
        MissingRngError: inside a pure function that was given ``rng=None``.
        RngInTransformError: under a plain jax transform, where every row, step or call would share it.
    """
    return next_rng_keys(1)[0]


def next_rng_keys(num: int) -> jax.Array:
    """``num`` keys stacked along axis 0, by one split (Haiku's ``next_rng_keys``); see :func:`next_rng_key`."""
    frame.check_draw(key_stream)
    if binding():  # for first values that are about to be replaced: nothing is drawn, as Haiku runs no initialiser in apply
        held = key_stream._peek()
        return split(_key(0) if held is UNSET else held, num)
    inner = frame.current()
    reserved = [] if inner is None else inner.reserved
    first = [reserved.pop(0) for _ in range(min(num, len(reserved)))]
    rest = [] if first and len(first) == num else _split_off(num - len(first))
    return jnp.stack([*first, *rest]) if first else rest


def _split_off(num: int) -> jax.Array:
    key = frame.get(key_stream)
    if key is None:  # in a program whose caller has none
        raise key_stream.unset()
    keys = split(key, num + 1)
    frame.set(key_stream, keys[0])
    return keys[1:]


def reserve_rng_keys(num: int) -> None:
    """Split off ``num`` keys at once, which the next draws of this function get (Haiku's ``reserve_rng_keys``).

    They serve the pure or transformed function that runs here; inside transforms within it, and outside of any, where it
    would not pay, keys are split off as they are drawn.

    Raises:
        MissingRngError, RngInTransformError: as :func:`next_rng_key`.
    """
    frame.check_draw(key_stream)
    inner = frame.current()
    if num > 0 and inner is not None and not binding():
        inner.reserved.extend(_split_off(num))


def maybe_next_rng_key() -> jax.Array | None:
    """:func:`next_rng_key`, or None inside a pure function that was given ``rng=None`` (Haiku's)."""
    return next_rng_key() if _has_rng() else None


def _has_rng() -> bool:
    held = key_stream._peek()
    return frame.current() is None or not (held is UNSET or held is None)


def maybe_get_rng_sequence_state() -> tuple[jax.Array, tuple[jax.Array, ...]] | None:
    """The key further ones are split from and the keys reserved, or None where there is no ``rng`` (Haiku's)."""
    if not _has_rng():
        return None
    inner = frame.current()
    return frame.get(key_stream), () if inner is None else tuple(inner.reserved)


def replace_rng_sequence_state(state: tuple[Any, Any]) -> None:
    """Continue from what :func:`maybe_get_rng_sequence_state` gave (Haiku's).

    Raises:
        MissingRngError: where there is no ``rng``. ValueError: ``state`` is not of that form; keys reserved where none are kept.
    """
    if not _has_rng():
        raise key_stream.unset()
    frame.check_draw(key_stream)
    key, reserved = state
    key, reserved = as_key(key), [*map(as_key, reserved)]
    inner = frame.current()
    if inner is None and reserved:
        raise ValueError("keys are reserved only inside a pure or transformed function: expected a state (key, ())")
    frame.set(key_stream, key)
    if inner is not None:
        inner.reserved = reserved


@contextmanager
def with_rng(key: Any) -> Iterator[None]:
    """Draw from ``key`` inside the block; the stream outside is left as it is (Haiku's ``with_rng``, ``torch.random.fork_rng``).

    Initial weights too come from the key, outside of transforms as well. An exception takes back what modules were written
    inside the block.

    Args:
        key: a key or an int seed.

    Raises:
        ValueError: ``key`` is neither.
    """
    key = as_key(key)
    inner = frame.Frame()
    with inner.open():
        inner.values[key_stream] = key
        yield
    outcome = inner.outcome()
    outcome.pop(key_stream, None)
    inner.written.pop(key_stream, None)
    inner.commit(outcome)
    inner.close()


def host_stream() -> bool:
    """Whether draws here come from the host generator: outside every trace and every pure function."""
    inner = frame.current()
    while inner is not None:
        if inner.closed or inner.repeats or key_stream in inner.values:
            return False
        inner = inner.parent
    frame.check_draw(key_stream)
    return True


def draw(host: Callable[[Generator], np.ndarray], device: Callable[[jax.Array], jax.Array], shape: Any, dtype: Any) -> jax.Array:
    """An array from the stream in force: ``host(generator)`` outside every trace, else ``device(key)``.

    While a pure function builds modules during ``apply`` the values are about to be replaced by ``params``; zeros stand in.
    """
    if binding():
        return jnp.zeros(shape, dtype)
    if host_stream():
        inner = frame.current()
        if inner is not None:  # a frame that has to start again draws the same numbers again
            inner.undo.append(functools.partial(default_generator.set_state, default_generator.get_state()))
        return jnp.asarray(host(default_generator), dtype=dtype)
    return device(next_rng_key()).astype(dtype)


def binding() -> bool:
    """Whether a pure ``apply`` is building modules here, whose values come from its arguments, or none are wanted."""
    if _unwanted.get():
        return True
    inner = frame.current()
    while inner is not None and not inner.closed:
        if getattr(inner, "applies", False):
            return scope.constructing()
        inner = inner.parent
    return False


@contextmanager
def nothing_drawn() -> Iterator[None]:
    """No random number is drawn: zeros stand in."""
    reset = _unwanted.set(True)
    try:
        yield
    finally:
        _unwanted.reset(reset)


@contextmanager
def initialising(target: Any) -> Iterator[None]:
    """Filling ``target``, of which a Parameter in a pure ``apply`` takes no notice: then nothing is to be drawn for it."""
    reset = scope.enter(scope.BUILD, None) if isinstance(target._owner(), Parameter) else None
    try:
        yield
    finally:
        if reset is not None:
            scope.reset(reset)


class PRNGSequence(Iterator[jax.Array]):
    """An endless iterator of jax keys (Haiku's ``PRNGSequence``, with the same keys).

    Args:
        key_or_seed: an int seed, a legacy uint32 key, a typed key, or the ``internal_state`` of another sequence.

    Raises:
        ValueError: for anything else.
    """

    def __init__(self, key_or_seed: Any):
        self.replace_internal_state(key_or_seed if isinstance(key_or_seed, tuple) else (key_or_seed, ()))

    @property
    def internal_state(self) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """The key further ones will be split from, and the keys reserved."""
        return self._key, tuple(self._reserved)

    def replace_internal_state(self, state: Any) -> None:
        """Continue from an ``internal_state``."""
        key, reserved = state
        self._key = as_key(key)
        self._reserved = deque(map(as_key, reserved))

    def reserve(self, num: int) -> None:
        """Split off ``num`` keys at once, to be handed out next."""
        if num > 0:
            self._key, *keys = split(self._key, num + 1)
            self._reserved.extend(keys)

    def __next__(self) -> jax.Array:
        if frame.trace_state() != frame.CLEAN and not isinstance(self._key, jax.core.Tracer) and frame.staged():
            raise errors.RngInTransformError(
                f"a PRNGSequence made outside was advanced inside a transform{errors.where()}: every call would repeat its keys. "
                "Draw with objnet.next_rng_key() there, or pass a key and make the sequence inside."
            )
        if not self._reserved:
            self.reserve(1)
        return self._reserved.popleft()

    next = __next__

    def take(self, num: int) -> tuple[jax.Array, ...]:
        """The next ``num`` keys; those not reserved yet by one split."""
        self.reserve(num - len(self._reserved))
        return tuple(next(self) for _ in range(num))


def as_key(value: Any) -> jax.Array:
    """``value`` as a jax key: an int (or 0-d integer array) seeds one, a key is taken as it is.

    Raises:
        ValueError: if ``value`` is neither.
    """
    if isinstance(value, bool):
        raise ValueError(f"expected a key or an int seed, got {value!r}")
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return jax.random.PRNGKey(value)
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            if value.shape == ():
                return value
        elif value.ndim == 0 and jnp.issubdtype(value.dtype, jnp.integer):
            return jax.random.PRNGKey(value)
        elif value.shape in ((2,), (4,)) and value.dtype == jnp.uint32:
            return jnp.asarray(value)
    kind = f"an array of shape {value.shape} and dtype {value.dtype}" if hasattr(value, "shape") else f"{value!r}"
    raise ValueError(f"expected a key (jax.random.key(0)) or an int seed, got {kind}")
