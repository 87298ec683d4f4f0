"""Training states in orbax's format."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import objnet
from objnet import nn, optim
from objnet.core import errors
from objnet.io import restore_orbax, save_orbax

pytest.importorskip("orbax.checkpoint")
pytestmark = pytest.mark.filterwarnings("ignore")  # orbax's own


def _setup():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = optim.AdamW(model.parameters(), lr=0.1)
    return {"model": model, "optimizer": optimizer}, lambda: optimizer.step(lambda: (model(jnp.ones((2, 3))) ** 2).mean())


def test_a_whole_state_comes_back(tmp_path):
    state, step = _setup()
    step()
    save_orbax(tmp_path / "a", {**state, "epoch": 3, "seen": np.arange(3), "key": jax.random.key(4)})
    wanted = np.asarray(jax.random.key_data(objnet.next_rng_key()))
    step()
    again, step_again = _setup()
    found = restore_orbax(tmp_path / "a", again)
    assert found["epoch"] == 3 and found["seen"].tolist() == [0, 1, 2] and found["key"].dtype == jax.random.key(4).dtype
    np.testing.assert_array_equal(jax.random.key_data(objnet.next_rng_key()), wanted)
    step_again()
    for a, b in zip(
        jax.tree.leaves(dict(again["model"].state_dict())), jax.tree.leaves(dict(state["model"].state_dict())), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_what_does_not_fit_is_refused(tmp_path):
    state, _ = _setup()
    save_orbax(tmp_path / "a", state)
    with pytest.raises(ValueError, match="exist"):
        save_orbax(tmp_path / "a", state)
    with pytest.raises(errors.StructureMismatchError, match="optimizer .* not asked for"):
        restore_orbax(tmp_path / "a", {"model": state["model"]})
    (tmp_path / "b").mkdir()
    with pytest.raises(errors.CheckpointError, match="save_orbax"):
        restore_orbax(tmp_path / "b", state)
    with pytest.raises(FileNotFoundError):
        restore_orbax(tmp_path / "c", state)
