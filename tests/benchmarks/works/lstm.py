"""A language model of 2x200 LSTM units, vocabulary 10,000, batch 20, 35 tokens at a time; SGD with clipped gradients.

The hidden state goes on from batch to batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.benchmarks.works.common import Arrays, Step, Work, draw, jax_step

VOCAB, UNITS, BATCH, BPTT, CLIP = 10_000, 200, 20, 35, 0.25


def weights() -> Arrays:
    shapes: dict[str, tuple[int, ...]] = {"encoder.weight": (VOCAB, UNITS)}
    shapes |= {"decoder.weight": (VOCAB, UNITS), "decoder.bias": (VOCAB,)}
    for layer in (0, 1):
        shapes |= {f"rnn.weight_{kind}_l{layer}": (4 * UNITS, UNITS) for kind in ("ih", "hh")}
        shapes |= {f"rnn.bias_{kind}_l{layer}": (4 * UNITS,) for kind in ("ih", "hh")}
    return draw(shapes, 0.1)


def batches() -> list[tuple[np.ndarray, np.ndarray]]:
    tokens = np.random.default_rng(1).integers(0, VOCAB, (4 * BPTT + 1, BATCH)).astype(np.int32)
    return [(tokens[i : i + BPTT], tokens[i + 1 : i + 1 + BPTT].reshape(-1)) for i in range(0, 4 * BPTT, BPTT)]


def with_objnet(weights: Arrays) -> Step:
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


def with_jax(weights: Arrays) -> Step:
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


def with_torch(weights: Arrays) -> Step:
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


WORK = Work(
    "LSTM language model, one training step",
    weights,
    batches,
    {"jax": with_jax, "objnet.jit": with_objnet, "torch eager": with_torch},
)
