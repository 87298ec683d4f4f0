"""Whole training steps: objnet, hand-written jax, torch eager, for two works flax nnx and equinox, on the same weights and data.

    python -m tests.benchmarks.training [--work lstm cnn resnet gpt] [--rounds 10] [--steps 5] [--threads 2]

What each work is stands in its file in ``works/``.

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

from tests.benchmarks.measure import check_losses, interleave, table
from tests.benchmarks.works import cnn, gpt, lstm, resnet

WORKS = {"lstm": lstm.WORK, "cnn": cnn.WORK, "resnet": resnet.WORK, "gpt": gpt.WORK}
PACKAGES = {"torch eager": "torch", "nnx": "flax", "equinox": "equinox"}


# -- processes and turns -----------------------------------------------------------------------------------------------


def serve(connection: Any, work: str, library: str, threads: int) -> None:
    """In a process of its own: build the step; for every number received, run so many and send (seconds, losses)."""
    if library == "torch eager":
        import torch

        torch.set_num_threads(threads)
    task = WORKS[work]
    step, batches = task.builders[library](task.weights()), task.batches()
    done = 0
    while True:
        steps = connection.recv()
        start = time.perf_counter()
        losses = [step(*batches[i % len(batches)]) for i in range(done, done + steps)]
        losses = [float(getattr(loss, "detach", lambda loss=loss: loss)()) for loss in losses]  # waits for them
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
    title, builds = WORKS[work].title, WORKS[work].builders
    times: dict[str, Any] = dict.fromkeys(builds, "not installed")
    libraries = [name for name in builds if importlib.util.find_spec(PACKAGES.get(name, "jax"))]
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
