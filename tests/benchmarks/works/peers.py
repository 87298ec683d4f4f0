"""The GPT and the CNN in flax nnx and equinox, as their documentation writes models and training steps."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.benchmarks.works.common import Arrays, Step


def nnx_step(model: Any, optimizer: Any) -> Step:
    import optax
    from flax import nnx

    state = nnx.Optimizer(model, optimizer, wrt=nnx.Param)

    @nnx.jit
    def update(model: Any, state: Any, x: Any, y: Any) -> Any:
        def loss_fn(model: Any) -> Any:
            return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()

        loss, grads = nnx.value_and_grad(loss_fn)(model)
        state.update(model, grads)
        return loss

    return lambda x, y: update(model, state, x, y)


def equinox_step(model: Any, optimizer: Any) -> Step:
    import equinox as eqx
    import optax

    state = optimizer.init(eqx.filter(model, eqx.is_array))

    @eqx.filter_jit
    def update(model: Any, state: Any, x: Any, y: Any) -> Any:
        def loss_fn(model: Any) -> Any:
            return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()

        loss, grads = eqx.filter_value_and_grad(loss_fn)(model)
        updates, state = optimizer.update(grads, state, eqx.filter(model, eqx.is_array))
        return eqx.apply_updates(model, updates), state, loss

    def step(x: np.ndarray, y: np.ndarray) -> Any:
        nonlocal model, state
        model, state, loss = update(model, state, x, y)
        return loss

    return step


# -- CNN ---------------------------------------------------------------------------------------------------------------


def cnn_nnx(weights: Arrays) -> Step:
    import jax.numpy as jnp
    import optax
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.conv1 = nnx.Conv(1, 32, (3, 3), padding="VALID", rngs=rngs)
            self.conv2 = nnx.Conv(32, 64, (3, 3), padding="VALID", rngs=rngs)
            self.fc1 = nnx.Linear(9216, 128, rngs=rngs)
            self.fc2 = nnx.Linear(128, 10, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            x = nnx.relu(self.conv2(nnx.relu(self.conv1(x.transpose(0, 2, 3, 1)))))
            x = nnx.max_pool(x, (2, 2), (2, 2))
            return self.fc2(nnx.relu(self.fc1(x.reshape(x.shape[0], -1))))

    model = Net(nnx.Rngs(0))
    fc1 = weights["fc1.weight"].reshape(128, 64, 12, 12).transpose(2, 3, 1, 0).reshape(9216, 128)
    kernels = {name: weights[f"{name}.weight"].transpose(2, 3, 1, 0) for name in ("conv1", "conv2")}
    for name, kernel in {**kernels, "fc1": fc1, "fc2": weights["fc2.weight"].T}.items():
        getattr(model, name).kernel[...] = jnp.array(kernel)
    return nnx_step(model, optax.adam(1e-3))


def cnn_equinox(weights: Arrays) -> Step:
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import optax

    class Net(eqx.Module):
        conv1: Any
        conv2: Any
        pool: Any
        fc1: Any
        fc2: Any

        def __init__(self) -> None:
            keys = jax.random.split(jax.random.key(0), 4)
            self.conv1 = eqx.nn.Conv2d(1, 32, 3, key=keys[0])
            self.conv2 = eqx.nn.Conv2d(32, 64, 3, key=keys[1])
            self.pool = eqx.nn.MaxPool2d(2, 2)
            self.fc1 = eqx.nn.Linear(9216, 128, key=keys[2])
            self.fc2 = eqx.nn.Linear(128, 10, key=keys[3])

        def one(self, x: Any) -> Any:
            x = self.pool(jax.nn.relu(self.conv2(jax.nn.relu(self.conv1(x)))))
            return self.fc2(jax.nn.relu(self.fc1(x.reshape(-1))))

        def __call__(self, x: Any) -> Any:
            return jax.vmap(self.one)(x)

    model, names = Net(), ("conv1", "conv2", "fc1", "fc2")
    arrays = [jnp.array(weights[f"{name}.weight"]) for name in names]
    model = eqx.tree_at(lambda m: [getattr(m, name).weight for name in names], model, arrays)
    biases = [jnp.zeros_like(getattr(model, name).bias) for name in names]
    return equinox_step(eqx.tree_at(lambda m: [getattr(m, name).bias for name in names], model, biases), optax.adam(1e-3))


# -- GPT ---------------------------------------------------------------------------------------------------------------


def gpt_nnx(weights: Arrays) -> Step:
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    from tests.benchmarks.works.gpt import DECAY, HEADS, LAYERS, LENGTH, RATE, UNITS, VOCAB

    class Block(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.norm1 = nnx.LayerNorm(UNITS, epsilon=1e-5, rngs=rngs)
            self.qkv = nnx.Linear(UNITS, 3 * UNITS, rngs=rngs)
            self.proj = nnx.Linear(UNITS, UNITS, rngs=rngs)
            self.norm2 = nnx.LayerNorm(UNITS, epsilon=1e-5, rngs=rngs)
            self.up = nnx.Linear(UNITS, 4 * UNITS, rngs=rngs)
            self.down = nnx.Linear(4 * UNITS, UNITS, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            q, k, v = (part.reshape(*x.shape[:2], HEADS, -1) for part in jnp.split(self.qkv(self.norm1(x)), 3, axis=-1))
            x = x + self.proj(jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(x.shape))
            return x + self.down(nnx.gelu(self.up(self.norm2(x)), approximate=False))

    class GPT(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.tokens = nnx.Embed(VOCAB, UNITS, rngs=rngs)
            self.positions = nnx.Embed(LENGTH, UNITS, rngs=rngs)
            self.blocks = nnx.List([Block(rngs) for _ in range(LAYERS)])
            self.norm = nnx.LayerNorm(UNITS, epsilon=1e-5, rngs=rngs)

        def __call__(self, tokens: Any) -> Any:
            x = self.tokens(tokens) + self.positions(jnp.arange(LENGTH))
            for block in self.blocks:
                x = block(x)
            return self.tokens.attend(self.norm(x)).reshape(-1, VOCAB)

    model = GPT(nnx.Rngs(0))
    model.tokens.embedding[...] = jnp.array(weights["tokens.weight"])
    model.positions.embedding[...] = jnp.array(weights["positions.weight"])
    for i, block in enumerate(model.blocks):
        for name in ("qkv", "proj", "up", "down"):
            getattr(block, name).kernel[...] = jnp.array(weights[f"blocks.{i}.{name}.weight"].T)
    return nnx_step(model, optax.adamw(RATE, weight_decay=DECAY))


def gpt_equinox(weights: Arrays) -> Step:
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import optax

    from tests.benchmarks.works.gpt import DECAY, HEADS, LAYERS, LENGTH, RATE, UNITS, VOCAB

    sizes = {"qkv": (UNITS, 3 * UNITS), "proj": (UNITS, UNITS), "up": (UNITS, 4 * UNITS), "down": (4 * UNITS, UNITS)}

    def linear(prefix: str, name: str) -> Any:
        layer = eqx.nn.Linear(*sizes[name], key=jax.random.key(0))
        new = jnp.array(weights[f"{prefix}{name}.weight"]), jnp.zeros(sizes[name][1])
        return eqx.tree_at(lambda m: (m.weight, m.bias), layer, new)

    class Block(eqx.Module):
        norm1: Any
        qkv: Any
        proj: Any
        norm2: Any
        up: Any
        down: Any

        def __init__(self, prefix: str) -> None:
            self.norm1, self.norm2 = eqx.nn.LayerNorm(UNITS), eqx.nn.LayerNorm(UNITS)
            self.qkv, self.proj = linear(prefix, "qkv"), linear(prefix, "proj")
            self.up, self.down = linear(prefix, "up"), linear(prefix, "down")

        def __call__(self, x: Any) -> Any:
            qkv = jnp.split(jax.vmap(self.qkv)(jax.vmap(self.norm1)(x)), 3, axis=-1)
            q, k, v = (part.reshape(len(x), HEADS, -1) for part in qkv)
            x = x + jax.vmap(self.proj)(jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(x.shape))
            up = jax.nn.gelu(jax.vmap(self.up)(jax.vmap(self.norm2)(x)), approximate=False)
            return x + jax.vmap(self.down)(up)

    class GPT(eqx.Module):
        tokens: Any
        positions: Any
        blocks: Any
        norm: Any

        def __init__(self) -> None:
            self.tokens = eqx.nn.Embedding(weight=jnp.array(weights["tokens.weight"]))
            self.positions = eqx.nn.Embedding(weight=jnp.array(weights["positions.weight"]))
            self.blocks = [Block(f"blocks.{i}.") for i in range(LAYERS)]
            self.norm = eqx.nn.LayerNorm(UNITS)

        def one(self, tokens: Any) -> Any:
            x = jax.vmap(self.tokens)(tokens) + jax.vmap(self.positions)(jnp.arange(LENGTH))
            for block in self.blocks:
                x = block(x)
            return jax.vmap(self.norm)(x) @ self.tokens.weight.T

        def __call__(self, tokens: Any) -> Any:
            return jax.vmap(self.one)(tokens).reshape(-1, VOCAB)

    return equinox_step(GPT(), optax.adamw(RATE, weight_decay=DECAY))
