"""A GPT of 6 layers of 256 units and 8 heads, vocabulary 10,000, batch 8 of 128 tokens; AdamW."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.benchmarks.works import peers
from tests.benchmarks.works.common import Arrays, Step, Work, draw, jax_step

VOCAB, UNITS, HEADS, LAYERS, BATCH, LENGTH = 10_000, 256, 8, 6, 8, 128
RATE, DECAY = 3e-4, 0.01


def weights() -> Arrays:
    matrices: dict[str, tuple[int, ...]] = {"tokens.weight": (VOCAB, UNITS), "positions.weight": (LENGTH, UNITS)}
    sizes = {"qkv": (3 * UNITS, UNITS), "proj": (UNITS, UNITS), "up": (4 * UNITS, UNITS), "down": (UNITS, 4 * UNITS)}
    for i in range(LAYERS):
        matrices |= {f"blocks.{i}.{name}.weight": shape for name, shape in sizes.items()}
    found = draw(matrices, 0.03)
    found |= {k.replace("weight", "bias"): np.zeros(v.shape[0], np.float32) for k, v in found.items() if k.startswith("blocks")}
    for name in [f"blocks.{i}.{norm}" for i in range(LAYERS) for norm in ("norm1", "norm2")] + ["norm"]:
        found |= {f"{name}.weight": np.ones(UNITS, np.float32), f"{name}.bias": np.zeros(UNITS, np.float32)}
    return found


def batches() -> list[tuple[np.ndarray, np.ndarray]]:
    tokens = np.random.default_rng(1).integers(0, VOCAB, (4, BATCH, LENGTH + 1)).astype(np.int32)
    return [(t[:, :-1], t[:, 1:].reshape(-1)) for t in tokens]


def with_objnet(weights: Arrays) -> Step:
    import jax.numpy as jnp

    import objnet
    import objnet.nn.functional as F
    from objnet import nn, optim

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1 = nn.LayerNorm(UNITS)
            self.qkv = nn.Linear(UNITS, 3 * UNITS)
            self.proj = nn.Linear(UNITS, UNITS)
            self.norm2 = nn.LayerNorm(UNITS)
            self.up = nn.Linear(UNITS, 4 * UNITS)
            self.down = nn.Linear(4 * UNITS, UNITS)

        def forward(self, x: Any) -> Any:
            q, k, v = (
                part.reshape(*x.shape[:2], HEADS, -1).swapaxes(1, 2) for part in jnp.split(self.qkv(self.norm1(x)), 3, axis=-1)
            )
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.proj(y.swapaxes(1, 2).reshape(x.shape))
            return x + self.down(F.gelu(self.up(self.norm2(x))))

    class GPT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens = nn.Embedding(VOCAB, UNITS)
            self.positions = nn.Embedding(LENGTH, UNITS)
            self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
            self.norm = nn.LayerNorm(UNITS)

        def forward(self, tokens: Any) -> Any:
            x = self.tokens(tokens) + self.positions(jnp.arange(LENGTH))
            return F.linear(self.norm(self.blocks(x)), self.tokens.weight)

    model = GPT()
    model.load_state_dict(weights)
    optimizer = optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)

    @objnet.jit
    def train_step(x: Any, y: Any) -> Any:
        return optimizer.step(lambda: F.cross_entropy(model(x).reshape(-1, VOCAB), y))

    return train_step


def with_jax(weights: Arrays) -> Step:
    import jax
    import jax.numpy as jnp
    import optax

    def norm(p: Any, x: Any) -> Any:
        mean = x.mean(-1, keepdims=True)
        return (x - mean) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-5) * p["g"] + p["b"]

    def dense(p: Any, x: Any) -> Any:
        return x @ p["w"] + p["b"]

    def block(p: Any, x: Any) -> Any:
        q, k, v = (part.reshape(*x.shape[:2], HEADS, -1) for part in jnp.split(dense(p["qkv"], norm(p["norm1"], x)), 3, axis=-1))
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / (UNITS // HEADS) ** 0.5
        scores = jnp.where(jnp.tril(jnp.ones((LENGTH, LENGTH), bool)), scores, -jnp.inf)
        y = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v)
        x = x + dense(p["proj"], y.reshape(x.shape))
        return x + dense(p["down"], jax.nn.gelu(dense(p["up"], norm(p["norm2"], x)), approximate=False))

    def loss_fn(params: Any, hidden: Any, x: Any, y: Any) -> Any:
        h = params["tokens"][x] + params["positions"]
        for p in params["blocks"]:
            h = block(p, h)
        logits = (norm(params["norm"], h) @ params["tokens"].T).reshape(-1, VOCAB)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), hidden

    def own(prefix: str, name: str) -> Any:
        w, b = jnp.array(weights[f"{prefix}{name}.weight"]), jnp.array(weights[f"{prefix}{name}.bias"])
        return {"g": w, "b": b} if name.startswith("norm") else {"w": w.T, "b": b}

    names = ("norm1", "qkv", "proj", "norm2", "up", "down")
    params = {
        "tokens": jnp.array(weights["tokens.weight"]),
        "positions": jnp.array(weights["positions.weight"]),
        "blocks": [{name: own(f"blocks.{i}.", name) for name in names} for i in range(LAYERS)],
        "norm": own("", "norm"),
    }
    return jax_step(loss_fn, optax.adamw(RATE, weight_decay=DECAY), params, ())


def with_torch(weights: Arrays) -> Step:
    import torch
    import torch.nn.functional as F
    from torch import nn

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1 = nn.LayerNorm(UNITS)
            self.qkv = nn.Linear(UNITS, 3 * UNITS)
            self.proj = nn.Linear(UNITS, UNITS)
            self.norm2 = nn.LayerNorm(UNITS)
            self.up = nn.Linear(UNITS, 4 * UNITS)
            self.down = nn.Linear(4 * UNITS, UNITS)

        def forward(self, x: Any) -> Any:
            q, k, v = (part.view(*x.shape[:2], HEADS, -1).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, -1))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.proj(y.transpose(1, 2).reshape(x.shape))
            return x + self.down(F.gelu(self.up(self.norm2(x))))

    class GPT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens = nn.Embedding(VOCAB, UNITS)
            self.positions = nn.Embedding(LENGTH, UNITS)
            self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
            self.norm = nn.LayerNorm(UNITS)

        def forward(self, tokens: Any) -> Any:
            x = self.tokens(tokens) + self.positions(torch.arange(LENGTH))
            return F.linear(self.norm(self.blocks(x)), self.tokens.weight)

    model = GPT()
    model.load_state_dict({k: torch.tensor(v) for k, v in weights.items()})
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)

    def step(x: np.ndarray, y: np.ndarray) -> Any:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(torch.from_numpy(x)).view(-1, VOCAB), torch.from_numpy(y).long())
        loss.backward()
        optimizer.step()
        return loss

    return step


WORK = Work(
    "GPT, one training step",
    weights,
    batches,
    {
        "jax": with_jax,
        "nnx": peers.gpt_nnx,
        "equinox": peers.gpt_equinox,
        "objnet.jit": with_objnet,
        "torch eager": with_torch,
    },
)
