"""The network of examples/cnn.py without dropout, batch 64; Adam."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.benchmarks.works import peers
from tests.benchmarks.works.common import Arrays, Step, Work, draw, jax_step


def weights() -> Arrays:
    shapes = {"conv1": (32, 1, 3, 3), "conv2": (64, 32, 3, 3), "fc1": (128, 9216), "fc2": (10, 128)}
    weights = draw({f"{name}.weight": shape for name, shape in shapes.items()}, 0.05)
    return weights | {f"{name}.bias": np.zeros(shape[0], np.float32) for name, shape in shapes.items()}


def batches() -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(1)
    shape = (64, 1, 28, 28)
    return [(rng.normal(size=shape).astype(np.float32), rng.integers(0, 10, 64).astype(np.int32)) for _ in range(4)]


def with_objnet(weights: Arrays) -> Step:
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


def with_jax(weights: Arrays) -> Step:
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


def with_torch(weights: Arrays) -> Step:
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


WORK = Work(
    "MNIST CNN, one training step",
    weights,
    batches,
    {
        "jax": with_jax,
        "nnx": peers.cnn_nnx,
        "equinox": peers.cnn_equinox,
        "objnet.jit": with_objnet,
        "torch eager": with_torch,
    },
)
