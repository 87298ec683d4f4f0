"""Adaptive softmax: a softmax over many classes that spends little on rare ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from objnet.core.arrays import as_array
from objnet.nn import functional as F
from objnet.nn.functional._common import widen
from objnet.nn.functional._loss import as_classes, check_values, exists, log_total, picked
from objnet.nn.module import Module
from objnet.nn.modules.container import ModuleList, Sequential
from objnet.nn.modules.linear import Linear

__all__ = ["AdaptiveLogSoftmaxWithLoss"]


class _ASMoutput(NamedTuple):
    """The log-probability of each target, and minus their mean."""

    output: jax.Array
    loss: jax.Array


class AdaptiveLogSoftmaxWithLoss(Module):
    """Log-softmax in clusters of classes, and its loss (Grave et al. 2017; torch's ``nn.AdaptiveLogSoftmaxWithLoss``).

    The head decides between the most frequent classes and one entry for each cluster of the others; a cluster's tail, which
    projects to fewer features first, decides within it. Classes are numbered from the most frequent one down.

    Here every tail sees every row, whatever clusters the targets are in: compiled programs have fixed shapes. Tails stay cheap
    by their small projections. A tail that no target of a batch uses has gradient zero, where torch has None.

    Args:
        in_features: size of the input.
        n_classes: number of classes.
        cutoffs: where clusters begin, increasing, between 1 and ``n_classes - 1``.
        div_value: the tail of cluster i has ``in_features // div_value ** (i + 1)`` features.
        head_bias: whether the head has a bias.
        device, dtype: of the parameters.

    Raises:
        ValueError: any other ``cutoffs``.
    """

    def __init__(
        self,
        in_features: int,
        n_classes: int,
        cutoffs: Sequence[int],
        div_value: float = 4.0,
        head_bias: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        cutoffs = list(cutoffs)
        if not cutoffs:
            raise ValueError("cutoffs must have at least one element")
        if cutoffs != sorted(set(cutoffs)) or cutoffs[0] < 1 or cutoffs[-1] >= n_classes or any(int(c) != c for c in cutoffs):
            raise ValueError(f"cutoffs must be increasing integers between 1 and n_classes - 1 = {n_classes - 1}, got {cutoffs}")
        self.in_features = in_features
        self.n_classes = n_classes
        self.cutoffs = [*cutoffs, n_classes]
        self.div_value = div_value
        self.head_bias = head_bias
        self.shortlist_size = self.cutoffs[0]
        self.n_clusters = len(self.cutoffs) - 1
        self.head_size = self.shortlist_size + self.n_clusters
        self.head = Linear(in_features, self.head_size, bias=head_bias, device=device, dtype=dtype)
        self.tail = ModuleList()
        for i, (start, stop) in enumerate(self._clusters()):
            size = int(in_features // div_value ** (i + 1))
            first = Linear(in_features, size, bias=False, device=device, dtype=dtype)
            self.tail.append(Sequential(first, Linear(size, stop - start, bias=False, device=device, dtype=dtype)))

    def reset_parameters(self) -> None:
        """Draw new initial values."""
        self.head.reset_parameters()
        for first, second in self.tail:
            first.reset_parameters()
            second.reset_parameters()

    def forward(self, input_: jax.Array, target_: jax.Array) -> _ASMoutput:
        """The log-probabilities of the targets and the loss.

        Args:
            input_: shape (N, in_features) or (in_features,).
            target_: classes, shape (N,) or ().

        Returns:
            ``output``, the shape of ``target_``, and ``loss``, 0-d.

        Raises:
            RuntimeError: other shapes; a class that does not exist (in compiled code, where that cannot be seen, NaN).
        """
        input, target = as_array(input_), as_array(target_)
        if target.ndim > 1:
            raise RuntimeError(f"the target must have the shape (N,) or (), got {target.shape}")
        if input.ndim != target.ndim + 1:
            raise RuntimeError(f"a target of shape {target.shape} takes a {target.ndim + 1}-d input, got {input.shape}")
        if input.shape[:-1] != target.shape:
            raise RuntimeError(f"input and target must have the same batch size, got {input.shape} and {target.shape}")
        target = as_classes("AdaptiveLogSoftmaxWithLoss", target)
        message = f"target values must be in [0, {self.n_classes - 1}], got {{}}"
        check_values(target, lambda values: exists(values, self.n_classes), message, RuntimeError)
        entry = target
        for i, (start, _) in enumerate(self._clusters()):
            entry = jnp.where(target >= start, self.shortlist_size + i, entry)
        entry = jnp.where(exists(target, self.n_classes), entry, -1)
        output = _log_probability(self.head(input), entry)
        for tail, (start, stop) in zip(self.tail, self._clusters()):
            inside = (target >= start) & (target < stop)
            within = _log_probability(tail(input), jnp.where(inside, target - start, 0))
            output = output + jnp.where(inside, within, jnp.zeros((), within.dtype))
        return _ASMoutput(output, -jnp.mean(output))

    def log_prob(self, input: jax.Array) -> jax.Array:
        """The log-probabilities of all classes, (N, n_classes), for an input (N, in_features)."""
        head = F.log_softmax(self.head(input), dim=1)
        parts = [head[:, : self.shortlist_size]]
        for i, tail in enumerate(self.tail):
            entry = self.shortlist_size + i
            parts.append(head[:, entry : entry + 1] + F.log_softmax(tail(input), dim=1))
        return jnp.concatenate(parts, 1)

    def predict(self, input: jax.Array) -> jax.Array:
        """The most likely class of each row, (N,), for an input (N, in_features)."""
        return jnp.argmax(self.log_prob(input), 1)

    def _clusters(self) -> list[tuple[int, int]]:
        return list(zip(self.cutoffs, self.cutoffs[1:]))


def _log_probability(logits: jax.Array, target: jax.Array) -> jax.Array:
    """That of the target's class; NaN for a class that does not exist."""
    axis, wide = logits.ndim - 1, widen(logits)
    peak, total = log_total(wide, axis)
    known = jnp.where(exists(target, logits.shape[-1]), 1.0, jnp.nan).astype(wide.dtype)
    return ((picked(wide, target, axis) - peak - total) * known).astype(logits.dtype)
