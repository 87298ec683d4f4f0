"""A character language model: a decoder-only Transformer (pytorch/examples, word_language_model --model Transformer).

    python examples/transformer_lm.py                     # the text of Python's own help pages, two minutes on two cores
    python examples/transformer_lm.py --data novel.txt    # any text in UTF-8

``nn.TransformerEncoder`` with a causal mask sees a window of the text and predicts the next character at each place. The
learning rate warms up and falls along a cosine by plain assignment to ``optimizer.param_groups``: it is data of the
compiled step, which is compiled once. Validation ends at a loss of 1.38, 2.0 bits a character; then a sample is drawn, and
``--save`` holds the weights.
"""

from __future__ import annotations

import argparse
import math
import sys
import textwrap
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import objnet
import objnet.nn.functional as F
from objnet import nn, optim


class PositionalEncoding(nn.Module):
    """Adds sines and cosines of the position, of wavelengths from 2 pi to 10000 * 2 pi."""

    def __init__(self, d_model: int, dropout: float, max_len: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        angles = np.arange(max_len)[:, None] * np.exp(np.arange(0, d_model, 2) * (-math.log(10000.0) / d_model))
        pe = np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(max_len, d_model)
        self.register_buffer("pe", jnp.asarray(pe, jnp.float32), persistent=False)

    def forward(self, x: jax.Array) -> jax.Array:
        return self.dropout(x + self.pe[: x.shape[1]])


class TransformerModel(nn.Module):
    """Characters (batch, length) to scores (batch, length, ntoken) of what comes after each of them."""

    def __init__(self, ntoken: int, ninp: int, nhead: int, nhid: int, nlayers: int, dropout: float, max_len: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(ntoken, ninp)
        self.pos_encoder = PositionalEncoding(ninp, dropout, max_len)
        layer = nn.TransformerEncoderLayer(ninp, nhead, nhid, dropout, "gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, nlayers, norm=nn.LayerNorm(ninp), enable_nested_tensor=False)
        self.decoder = nn.Linear(ninp, ntoken)
        self.scale = math.sqrt(ninp)
        self.init_weights()

    def init_weights(self) -> None:
        nn.init.normal_(self.embedding.weight, std=1 / self.scale)
        for p in self.encoder.parameters():  # the layers are copies of one: each gets weights of its own
            if p.dim() > 1:
                nn.init.xavier_uniform_(p)
        nn.init.zeros_(self.decoder.bias)
        nn.init.uniform_(self.decoder.weight, -0.1, 0.1)

    def forward(self, chars: jax.Array) -> jax.Array:
        mask = nn.Transformer.generate_square_subsequent_mask(chars.shape[1])
        x = self.pos_encoder(self.embedding(chars) * self.scale)
        return self.decoder(self.encoder(x, mask=mask, is_causal=True))


# -- the text ----------------------------------------------------------------------------------------------------------


class InputError(Exception):
    """Something the user gave is missing or unfit; shown in one line."""


def read_text(path: Path | None) -> str:
    if path is None:
        from pydoc_data.topics import topics

        # The pages quote one another: what is said twice is kept once, or validation would ask for what was learnt.
        return "\n\n".join(dict.fromkeys(p for topic in sorted(topics) for p in topics[topic].split("\n\n")))
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None


def get_batch(source: np.ndarray, starts: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``length`` characters from each of ``starts`` on, and the same one character on."""
    windows = source[starts[:, None] + np.arange(length + 1)]
    return windows[:, :-1], windows[:, 1:]


# -- training ----------------------------------------------------------------------------------------------------------


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train a Transformer on the characters of a text.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, metavar="FILE", help="a text in UTF-8; by default the help pages of this Python")
    add("--save", type=Path, metavar="DIR", default=Path("runs/transformer_lm"), help="where the weights go")
    add("--d-model", type=int, default=128, help="size of embeddings and layers")
    add("--nhead", type=int, default=4, help="heads of attention")
    add("--nlayers", type=int, default=2, help="layers")
    add("--dropout", type=float, default=0.0, help="dropout; 0.1 and more for longer runs")
    add("--length", type=int, default=64, help="characters the model sees at once")
    add("--batch-size", type=int, default=16, help="windows in a training step")
    add("--steps", type=int, default=1200, help="training steps")
    add("--lr", type=float, default=3e-3, help="highest learning rate of AdamW")
    add("--clip", type=float, default=1.0, help="largest norm of a gradient")
    add("--log-interval", type=int, default=100, help="steps between two lines of report")
    add("--sample", type=int, default=400, metavar="N", help="characters to make up at the end")
    add("--seed", type=int, default=1, help="seed of weights, batches and the sample")
    return parser.parse_args(argv)


def learning_rate(step: int, steps: int, highest: float) -> float:
    """A rise over the first twentieth of the steps, then a cosine down to a tenth."""
    warmup = max(1, steps // 20)
    if step < warmup:
        return highest * (step + 1) / warmup
    return highest * (0.55 + 0.45 * math.cos(math.pi * (step - warmup) / (steps - warmup)))


def generate(model: TransformerModel, first: int, count: int, length: int, temperature: float = 0.8) -> list[int]:
    """``count`` characters that the model makes up after ``first``, one at a time."""
    model.eval()

    @objnet.jit
    def next_char(window: jax.Array, last: int) -> jax.Array:
        # What lies behind the last character does not matter: the mask hides it. So one shape, and one program, do.
        scores = model(window[None])[0, last]
        return jax.random.categorical(objnet.next_rng_key(), scores / temperature)

    chars = [first]
    for _ in range(count):
        seen = chars[-length:]
        window = np.zeros(length, np.int32)
        window[: len(seen)] = seen
        chars.append(int(next_char(window, len(seen) - 1)))
    return chars[1:]


def main(argv: list[str] | None = None) -> float:
    """Train, and give the mean loss of a character of the validation text."""
    args = parse_args(argv)
    text = read_text(args.data)
    alphabet = sorted(set(text))
    numbers = {char: i for i, char in enumerate(alphabet)}
    ids = np.array([numbers[char] for char in text], np.int32)
    train, valid = np.split(ids, [len(ids) - len(ids) // 10])
    if len(valid) <= args.length:
        raise InputError(f"the text is too short: {len(valid)} characters for validation, --length {args.length}")
    args.save.mkdir(parents=True, exist_ok=True)

    objnet.retain_freed_memory()
    objnet.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    width = 4 * args.d_model
    model = TransformerModel(len(alphabet), args.d_model, args.nhead, width, args.nlayers, args.dropout, args.length)
    optimizer = optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=0.1)
    print(f"{len(train)} characters to train on, {len(valid)} to validate, alphabet {len(alphabet)}")
    print(f"{sum(p.numel() for p in model.parameters())} parameters")

    def loss_of(chars: jax.Array, targets: jax.Array) -> jax.Array:
        return F.cross_entropy(model(chars).reshape(-1, len(alphabet)), targets.reshape(-1))

    @objnet.jit
    def train_step(chars: jax.Array, targets: jax.Array) -> jax.Array:
        optimizer.zero_grad()
        loss = objnet.backward(lambda: loss_of(chars, targets))
        nn.utils.clip_grad_norm_(model.parameters(), args.clip)
        optimizer.step()
        return loss

    eval_step = objnet.jit(loss_of)
    valid_starts = np.arange(0, len(valid) - args.length, args.length)

    def evaluate() -> float:
        model.eval()
        parts = [valid_starts[i : i + args.batch_size] for i in range(0, len(valid_starts), args.batch_size)]
        losses = [float(eval_step(*get_batch(valid, part, args.length))) for part in parts]
        return float(np.average(losses, weights=[len(part) for part in parts]))

    valid_loss, losses, start = math.nan, [], time.perf_counter()
    for step in range(args.steps):
        model.train()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.steps, args.lr)
        starts = rng.integers(0, len(train) - args.length, args.batch_size)
        losses.append(train_step(*get_batch(train, starts, args.length)))
        if (step + 1) % args.log_interval == 0:
            loss, speed = float(jnp.stack(losses).mean()), (time.perf_counter() - start) / len(losses)
            print(f"step {step + 1:5d} | {1000 * speed:.0f} ms a step | train loss {loss:.4f}", flush=True)
            losses, start = [], time.perf_counter()
    valid_loss = evaluate()
    print(f"valid loss {valid_loss:.4f}: {valid_loss / math.log(2):.3f} bits a character")
    objnet.save(model.state_dict(), args.save / "model.safetensors")
    if args.sample:
        chars = generate(model, numbers.get("\n", 0), args.sample, args.length)
        print(f"sample:\n{textwrap.indent(''.join(alphabet[i] for i in chars), '    ')}")
    return valid_loss


if __name__ == "__main__":
    try:
        main()
    except (InputError, OSError) as error:
        print(f"{Path(__file__).name}: error: {error}", file=sys.stderr)
        sys.exit(2)
