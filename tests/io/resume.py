"""Training runs that can be cut in two: ``python -m tests.io.resume FOLDER whole|rest`` prints a digest of where each ends."""

from __future__ import annotations

import hashlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import objnet
import objnet.nn.functional as F
from objnet import nn, optim
from objnet.io import CheckpointManager

STEPS, CUT = 40, 20


class LanguageModel(nn.Module):
    """An LSTM with dropout that carries its hidden state from batch to batch."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.lstm = nn.LSTM(8, 8, num_layers=2, dropout=0.3, batch_first=True)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(8, 20)
        self.hidden = (jnp.zeros((2, 4, 8)), jnp.zeros((2, 4, 8)))

    def forward(self, tokens: Any) -> Any:
        out, hidden = self.lstm(self.embed(tokens), self.hidden)
        self.hidden = jax.tree.map(jax.lax.stop_gradient, hidden)
        return self.head(self.drop(out))


class Cnn(nn.Module):
    """Convolutions with batch statistics and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop, self.fc = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout2d(0.2), nn.Linear(144, 3)

    def forward(self, x: Any) -> Any:
        return self.fc(self.drop(F.relu(self.norm(self.conv(x)))).reshape(x.shape[0], -1))


def lstm_lm() -> tuple[dict[str, Any], Any]:
    model = LanguageModel()
    optimizer = optim.SGD(model.parameters(), lr=0.5, momentum=0.9)

    @objnet.jit
    def train(tokens: Any) -> Any:
        loss = lambda: F.cross_entropy(model(tokens[:, :-1]).reshape(-1, 20), tokens[:, 1:].reshape(-1))
        return optimizer.step(loss)

    hidden = {"hidden": model.hidden}
    state = {"model": model, "optimizer": optimizer, **hidden}

    def restore(found: dict[str, Any]) -> None:
        model.hidden = found["hidden"]

    def step(rng: Any) -> Any:
        result = train(jnp.asarray(rng.integers(0, 20, (4, 7))))
        state["hidden"] = model.hidden
        return result

    return state, (step, restore)


def cnn() -> tuple[dict[str, Any], Any]:
    model = Cnn()
    optimizer = optim.Adam(model.parameters(), lr=0.01, amsgrad=True)

    @objnet.jit
    def train(x: Any, y: Any) -> Any:
        return optimizer.step(lambda: F.cross_entropy(model(x), y))

    def step(rng: Any) -> Any:
        return train(jnp.asarray(rng.normal(size=(4, 1, 8, 8)), jnp.float32), jnp.asarray(rng.integers(0, 3, 4)))

    return {"model": model, "optimizer": optimizer}, (step, lambda found: None)


def adamw() -> tuple[dict[str, Any], Any]:
    """AdamW with a cosine schedule, an average of the weights and gradients of three batches a step."""
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))
    inner = optim.AdamW(model.parameters(), lr=0.02)
    optimizer = optim.MultiSteps(inner, 3)
    scheduler = optim.lr_scheduler.CosineAnnealingLR(inner, STEPS)
    average = optim.swa_utils.AveragedModel(model, multi_avg_fn=optim.swa_utils.get_ema_multi_avg_fn(0.9), use_buffers=True)

    @objnet.jit
    def train(x: Any, y: Any) -> Any:
        loss = optimizer.step(lambda: F.cross_entropy(model(x), y))
        average.update_parameters(model)
        return loss

    def step(rng: Any) -> Any:
        loss = train(jnp.asarray(rng.normal(size=(4, 6)), jnp.float32), jnp.asarray(rng.integers(0, 3, 4)))
        scheduler.step()
        return loss

    state = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "average": average}
    return state, (step, lambda found: None)


WORKS = {"lstm_lm": lstm_lm, "cnn": cnn, "adamw": adamw}


def digest(state: dict[str, Any]) -> str:
    """Of every bit of the state."""
    found = hashlib.sha256()
    for value in state.values():
        for leaf in jax.tree.leaves(value.state_dict() if hasattr(value, "state_dict") else value):
            found.update(np.asarray(leaf).tobytes() if hasattr(leaf, "shape") else repr(leaf).encode())
    return found.hexdigest()


def run(name: str, folder: str, part: str) -> str:
    objnet.manual_seed(3)
    state, (step, restore) = WORKS[name]()
    rng = np.random.default_rng(5)  # the data: its position is part of what is saved
    first = 0
    with CheckpointManager(f"{folder}/{name}", max_to_keep=1) as manager:
        if part == "rest":
            found = manager.restore(state)
            first, rng.bit_generator.state = found["step"], found["data"]
            restore(found)
        losses = []
        for number in range(first, STEPS):
            if number == CUT and part == "whole":
                manager.save(number, {**state, "step": number, "data": rng.bit_generator.state}, asynchronous=True)
            losses.append(step(rng))
    tail = np.asarray(jnp.stack(losses[CUT - first :])).tobytes()
    return digest(state) + hashlib.sha256(tail).hexdigest()


if __name__ == "__main__":
    for work in WORKS:
        print(work, run(work, sys.argv[1], sys.argv[2]))
