"""L-BFGS (torch's ``optim.LBFGS``)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from objnet.core import epoch, frame
from objnet.core.foreign import to_host_or_jax
from objnet.core.variable import UNSET, Parameter
from objnet.optim.cells import Cells, named, new_shared, outside
from objnet.optim.control import choose, loop
from objnet.optim.groups import ParamGroup, plain
from objnet.optim.line_search import Point, strong_wolfe
from objnet.optim.optimizer import Optimizer


class _Memory(NamedTuple):
    """What a step leaves to the next: torch's names; pairs of the history at the front, ``count`` of them."""

    d: jax.Array
    t: jax.Array
    old_dirs: jax.Array
    old_stps: jax.Array
    ro: jax.Array
    H_diag: jax.Array
    prev_flat_grad: jax.Array
    prev_loss: jax.Array
    n_iter: jax.Array
    count: jax.Array


class _Iteration(NamedTuple):
    memory: _Memory
    values: tuple[jax.Array, ...]
    loss: jax.Array
    gradient: jax.Array
    slope: jax.Array
    turns: jax.Array
    evaluations: jax.Array
    running: jax.Array


class LBFGS(Optimizer):
    """Limited-memory BFGS: ``step(closure)`` evaluates the closure, which returns the loss, several times.

    Nocedal (1980), "Updating Quasi-Newton Matrices with Limited Storage". There is one group. It keeps ``2 * history_size``
    vectors of all parameters from the start. Inside ``objnet.jit`` the whole step is one program.

    Args:
        params: Parameters, or (name, Parameter) pairs.
        lr: the step length, or with a line search the first one tried.
        max_iter: iterations a step.
        max_eval: evaluations a step; None for ``max_iter * 5 // 4``.
        tolerance_grad: a step ends where no element of the gradient is larger.
        tolerance_change: it ends where neither the loss nor any parameter changes by more.
        history_size: pairs kept.
        line_search_fn: ``"strong_wolfe"`` or None.

    Raises:
        ValueError: for a number out of range or several groups. RuntimeError: for an unknown line search.
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 1,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = None,
    ):
        lr = plain("lr", lr)
        if not lr >= 0.0:
            raise ValueError(f"Invalid learning rate: {lr}")
        super().__init__(
            params,
            {
                "lr": lr,
                "max_iter": max_iter,
                "max_eval": max_iter * 5 // 4 if max_eval is None else max_eval,
                "tolerance_grad": tolerance_grad,
                "tolerance_change": tolerance_change,
                "history_size": history_size,
                "line_search_fn": line_search_fn,
            },
        )

    @classmethod
    def as_optax(cls, **options: Any) -> NoReturn:
        """A step evaluates the loss again, which no transformation of gradients can.

        Raises:
            NotImplementedError: always, naming what to use.
        """
        raise NotImplementedError("LBFGS evaluates the loss again within a step: in the pure form use optax.lbfgs")

    def _check_group(self, group: Mapping[str, Any]) -> None:
        if self.param_groups:
            raise ValueError("LBFGS doesn't support per-parameter options (parameter groups)")
        if group["line_search_fn"] not in (None, "strong_wolfe"):
            raise RuntimeError("only 'strong_wolfe' is supported")

    @staticmethod
    def _options(group: Mapping[str, Any]) -> Any:
        return group["line_search_fn"], group["history_size"]

    # -- state ---------------------------------------------------------------------------------------------------------

    @staticmethod
    def _shared(options: Any) -> dict[str, float]:
        return {"n_iter": 0.0, "count": 0.0}  # beside "step", the number of evaluations

    def _make_cells(self, group: ParamGroup, params: Iterable[Parameter]) -> None:
        """Make all state, which as in torch is the first parameter's."""
        first = group.params[0]
        if first in self._cells or (any(p._value is UNSET for p in group.params) and not group.local()):
            return
        shared = new_shared(self._shared(group.options), group.placement, group.local())
        values = [p._read() if group.local() else p._value for p in group.params]
        dtype, size, history = _dtype(values), sum(map(_size, values)), group.options[1]
        shapes = {"d": (size,), "old_dirs": (history, size), "old_stps": (history, size), "ro": (history,)}
        shapes |= {"prev_flat_grad": (size,), "t": (), "H_diag": (), "prev_loss": ()}
        made: Cells = {}
        with jax.ensure_compile_time_eval():
            for name, shape in shapes.items():
                made[name] = outside(jax.device_put(np.zeros(shape, dtype), group.placement))
        self._cells[first] = named(first, shared | made)
        epoch.advance()

    def _report(self, cells: Cells) -> dict[str, Any]:
        """The state as torch lays it out: the history as lists."""
        state = {name: cell._read() for name, cell in cells.items()}
        evaluations, iterations, count = (int(state[name]) for name in ("step", "n_iter", "count"))
        report: dict[str, Any] = {"func_evals": evaluations, "n_iter": iterations}
        if iterations > 1:
            report["al"] = [None] * len(state["ro"])  # torch's scratch space
        if iterations:
            report |= {name: state[name] for name in ("d", "t")}
            report |= {name: list(state[name][:count]) for name in ("old_dirs", "old_stps", "ro")}
            report |= {name: state[name] for name in ("H_diag", "prev_flat_grad", "prev_loss")}
        return report

    def _load_state(self, p: Parameter, where: str, arrays: dict[str, Any], options: Any, problems: list[str]) -> dict[str, Any]:
        group = self.param_groups[0]
        if not arrays or p is not group.params[0]:
            return {}
        size, history = sum(_size(q._read()) for q in group.params), options[1]
        dtype = _dtype([q._read() for q in group.params])
        taken: dict[str, Any] = {"step": float(arrays["func_evals"]), "n_iter": float(arrays["n_iter"]), "count": 0.0}
        for name in ("d", "prev_flat_grad"):
            taken[name] = np.asarray(to_host_or_jax(arrays.get(name, np.zeros(size))), dtype)
            if taken[name].shape != (size,):
                problems.append(f"{where}: {name} has shape {taken[name].shape}, and the parameters have {size} elements")
        for name in ("t", "H_diag", "prev_loss"):
            taken[name] = np.asarray(to_host_or_jax(arrays.get(name, 0.0)), dtype)
        for name, shape in {"old_dirs": (size,), "old_stps": (size,), "ro": ()}.items():
            rows = [np.asarray(to_host_or_jax(row), dtype) for row in arrays.get(name) or ()]
            wrong = {row.shape for row in rows} - {shape}
            if wrong or len(rows) > history:
                problems.append(f"{where}: {name} has {len(rows)} arrays of {wrong or shape}, not at most {history} of {shape}")
                continue
            taken["count"] = float(len(rows))
            taken[name] = np.zeros((history, *shape), dtype)
            if rows:
                taken[name][: len(rows)] = rows
        return {k: v if isinstance(v, float) else jax.device_put(v, group.placement) for k, v in taken.items()}

    # -- the step ------------------------------------------------------------------------------------------------------

    def _step(self, closure: Any = None, has_aux: bool = False) -> Any:
        if not callable(closure):
            raise TypeError(
                "LBFGS evaluates the loss several times a step: write optimizer.step(closure), where closure() returns the loss "
                f"(and may call objnet.backward itself); got {type(closure).__name__}"
            )
        group = self.param_groups[0]
        self._follow(group)
        self._make_cells(group, ())
        cells = self._cells[group.params[0]]
        numbers = dict(zip(group.numbers, jnp.unstack(group.vector()), strict=True))
        first = self._evaluate(closure, has_aux)
        dtype = cells["d"]._read().dtype
        loss, gradient = jnp.asarray(first.value, dtype), self._flat(first.gradients, dtype)
        memory = _Memory(*(cells[name]._read() for name in _Memory._fields))
        state = self._iterate(closure, group, {k: v.astype(dtype) for k, v in numbers.items()}, memory, loss, gradient)
        for name, value in state.memory._asdict().items():
            cells[name]._set(value)
        cells["step"]._set(cells["step"]._read() + state.evaluations.astype(jnp.float32))
        inner = frame.current()
        if inner is not None:
            for p in group.params:
                inner.consume(p._grad)
        return (first.value, first.aux) if has_aux else first.value

    def _iterate(
        self, closure: Callable[[], Any], group: ParamGroup, n: dict[str, jax.Array], memory: _Memory, loss: Any, gradient: Any
    ) -> _Iteration:
        searches = group.options[0] is not None
        dtype = gradient.dtype
        most, most_evaluations = n["max_iter"].astype(jnp.int32), n["max_eval"].astype(jnp.int32)

        def move(values: tuple[jax.Array, ...], t: jax.Array, d: jax.Array) -> None:
            for p, value in zip(group.params, _moved(values, t, d), strict=True):
                p._set(value)

        def evaluate(values: tuple[jax.Array, ...], t: jax.Array, d: jax.Array) -> Point:
            move(values, t, d)
            found = self._evaluate(closure, False)
            gradient = self._flat(found.gradients, dtype)
            return Point(t, jnp.asarray(found.value, dtype), gradient, jnp.vdot(gradient, d))

        def body(state: _Iteration) -> _Iteration:
            memory, values = state.memory, state.values
            d = memory.d
            if searches:
                start = Point(jnp.zeros((), dtype), state.loss, state.gradient, state.slope)
                point, evaluations = strong_wolfe(
                    lambda t: evaluate(values, t, d),
                    memory.t,
                    start,
                    jnp.max(jnp.abs(d)),
                    n["tolerance_change"],
                    most_evaluations - state.evaluations,
                )
                move(values, point.t, d)
            else:
                point, evaluations = evaluate(values, memory.t, d), jnp.ones((), jnp.int32)
            evaluations = state.evaluations + evaluations
            turns = state.turns + 1
            converged = (
                (jnp.max(jnp.abs(point.g)) <= n["tolerance_grad"])
                | (jnp.max(jnp.abs(d * point.t)) <= n["tolerance_change"])
                | (jnp.abs(point.f - memory.prev_loss) < n["tolerance_change"])
            )
            state = _Iteration(
                memory=memory._replace(t=point.t),
                values=tuple(p._read() for p in group.params),
                loss=point.f,
                gradient=point.g,
                slope=state.slope,
                turns=turns,
                evaluations=evaluations,
                running=(turns < most) & (evaluations < most_evaluations) & ~converged,
            )
            return choose(state.running, prepare, state)

        def prepare(state: _Iteration) -> _Iteration:
            memory, slope = _direction(state.memory, state.loss, state.gradient, n["lr"])
            return state._replace(memory=memory, slope=slope, running=~(slope > -n["tolerance_change"]))

        state = _Iteration(
            memory=memory,
            values=tuple(p._read() for p in group.params),
            loss=loss,
            gradient=gradient,
            slope=jnp.zeros((), dtype),
            turns=jnp.zeros((), jnp.int32),
            evaluations=jnp.ones((), jnp.int32),
            running=(jnp.max(jnp.abs(gradient)) > n["tolerance_grad"]) & (most > 0),
        )
        state = choose(state.running, prepare, state)
        if searches:
            return loop(lambda s: s.running, body, state)
        state = loop(lambda s: s.running & (s.turns + 1 < most), body, state)
        # The last move is not evaluated: where losses are noisy that would be of no use.
        t = jnp.where(state.running, state.memory.t, jnp.zeros((), dtype))
        move(state.values, t, state.memory.d)
        return state

    def _flat(self, gradients: Mapping[Parameter, jax.Array], dtype: Any) -> jax.Array:
        """The gradients in one vector, zeros for those there are not."""
        held = self.param_groups[0].params
        parts = [_vector(gradients[p] if p in gradients else jnp.zeros(p.shape, p.dtype)) for p in held]
        return jnp.concatenate([part.astype(dtype) for part in parts])


def _size(value: jax.Array) -> int:
    return value.size * (2 if jnp.issubdtype(value.dtype, jnp.complexfloating) else 1)


def _dtype(values: Iterable[jax.Array]) -> Any:
    return np.result_type(*(jnp.finfo(value.dtype).dtype for value in values))


def _vector(value: jax.Array) -> jax.Array:
    if jnp.issubdtype(value.dtype, jnp.complexfloating):
        value = jnp.stack([value.real, value.imag], axis=-1)
    return value.reshape(-1)


@jax.jit
def _moved(values: tuple[jax.Array, ...], t: jax.Array, d: jax.Array) -> tuple[jax.Array, ...]:
    """Each parameter's value after a step along ``d``."""
    moved, position = [], 0
    for value in values:
        flat = _vector(value)
        step = (t * d[position : position + flat.size]).astype(flat.dtype)
        position += flat.size
        new = flat + step
        if jnp.issubdtype(value.dtype, jnp.complexfloating):
            new = new.reshape(*value.shape, 2)
            moved.append(jax.lax.complex(new[..., 0], new[..., 1]))
        else:
            moved.append(new.reshape(value.shape))
    return tuple(moved)


@jax.jit
def _direction(memory: _Memory, loss: jax.Array, gradient: jax.Array, lr: jax.Array) -> tuple[_Memory, jax.Array]:
    """Remember the last move, and choose the next direction and step.

    Returns:
        The new memory, and the slope along the direction.
    """
    history = memory.ro.shape[0]
    begins = memory.n_iter == 0
    y, s = gradient - memory.prev_flat_grad, memory.d * memory.t
    ys = jnp.vdot(y, s)
    remembers = ~begins & (ys > 1e-10) & (history > 0)
    full = memory.count == history
    place = jnp.where(full, history - 1, memory.count.astype(jnp.int32))

    def record(rows: jax.Array, row: jax.Array) -> jax.Array:
        rows = jnp.where(remembers & full, jnp.roll(rows, -1, axis=0), rows)
        return jnp.where(remembers & (jnp.arange(history) == place).reshape(-1, *[1] * row.ndim), row, rows)

    dirs, steps, ro = record(memory.old_dirs, y), record(memory.old_stps, s), record(memory.ro, 1 / ys)
    count = jnp.where(remembers & ~full, memory.count + 1, memory.count)
    scale = jnp.where(begins, 1.0, jnp.where(remembers, ys / jnp.vdot(y, y), memory.H_diag))
    pairs = jnp.where(begins, 0, count).astype(jnp.int32)

    def back(i: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        q, al = carry
        i = pairs - 1 - i
        weight = jnp.vdot(steps[i], q) * ro[i]
        return q - weight * dirs[i], al.at[i].set(weight)

    def forth(i: jax.Array, r: jax.Array) -> jax.Array:
        return r + steps[i] * (al[i] - jnp.vdot(dirs[i], r) * ro[i])

    q, al = jax.lax.fori_loop(0, pairs, back, (-gradient, jnp.zeros_like(ro)))
    d = jax.lax.fori_loop(0, pairs, forth, q * scale)
    t = jnp.where(begins, jnp.minimum(1.0, 1 / jnp.sum(jnp.abs(gradient))) * lr, lr)
    new = _Memory(d, t, dirs, steps, ro, scale, gradient, loss, memory.n_iter + 1, count)
    return new, jnp.vdot(gradient, d)
