"""``pmap`` and ``shard_map``: one function on many devices, over modules that all of them share.

Parameters and buffers are the same on every device.  What the function writes to them has to be so too (gradients and running
statistics are averaged over the axis first), or the program is refused: otherwise the devices' models would part.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from objnet.core import errors
from objnet.core.rng import key_stream, next_rng_key
from objnet.core.variable import Variable
from objnet.transforms.replication import varying
from objnet.transforms.rows import is_module, spread
from objnet.transforms.threaded import arrays, compiled_outside
from objnet.transforms.vmap import RowFrame, check_randomness, with_keys

P = PartitionSpec


def shard_map(
    function: Any = None,
    *,
    mesh: Mesh,
    in_specs: Any,
    out_specs: Any,
    axis_names: Any = frozenset(),
    check_vma: bool = True,
    randomness: str = "error",
) -> Any:
    """``function`` of each device's shards of its arguments (``jax.shard_map``).

    Args:
        function: may read any module. What it writes must come out equal on all devices.
        mesh, in_specs, out_specs, axis_names: as in jax. A module among the arguments is shared; its spec is ``PartitionSpec()``.
        check_vma: as in jax, where True (the default) also means that the gradient for a shared parameter is summed over the devices
            by itself. With False the function averages gradients, and objnet checks that what it writes is the same everywhere.
        randomness: whether random keys may be drawn: ``"error"``; or ``"different"`` ones on each device, or the ``"same"``.

    Raises:
        SharedStateError: devices wrote, or would write, different values to a Variable they share. RngInTransformError: a key was
            drawn and ``randomness`` is "error". TypeError: a module was given a spec that splits it. ValueError: of jax.
    """
    check_randomness(randomness)
    options = {"mesh": mesh, "in_specs": in_specs, "out_specs": out_specs, "axis_names": frozenset(axis_names)}
    options |= {"check_vma": check_vma, "randomness": randomness}
    if function is None:
        return functools.partial(shard_map, **options)

    @functools.wraps(function, updated=())
    def sharded(*args: Any) -> Any:
        return compiled_outside(_shard_map, [function], *args, **options)

    return sharded


def _is_leaf(leaf: Any) -> bool:
    return leaf is None or isinstance(leaf, PartitionSpec) or is_module(leaf)


def _shard_map(
    function: Any,
    *args: Any,
    mesh: Mesh,
    in_specs: Any,
    out_specs: Any,
    axis_names: frozenset[Any],
    check_vma: bool,
    randomness: str,
    what: str = "objnet.shard_map",
) -> Any:
    given = in_specs if isinstance(in_specs, tuple) and not isinstance(in_specs, PartitionSpec) else (in_specs,) * len(args)
    specs = spread(given, args, _is_leaf)
    leaves, structure = jax.tree.flatten(args, is_leaf=_is_leaf)
    for leaf, spec in zip(leaves, specs, strict=True):
        if is_module(leaf) and spec is not None and tuple(spec):
            raise TypeError(
                f"{what} was given a {type(leaf).__name__} with spec {spec}: modules are shared, with PartitionSpec()"
            )
    split = [i for i, leaf in enumerate(leaves) if leaf is not None and not is_module(leaf)]
    names = frozenset(axis_names) or frozenset(mesh.axis_names)
    written: list[Variable] = []

    def attempt(inner: RowFrame, token: bool, keyed: bool) -> Any:
        inner.keyed = keyed
        key = next_rng_key() if keyed else None

        def pure(values: Sequence[Any], key: Any) -> Any:
            full = list(leaves)
            for i, value in zip(split, values, strict=True):
                full[i] = value
            with inner.open(token):
                if keyed:
                    for name in sorted(names):
                        key = jax.random.fold_in(key, lax.axis_index(name))
                    inner.values[key_stream] = key
                result = arrays(function(*jax.tree.unflatten(structure, full)))
                outcome = {v: pair for v, pair in inner.outcome().items() if not (keyed and v is key_stream)}
                written[:] = outcome
                inner.close()
            return result, list(outcome.values())

        inputs = [specs[i] if specs[i] is not None else P() for i in split]
        body = pure if check_vma else functools.partial(_checked, pure, inputs, names, written, out_specs, what)
        run = jax.shard_map(
            body, mesh=mesh, in_specs=(inputs, P()), out_specs=(out_specs, P()), axis_names=names, check_vma=check_vma
        )
        try:
            result, states = run([leaves[i] for i in split], key)
        except ValueError as error:
            if check_vma and written and "replication" in str(error):
                raise _parted(what, written, "one of ") from error
            raise
        inner.commit(dict(zip(written, states, strict=True)))
        return result

    return with_keys(attempt, lambda: RowFrame(what, randomness))


def _checked(
    pure: Callable[..., Any],
    specs: Sequence[Any],
    names: frozenset[str],
    written: Sequence[Variable],
    out_specs: Any,
    what: str,
    values: Sequence[Any],
    key: Any,
) -> Any:
    """``pure``, after a look at its jaxpr: what leaves as replicated is the same on all devices."""
    closed, shapes = jax.make_jaxpr(pure, return_shape=True)(values, key)
    inputs = [_axes(spec, names) for spec, value in zip(specs, values, strict=True) for _ in jax.tree.leaves(value)]
    inputs += [frozenset()] * (len(closed.jaxpr.invars) - len(inputs))
    found = jax.tree.unflatten(jax.tree.structure(shapes), [axes or None for axes in varying(closed.jaxpr, inputs)])
    result, states = found if isinstance(found, tuple) else (found, [])
    for v, axes in zip(written, states, strict=True):
        if jax.tree.leaves(axes):
            raise _parted(what, [v], "")
    kinds = spread(out_specs, shapes[0], lambda x: x is None or isinstance(x, PartitionSpec))
    for spec, axes in zip(kinds, jax.tree.leaves(result, is_leaf=lambda x: x is None or isinstance(x, frozenset)), strict=True):
        if axes and not axes <= _axes(spec, names):
            raise errors.SharedStateError(
                f"a result of the function under {what} differs from device to device{errors.where()}, but is to leave as one value "
                f"for all along {sorted(axes)}: average it (jax.lax.pmean), or give it an axis in out_axes or out_specs."
            )
    flat = jax.core.eval_jaxpr(closed.jaxpr, closed.consts, *jax.tree.leaves((values, key)))
    return jax.tree.unflatten(jax.tree.structure(shapes), flat)


def _axes(spec: Any, names: frozenset[str]) -> frozenset[str]:
    """The mesh axes that a spec splits along."""
    parts = [] if spec is None else [n for part in spec for n in (part if isinstance(part, tuple) else (part,))]
    return frozenset(n for n in parts if n is not None) & names


def _parted(what: str, variables: Sequence[Variable], some: str) -> errors.SharedStateError:
    listed = ", ".join(v.describe() for v in variables[:5])
    return errors.SharedStateError(
        f"{some}{listed} was given a value that may differ from device to device under {what}{errors.where()}, but all devices share "
        "it. Average over the axis first: gradients by jax.lax.pmean(grads, axis_name), batch statistics by nn.SyncBatchNorm."
    )


def pmap(
    function: Any = None,
    axis_name: Any = None,
    *,
    in_axes: Any = 0,
    out_axes: Any = 0,
    static_broadcasted_argnums: int | Sequence[int] = (),
    devices: Sequence[Any] | None = None,
    axis_size: int | None = None,
    randomness: str = "error",
) -> Any:
    """``function`` of one row of its arguments on each device (``jax.pmap``).

    Args:
        function: may read any module. What it writes must come out equal on all devices: average gradients with
            ``jax.lax.pmean(grads, axis_name)``.
        axis_name: what collectives call the axis.
        in_axes, out_axes: as in jax; a module among the arguments is shared whatever its axis.
        static_broadcasted_argnums: arguments that are part of the program. Bools, strings, None and modules need not be named.
        devices: the first of these are used, one a row; all devices by default.
        axis_size: the number of rows, if the arguments do not tell.
        randomness: whether random keys may be drawn: ``"error"``; or ``"different"`` ones on each device, or the ``"same"``.

    Raises:
        SharedStateError: devices would write different values to a Variable, or ``out_axes=None`` is asked of a result that differs.
        RngInTransformError: a key was drawn and ``randomness`` is "error". ValueError: more rows than devices, or axes that do not fit.
    """
    check_randomness(randomness)
    static = (static_broadcasted_argnums,) if isinstance(static_broadcasted_argnums, int) else tuple(static_broadcasted_argnums)
    options = {"axis_name": axis_name, "in_axes": in_axes, "out_axes": out_axes, "devices": devices, "axis_size": axis_size}
    if function is None:
        return functools.partial(pmap, **options, static_broadcasted_argnums=static, randomness=randomness)

    @functools.wraps(function, updated=())
    def mapped(*args: Any) -> Any:
        fixed = {n % len(args): args[n] for n in static}
        rest = [a for i, a in enumerate(args) if i not in fixed]
        axes = in_axes
        if isinstance(in_axes, (tuple, list)):
            if len(in_axes) != len(args):
                raise ValueError(f"pmap in_axes has {len(in_axes)} entries for {len(args)} positional arguments")
            axes = tuple(a for i, a in enumerate(in_axes) if i not in fixed)
        call = _WithFixed(function, fixed) if fixed else function
        return compiled_outside(_pmap, [call], *rest, **{**options, "in_axes": axes}, randomness=randomness)

    return mapped


class _WithFixed:
    """A function with some positional arguments filled in."""

    def __init__(self, function: Any, fixed: dict[int, Any]):
        self._function, self._fixed = function, fixed
        self.__module__ = getattr(function, "__module__", None) or type(function).__module__
        self.__qualname__ = getattr(function, "__qualname__", type(function).__name__)

    def __call__(self, *args: Any) -> Any:
        rest = iter(args)
        return self._function(*(self._fixed[i] if i in self._fixed else next(rest) for i in range(len(args) + len(self._fixed))))

    def __objnet_capture__(self, visit: Any) -> Any:
        return visit(self._function), visit(self._fixed)


def _pmap(
    function: Any, *args: Any, axis_name: Any, in_axes: Any, out_axes: Any, devices: Any, axis_size: Any, randomness: str
) -> Any:
    name = "rows" if axis_name is None else axis_name
    given = in_axes if isinstance(in_axes, tuple) else (in_axes,) * len(args)
    axes = spread(given, args, _is_leaf)
    leaves, structure = jax.tree.flatten(args, is_leaf=_is_leaf)
    axes = [None if leaf is None or is_module(leaf) else _position(a, leaf) for a, leaf in zip(axes, leaves, strict=True)]
    sizes = {leaf.shape[a] for a, leaf in zip(axes, leaves, strict=True) if a is not None}
    if len(sizes) > 1 or (axis_size is not None and sizes - {axis_size}):
        raise ValueError(
            f"pmap got inconsistent sizes for the mapped axes of its arguments: {sorted(sizes | {axis_size} - {None})}"
        )
    if not sizes and axis_size is None:
        raise ValueError("pmap must have at least one non-None value in in_axes, or axis_size")
    size = sizes.pop() if sizes else axis_size
    available = list(jax.devices() if devices is None else devices)
    if size > len(available):
        raise ValueError(f"pmap over {size} rows needs {size} devices, but only {len(available)} are available")

    def row(*args: Any) -> Any:
        shards = jax.tree.leaves(args, is_leaf=_is_leaf)
        shards = [s if a is None else jnp.squeeze(s, a) for a, s in zip(axes, shards, strict=True)]
        result = arrays(function(*jax.tree.unflatten(structure, shards)))
        back = spread(out_axes, result, lambda x: x is None)
        out, tree = jax.tree.flatten(result)
        return jax.tree.unflatten(tree, [x if a is None else jnp.expand_dims(x, a) for a, x in zip(back, out, strict=True)])

    return _shard_map(
        row,
        *jax.tree.unflatten(structure, leaves),
        mesh=Mesh(np.asarray(available[:size]), (name,)),
        in_specs=jax.tree.unflatten(structure, [_spec(a, name) for a in axes]),
        out_specs=jax.tree.map(lambda a: _spec(a, name), out_axes, is_leaf=lambda x: x is None),
        axis_names=frozenset(),
        check_vma=False,
        randomness=randomness,
        what="objnet.pmap",
    )


def _position(axis: Any, leaf: Any) -> Any:
    if axis is None:
        return None
    rank = jnp.ndim(leaf)
    if not -rank <= axis < rank:
        raise ValueError(f"pmap was asked to map axis {axis} of an argument of rank {rank}")
    return axis % rank


def _spec(axis: Any, name: Any) -> PartitionSpec:
    if axis is None:
        return P()
    if axis < 0:
        raise ValueError(f"out_axes of pmap count from the front, got {axis}")
    return P(*[None] * axis, name)
