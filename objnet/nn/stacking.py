"""Equal modules as rows of one: ensembles for ``objnet.vmap``, and chains of layers for ``objnet.scan``."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from objnet.core import frame
from objnet.core.variable import UNSET, Gradient, Parameter
from objnet.nn.module import Module
from objnet.transforms.loops import scan
from objnet.transforms.remat import checkpoint
from objnet.transforms.rows import Layers, check_alike, reach, variables_of

__all__ = ["rolled", "stack_modules", "unstack_modules"]


def stack_modules(models: Iterable[Module]) -> Any:
    """One module whose parameters, buffers and array attributes are those of equal ``models`` stacked along axis 0.

    It is called through ``objnet.vmap(f, in_axes=(0, ...))(stacked, ...)`` or ``objnet.scan`` over it; optimizers and state dicts take
    it as it is, and ``nn.init`` fills each row as if it stood alone. :func:`unstack_modules` takes it apart.

    Raises:
        RuntimeError: no model, or models that differ in class, mode, structure, settings, or the shapes of their arrays.
    """
    models = list(models)
    check_alike(models, "stack_modules")
    cells = [_cells(m) for m in models]
    stacked = copy.deepcopy(models[0])
    for target, *rows in zip(_cells(stacked), *cells, strict=True):
        if target._peek() is UNSET:  # of a model without values
            target._keep_kind((len(models), *target.shape), target.dtype, target._device)
        else:
            target._set(jax.tree.map(lambda *parts: jnp.stack(parts), *map(frame.get, rows)))
        if isinstance(target, Parameter):
            target.stacked = (len(models), *getattr(target, "stacked", ()))  # type: ignore[attr-defined]
    _shift(stacked, 1)
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
        if isinstance(v, Parameter) and (outer := getattr(v, "stacked", ())):
            del v.stacked  # type: ignore[attr-defined]
            if outer[1:]:
                v.stacked = outer[1:]  # type: ignore[attr-defined]
    _shift(model, -1)
    return model


def _cells(module: Module) -> list[Any]:
    """Every Variable with a value, or with a known shape (``objnet.abstract``)."""
    found = [v for v in dict.fromkeys(reach(module).variables) if not isinstance(v, Gradient)]
    return [v for v in found if v._peek() is not None and (v._peek() is not UNSET or hasattr(v, "expected"))]


def _shift(module: Module, by: int) -> None:
    """Tell stacks inside how many axes lie before theirs."""
    for inner in module.modules():
        if "stack_axis" in inner.__dict__:
            inner.stack_axis += by


class rolled:
    """Equal layers one after the other as one ``lax.scan``: ``x = nn.rolled(self.layers)(x, mask)``.

    In place of ``for layer in self.layers: x = layer(x, mask)``: it compiles in the time of one layer. Parameters, state dict and
    buffers of the layers stay as they are.

    Args:
        layers: a ``ModuleList`` or another iterable of modules that differ in nothing but their arrays. Each maps its first argument
            to one of the same structure, shape and dtype; the other arguments are the same for all.
        body: what to do with each layer, if that is more than to call it: ``lambda layer, x, mask: x + layer(x, mask)``.
        remat: whether each layer's intermediate values are computed again in the backward pass.
        policy: which values to keep all the same, one of ``jax.checkpoint_policies``.
        unroll: how many layers the program spells out at a time.

    Raises:
        RuntimeError: layers that differ. TypeError: on iterating over it.
    """

    def __init__(
        self,
        layers: Iterable[Module],
        body: Callable[..., Any] | None = None,
        *,
        remat: bool = False,
        policy: Callable[..., bool] | None = None,
        unroll: int = 1,
    ):
        self._layers = Layers(list(layers), "rolled")
        self._options = {"body": body, "remat": remat, "policy": policy, "unroll": unroll, "length": len(self._layers.modules)}

    def __call__(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """``x`` through all layers."""
        return run_layers(self._layers, x, args, kwargs, **self._options)[0]  # type: ignore[arg-type]

    def __iter__(self) -> Any:
        raise TypeError(
            "nn.rolled is not iterated over: in place of the loop write x = nn.rolled(layers)(x), or, where the loop does more than to "
            "call its layer, x = nn.rolled(layers, lambda layer, x: x + layer(x))(x)"
        )


def run_layers(
    rows: Any,
    x: Any,
    args: tuple[Any, ...] = (),
    kwargs: dict[str, Any] | None = None,
    *,
    body: Any = None,
    remat: bool = False,
    policy: Any = None,
    unroll: int = 1,
    length: int | None = None,
    outputs: bool = False,
) -> tuple[Any, Any]:
    """``x`` through a stacked module (or :class:`Layers`) row by row; the result, and with ``outputs`` those of all rows stacked."""

    def layer(row: Any, x: Any) -> Any:
        return row(x, *args, **(kwargs or {})) if body is None else body(row, x, *args, **(kwargs or {}))

    run = checkpoint(layer, prevent_cse=False, policy=policy) if remat else layer

    def step(x: Any, row: Any) -> Any:
        y = run(row, x)
        return y, (y if outputs else None)

    return scan(step, x, rows, length, unroll=unroll)
