"""Arguments of torch's as objnet's, and leaves of calls: what may be traced, what is differentiated."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

import objnet.nn.functional as F
from objnet import nn
from tests.nn.parity import to_jax

_WIDE = (torch.float64, torch.complex128)


class Untranslatable(Exception):
    """An argument that exists in torch only."""


def to_ours(value: Any) -> Any:
    """Tensors as jax arrays (64-bit integers as the default ones), dtypes by name, torch's functions and modules as objnet's.

    Raises:
        Untranslatable: there is nothing like it here.
    """
    if isinstance(value, torch.Tensor):
        if value.dtype in _WIDE and not jax.config.jax_enable_x64:
            raise Untranslatable("64 bits without jax's 64-bit mode")
        return to_jax(value.int() if value.dtype == torch.int64 else value)
    if isinstance(value, torch.dtype):
        if value in _WIDE and not jax.config.jax_enable_x64:
            raise Untranslatable("64 bits without jax's 64-bit mode")
        return str(value).removeprefix("torch.")
    if isinstance(value, torch.nn.Module):
        return _rebuilt(value)
    if type(value) is torch.Size:
        return tuple(value)
    if isinstance(value, (tuple, list)):
        items = [to_ours(v) for v in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, dict):
        return {k: to_ours(v) for k, v in value.items()}
    if callable(value):
        function = getattr(F, getattr(value, "__name__", ""), None)
        if function is None:
            raise Untranslatable(f"{value!r}")
        return function
    return value


def _rebuilt(module: torch.nn.Module) -> Any:
    """A module handed to another one as an argument."""
    if isinstance(module, (torch.nn.TransformerEncoderLayer, torch.nn.TransformerDecoderLayer)):
        attention = module.self_attn
        ours = getattr(nn, type(module).__name__)(
            attention.embed_dim,
            attention.num_heads,
            module.linear1.out_features,
            module.dropout.p,
            to_ours(module.activation),
            module.norm1.eps,
            attention.batch_first,
            module.norm_first,
            module.linear1.bias is not None,
        )
    elif isinstance(module, torch.nn.LayerNorm):
        ours = nn.LayerNorm(module.normalized_shape, module.eps)
    elif isinstance(module, torch.nn.PairwiseDistance):
        ours = nn.PairwiseDistance(module.norm, module.eps, module.keepdim)
    elif isinstance(module, torch.nn.Linear):
        ours = nn.Linear(module.in_features, module.out_features, module.bias is not None)
    else:
        raise Untranslatable(type(module).__name__)
    ours.load_state_dict(module.state_dict())
    return ours.train(module.training)


def cast(value: Any, dtype: str) -> Any:
    """Floating point tensors in another dtype."""
    return jax.tree.map(
        lambda x: x.to(getattr(torch, dtype)) if isinstance(x, torch.Tensor) and x.is_floating_point() else x,
        value,
        is_leaf=lambda x: isinstance(x, torch.Tensor),
    )


class Call:
    """Arguments taken apart into tensors and the rest, so that both worlds can be called with tensors of one's own."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.leaves, self.tree = jax.tree.flatten((args, kwargs), is_leaf=lambda x: isinstance(x, torch.Tensor))
        self.tensors = [i for i, leaf in enumerate(self.leaves) if isinstance(leaf, torch.Tensor)]
        self.floats = [i for i in self.tensors if self.leaves[i].is_floating_point()]

    @property
    def precision(self) -> Any:
        """A context with jax's 64-bit mode, if there are 64-bit floats among the arguments."""
        return jax.enable_x64(any(self.leaves[i].dtype in _WIDE for i in self.tensors))

    def with_leaves(self, leaves: list[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """``args`` and ``kwargs``."""
        return jax.tree.unflatten(self.tree, leaves)

    def cast(self, dtype: str) -> Call:
        """The same with floating point tensors of another dtype."""
        return Call(*cast(self.with_leaves(self.leaves), dtype))

    def theirs(self, requires_grad: bool = False, scale: float = 1.0) -> tuple[list[Any], tuple[tuple[Any, ...], dict[str, Any]]]:
        """Copies of the leaves, and torch's ``args`` and ``kwargs`` of them."""
        leaves = list(self.leaves)
        for i in self.tensors:
            leaves[i] = leaves[i].detach().clone()
        for i in self.floats:
            leaves[i] = (leaves[i] * scale if scale != 1 else leaves[i]).requires_grad_(requires_grad)
        return leaves, self.with_leaves(leaves)

    def arrays(self, scale: float = 1.0) -> list[jax.Array]:
        """The tensors as jax arrays."""
        return [to_ours(self.leaves[i] * scale if i in self.floats and scale != 1 else self.leaves[i]) for i in self.tensors]

    def ours(self, arrays: list[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """objnet's ``args`` and ``kwargs``, with ``arrays`` in the places of the tensors."""
        leaves = list(self.leaves)
        for i, array in zip(self.tensors, arrays, strict=True):
            leaves[i] = array
        return jax.tree.unflatten(self.tree, [x if isinstance(x, (jax.Array, np.ndarray)) else to_ours(x) for x in leaves])


def floating(arrays: list[Any]) -> list[int]:
    """Positions of the arrays that have gradients."""
    return [i for i, a in enumerate(arrays) if jnp.issubdtype(a.dtype, jnp.floating)]


def leaves_of(output: Any) -> list[Any]:
    """The tensors or arrays of an output, in order."""
    return [x for x in jax.tree.leaves(output, is_leaf=lambda x: isinstance(x, torch.Tensor)) if hasattr(x, "dtype")]


def cotangents_for(outputs: list[Any]) -> list[np.ndarray]:
    """Random numbers of the shapes of the floating point outputs."""
    random = np.random.RandomState(0)
    return [np.asarray(random.randn(*o.shape), np.float32) for o in outputs]
