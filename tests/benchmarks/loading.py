"""Loading a sharded folder of weights: time and peak memory, against the safetensors library.

Each contender runs in a process of its own, in turns; the files are in the page cache, so that memory copies and not the disk
are measured. Memory is the peak of the resident set above what it was before loading.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

import objnet
from objnet import nn
from objnet.core.host_memory import give_back_freed_memory
from objnet.io import open_folder, save_sharded
from tests.benchmarks.measure import table

WIDTH = 2048
LAYER_BYTES = 4 * WIDTH * WIDTH


def build(layers: int, abstract: bool) -> Any:
    """Linear layers of one weight each."""
    if not abstract:
        return nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(layers)))
    with objnet.abstract():
        return build(layers, False)


def load_by_objnet(model: Any, folder: Path) -> None:
    model.load_state_dict(open_folder(folder))


def load_by_safetensors(library: Any, model: Any, folder: Path) -> None:
    for name in sorted(folder.glob("*.safetensors")):
        model.load_state_dict(library.load_file(name), strict=False)


def load_by_numpy(model: Any, folder: Path) -> None:
    import safetensors.numpy

    load_by_safetensors(safetensors.numpy, model, folder)


def load_by_flax(model: Any, folder: Path) -> None:
    import safetensors.flax

    load_by_safetensors(safetensors.flax, model, folder)


# name: how to load, and whether the model has no values before
CONTENDERS = {
    "safetensors.numpy": (load_by_numpy, True),
    "safetensors.flax": (load_by_flax, True),
    "objnet.io.open_folder": (load_by_objnet, True),
    "safetensors.numpy, over values": (load_by_numpy, False),
    "objnet.io.open_folder, over values": (load_by_objnet, False),
}


def memory(field: str) -> int:
    """Bytes that Linux's ``/proc`` gives for this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


def measure_one(name: str, layers: int, folder: Path) -> dict[str, Any]:
    """Load once, in this process: seconds, peak bytes with and without what was there before, and a digest of the weights."""
    load, abstract = CONTENDERS[name]
    __import__(name.split(",")[0].rpartition(".")[0] if name.startswith("objnet") else name.split(",")[0])
    jax.block_until_ready(jax.numpy.zeros(1))  # the backend
    before = memory("VmRSS")  # a model's own values are part of the goal, so they come after
    model = build(layers, abstract)
    jax.block_until_ready(model.state_dict() if not abstract else 0)
    give_back_freed_memory()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak that building had
    start = time.perf_counter()
    load(model, folder)
    jax.block_until_ready([parameter.value for parameter in model.parameters()])
    seconds = time.perf_counter() - start
    peak = memory("VmHWM") - before
    digest = hashlib.blake2b()
    for parameter in model.parameters():
        digest.update(np.ascontiguousarray(parameter.value[::97, ::89]))
    return {"seconds": seconds, "peak": peak, "digest": digest.hexdigest()}


def write(folder: Path, layers: int, shard: int) -> None:
    random = np.random.default_rng(0)
    arrays = {f"{i}.weight": random.standard_normal((WIDTH, WIDTH), np.float32) for i in range(layers)}
    save_sharded(arrays, folder, shard)


def compare(layers: int, shards: int, rounds: int) -> str:
    """Write a folder, load it by every contender in turns, check that the weights agree, and give the tables."""
    size, shard = layers * LAYER_BYTES, -(-layers // shards) * LAYER_BYTES
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
    with tempfile.TemporaryDirectory(prefix="objnet-loading-") as place:
        folder = Path(place)
        write(folder, layers, shard)
        for number in range(rounds):
            for name in list(CONTENDERS)[:: -1 if number % 2 else 1]:
                arguments = ["--layers", str(layers), "--one", name, "--folder", place]
                command = [sys.executable, "-m", "tests.benchmarks.loading", *arguments]
                environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
                done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
                results[name].append(json.loads(done.stdout.splitlines()[-1]))
    if len({run["digest"] for runs in results.values() for run in runs}) != 1:
        raise AssertionError(f"the contenders load different weights: {results}")
    title = f"{size / 1e9:.2f} GB in shards of {shard / 1e9:.2f} GB"
    seconds = table(f"{title}: time", {n: [r["seconds"] for r in runs] for n, runs in results.items()}, 1e-3, "ms")
    width = max(map(len, results))
    lines = [f"{title}: peak memory", f"{'':{width}}  {'median MB':>12}  of the model's size, and in shards above it"]
    for name, runs in results.items():
        peak = statistics.median(run["peak"] for run in runs)
        lines.append(f"{name:{width}}  {peak / 1e6:12.0f}  {peak / size:.2f}, {(peak - size) / shard:+.2f}")
    return seconds + "\n\n" + "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Loading a sharded folder of weights.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=128, help=f"weights of {LAYER_BYTES / 1e6:.0f} MB each")
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5, help="runs of each contender")
    parser.add_argument("--one", choices=list(CONTENDERS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.one is None:
        print(compare(args.layers, args.shards, args.rounds))
    else:
        print(json.dumps(measure_one(args.one, args.layers, args.folder)))


if __name__ == "__main__":
    main()
