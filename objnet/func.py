"""torch.func's names and arguments over objnet's transforms, and ensembles of modules.

The functions may read and write modules; what they read of a module that is not an argument is shared by every row.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from objnet import transforms
from objnet.core.errors import TorchOnlyError
from objnet.nn.module import Module
from objnet.nn.modules.batchnorm import _BatchNorm
from objnet.nn.modules.container import ModuleList
from objnet.nn.stacking import stack_modules, unstack_modules
from objnet.nn.utils import stateless
from objnet.transforms import linearize
from objnet.transforms.derivatives import jacobian
from objnet.transforms.rows import is_leaf, is_module, spread
from objnet.transforms.vmap import check_randomness

__all__ = [
    "debug_unwrap",
    "functional_call",
    "functionalize",
    "grad",
    "grad_and_value",
    "hessian",
    "jacfwd",
    "jacrev",
    "jvp",
    "linearize",
    "rearrange",
    "replace_all_batch_norm_modules_",
    "stack_module_state",
    "stack_modules",
    "unstack_modules",
    "vjp",
    "vmap",
]


def grad(func: Callable[..., Any], argnums: int | tuple[int, ...] = 0, has_aux: bool = False) -> Callable[..., Any]:
    """The gradient of a scalar function; see :func:`objnet.grad`."""
    return transforms.grad(func, argnums, has_aux)


def grad_and_value(func: Callable[..., Any], argnums: int | tuple[int, ...] = 0, has_aux: bool = False) -> Callable[..., Any]:
    """Gradient and value, in this order; with ``has_aux`` the gradient and the pair (value, aux)."""
    both = transforms.value_and_grad(func, argnums, has_aux)

    @functools.wraps(func, updated=())
    def derivative(*args: Any, **kwargs: Any) -> Any:
        value, grads = both(*args, **kwargs)
        return grads, value

    return derivative


def vmap(
    func: Callable[..., Any],
    in_dims: Any = 0,
    out_dims: Any = 0,
    randomness: str = "error",
    *,
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """``func`` over rows; see :func:`objnet.vmap`.

    Args:
        chunk_size: how many rows to compute at a time; a chunk sees what the one before wrote.

    Raises:
        ValueError: ``chunk_size`` below 1.
    """
    if chunk_size is not None and not chunk_size > 0:
        raise ValueError(f"vmap: chunk_size should be None or greater than 0. (got {chunk_size})")
    mapped = transforms.vmap(func, in_dims, out_dims, randomness=randomness)
    return mapped if chunk_size is None else functools.wraps(func, updated=())(_Chunked(mapped, in_dims, out_dims, chunk_size))


class _Chunked:
    """A mapped function, a number of rows at a time."""

    def __init__(self, mapped: Any, in_dims: Any, out_dims: Any, size: int):
        self._mapped, self._in_dims, self._out_dims, self._size = mapped, in_dims, out_dims, size

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        dims = tuple(self._in_dims) if isinstance(self._in_dims, (tuple, list)) else (self._in_dims,) * len(args)
        leaves, structure = jax.tree.flatten((args, kwargs), is_leaf=is_leaf)
        axes = [None if leaf is None else a for a, leaf in zip(spread((dims, 0), (args, kwargs), is_leaf), leaves, strict=True)]
        if any(a is not None and is_module(leaf) for a, leaf in zip(axes, leaves, strict=True)):
            raise ValueError("vmap: chunk_size does not go with modules that are mapped themselves")
        sizes = {jnp.shape(leaf)[a] for a, leaf in zip(axes, leaves, strict=True) if a is not None}
        if len(sizes) != 1:
            return self._mapped(*args, **kwargs)  # jax says what is wrong
        count, parts = sizes.pop(), []
        for start in range(0, count, self._size):
            stop = min(start + self._size, count)
            chunk = [
                leaf if a is None else jax.lax.slice_in_dim(jnp.asarray(leaf), start, stop, axis=a)
                for a, leaf in zip(axes, leaves, strict=True)
            ]
            part_args, part_kwargs = jax.tree.unflatten(structure, chunk)
            parts.append(self._mapped(*part_args, **part_kwargs))
        back = spread(self._out_dims, parts[0], lambda x: x is None)
        flat = [jax.tree.leaves(part) for part in parts]
        joined = [
            pieces[0] if a is None else jnp.concatenate(pieces, axis=a)
            for a, pieces in zip(back, zip(*flat, strict=True), strict=True)
        ]
        return jax.tree.unflatten(jax.tree.structure(parts[0]), joined)


def vjp(func: Callable[..., Any], *primals: Any, has_aux: bool = False) -> Any:
    """The value, and the function from its cotangent to those of ``primals``: one, or a tuple if there are more.

    Returns:
        ``(value, pullback)``, with ``has_aux`` also aux.
    """
    value, pullback, *aux = transforms.vjp(func, *primals, has_aux=has_aux)

    def single(cotangents: Any) -> Any:
        found = pullback(cotangents)
        return found[0] if len(primals) == 1 else found

    return value, single, *aux


def jvp(func: Callable[..., Any], primals: Any, tangents: Any, *, strict: bool = False, has_aux: bool = False) -> Any:
    """The value and its derivative along ``tangents``; see :func:`objnet.jvp`.

    Args:
        strict: whether a result that does not depend on the inputs is refused, which jax cannot tell.

    Raises:
        TorchOnlyError: ``strict``. RuntimeError: ``primals`` or ``tangents`` is no tuple.
    """
    if strict:
        raise TorchOnlyError(
            "jvp(strict=True): a jax derivative does not tell a result that is independent of the inputs: strict=False"
        )
    if not isinstance(primals, tuple) or not isinstance(tangents, tuple):
        raise RuntimeError(
            f"jvp(f, primals, tangents): Expected primals and tangents to be tuples, got {type(primals)} and {type(tangents)}"
        )
    return transforms.jvp(func, primals, tangents, has_aux)


def jacrev(
    func: Callable[..., Any],
    argnums: int | tuple[int, ...] = 0,
    *,
    has_aux: bool = False,
    chunk_size: int | None = None,
    _preallocate_and_copy: bool = False,
) -> Callable[..., Any]:
    """The Jacobian, row by row; see :func:`objnet.jacrev`.

    Args:
        chunk_size: how many rows to compute at a time, for less memory.

    Raises:
        ValueError: ``chunk_size`` below 1.
    """
    if chunk_size is not None and not chunk_size > 0:
        raise ValueError("jacrev: `chunk_size` should be greater than 0.")
    if chunk_size is None:
        return transforms.jacrev(func, argnums, has_aux)
    return jacobian(functools.partial(_jacrev_in_chunks, chunk_size), "jacrev")(func, argnums, has_aux)


def _jacrev_in_chunks(size: int, pure: Any, argnums: Any, has_aux: bool, holomorphic: bool) -> Callable[..., Any]:
    def run(*args: Any) -> Any:
        at = (argnums,) if isinstance(argnums, int) else argnums

        def of_chosen(*chosen: Any) -> Any:
            full = list(args)
            for n, value in zip(at, chosen, strict=True):
                full[n] = value
            return pure(*full)

        value, pullback, aux = jax.vjp(of_chosen, *(args[n] for n in at), has_aux=True)
        flat, unravel = ravel_pytree(value)
        basis = jnp.eye(flat.size, dtype=flat.dtype)
        rows = [jax.vmap(lambda e: pullback(unravel(e)))(basis[i : i + size]) for i in range(0, flat.size, size)]
        joined = jax.tree.map(lambda *parts: jnp.concatenate(parts), *rows)
        joined = joined[0] if isinstance(argnums, int) else joined
        leaves, structure = jax.tree.flatten(value)
        ends = [0]
        for leaf in leaves:
            ends.append(ends[-1] + leaf.size)
        found = [
            jax.tree.map(lambda r, i=i, leaf=leaf: r[ends[i] : ends[i + 1]].reshape(*leaf.shape, *r.shape[1:]), joined)
            for i, leaf in enumerate(leaves)
        ]
        return jax.tree.unflatten(structure, found), aux

    return run


def jacfwd(
    func: Callable[..., Any], argnums: int | tuple[int, ...] = 0, has_aux: bool = False, *, randomness: str = "error"
) -> Callable[..., Any]:
    """The Jacobian, column by column; see :func:`objnet.jacfwd`.

    Args:
        randomness: "error" refuses random keys inside; with "same" all columns see the one run of ``func``.

    Raises:
        TorchOnlyError: ``randomness="different"``: jax runs the function once.
    """
    check_randomness(randomness)
    if randomness == "different":
        raise TorchOnlyError('jacfwd(randomness="different"): jax runs the function once for all columns: use "same"')
    return transforms.jacfwd(func if randomness == "same" else _without_draws(func), argnums, has_aux)


def _without_draws(func: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        return transforms.vmap(lambda _: func(*args, **kwargs), out_axes=None)(jnp.zeros(1))

    return functools.wraps(func, updated=())(run)


def hessian(func: Callable[..., Any], argnums: int | tuple[int, ...] = 0) -> Callable[..., Any]:
    """The second derivatives; see :func:`objnet.hessian`."""
    return transforms.hessian(func, argnums)


def functional_call(
    module: Module,
    parameter_and_buffer_dicts: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    args: Any = None,
    kwargs: dict[str, Any] | None = None,
    *,
    tie_weights: bool = True,
    strict: bool = False,
) -> Any:
    """Call ``module`` with other parameters and buffers; see :func:`objnet.nn.utils.stateless.functional_call`.

    Args:
        parameter_and_buffer_dicts: one dict of names to arrays, or several without a common name.

    Raises:
        ValueError: a name is in more than one dict, or these are no dicts. And what that function raises.
    """
    given = parameter_and_buffer_dicts
    if not isinstance(given, dict):
        if not isinstance(given, (tuple, list)):
            raise ValueError(
                f"Expected parameter_and_buffer_dicts to be a dict, or a list/tuple of dicts, but got {type(given).__name__}"
            )
        if not all(isinstance(d, dict) for d in given):
            raise ValueError("Expected all elements of parameter_and_buffer_dicts to be dictionaries")
        names = [name for d in given for name in d]
        repeated = [name for name in names if names.count(name) > 1]
        if repeated:
            raise ValueError(f"{repeated[0]} appeared in multiple dictionaries; behavior of functional call is ambiguous")
        whole = {name: value for d in given for name, value in d.items()}
        result = stateless.functional_call(module, whole, args, kwargs, tie_weights=tie_weights, strict=strict)
        for d in given:
            d.update((name, whole[name]) for name in d)
        return result
    return stateless.functional_call(module, given, args, kwargs, tie_weights=tie_weights, strict=strict)


def stack_module_state(models: Sequence[Module] | ModuleList) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters and buffers of equal models stacked along axis 0, by name, for ``vmap`` over :func:`functional_call`.

    Raises:
        RuntimeError: no model; models of more than one class, or some in training and some in evaluation mode.
    """
    _check_alike(models, "stack_module_state")
    params = _stacked([dict(m.named_parameters()) for m in models])
    buffers = _stacked([dict(m.named_buffers()) for m in models])
    return params, buffers


def _stacked(members: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: jnp.stack([jnp.asarray(m[name]) for m in members]) for name in members[0]}


def _check_alike(models: Any, what: str) -> None:
    if len(models) == 0:
        raise RuntimeError(f"{what}: Expected at least one model, got 0.")
    if not all(m.training for m in models) and any(m.training for m in models):
        raise RuntimeError(f"{what}: Expected all models to have the same training/eval mode.")
    if not all(type(m) is type(models[0]) for m in models):
        raise RuntimeError(f"{what}: Expected all models to be of the same class.")


def replace_all_batch_norm_modules_(root: Module) -> Module:
    """Let every batch norm in ``root`` use the batch's statistics only, and keep none; returns ``root``."""
    for module in root.modules():
        if isinstance(module, _BatchNorm):
            module.running_mean = None
            module.running_var = None
            module.num_batches_tracked = None
            module.track_running_stats = False
    return root


def functionalize(func: Callable[..., Any], *, remove: str = "mutations") -> Callable[..., Any]:
    """``func`` itself: jax arrays cannot be changed in place.

    Raises:
        RuntimeError: ``remove`` is neither "mutations" nor "mutations_and_views".
    """
    if remove not in ("mutations", "mutations_and_views"):
        raise RuntimeError(
            "functionalize(f, remove='mutations'): received invalid argument for remove= keyword: only 'mutations' and "
            f"'mutations_and_views' are valid, got {remove!r}"
        )
    return func


def rearrange(tensor: Any, pattern: str, **axes_lengths: int) -> jax.Array:
    """Reorder and regroup axes by an einops pattern, ``"b c h w -> b (h w) c"``.

    Raises:
        ImportError: einops is not installed.
    """
    try:
        import einops  # type: ignore[import-not-found]
    except ImportError as error:
        raise ImportError("rearrange needs einops: pip install 'objnet[einops]'") from error
    return einops.rearrange(jnp.asarray(tensor), pattern, **axes_lengths)


def debug_unwrap(tensor: Any, *, recurse: bool = True) -> Any:
    """Refused: a jax tracer has no value to look at.

    Raises:
        TorchOnlyError: always.
    """
    raise TorchOnlyError("debug_unwrap: a jax tracer holds no value yet: print it with jax.debug.print")
