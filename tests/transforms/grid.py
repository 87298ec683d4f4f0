"""What the grid is made of: side effects, jax transforms, ways to write a callable, and the plain computation of each."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec

from objnet import transforms
from objnet.core.rng import next_rng_key
from objnet.core.variable import Parameter
from objnet.nn.module import Module
from objnet.transforms.autodiff import grad, value_and_grad
from objnet.transforms.grad_mode import no_grad
from objnet.transforms.jit import jit

SIZE = 3
X = np.asarray([0.5, -1.0, 2.0], np.float32)


# -- the model and its side effects ------------------------------------------------------------------------------------


class Reference:
    """The model by hand: explicit values, plain jnp, no objnet.

    Args:
        given: values that a pure apply was given for what is created on the way: "extra", "local".
    """

    def __init__(self, weight: Any, buffer: Any, hidden: Any, key: Any, given: dict[str, Any] | None = None):
        self.weight, self.buffer, self.hidden, self.key = weight, buffer, hidden, key
        self.extra: Any = None
        self.given = given or {}

    def draw(self) -> Any:
        self.key, new = jax.random.split(self.key)
        return new

    def state(self) -> dict[str, Any]:
        """Everything the model holds by now."""
        state = {"weight": self.weight, "buffer": self.buffer, "hidden": self.hidden, "key": self.key}
        return state if self.extra is None else {**state, "extra": self.extra}


class Effect(NamedTuple):
    """A side effect, done by a model and by hand.

    ``writes`` is None or a kind of Variable; ``depends`` says on what the value written depends: "x", "weight", or "" for nothing
    that is traced; ``creates`` whether the Variable is new.
    """

    act: Callable[[Any, Any], Any]
    by_hand: Callable[[Reference, Any], Any]
    writes: str | None = None
    depends: str = ""
    creates: bool = False
    draws: bool = False


EFFECTS: dict[str, Effect] = {}


def effect(by_hand: Callable[[Reference, Any], Any], *facts: Any, **more: Any) -> Callable[[Any], Any]:
    def add(act: Any) -> Any:
        EFFECTS[act.__name__] = Effect(act, by_hand, *facts, **more)
        return act

    return add


class Model(Module):
    """One weight, one buffer, one array attribute; ``effect`` is what a run of it does besides."""

    def __init__(self, effect: Callable[[Any, Any], Any], weight: Any):
        super().__init__()
        self.effect = effect
        self.weight = Parameter(weight)
        self.register_buffer("buffer", jnp.zeros(SIZE))
        self.hidden = jnp.zeros(SIZE)
        if effect is hook_writes_buffer:
            self.register_forward_hook(_count)

    def forward(self, x: Any) -> Any:
        if self.effect is registers_buffer_in_forward:
            self.register_buffer("extra", x + 1.0)
            return x * self.weight * self.extra
        return x * self.weight

    # One method for every signature that jax asks of a callable.

    def vector(self, x: Any) -> Any:
        return self.effect(self, x)

    def scalar(self, x: Any) -> Any:
        return _scalar(self.effect(self, x), x)

    def step(self, carry: Any, x: Any) -> Any:
        return _step(self.effect(self, carry), x)

    def turn(self, state: Any) -> Any:
        return state[0] + 1, self.effect(self, state[1])

    def indexed(self, i: Any, x: Any) -> Any:
        return self.effect(self, x)

    def pair(self, a: Any, b: Any) -> Any:
        return self.effect(self, a) * b


def _scalar(y: Any, x: Any) -> Any:
    return lax.reduce_sum(y * x, axes=(0,))


def _step(y: Any, x: Any) -> Any:
    return y + x, y


def _count(module: Any, args: Any, output: Any) -> None:
    module.buffer = module.buffer + 1.0


def _after(change: Callable[[Reference, Any], None]) -> Callable[[Reference, Any], Any]:
    """By hand: change something, then run the forward."""

    def by_hand(ref: Reference, x: Any) -> Any:
        change(ref, x)
        return x * ref.weight

    return by_hand


THREE = np.full(SIZE, 3.0, np.float32)


@effect(_after(lambda ref, x: None))
def reads_parameter(model: Any, x: Any) -> Any:
    return model(x)


@effect(_after(lambda ref, x: setattr(ref, "weight", jnp.asarray(THREE))), "parameter")
def assigns_data(model: Any, x: Any) -> Any:
    model.weight.data = THREE
    return model(x)


@effect(_after(lambda ref, x: setattr(ref, "weight", ref.weight + 1.0)), "parameter", "weight")
def adds_to_data(model: Any, x: Any) -> Any:
    model.weight.data.add_(1.0)
    return model(x)


@effect(_after(lambda ref, x: setattr(ref, "weight", x * 2.0)), "parameter", "x")
def assigns_data_from_input(model: Any, x: Any) -> Any:
    model.weight.data = x * 2.0
    return model(x)


def _created(ref: Reference, x: Any) -> Any:
    return x * ref.weight * ref.given.get("local", THREE)


@effect(_created, "parameter", creates=True)
def creates_parameter(model: Any, x: Any) -> Any:
    return model(x) * Parameter(THREE)


def _registered(ref: Reference, x: Any) -> Any:
    ref.extra = jnp.asarray(ref.given.get("extra", THREE))
    return x * ref.weight * ref.extra


@effect(_registered, "parameter", creates=True)
def registers_parameter(model: Any, x: Any) -> Any:
    model.extra = Parameter(THREE)
    return model(x) * model.extra


@effect(_registered, "buffer", creates=True)
def registers_buffer(model: Any, x: Any) -> Any:
    model.register_buffer("extra", THREE)
    return model(x) * model.extra


def _registered_from_input(ref: Reference, x: Any) -> Any:
    ref.extra = x + 1.0
    return x * ref.weight * ref.extra


@effect(_registered_from_input, "buffer", "x", creates=True)
def registers_buffer_in_forward(model: Any, x: Any) -> Any:
    return model(x)


@effect(_registered_from_input, "array", "x", creates=True)
def creates_array(model: Any, x: Any) -> Any:
    model.extra = x + 1.0
    return model(x) * model.extra


@effect(_after(lambda ref, x: setattr(ref, "hidden", x + 1.0)), "array", "x")
def sets_array(model: Any, x: Any) -> Any:
    model.hidden = x + 1.0
    return model(x)


@effect(lambda ref, x: x * ref.weight + jax.random.uniform(ref.draw(), (SIZE,)), draws=True)
def draws_key(model: Any, x: Any) -> Any:
    return jax.random.uniform(next_rng_key(), (SIZE,)) + model(x)


def _batch_norm(ref: Reference, x: Any) -> Any:
    mean = lax.reduce_sum(x, axes=(0,)) / SIZE
    ref.buffer = ref.buffer * 0.9 + mean * 0.1
    return (x - mean) * ref.weight


@effect(_batch_norm, "buffer", "x")
def normalises_in_training(model: Any, x: Any) -> Any:
    mean = lax.reduce_sum(x, axes=(0,)) / SIZE
    model.buffer = model.buffer * 0.9 + mean * 0.1
    return (x - mean) * model.weight


def _dropout(key: Any, x: Any) -> Any:
    return x * jax.random.bernoulli(key, 0.5, (SIZE,)).astype(x.dtype) * 2.0


@effect(lambda ref, x: _dropout(ref.draw(), x) * ref.weight, draws=True)
def drops_in_training(model: Any, x: Any) -> Any:
    return model(_dropout(next_rng_key(), x))


@effect(_after(lambda ref, x: setattr(ref, "buffer", ref.buffer + 1.0)), "buffer")
def hook_writes_buffer(model: Any, x: Any) -> Any:
    return model(x)


# -- the ways to write a callable --------------------------------------------------------------------------------------

MODEL: Any = None  # the model of the module-level callables below


def vector(x: Any) -> Any:
    return MODEL.effect(MODEL, x)


def scalar(x: Any) -> Any:
    return _scalar(MODEL.effect(MODEL, x), x)


def step(carry: Any, x: Any) -> Any:
    return _step(MODEL.effect(MODEL, carry), x)


def turn(state: Any) -> Any:
    return state[0] + 1, MODEL.effect(MODEL, state[1])


def indexed(i: Any, x: Any) -> Any:
    return MODEL.effect(MODEL, x)


def pair(a: Any, b: Any) -> Any:
    return MODEL.effect(MODEL, a) * b


MODULE_LEVEL = {f.__name__: f for f in (vector, scalar, step, turn, indexed, pair)}


def module_level(model: Any, signature: str) -> Any:
    global MODEL
    MODEL = model
    return MODULE_LEVEL[signature]


def closure(model: Any, signature: str) -> Any:
    return closures(lambda x: model.effect(model, x))[signature]


def bound_method(model: Any, signature: str) -> Any:
    return getattr(model, signature)


CALLABLES = {f.__name__: f for f in (module_level, closure, bound_method)}


def closures(act: Callable[[Any], Any]) -> dict[str, Any]:
    """Fresh callables of every signature around ``act``."""
    return {
        "vector": lambda x: act(x),
        "scalar": lambda x: _scalar(act(x), x),
        "step": lambda carry, x: _step(act(carry), x),
        "turn": lambda state: (state[0] + 1, act(state[1])),
        "indexed": lambda i, x: act(x),
        "pair": lambda a, b: act(a) * b,
    }


# -- the transforms ----------------------------------------------------------------------------------------------------


class Transform(NamedTuple):
    """A jax transform applied to a callable, and the same by plain loops and eager derivatives.

    ``kind`` is "eager" (operations run one by one, on tracers), "staged" (a program is built), "clear" (the callable is called
    as it is), "ruled" (so is a custom_jvp or custom_vjp function, except in a program, which stages it) or "objnet".
    """

    kind: str
    signature: str
    run: Callable[[Any, Any], Any]
    by_hand: Callable[[Any, Any], Any]


STEPS = np.stack([X * 0.5, X - 0.25])
TANGENT = np.asarray([1.0, 0.5, -2.0], np.float32)


def _loop(f: Any, x: Any) -> Any:
    ys = []
    for s in STEPS:
        x, y = f(x, s)
        ys.append(y)
    return x, jnp.stack(ys)


def _rows(f: Any, x: Any) -> Any:
    return jnp.stack([f(x), f(x + 1.0)])


def _mapped(f: Any, x: Any) -> Any:
    """Both rows run from one state, in one run of the callable."""
    second = f.pure(x + 1.0)
    return jnp.stack([f(x), second])


def _mesh() -> Any:
    return jax.sharding.Mesh(np.asarray(jax.devices()[:1]), ("d",))


def _pmap(f: Any, x: Any) -> Any:
    return jax.pmap(f, devices=jax.devices()[:1])(x[None])


def _shard_map(f: Any, x: Any) -> Any:
    return jax.shard_map(f, mesh=_mesh(), in_specs=PartitionSpec(), out_specs=PartitionSpec())(x)


def _while(f: Any, x: Any) -> Any:
    return lax.while_loop(lambda state: state[0] < 2, f, (jnp.int32(0), x))[1]


def _make_jaxpr(f: Any, x: Any) -> Any:
    closed = jax.make_jaxpr(f)(x)
    return jax.core.eval_jaxpr(closed.jaxpr, closed.consts, x)[0]


def _eval_shape(f: Any, x: Any) -> Any:
    return jnp.ones(jax.eval_shape(f, x).shape)


def _vjp(f: Any, x: Any) -> Any:
    y, pullback = jax.vjp(f, x)
    return y, pullback(jnp.asarray(TANGENT))[0]


def _linearize(f: Any, x: Any) -> Any:
    y, push = jax.linearize(f, x)
    return y, push(jnp.asarray(TANGENT))


def _jvp(f: Any, x: Any) -> Any:
    return jax.jvp(f, (x,), (jnp.asarray(TANGENT),))


def _custom_jvp(f: Any) -> Any:
    ruled = jax.custom_jvp(f)
    ruled.defjvp(lambda primals, tangents: (f(*primals), 3.0 * lax.reduce_sum(tangents[0], axes=(0,))))
    return ruled


def _custom_vjp(f: Any) -> Any:
    ruled = jax.custom_vjp(f)
    ruled.defvjp(lambda x: (f(x), None), lambda _, ct: (jnp.full(SIZE, 3.0) * ct,))
    return ruled


class Plain:
    """A callable by hand; each call moves its reference on."""

    def __init__(self, effect: Effect, signature: str, ref: Reference):
        self._ref, self._effect, self._signature = ref, effect, signature
        self._call = closures(lambda x: effect.by_hand(ref, x))[signature]

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def pure(self, *args: Any) -> Any:
        """The same from the state of now, leaving the state alone."""
        return Plain(self._effect, self._signature, copy.copy(self._ref))(*args)


def _ruled(f: Plain, x: Any) -> Any:
    return f(x), jnp.full(SIZE, 3.0)


def _value_and_jacobian(f: Plain, x: Any) -> Any:
    jacobian = jax.jacfwd(f.pure)(x)
    return f(x), jacobian


def _pushed(f: Plain, x: Any) -> Any:
    y, jacobian = _value_and_jacobian(f, x)
    return y, jacobian @ TANGENT


def _pulled(f: Plain, x: Any) -> Any:
    y, jacobian = _value_and_jacobian(f, x)
    return y, TANGENT @ jacobian


def _jacobian(f: Plain, x: Any) -> Any:
    return _value_and_jacobian(f, x)[1]


def _hessian(f: Plain, x: Any) -> Any:
    hessian = jax.jacfwd(jax.jacfwd(f.pure))(x)
    f(x)
    return hessian


def _two(x: Any) -> Any:
    return jnp.stack([x, x + 1.0])


def _three(x: Any) -> Any:
    return jnp.stack([x, x + 1.0, x + 2.0])


TRANSFORMS = {
    "jit": Transform("staged", "vector", lambda f, x: jax.jit(f)(x), lambda f, x: f(x)),
    "grad": Transform("eager", "scalar", lambda f, x: jax.grad(f)(x), _jacobian),
    "value_and_grad": Transform("eager", "scalar", lambda f, x: jax.value_and_grad(f)(x), _value_and_jacobian),
    "vmap": Transform("eager", "vector", lambda f, x: jax.vmap(f)(_two(x)), _mapped),
    "pmap": Transform("staged", "vector", _pmap, lambda f, x: f(x)[None]),
    "jvp": Transform("eager", "vector", _jvp, _pushed),
    "vjp": Transform("eager", "vector", _vjp, _pulled),
    "linearize": Transform("eager", "vector", _linearize, _pushed),
    "jacfwd": Transform("eager", "vector", lambda f, x: jax.jacfwd(f)(x), _jacobian),
    "jacrev": Transform("eager", "vector", lambda f, x: jax.jacrev(f)(x), _jacobian),
    "hessian": Transform("eager", "scalar", lambda f, x: jax.hessian(f)(x), _hessian),
    "checkpoint": Transform("staged", "vector", lambda f, x: jax.checkpoint(f)(x), lambda f, x: f(x)),
    "eval_shape": Transform("staged", "vector", _eval_shape, lambda f, x: jnp.ones(SIZE)),
    "make_jaxpr": Transform("staged", "vector", _make_jaxpr, lambda f, x: f(x)),
    "scan": Transform("staged", "step", lambda f, x: lax.scan(f, x, jnp.asarray(STEPS)), _loop),
    "map": Transform("staged", "vector", lambda f, x: lax.map(f, _two(x)), _rows),
    "cond": Transform("staged", "vector", lambda f, x: lax.cond(x[0] > -9.0, f, lambda x: x, x), lambda f, x: f(x)),
    "switch": Transform("staged", "vector", lambda f, x: lax.switch(jnp.int32(1), [lambda x: x, f], x), lambda f, x: f(x)),
    "while_loop": Transform("staged", "turn", _while, lambda f, x: f(f((0, x)))[1]),
    "fori_loop": Transform("staged", "indexed", lambda f, x: lax.fori_loop(0, 2, f, x), lambda f, x: f(1, f(0, x))),
    "associative_scan": Transform(
        "clear",
        "pair",
        lambda f, x: lax.associative_scan(f, _three(x)),
        lambda f, x: lax.associative_scan(f, _three(x)),
    ),
    "shard_map": Transform("staged", "vector", _shard_map, lambda f, x: f(x)),
    "custom_jvp": Transform("ruled", "scalar", lambda f, x: _custom_jvp(f)(x), lambda f, x: f(x)),
    "custom_vjp": Transform("ruled", "scalar", lambda f, x: _custom_vjp(f)(x), lambda f, x: f(x)),
    "custom_jvp_grad": Transform("eager", "scalar", lambda f, x: jax.value_and_grad(_custom_jvp(f))(x), _ruled),
    "custom_vjp_grad": Transform("clear", "scalar", lambda f, x: jax.value_and_grad(_custom_vjp(f))(x), _ruled),
    "objnet.jit": Transform("objnet", "vector", lambda f, x: jit(f)(x), lambda f, x: f(x)),
    "objnet.grad": Transform("objnet", "scalar", lambda f, x: grad(f)(x), _jacobian),
    "objnet.value_and_grad": Transform("objnet", "scalar", lambda f, x: value_and_grad(f)(x), _value_and_jacobian),
    "no_grad": Transform("objnet", "vector", lambda f, x: no_grad(f)(x), lambda f, x: lax.stop_gradient(f(x))),
}


# -- objnet's own transforms of the same names -------------------------------------------------------------------------


def _own_pmap(f: Any, x: Any) -> Any:
    return transforms.pmap(f, devices=jax.devices()[:1], randomness="same")(x[None])


def _own_shard_map(f: Any, x: Any) -> Any:
    spec = PartitionSpec()
    return transforms.shard_map(f, mesh=_mesh(), in_specs=spec, out_specs=spec, randomness="same")(x)


def _own_jvp(f: Any, x: Any) -> Any:
    return transforms.jvp(f, (x,), (jnp.asarray(TANGENT),))


def _own_vjp(f: Any, x: Any) -> Any:
    y, pullback = transforms.vjp(f, x)
    return y, pullback(jnp.asarray(TANGENT))[0]


def _own_linearize(f: Any, x: Any) -> Any:
    y, push = transforms.linearize(f, x)
    return y, push(jnp.asarray(TANGENT))


def _own_while(f: Any, x: Any) -> Any:
    return transforms.while_loop(lambda state: state[0] < 2, f, (jnp.int32(0), x))[1]


def _own_custom_jvp(f: Any) -> Any:
    ruled = transforms.custom_jvp(f)
    ruled.defjvp(lambda primals, tangents: (f(*primals), 3.0 * lax.reduce_sum(tangents[0], axes=(0,))))
    return ruled


def _own_custom_vjp(f: Any) -> Any:
    ruled = transforms.custom_vjp(f)
    ruled.defvjp(lambda x: (f(x), jnp.zeros(())), lambda _, ct: (jnp.full(SIZE, 3.0) * ct,))
    return ruled


def _own_checkify(f: Any, x: Any) -> Any:
    error, out = transforms.checkify(f)(x)
    return out


OWN = {
    "vmap": Transform("objnet", "vector", lambda f, x: transforms.vmap(f, randomness="same")(_two(x)), _mapped),
    "pmap": Transform("objnet", "vector", _own_pmap, lambda f, x: f(x)[None]),
    "jvp": Transform("objnet", "vector", _own_jvp, _pushed),
    "vjp": Transform("objnet", "vector", _own_vjp, _pulled),
    "linearize": Transform("objnet", "vector", _own_linearize, _pushed),
    "jacfwd": Transform("objnet", "vector", lambda f, x: transforms.jacfwd(f)(x), _jacobian),
    "jacrev": Transform("objnet", "vector", lambda f, x: transforms.jacrev(f)(x), _jacobian),
    "hessian": Transform("objnet", "scalar", lambda f, x: transforms.hessian(f)(x), _hessian),
    "checkpoint": Transform("objnet", "vector", lambda f, x: transforms.checkpoint(f)(x), lambda f, x: f(x)),
    "checkify": Transform("objnet", "vector", _own_checkify, lambda f, x: f(x)),
    "scan": Transform("objnet", "step", lambda f, x: transforms.scan(f, x, jnp.asarray(STEPS)), _loop),
    "map": Transform("objnet", "vector", lambda f, x: transforms.map(f, _two(x)), _rows),
    "cond": Transform("objnet", "vector", lambda f, x: transforms.cond(x[0] > -9.0, f, lambda x: x, x), lambda f, x: f(x)),
    "switch": Transform("objnet", "vector", lambda f, x: transforms.switch(jnp.int32(1), [lambda x: x, f], x), lambda f, x: f(x)),
    "while_loop": Transform("objnet", "turn", _own_while, lambda f, x: f(f((0, x)))[1]),
    "fori_loop": Transform("objnet", "indexed", lambda f, x: transforms.fori_loop(0, 2, f, x), lambda f, x: f(1, f(0, x))),
    "associative_scan": Transform(
        "clear", "pair", lambda f, x: transforms.associative_scan(f, _three(x)), lambda f, x: lax.associative_scan(f, _three(x))
    ),
    "shard_map": Transform("objnet", "vector", _own_shard_map, lambda f, x: f(x)),
    "custom_jvp": Transform("objnet", "scalar", lambda f, x: _own_custom_jvp(f)(x), lambda f, x: f(x)),
    "custom_vjp": Transform("objnet", "scalar", lambda f, x: _own_custom_vjp(f)(x), lambda f, x: f(x)),
    "custom_jvp_grad": Transform("objnet", "scalar", lambda f, x: value_and_grad(_own_custom_jvp(f))(x), _ruled),
    "custom_vjp_grad": Transform("objnet", "scalar", lambda f, x: value_and_grad(_own_custom_vjp(f))(x), _ruled),
}
TRANSFORMS.update({f"objnet.{name}": transform for name, transform in OWN.items()})
