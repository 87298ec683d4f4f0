"""ResNet-18 with the stem for small images (3x3, no pooling), batch 32 of 3x32x32, BatchNorm in training; SGD with momentum."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.benchmarks.works.common import Arrays, Step, Work, draw, jax_step

BATCH, CLASSES = 32, 10
STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))
RATE, MOMENTUM = 1e-3, 0.9


def blocks() -> list[tuple[str, int, int, int]]:
    """Name, channels in, channels out and stride of each block."""
    found, inputs = [], 64
    for stage, (outputs, stride) in enumerate(STAGES):
        for block in (0, 1):
            found.append((f"layer{stage + 1}.{block}", inputs, outputs, stride if block == 0 else 1))
            inputs = outputs
    return found


def weights() -> Arrays:
    kernels: dict[str, tuple[int, ...]] = {"conv1": (64, 3, 3, 3)}
    norms = {"bn1": 64}
    for name, inputs, outputs, stride in blocks():
        kernels |= {f"{name}.conv1": (outputs, inputs, 3, 3), f"{name}.conv2": (outputs, outputs, 3, 3)}
        norms |= {f"{name}.bn1": outputs, f"{name}.bn2": outputs}
        if stride != 1 or inputs != outputs:
            kernels[f"{name}.downsample.0"] = (outputs, inputs, 1, 1)
            norms[f"{name}.downsample.1"] = outputs
    found = draw({f"{k}.weight": v for k, v in kernels.items()} | {"fc.weight": (CLASSES, 512)}, 0.05)
    found["fc.bias"] = np.zeros(CLASSES, np.float32)
    for name, channels in norms.items():
        found |= {f"{name}.weight": np.ones(channels, np.float32), f"{name}.bias": np.zeros(channels, np.float32)}
    return found


def batches() -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(1)
    shape = (BATCH, 3, 32, 32)
    return [(rng.normal(size=shape).astype(np.float32), rng.integers(0, CLASSES, BATCH).astype(np.int32)) for _ in range(4)]


def with_objnet(weights: Arrays) -> Step:
    import objnet
    import objnet.nn.functional as F
    from objnet import nn, optim

    model = _network(nn, F)
    model.load_state_dict(weights, strict=False)
    optimizer = optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM)

    @objnet.jit
    def train_step(x: Any, y: Any) -> Any:
        return optimizer.step(lambda: F.cross_entropy(model(x), y))

    return train_step


def _network(nn: Any, F: Any) -> Any:
    """The model, in torch or in objnet: the code is the same."""

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(outputs)
            self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(outputs)
            self.downsample = None
            if stride != 1 or inputs != outputs:
                self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

        def forward(self, x: Any) -> Any:
            y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
            return F.relu(y + (x if self.downsample is None else self.downsample(x)))

    class ResNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(64)
            for name, inputs, outputs, stride in blocks():
                stage, _, second = name.partition(".")
                if second == "0":
                    setattr(self, stage, nn.Sequential())
                getattr(self, stage).append(Block(inputs, outputs, stride))
            self.fc = nn.Linear(512, CLASSES)

        def forward(self, x: Any) -> Any:
            x = F.relu(self.bn1(self.conv1(x)))
            for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
                x = stage(x)
            return self.fc(F.adaptive_avg_pool2d(x, 1).reshape(x.shape[0], -1))

    return ResNet()


def with_jax(weights: Arrays) -> Step:
    import jax
    import jax.numpy as jnp
    import optax

    def conv(w: Any, x: Any, stride: int) -> Any:
        padding = [(w.shape[0] // 2,) * 2] * 2
        return jax.lax.conv_general_dilated(x, w, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def norm(p: Any, s: Any, x: Any) -> Any:
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        count = x.size // x.shape[-1]
        new = {"mean": 0.9 * s["mean"] + 0.1 * mean, "var": 0.9 * s["var"] + 0.1 * var * count / (count - 1)}
        return (x - mean) * jax.lax.rsqrt(var + 1e-5) * p["g"] + p["b"], new

    def loss_fn(params: Any, stats: Any, x: Any, y: Any) -> Any:
        new = {}

        def conv_norm(kernel: str, name: str, x: Any, stride: int) -> Any:
            out, new[name] = norm(params[name], stats[name], conv(params[kernel], x, stride))
            return out

        h = jax.nn.relu(conv_norm("conv1", "bn1", x.transpose(0, 2, 3, 1), 1))
        for name, inputs, outputs, stride in blocks():
            out = jax.nn.relu(conv_norm(f"{name}.conv1", f"{name}.bn1", h, stride))
            out = conv_norm(f"{name}.conv2", f"{name}.bn2", out, 1)
            if stride != 1 or inputs != outputs:
                h = conv_norm(f"{name}.downsample.0", f"{name}.downsample.1", h, stride)
            h = jax.nn.relu(out + h)
        logits = h.mean((1, 2)) @ params["fc"]["w"] + params["fc"]["b"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), new

    params: dict[str, Any] = {"fc": {"w": jnp.array(weights["fc.weight"].T), "b": jnp.array(weights["fc.bias"])}}
    stats = {}
    for key, value in weights.items():
        name, _, kind = key.rpartition(".")
        if value.ndim == 4:
            params[name] = jnp.array(value.transpose(2, 3, 1, 0))
        elif name != "fc" and kind == "weight":
            params[name] = {"g": jnp.array(value), "b": jnp.array(weights[f"{name}.bias"])}
            stats[name] = {"mean": jnp.zeros(value.shape), "var": jnp.ones(value.shape)}
    return jax_step(loss_fn, optax.sgd(RATE, momentum=MOMENTUM), params, stats)


def with_torch(weights: Arrays) -> Step:
    import torch

    model = _network(torch.nn, torch.nn.functional)
    model.load_state_dict({k: torch.tensor(v) for k, v in weights.items()}, strict=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM)

    def step(x: np.ndarray, y: np.ndarray) -> Any:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(torch.from_numpy(x)), torch.from_numpy(y).long())
        loss.backward()
        optimizer.step()
        return loss

    return step


WORK = Work(
    "ResNet-18, one training step", weights, batches, {"jax": with_jax, "objnet.jit": with_objnet, "torch eager": with_torch}
)
