"""Equal modules as rows of one: ensembles for ``objnet.vmap``, and chains of layers for ``objnet.scan``."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from objnet.core import frame
from objnet.nn.module import Module
from objnet.transforms.loops import scan
from objnet.transforms.remat import checkpoint
from objnet.transforms.rows import Layers, check_alike, variables_of

__all__ = ["rolled", "stack_modules", "unstack_modules"]


def stack_modules(models: Iterable[Module]) -> Any:
    """One module whose parameters, buffers and array attributes are those of equal ``models`` stacked along axis 0.

    It is called through ``objnet.vmap(f, in_axes=(0, ...))(stacked, ...)`` or ``objnet.scan`` over it; optimizers and state dicts take
    it as it is. :func:`unstack_modules` takes it apart.

    Raises:
        RuntimeError: no model, or models that differ in class, mode, structure, settings, or the shapes of their arrays.
    """
    models = list(models)
    check_alike(models, "stack_modules")
    cells = [variables_of(m) for m in models]
    stacked = copy.deepcopy(models[0])
    for target, *rows in zip(variables_of(stacked), *cells, strict=True):
        target._set(jax.tree.map(lambda *parts: jnp.stack(parts), *map(frame.get, rows)))
    return stacked


def unstack_modules(stacked: Module) -> list[Any]:
    """The modules that :func:`stack_modules` made one of.

    Raises:
        RuntimeError: the arrays of ``stacked`` have no common leading size.
    """
    sizes = {jnp.shape(leaf)[:1] for v in variables_of(stacked) for leaf in jax.tree.leaves(frame.get(v))}
    if len(sizes) != 1 or sizes == {()}:
        raise RuntimeError(f"unstack_modules: the arrays of {type(stacked).__name__} have no common leading size")
    ((count,),) = sizes
    return [_row(stacked, i) for i in range(count)]


def _row(stacked: Module, i: int) -> Any:
    model = copy.deepcopy(stacked)
    for v in variables_of(model):
        v._set(jax.tree.map(lambda a: a[i], frame.get(v)))
    return model


def rolled(
    layers: Iterable[Module], *, remat: bool = False, policy: Callable[..., bool] | None = None, unroll: int = 1
) -> Iterator[Any]:
    """For an ordinary loop over equal layers: ``for layer in nn.rolled(self.layers): x = layer(x, mask)``.

    The loop's body runs once, with one callable that does what all layers do in turn, as one ``lax.scan``: it compiles in the time of
    one layer. Parameters, state dict and buffers of the layers stay as they are.

    Args:
        layers: a ``ModuleList`` or another iterable of modules that differ in nothing but their arrays. Each maps its first argument
            to one of the same structure, shape and dtype; the other arguments are the same for all.
        remat: whether each layer's intermediate values are computed again in the backward pass.
        policy: which values to keep all the same, one of ``jax.checkpoint_policies``.
        unroll: how many layers the program spells out at a time.

    Raises:
        RuntimeError: layers that differ.
    """
    rows = Layers(list(layers), "rolled")
    yield lambda x, *args, **kwargs: run_layers(
        rows, x, args, kwargs, remat=remat, policy=policy, unroll=unroll, length=len(rows.modules)
    )[0]


def run_layers(
    rows: Any,
    x: Any,
    args: tuple[Any, ...] = (),
    kwargs: dict[str, Any] | None = None,
    *,
    remat: bool = False,
    policy: Any = None,
    unroll: int = 1,
    length: int | None = None,
    outputs: bool = False,
) -> tuple[Any, Any]:
    """``x`` through a stacked module (or :class:`Layers`) row by row; the result, and with ``outputs`` those of all rows stacked."""

    def layer(row: Any, x: Any) -> Any:
        return row(x, *args, **(kwargs or {}))

    run = checkpoint(layer, prevent_cse=False, policy=policy) if remat else layer

    def body(x: Any, row: Any) -> Any:
        y = run(row, x)
        return y, (y if outputs else None)

    return scan(body, x, rows, length, unroll=unroll)
