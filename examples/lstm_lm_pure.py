"""An LSTM from scratch, purified and trained by plain JAX: jit, grad, vmap, scan and pmap.

    python examples/lstm_lm_pure.py                     # the text of Python's own help pages, a minute on two cores
    python examples/lstm_lm_pure.py --data novel.txt    # any text in UTF-8

The modules are written as in torch, for one character of one text. ``objnet.transform`` makes two pure functions of
them, and from there on everything is JAX: scan runs over the characters, vmap over the texts of a batch, grad takes the
gradient, jit compiles, pmap spreads a batch over the devices, and jax.tree.map is the optimizer.
"""

from __future__ import annotations

import argparse
import functools
import math
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

import objnet
from objnet import nn

State = tuple[jax.Array, jax.Array]


class LSTMCell(nn.Module):
    """One step of a long short-term memory."""

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__()
        self.weight_ih = nn.Parameter(jnp.empty((4 * hidden_size, input_size)))
        self.weight_hh = nn.Parameter(jnp.empty((4 * hidden_size, hidden_size)))
        self.bias = nn.Parameter(jnp.zeros(4 * hidden_size))
        nn.init.xavier_uniform_(self.weight_ih)
        nn.init.xavier_uniform_(self.weight_hh)

    def forward(self, x: jax.Array, state: State) -> tuple[jax.Array, State]:
        h, c = state
        i, f, g, o = jnp.split(self.weight_ih @ x + self.weight_hh @ h + self.bias, 4)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return h, (h, c)


class CharModel(nn.Module):
    """Scores for the next character, from a character and the state before it."""

    def __init__(self, nchars: int, hidden_size: int):
        super().__init__()
        self.embedding = nn.Embedding(nchars, hidden_size)
        self.cell = LSTMCell(hidden_size, hidden_size)
        self.decoder = nn.Linear(hidden_size, nchars)

    def forward(self, char: jax.Array, state: State) -> tuple[jax.Array, State]:
        h, state = self.cell(self.embedding(char), state)
        return self.decoder(h), state


class Functions(NamedTuple):
    """The pure functions of a model."""

    init: Any
    loss: Any
    train_step: Any
    generate: Any


def zero_state(*shape: int) -> State:
    return jnp.zeros(shape), jnp.zeros(shape)


def purify(nchars: int, hidden_size: int, clip: float) -> Functions:
    net = objnet.transform(lambda char, state: CharModel(nchars, hidden_size)(char, state))

    def init(key: jax.Array) -> Any:
        return net.init(key, jnp.zeros((), jnp.int32), zero_state(hidden_size))

    def text_loss(params: Any, state: State, chars: jax.Array, targets: jax.Array) -> tuple[jax.Array, State]:
        def step(state: State, pair: tuple[jax.Array, jax.Array]) -> tuple[State, jax.Array]:
            char, target = pair
            scores, state = net.apply(params, None, char, state)
            return state, -jax.nn.log_softmax(scores)[target]

        state, losses = jax.lax.scan(step, state, (chars, targets))
        return losses.mean(), state

    @jax.jit
    def loss(params: Any, state: State, chars: jax.Array, targets: jax.Array) -> tuple[jax.Array, Any]:
        """Mean loss of a character of (texts, characters), and beside it (the same, the state after them)."""
        losses, state = jax.vmap(text_loss, in_axes=(None, 0, 0, 0))(params, state, chars, targets)
        return losses.mean(), (losses.mean(), state)

    @functools.partial(jax.pmap, axis_name="devices", in_axes=(None, None, 0, 0, 0), out_axes=(None, None, 0))
    def train_step(params: Any, lr: jax.Array, state: State, chars: jax.Array, targets: jax.Array) -> Any:
        grads, (value, state) = jax.grad(loss, has_aux=True)(params, state, chars, targets)
        grads, value = jax.lax.pmean((grads, value), "devices")
        norm = jnp.sqrt(sum(jnp.vdot(g, g) for g in jax.tree.leaves(grads)))
        rate = lr * jnp.minimum(1.0, clip / norm)
        return jax.tree.map(lambda p, g: p - rate * g, params, grads), value, state

    @functools.partial(jax.jit, static_argnums=3)
    def generate(params: Any, key: jax.Array, first: jax.Array, count: int) -> jax.Array:
        def step(carry: tuple[jax.Array, State], key: jax.Array) -> tuple[tuple[jax.Array, State], jax.Array]:
            scores, state = net.apply(params, None, *carry)
            char = jax.random.categorical(key, scores)
            return (char, state), char

        _, chars = jax.lax.scan(step, (first, zero_state(hidden_size)), jax.random.split(key, count))
        return chars

    return Functions(init, loss, train_step, generate)


# -- the text ----------------------------------------------------------------------------------------------------------


def read_text(path: str | None) -> str:
    if path is None:
        from pydoc_data.topics import topics

        # The pages quote one another: what is said twice is kept once, or validation would ask for what was learnt.
        return "\n\n".join(dict.fromkeys(p for topic in sorted(topics) for p in topics[topic].split("\n\n")))
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        fail(f"cannot read {path}: {error.strerror}")
    except UnicodeDecodeError as error:
        fail(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}")


def batches(ids: np.ndarray, rows: tuple[int, ...], bptt: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pieces (*rows, bptt) of ``rows`` stretches of the text, and the same one character on."""
    length = (len(ids) - 1) // math.prod(rows)
    chars, targets = (a[: length * math.prod(rows)].reshape(*rows, length) for a in (ids[:-1], ids[1:]))
    for i in range(0, length - bptt + 1, bptt):
        yield chars[..., i : i + bptt], targets[..., i : i + bptt]


# -- the command line --------------------------------------------------------------------------------------------------

QUICK = {"hidden": 32, "epochs": 2, "bptt": 32, "sample": 40}
QUICK_CHARACTERS = 30_000
EVAL_ROWS = 4


def fail(message: str) -> NoReturn:
    print(f"lstm_lm_pure: error: {message}", file=sys.stderr)
    raise SystemExit(2)


def number(kind: type, low: float, above: bool = False) -> Any:
    """A parser of finite numbers from ``low`` on, itself excluded if ``above``."""

    def parse(text: str) -> Any:
        value = kind(text)
        if not low <= value < math.inf or (above and value == low):
            raise argparse.ArgumentTypeError(f"{text} is not {f'above {low}' if above else f'{low} or more'}")
        return value

    parse.__name__ = kind.__name__
    return parse


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    count, positive = number(int, 1), number(float, 0, above=True)
    show_defaults = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=show_defaults)
    parser.add_argument("--data", metavar="FILE", help="a text in UTF-8; by default the help pages of this Python")
    parser.add_argument("--quick", action="store_true", help="a small model on the start of the text, for a try")
    parser.add_argument("--epochs", type=count, default=5, help="passes over the text")
    parser.add_argument("--hidden", type=count, default=128, help="size of embedding and state")
    parser.add_argument("--lr", type=positive, default=4.0, help="first learning rate; it falls to zero along a cosine")
    parser.add_argument("--clip", type=positive, default=0.25, help="largest norm of a gradient")
    parser.add_argument("--batch-size", type=count, default=32, help="stretches of text side by side, on all devices")
    parser.add_argument("--bptt", type=count, default=64, help="characters a gradient goes back")
    parser.add_argument("--seed", type=number(int, 0), default=1111, help="of initial weights and sample")
    parser.add_argument("--sample", metavar="N", type=number(int, 0), default=400, help="characters to generate")
    if parser.parse_known_args(argv)[0].quick:
        parser.set_defaults(**QUICK)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    name = args.data or "pydoc_data.topics"
    text = read_text(args.data)
    if not text.strip():
        fail(f"{name} is empty")
    text = text[:QUICK_CHARACTERS] if args.quick else text
    alphabet = sorted(set(text))
    numbers = {char: i for i, char in enumerate(alphabet)}
    ids = np.array([numbers[char] for char in text], np.int32)
    train, valid = np.split(ids, [len(ids) - len(ids) // 10])

    devices = jax.local_device_count()
    if args.batch_size % devices:
        fail(f"--batch-size {args.batch_size} cannot be split evenly over {devices} devices")
    rows = (devices, args.batch_size // devices)
    for part, found, least, see in (
        ("training", len(train), args.batch_size * args.bptt + 1, "--batch-size, --bptt"),
        ("validation", len(valid), EVAL_ROWS * args.bptt + 1, "--bptt"),
    ):
        if found < least:
            fail(f"{name} is too short: {found} characters for {part}, where one batch needs {least} (see {see})")

    functions = purify(len(alphabet), args.hidden, args.clip)
    keys = objnet.PRNGSequence(args.seed)
    params = functions.init(next(keys))
    print(f"{name}: {len(train)} characters to train on, {len(valid)} to validate, alphabet {len(alphabet)}")
    print(f"{sum(p.size for p in jax.tree.leaves(params))} parameters, {devices} device{'s' if devices > 1 else ''}")

    steps = args.epochs * len(list(batches(train, rows, args.bptt)))
    step = 0
    for epoch in range(1, args.epochs + 1):
        state, losses = zero_state(*rows, args.hidden), []
        for chars, targets in batches(train, rows, args.bptt):
            lr = args.lr * (1 + math.cos(math.pi * step / steps)) / 2
            params, value, state = functions.train_step(params, lr, state, chars, targets)
            losses.append(value)
            step += 1
        state, valid_losses = zero_state(EVAL_ROWS, args.hidden), []
        for chars, targets in batches(valid, (EVAL_ROWS,), args.bptt):
            value, (_, state) = functions.loss(params, state, chars, targets)
            valid_losses.append(value)
        train_loss, valid_loss = float(np.mean(losses)), float(np.mean(valid_losses))
        print(
            f"epoch {epoch:3d} | train loss {train_loss:.4f} ppl {perplexity(train_loss):7.2f} | "
            f"valid loss {valid_loss:.4f} ppl {perplexity(valid_loss):7.2f}",
            flush=True,
        )
        if not math.isfinite(valid_loss):
            fail(f"the loss is {valid_loss} after epoch {epoch}: the training diverged, try a smaller --lr")
    if args.sample:
        chars = functions.generate(params, next(keys), jnp.asarray(numbers.get("\n", 0)), args.sample)
        print(f"sample:\n{textwrap.indent(''.join(alphabet[i] for i in chars.tolist()), '    ')}")


def perplexity(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf


if __name__ == "__main__":
    main()
