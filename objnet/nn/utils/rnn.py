"""Packing and padding of sequences of several lengths (torch's ``nn.utils.rnn``); ``nn/_packed.py`` says how it is done.

Where values are at hand, in the ``collate_fn`` of a loader say, numpy does the work: a compiled gather or concatenation would be
compiled anew for every set of lengths.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from objnet.core.arrays import as_array
from objnet.nn._packed import (
    PackedSequence,
    TracedPackedSequence,
    constant,
    invert_permutation,
    on_host,
    pack,
    traced_lengths,
)
from objnet.nn.functional._common import host, is_concrete

__all__ = [
    "PackedSequence",
    "TracedPackedSequence",
    "invert_permutation",
    "pack_padded_sequence",
    "pack_sequence",
    "pad_packed_sequence",
    "pad_sequence",
    "unpack_sequence",
    "unpad_sequence",
]


def pack_padded_sequence(
    input: jax.Array, lengths: Any, batch_first: bool = False, enforce_sorted: bool = True
) -> PackedSequence:
    """Pack a padded batch (torch's ``pack_padded_sequence``).

    Args:
        input: (L, N, *), or (N, L, *) if ``batch_first``.
        lengths: N numbers from 1 to L, an array or a sequence. Known lengths give torch's layout, traced ones a
            :class:`TracedPackedSequence`. A traced length out of range cannot raise: it counts as the nearest in range, and the
            sequence is NaN, its data and what a recurrent layer makes of it; data of whole numbers have no NaN and stay.
        batch_first: the layout of ``input``.
        enforce_sorted: refuse lengths that are not sorted, the longest first, instead of sorting.

    Raises:
        RuntimeError: lengths that are not 1-d, not N, out of range or, if ``enforce_sorted``, not sorted; an empty input.
        IndexError: an input of less than 2 dimensions.
    """
    x = as_array(input)
    known = _known(lengths)
    lengths = _stacked(lengths) if known is None else known
    if x.ndim < 2:
        raise IndexError(f"pack_padded_sequence takes an input of at least 2 dimensions, got {x.shape}")
    if lengths.ndim != 1:
        raise RuntimeError(f"'lengths' should be 1-d, got {lengths.ndim} dimensions")
    if x.size == 0:
        raise RuntimeError(f"Cannot pack empty arrays, got {x.shape}")
    batch, length = x.shape[:2] if batch_first else (x.shape[1], x.shape[0])
    if len(lengths) != batch:
        raise RuntimeError(f"Expected `len(lengths)` to be equal to batch_size, but got {len(lengths)} (batch_size={batch})")
    if known is None:
        x = x.swapaxes(0, 1) if batch_first else x
        within = lengths.clip(1, length)
        if jnp.issubdtype(x.dtype, jnp.inexact):
            valid = (lengths == within).reshape(batch, *[1] * (x.ndim - 2))
            x = jnp.where(valid, x, jnp.asarray(jnp.nan, x.dtype))
        return TracedPackedSequence(x, within, enforce_sorted)
    if known.min() <= 0:
        raise RuntimeError(f"Length of all samples has to be greater than 0, got lengths {known.tolist()}")
    if known.max() > length:
        raise RuntimeError(f"lengths go up to {known.max()}, the input has {length} steps: {x.shape}, batch_first={batch_first}")
    return pack(x, known, batch_first, enforce_sorted)


def pad_packed_sequence(
    sequence: PackedSequence, batch_first: bool = False, padding_value: float = 0.0, total_length: int | None = None
) -> tuple[jax.Array, jax.Array]:
    """The padded batch of a packed one, in its original order (torch's ``pad_packed_sequence``).

    Args:
        sequence: what was packed.
        batch_first: whether to give (N, L, *) instead of (L, N, *).
        padding_value: fills steps past the ends.
        total_length: L; the longest length if None. With traced lengths that is not known: L is then that of the array
            packed, and ``total_length`` may only be larger.

    Returns:
        The padded array and the lengths (N,).

    Raises:
        ValueError: a ``total_length`` smaller than the longest sequence.
        RuntimeError: data and batch_sizes that do not fit.
    """
    values, lengths = sequence._padded()
    length = values.shape[0]
    if total_length is not None and total_length < length:
        may = " may" if isinstance(sequence, TracedPackedSequence) else ""
        raise ValueError(
            "Expected total_length to be at least the length of the longest sequence in input, but got "
            f"total_length={total_length} where the longest{may} have {length} steps"
        )
    original = sequence._order[1]
    on_the_host = on_host(values) and is_concrete(lengths) and (original is None or is_concrete(original))
    xp: Any = jnp
    if on_the_host:
        xp, values, lengths, original = np, *(None if x is None else host(x) for x in (values, lengths, original))
    if total_length is not None:
        values = xp.pad(values, [(0, total_length - length)] + [(0, 0)] * (values.ndim - 1))
    steps = xp.arange(values.shape[0])[:, None]
    exists = (steps < lengths.astype(steps.dtype)[None]).reshape(*values.shape[:2], *[1] * (values.ndim - 2))
    values = xp.where(exists, values, xp.asarray(padding_value).astype(values.dtype))
    if original is not None:
        values, lengths = values.take(original, 1), lengths.take(original, 0)
    values = values.swapaxes(0, 1) if batch_first else values
    return (jax.device_put(values), constant(lengths)) if on_the_host else (values, lengths)


def pad_sequence(sequences: Any, batch_first: bool = False, padding_value: float = 0.0, padding_side: str = "right") -> jax.Array:
    """Stack sequences (length, *) and pad them to the longest: (L, N, *), or (N, L, *) if ``batch_first`` (torch's).

    Args:
        sequences: N arrays of equal trailing sizes; the first decides the dtype.
        batch_first: the layout of the result.
        padding_value: fills the rest.
        padding_side: ``"right"`` pads after a sequence, ``"left"`` before it.

    Raises:
        RuntimeError: nothing to iterate over or none, a 0-d one, other trailing sizes, an unknown side.
    """
    if not isinstance(sequences, Iterable):
        raise RuntimeError(f"pad_sequence: Expected iterable for input sequences, but got arg of type: {type(sequences)}")
    arrays = [as_array(sequence) for sequence in sequences]
    if not arrays:
        raise RuntimeError("received an empty list of sequences")
    if padding_side not in ("left", "right"):
        raise RuntimeError(f"Expected padding_side to be one of left or right, but got {padding_side}.")
    rest, dtype = arrays[0].shape[1:], arrays[0].dtype
    if any(array.ndim == 0 or array.shape[1:] != rest for array in arrays):
        raise RuntimeError(f"pad_sequence takes sequences (length, *) of one *, got {[a.shape for a in arrays]}")
    length = max(array.shape[0] for array in arrays)
    if all(map(on_host, arrays)):
        padded = np.full((len(arrays), length, *rest), np.asarray(padding_value).astype(dtype), dtype)
        for row, array in zip(padded, arrays, strict=True):
            row[length - len(array) if padding_side == "left" else 0 :][: len(array)] = host(array)
        return jax.device_put(padded if batch_first else padded.swapaxes(0, 1))
    fill = jnp.asarray(padding_value, dtype)
    padded_rows = []
    for array in arrays:
        missing = length - array.shape[0]
        pads = (missing, 0) if padding_side == "left" else (0, missing)
        padded_rows.append(jnp.pad(array.astype(dtype), [pads] + [(0, 0)] * len(rest), constant_values=fill))
    return jnp.stack(padded_rows, 0 if batch_first else 1)


def unpad_sequence(padded_sequences: jax.Array, lengths: Any, batch_first: bool = False) -> list[jax.Array]:
    """The sequences of a padded batch, each of its length (torch's ``unpad_sequence``, without its change of the argument).

    Args:
        padded_sequences: (L, N, *), or (N, L, *) if ``batch_first``.
        lengths: N numbers; what exceeds L counts as L, what is negative as 0.
        batch_first: the layout of ``padded_sequences``.

    Raises:
        ValueError: not N lengths.
        TracedLengthsError: traced lengths: the sizes of the results depend on them.
    """
    x = as_array(padded_sequences)
    if x.ndim < 2:
        raise IndexError(f"unpad_sequence takes an array of at least 2 dimensions, got {x.shape}")
    x = x if batch_first else x.swapaxes(0, 1)
    known = _known(lengths, np.float64)
    if known is None:
        raise traced_lengths("unpad_sequence")
    if known.shape != x.shape[:1]:
        raise ValueError(f"unpad_sequence takes a length for each of {len(x)} sequences, got lengths of shape {known.shape}")
    counts = [int(count) for count in np.ceil(known).clip(0, x.shape[1])]
    if on_host(x):
        return [jax.device_put(row[:count]) for row, count in zip(host(x), counts, strict=True)]
    return [x[i, :count] for i, count in enumerate(counts)]


def pack_sequence(sequences: Sequence[Any], enforce_sorted: bool = True) -> PackedSequence:
    """Pack sequences (length, *): :func:`pad_sequence`, then :func:`pack_padded_sequence`, which raise what they raise."""
    padded = pad_sequence(sequences)
    return pack_padded_sequence(padded, [len(as_array(s)) for s in sequences], enforce_sorted=enforce_sorted)


def unpack_sequence(packed_sequences: PackedSequence) -> list[jax.Array]:
    """The sequences of a packed batch, in their original order (torch's ``unpack_sequence``).

    Raises:
        TracedLengthsError: traced lengths.
    """
    padded, lengths = pad_packed_sequence(packed_sequences, batch_first=True)
    return unpad_sequence(padded, lengths, batch_first=True)


def _is_array(lengths: Any) -> bool:
    return isinstance(lengths, (jax.Array, np.ndarray)) or hasattr(lengths, "__jax_array__")


def _known(lengths: Any, dtype: Any = np.int64) -> np.ndarray | None:
    """The lengths on the host, None if they are traced; a fraction is cut off, as torch does."""
    if _is_array(lengths):
        lengths = as_array(lengths)
        return host(lengths).astype(dtype) if is_concrete(lengths) else None
    if not isinstance(lengths, (list, tuple)):
        return np.asarray(lengths).astype(dtype)
    if any(isinstance(length, jax.core.Tracer) for length in lengths):
        return None
    return np.asarray(jax.device_get(list(lengths))).astype(dtype)


def _stacked(lengths: Any) -> jax.Array:
    """Traced lengths, an array or a list with some, as an array of the default whole numbers."""
    array = as_array(lengths) if _is_array(lengths) else jnp.stack([as_array(length).astype(int) for length in lengths])
    return array.astype(jax.dtypes.canonicalize_dtype("int64"))
