"""Sequences of several lengths in one array: torch's ``PackedSequence``, under the static shapes of a compiled program.

torch lays the steps that exist one after the other: all first steps, all second ones, and so on.  How many rows that makes
depends on the lengths, so a program has the layout where they are known when it is built: lists, numpy arrays, anything in
eager code.  ``batch_sizes`` is part of the *structure* of the pytree: a packed sequence given to a compiled function keeps its
layout there, where ``batch_sizes`` is a numpy array (torch keeps it on the CPU), and each layout is a program.

With traced lengths, ``pack_padded_sequence(x, lengths)`` in a compiled step, a :class:`TracedPackedSequence` keeps the padded
array and the lengths.  Recurrent layers and ``pad_packed_sequence`` take it and give equal results, one program for all
lengths; only ``data`` and ``batch_sizes`` have to wait until the lengths are known again, outside of the program.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from objnet.core import errors
from objnet.core.arrays import as_array
from objnet.nn.functional._common import host, is_concrete
from objnet.nn.module import _check_dtype, _parse_to


def traced_lengths(what: str) -> errors.TracedLengthsError:
    return errors.TracedLengthsError(
        f"{what} depends on the lengths, which are traced here{errors.where()}: the size of an array cannot. Recurrent layers, "
        "pad_packed_sequence and .to() work; for anything else apply it to the padded array, before packing or after "
        "pad_packed_sequence (a loss: with the targets padded by ignore_index), or make the lengths static: a tuple of ints and objnet.jit's static_argnames."
    )


def constant(x: np.ndarray) -> jax.Array:
    """A concrete array, under a trace too: what is made of it is known when the program is built."""
    with jax.ensure_compile_time_eval():
        return jax.device_put(x)  # which a transfer guard lets pass


def rows(x: jax.Array, index: np.ndarray, **facts: bool) -> jax.Array:
    """``x[index]`` for an index known to be in bounds; on the host where ``x`` is, where nothing has to be compiled for it."""
    if on_host(x):
        return jax.device_put(host(x)[index])
    return x.at[index].get(mode="promise_in_bounds", **facts)


def on_host(x: jax.Array) -> bool:
    """Whether numpy can do the work: concrete values, where new arrays are made, on the CPU."""
    device = jax.local_devices()[0]
    return is_concrete(x) and device.platform == "cpu" and x.devices() == {device}


def invert_permutation(permutation: Any) -> jax.Array | None:
    """The inverse of ``permutation`` (N,), of its dtype; None for None (torch's).

    Raises:
        RuntimeError: no whole numbers, or no permutation. IndexError: not 1-d.
    """
    if permutation is None:
        return None
    permutation = jnp.asarray(permutation) if isinstance(permutation, np.ndarray | list | tuple) else permutation
    if not jnp.issubdtype(permutation.dtype, jnp.integer):
        raise RuntimeError(f"invert_permutation takes whole numbers, got {permutation.dtype}")
    if permutation.ndim != 1:
        raise IndexError(f"invert_permutation takes a 1-d array, got {permutation.shape}")
    if not is_concrete(permutation):
        return jnp.argsort(permutation).astype(permutation.dtype)
    values = host(permutation)
    inverse = np.argsort(values).astype(values.dtype)
    if not np.array_equal(values[inverse], np.arange(len(values))):
        raise RuntimeError(f"{values.tolist()} is no permutation of 0 to {len(values) - 1}")
    return constant(inverse)


def _beside(data: Any, sizes: np.ndarray) -> Any:
    """``batch_sizes`` for such data, an array like it if that leaves them known."""
    return constant(sizes) if isinstance(data, jax.Array) and not isinstance(data, jax.core.Tracer) else sizes


class _Fields(NamedTuple):
    data: Any
    batch_sizes: Any
    sorted_indices: Any
    unsorted_indices: Any


class PackedSequence(_Fields):
    """Sequences of several lengths without padding (torch's ``nn.utils.rnn.PackedSequence``); the ``rnn`` functions make them.

    Args:
        data: (sum of the lengths, *), all first steps, then all second ones, ..., the longest sequence first.
        batch_sizes: (longest length,) how many sequences have each step; where ``data`` is traced a numpy array, which is not.
        sorted_indices: (N,) where the sequences stood before they were sorted by length; None if they came sorted.
        unsorted_indices: (N,) its inverse, which undoes the sorting.

    Raises:
        AssertionError: without ``batch_sizes``, ``data`` that is no pair of data and batch_sizes.
        TracedLengthsError: traced ``batch_sizes``.
    """

    def __new__(cls, data: Any, batch_sizes: Any = None, sorted_indices: Any = None, unsorted_indices: Any = None) -> Any:
        if batch_sizes is None:
            if not (isinstance(data, (list, tuple)) and len(data) == 2):
                raise AssertionError(
                    "PackedSequence(data) without batch_sizes takes a pair, (data, batch_sizes); pack_sequence and "
                    "pack_padded_sequence make packed sequences"
                )
            data, batch_sizes = data
        if isinstance(batch_sizes, jax.core.Tracer):
            raise traced_lengths("PackedSequence(data, batch_sizes)")
        sizes = _beside(data, np.asarray(jax.device_get(batch_sizes), np.int64))
        if unsorted_indices is None:
            unsorted_indices = invert_permutation(sorted_indices)
        return super().__new__(cls, data, sizes, sorted_indices, unsorted_indices)

    @classmethod
    def _make(cls, iterable: Any) -> Any:  # of namedtuple; _replace calls it
        return PackedSequence(*iterable)

    # -- for the recurrent layers and pad_packed_sequence --------------------------------------------------------------

    @property
    def _order(self) -> tuple[Any, Any]:
        """What brings states into the order of :meth:`_padded`, and what undoes it; None for nothing to do."""
        return self.sorted_indices, self.unsorted_indices

    def _padded(self) -> tuple[jax.Array, jax.Array]:
        """The padded array (L, N, *), something finite or not past the ends, and the lengths (N,).

        Raises:
            RuntimeError: ``batch_sizes`` that do not fit the data.
        """
        exists = self._exists()
        first = np.cumsum(exists.sum(1)) - exists.sum(1)
        index = np.where(exists, first[:, None] + np.arange(exists.shape[1]), 0)
        return rows(as_array(self.data), index), constant(exists.sum(0))

    def _with(self, padded: jax.Array) -> PackedSequence:
        """The same layout of another padded array."""
        index = np.flatnonzero(self._exists())
        data = rows(padded.reshape(-1, *padded.shape[2:]), index, unique_indices=True, indices_are_sorted=True)
        return PackedSequence(data, *self[1:])

    def _exists(self) -> np.ndarray:
        """(L, N): whether the sequence has the step."""
        sizes = np.asarray(jax.device_get(self.batch_sizes))
        if sizes.ndim != 1 or not len(sizes) or (sizes < 1).any() or (np.diff(sizes) > 0).any():
            raise RuntimeError(f"batch_sizes must be 1-d, positive and never grow, got {sizes.tolist()}")
        if self.data.ndim == 0 or sizes.sum() != self.data.shape[0]:
            raise RuntimeError(f"batch_sizes sum up to {sizes.sum()} rows, data is of shape {self.data.shape}")
        return np.arange(sizes[0]) < sizes[:, None]

    def _apply(self, of_data: Callable[[Any], Any], of_indices: Callable[[Any], Any]) -> PackedSequence:
        data = of_data(self.data)
        if data is self.data:
            return self
        return PackedSequence(data, self.batch_sizes, *(None if i is None else of_indices(i) for i in self[2:]))

    # -- torch's conversions -------------------------------------------------------------------------------------------

    @property
    def _values(self) -> Any:
        return self.data

    def to(self, *args: Any, **kwargs: Any) -> PackedSequence:
        """Move and cast the data: ``to(device)``, ``to(dtype)``, ``to(device, dtype)`` or ``to(array)``, as in torch.

        Gives ``self`` if there is nothing to do. Devices as in :meth:`objnet.nn.Module.to`.
        """
        device, dtype = _parse_to(args, dict(kwargs), inexact=False)

        def move(x: Any) -> Any:
            there = device is None or (is_concrete(x) and (x.sharding == device or x.devices() == {device}))
            return x if there else jax.device_put(x, device)

        return self._apply(lambda x: move(x if dtype in (None, x.dtype) else x.astype(dtype)), move)

    def cpu(self) -> PackedSequence:
        return self.to("cpu")

    def cuda(self, device: Any = None) -> PackedSequence:
        return self.to("cuda" if device is None else f"cuda:{device}" if isinstance(device, int) else device)

    def double(self) -> PackedSequence:
        return self.to(_check_dtype(jnp.dtype("float64")))

    def float(self) -> PackedSequence:
        return self.to(jnp.float32)

    def half(self) -> PackedSequence:
        return self.to(jnp.float16)

    def long(self) -> PackedSequence:
        return self.to(jax.dtypes.canonicalize_dtype("int64"))

    def int(self) -> PackedSequence:
        return self.to(jnp.int32)

    def short(self) -> PackedSequence:
        return self.to(jnp.int16)

    def char(self) -> PackedSequence:
        return self.to(jnp.int8)

    def byte(self) -> PackedSequence:
        return self.to(jnp.uint8)

    @property
    def is_cuda(self) -> bool:
        return all(device.platform == "gpu" for device in self._values.devices())

    def is_pinned(self) -> bool:
        return self._values.sharding.memory_kind == "pinned_host"

    def pin_memory(self) -> PackedSequence:
        """The data in pinned host memory, from which copies to an accelerator are fast."""

        def pin(x: Any) -> Any:
            return jax.device_put(x, x.sharding.with_memory_kind("pinned_host"))

        return self._apply(pin, pin)


def pack(x: jax.Array, lengths: np.ndarray, batch_first: bool, enforce_sorted: bool) -> PackedSequence:
    """Pack a padded batch whose ``lengths`` are known and in range.

    Raises:
        RuntimeError: ``enforce_sorted``, and the lengths are not sorted.
    """
    if enforce_sorted and (np.diff(lengths) > 0).any():
        raise RuntimeError(
            "`lengths` array must be sorted in decreasing order when `enforce_sorted` is True; pass enforce_sorted=False to "
            f"have the sequences sorted. Got {lengths.tolist()}"
        )
    order = np.argsort(-lengths, kind="stable")
    exists = np.arange(lengths.max())[:, None] < lengths[order]
    step, which = np.nonzero(exists)
    outer, inner = (order[which], step) if batch_first else (step, order[which])
    data = rows(x.reshape(-1, *x.shape[2:]), outer * x.shape[1] + inner, unique_indices=True)
    return PackedSequence(data, exists.sum(1), None if enforce_sorted else constant(order))


class TracedPackedSequence(PackedSequence):
    """A packed sequence of traced lengths: made by ``pack_padded_sequence``, taken wherever a PackedSequence is.

    Args:
        values: (L, N, *), padded, in the order given.
        lengths: (N,).
        came_sorted: whether the sequences are said to be sorted by length.
    """

    _values: Any = None

    def __new__(cls, values: Any, lengths: Any, came_sorted: bool) -> Any:
        self = tuple.__new__(cls)
        self._values, self._lengths, self._came_sorted = values, lengths, came_sorted
        return self

    def _known(self, what: str) -> PackedSequence:
        """The same in torch's layout.

        Raises:
            TracedLengthsError: the lengths are traced here.
        """
        if not is_concrete(self._lengths):
            raise traced_lengths(what)
        return pack(self._values, host(self._lengths), batch_first=False, enforce_sorted=self._came_sorted)

    @property
    def data(self) -> Any:  # type: ignore[override]
        return self._known("PackedSequence.data").data

    @property
    def batch_sizes(self) -> Any:  # type: ignore[override]
        return self._known("PackedSequence.batch_sizes").batch_sizes

    @property
    def sorted_indices(self) -> Any:  # type: ignore[override]
        return None if self._came_sorted else jnp.argsort(self._lengths, descending=True)

    @property
    def unsorted_indices(self) -> Any:  # type: ignore[override]
        return invert_permutation(self.sorted_indices)

    def __iter__(self) -> Iterator[Any]:
        return iter((self.data, self.batch_sizes, self.sorted_indices, self.unsorted_indices))

    def __getitem__(self, index: Any) -> Any:
        return tuple(self)[index]

    def __len__(self) -> int:
        return len(self._fields)

    def __repr__(self) -> str:
        if isinstance(self._lengths, jax.Array) and is_concrete(self._lengths):
            return repr(self._known(""))
        return f"PackedSequence(padded={self._values}, lengths={self._lengths})"

    def __reduce__(self) -> Any:
        return type(self), (self._values, self._lengths, self._came_sorted)

    @property
    def _order(self) -> tuple[Any, Any]:
        return None, None

    def _padded(self) -> tuple[jax.Array, jax.Array]:
        return self._values, self._lengths

    def _with(self, padded: jax.Array) -> PackedSequence:
        return TracedPackedSequence(padded, self._lengths, self._came_sorted)

    def _apply(self, of_data: Callable[[Any], Any], of_indices: Callable[[Any], Any]) -> PackedSequence:
        values = of_data(self._values)
        return self if values is self._values else self._with(values)


def _register() -> None:
    """Both as pytrees; unflattened as they are, for leaves need not be arrays then."""
    key = jax.tree_util.GetAttrKey

    def flatten(packed: PackedSequence) -> Any:
        data, sizes, *indices = packed
        leaves = zip(("data", "sorted_indices", "unsorted_indices"), (data, *indices), strict=True)
        return [(key(name), leaf) for name, leaf in leaves], tuple(jax.device_get(sizes).tolist())

    def unflatten(sizes: Any, leaves: Any) -> PackedSequence:
        data, *indices = leaves
        return tuple.__new__(PackedSequence, (data, _beside(data, np.asarray(sizes, np.int64)), *indices))

    def flatten_traced(packed: TracedPackedSequence) -> Any:
        return [(key("padded"), packed._values), (key("lengths"), packed._lengths)], packed._came_sorted

    def unflatten_traced(came_sorted: Any, leaves: Any) -> PackedSequence:
        return TracedPackedSequence(*leaves, came_sorted)

    jax.tree_util.register_pytree_with_keys(PackedSequence, flatten, unflatten)
    jax.tree_util.register_pytree_with_keys(TracedPackedSequence, flatten_traced, unflatten_traced)


_register()
