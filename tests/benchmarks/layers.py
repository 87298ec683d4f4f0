"""Forward and backward of single layers: objnet, hand-written jax in two ways or more, and torch eager.

    python -m tests.benchmarks.layers [--layer conv2d lstm ...] [--rounds 10] [--sample 0.1] [--threads 2] [--plain]

All of jax is compiled with the options of ``objnet.jit``, so that only the way of writing differs; ``--plain`` compiles it with
XLA's own.  What is timed is one call that gives the result and the gradients of all floating point arguments.  Results and
gradients must agree first.  torch runs in a process of its own.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import os
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from objnet.transforms.compiler import default_options
from tests.benchmarks.families import FAMILIES, Family
from tests.benchmarks.measure import LossesDiffer, interleave, table

Results = list[np.ndarray]


def arguments(family: Family) -> tuple[list[np.ndarray], np.ndarray]:
    """The arrays a layer is differentiated by, and what its gradients are weighted with: enough for any result."""
    rng = np.random.default_rng(0)
    arrays = [rng.normal(0, 0.3, shape).astype(np.float32) for shape in family.shapes]
    out = jax.eval_shape(family.ways["objnet"], *arrays, *family.constants)
    return arrays, rng.normal(size=out.shape).astype(np.float32)


def jax_call(family: Family, way: str, options: dict[str, Any]) -> Callable[[], Any]:
    arrays, weight = arguments(family)

    def run(arrays: Any, constants: Any, weight: Any) -> Any:
        out, back = jax.vjp(lambda *a: family.ways[way](*a, *constants), *arrays)
        return out, *back(weight)

    inputs = jax.device_put((arrays, family.constants, weight))
    compiled = jax.jit(run, compiler_options=options).lower(*inputs).compile()
    return lambda: jax.block_until_ready(compiled(*inputs))


def torch_call(family: Family) -> Callable[[], Any]:
    import torch

    arrays, weight = arguments(family)
    tensors = [torch.from_numpy(a).requires_grad_() for a in arrays]
    constants, cotangent = [torch.from_numpy(c) for c in family.constants], torch.tensor(weight)

    def call() -> Any:
        out = family.torch(torch, *tensors, *constants)
        return [x.detach() for x in (out, *torch.autograd.grad(out, tensors, cotangent))]

    return call


def timed(call: Callable[[], Any], sample: float) -> Callable[[], float]:
    """Seconds of one call, as the mean over about ``sample`` seconds."""
    call()
    start = time.perf_counter()
    call()
    number = max(1, round(sample / (time.perf_counter() - start)))

    def measure() -> float:
        start = time.perf_counter()
        for _ in range(number):
            call()
        return (time.perf_counter() - start) / number

    return measure


def serve_torch(connection: Any, names: list[str], sample: float, threads: int) -> None:
    """In a process of its own: for each name its results, then seconds for every request until None."""
    import torch

    torch.set_num_threads(threads)
    for name in names:
        call = torch_call(FAMILIES[name])
        connection.send([np.asarray(x) for x in call()])
        measure = timed(call, sample)
        while connection.recv() is not None:
            connection.send(measure())


def check(family: Family, results: dict[str, Results]) -> None:
    """Every result and gradient equals objnet's within 1e-3 of its size, random ones on the average.

    Raises:
        LossesDiffer: naming the way and the array.
    """
    expected = results["objnet"]
    for way, found in results.items():
        for number, (a, b) in enumerate(zip(expected, found, strict=True)):
            if a.shape != b.shape:
                raise LossesDiffer(f"{way} gives array {number} the shape {b.shape}, objnet {a.shape}")
            difference = abs(a.std() - b.std()) * 0.1 if family.random else abs(a - b).max()
            if not difference <= 1e-3 * max(1.0, abs(a).max()):
                raise LossesDiffer(f"{way} differs by {difference:.3g} from objnet in array {number}")


def compare(name: str, rounds: int, sample: float, options: dict[str, Any], torch: Any) -> str:
    """Compile all ways, check that they agree, time them in turns, and give the table."""
    family = FAMILIES[name]
    calls = {way: jax_call(family, way, options) for way in family.ways}
    results = {way: [np.asarray(x) for x in call()] for way, call in calls.items()}
    times: dict[str, Any] = dict.fromkeys((*calls, "torch eager"), "not installed")
    entries = {way: timed(call, sample) for way, call in calls.items()}
    if torch is not None:
        results["torch eager"] = torch.recv()

        def ask() -> float:
            torch.send(name)
            return torch.recv()

        entries["torch eager"] = ask
    check(family, results)
    times.update(interleave(entries, rounds))
    if torch is not None:
        torch.send(None)
    shapes = ", ".join(str(shape) for shape in family.shapes)
    return table(f"{name}, forward and backward, {shapes}", times, 1e-3, "ms")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Single layers, side by side.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--layer", nargs="+", choices=list(FAMILIES), default=list(FAMILIES), help="which layers")
    parser.add_argument("--rounds", type=int, default=10, help="interleaved rounds")
    parser.add_argument("--sample", type=float, default=0.1, help="seconds that one measurement takes, about")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="torch's threads; jax takes all cores")
    parser.add_argument("--plain", action="store_true", help="compile with XLA's own options")
    args = parser.parse_args(argv)
    ours = process = None
    if importlib.util.find_spec("torch"):
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=serve_torch, args=(theirs, args.layer, args.sample, args.threads), daemon=True)
        process.start()
        theirs.close()  # so that a process that dies ends the wait for its answer
    options = {} if args.plain else dict(default_options())
    try:
        for name in args.layer:
            print(compare(name, args.rounds, args.sample, options, ours), end="\n\n", flush=True)
    finally:
        if process is not None:
            process.terminate()
            process.join()


if __name__ == "__main__":
    main()
