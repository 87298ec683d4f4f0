"""The grid: every side effect of a model under every jax transform, written in three ways, in six surroundings.

Each cell either gives what the plain computation in ``grid.py`` gives, twice, with other weights the second time, and leaves the
state that the same computation leaves; or it raises the error the design names and changes nothing.  Neither may leave a tracer.
"""

from __future__ import annotations

import copy
import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from objnet.core import errors
from objnet.core.frame import is_concrete
from objnet.core.rng import key_stream, manual_seed
from objnet.transforms.autodiff import value_and_grad
from objnet.transforms.jit import jit
from objnet.transforms.pure import transform_with_state
from tests.transforms.grid import CALLABLES, EFFECTS, OWN, TRANSFORMS, Effect, Model, Plain, Reference, Transform, X, closure

WEIGHTS = [np.asarray(w, np.float32) for w in ([1.5, -2.0, 0.5], [0.25, 3.0, -1.0])]
KEY = np.asarray([0, 7], np.uint32)


def _total(out: Any) -> Any:
    return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(out))


def _same(actual: Any, wanted: Any, atol: float = 1e-6) -> None:
    actual, wanted = jax.tree.leaves(actual), jax.tree.leaves(wanted)
    assert len(actual) == len(wanted)
    for a, b in zip(actual, wanted, strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=2e-5, atol=atol)


def _held(model: Model) -> dict[str, np.ndarray]:
    """Every value of the model and the key stream, none of which is a tracer."""
    cells = {**model._parameters, **model._buffers, **model._arrays, "key": key_stream}
    assert all(is_concrete(p._grad._value) for p in model.parameters())
    assert all(is_concrete(cell._value) for cell in cells.values())
    return {name: np.asarray(cell._value) for name, cell in cells.items()}


class Cell:
    """One effect under one transform, by the callables given; surroundings below add what is around it."""

    traced = False  # whether a program is being built around the transform
    differentiates = False  # whether the weight is traced by an eager gradient

    def __init__(self, effect: Effect, transform: Transform, ways: list[str]):
        manual_seed(5)
        self.effect, self.transform, self.ways = effect, transform, ways
        self.model = Model(effect.act, WEIGHTS[0])
        stable = {way: make(self.model, transform.signature) for way, make in CALLABLES.items()}

        def function(x: Any) -> Any:
            fresh = {**stable, "closure": closure(self.model, transform.signature)}
            return tuple(transform.run(fresh[way], x) for way in ways)

        self.call = self.wrap(function)

    def wrap(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return function

    def by_hand(self, ref: Reference, x: Any) -> Any:
        return tuple(self.transform.by_hand(Plain(self.effect, self.transform.signature, ref), x) for _ in self.ways)

    def reference(self, weight: np.ndarray) -> Reference:
        """The state to start from, with this weight."""
        self.model.weight.data = weight
        key_stream._own()
        held = _held(self.model)
        return Reference(*(jnp.asarray(held[name]) for name in ("weight", "buffer", "hidden", "key")))

    def wanted(self, ref: Reference, x: Any) -> tuple[Any, dict[str, Any]]:
        return self.by_hand(ref, x), ref.state()

    def actual(self, x: Any) -> tuple[Any, dict[str, Any]]:
        return self.call(x), _held(self.model)

    def works(self) -> None:
        for weight in WEIGHTS:
            out, state = self.wanted(self.reference(weight), jnp.asarray(X))
            actual, held = self.actual(jnp.asarray(X))
            third = (
                self.transform is TRANSFORMS["objnet.hessian"] and self.traced
            )  # derivatives, whose float32 rounding fusion changes
            _same(actual, out, 2e-6 if third else 1e-6)
            for name in state:
                _same(held[name], state[name])
            assert held.keys() <= {*state, "extra"}
            self.sound()

    def refuses(self, allowed: tuple[type[Exception], ...], times: int) -> None:
        for weight in WEIGHTS[:times]:
            self.reference(weight)
            before = _held(self.model)
            with pytest.raises(allowed):
                self.actual(jnp.asarray(X))
            after = _held(self.model)
            assert before.keys() == after.keys()
            _same(after, before)
            self.sound()

    def sound(self) -> None:
        """The model holds values, and runs as if nothing had been."""
        weight = _held(self.model)["weight"]
        extra = X + 1.0 if self.effect is EFFECTS["registers_buffer_in_forward"] else 1.0
        _same(self.model(jnp.asarray(X)), X * weight * extra)
        _held(self.model)


class InJit(Cell):
    traced = True

    def wrap(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return jit(function)


class InGrad(Cell):
    differentiates = True

    def wrap(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def loss(x: Any) -> Any:
            out = function(x)
            return _total(out), out

        derivative = value_and_grad(loss, has_aux=True, wrt=self.model)

        def run(x: Any) -> Any:
            (value, out), grads = derivative(x)
            gradient = grads["weight"]
            return value, out, jnp.zeros(X.shape) if gradient is None else gradient

        return run

    def wanted(self, ref: Reference, x: Any) -> tuple[Any, dict[str, Any]]:
        def loss(weight: Any) -> Any:
            inner = copy.copy(ref)
            inner.weight = weight
            out = self.by_hand(inner, x)
            return _total(out), (out, inner.state())

        (value, (out, state)), gradient = jax.value_and_grad(loss, has_aux=True)(ref.weight)
        return (value, out, gradient), state


class InJitOfGrad(InGrad):
    traced = True

    def wrap(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return jit(super().wrap(function))


class InApply(Cell):
    """Inside ``apply``, with other params than the live model's."""

    def wrap(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        self.net = transform_with_state(function)
        return self.net.apply

    def reference(self, weight: np.ndarray) -> Reference:
        if not hasattr(self, "initial"):
            super().reference(WEIGHTS[0])
            self.initial = self.net.init(KEY, jnp.asarray(X) * 2.0)
        params, state = self.initial
        self.params = jax.tree.map(lambda v: v * 2.0, params)
        self.params["model"]["weight"] = jnp.asarray(weight)
        self.state = jax.tree.map(lambda v: v + 1.0, state)
        own = {**self.params["model"], **self.state["model"]}
        given = {"extra": own["extra"]} if "extra" in own and self.transform is not TRANSFORMS["objnet.jit"] else {}
        if "~" in self.params:
            given["local"] = self.params["~"]["parameter"]
        return Reference(jnp.asarray(weight), own["buffer"], own["hidden"], jnp.asarray(KEY), given)

    def actual(self, x: Any) -> tuple[Any, dict[str, Any]]:
        before = _held(self.model)
        out, state = self.call(self.params, self.state, KEY, x)
        _same(_held(self.model), before)
        return out, state["model"]

    def wanted(self, ref: Reference, x: Any) -> tuple[Any, dict[str, Any]]:
        out, state = super().wanted(ref, x)
        del state["weight"], state["key"]
        if "extra" in self.params["model"]:
            del state["extra"]
        return out, state

    def refuses(self, allowed: tuple[type[Exception], ...], times: int) -> None:
        super().reference(WEIGHTS[0])
        before = _held(self.model)
        for weight in WEIGHTS[:times]:
            with pytest.raises(allowed):
                self.reference(weight)
                self.actual(jnp.asarray(X))
            _same(_held(self.model), before)
        self.sound()

    def sound(self) -> None:
        live = self.model
        self.model = copy.deepcopy(live)  # a run of the live model may leave state that the next apply would have to be given
        super().sound()
        self.model = live


class InJittedApply(InApply):
    traced = True

    def wrap(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return jax.jit(super().wrap(function))


SURROUNDINGS = {
    "outside": Cell,
    "jit": InJit,
    "value_and_grad": InGrad,
    "jit_value_and_grad": InJitOfGrad,
    "apply": InApply,
    "jit_apply": InJittedApply,
}
WORKS = AssertionError  # stands among the outcomes of a cell for the right value


def outcomes(effect: Effect, transform: Transform, around: type[Cell]) -> set[type[Exception]]:
    """What a cell may do: the table of DESIGN.md, section 2, spelt out."""
    kind, name = transform.kind, effect.act.__name__
    ruled = kind == "ruled" and around.differentiates
    if kind == "ruled":
        kind = "staged" if around.traced else "clear"
    found: set[type[Exception]] = set()
    if effect.draws and (ruled or kind in ("eager", "staged")):
        found.add(errors.RngInTransformError)
    if effect.writes:
        on_tracer = around.traced or effect.depends == "x" or (effect.depends == "weight" and around.differentiates)
        if kind == "staged" or (kind == "eager" and on_tracer):
            found.add(errors.WriteInTransformError)
        if issubclass(around, InApply) and effect.writes == "parameter" and not effect.creates:
            found.add(errors.WriteInTransformError)  # params are inputs only
        elif transform is TRANSFORMS["custom_jvp_grad"] and not around.traced:
            found |= {errors.WriteInTransformError, WORKS}  # a rule sees values of the trace outside
    if kind == "staged" and around is Cell:
        found.add(errors.ReadInTransformError)
    own = next((n for n, t in OWN.items() if t is transform), None)
    if own is not None:
        return own_outcomes(effect, own, around, found)
    if found:
        return found
    if ruled and not name.startswith("assigns_data"):  # then the weight that is read is not the one that is differentiated
        return {errors.LeakedTracerError}
    if name == "registers_parameter" and (transform is TRANSFORMS["objnet.jit"] or issubclass(around, (InJit, InJitOfGrad))):
        return {errors.CompiledCallError}
    if transform is TRANSFORMS["while_loop"] and around.differentiates:
        return {ValueError}  # jax has no reverse mode for it
    return {WORKS}


LOOPS = ("scan", "map", "fori_loop")
BRANCHES = ("cond", "switch", "while_loop")
RULED = ("custom_jvp", "custom_vjp", "custom_jvp_grad", "custom_vjp_grad")


def own_outcomes(effect: Effect, own: str, around: type[Cell], found: set[type[Exception]]) -> set[type[Exception]]:
    """What a cell of objnet's own transforms may do: it works, but for what no program can carry or share."""
    name = effect.act.__name__
    if own in ("vmap", "pmap") and effect.writes and effect.depends == "x":
        found.add(errors.SharedStateError)
    if effect.creates and (own in BRANCHES + RULED or (own in LOOPS and name != "creates_array")):
        found.add(errors.StateStructureError)
    if own in RULED and around.differentiates and not name.startswith("assigns_data"):
        if own.endswith("_grad") and not found:
            found.add(WORKS)  # the rule is applied before the weight is differentiated
        found.add(errors.LeakedTracerError)
    compiled = (*LOOPS, *BRANCHES, "pmap", "shard_map")
    if name == "registers_parameter" and (issubclass(around, (InJit, InJitOfGrad)) or (own in compiled and around is Cell)):
        found.add(errors.CompiledCallError)
    if own == "while_loop" and around.differentiates:
        found.add(ValueError)  # jax has no reverse mode for it
        if name.startswith("assigns_data"):
            found.add(WORKS)  # nothing within is differentiated
    return found or {WORKS}


@pytest.fixture(scope="module", autouse=True)
def whole_tracebacks() -> Iterator[None]:
    """Filtering the tracebacks of thousands of refused cells takes longer than the cells."""
    before = jax.config.jax_traceback_filtering
    jax.config.update("jax_traceback_filtering", "off")
    yield
    jax.config.update("jax_traceback_filtering", before)


def cells() -> list[tuple[str, str, str]]:
    """Every cell outside and inside ``objnet.jit`` (of objnet's own transforms outside); of all others a sample, or all with OBJNET_GRID=full."""
    # A gradient that fails in its backward pass has run the forward pass, which wrote: so does torch.
    skipped = ("objnet.while_loop", "value_and_grad")
    every = [c for c in itertools.product(EFFECTS, TRANSFORMS, SURROUNDINGS) if c[1:] != skipped]
    if os.environ.get("OBJNET_GRID") == "full":
        return every
    own = {f"objnet.{name}" for name in OWN}
    main = [c for c in every if c[2] == "outside" or (c[2] == "jit" and c[1] not in own)]
    return main + [c for c in every if c not in main][::7]


@pytest.mark.parametrize(("effect", "transform", "around"), cells())
def test_grid(effect: str, transform: str, around: str) -> None:
    cell, make = (EFFECTS[effect], TRANSFORMS[transform]), SURROUNDINGS[around]
    expected = outcomes(*cell, make)
    refused = tuple(expected - {WORKS})
    if WORKS in expected:
        try:
            make(*cell, [*CALLABLES]).works()
            return
        except refused:
            pass
    for times, way in enumerate(reversed(CALLABLES)):
        make(*cell, [way]).refuses(refused, 2 if times == 0 else 1)
