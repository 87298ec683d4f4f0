"""The arguments of a compiled call: which are arrays, which are part of the program, and how to put both together again."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import jax
import numpy as np

from objnet.core.variable import Variable

_DYNAMIC = (jax.Array, np.ndarray, np.generic, int, float, complex)


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


def join(rebuild: Any, dynamic: Any) -> Any:
    tree, kinds, statics = rebuild
    arrays, others = iter(dynamic), iter(statics)
    dynamic_kinds = [k is None or (len(k) == 2 and isinstance(k[0], tuple)) for k in kinds]
    return jax.tree.unflatten(tree, [next(arrays) if d else next(others) for d in dynamic_kinds])


def is_root(leaf: Any) -> bool:
    return isinstance(leaf, (Variable, Static)) or hasattr(type(leaf), "__objnet_capture__")


def split(args: tuple[Any, ...], kwargs: dict[str, Any], by_shape: bool) -> tuple[tuple[Any, ...], Any, Any]:
    """Array leaves of the arguments, a hashable signature of the rest, and what :func:`join` needs.

    Args:
        by_shape: whether shapes and dtypes are part of the signature.
    """
    leaves, tree = jax.tree.flatten((args, kwargs), is_leaf=is_root)
    dynamic, statics, kinds = [], [], []
    for leaf in leaves:
        if isinstance(leaf, _DYNAMIC) and not isinstance(leaf, bool):
            dynamic.append(leaf)
            kinds.append((np.shape(leaf), getattr(leaf, "dtype", type(leaf))) if by_shape else None)
        else:
            value = leaf.value if isinstance(leaf, Static) else leaf
            statics.append(value)
            kinds.append((type(value), value) if type(value) in (bool, str, bytes, int, float) else (id(value),))
    return tuple(dynamic), (tree, tuple(kinds)), (tree, tuple(kinds), tuple(statics))


def shape_of(rebuild: Any) -> Any:
    """The part of a signature that equal objects share: identities are left out, capture describes those by structure."""
    return rebuild[0], tuple(kind if kind is None or len(kind) == 2 else () for kind in rebuild[1])
