"""Connectionist temporal classification (Graves et al. 2006), in the space of logarithms.

A target of S labels is walked in 2 S + 1 states, with a blank around each label.  The probability of having been in a state
before frame t, given the frames so far, comes from one recursion over the frames; that of the frames still to come is the
same recursion over the reversed frames and states.  The gradient needs both, and one scan of twice the batch gives both.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from objnet.core.arrays import as_array
from objnet.core.autocast import full_precision
from objnet.core.precision import matmul_precision
from objnet.nn.functional._common import host, is_concrete, reduced, require_floating, resolve_reduction, widen
from objnet.nn.functional._loss import exists

__all__ = ["ctc_loss"]

_NAME = "ctc_loss"


@full_precision
def ctc_loss(
    log_probs: jax.Array,
    targets: jax.Array,
    input_lengths: jax.Array | Sequence[int],
    target_lengths: jax.Array | Sequence[int],
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> jax.Array:
    """Minus the log-probability of the targets, over all their alignments with the frames (torch's ``F.ctc_loss``).

    Args:
        log_probs: log-probabilities, shape (T, N, C) or (T, C), floating point.
        targets: classes, shape (N, S), padded; or all targets in one row, of shape (sum of ``target_lengths``,).
        input_lengths: how many frames count, shape (N,), at most T; () without a batch. An array or integers.
        target_lengths: how many labels each target has, likewise.
        blank: the class between labels.
        reduction: ``"none"``, ``"sum"`` or ``"mean"``, which first divides each loss by the length of its target.
        zero_infinity: losses that are infinite, of targets too long for their frames, are zero and have gradient zero.

    Returns:
        0-d, or (N,) for ``"none"`` and a batch; dtype of ``log_probs``. The gradient is torch's, which is that of
        ``log_softmax`` followed by this loss with ``log_softmax`` left out: its first term ``exp(log_probs)`` is there.

    Raises:
        ValueError: an unknown ``reduction``.
        RuntimeError: shapes and lengths that do not fit, ``blank`` out of range, lengths that are no integers.
        IndexError: a label that is no class. Lengths and labels that cannot be seen in compiled code give NaN.
        TypeError: a sequence of lengths with something else than integers.
        NotImplementedError: log-probabilities that are not floating point.
    """
    reduction, log_probs, targets = resolve_reduction(reduction), as_array(log_probs), as_array(targets)
    if log_probs.ndim not in (2, 3):
        raise RuntimeError(f"{_NAME} needs log_probs of shape (T, N, C) or (T, C), got {log_probs.shape}")
    if not log_probs.size:
        raise RuntimeError(f"{_NAME}: log_probs must not be empty, got {log_probs.shape}")
    require_floating(_NAME, log_probs)
    lp = widen(log_probs if log_probs.ndim == 3 else jnp.expand_dims(log_probs, 1))
    frames, samples, classes = lp.shape
    if not 0 <= blank < classes:
        raise RuntimeError(f"{_NAME}: blank must be one of the {classes} classes, got {blank}")
    frame_counts = _lengths("input_lengths", input_lengths, samples, frames)
    label_counts = _lengths("target_lengths", target_lengths, samples, None)
    labels = _padded(targets, label_counts, samples)
    width = labels.shape[1]
    used = jnp.arange(width, dtype=jnp.int32) < jnp.expand_dims(label_counts, 1)
    _check_labels(labels, label_counts, classes)
    valid = jnp.all(exists(labels, classes) | ~used, 1) & (label_counts >= 0) & (label_counts <= width)
    valid &= (frame_counts >= 0) & (frame_counts <= frames)
    batch = _Batch(jnp.where(used & exists(labels, classes), labels, blank), frame_counts, label_counts)
    losses = _losses(lp, batch, int(blank), bool(zero_infinity)) * jnp.where(valid, 1.0, jnp.nan).astype(lp.dtype)
    if reduction == "mean":
        losses = losses / jnp.maximum(label_counts, 1).astype(losses.dtype)
    losses = losses if log_probs.ndim == 3 else losses[0]
    return reduced(losses, reduction).astype(log_probs.dtype)


# -- arguments ---------------------------------------------------------------------------------------------------------


def _lengths(name: str, lengths: Any, samples: int, most: int | None) -> jax.Array:
    if isinstance(lengths, (tuple, list)) and not any(isinstance(n, jax.Array) and n.ndim for n in lengths):
        if all(isinstance(n, (int, np.integer)) for n in lengths):
            lengths = np.asarray([operator.index(n) for n in lengths], np.int32)
        elif any(isinstance(n, jax.Array) for n in lengths):  # integers that a jit has traced
            lengths = jnp.stack([as_array(n) for n in lengths])
        else:
            raise TypeError(f"{_NAME}: {name} must be integers, got {lengths}")
    lengths = as_array(lengths)
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise RuntimeError(f"{_NAME}: {name} must be integers, got {lengths.dtype}")
    if lengths.size != samples:
        raise RuntimeError(f"{_NAME}: {name} must have one element a sample, {samples}, got {lengths.size}")
    lengths = lengths.reshape(samples).astype(jnp.int32)
    if is_concrete(lengths):
        values = host(lengths)
        wrong = values[(values < 0) | (values > (np.iinfo(np.int32).max if most is None else most))]
        if wrong.size:
            raise RuntimeError(f"{_NAME}: {name} must be in 0 to {'S' if most is None else most}, got {wrong[0]}")
    return lengths


def _padded(targets: jax.Array, counts: jax.Array, samples: int) -> jax.Array:
    """The targets as (N, S)."""
    if targets.ndim not in (1, 2):
        raise RuntimeError(f"{_NAME} needs targets of shape (N, S) or (sum of target_lengths,), got {targets.shape}")
    if jnp.issubdtype(targets.dtype, jnp.complexfloating):
        raise RuntimeError(f"{_NAME}: targets must be integers, got {targets.dtype}")
    targets = targets.astype(jnp.int32)  # torch takes any dtype
    longest = int(host(counts).max()) if is_concrete(counts) else None
    if targets.ndim == 2:
        if targets.shape[0] != samples:
            raise RuntimeError(f"{_NAME}: {samples} samples take as many targets, got {targets.shape}")
        if longest is not None and longest > targets.shape[1]:
            raise RuntimeError(f"{_NAME}: a target of length {longest} does not fit in targets of shape {targets.shape}")
        return targets
    if longest is not None and int(host(counts).sum()) != targets.size:
        raise RuntimeError(f"{_NAME}: target_lengths add up to {int(host(counts).sum())}, but targets have {targets.size} labels")
    width = targets.size if longest is None else longest
    starts = jnp.cumsum(counts, dtype=jnp.int32) - counts
    places = jnp.expand_dims(starts, 1) + jnp.arange(width, dtype=jnp.int32)
    return targets.at[places].get(mode="fill", fill_value=-1)


def _check_labels(labels: jax.Array, counts: jax.Array, classes: int) -> None:
    if is_concrete(labels) and is_concrete(counts):
        values = host(labels)
        wrong = values[(np.arange(values.shape[1]) < host(counts)[:, None]) & ~exists(values, classes)]
        if wrong.size:
            raise IndexError(f"{_NAME}: label {wrong[0]} does not exist, log_probs have {classes} classes")


# -- the recursion -----------------------------------------------------------------------------------------------------


class _Batch(NamedTuple):
    """Labels (N, S), existing classes where there is none, and how many frames and labels count, (N,) each."""

    labels: jax.Array
    frames: jax.Array
    counts: jax.Array


@partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _losses(lp: jax.Array, batch: _Batch, blank: int, zero_infinity: bool) -> jax.Array:
    states = _states(batch.labels, blank)
    end, _ = _walk(_emissions(lp, states), states, batch.frames)
    losses = -_arrived(end, batch.counts)
    return jnp.where(losses == jnp.inf, 0.0, losses) if zero_infinity else losses


@_losses.defjvp
def _losses_jvp(blank: int, zero_infinity: bool, primals: tuple[Any, Any], tangents: tuple[Any, Any]) -> Any:
    (lp, batch), frames = primals, jnp.arange(primals[0].shape[0], dtype=jnp.int32)
    states = _states(batch.labels, blank)
    emissions = _emissions(lp, states)
    # where the frame and the state of the one walk are in the other
    frame = (jnp.expand_dims(batch.frames, 0) - 1 - jnp.expand_dims(frames, 1)) % lp.shape[0]
    state = (2 * jnp.expand_dims(batch.counts, 1) - jnp.arange(states.shape[1], dtype=jnp.int32)) % states.shape[1]

    def reversed_(x: jax.Array) -> jax.Array:
        return jnp.take_along_axis(jnp.take_along_axis(x, jnp.expand_dims(frame, 2), 0), jnp.expand_dims(state, 0), 2)

    def both(x: jax.Array, y: jax.Array, axis: int) -> jax.Array:
        return jnp.concatenate([x, y], axis)

    back = jnp.take_along_axis(states, state, 1)
    end, before = _walk(both(emissions, reversed_(emissions), 1), both(states, back, 0), both(batch.frames, batch.frames, 0))
    ahead, after = jnp.split(before, 2, 1)
    likelihood = _arrived(jax.tree.map(lambda x: jnp.split(x, 2)[0], end), batch.counts)
    possible = likelihood > -jnp.inf
    counts = jnp.arange(states.shape[1], dtype=jnp.int32) <= 2 * jnp.expand_dims(batch.counts, 1)
    occupied = jnp.exp(_shifted(jnp.where(counts, ahead + reversed_(after) + emissions, -jnp.inf))[0])
    total = jnp.sum(occupied, 2, keepdims=True)
    occupied = occupied / jnp.where(total > 0, total, 1.0)
    # a state's share goes to its class: a product with one-hot states
    share = jnp.einsum(
        "tns,nsc->tnc", occupied, jax.nn.one_hot(states, lp.shape[2], dtype=lp.dtype), precision=matmul_precision(lp)
    )
    slope = jnp.where(possible[:, None], jnp.exp(lp) - share, 0.0 if zero_infinity else jnp.nan)
    slope = jnp.where(jnp.expand_dims(frames, 1)[:, :, None] < batch.frames[:, None], slope, 0.0)
    losses = jnp.where(likelihood == -jnp.inf, 0.0, -likelihood) if zero_infinity else -likelihood
    return losses, jnp.sum(slope * tangents[0], (0, 2))


def _states(labels: jax.Array, blank: int) -> jax.Array:
    """(N, 2 S + 1), a blank before, between and after the labels."""
    samples, width = labels.shape
    pairs = jnp.stack([jnp.full_like(labels, blank), labels], 2).reshape(samples, 2 * width)
    return jnp.concatenate([pairs, jnp.full((samples, 1), blank, labels.dtype)], 1)


def _emissions(lp: jax.Array, states: jax.Array) -> jax.Array:
    return jnp.take_along_axis(lp, jnp.expand_dims(states, 0), 2)


def _walk(emissions: jax.Array, states: jax.Array, frames: jax.Array) -> tuple[Any, jax.Array]:
    """The log-probability of each state after the last frame that counts, and before each frame (T, N, L).

    The largest is subtracted from all states of a frame: sums of large numbers would lose the digits they differ in.  The
    first result is therefore two, (N, L), and what was subtracted (N,); the second is up to a constant a frame.
    """
    start = jnp.where(jnp.arange(states.shape[1]) == 0, 0.0, -jnp.inf).astype(emissions.dtype)
    jump = jnp.pad(states[:, 2:] != states[:, :-2], ((0, 0), (2, 0))) if states.shape[1] > 1 else jnp.zeros(states.shape, bool)

    def step(carry: Any, frame: tuple[jax.Array, jax.Array]) -> tuple[Any, jax.Array]:
        (now, taken), (number, emission) = carry, frame
        before = _log_sum(now, _later(now, 1), jnp.where(jump, _later(now, 2), -jnp.inf))
        shifted, peak = _shifted(before + emission)
        going = number < frames
        return (jnp.where(jnp.expand_dims(going, 1), shifted, now), taken + jnp.where(going, peak, 0.0)), before

    numbers = jnp.arange(emissions.shape[0], dtype=jnp.int32)
    first = (jnp.broadcast_to(start, states.shape), jnp.zeros(states.shape[:1], emissions.dtype))
    return lax.scan(step, first, (numbers, emissions))


def _arrived(end: tuple[jax.Array, jax.Array], counts: jax.Array) -> jax.Array:
    """The log-probability of the last two states, (N,); of the only one without labels."""
    now, taken = end
    last = jnp.take_along_axis(now, 2 * jnp.expand_dims(counts, 1), 1, mode="fill")
    label = jnp.take_along_axis(now, jnp.expand_dims(jnp.maximum(2 * counts - 1, 0), 1), 1, mode="fill")
    return _log_sum(last, jnp.where(jnp.expand_dims(counts > 0, 1), label, -jnp.inf))[:, 0] + taken


def _shifted(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``x`` less its largest element along the last axis, and that element; 0 where all are -inf."""
    peak = lax.stop_gradient(jnp.max(x, -1))
    peak = jnp.where(peak > -jnp.inf, peak, 0.0)
    return x - jnp.expand_dims(peak, -1), peak


def _later(x: jax.Array, by: int) -> jax.Array:
    return jnp.pad(x[:, : max(x.shape[1] - by, 0)], ((0, 0), (min(by, x.shape[1]), 0)), constant_values=-jnp.inf)


def _log_sum(*terms: jax.Array) -> jax.Array:
    """``log(sum(exp(terms)))``; of nothing but -inf it is -inf with gradient zero."""
    peak = lax.stop_gradient(jnp.max(jnp.stack(terms), 0))
    peak = jnp.where(peak > -jnp.inf, peak, 0.0)
    total = sum(jnp.exp(x - peak) for x in terms[1:]) + jnp.exp(terms[0] - peak)
    live = total != 0
    return jnp.where(live, jnp.log(jnp.where(live, total, 1.0)) + peak, -jnp.inf)
