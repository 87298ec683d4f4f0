"""Depth: the first and the further training steps of transformer encoders of 8, 32 and 96 equal blocks.

Entries: ``lax.scan`` written by hand over stacked parameters; ``nn.ScanSequential``; ``nn.rolled`` over a ``ModuleList``; the plain loop
over that (for few blocks, since its compile time grows with their number).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import objnet
from objnet import nn
from tests.benchmarks.measure import check_losses, interleave, table

X = (4, 16, 64)


def block() -> nn.Module:
    return nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True)


def entries(count: int, loop: bool) -> dict[str, Callable[[Any], Any]]:
    """Functions of the input that give the loss, and compute the gradients of all parameters."""
    objnet.manual_seed(0)
    blocks = nn.ModuleList([block() for _ in range(count)])
    template, stacked = block(), nn.ScanSequential(blocks)
    params = {name: jnp.array(jnp.asarray(p)) for name, p in stacked.block.named_parameters()}

    @jax.jit
    @jax.value_and_grad
    def by_hand(params: Any, x: Any) -> Any:
        def body(h: Any, row: Any) -> Any:
            return objnet.func.functional_call(template, row, (h,)), None

        return (jax.lax.scan(body, x, params)[0] ** 2).mean()

    def compiled(forward: Callable[[Any], Any], model: Any) -> Callable[[Any], Any]:
        return objnet.jit(lambda x: objnet.value_and_grad(lambda: (forward(x) ** 2).mean(), wrt=model)())

    def in_turn(x: Any) -> Any:
        for layer in blocks:
            x = layer(x)
        return x

    found = {
        "lax.scan by hand": lambda x: by_hand(params, x),
        "nn.ScanSequential": compiled(stacked, stacked),
        "nn.rolled": compiled(nn.rolled(blocks), blocks),
    }
    if loop:
        found["loop"] = compiled(in_turn, blocks)
    return found


def seconds(function: Callable[[Any], Any], x: Any) -> float:
    start = time.perf_counter()
    jax.block_until_ready(function(x))
    return time.perf_counter() - start


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, nargs="+", default=[8, 32, 96])
    parser.add_argument("--loop", type=int, default=8, help="the largest number of blocks to run as a plain loop")
    parser.add_argument("--first", type=int, default=3, help="how many times to compile anew")
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args(argv)
    x = jax.random.normal(jax.random.key(0), X)
    for count in options.blocks:
        first: dict[str, list[float]] = {}
        made: dict[str, Callable[[Any], Any]] = {}
        for _ in range(options.first):
            jax.clear_caches()
            made = entries(count, count <= options.loop)
            for name, function in made.items():
                first.setdefault(name, []).append(seconds(function, x))
        check_losses({name: [float(function(x)[0])] for name, function in made.items()}, 1e-4)
        print(table(f"{count} blocks, first step", first, 1.0, "s"), end="\n\n")
        times = interleave({name: (lambda f=f: seconds(f, x)) for name, f in made.items()}, options.rounds)
        print(table(f"{count} blocks, further steps", times, 1e-3, "ms"), end="\n\n")


if __name__ == "__main__":
    main()
