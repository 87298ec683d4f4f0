"""Packing and padding against torch, eager and compiled, with known and traced lengths."""

from __future__ import annotations

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

import torch.nn.utils.rnn as theirs  # noqa: E402

from objnet import errors, nn  # noqa: E402
from objnet.nn.utils import rnn as ours  # noqa: E402
from objnet.transforms.jit import jit  # noqa: E402
from tests.nn.parity import assert_same_error, to_jax  # noqa: E402


def same(mine, wanted):
    """Arrays and structures of equal values; layouts of packed sequences field by field."""
    if wanted is None:
        assert mine is None
    elif isinstance(wanted, (tuple, list)):
        assert isinstance(mine, ours.PackedSequence if isinstance(wanted, theirs.PackedSequence) else type(wanted))
        for a, b in zip(mine, wanted, strict=True):
            same(a, b)
    else:
        np.testing.assert_array_equal(np.asarray(mine), wanted.detach().numpy())


@st.composite
def batches(draw):
    """A padded batch with some trailing dimensions, lengths, and the layout."""
    lengths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    rest = draw(st.sampled_from([(), (2,), (2, 1)]))
    batch_first, ordered = draw(st.booleans()), draw(st.booleans())
    lengths = sorted(lengths, reverse=True) if ordered else lengths
    shape = (len(lengths), max(lengths) + draw(st.integers(0, 1)))
    x = torch.randn(*(shape if batch_first else shape[::-1]), *rest)
    return x, lengths, batch_first, ordered


@settings(max_examples=6, deadline=None)
@given(batches(), st.booleans(), st.sampled_from([0.0, -1.5]), st.sampled_from([None, 7]))
def test_pack_and_pad(batch, batch_first, value, total):
    x, lengths, first, ordered = batch
    packed = theirs.pack_padded_sequence(x, torch.tensor(lengths), first, ordered)
    array = to_jax(x)
    for given_lengths in (lengths, np.array(lengths), jnp.asarray(lengths), [jnp.asarray(n) for n in lengths]):
        mine = ours.pack_padded_sequence(array, given_lengths, first, ordered)
        same(mine, packed)
    same(ours.pad_packed_sequence(mine, batch_first, value, total), theirs.pad_packed_sequence(packed, batch_first, value, total))
    same(ours.unpack_sequence(mine), theirs.unpack_sequence(packed))
    sequences = theirs.unpack_sequence(packed)
    same(ours.pack_sequence([to_jax(s) for s in sequences], ordered), theirs.pack_sequence(sequences, ordered))


@settings(max_examples=6, deadline=None)
@given(batches())
def test_compiled_with_known_and_with_traced_lengths(batch):
    x, lengths, first, ordered = batch
    packed = theirs.pack_padded_sequence(x, torch.tensor(lengths), first, ordered)
    padded = theirs.pad_packed_sequence(packed, first, -1.0, x.shape[1 if first else 0])

    def known(x):
        packed = ours.pack_padded_sequence(x, lengths, first, ordered)
        return packed, packed.data.sum(), ours.pad_packed_sequence(packed, first, -1.0, x.shape[1 if first else 0])

    def traced(x, lengths):
        packed = ours.pack_padded_sequence(x, lengths, first, ordered)
        return packed, ours.pad_packed_sequence(packed, first, -1.0)

    mine, _, result = jit(known)(to_jax(x))
    same(mine, packed)
    same(result, padded)
    mine, result = jit(traced)(to_jax(x), jnp.asarray(lengths))
    same(mine, packed)  # known, once it has left
    same(result, padded)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("batch_first", [False, True])
def test_traced_lengths_out_of_range(kind, batch_first):
    x, lengths = jnp.ones((5, 5, 2)), [9, 5, 2, 0, -1]
    relu = {"nonlinearity": "relu"} if kind == "RNN" else {}
    layer = getattr(nn, kind)(2, 3, bidirectional=True, batch_first=batch_first, num_layers=2, **relu)

    @jit
    def run(x, lengths):
        output, state = layer(ours.pack_padded_sequence(x, lengths, batch_first))
        return ours.pad_packed_sequence(output, batch_first=True), state

    (output, counts), state = run(x, jnp.asarray(lengths))
    wrong = np.asarray([True, False, False, True, True])
    assert counts.tolist() == [5, 5, 2, 1, 1]
    for row, count, bad in zip(output, counts.tolist(), wrong, strict=True):
        assert jnp.isnan(row[:count]).all() if bad else jnp.isfinite(row).all()
    for h in jax.tree.leaves(state):
        np.testing.assert_array_equal(jnp.isnan(h), np.broadcast_to(wrong[None, :, None], h.shape))


@pytest.mark.parametrize("dtype", ["bfloat16", "complex64", "int32"])
def test_traced_lengths_out_of_range_of_other_dtypes(dtype):
    x = jnp.ones((3, 2), dtype)
    padded, counts = jax.jit(lambda x, n: ours.pad_packed_sequence(ours.pack_padded_sequence(x, n)))(x, jnp.asarray([4, 2]))
    assert padded.dtype == x.dtype
    assert counts.tolist() == [3, 2]
    assert jnp.isnan(padded[:, 0]).all() or dtype == "int32"
    assert padded[:, 1].tolist() == [1, 1, 0]


def test_gradients_go_through_both_layouts():
    x, lengths = jnp.arange(12.0).reshape(4, 3), [2, 4, 1]

    def loss(x, lengths):
        padded, _ = ours.pad_packed_sequence(ours.pack_padded_sequence(x, lengths, enforce_sorted=False))
        return jnp.sum(padded**2)

    wanted = np.where(np.arange(4)[:, None] < lengths, 2 * x, 0)
    np.testing.assert_array_equal(jax.grad(loss)(x, lengths), wanted)
    np.testing.assert_array_equal(jax.jit(jax.grad(loss))(x, jnp.asarray(lengths)), wanted)


@settings(max_examples=8, deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=4),
    st.sampled_from([(), (2,)]),
    st.booleans(),
    st.sampled_from([0.0, 2.5]),
    st.sampled_from(["left", "right"]),
    st.sampled_from([torch.float32, torch.int32]),
)
def test_pad_sequence(lengths, rest, batch_first, value, side, dtype):
    tensors = [(torch.randn(n, *rest) * 9).to(dtype) for n in lengths]
    wanted = theirs.pad_sequence(tensors, batch_first, value, side)
    arrays = [to_jax(t) for t in tensors]
    mine = ours.pad_sequence(arrays, batch_first, value, side)
    assert mine.dtype == to_jax(wanted).dtype
    same(mine, wanted)
    same(ours.pad_sequence([np.asarray(a) for a in arrays], batch_first, value, side), wanted)
    same(ours.unpad_sequence(ours.pad_sequence(arrays, batch_first), jnp.asarray(lengths), batch_first), tensors)


def test_traced_sequences_are_padded_too():
    arrays = [jnp.arange(n, dtype="float32") for n in (2, 3, 0)]
    for side in ("left", "right"):
        mine = jax.jit(lambda *arrays: ours.pad_sequence(arrays, True, 7.0, side))(*arrays)
        np.testing.assert_array_equal(mine, ours.pad_sequence(arrays, True, 7.0, side))
    parts = jax.jit(lambda x: ours.unpad_sequence(x, [1, 2], True))(jnp.ones((2, 3)))
    assert [part.shape for part in parts] == [(1,), (2,)]


def test_a_packed_sequence_is_a_named_tuple():
    packed = ours.pack_padded_sequence(jnp.arange(12.0).reshape(4, 3), [2, 3, 2], enforce_sorted=False)
    data, batch_sizes, sorted_indices, unsorted_indices = packed
    assert packed.data is data is packed[0]
    assert isinstance(batch_sizes, jax.Array)
    known = []  # its values are when it is traced, too
    jax.jit(lambda packed: known.append([int(size) for size in packed.batch_sizes]))(packed)
    assert known == [[3, 3, 1]]
    assert packed._replace(data=data * 2).data[1] == 2 * data[1]
    same_again = ours.PackedSequence(data, jnp.asarray(batch_sizes), sorted_indices)
    np.testing.assert_array_equal(same_again.unsorted_indices, unsorted_indices)
    assert ours.PackedSequence((data, batch_sizes)).sorted_indices is None
    for other in (copy.deepcopy(packed), pickle.loads(pickle.dumps(packed)), jax.tree.map(lambda x: x, packed)):
        assert type(other) is ours.PackedSequence
        jax.tree.map(np.testing.assert_array_equal, tuple(other), tuple(packed))
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(packed)]
    assert names == [".data", ".sorted_indices", ".unsorted_indices"]
    with pytest.raises(AssertionError, match="pair"):
        ours.PackedSequence(data)
    with pytest.raises(errors.TracedLengthsError, match="lengths"):
        jax.jit(lambda sizes: ours.PackedSequence(data, sizes).data)(batch_sizes)


def test_conversions():
    packed = ours.pack_padded_sequence(jnp.arange(12.0).reshape(4, 3), [4, 3, 2])
    assert packed.to(jnp.float32) is packed.float() is packed.cpu() is packed.to(jax.devices()[0]) is packed
    for name, dtype in {"half": "float16", "int": "int32", "long": "int32", "short": "int16", "char": "int8"}.items():
        converted = getattr(packed, name)()
        assert converted.data.dtype == dtype
        np.testing.assert_array_equal(converted.batch_sizes, packed.batch_sizes)
    assert packed.byte().to(packed.data).data.dtype == "float32"
    assert not packed.is_cuda
    with pytest.raises(RuntimeError, match="64-bit"):
        packed.double()
    with pytest.raises(TypeError, match="invalid keyword"):
        packed.to(colour=1)
    half = jax.jit(lambda x, n: ours.pad_packed_sequence(ours.pack_padded_sequence(x, n).half())[0])
    assert half(jnp.ones((4, 2)), jnp.asarray([4, 2])).dtype == "float16"


def test_what_a_traced_layout_cannot_give():
    x, lengths = jnp.ones((4, 2)), jnp.asarray([1, 4])

    def on_packed(use):
        return jax.jit(lambda x, lengths: use(ours.pack_padded_sequence(x, lengths, enforce_sorted=False)))(x, lengths)

    for use in (
        lambda packed: packed.data,
        lambda packed: packed.batch_sizes,
        lambda packed: packed[0],
        lambda packed: tuple(packed),
        lambda packed: packed._replace(data=x),
        ours.unpack_sequence,
    ):
        with pytest.raises(errors.TracedLengthsError, match="traced here .*test_rnn.py.*before packing or after"):
            on_packed(use)
    with pytest.raises(ValueError, match="total_length=3 where the longest may have 4 steps"):
        on_packed(lambda packed: ours.pad_packed_sequence(packed, total_length=3)[0])
    assert on_packed(lambda packed: packed.sorted_indices).tolist() == [1, 0]
    assert on_packed(lambda packed: packed.unsorted_indices).tolist() == [1, 0]
    assert "lengths=" in repr(jax.eval_shape(ours.pack_padded_sequence, x, lengths))
    packed = on_packed(lambda packed: packed)
    assert type(packed) is ours.TracedPackedSequence
    assert len(packed) == 4
    assert repr(packed) == repr(ours.pack_padded_sequence(x, lengths, enforce_sorted=False))
    assert copy.deepcopy(packed).data.shape == pickle.loads(pickle.dumps(packed)).data.shape == (5,)
    unsorted = jax.jit(lambda x, lengths: ours.pack_padded_sequence(x, lengths))(x, lengths)
    with pytest.raises(RuntimeError, match="sorted in decreasing order"):
        unsorted.data  # noqa: B018


X = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("pack_padded_sequence", (X, [1, 2, 1])),
        ("pack_padded_sequence", (X, [4, 2, 0])),
        ("pack_padded_sequence", (X, [4, 2])),
        ("pack_padded_sequence", (X, [])),
        ("pack_padded_sequence", (X, 3)),
        ("pack_padded_sequence", (X, [[4, 2, 1]])),
        ("pack_padded_sequence", (X[:, 0], [4])),
        ("pack_padded_sequence", (X[:0], [4, 2, 1])),
        ("pack_sequence", ([],)),
        ("pack_sequence", ([X[0, :1], X[0]],)),
        ("pad_sequence", ([],)),
        ("pad_sequence", (5,)),
        ("pad_sequence", ([X, X[:, :2]],)),
        ("pad_sequence", ([X[0, 0]],)),
        ("pad_sequence", ([X], True, 0.0, "middle")),
        ("unpad_sequence", (X, np.array([4, 2]))),
        ("invert_permutation", (np.array([2, 0, 5]),)),
        ("invert_permutation", (np.array([2.0, 0.0, 1.0]),)),
        ("invert_permutation", (np.array([[2, 0, 1]]),)),
    ],
)
def test_refused_as_torch_does(function, arguments):
    def with_arrays(convert):
        return [
            [convert(a) if isinstance(a, (np.ndarray, np.generic)) else a for a in argument]
            if isinstance(argument, list)
            else convert(argument)
            if isinstance(argument, np.ndarray)
            else argument
            for argument in arguments
        ]

    assert_same_error(
        lambda: getattr(ours, function)(*with_arrays(jnp.asarray)),
        lambda: getattr(theirs, function)(*with_arrays(lambda a: torch.tensor(a))),
    )


def test_refused_beyond_torch():
    with pytest.raises(RuntimeError, match="go up to 5, the input has 4 steps"):  # torch makes something broken of it
        ours.pack_padded_sequence(jnp.asarray(X), [5, 2, 1])
    with pytest.raises(RuntimeError, match="no permutation"):
        ours.invert_permutation(jnp.asarray([0, 0, 1]))
    packed = ours.pack_padded_sequence(jnp.asarray(X), [4, 2, 1])
    with pytest.raises(RuntimeError, match="sum up to 6"):
        ours.pad_packed_sequence(packed._replace(batch_sizes=[3, 2, 1]))
    with pytest.raises(ValueError, match="Expected total_length to be at least"):
        ours.pad_packed_sequence(packed, total_length=3)
    with pytest.raises(errors.TracedLengthsError, match="unpad_sequence depends"):
        jax.jit(lambda lengths: ours.unpad_sequence(X, lengths))(jnp.asarray([1, 2, 3]))


def test_inverse_of_a_permutation():
    assert ours.invert_permutation(None) is None
    for run in (ours.invert_permutation, jax.jit(ours.invert_permutation)):
        same(run(jnp.asarray([2, 0, 1])), theirs.invert_permutation(torch.tensor([2, 0, 1])))
