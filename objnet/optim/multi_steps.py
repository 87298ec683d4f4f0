"""``MultiSteps``: an optimizer that steps at every k-th call, by the mean of the gradients (``optax.MultiSteps``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from objnet.core import epoch, errors, frame
from objnet.core.foreign import to_host_or_jax
from objnet.core.variable import Parameter, Variable
from objnet.optim.cells import new_cell, outside
from objnet.optim.control import tracing
from objnet.optim.groups import ParamGroup
from objnet.optim.hooks import OptimizerHooks
from objnet.optim.lbfgs import LBFGS
from objnet.optim.loss_scale import at_least_float32
from objnet.optim.optax_optimizer import Optax
from objnet.optim.optimizer import Optimizer
from objnet.transforms.branches import cond

_KEY = "multi_steps"


class MultiSteps(Optimizer):
    """Another optimizer, stepped once every ``every_k`` calls of :meth:`step`, by the mean of the gradients of these calls.

    Used where an optimizer is: each call takes the gradients of its own small batch, by a closure, as values, or from ``p.grad``
    (with ``zero_grad()`` before each ``backward``, as ever). Inside ``objnet.jit`` all calls are one program. Groups, and with
    them what schedulers write, are the inner optimizer's. The sums are kept in float32 at least.

    A parameter without a gradient in all calls is left alone, as by the inner optimizer; one without a gradient in some counts
    as zero there.

    Args:
        optimizer: steps at every ``every_k``-th call; one that does not evaluate the loss itself.
        every_k: a number of calls.

    Raises:
        TypeError: no optimizer, or LBFGS. ValueError: ``every_k`` below 1.
    """

    def __init__(self, optimizer: Optimizer, every_k: int):
        OptimizerHooks.__init__(self)
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"MultiSteps steps an optimizer: MultiSteps(optim.Adam(...), 4); got {type(optimizer).__name__}")
        if isinstance(optimizer, LBFGS):
            raise TypeError(
                "LBFGS evaluates the loss again within a step, so that there are no gradients to gather: use it alone"
            )
        if isinstance(every_k, bool) or not isinstance(every_k, int) or every_k < 1:
            raise ValueError(f"every_k is a number of calls, 1 or more, got {every_k!r}")
        self.optimizer, self.every_k = optimizer, every_k
        self._sums: dict[Parameter, Variable] = {}
        self._reset()

    def _reset(self) -> None:
        """Begin with the first call of a step."""
        self._placement = self.param_groups[0].placement
        self._mini_step = self._small(np.int32(0))
        self._seen = self._small(np.zeros(len(self._held()), np.bool_))  # which parameters have had a gradient since the step

    def _small(self, value: Any) -> Variable:
        group = self.optimizer.param_groups[0]
        if group.local():
            return Variable(jnp.asarray(value))
        with jax.ensure_compile_time_eval():
            return outside(jax.device_put(value, group.placement))

    # -- the inner optimizer's -----------------------------------------------------------------------------------------

    @property
    def param_groups(self) -> list[ParamGroup]:  # type: ignore[override]
        """The inner optimizer's."""
        return self.optimizer.param_groups

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """The inner optimizer's."""
        return self.optimizer.defaults

    @property
    def state(self) -> Any:
        """The inner optimizer's."""
        return self.optimizer.state

    @property
    def mini_step(self) -> Any:
        """How many calls have been gathered, an int that waits for the device; inside a compiled function a 0-d array."""
        return self._mini_step._read() if tracing() else int(self._mini_step._read())

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters to the inner optimizer; what has been gathered stays."""
        seen = np.asarray(self._seen._read())
        self.optimizer.add_param_group(param_group)
        self._seen = self._small(np.append(seen, np.zeros(len(self._held()) - len(seen), np.bool_)))

    @classmethod
    def as_optax(cls, **options: Any) -> NoReturn:
        """Not this way round.

        Raises:
            TypeError: always, naming what to use.
        """
        raise TypeError("in the pure form use optax.MultiSteps over the inner optimizer's as_optax")

    # -- stepping ------------------------------------------------------------------------------------------------------

    def step(self, closure: Any = None, *, has_aux: bool = False) -> Any:
        """Gather gradients, and at every ``every_k``-th call step the inner optimizer; arguments as :meth:`Optimizer.step`.

        Hooks registered here run at every call, the inner optimizer's when it steps.
        """
        # Defined here, so that schedulers do not take calls that only gather for a step forgotten.
        return super().step(closure, has_aux=has_aux)

    def _update(self, grads: Mapping[Parameter, jax.Array]) -> None:
        self._follow_all()
        self._gather(grads)
        others = [p for p in self._sums if p not in grads]
        if others and isinstance(self.optimizer, Optax):
            raise errors.StructureMismatchError(
                f"{others[0].describe()} has no gradient{errors.where()}, and had one in an earlier call: Optax steps all its "
                "parameters together, so that MultiSteps needs the same ones at every call. Give it zeros."
            )
        last = self._mini_step._read() + 1 == self.every_k

        def apply() -> None:
            self._apply(grads, others)

        def wait() -> None:
            self._mini_step._set(self._mini_step._read() + 1)

        if tracing():
            cond(last, apply, wait)
        elif bool(last):
            apply()
        else:
            wait()

    def _gather(self, grads: Mapping[Parameter, jax.Array]) -> None:
        before = len(self._sums)
        for group in self.param_groups:
            for p in group.params:
                if p in grads and p not in self._sums:
                    self._sums[p] = self._new_sum(p, group.local())
        if len(self._sums) > before:
            epoch.advance()
        for p, gradient in grads.items():
            total = self._sums[p]._read()
            self._sums[p]._set(total + gradient.astype(total.dtype))
        seen = self._seen._read()
        index = np.array([p in grads for p in self._held()])
        self._seen._set(seen | index)

    def _new_sum(self, p: Parameter, local: bool) -> Variable:
        cell = new_cell(p, p.shape, 0.0, local)
        value = cell._value if not local else cell._read()
        wide = at_least_float32(value.dtype)
        if value.dtype != wide:
            with jax.ensure_compile_time_eval():
                cell = Variable(value.astype(wide)) if local else outside(value.astype(wide))
        return cell

    def _apply(self, grads: Mapping[Parameter, jax.Array], others: list[Parameter]) -> None:
        """Step by the means, and begin anew."""
        held, waiting = self._held(), set(others)
        means = {p: (cell._read() / self.every_k).astype(p.dtype) for p, cell in self._sums.items()}
        seen = self._seen._read()
        self._step_inner({p: means[p] for p in grads})
        # These have no gradient now. Whether they had one in an earlier call is data, and each has a count of steps of its own.
        for i, p in enumerate(held):
            if p in waiting:

                def take(p: Parameter = p) -> None:
                    self._step_inner({p: means[p]})

                if tracing():
                    cond(seen[i], take, lambda: None)
                elif bool(seen[i]):
                    take()
        for cell in self._sums.values():
            cell._set(jnp.zeros_like(cell._read()))
        self._seen._set(jnp.zeros_like(seen))
        self._mini_step._set(jnp.zeros_like(self._mini_step._read()))

    def _step_inner(self, grads: Mapping[Parameter, jax.Array]) -> None:
        if grads:
            self.optimizer.step([grads.get(p) for p in self._held()])

    # -- saving --------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The inner optimizer's, and under ``"multi_steps"`` what has been gathered since its last step.

        That is ``{"mini_step": calls, "every_k": every_k, "sums": {0: array}, "seen": [0]}``, parameters by number.
        """
        for hook in self._hooks_of("state_dict_pre"):
            hook(self)
        sums = {i: self._sums[p]._read() for i, p in enumerate(self._held()) if p in self._sums}
        seen = np.flatnonzero(np.asarray(self._seen._read())).tolist()
        gathered = {"mini_step": self.mini_step, "every_k": self.every_k, "sums": sums, "seen": seen}
        state_dict = {**self.optimizer.state_dict(), _KEY: gathered}
        return self._replaced("state_dict_post", state_dict)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take the state of another MultiSteps, or of an inner optimizer alone, after which gathering begins anew.

        Raises:
            ValueError: what was gathered does not fit the parameters or ``every_k``; as the inner optimizer's. Nothing has changed.
        """
        state_dict = self._replaced("load_state_dict_pre", dict(state_dict))
        gathered = state_dict.get(_KEY) or {"mini_step": 0, "sums": {}, "seen": []}
        held, done = self._held(), int(gathered["mini_step"])
        if done >= self.every_k:
            raise ValueError(
                f"the loaded state dict has gathered {done} calls, and every_k is {self.every_k}: step before saving"
            )
        arrays = {}
        for i, given in gathered["sums"].items():
            array = to_host_or_jax(given)
            if not 0 <= int(i) < len(held) or array.shape != held[int(i)].shape:
                there = (
                    f"parameter {i} has shape {held[int(i)].shape}" if 0 <= int(i) < len(held) else "there is no such parameter"
                )
                raise ValueError(f"the loaded state dict has a sum of shape {array.shape} for parameter {i}, and {there}")
            arrays[held[int(i)]] = array
        self.optimizer.load_state_dict({k: v for k, v in state_dict.items() if k != _KEY})
        self._reset()
        self._mini_step._set(jnp.full_like(self._mini_step._read(), done))
        flags = np.zeros(len(held), np.bool_)
        flags[[int(i) for i in gathered["seen"]]] = True
        self._seen._set(jnp.asarray(flags))
        self._sums = {p: self._new_sum(p, False) for p in arrays}
        for p, array in arrays.items():
            old = self._sums[p]._read()
            place = old.sharding if old.committed else None
            self._sums[p]._set(jax.device_put(np.array(array, old.dtype), place))
        epoch.advance()
        for hook in self._hooks_of("load_state_dict_post"):
            hook(self)

    # -- for compiled functions ----------------------------------------------------------------------------------------

    def __objnet_prepare__(self) -> None:
        """Take what was gathered to where the parameters have gone; the inner optimizer prepares itself."""
        self._follow_all()

    def _follow_all(self) -> None:
        if frame.trace_state() != frame.CLEAN:
            return
        group = self.param_groups[0]
        self.optimizer._follow(group)
        if group.placement != self._placement:
            for cell in (self._mini_step, self._seen):
                cell._set(jax.device_put(cell._read(), group.placement))
            object.__setattr__(self, "_placement", group.placement)
        for p, cell in self._sums.items():
            value, total = p._value, cell._value
            if isinstance(value, jax.Array) and value.committed and value.sharding != total.sharding:
                cell._set(jax.device_put(total, value.sharding))

    def __objnet_capture__(self, visit: Callable[[Any], Any]) -> Any:
        sums = tuple((i, visit(self._sums[p])) for i, p in enumerate(self._held()) if p in self._sums)
        hooks = tuple(visit(hook) for kind in ("step_pre", "step_post") for hook in self._hooks_of(kind))
        return (visit(self.optimizer), self.every_k, visit(self._mini_step), visit(self._seen), sums, hooks)

    def __repr__(self) -> str:
        return f"MultiSteps(every_k={self.every_k}, {self.optimizer!r})"
