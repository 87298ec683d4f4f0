"""Collating and prefetching."""

from __future__ import annotations

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import objnet
from objnet.data import numpy_collate, prefetch

Pair = collections.namedtuple("Pair", "a b")


def _same(a, b):
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for k in a:
            _same(a[k], b[k])
    elif isinstance(a, (tuple, list)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            _same(x, y)
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    else:
        assert a == b


SAMPLES = {
    "pairs": [(np.ones((2, 3), np.float32) * i, i) for i in range(3)],
    "dicts": [{"x": np.arange(3) + i, "y": {"z": float(i)}, "name": f"s{i}"} for i in range(3)],
    "named tuples": [Pair(i, [True, np.float32(i)]) for i in range(3)],
    "numbers": [1, 2, 3],
}


@pytest.mark.parametrize("name", SAMPLES)
def test_collates_as_torch(name):
    torch = pytest.importorskip("torch")
    from torch.utils.data import default_collate

    def convert(value):
        if isinstance(value, torch.Tensor):
            return value.numpy()
        if isinstance(value, dict):
            return {k: convert(v) for k, v in value.items()}
        if isinstance(value, tuple):
            return type(value)(*map(convert, value)) if hasattr(value, "_fields") else tuple(map(convert, value))
        return list(map(convert, value)) if isinstance(value, list) else value

    expected = convert(default_collate(SAMPLES[name]))
    if name == "pairs":
        expected = tuple(expected)  # torch makes lists of tuples
    _same(numpy_collate(SAMPLES[name]), expected)


def test_torch_tensors():
    torch = pytest.importorskip("torch")
    data = [(torch.ones(2) * i, torch.tensor(i)) for i in range(5)]
    loader = torch.utils.data.DataLoader(data, batch_size=2, collate_fn=numpy_collate)
    step = objnet.jit(lambda x, y: x.sum() + y.sum().astype(x.dtype))
    assert [float(step(x, y)) for x, y in prefetch(loader)] == [3.0, 15.0, 12.0]
    assert len(prefetch(loader)) == 3
    low = numpy_collate([torch.ones(2, dtype=torch.bfloat16)])
    assert low.dtype == jnp.bfloat16 and low.shape == (1, 2)


def test_what_does_not_stack_is_named():
    with pytest.raises(ValueError, match=r"samples\['x'\]\[1\] have different shapes, \(2,\) and \(3,\)"):
        numpy_collate([{"x": (0, np.ones(2))}, {"x": (0, np.ones(3))}])
    with pytest.raises(ValueError, match=r"samples\[0\] do not have the same keys"):
        numpy_collate([({"a": 1},), ({"b": 1},)])
    with pytest.raises(ValueError, match="equally long: 2 and 3"):
        numpy_collate([(1, 2), (1, 2, 3)])
    with pytest.raises(TypeError, match=r"samples\[1\] are builtins.object"):
        numpy_collate([(1, object())])
    with pytest.raises(ValueError, match="no sample"):
        numpy_collate([])


def test_batches_come_in_order_and_errors_in_their_place():
    asked = []

    def source():
        for i in range(4):
            asked.append(i)
            yield {"x": np.full(2, i), "name": str(i)}
        raise RuntimeError("broken file")

    seen = []
    with pytest.raises(RuntimeError, match="broken file"):
        for batch in prefetch(source(), size=2):
            seen.append((int(batch["x"][0]), batch["name"], max(asked)))
            assert isinstance(batch["x"], jax.Array)
    assert seen == [(0, "0", 1), (1, "1", 2), (2, "2", 3), (3, "3", 3)]
    assert list(prefetch([])) == []
    twice = prefetch([np.ones(1)])
    assert len(list(twice)) == len(list(twice)) == 1


def test_a_sharding_is_taken_or_refused_by_name():
    mesh = jax.make_mesh((2,), ("d",))
    sharding = NamedSharding(mesh, PartitionSpec("d"))
    (batch,) = prefetch([{"x": np.ones((4, 2))}], device=sharding)
    assert batch["x"].sharding == sharding
    with pytest.raises(ValueError, match=r"batch\['x'\] of shape \(3, 2\).*drop_last"):
        list(prefetch([{"x": np.ones((3, 2))}], device=sharding))
    with pytest.raises(ValueError, match="1 or more"):
        prefetch([], size=0)
