"""Spoilt arguments: each sample with one argument of a wrong rank, size, dtype, sign or name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import torch

from tests.nn.table.samples import Sample


def mutations(sample: Sample) -> Iterator[Sample]:
    """The sample again and again, with one leaf changed."""
    leaves, tree = jax.tree.flatten(tuple(sample), is_leaf=lambda x: isinstance(x, torch.Tensor))
    for position, leaf in enumerate(leaves):
        for changed in _changed(leaf):
            yield Sample(*jax.tree.unflatten(tree, [*leaves[:position], changed, *leaves[position + 1 :]]))


def _changed(leaf: Any) -> Iterator[Any]:
    if isinstance(leaf, torch.Tensor):
        if leaf.ndim:
            yield leaf[0] if leaf.shape[0] else leaf.sum(0)
            yield leaf[:0]
            yield torch.cat([leaf, leaf[..., :1]], -1)
            if leaf.shape[-1] > 1:
                yield leaf[..., :-1]
        if leaf.ndim > 1:
            yield torch.cat([leaf, leaf[:, :1]], 1)
        yield leaf[None]
        if leaf.numel():
            yield leaf.int() if leaf.is_floating_point() else leaf.float()
    elif isinstance(leaf, str):
        yield "unknown"
    elif isinstance(leaf, int) and not isinstance(leaf, bool):
        yield from (-1, 0, leaf + 1)
    elif isinstance(leaf, float):
        yield -1.0
