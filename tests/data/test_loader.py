"""torch's ``DataLoader``: in processes of its own, with its own collate, and what a source may do to its arrays."""

from __future__ import annotations

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import objnet
import objnet.nn.functional as F
from objnet import nn, optim
from objnet.data import numpy_collate, prefetch
from tests.data.samples import Squares, devices_started

torch = pytest.importorskip("torch")
DataLoader = torch.utils.data.DataLoader


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_start_no_devices(method):
    jnp.zeros(1)
    assert devices_started()
    loader = DataLoader(Squares(5), 2, num_workers=1, multiprocessing_context=method, collate_fn=numpy_collate)
    batches = list(prefetch(loader))
    assert [b[0][:, 0].tolist() for b in batches] == [[0, 1], [4, 9], [16]]
    assert not any(b[1].any() for b in batches)


def _loader(**options):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(10, 3)).astype(np.float32), rng.normal(size=(10, 2)).astype(np.float32)
    data = torch.utils.data.TensorDataset(torch.tensor(x), torch.tensor(y))
    return DataLoader(data, 4, **options), np.split(x, [4, 8]), np.split(y, [4, 8])


def _training():
    objnet.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = optim.SGD(model.parameters(), 0.1)
    return model, objnet.jit(lambda x, y: optimizer.step(lambda: F.mse_loss(model(x), y)))


@pytest.mark.parametrize("prefetched", [False, True])
def test_batches_feed_a_compiled_step(prefetched):
    model, step = _training()
    want, step_by_hand = _training()
    loader, xs, ys = _loader(**({} if prefetched else {"collate_fn": numpy_collate}))  # torch's own collate, and ours
    for x, y in prefetch(loader) if prefetched else loader:
        assert isinstance(x, jax.Array if prefetched else np.ndarray)
        step(x, y)
    for x, y in zip(xs, ys, strict=True):
        step_by_hand(x, y)
    np.testing.assert_array_equal(model.weight._read(), want.weight._read())


def test_tensors_are_refused_by_name():
    model, step = _training()
    (x, y), *_ = _loader()[0]
    before = np.asarray(model.weight._read())
    calls = [
        lambda: step(x, y),
        lambda: step(x=x, y=y),
        lambda: objnet.jit(lambda batch: batch["x"] + 1)({"x": x}),
        lambda: objnet.jit(lambda x: x)(torch.nn.Parameter(x)),
        lambda: model(x),
        lambda: objnet.jit(model)(x),
    ]
    for call in calls:
        with pytest.raises(
            TypeError, match=r"got a torch.Tensor where a jax array is wanted \(at .*collate_fn=objnet.data.numpy_col"
        ):
            call()
    np.testing.assert_array_equal(model.weight._read(), before)


def test_a_source_may_fill_the_same_array_again():
    memory = np.zeros(1040, np.float32)
    start = -memory.ctypes.data % 64 // 4
    aligned = memory[start : start + 1024]  # which jax would take over as it is

    def source():
        for i in range(4):
            aligned[:] = i
            yield aligned
            yield torch.from_numpy(aligned)

    assert [float(batch.sum()) / 1024 for batch in prefetch(source(), size=3)] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_integers_do_not_wrap():
    good, bad = np.array([3]), np.array([2**40])
    seen = []
    with pytest.raises(objnet.errors.IntegerRangeError, match="1099511627776"):
        seen.extend(prefetch([good, good, bad]))
    assert [batch.dtype for batch in seen] == [jnp.int32] * 2
    step = objnet.jit(lambda x: x["n"] + 1)
    for wide in (bad, np.int64(2**40), np.uint64(2**63)):
        with pytest.raises(objnet.errors.IntegerRangeError):
            list(prefetch([{"n": wide}]))
        with pytest.raises(objnet.errors.IntegerRangeError):
            step({"n": wide})
        with pytest.raises(objnet.errors.IntegerRangeError):
            F.relu(wide)
    assert int(step({"n": np.int64(3)})) == 4 and step({"n": good}).dtype == jnp.int32


def test_an_interrupt_does_not_wait_for_its_turn():
    def source():
        yield np.ones(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next(iter(prefetch(source(), size=2)))


def test_text_stays():
    (batch,) = prefetch([{"name": np.array(["a"]), "names": ["b"], "x": 1.5}])
    assert batch["name"].tolist() == ["a"] and batch["names"] == ["b"] and isinstance(batch["x"], jax.Array)


def test_other_samples():
    counts = collections.defaultdict(int, a=1)
    collated = numpy_collate([counts, counts])
    assert collated.default_factory is int and collated["a"].tolist() == [1, 1] and counts["a"] == 1
    for sample in (jnp.ones(2), nn.Parameter(jnp.ones(2)), torch.nn.Parameter(torch.ones(2))):
        found = numpy_collate([sample] * 2)
        assert type(found) is np.ndarray and found.tolist() == [[1, 1]] * 2
    for sample in (None, np.array(["a"]), np.array([None]), np.datetime64("2026-01-01")):
        with pytest.raises(TypeError, match=r"samples\[1\] are"):
            numpy_collate([(1, sample)])
    with pytest.raises(ValueError, match=r"samples\['x'\] .* \(2,\) and \(3,\) \(numbers 0 and 2 of the batch\)"):
        numpy_collate([{"x": np.ones(n)} for n in (2, 2, 3)])
