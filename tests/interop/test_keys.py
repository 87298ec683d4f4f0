"""Names in nested, dotted and two-level form."""

from __future__ import annotations

import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

import objnet
from objnet import nn
from objnet.interop import keys
from objnet.interop.keys import flatten, from_two_level, to_two_level, unflatten

NAMES = st.text("ab~_1", min_size=1, max_size=3)
LEAVES = st.one_of(st.integers(), st.tuples(st.integers()), st.none())
TREES = st.dictionaries(
    NAMES, st.recursive(LEAVES, lambda trees: st.dictionaries(NAMES, trees, min_size=1, max_size=3)), max_size=4
)


@given(TREES)
def test_dotted_keys_and_back(tree):
    assert unflatten(flatten(tree)) == tree
    assert unflatten(flatten(tree, "/"), "/") == tree
    assert len(flatten(tree)) == len(list(keys.leaves(tree)))


@given(TREES.filter(lambda tree: "~" not in tree))
def test_two_levels_and_back(tree):
    levels = to_two_level(tree)
    assert from_two_level(levels) == tree
    assert all(isinstance(entries, dict) for entries in levels.values())
    assert flatten(from_two_level(levels)) == flatten(tree)


def test_torchs_keys_of_a_pure_form():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(jnp.ones(2))
            self.blocks = nn.ModuleList([nn.Linear(2, 2), nn.BatchNorm1d(2)])

    model = Net()
    params, state = objnet.transform_with_state(model).init(None)
    ours = flatten(from_two_level(params, ".")) | flatten(from_two_level(state, "."))
    jax.tree.map(lambda a, b: (a == b).all(), ours, dict(model.state_dict()))
    assert to_two_level(unflatten(flatten(from_two_level(params, "."))), ".") == params
    assert to_two_level(from_two_level(params, ".")) == {
        "~": params["~"],
        "blocks/0": params["blocks.0"],
        "blocks/1": params["blocks.1"],
    }


def test_flaxs_own_flattening():
    pytest.importorskip("flax")
    from flax.traverse_util import flatten_dict

    tree = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert flatten(tree) == flatten_dict(tree, sep=".")


def test_haikus_own_flattening():
    hk = pytest.importorskip("haiku")
    pytest.importorskip("flax")
    tree = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert to_two_level(tree) == hk.experimental.flax.flatten_flax_to_haiku(tree)


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        (lambda: flatten([1]), TypeError, "expected a mapping from names to arrays, got list"),
        (lambda: flatten({"a.b": 1}), ValueError, r"'a\.b' holds the separator '\.'"),
        (lambda: flatten({1: 2}), TypeError, "names are strings, got 1"),
        (lambda: unflatten({1: 2}), TypeError, "names are strings"),
        (lambda: unflatten({"a": 1, "a.b": 2}), ValueError, r"'a(\.b)?' is the name of two things"),
        (lambda: unflatten({"a.b": 1, "a": 2}), ValueError, "'a' is the name of two things"),
        (lambda: to_two_level({"a/b": {"c": 1}}), ValueError, "separator '/'"),
        (lambda: from_two_level({"a": 1}), TypeError, "two-level mapping, module path to name to array, got int at 'a'"),
        (lambda: from_two_level({"a": {"b": 1}, "~": {"a": 2}}), ValueError, "two things"),
        (lambda: from_two_level(None), TypeError, "got NoneType"),
    ],
)
def test_refused(run, error, message):
    with pytest.raises(error, match=message):
        run()


@pytest.mark.parametrize(("bridge", "library"), [("flax", "Flax"), ("haiku", "Haiku")])
def test_without_the_library(bridge, library):
    code = f"""
import sys
sys.modules["{bridge}"] = None
from objnet import interop
print(interop.keys.flatten({{"a": {{"b": 1}}}}))
try:
    interop.{bridge}
except ImportError as error:
    print(error)
print("{bridge}" in dir(interop))
try:
    interop.keras
except AttributeError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.startswith(f"{{'a.b': 1}}\nobjnet.interop.{bridge} needs {library}: pip install 'objnet[{bridge}]'")
    assert run.stdout.endswith("True\nmodule 'objnet.interop' has no attribute 'keras'\n")
