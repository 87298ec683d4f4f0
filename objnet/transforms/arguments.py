"""The arguments of a compiled call: which are arrays, which are part of the program, and how to put both together again."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import jax
import numpy as np

from objnet.core import errors
from objnet.core.arrays import narrowed
from objnet.core.foreign import is_torch_tensor
from objnet.core.variable import Variable

_DYNAMIC = (jax.Array, np.ndarray, np.generic, int, float, complex)
ABSTRACT = (jax.Array, jax.ShapeDtypeStruct)


class Static(NamedTuple):
    """An argument named by ``static_argnums`` or ``static_argnames``."""

    value: Any


def static_arguments(function: Any, argnums: Any, argnames: Any) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Static positions and names; each given as the other too, where the signature tells."""
    nums = (argnums,) if isinstance(argnums, int) else tuple(argnums or ())
    names = (argnames,) if isinstance(argnames, str) else tuple(argnames or ())
    if not nums and not names:
        return (), ()
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return nums, names
    positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    known = {p.name for p in parameters}
    if not any(p.kind is p.VAR_KEYWORD for p in parameters) and not set(names) <= known:
        raise ValueError(f"static_argnames {sorted(set(names) - known)} are no arguments of {function!r}")
    all_nums = dict.fromkeys([*nums, *(positional.index(n) for n in names if n in positional)])
    all_names = dict.fromkeys([*names, *(positional[n] for n in nums if -len(positional) <= n < len(positional))])
    return tuple(all_nums), tuple(all_names)


class ArgumentNames(NamedTuple):
    """The user's names of the leaves of arguments: the arrays', and the static ones with their values."""

    arrays: tuple[str, ...]
    statics: dict[str, Any]


def argument_names(function: Any, rebuild: Any, count: int = 0) -> ArgumentNames:
    """What the leaves of the arguments are called, ``batch['x']``; ``count`` arrays where ``rebuild`` is None."""
    if rebuild is None:
        rebuild = (jax.tree.structure(((0,) * count, {})), (None,) * count, ())
    tree, kinds, statics = rebuild
    labels = leaf_names(function, tree)
    arrays = [is_dynamic(kind) for kind in kinds]
    return ArgumentNames(
        tuple(label for label, array in zip(labels, arrays, strict=True) if array),
        dict(zip((label for label, array in zip(labels, arrays, strict=True) if not array), statics, strict=True)),
    )


def leaf_names(function: Any, tree: Any) -> list[str]:
    """What the leaves of ``(args, kwargs)`` are called: ``x``, ``batch['y'][0]``."""
    try:
        parameters = list(inspect.signature(getattr(function, "forward", function)).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    labels = []
    for path, _ in jax.tree_util.tree_leaves_with_path(jax.tree.unflatten(tree, range(tree.num_leaves))):
        keyword, (first, *rest) = path[0].idx == 1, path[1:]
        name = first.key if keyword else names[first.idx] if first.idx < len(names) else f"args[{first.idx}]"
        labels.append(f"{name}{jax.tree_util.keystr(rest)}")
    return labels


def is_dynamic(kind: Any) -> bool:
    """Whether a leaf of this kind is an array or a number, rather than part of the program."""
    return kind is None or (len(kind) == 2 and isinstance(kind[0], tuple))


def join(rebuild: Any, dynamic: Any) -> Any:
    tree, kinds, statics = rebuild
    arrays, others = iter(dynamic), iter(statics)
    return jax.tree.unflatten(tree, [next(arrays) if is_dynamic(kind) else next(others) for kind in kinds])


def is_root(leaf: Any) -> bool:
    return isinstance(leaf, (Variable, Static)) or hasattr(type(leaf), "__objnet_capture__")


def split(
    args: tuple[Any, ...], kwargs: dict[str, Any], by_shape: bool, abstract: bool = False
) -> tuple[tuple[Any, ...], Any, Any]:
    """Array leaves of the arguments, a hashable signature of the rest, and what :func:`join` needs.

    Args:
        by_shape: whether shapes and dtypes are part of the signature.
        abstract: whether a ``jax.ShapeDtypeStruct`` stands for an array.

    Raises:
        TypeError: a torch tensor is among them.
        IntegerRangeError: a numpy array among them holds 64-bit integers that jax would wrap.
    """
    kinds_of_arrays = (*_DYNAMIC, jax.ShapeDtypeStruct) if abstract else _DYNAMIC
    leaves, tree = jax.tree.flatten((args, kwargs), is_leaf=is_root)
    dynamic, statics, kinds = [], [], []
    for leaf in leaves:
        if isinstance(leaf, kinds_of_arrays) and not isinstance(leaf, bool):
            if isinstance(leaf, (np.ndarray, np.generic)) and leaf.dtype.kind in "iu":
                leaf = narrowed(leaf)
            dynamic.append(leaf)
            kinds.append((getattr(leaf, "shape", ()), getattr(leaf, "dtype", type(leaf))) if by_shape else None)
        else:
            value = leaf.value if isinstance(leaf, Static) else leaf
            plain = type(value) in (bool, str, bytes, int, float)
            if not plain and is_torch_tensor(value):  # by identity it would be part of the program, a new one at every call
                raise errors.torch_tensor()
            statics.append(value)
            kinds.append((type(value), value) if plain else (id(value),))
    return tuple(dynamic), (tree, tuple(kinds)), (tree, tuple(kinds), tuple(statics))


def shape_of(rebuild: Any) -> Any:
    """The part of a signature that equal objects share: identities are left out, capture describes those by structure."""
    return rebuild[0], tuple(kind if kind is None or len(kind) == 2 else () for kind in rebuild[1])
