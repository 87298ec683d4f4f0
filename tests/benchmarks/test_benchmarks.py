"""The benchmarks run, and what they compare computes the same: a short run of each, and its own check of the losses."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks import layers, measure, overhead
from tests.benchmarks.families import FAMILIES

ROOT = Path(__file__).parents[2]
PEERS = {"dm-haiku": "haiku", "nnx.jit": "flax", "nnx.cached_partial": "flax", "eqx.filter_jit": "equinox"}


def run(name, *args):
    """A benchmark's rows by title and entry; as its users run it, in a process of its own."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", f"tests.benchmarks.{name}", *args]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr
    tables = [block.splitlines() for block in done.stdout.strip().split("\n\n")]
    return {title: {re.split(r"\s{2,}", row)[0]: row for row in rows} for title, _, *rows in tables}


def times(row):
    """Median and ratio of one row."""
    return [float(number) for number in re.split(r"\s{2,}", row)[1:3]]


@pytest.fixture(scope="module")
def overheads():
    return run("overhead", "--rounds", "1", "--layers", "3", "--forward-layers", "3", "--sample", "0.001")


def test_overhead_compares_every_way_of_writing_it(overheads):
    step, forward = overheads["one Adam step, 3 layers"], overheads["forward, 3 layers"]
    assert list(step) == list(overhead.STEPS) and list(forward) == list(overhead.FORWARDS)
    for row in (step["jax"], step["jax, donating"], step["objnet.jit"], forward["objnet.jit"]):
        assert min(times(row)) > 0
    assert times(step["jax"])[1] == times(forward["jax"])[1] == 1


@pytest.mark.parametrize("entry", PEERS)
def test_overhead_measures_each_peer(overheads, entry):
    rows = [rows[entry] for rows in overheads.values()]
    if importlib.util.find_spec(PEERS[entry]) is None:
        assert all(row.endswith("not installed") for row in rows)
        pytest.skip(f"{entry} is not installed")
    assert all(min(times(row)) > 0 for row in rows)


@pytest.mark.slow
def test_depth_compares_equal_losses():
    tables = run("depth", "--blocks", "2", "--first", "1", "--rounds", "1")
    for title in ("2 blocks, first step", "2 blocks, further steps"):
        assert list(tables[title]) == ["lax.scan by hand", "nn.ScanSequential", "nn.rolled", "loop"]
        assert min(map(min, map(times, tables[title].values()))) > 0


@pytest.mark.slow
def test_training_compares_equal_losses():
    tables = run("training", "--work", "cnn", "--rounds", "1", "--steps", "1")
    packages = {"nnx": "flax", "equinox": "equinox", "torch eager": "torch"}
    assert [list(rows) for rows in tables.values()] == [["jax", "nnx", "equinox", "objnet.jit", "torch eager"]]
    for rows in tables.values():
        assert min(times(rows["objnet.jit"])) > 0 and times(rows["jax"])[1] == 1
        for entry in set(rows) & set(packages):
            if importlib.util.find_spec(packages[entry]):
                assert min(times(rows[entry])) > 0
            else:
                assert rows[entry].endswith("not installed")


@pytest.mark.slow
def test_optimizers_compare_equal_parameters():
    tables = run("optimizers", "--rounds", "1", "--layers", "2", "--sample", "0.02", "--only", "SGD", "Muon")
    assert [title.split(",")[0] for title in tables] == ["SGD", "Muon"]
    for rows in tables.values():
        assert list(rows) == ["jax and optax", "the same, donating", "objnet.jit"]
        assert min(map(min, map(times, rows.values()))) > 0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux's peak of the resident set")
def test_loading_compares_equal_weights():
    tables = run("loading", "--layers", "4", "--shards", "2", "--rounds", "1")
    assert [title.rpartition(": ")[2] for title in tables] == ["time", "peak memory"]
    for rows in tables.values():
        assert {"safetensors.numpy", "objnet.io.open_folder", "objnet.io.open_folder, over values"} <= {*rows}


@pytest.mark.slow
def test_layers_compare_equal_results():
    chosen = ("linear", "max_pool2d", "layer_norm", "dropout")
    tables = run("layers", "--layer", *chosen, "--rounds", "1", "--sample", "0.001")
    assert [title.split(",")[0] for title in tables] == list(chosen)
    for name, rows in zip(chosen, tables.values(), strict=True):
        assert list(rows) == [*FAMILIES[name].ways, "torch eager"]
        assert times(rows["objnet"])[1] == 1 and all(min(times(rows[way])) > 0 for way in FAMILIES[name].ways)


def test_layers_that_differ_are_refused():
    results = {"objnet": [np.zeros(3)], "other": [np.array([0, 0, 0.1])]}
    with pytest.raises(measure.LossesDiffer, match="other differs by 0.1 from objnet in array 0"):
        layers.check(FAMILIES["gelu"], results)
    with pytest.raises(measure.LossesDiffer, match="the shape"):
        layers.check(FAMILIES["gelu"], {"objnet": [np.zeros(3)], "other": [np.zeros(4)]})


def test_differing_losses_are_refused():
    measure.check_losses({"a": [1.0, 200.0], "b": [1.000001, 200.001]}, 1e-5)
    with pytest.raises(measure.LossesDiffer, match="b gives 1.1 in step 1, a gives 1"):
        measure.check_losses({"a": [2.0, 1.0], "b": [2.0, 1.1]}, 1e-5)
    with pytest.raises(measure.LossesDiffer, match="nan"):
        measure.check_losses({"a": [1.0], "b": [float("nan")]}, 1e-5)


def test_rounds_take_turns_and_ratios_are_taken_within_a_round():
    calls = []

    def entry(name, seconds):
        return lambda: calls.append(name) or seconds.pop(0)

    times = measure.interleave({"a": entry("a", [1.0, 4.0, 2.0]), "b": entry("b", [3.0, 4.0, 8.0])}, 3)
    assert calls == ["a", "b", "b", "a", "a", "b"] and times == {"a": [1.0, 4.0, 2.0], "b": [3.0, 4.0, 8.0]}
    *_, first, second, third = measure.table("t", {**times, "c": "not installed"}, 1.0, "s").splitlines()
    assert first.split() == ["a", "2.0", "1.00", "1.00", "-", "1.00"]
    assert second.split() == ["b", "4.0", "3.00", "1.00", "-", "4.00"] and third.split() == ["c", "not", "installed"]
