"""Two whole training steps: objnet, hand-written jax, and torch eager, on the same weights and batches.

    python -m tests.benchmarks.training [--work lstm cnn] [--rounds 10] [--steps 5] [--threads 2]

lstm: a language model of 2x200 LSTM units, vocabulary 10,000, batch 20, 35 tokens at a time; SGD with clipped
gradients; the hidden state goes on from batch to batch. cnn: the network of examples/cnn.py without dropout, batch 64;
Adam.

Every library runs in a process of its own, so that idle threads of one do not disturb another, and they take turns.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.benchmarks.measure import check_losses, interleave, table

VOCAB, UNITS, BATCH, BPTT, CLIP = 10_000, 200, 20, 35, 0.25
Arrays = dict[str, np.ndarray]
Step = Callable[[np.ndarray, np.ndarray], Any]  # one training step on a batch; returns the loss


def lstm_weights() -> Arrays:
    shapes: dict[str, tuple[int, ...]] = {"encoder.weight": (VOCAB, UNITS)}
    shapes |= {"decoder.weight": (VOCAB, UNITS), "decoder.bias": (VOCAB,)}
    for layer in (0, 1):
        shapes |= {f"rnn.weight_{kind}_l{layer}": (4 * UNITS, UNITS) for kind in ("ih", "hh")}
        shapes |= {f"rnn.bias_{kind}_l{layer}": (4 * UNITS,) for kind in ("ih", "hh")}
    return draw(shapes, 0.1)


def cnn_weights() -> Arrays:
    shapes = {"conv1": (32, 1, 3, 3), "conv2": (64, 32, 3, 3), "fc1": (128, 9216), "fc2": (10, 128)}
    weights = draw({f"{name}.weight": shape for name, shape in shapes.items()}, 0.05)
    return weights | {f"{name}.bias": np.zeros(shape[0], np.float32) for name, shape in shapes.items()}


def draw(shapes: dict[str, tuple[int, ...]], reach: float) -> Arrays:
    rng = np.random.default_rng(0)
    return {name: rng.uniform(-reach, reach, shape).astype(np.float32) for name, shape in shapes.items()}


def lstm_batches() -> list[tuple[np.ndarray, np.ndarray]]:
    tokens = np.random.default_rng(1).integers(0, VOCAB, (4 * BPTT + 1, BATCH)).astype(np.int32)
    return [(tokens[i : i + BPTT], tokens[i + 1 : i + 1 + BPTT].reshape(-1)) for i in range(0, 4 * BPTT, BPTT)]


def cnn_batches() -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(1)
    shape = (64, 1, 28, 28)
    return [(rng.normal(size=shape).astype(np.float32), rng.integers(0, 10, 64).astype(np.int32)) for _ in range(4)]


# -- objnet ------------------------------------------------------------------------------------------------------------


def objnet_lstm(weights: Arrays) -> Step:
    import jax.numpy as jnp

    import objnet
    import objnet.nn.functional as F
    from objnet import nn, optim

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Embedding(VOCAB, UNITS)
            self.rnn = nn.LSTM(UNITS, UNITS, 2)
            self.decoder = nn.Linear(UNITS, VOCAB)
            self.hidden = (jnp.zeros((2, BATCH, UNITS)), jnp.zeros((2, BATCH, UNITS)))

        def forward(self, tokens: Any) -> Any:
            output, self.hidden = self.rnn(self.encoder(tokens), self.hidden)
            return self.decoder(output).reshape(-1, VOCAB)

    model = Model()
    model.load_state_dict(weights)
    optimizer = optim.SGD(model.parameters(), lr=1.0)

    @objnet.jit
    def train_step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = objnet.backward(lambda: F.cross_entropy(model(x), y))
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        return loss

    return train_step


def objnet_cnn(weights: Arrays) -> Step:
    import objnet
    import objnet.nn.functional as F
    from objnet import nn, optim

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(1, 32, 3)
            self.conv2 = nn.Conv2d(32, 64, 3)
            self.fc1 = nn.Linear(9216, 128)
            self.fc2 = nn.Linear(128, 10)

        def forward(self, x: Any) -> Any:
            x = F.relu(self.conv2(F.relu(self.conv1(x))))
            x = F.max_pool2d(x, 2)
            return self.fc2(F.relu(self.fc1(x.reshape(x.shape[0], -1))))

    model = Net()
    model.load_state_dict(weights)
    optimizer = optim.Adam(model.parameters(), lr=1e-3)

    @objnet.jit
    def train_step(x: Any, y: Any) -> Any:
        return optimizer.step(lambda: F.cross_entropy(model(x), y))

    return train_step


# -- hand-written jax --------------------------------------------------------------------------------------------------


def jax_lstm(weights: Arrays) -> Step:
    import jax
    import jax.numpy as jnp
    import optax

    layers = {
        f"lstm_{i}": {
            "w_i": jnp.array(weights[f"rnn.weight_ih_l{i}"].T),
            "w_h": jnp.array(weights[f"rnn.weight_hh_l{i}"].T),
            "b": jnp.array(weights[f"rnn.bias_ih_l{i}"] + weights[f"rnn.bias_hh_l{i}"]),
        }
        for i in (0, 1)
    }
    params = {
        "embedding": jnp.array(weights["encoder.weight"]),
        "decoder": {"w": jnp.array(weights["decoder.weight"].T), "b": jnp.array(weights["decoder.bias"])},
        **layers,
    }
    hidden = [(jnp.zeros((BATCH, UNITS)), jnp.zeros((BATCH, UNITS))) for _ in (0, 1)]

    def lstm(layer: Any, xs: Any, start: Any) -> Any:
        def cell(carry: Any, projected: Any) -> Any:
            h, c = carry
            i, f, g, o = jnp.split(projected + h @ layer["w_h"], 4, axis=1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        return jax.lax.scan(cell, start, xs @ layer["w_i"] + layer["b"])

    def loss_fn(params: Any, hidden: Any, x: Any, y: Any) -> Any:
        h, new = params["embedding"][x], []
        for i in (0, 1):
            carry, h = lstm(params[f"lstm_{i}"], h, hidden[i])
            new.append(carry)
        logits = (h @ params["decoder"]["w"] + params["decoder"]["b"]).reshape(-1, VOCAB)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), new

    optimizer = optax.chain(optax.clip_by_global_norm(CLIP), optax.sgd(1.0))
    return jax_step(loss_fn, optimizer, params, hidden)


def jax_cnn(weights: Arrays) -> Step:
    import jax
    import jax.numpy as jnp
    import optax

    def conv(layer: Any, x: Any) -> Any:
        out = jax.lax.conv_general_dilated(x, layer["w"], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jax.nn.relu(out + layer["b"])

    def loss_fn(params: Any, hidden: Any, x: Any, y: Any) -> Any:
        x = conv(params["conv2"], conv(params["conv1"], x.transpose(0, 2, 3, 1)))
        x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        x = jax.nn.relu(x.reshape(x.shape[0], -1) @ params["fc1"]["w"] + params["fc1"]["b"])
        logits = x @ params["fc2"]["w"] + params["fc2"]["b"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), hidden

    own = {
        "conv1": weights["conv1.weight"].transpose(2, 3, 1, 0),
        "conv2": weights["conv2.weight"].transpose(2, 3, 1, 0),
        "fc1": weights["fc1.weight"].reshape(128, 64, 12, 12).transpose(2, 3, 1, 0).reshape(9216, 128),
        "fc2": weights["fc2.weight"].T,
    }
    params = {name: {"w": jnp.array(w), "b": jnp.array(weights[f"{name}.bias"])} for name, w in own.items()}
    return jax_step(loss_fn, optax.adam(1e-3), params, ())


def jax_step(loss_fn: Any, optimizer: Any, params: Any, hidden: Any) -> Step:
    import jax
    import optax

    @jax.jit
    def update(params: Any, opt_state: Any, hidden: Any, x: Any, y: Any) -> Any:
        (loss, hidden), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, hidden, x, y)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, hidden, loss

    opt_state = optimizer.init(params)

    def step(x: np.ndarray, y: np.ndarray) -> Any:
        nonlocal params, opt_state, hidden
        params, opt_state, hidden, loss = update(params, opt_state, hidden, x, y)
        return loss

    return step


# -- torch -------------------------------------------------------------------------------------------------------------


def torch_lstm(weights: Arrays) -> Step:
    import torch
    from torch import nn

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Embedding(VOCAB, UNITS)
            self.rnn = nn.LSTM(UNITS, UNITS, 2)
            self.decoder = nn.Linear(UNITS, VOCAB)

        def forward(self, tokens: Any, hidden: Any) -> Any:
            output, hidden = self.rnn(self.encoder(tokens), hidden)
            return self.decoder(output).reshape(-1, VOCAB), hidden

    model = Model()
    model.load_state_dict({k: torch.tensor(v) for k, v in weights.items()})
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    hidden: Any = (torch.zeros(2, BATCH, UNITS), torch.zeros(2, BATCH, UNITS))

    def step(x: np.ndarray, y: np.ndarray) -> Any:
        nonlocal hidden
        optimizer.zero_grad()
        output, hidden = model(torch.from_numpy(x), tuple(h.detach() for h in hidden))
        loss = nn.functional.cross_entropy(output, torch.from_numpy(y).long())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        return loss

    return step


def torch_cnn(weights: Arrays) -> Step:
    import torch
    import torch.nn.functional as F
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(1, 32, 3)
            self.conv2 = nn.Conv2d(32, 64, 3)
            self.fc1 = nn.Linear(9216, 128)
            self.fc2 = nn.Linear(128, 10)

        def forward(self, x: Any) -> Any:
            x = F.relu(self.conv2(F.relu(self.conv1(x))))
            x = F.max_pool2d(x, 2)
            return self.fc2(F.relu(self.fc1(x.reshape(x.shape[0], -1))))

    model = Net()
    model.load_state_dict({k: torch.tensor(v) for k, v in weights.items()})
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def step(x: np.ndarray, y: np.ndarray) -> Any:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(torch.from_numpy(x)), torch.from_numpy(y).long())
        loss.backward()
        optimizer.step()
        return loss

    return step


WORKS: dict[str, tuple[str, Callable[[], Arrays], Callable[[], Any], dict[str, Callable[[Arrays], Step]]]] = {
    "lstm": (
        "LSTM language model, one training step",
        lstm_weights,
        lstm_batches,
        {"jax": jax_lstm, "objnet.jit": objnet_lstm, "torch eager": torch_lstm},
    ),
    "cnn": (
        "MNIST CNN, one training step",
        cnn_weights,
        cnn_batches,
        {"jax": jax_cnn, "objnet.jit": objnet_cnn, "torch eager": torch_cnn},
    ),
}


# -- processes and turns -----------------------------------------------------------------------------------------------


def serve(connection: Any, work: str, library: str, threads: int) -> None:
    """In a process of its own: build the step; for every number received, run so many and send (seconds, losses)."""
    if library == "torch eager":
        import torch

        torch.set_num_threads(threads)
    _, make_weights, make_batches, builds = WORKS[work]
    step, batches = builds[library](make_weights()), make_batches()
    done = 0
    while True:
        steps = connection.recv()
        start = time.perf_counter()
        losses = [step(*batches[i % len(batches)]) for i in range(done, done + steps)]
        losses = [float(loss) for loss in losses]  # waits for them
        connection.send((time.perf_counter() - start, losses))
        done += steps


class Worker:
    """One library doing one work in its own process."""

    def __init__(self, work: str, library: str, threads: int):
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, work, library, threads), daemon=True)
        self._process.start()
        theirs.close()  # so that a process that dies ends the wait for its answer

    def ask(self, steps: int) -> None:
        self._connection.send(steps)

    def answer(self) -> tuple[float, list[float]]:
        return self._connection.recv()

    def stop(self) -> None:
        self._process.terminate()
        self._process.join()


def compare(work: str, rounds: int, steps: int, threads: int) -> str:
    """Start every library, check that their losses agree, time them in turns, and give the table."""
    title, _, _, builds = WORKS[work]
    times: dict[str, Any] = dict.fromkeys(builds, "not installed")
    libraries = [name for name in builds if name != "torch eager" or importlib.util.find_spec("torch")]
    workers = {name: Worker(work, name, threads) for name in libraries}
    try:
        for worker in workers.values():  # all build and compile at once
            worker.ask(4)
        check_losses({name: worker.answer()[1] for name, worker in workers.items()}, 1e-3)

        def turn(worker: Worker) -> Callable[[], float]:
            def sample() -> float:
                worker.ask(steps)
                return worker.answer()[0] / steps

            return sample

        times.update(interleave({name: turn(worker) for name, worker in workers.items()}, rounds))
    finally:
        for worker in workers.values():
            worker.stop()
    return table(title, times, 1e-3, "ms")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Whole training steps, side by side.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--work", nargs="+", choices=list(WORKS), default=list(WORKS), help="what to train")
    parser.add_argument("--rounds", type=int, default=10, help="interleaved rounds")
    parser.add_argument("--steps", type=int, default=5, help="steps in a round, for each library")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="torch's threads; jax takes all cores")
    args = parser.parse_args(argv)
    for work in args.work:
        print(compare(work, args.rounds, args.steps, args.threads), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
