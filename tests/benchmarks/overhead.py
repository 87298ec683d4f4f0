"""What a call costs beyond its arithmetic: layers of width 4 on one example, so that nearly all of it is overhead.

    python -m tests.benchmarks.overhead [--rounds 50] [--layers 2 16 64] [--forward-layers 32] [--sample 0.02]

Each way of writing it follows its library's own documentation. Every entry is a function without arguments that makes
one call and returns its loss, or for the forward pass its output.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import objnet
from objnet import nn, optim
from tests.benchmarks.measure import check_losses, interleave, table

WIDTH = 4
LR = 1e-3
Weights = list[tuple[np.ndarray, ...]]  # of each layer: (in, out) and (out,)
Build = Callable[[Weights, jax.Array, jax.Array], Callable[[], jax.Array]]


def make_weights(layers: int) -> Weights:
    rng = np.random.default_rng(0)
    shapes = ((WIDTH, WIDTH), 0.5), ((WIDTH,), 0.1)
    return [tuple(rng.normal(0, scale, shape).astype(np.float32) for shape, scale in shapes) for _ in range(layers)]


def squared_error(output: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.mean((output - y) ** 2)


# -- hand-written jax: nested dicts and optax --------------------------------------------------------------------------


def as_dicts(weights: Weights) -> dict[str, dict[str, jax.Array]]:
    return {f"linear_{i}": {"w": jnp.array(w), "b": jnp.array(b)} for i, (w, b) in enumerate(weights)}


def apply_dicts(params: Any, x: jax.Array) -> jax.Array:
    for i in range(len(params)):
        layer = params[f"linear_{i}"]
        x = x @ layer["w"] + layer["b"]
        if i + 1 < len(params):
            x = jnp.tanh(x)
    return x


def functional_step(apply: Any, params: Any, x: jax.Array, y: jax.Array, **options: Any) -> Callable[[], jax.Array]:
    """The training step every functional library documents: parameters and optimizer state in, and out."""
    optimizer = optax.adam(LR)
    opt_state = optimizer.init(params)

    def update(params: Any, opt_state: Any, x: jax.Array, y: jax.Array) -> Any:
        loss, grads = jax.value_and_grad(lambda p: squared_error(apply(p, x), y))(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    compiled = jax.jit(update, **options)

    def step() -> jax.Array:
        nonlocal params, opt_state
        params, opt_state, loss = compiled(params, opt_state, x, y)
        return loss

    return step


def jax_step(weights: Weights, x: jax.Array, y: jax.Array) -> Callable[[], jax.Array]:
    return functional_step(apply_dicts, as_dicts(weights), x, y)


def jax_donating_step(weights: Weights, x: jax.Array, y: jax.Array) -> Callable[[], jax.Array]:
    return functional_step(apply_dicts, as_dicts(weights), x, y, donate_argnums=(0, 1))


def jax_forward(weights: Weights, x: jax.Array, y: jax.Array) -> Callable[[], jax.Array]:
    params, apply = as_dicts(weights), jax.jit(apply_dicts)
    return lambda: apply(params, x)


# -- dm-haiku ----------------------------------------------------------------------------------------------------------


def haiku_net(weights: Weights, x: jax.Array) -> tuple[Any, Any]:
    import haiku as hk

    net = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([WIDTH] * len(weights), activation=jnp.tanh)(x)))
    params = net.init(jax.random.key(0), x)
    loaded = {path: {"w": jnp.array(w), "b": jnp.array(b)} for path, (w, b) in zip(params, weights, strict=True)}
    return net, loaded


def haiku_step(weights: Weights, x: jax.Array, y: jax.Array) -> Callable[[], jax.Array]:
    net, params = haiku_net(weights, x)
    return functional_step(net.apply, params, x, y)


def haiku_forward(weights: Weights, x: jax.Array, y: jax.Array) -> Callable[[], jax.Array]:
    net, params = haiku_net(weights, x)
    apply = jax.jit(net.apply)
    return lambda: apply(params, x)


# -- flax.nnx ----------------------------------------------------------------------------------------------------------


def nnx_model(weights: Weights) -> Any:
    from flax import nnx

    class MLP(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.layers = nnx.List([nnx.Linear(WIDTH, WIDTH, rngs=rngs) for _ in weights])

        def __call__(self, x: jax.Array) -> jax.Array:
            for layer in self.layers[:-1]:
                x = jnp.tanh(layer(x))
            return self.layers[-1](x)

    model = MLP(nnx.Rngs(0))
    for layer, (w, b) in zip(model.layers, weights, strict=True):
        layer.kernel[...], layer.bias[...] = jnp.array(w), jnp.array(b)
    return model


def nnx_train_step(weights: Weights) -> tuple[Any, Any, Any]:
    from flax import nnx

    model = nnx_model(weights)
    optimizer = nnx.Optimizer(model, optax.adam(LR), wrt=nnx.Param)

    @nnx.jit
    def train_step(model: Any, optimizer: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        loss, grads = nnx.value_and_grad(lambda model: squared_error(model(x), y))(model)
        optimizer.update(model, grads)
        return loss

    return train_step, model, optimizer


def nnx_step(weights: Weights, x: jax.Array, y: jax.Array) -> Callable[[], jax.Array]:
    train_step, model, optimizer = nnx_train_step(weights)
    return lambda: train_step(model, optimizer, x, y)


def nnx_cached_step(weights: Weights, x: jax.Array, y: jax.Array) -> Callable[[], jax.Array]:
    from flax import nnx

    cached = nnx.cached_partial(*nnx_train_step(weights))
    return lambda: cached(x, y)


def nnx_forward(weights: Weights, x: jax.Array, y: jax.Array) -> Callable[[], jax.Array]:
    from flax import nnx

    model, apply = nnx_model(weights), nnx.jit(lambda model, x: model(x))
    return lambda: apply(model, x)


def nnx_cached_forward(weights: Weights, x: jax.Array, y: jax.Array) -> Callable[[], jax.Array]:
    from flax import nnx

    cached = nnx.cached_partial(nnx.jit(lambda model, x: model(x)), nnx_model(weights))
    return lambda: cached(x)


# -- equinox -----------------------------------------------------------------------------------------------------------


def eqx_model(weights: Weights) -> Any:
    import equinox as eqx

    class MLP(eqx.Module):
        layers: list[eqx.nn.Linear]

        def __call__(self, x: jax.Array) -> jax.Array:
            for layer in self.layers[:-1]:
                x = jnp.tanh(layer(x))
            return self.layers[-1](x)

    model = MLP([eqx.nn.Linear(WIDTH, WIDTH, key=jax.random.key(0)) for _ in weights])
    return eqx.tree_at(
        lambda m: [a for layer in m.layers for a in (layer.weight, layer.bias)],
        model,
        [jnp.array(a) for w, b in weights for a in (w.T, b)],
    )


def eqx_step(weights: Weights, x: jax.Array, y: jax.Array) -> Callable[[], jax.Array]:
    import equinox as eqx

    model = eqx_model(weights)
    optimizer = optax.adam(LR)
    opt_state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def make_step(model: Any, opt_state: Any, x: jax.Array, y: jax.Array) -> Any:
        loss, grads = eqx.filter_value_and_grad(lambda model: squared_error(jax.vmap(model)(x), y))(model)
        updates, opt_state = optimizer.update(grads, opt_state, eqx.filter(model, eqx.is_inexact_array))
        return eqx.apply_updates(model, updates), opt_state, loss

    def step() -> jax.Array:
        nonlocal model, opt_state
        model, opt_state, loss = make_step(model, opt_state, x, y)
        return loss

    return step


def eqx_forward(weights: Weights, x: jax.Array, y: jax.Array) -> Callable[[], jax.Array]:
    import equinox as eqx

    model, apply = eqx_model(weights), eqx.filter_jit(lambda model, x: jax.vmap(model)(x))
    return lambda: apply(model, x)


# -- objnet ------------------------------------------------------------------------------------------------------------


class MLP(nn.Module):
    def __init__(self, layers: int):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(layers))

    def forward(self, x: jax.Array) -> jax.Array:
        *hidden, last = self.layers
        for layer in hidden:
            x = jnp.tanh(layer(x))
        return last(x)


def objnet_model(weights: Weights) -> MLP:
    model = MLP(len(weights))
    for layer, (w, b) in zip(model.layers, weights, strict=True):
        layer.weight.data, layer.bias.data = jnp.array(w.T), jnp.array(b)
    return model


def objnet_step(weights: Weights, x: jax.Array, y: jax.Array) -> Callable[[], jax.Array]:
    model = objnet_model(weights)
    optimizer = optim.Adam(model.parameters(), lr=LR)

    @objnet.jit
    def train_step(x: jax.Array, y: jax.Array) -> jax.Array:
        return optimizer.step(lambda: squared_error(model(x), y))

    return lambda: train_step(x, y)


def objnet_forward(weights: Weights, x: jax.Array, y: jax.Array) -> Callable[[], jax.Array]:
    compiled = objnet.jit(objnet_model(weights))
    return lambda: compiled(x)


STEPS: dict[str, Build] = {
    "jax": jax_step,
    "jax, donating": jax_donating_step,
    "dm-haiku": haiku_step,
    "nnx.jit": nnx_step,
    "nnx.cached_partial": nnx_cached_step,
    "eqx.filter_jit": eqx_step,
    "objnet.jit": objnet_step,
}
FORWARDS: dict[str, Build] = {
    "jax": jax_forward,
    "dm-haiku": haiku_forward,
    "nnx.jit": nnx_forward,
    "nnx.cached_partial": nnx_cached_forward,
    "eqx.filter_jit": eqx_forward,
    "objnet.jit": objnet_forward,
}


# -- measuring ---------------------------------------------------------------------------------------------------------


def sampler(step: Callable[[], jax.Array], seconds: float) -> Callable[[], float]:
    """Seconds per call, taken over as many calls as fill ``seconds``, the last of which is waited for."""
    start = time.perf_counter()
    for _ in range(5):
        step().block_until_ready()
    calls = max(3, round(5 * seconds / (time.perf_counter() - start)))

    def sample() -> float:
        start = time.perf_counter()
        for _ in range(calls):
            out = step()
        out.block_until_ready()
        return (time.perf_counter() - start) / calls

    return sample


def compare(title: str, builds: dict[str, Build], layers: int, rounds: int, seconds: float) -> str:
    """Build every entry from the same weights, check that they agree, time them in turns, and give the table."""
    weights = make_weights(layers)
    x, y = jnp.array([[0.5, -1.0, 2.0, 0.25]], jnp.float32), jnp.ones((1, WIDTH), jnp.float32)
    times: dict[str, Any] = dict.fromkeys(builds, "not installed")
    steps: dict[str, Callable[[], jax.Array]] = {}
    for name, build in builds.items():
        try:
            steps[name] = build(weights, x, y)
        except ImportError:
            continue
    check_losses({name: [float(step().sum()) for _ in range(3)] for name, step in steps.items()}, 1e-5)
    times.update(interleave({name: sampler(step, seconds) for name, step in steps.items()}, rounds))
    return table(title, times, 1e-6, "us")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Overhead of a compiled call, side by side.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=50, help="interleaved rounds")
    parser.add_argument("--layers", type=int, nargs="*", default=[2, 16, 64], help="sizes of the training step")
    parser.add_argument("--forward-layers", type=int, nargs="*", default=[32], help="sizes of the forward pass")
    parser.add_argument("--sample", type=float, default=0.02, help="seconds of calls in a round, for each entry")
    args = parser.parse_args(argv)
    for layers in args.layers:
        title = f"one Adam step, {layers} layers"
        print(compare(title, STEPS, layers, args.rounds, args.sample), end="\n\n", flush=True)
    for layers in args.forward_layers:
        title = f"forward, {layers} layers"
        print(compare(title, FORWARDS, layers, args.rounds, args.sample), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
