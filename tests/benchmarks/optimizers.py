"""A compiled step of every optimizer on 160 small parameters against the same optimizer of optax in hand-written jax.

    python -m tests.benchmarks.optimizers [--rounds 20] [--layers 80] [--sample 0.05] [--only Adam SGD]

Where optax's maths is another (its defaults, where eps goes) the losses differ and the row's title says so.
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
from tests.benchmarks.measure import LossesDiffer, check_losses, interleave, table
from tests.benchmarks.overhead import WIDTH, Weights, apply_dicts, as_dicts, make_weights, squared_error

LR = 1e-3
PAIRS: dict[str, tuple[Callable[[Any], Any], Callable[[], Any]]] = {
    "SGD": (lambda p: optim.SGD(p, lr=LR), lambda: optax.sgd(LR)),
    "SGD, momentum": (lambda p: optim.SGD(p, lr=LR, momentum=0.9), lambda: optax.sgd(LR, momentum=0.9)),
    "Adam": (lambda p: optim.Adam(p, lr=LR), lambda: optax.adam(LR)),
    "Adam, amsgrad": (lambda p: optim.Adam(p, lr=LR, amsgrad=True), lambda: optax.amsgrad(LR)),
    "AdamW": (lambda p: optim.AdamW(p, lr=LR), lambda: optax.adamw(LR, weight_decay=1e-2)),
    "Adadelta": (lambda p: optim.Adadelta(p, lr=LR), lambda: optax.adadelta(LR)),
    "Adafactor": (lambda p: optim.Adafactor(p, lr=LR), lambda: optax.adafactor(LR, min_dim_size_to_factor=1)),
    "Adagrad": (lambda p: optim.Adagrad(p, lr=LR), lambda: optax.adagrad(LR)),
    "Adamax": (lambda p: optim.Adamax(p, lr=LR), lambda: optax.adamax(LR)),
    "NAdam": (lambda p: optim.NAdam(p, lr=LR), lambda: optax.nadam(LR)),
    "RAdam": (lambda p: optim.RAdam(p, lr=LR), lambda: optax.radam(LR)),
    "RMSprop": (lambda p: optim.RMSprop(p, lr=LR), lambda: optax.rmsprop(LR)),
    "RMSprop, all": (
        lambda p: optim.RMSprop(p, lr=LR, momentum=0.9, centered=True),
        lambda: optax.rmsprop(LR, momentum=0.9, centered=True),
    ),
    "Rprop": (lambda p: optim.Rprop(p, lr=LR), lambda: optax.rprop(LR)),
    "ASGD": (lambda p: optim.ASGD(p, lr=LR), lambda: optim.ASGD.as_optax(lr=LR)),
    "Muon": (
        lambda p: optim.Muon([q for q in p if q.ndim == 2], lr=LR),
        lambda: optax.partition(
            {"m": optax.contrib.muon(LR), "n": optax.set_to_zero()}, lambda t: jax.tree.map(lambda x: "nm"[x.ndim == 2], t)
        ),
    ),
    "Optax(lion)": (lambda p: optim.Optax(p, optax.lion(LR)), lambda: optax.lion(LR)),
}


def objnet_step(make: Callable[[Any], Any], weights: Weights, x: jax.Array, y: jax.Array) -> Callable[[], jax.Array]:
    model = nn.Sequential()
    for i, (w, b) in enumerate(weights):
        layer = nn.Linear(WIDTH, WIDTH)
        layer.weight.data, layer.bias.data = jnp.array(w.T), jnp.array(b)
        model.append(layer)
        if i + 1 < len(weights):
            model.append(nn.Tanh())
    optimizer = make(model.parameters())

    @objnet.jit
    def step() -> jax.Array:
        return optimizer.step(lambda: squared_error(model(x), y))

    return step


def hand_step(make: Callable[[], Any], weights: Weights, x: jax.Array, y: jax.Array, **options: Any) -> Callable[[], jax.Array]:
    tx = make()
    params = as_dicts(weights)
    state = tx.init(params)

    def update(params: Any, state: Any, x: jax.Array, y: jax.Array) -> Any:
        loss, grads = jax.value_and_grad(lambda p: squared_error(apply_dicts(p, x), y))(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    compiled = jax.jit(update, **options)

    def step() -> jax.Array:
        nonlocal params, state
        params, state, loss = compiled(params, state, x, y)
        return loss

    return step


def timed(step: Callable[[], jax.Array], sample: float) -> Callable[[], float]:
    """Seconds a call, over as many calls as fill ``sample`` seconds."""
    start = time.perf_counter()
    step().block_until_ready()
    calls = max(1, int(sample / max(time.perf_counter() - start, 1e-6)))

    def run() -> float:
        start = time.perf_counter()
        for _ in range(calls):
            loss = step()
        loss.block_until_ready()
        return (time.perf_counter() - start) / calls

    return run


def compare(name: str, layers: int, rounds: int, sample: float) -> str:
    ours, theirs = PAIRS[name]
    rng = np.random.default_rng(1)
    weights = make_weights(layers)
    x, y = (jnp.asarray(rng.normal(size=(1, WIDTH)).astype(np.float32)) for _ in range(2))
    steps = {
        "jax and optax": hand_step(theirs, weights, x, y),
        "the same, donating": hand_step(theirs, weights, x, y, donate_argnums=(0, 1)),
        "objnet.jit": objnet_step(ours, weights, x, y),
    }
    losses = {entry: [float(step()) for _ in range(5)] for entry, step in steps.items()}
    title = f"{name}, {2 * layers} parameters"
    try:
        check_losses(losses, 1e-4)
    except LossesDiffer:
        title += " (optax's maths is another)"
    return table(title, interleave({entry: timed(step, sample) for entry, step in steps.items()}, rounds), 1e-6, "us")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--layers", type=int, default=80)
    parser.add_argument("--sample", type=float, default=0.05, help="seconds of calls a measurement")
    parser.add_argument("--only", nargs="*", default=list(PAIRS), choices=list(PAIRS))
    arguments = parser.parse_args()
    for name in arguments.only:
        print(compare(name, arguments.layers, arguments.rounds, arguments.sample), flush=True)
        print()


if __name__ == "__main__":
    main()
