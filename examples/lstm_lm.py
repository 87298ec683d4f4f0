"""A word language model: a two-layer LSTM predicts the next word of a text (torch's classic word_language_model).

    python examples/lstm_lm.py                     # the text of Python's own help pages, a minute or two on two cores
    python examples/lstm_lm.py --data novel.txt    # any text in UTF-8
    python examples/lstm_lm.py --resume            # go on where the last run ended, or was stopped by Ctrl-C

Into ``--save`` go ``checkpoint.safetensors`` (after each epoch, everything ``--resume`` needs), ``model.safetensors``
(the weights that did best on the validation text) and ``loss.png`` (with matplotlib).
"""

from __future__ import annotations

import argparse
import math
import re
import signal
import sys
import textwrap
import zlib
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

import objnet
from objnet import nn, optim

try:
    from tqdm import tqdm
except ImportError:
    tqdm = None

EOS, UNK = 0, 1  # end of a paragraph, and a word too rare to have a number of its own


class RNNModel(nn.Module):
    """Embedding, LSTM, decoder. The hidden state is an attribute: each batch starts from where the one before ended."""

    def __init__(self, ntoken: int, ninp: int, nhid: int, nlayers: int, dropout: float = 0.5, tie_weights: bool = False):
        super().__init__()
        self.drop = nn.Dropout(dropout)
        self.encoder = nn.Embedding(ntoken, ninp)
        self.rnn = nn.LSTM(ninp, nhid, nlayers, dropout=dropout if nlayers > 1 else 0.0)  # it drops between layers only
        self.decoder = nn.Linear(nhid, ntoken)
        if tie_weights:
            if nhid != ninp:
                raise ValueError(f"tied weights need as many hidden units as the embedding has, got {nhid} and {ninp}")
            self.decoder.weight = self.encoder.weight
        self.init_weights()
        self.ntoken, self.nhid, self.nlayers = ntoken, nhid, nlayers
        self.hidden: Any = None

    def init_weights(self) -> None:
        initrange = 0.1
        nn.init.uniform_(self.encoder.weight, -initrange, initrange)
        nn.init.zeros_(self.decoder.bias)
        nn.init.uniform_(self.decoder.weight, -initrange, initrange)

    def init_hidden(self, bsz: int) -> None:
        shape = (self.nlayers, bsz, self.nhid)
        self.hidden = (jnp.zeros(shape), jnp.zeros(shape))

    def forward(self, input: jax.Array) -> jax.Array:
        """Scores (words * bsz, ntoken) of what comes after each of the words (words, bsz)."""
        emb = self.drop(self.encoder(input))
        output, self.hidden = self.rnn(emb, self.hidden)
        decoded = self.decoder(self.drop(output))
        return decoded.reshape(-1, self.ntoken)


# -- the text ----------------------------------------------------------------------------------------------------------


class Corpus:
    """A text as word numbers: the last tenth for validation, the rest for training, which also makes the vocabulary."""

    def __init__(self, text: str, min_count: int):
        words = tokenize(text)
        split = len(words) - len(words) // 10
        counts = Counter(words[:split])
        counts.pop("<eos>", None)
        self.words = ["<eos>", "<unk>", *(word for word, n in counts.most_common() if n >= min_count)]
        numbers = {word: i for i, word in enumerate(self.words)}
        ids = np.array([numbers.get(word, UNK) for word in words], np.int32)
        self.train, self.valid = ids[:split], ids[split:]
        self.fingerprint = zlib.crc32(ids.tobytes())


def tokenize(text: str) -> list[str]:
    """Words in lower case and runs of one punctuation mark, with <eos> after each paragraph."""
    words = []
    for paragraph in re.split(r"\n\s*\n", text.lower()):
        found = [match.group() for match in re.finditer(r"\w+(?:'\w+)?|([^\w\s])\1*", paragraph)]
        words += [*found, "<eos>"] if found else []
    return words


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


def batchify(data: np.ndarray, bsz: int) -> np.ndarray:
    """``bsz`` stretches of the text as the columns of (words // bsz, bsz); what is left over is dropped."""
    nbatch = len(data) // bsz
    return np.ascontiguousarray(data[: nbatch * bsz].reshape(bsz, nbatch).T)


def get_batch(source: np.ndarray, i: int, bptt: int) -> tuple[np.ndarray, np.ndarray]:
    """Up to ``bptt`` rows from row ``i`` on, and the words that follow each of them, flat."""
    seq_len = min(bptt, len(source) - 1 - i)
    return source[i : i + seq_len], source[i + 1 : i + 1 + seq_len].reshape(-1)


# -- training ----------------------------------------------------------------------------------------------------------


class Trainer:
    """The model, its optimizer, the compiled steps, and how far the run has come."""

    def __init__(self, args: argparse.Namespace, corpus: Corpus):
        self.args, self.corpus = args, corpus
        self.train_data = batchify(corpus.train, args.batch_size)
        self.valid_data = batchify(corpus.valid, args.eval_batch_size)
        self.starts = range(0, len(self.train_data) - 1, args.bptt)
        self.losses: list[float] = []  # of every batch so far
        self.history: list[tuple[float, float]] = []  # training and validation loss of every whole epoch so far
        self.best_loss = math.inf

        objnet.manual_seed(args.seed)
        model = RNNModel(len(corpus.words), args.emsize, args.nhid, args.nlayers, args.dropout, args.tied)
        optimizer = optim.SGD(model.parameters(), lr=args.lr)
        criterion = nn.CrossEntropyLoss()
        self.model, self.optimizer = model, optimizer

        @objnet.jit
        def train_step(data: jax.Array, targets: jax.Array) -> jax.Array:
            optimizer.zero_grad()
            loss = objnet.backward(lambda: criterion(model(data), targets))
            nn.utils.clip_grad_norm_(model.parameters(), args.clip)
            optimizer.step()
            return loss

        @objnet.jit
        def eval_step(data: jax.Array, targets: jax.Array) -> jax.Array:
            return criterion(model(data), targets)

        self.train_step, self.eval_step = train_step, eval_step

    @property
    def lr(self) -> float:
        return self.optimizer.param_groups[0]["lr"]

    def train_epoch(self, interrupt: Interrupt) -> float | None:
        """Train the rest of the epoch; give the mean loss of the whole of it, or None if interrupted."""
        epoch, done = len(self.history) + 1, len(self.losses) - len(self.history) * len(self.starts)
        if done == 0:
            self.model.init_hidden(self.args.batch_size)
        self.model.train()
        progress = Progress(f"epoch {epoch}", done, len(self.starts), self.args.log_interval)
        pending: list[jax.Array] = []  # not looked at before it must be, so that Python runs ahead of the device
        for batch, i in enumerate(self.starts[done:], done + 1):
            if interrupt.asked:
                break
            # Only values leave a compiled step, never their history: the hidden state needs no repackaging.
            pending.append(self.train_step(*get_batch(self.train_data, i, self.args.bptt)))
            if progress.due(batch):
                self.losses += map(float, pending)
                pending.clear()
                progress.show(batch, perplexity(np.mean(self.losses[-self.args.log_interval :])), self.lr)
        self.losses += map(float, pending)
        progress.close()
        if interrupt.asked:
            self.save_checkpoint()
            return None
        return float(np.mean(self.losses[-len(self.starts) :]))

    def evaluate(self) -> float:
        """The mean loss of a validation word."""
        self.model.eval()
        self.model.init_hidden(self.args.eval_batch_size)
        total = 0.0
        for i in range(0, len(self.valid_data) - 1, self.args.bptt):
            data, targets = get_batch(self.valid_data, i, self.args.bptt)
            total += len(data) * float(self.eval_step(data, targets))
        return total / (len(self.valid_data) - 1)

    def run(self, interrupt: Interrupt) -> bool:
        """Train what is left of the epochs; False if interrupted."""
        for epoch in range(len(self.history) + 1, self.args.epochs + 1):
            train_loss = self.train_epoch(interrupt)
            if train_loss is None:
                return False
            valid_loss = self.evaluate()
            print(
                f"epoch {epoch:3d} | lr {self.lr:.6g} | train loss {train_loss:.4f} ppl {perplexity(train_loss):.2f} "
                f"| valid loss {valid_loss:.4f} ppl {perplexity(valid_loss):.2f}",
                flush=True,
            )
            if not math.isfinite(valid_loss):
                fail(f"the loss is {valid_loss} after epoch {epoch}: the training diverged, try a smaller --lr")
            self.history.append((train_loss, valid_loss))
            if valid_loss < self.best_loss:
                self.best_loss = valid_loss
                write(self.model.state_dict(), self.args.save / "model.safetensors")
            else:
                for group in self.optimizer.param_groups:  # no new best: smaller steps from here on
                    group["lr"] /= 4.0
            self.save_checkpoint()
        return True

    def generate(self, count: int, temperature: float) -> str:
        """``count`` words that the model makes up, from the start of a paragraph on."""
        model = self.model.eval()
        model.init_hidden(1)

        @objnet.jit
        def next_word(word: jax.Array) -> jax.Array:
            scores = model(word).at[:, UNK].set(-jnp.inf)
            return jax.random.categorical(objnet.next_rng_key(), scores / temperature)[None]

        word, words = np.full((1, 1), EOS, np.int32), []
        for _ in range(count):
            word = next_word(word)
            words.append(self.corpus.words[int(word[0, 0])])
        paragraphs = " ".join(words).split("<eos>")
        return "\n".join(textwrap.fill(p.strip(), 110) for p in paragraphs if p.strip())

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def save_checkpoint(self) -> None:
        epoch = len(self.history)
        checkpoint = {
            "program": "lstm_lm",
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "hidden": self.model.hidden,
            "rng": objnet.get_rng_state(),
            "epoch": epoch,
            "batch": len(self.losses) - epoch * len(self.starts),
            "lr": self.lr,
            "best_loss": self.best_loss,
            "losses": np.array(self.losses, np.float32),
            "history": self.history,
            "words": self.corpus.words,
            "text": self.corpus.fingerprint,
            "options": {name: getattr(self.args, name) for name in FIXED},
        }
        write(checkpoint, self.args.save / "checkpoint.safetensors")

    def load_best(self, path: Path) -> None:
        """Take back the weights that did best."""
        try:
            self.model.load_state_dict(read(path))
        except (RuntimeError, TypeError) as error:
            fail(f"cannot use {path}: it does not fit this model: {' '.join(str(error).split())}")

    def resume(self, path: Path) -> None:
        """Take up the run a checkpoint holds, to the bit."""
        checkpoint = read(path)
        if not isinstance(checkpoint, dict) or checkpoint.get("program") != "lstm_lm":
            fail(f"cannot resume from {path}: it is no checkpoint of this program")
        for name, then in checkpoint["options"].items():
            now, flag = getattr(self.args, name, None), f"--{name.replace('_', '-')}"
            if then != now:
                fail(f"cannot resume from {path}: it was made with {flag} {then}, this run has {flag} {now}")
        then, now = len(checkpoint["words"]), len(self.corpus.words)
        if checkpoint["words"] != self.corpus.words or checkpoint["text"] != self.corpus.fingerprint:
            fail(f"cannot resume from {path}: it was made from another text, of {then} different words; this has {now}")
        try:
            self.model.load_state_dict(checkpoint["model"])
            self.optimizer.load_state_dict(checkpoint["optimizer"])
            objnet.set_rng_state(checkpoint["rng"])
            self.model.hidden = checkpoint["hidden"]
            self.best_loss, self.history = checkpoint["best_loss"], checkpoint["history"]
            self.losses = checkpoint["losses"].tolist()
        except (LookupError, RuntimeError, TypeError, ValueError) as error:
            fail(f"cannot resume from {path}: it does not fit this model: {' '.join(str(error).split())}")


class Interrupt:
    """Within ``with`` the first Ctrl-C asks for an end between two batches; a second one ends the program at once."""

    asked = False

    def __enter__(self) -> Interrupt:
        self.before = signal.signal(signal.SIGINT, self._ask)
        return self

    def _ask(self, *_: Any) -> None:
        self.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def __exit__(self, *_: Any) -> None:
        signal.signal(signal.SIGINT, self.before)


class Progress:
    """A tqdm bar on a terminal, else a line every ``interval`` batches."""

    def __init__(self, name: str, done: int, total: int, interval: int):
        self.name, self.total, self.interval = name, total, interval
        wanted = tqdm is not None and sys.stderr.isatty()
        self.bar = tqdm(total=total, initial=done, desc=name, unit="batch", leave=False) if wanted else None

    def due(self, batch: int) -> bool:
        return batch % self.interval == 0

    def show(self, batch: int, ppl: float, lr: float) -> None:
        if self.bar is None:
            print(f"{self.name} | {batch}/{self.total} batches | lr {lr:.6g} | ppl {ppl:.2f}", flush=True)
        else:
            self.bar.set_postfix(ppl=f"{ppl:.2f}", lr=f"{lr:.6g}", refresh=False)
            self.bar.n = batch
            self.bar.refresh()

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def perplexity(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf


def plot(trainer: Trainer, path: Path) -> None:
    """Draw the loss of every batch and the validation loss of every epoch."""
    try:
        import matplotlib
    except ImportError:
        print("no loss curve: matplotlib is not installed (pip install matplotlib)")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5))
    batches = len(trainer.starts)
    axes.plot(range(1, len(trainer.losses) + 1), trainer.losses, linewidth=0.5, label="training, each batch")
    ends = [batches * n for n in range(1, len(trainer.history) + 1)]
    axes.plot(ends, [valid for _, valid in trainer.history], "o-", label="validation, each epoch")
    axes.set(xlabel="batch", ylabel="loss of a word", title="lstm_lm")
    axes.legend()
    unfinished = path.with_name(f".{path.name}.part")
    try:
        figure.savefig(unfinished, format="png", dpi=120)
        unfinished.replace(path)
    except OSError as error:
        fail(f"cannot write {path}: {error.strerror or error}")
    print(f"loss curve: {path}")


# -- the command line --------------------------------------------------------------------------------------------------

# A run can be resumed only with the same of these.
FIXED = ("emsize", "nhid", "nlayers", "dropout", "tied", "clip", "batch_size", "eval_batch_size", "bptt", "min_count")
QUICK = {"emsize": 64, "nhid": 64, "nlayers": 1, "epochs": 2, "sample": 20}
QUICK_CHARACTERS = 60_000


def fail(message: str) -> NoReturn:
    print(f"lstm_lm: error: {message}", file=sys.stderr)
    raise SystemExit(2)


def read(path: Path) -> Any:
    try:
        return objnet.load(path)
    except (OSError, ValueError) as error:
        fail(f"cannot read {path}: {getattr(error, 'strerror', None) or error}")


def write(obj: Any, path: Path) -> None:
    try:
        objnet.save(obj, path)
    except OSError as error:
        fail(f"cannot write {path}: {error.strerror or error}")


def number(kind: type, low: float, high: float = math.inf, above: bool = False) -> Any:
    """A parser of finite numbers from ``low`` (itself excluded if ``above``) to ``high``."""

    def parse(text: str) -> Any:
        value = kind(text)
        if not low <= value <= high or math.isinf(value) or (above and value == low):
            limits = f"above {low}" if above else f"{low} or more" if high == math.inf else f"from {low} to {high}"
            raise argparse.ArgumentTypeError(f"{text} is not {limits}")
        return value

    parse.__name__ = kind.__name__
    return parse


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    count, positive = number(int, 1), number(float, 0, above=True)
    show_defaults = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=show_defaults)
    parser.add_argument("--data", metavar="FILE", help="a text in UTF-8; by default the help pages of this Python")
    parser.add_argument("--save", metavar="DIR", type=Path, default=Path("runs/lstm_lm"), help="where the results go")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --save; without it a run starts anew")
    parser.add_argument("--quick", action="store_true", help="a small model on the start of the text, for a try")
    parser.add_argument("--epochs", type=count, default=7, help="passes over the text, those of a resumed run included")
    parser.add_argument("--emsize", type=count, default=200, help="size of word embeddings")
    parser.add_argument("--nhid", type=count, default=200, help="hidden units per layer")
    parser.add_argument("--nlayers", type=count, default=2, help="number of layers")
    parser.add_argument("--dropout", type=number(float, 0, 1), default=0.2, help="share of activations dropped")
    tied = {"action": argparse.BooleanOptionalAction, "default": True}
    parser.add_argument("--tied", help="one weight for embedding and decoder", **tied)
    parser.add_argument("--lr", type=positive, default=20.0, help="learning rate, quartered by an epoch without a new best")
    parser.add_argument("--clip", type=positive, default=0.25, help="largest norm of a gradient")
    parser.add_argument("--batch-size", type=count, default=20, help="stretches of text trained on side by side")
    parser.add_argument("--eval-batch-size", type=count, default=10, help="the same for validation")
    parser.add_argument("--bptt", type=count, default=20, help="words a gradient goes back")
    parser.add_argument("--min-count", type=count, default=2, help="rarer words of the training text become <unk>")
    parser.add_argument("--seed", type=number(int, 0, 2**63 - 1), default=1111, help="of initial weights, dropout and sample")
    parser.add_argument("--log-interval", metavar="N", type=count, default=20, help="batches between reports")
    parser.add_argument("--sample", metavar="N", type=number(int, 0), default=100, help="words to generate at the end")
    parser.add_argument("--temperature", type=positive, default=1.0, help="of the sample: higher is more daring")
    if parser.parse_known_args(argv)[0].quick:
        parser.set_defaults(**QUICK)
    args = parser.parse_args(argv)
    if args.tied and args.emsize != args.nhid:
        parser.error(f"--tied needs --emsize and --nhid to be equal, got {args.emsize} and {args.nhid}; or give --no-tied")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    name = args.data or "pydoc_data.topics"
    text = read_text(args.data)
    if not text.strip():
        fail(f"{name} is empty")
    corpus = Corpus(text[:QUICK_CHARACTERS] if args.quick else text, args.min_count)
    for part, words, least, see in (
        ("training", len(corpus.train), args.batch_size * (args.bptt + 1), "--batch-size, --bptt"),
        ("validation", len(corpus.valid), args.eval_batch_size * 2, "--eval-batch-size"),
    ):
        if words < least:
            fail(f"{name} is too short: {words} words for {part}, where one batch needs {least} (see {see})")

    trainer = Trainer(args, corpus)
    if args.resume:
        trainer.resume(args.save / "checkpoint.safetensors")
    try:
        args.save.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(f"cannot make the folder {args.save}: {error.strerror}")
    size = sum(p.numel() for p in trainer.model.parameters())
    print(f"{name}: {len(corpus.train)} words to train on, {len(corpus.valid)} to validate; {len(corpus.words)} different")
    print(f"{size} parameters" + (f", resumed after epoch {len(trainer.history)}" if args.resume else ""))
    with Interrupt() as interrupt:
        finished = trainer.run(interrupt)
    if not finished:
        print(f"\nstopped; --resume goes on from {args.save / 'checkpoint.safetensors'}")
        raise SystemExit(130)
    best = args.save / "model.safetensors"
    trainer.load_best(best)
    print(f"best valid loss {trainer.best_loss:.4f} ppl {perplexity(trainer.best_loss):.2f}, its weights: {best}")
    plot(trainer, args.save / "loss.png")
    if args.sample:
        print(f"sample:\n{textwrap.indent(trainer.generate(args.sample, args.temperature), '    ')}")


if __name__ == "__main__":
    main()
