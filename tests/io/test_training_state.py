"""What a checkpoint's objects are given, and what they are put back to when anything does not fit."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import objnet
from objnet import nn, optim
from objnet.core import errors
from objnet.io import CheckpointManager, restore_orbax, save_orbax


class InPlace:
    """Gives out what it holds, and loads into it."""

    def __init__(self):
        self.seen, self.sums = [0], np.zeros(2, np.float32)

    def state_dict(self):
        return {"seen": self.seen, "sums": self.sums}

    def load_state_dict(self, state):
        self.seen[:] = state["seen"]
        self.sums[:] = state["sums"]


class Holder:
    """Keeps what it is given."""

    def __init__(self, **held):
        self.held = held

    def state_dict(self):
        return self.held

    def load_state_dict(self, state):
        self.held = state


class Failing(Holder):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def load_state_dict(self, state):
        raise self.error


class Versioned(nn.Linear):
    """Older layouts are upgraded, which must not happen to the present one."""

    _version = 3

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *rest):
        if local_metadata.get("version", 0) < 3:
            state_dict[f"{prefix}weight"] = -state_dict[f"{prefix}weight"]
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)


class Extended(nn.Linear):
    """Has state besides arrays."""

    def __init__(self):
        super().__init__(2, 2)
        self.log = {"steps": [1], "table": np.zeros(2)}

    def get_extra_state(self):
        return self.log

    def set_extra_state(self, state):
        self.log = state


@pytest.fixture
def manager(tmp_path):
    with CheckpointManager(tmp_path / "run") as manager:
        yield manager


# -- what comes back ---------------------------------------------------------------------------------------------------


def same(a, b):
    """Whether two values are equal, to the type of each container, number and array."""
    if isinstance(a, (np.ndarray, np.generic, jax.Array)):
        is_kind = isinstance(b, jax.Array) if isinstance(a, jax.Array) else type(a) is type(b)
        return is_kind and a.dtype == b.dtype and a.shape == b.shape and np.asarray(a).tobytes() == np.asarray(b).tobytes()
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    return len(a) == len(b) and all(map(same, a, b)) if isinstance(a, (list, tuple)) else a == b


DTYPES = [np.float32, np.float64, np.int8, np.int64, np.bool_, np.complex64, np.complex128, ml_dtypes.bfloat16, ml_dtypes.int4]
HOST = st.builds(lambda dtype, shape: np.ones(shape, dtype), st.sampled_from(DTYPES), st.sampled_from([(), (0,), (3,), (2, 1)]))
ARRAYS = HOST | HOST.filter(lambda a: a.ndim == 0).map(lambda a: a[()]) | st.sampled_from([jnp.arange(3), jnp.float32(2)])
LEAVES = (
    ARRAYS | st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5) | st.binary(max_size=3)
)
DATA = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.text(max_size=3), DATA, max_size=3))
def test_plain_data_come_back_as_they_were(tmp_path_factory, data):
    with CheckpointManager(tmp_path_factory.mktemp("run"), max_shard_size=40) as manager:
        manager.save(0, {"data": data, **data})
        found = manager.restore({})
    assert same(found["data"], data) and same({k: found[k] for k in data}, data)


def test_objects_get_arrays_of_their_own(manager):
    manager.save(0, {"holder": Holder(host=np.ones(3, np.float32), device=jnp.ones(2), best=np.float32(3))})
    holder = Holder()
    manager.restore({"holder": holder})
    manager.delete(0)
    holder.held["host"] += 1  # its own, and not the file's
    assert holder.held["host"].tolist() == [2, 2, 2] and type(holder.held["host"]) is np.ndarray
    assert isinstance(holder.held["device"], jax.Array) and type(holder.held["best"]) is np.float32


def test_the_same_through_orbax(tmp_path):
    pytest.importorskip("orbax.checkpoint")
    with warnings.catch_warnings(action="ignore"):  # orbax's own
        save_orbax(tmp_path / "a", {"holder": Holder(host=np.ones(3, np.float32), device=jnp.ones(2)), "net": Versioned(2, 2)})
        holder, net = Holder(), Versioned(2, 2)
        restore_orbax(tmp_path / "a", {"holder": holder, "net": net})
    holder.held["host"] += 1
    assert type(holder.held["host"]) is np.ndarray and isinstance(holder.held["device"], jax.Array)


def test_versions_of_modules_are_kept(manager):
    model = nn.Sequential(Versioned(2, 2), nn.BatchNorm1d(2))
    manager.save(0, {"model": model})
    again = nn.Sequential(Versioned(2, 2), nn.BatchNorm1d(2))
    manager.restore({"model": again})
    np.testing.assert_array_equal(again[0].weight._read(), model[0].weight._read())


def test_versions_that_are_no_json_are_refused(manager):
    linear = nn.Linear(2, 2)
    linear.register_state_dict_post_hook(lambda module, entries, prefix, local: local.update(made={1: "one"}))
    with pytest.raises(TypeError, match="net: the state dict's _metadata"):
        manager.save(0, {"net": linear})


def test_extra_state_comes_back_and_is_put_back(manager):
    model = Extended()
    model.log = {"steps": [1, 2], "table": np.ones(2)}
    manager.save(0, {"model": model})
    other = Extended()
    with pytest.raises(errors.StructureMismatchError):
        manager.restore({"model": other, "more": Holder()})
    assert other.log["steps"] == [1] and other.log["table"].tolist() == [0, 0]
    manager.restore({"model": other})
    other.log["table"] += 1
    assert other.log["steps"] == [1, 2] and other.log["table"].tolist() == [2, 2]


def test_a_model_without_values_is_filled(manager):
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    manager.save(0, {"model": model})
    with objnet.abstract():
        empty = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with pytest.raises(errors.StructureMismatchError) as caught:
        manager.restore({"model": empty, "more": Holder()})
    assert "could not be put back" not in str(caught.value)
    assert isinstance(empty.state_dict()["0.weight"], jax.ShapeDtypeStruct)  # without values again
    manager.restore({"model": empty})
    np.testing.assert_array_equal(empty[0].weight._read(), model[0].weight._read())


# -- what does not fit -------------------------------------------------------------------------------------------------


def test_all_differences_of_all_objects_are_one_error(manager):
    def state(width):
        model = nn.Linear(2, width)
        optimizer = optim.Adam(model.parameters())
        moments = [{"step": 1.0, "exp_avg": np.ones(p.shape), "exp_avg_sq": np.ones(p.shape)} for p in model.parameters()]
        optimizer.load_state_dict({**optimizer.state_dict(), "state": dict(enumerate(moments))})
        return {"model": model, "optimizer": optimizer, "scheduler": optim.lr_scheduler.StepLR(optimizer, 3), "counts": InPlace()}

    saved = {**state(2), "gone": Holder(), "data": 1}
    saved["counts"].seen[0] = 7
    manager.save(0, saved)
    asked = {**state(3), "new": 0, "data": Holder()}
    asked["scheduler"] = optim.lr_scheduler.ExponentialLR(asked["optimizer"], 0.5)
    before = jax.tree.map(np.asarray, [dict(asked["model"].state_dict()), asked["optimizer"].state_dict()["state"]])
    rng = objnet.get_rng_state()
    with pytest.raises(errors.StructureMismatchError) as caught:
        manager.restore(asked)
    parts = [
        "nothing has been loaded",
        "new was not saved",
        "gone (tests.io.test_training_state.Holder) was saved and is not asked for",
        "data is a Holder here, and plain data was saved",
        "model: Error(s) in loading state_dict for Linear",
        "size mismatch for weight",
        "size mismatch for bias",
        "optimizer: ",
        "exp_avg_sq has shape (2, 2), not (3, 2)",
        "scheduler is a objnet.optim.lr_scheduler.decays.ExponentialLR, and a",
    ]
    assert [part for part in parts if part not in str(caught.value)] == []
    after = jax.tree.map(np.asarray, [dict(asked["model"].state_dict()), asked["optimizer"].state_dict()["state"]])
    assert same(after, before) and asked["counts"].seen == [0]
    assert not hasattr(asked["scheduler"], "step_size")
    assert all(np.array_equal(rng[k], objnet.get_rng_state()[k]) for k in rng)


def test_objects_that_change_in_place_are_put_back(manager):
    first = InPlace()
    first.seen[0], first.sums[:] = 5, 5
    manager.save(0, {"counts": first, "model": nn.Linear(2, 2)})
    counts = InPlace()
    with pytest.raises(errors.StructureMismatchError, match="size mismatch"):
        manager.restore({"counts": counts, "model": nn.Linear(3, 2)})
    assert counts.seen == [0] and counts.sums.tolist() == [0, 0]
    manager.restore({"counts": counts, "model": nn.Linear(2, 2)})
    assert counts.seen == [5] and counts.sums.tolist() == [5, 5]


@pytest.mark.parametrize("error", [OSError("disk"), MemoryError(), KeyboardInterrupt()])
def test_what_is_no_misfit_comes_through_and_nothing_has_changed(manager, error):
    model = nn.Linear(2, 2)
    manager.save(0, {"model": model, "last": Holder()})
    other = nn.Linear(2, 2)
    before = np.array(other.weight._read())
    with pytest.raises(type(error)) as caught:
        manager.restore({"model": other, "last": Failing(error)})
    assert caught.value is error and "an old state could not be put back" in error.__notes__[0]  # of the failing one itself
    np.testing.assert_array_equal(other.weight._read(), before)


def test_kinds_of_optimizers_and_schedulers_are_not_mixed(manager):
    model = nn.Linear(2, 2)
    adam, adamw = optim.Adam(model.parameters()), optim.AdamW(model.parameters())
    cosine, step = optim.lr_scheduler.CosineAnnealingLR(adam, 9), optim.lr_scheduler.StepLR(adam, 3)
    manager.save(0, {"optimizer": adam, "scheduler": cosine})
    with pytest.raises(errors.StructureMismatchError, match=r"optimizer is a \S+\.AdamW, and a \S+\.Adam was saved"):
        manager.restore({"optimizer": adamw, "scheduler": cosine})
    with pytest.raises(
        errors.StructureMismatchError, match=r"StepLR, and a \S+\.CosineAnnealingLR was saved: the manager's load"
    ):
        manager.restore({"optimizer": adam, "scheduler": step})
    assert step.step_size == 3 and not hasattr(step, "T_max")

    class Mine(optim.AdamW):  # users know what theirs takes
        pass

    mine = Mine(model.parameters(), lr=0.5)
    manager.restore({"optimizer": mine, "scheduler": cosine})
    assert mine.param_groups[0]["lr"] == 1e-3
