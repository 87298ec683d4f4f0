"""Linear regression by an optimiser of one's own: a pure function over the pure form of a module.

    python examples/linear_regression_sgd.py

``objnet.transform`` turns ``nn.Linear`` into ``init`` and ``apply``; parameters are then a dictionary of arrays, gradients
are one of the same shape, and stochastic gradient descent is a function of both, written with ``jax.tree.map``. An epoch
is a ``lax.scan`` over its batches. The data are the fuel economy of 392 real cars (Auto MPG, from the package mlxtend), and
the answer is known: the least-squares solution, which numpy computes at the end;
the mean squared error of both is 11.5902.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

import objnet
import objnet.nn.functional as F
from objnet import nn

FEATURES = ("cylinders", "displacement", "horsepower", "weight", "acceleration", "year")


class InputError(Exception):
    """Something that should have been installed is missing; shown in one line."""


def load_cars() -> tuple[np.ndarray, np.ndarray]:
    """Six features (392, 6) of cars, each of mean 0 and deviation 1, and how far they go (392, 1), in miles a gallon."""
    spec = importlib.util.find_spec("mlxtend")
    if spec is None:
        raise InputError("no cars to learn from: pip install mlxtend")
    with gzip.open(Path(spec.submodule_search_locations[0], "data", "data", "autompg.csv.gz"), "rt") as file:
        table = np.genfromtxt(file, np.float32, delimiter=",", usecols=(0, 1, 2, 3, 4, 5, 8), comments=None)
    x, y = table[:, :-1], table[:, -1:]
    return (x - x.mean(axis=0)) / x.std(axis=0), y


# -- the model and the optimiser ---------------------------------------------------------------------------------------

net = objnet.without_apply_rng(objnet.transform(lambda x: nn.Linear(len(FEATURES), 1)(x)))


def loss_fn(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    return F.mse_loss(net.apply(params, x), y)


def sgd(params: Any, grads: Any, lr: jax.Array) -> Any:
    """The parameters after a step down the gradient."""
    return jax.tree.map(lambda p, g: p - lr * g, params, grads)


@jax.jit
def train_epoch(params: Any, xs: jax.Array, ys: jax.Array, lr: jax.Array) -> tuple[Any, jax.Array]:
    """Parameters after a step for each of the batches (batches, batch, ...), and their mean loss."""

    def step(params: Any, batch: tuple[jax.Array, jax.Array]) -> tuple[Any, jax.Array]:
        loss, grads = jax.value_and_grad(loss_fn)(params, *batch)
        return sgd(params, grads, lr), loss

    params, losses = jax.lax.scan(step, params, (xs, ys))
    return params, losses.mean()


# -- training ----------------------------------------------------------------------------------------------------------


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Fit the fuel economy of cars.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--epochs", type=int, default=400, help="passes over the cars")
    add("--batch-size", type=int, default=28, help="cars in a step; 28 divide the 392 evenly")
    add("--lr", type=float, default=0.05, help="first learning rate; it falls to zero along a line")
    add("--seed", type=int, default=0, help="seed of weights and batches")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> tuple[float, float]:
    """Train, and give the mean squared error found, and the smallest there is."""
    args = parse_args(argv)
    x, y = load_cars()
    rng = np.random.default_rng(args.seed)
    params = net.init(jax.random.key(args.seed), x)

    batches = len(x) // args.batch_size
    for epoch in range(args.epochs):
        order = rng.permutation(len(x))[: batches * args.batch_size].reshape(batches, args.batch_size)
        params, loss = train_epoch(params, x[order], y[order], args.lr * (1 - epoch / args.epochs))
        if epoch % max(1, args.epochs // 10) == 0:
            print(f"epoch {epoch:4d}: mean squared error {float(loss):.4f}", flush=True)

    with_ones = np.column_stack([x, np.ones_like(y)]).astype(np.float64)
    solution = np.linalg.lstsq(with_ones, y.astype(np.float64), rcond=None)[0]
    found, best = float(loss_fn(params, x, y)), float(np.mean((with_ones @ solution - y) ** 2))
    ((weights,), bias) = (params["linear"][name] for name in ("weight", "bias"))
    print(f"{'':14}{'found':>9}{'least squares':>15}")
    for name, value, exact in zip((*FEATURES, "bias"), (*weights, *bias), solution[:, 0], strict=True):
        print(f"{name:14}{float(value):9.3f}{exact:15.3f}")
    print(f"{'error':14}{found:9.4f}{best:15.4f}")
    return found, best


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        print(f"{Path(__file__).name}: error: {error}", file=sys.stderr)
        sys.exit(2)
