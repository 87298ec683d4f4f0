"""``scan``, ``map``, ``fori_loop``, ``while_loop``: jax's loops over functions that read and write modules.

What a body writes (buffers, array attributes, optimizer state, random keys, parameters) is carried from one run to the next, so
that a loop leaves what the same Python loop leaves.  Outside every transform a loop is compiled with ``objnet.jit``.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from objnet.core.variable import Variable
from objnet.transforms.rows import Taken, refuse_modules
from objnet.transforms.threaded import Restructured, ThreadedFrame, arrays, compiled_outside, thread
from objnet.transforms.vmap import vmap

Loop = Callable[[ThreadedFrame], Any]


def scan(
    f: Callable[..., Any],
    init: Any,
    xs: Any = None,
    length: int | None = None,
    reverse: bool = False,
    unroll: int | bool = 1,
) -> tuple[Any, Any]:
    """``carry, y = f(carry, x)`` for each row ``x`` of ``xs``, as one program (``jax.lax.scan``).

    A module in ``xs`` is taken row by row: each run sees one row of its Variables, and what it writes there becomes that row.

    Args:
        f: gets the carry and a row; returns the new carry and an output. It may read and write any module.
        init: the first carry, a pytree of arrays.
        xs: a pytree of arrays with one leading axis, or None.
        length: the number of runs, if ``xs`` does not tell.
        reverse: whether to start from the last row.
        unroll: how many runs the program spells out at a time.

    Returns:
        The last carry, and the outputs stacked along axis 0.

    Raises:
        StateStructureError: a Variable changes its shape or dtype from run to run, or is created in every run. (What the first run
            creates or gives its final form is well: that run is then done before the loop.)
    """
    return compiled_outside(_scan, [f], init, xs, length=length, reverse=reverse, unroll=unroll)


def _scan(f: Any, init: Any, xs: Any, *, length: Any, reverse: bool, unroll: Any) -> Any:
    refuse_modules(init, "the carry of scan")
    taken = Taken(xs)
    rows, count = taken.values, _length(taken.values, length)

    def loop(init: Any, rows: Any, count: int) -> Loop:
        def attempt(inner: ThreadedFrame) -> Any:
            written: list[Variable] = []

            def body(carry: Any, row: Any) -> Any:
                x, own = taken.put_back(row)
                before = dict(own)
                (out, y), state = inner.call(carry[1], _pair(f), carry[0], x, rows=own)
                written[:] = [v for v in own if own[v] is not before[v]]
                return (out, state), (y, [own[v] for v in written])

            (out, state), (ys, new) = lax.scan(body, (init, inner.inputs), rows, count, reverse=reverse, unroll=unroll)
            inner.hand_over(state)
            for v, value in zip(written, new, strict=True):
                taken.store(v, value)
            return out, ys

        return attempt

    try:
        return thread(loop(init, rows, count), "scan")
    except Restructured as found:
        if count == 0 or taken.modules:
            raise found.error from None
    at = count - 1 if reverse else 0
    x, _ = taken.put_back(jax.tree.map(lambda a: a[at], rows))
    carry, y = arrays(_pair(f)(init, x))  # here and now, so that what it creates is there before the loop
    if count == 1:
        return carry, jax.tree.map(lambda a: jnp.asarray(a)[None], y)
    rest = jax.tree.map(lambda a: a[:-1] if reverse else a[1:], rows)
    carry, ys = _or_error(loop(carry, rest, count - 1), "scan")
    join = (lambda a, b: jnp.concatenate([b, a[None]])) if reverse else (lambda a, b: jnp.concatenate([a[None], b]))
    return carry, jax.tree.map(lambda a, b: join(jnp.asarray(a), b), y, ys)


def _or_error(attempt: Loop, what: str) -> Any:
    try:
        return thread(attempt, what)
    except Restructured as found:
        raise found.error from None


def _length(rows: Any, length: Any) -> int:
    """The number of runs; jax's own message where the arguments do not agree."""
    sizes = {jnp.shape(leaf)[0] for leaf in jax.tree.leaves(rows) if jnp.ndim(leaf)}
    if length is None and len(sizes) == 1:
        return sizes.pop()
    return 0 if length is None else operator.index(length)


def _pair(f: Callable[..., Any]) -> Callable[..., tuple[Any, Any]]:
    def run(carry: Any, x: Any) -> tuple[Any, Any]:
        result = f(carry, x)
        if not isinstance(result, (tuple, list)) or len(result) != 2:
            raise TypeError(f"the function of a scan returns a pair (carry, output), got {type(result).__name__}")
        return tuple(result)

    return run


def map(f: Callable[[Any], Any], xs: Any, *, batch_size: int | None = None) -> Any:
    """``f(x)`` for each row ``x`` of ``xs``, one after the other, the results stacked (``jax.lax.map``).

    Args:
        f: gets a row; it may read and write any module, as in a Python loop.
        xs: a pytree of arrays with one leading axis.
        batch_size: how many rows to run at a time, by :func:`objnet.vmap`, whose rules for state then hold.

    Raises:
        StateStructureError: as :func:`scan`.
    """
    if batch_size is None:
        return scan(_WithoutCarry(f), None, xs)[1]
    if operator.index(batch_size) < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    count = _length(xs, None)
    whole = count - count % batch_size
    rows = vmap(f)
    parts = []
    if whole:
        chunks = jax.tree.map(lambda a: a[:whole].reshape(whole // batch_size, batch_size, *a.shape[1:]), xs)
        done = scan(_WithoutCarry(rows), None, chunks)[1]
        parts.append(jax.tree.map(lambda a: a.reshape(whole, *a.shape[2:]), done))
    if whole < count:
        parts.append(rows(jax.tree.map(lambda a: a[whole:], xs)))
    return jax.tree.map(lambda *a: jnp.concatenate(a), *parts) if parts else scan(_WithoutCarry(f), None, xs)[1]


class _WithoutCarry:
    """``f`` as the function of a scan."""

    def __init__(self, f: Callable[[Any], Any]):
        self.f = f
        self.__module__ = getattr(f, "__module__", None) or type(f).__module__
        self.__qualname__ = getattr(f, "__qualname__", type(f).__name__)

    def __call__(self, carry: Any, x: Any) -> Any:
        return carry, self.f(x)

    def __objnet_capture__(self, visit: Any) -> Any:
        return visit(self.f)


def fori_loop(
    lower: Any, upper: Any, body_fun: Callable[[Any, Any], Any], init_val: Any, *, unroll: int | bool | None = None
) -> Any:
    """``val = body_fun(i, val)`` for i from ``lower`` to ``upper`` (``jax.lax.fori_loop``).

    Args:
        lower, upper: integers; where both are Python's the loop has a reverse-mode gradient.
        body_fun: may read and write any module.
        init_val: a pytree of arrays.
        unroll: as in jax, for Python's bounds.

    Raises:
        StateStructureError: as :func:`scan`; with traced bounds also for what the first run creates.
    """
    if isinstance(lower, jax.Array) or isinstance(upper, jax.Array):
        return compiled_outside(_fori, [body_fun], lower, upper, init_val, bounds=None, unroll=unroll)
    bounds = operator.index(lower), operator.index(upper)
    return compiled_outside(_fori, [body_fun], None, None, init_val, bounds=bounds, unroll=unroll)


def _fori(body_fun: Any, lower: Any, upper: Any, init: Any, *, bounds: Any, unroll: Any) -> Any:
    refuse_modules(init, "the carry of fori_loop")

    def loop(lower: Any, upper: Any, init: Any) -> Loop:
        def attempt(inner: ThreadedFrame) -> Any:
            def body(i: Any, carry: Any) -> Any:
                return inner.call(carry[1], body_fun, i, carry[0])

            more = {} if unroll is None else {"unroll": unroll}
            out, state = lax.fori_loop(lower, upper, body, (init, inner.inputs), **more)
            inner.hand_over(state)
            return out

        return attempt

    if bounds is None:
        return _or_error(loop(lower, upper, init), "fori_loop")
    first, last = bounds
    try:
        return thread(loop(first, last, init), "fori_loop")
    except Restructured as found:
        if first >= last:
            raise found.error from None
    val = arrays(body_fun(jnp.asarray(first), init))
    return _or_error(loop(first + 1, last, val), "fori_loop")


def while_loop(cond_fun: Callable[[Any], Any], body_fun: Callable[[Any], Any], init_val: Any) -> Any:
    """``while cond_fun(val): val = body_fun(val)`` (``jax.lax.while_loop``).

    Args:
        cond_fun: gives a boolean scalar; like ``body_fun`` it may read and write any module, and sees what the last run wrote.
        body_fun: gives the next value, of the same structure.
        init_val: a pytree of arrays.

    Raises:
        StateStructureError: a Variable is created, or changes its shape or dtype. TypeError: ``cond_fun`` gives no boolean.
    """
    return compiled_outside(_while, [cond_fun, body_fun], init_val)


def _while(cond_fun: Any, body_fun: Any, init: Any) -> Any:
    """The condition is evaluated once before the loop and then after each run, so that its own writes are carried too."""

    refuse_modules(init, "the carry of while_loop")

    def run(val: Any) -> Any:
        new = body_fun(val)
        return new, _truth(cond_fun(new))

    def attempt(inner: ThreadedFrame, go: Any) -> Any:
        def body(carry: Any) -> Any:
            (val, go), state = inner.call(carry[2], run, carry[1])
            return go, val, state

        _, out, state = lax.while_loop(lambda carry: carry[0], body, (go, init, inner.inputs))
        inner.hand_over(state)
        return out

    go = _truth(arrays(cond_fun(init)))
    return _or_error(lambda inner: attempt(inner, go), "while_loop")


def _truth(value: Any) -> Any:
    value = jnp.asarray(value)
    if value.shape != () or value.dtype != jnp.bool_:
        raise TypeError(f"cond_fun must return a boolean scalar, got {value.dtype} of shape {value.shape}")
    return value


def associative_scan(fn: Callable[[Any, Any], Any], elems: Any, reverse: bool = False, axis: int = 0) -> Any:
    """Prefix combinations of ``elems`` by the associative ``fn``, in logarithmic depth (``jax.lax.associative_scan``).

    ``fn`` is called in place, a number of times that depends on the length: it may read modules; what it writes is written at
    each of those calls, each of which combines many pairs at once.
    """
    return lax.associative_scan(fn, elems, reverse=reverse, axis=axis)
