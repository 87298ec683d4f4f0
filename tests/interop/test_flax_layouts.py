"""Weights of layers that linen has too: outputs are equal after conversion, and conversions undo each other."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objnet import errors, jit, nn
from tests.interop.layers import (
    CC,
    HH,
    IMAGE,
    INDICES,
    NARROW,
    SEQUENCE,
    C,
    H,
    Model,
    X,
    close,
    filled,
    image,
    last,
    normal,
    plain,
    shaped,
)

linen = pytest.importorskip("flax.linen")
bridge = pytest.importorskip("objnet.interop.flax")


# name: (ours, theirs, (our call, their inputs))
LINEN = {
    "Linear": (lambda: nn.Linear(4, 3), lambda: linen.Dense(3), plain(X)),
    "Linear, no bias": (lambda: nn.Linear(4, 3, bias=False), lambda: linen.Dense(3, use_bias=False), plain(X)),
    "Conv1d": (lambda: nn.Conv1d(4, 6, 3, padding=1), lambda: linen.Conv(6, (3,)), image(IMAGE[..., 0])),
    "Conv2d": (
        lambda: nn.Conv2d(4, 6, (3, 2), stride=2, padding=1, groups=2),
        lambda: linen.Conv(6, (3, 2), 2, padding=1, feature_group_count=2),
        image(IMAGE),
    ),
    "Conv3d": (lambda: nn.Conv3d(4, 3, 2), lambda: linen.Conv(3, (2, 2, 2), padding="VALID"), image(normal(1, 4, 3, 4, 5))),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(4, 6, 3, 2), lambda: linen.ConvTranspose(6, (3,), (2,), "VALID"), image(IMAGE[..., 0])),
    "ConvTranspose2d": (
        lambda: nn.ConvTranspose2d(4, 6, (4, 3), stride=2, padding=1),
        lambda: linen.ConvTranspose(6, (4, 3), (2, 2), padding=((2, 2), (1, 1))),
        image(IMAGE),
    ),
    "Embedding": (lambda: nn.Embedding(7, 3), lambda: linen.Embed(7, 3), plain(INDICES)),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(4).eval(), lambda: linen.BatchNorm(True), plain(X)),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(4).eval(), lambda: linen.BatchNorm(True), image(IMAGE)),
    "BatchNorm, not affine": (
        lambda: nn.BatchNorm1d(4, affine=False).eval(),
        lambda: linen.BatchNorm(True, use_bias=False, use_scale=False),
        plain(X),
    ),
    "LayerNorm": (lambda: nn.LayerNorm(4, eps=1e-6), lambda: linen.LayerNorm(), plain(X)),
    "RMSNorm": (lambda: nn.RMSNorm(4, eps=1e-6), lambda: linen.RMSNorm(), plain(X)),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4, eps=1e-6), lambda: linen.GroupNorm(2), image(IMAGE)),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(4, 1e-6, affine=True), lambda: linen.InstanceNorm(), image(IMAGE)),
    "PReLU": (lambda: nn.PReLU(), lambda: linen.PReLU(), plain(X)),
    "RNNCell": (lambda: nn.RNNCell(4, 3), lambda: linen.SimpleCell(3), ((lambda m: m(X, H)), (H, X))),
    "LSTMCell": (lambda: nn.LSTMCell(4, 3), lambda: linen.OptimizedLSTMCell(3), ((lambda m: m(X, (H, C))[0]), ((C, H), X))),
    "GRUCell": (lambda: nn.GRUCell(4, 3), lambda: linen.GRUCell(3), ((lambda m: m(X, H)), (H, X))),
    "RNN": (lambda: nn.RNN(4, 3, batch_first=True), lambda: linen.RNN(linen.SimpleCell(3)), ((lambda m: m(SEQUENCE)[0]), (SEQUENCE,))),
    "LSTM": (lambda: nn.LSTM(4, 3, batch_first=True), lambda: linen.RNN(linen.LSTMCell(3)), ((lambda m: m(SEQUENCE)[0]), (SEQUENCE,))),
    "GRU": (lambda: nn.GRU(4, 3, batch_first=True), lambda: linen.RNN(linen.GRUCell(3)), ((lambda m: m(SEQUENCE)[0]), (SEQUENCE,))),
    "ConvLSTM2dCell": (
        lambda: nn.ConvLSTM2dCell(4, 3, 3),
        lambda: linen.ConvLSTMCell(3, (3, 3)),
        ((lambda m: last(m(IMAGE, (HH, CC))[0])), ((last(CC), last(HH)), last(IMAGE))),
    ),
    "MultiheadAttention": (
        lambda: nn.MultiheadAttention(4, 2, batch_first=True),
        lambda: linen.MultiHeadDotProductAttention(2),
        ((lambda m: m(SEQUENCE, SEQUENCE, SEQUENCE)[0]), (SEQUENCE,)),
    ),
    "MultiheadAttention of other sizes": (
        lambda: nn.MultiheadAttention(4, 2, kdim=3, vdim=3, batch_first=True, bias=False),
        lambda: linen.MultiHeadDotProductAttention(2, use_bias=False),
        ((lambda m: m(SEQUENCE, NARROW, NARROW)[0]), (SEQUENCE, NARROW, NARROW)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LINEN)
def test_linen(case):
    make, theirs, (call, inputs) = LINEN[case]
    ours, theirs = make(), theirs()
    variables = filled(jax.eval_shape(theirs.init, jax.random.key(0), *inputs))
    ours.load_state_dict(bridge.torch_layout(ours, variables))
    wanted = jax.jit(theirs.apply)(variables, *inputs)
    wanted = wanted[1] if isinstance(wanted, tuple) else wanted  # cells give (carry, output)
    close(jit(lambda: call(ours))(), wanted)
    back = bridge.linen_layout(ours, jax.eval_shape(lambda: variables))
    assert jax.tree.structure(back) == jax.tree.structure(variables)
    close(back, variables)
    close(bridge.torch_layout(make(), back), dict(ours.state_dict()))


@settings(max_examples=15)
@given(
    st.integers(1, 2), st.integers(1, 3), st.integers(1, 3), st.lists(st.integers(1, 3), min_size=1, max_size=3), st.booleans()
)
def test_convolutions_of_any_shape_come_back(groups, inputs, outputs, kernel, transpose):
    name = f"Conv{'Transpose' if transpose else ''}{len(kernel)}d"
    layer, other = (
        getattr(nn, name)(groups * inputs, groups * outputs, tuple(kernel), groups=1 if transpose else groups) for _ in range(2)
    )
    channels = layer.weight.shape[:2] if transpose else layer.weight.shape[1::-1]
    like = {"params": {"kernel": shaped(*kernel, *channels), "bias": shaped(groups * outputs)}}
    close(bridge.torch_layout(other, bridge.linen_layout(layer, like)), dict(layer.state_dict()))


# -------------------------------------------------------------------------------------------------------- whole models


def test_a_linen_model_with_other_names():
    class Theirs(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = linen.Embed(7, 4)(x)
            for _ in range(2):
                x = linen.BatchNorm(True)(linen.relu(linen.Dense(4)(x)))
            return linen.Dense(2, name="head")(x)

    model, x = Model().eval(), jnp.arange(5)
    variables = filled(jax.eval_shape(Theirs().init, jax.random.key(0), x))
    names = {"embed": "Embed_0"}
    for i in range(2):
        names |= {f"blocks.{i}.0": f"Dense_{i}", f"blocks.{i}.2": f"BatchNorm_{i}"}
    model.load_state_dict(bridge.torch_layout(model, variables, names))
    close(jit(model)(x), jax.jit(Theirs().apply)(variables, x))
    close(bridge.linen_layout(model, variables, names), variables)
    with pytest.raises(errors.StructureMismatchError) as found:
        bridge.torch_layout(model, variables)
    assert "embed (Embedding): nothing is held under 'embed'" in str(found.value)
    assert "nothing is held under 'blocks.0.0' or 'blocks_0_0' or 'blocks.layers_0.layers_0'" in str(found.value)
    assert "unknown: params.Dense_1.kernel" in str(found.value)
    with pytest.raises(errors.StructureMismatchError, match="names has 'nothing', which leads to no layer"):
        bridge.torch_layout(model, variables, names | {"nothing": "x"})


def test_lists_and_sequentials_of_linen():
    class Theirs(linen.Module):
        def setup(self):
            self.embed = linen.Embed(7, 4)
            self.blocks = [linen.Sequential([linen.Dense(4), linen.relu, linen.BatchNorm(True)]) for _ in range(2)]
            self.head = linen.Dense(2)

        def __call__(self, x):
            x = self.embed(x)
            for block in self.blocks:
                x = block(x)
            return self.head(x)

    model, x = Model().eval(), jnp.arange(5)
    variables = filled(jax.eval_shape(Theirs().init, jax.random.key(0), x))
    names = {f"blocks.{i}": f"blocks_{i}" for i in range(2)}
    model.load_state_dict(bridge.torch_layout(model, variables, names))
    close(jit(model)(x), jax.jit(Theirs().apply)(variables, x))
    flat = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    theirs = linen.Sequential([linen.Dense(3), linen.relu, linen.Dense(2)])
    variables = filled(jax.eval_shape(theirs.init, jax.random.key(0), X))
    flat.load_state_dict(bridge.torch_layout(flat, variables))
    close(jit(flat)(X), jax.jit(theirs.apply)(variables, X))


def test_rnns_of_several_cells():
    class Theirs(linen.Module):
        @linen.compact
        def __call__(self, x):
            for _ in range(2):
                x = linen.Bidirectional(linen.RNN(linen.LSTMCell(3)), linen.RNN(linen.LSTMCell(3)))(x)
            return x

    variables = filled(jax.eval_shape(Theirs().init, jax.random.key(0), SEQUENCE))
    model = nn.LSTM(4, 3, 2, bidirectional=True, batch_first=True)
    names = {"": [f"LSTMCell_{i}" for i in range(4)]}
    model.load_state_dict(bridge.torch_layout(model, variables, names))
    close(jit(lambda: model(SEQUENCE)[0])(), jax.jit(Theirs().apply)(variables, SEQUENCE))
    close(bridge.linen_layout(model, variables, names), variables)
    for wrong in (None, {"": "LSTMCell_0"}, {"": ["LSTMCell_0"]}):
        with pytest.raises(errors.StructureMismatchError, match="name each|one for each"):
            bridge.torch_layout(model, variables, wrong)


def test_dtypes_follow_what_is_wanted():
    like = {"params": {"kernel": jax.ShapeDtypeStruct((4, 3), jnp.bfloat16), "bias": jax.ShapeDtypeStruct((3,), jnp.float32)}}
    made = bridge.linen_layout(nn.Linear(4, 3), like)
    assert jax.tree.map(lambda a: a.dtype.name, made) == {"params": {"kernel": "bfloat16", "bias": "float32"}}


def held(**arrays):
    return {"params": {name: jnp.ones(shape) for name, shape in arrays.items()}}


@pytest.mark.parametrize(
    ("model", "theirs", "message"),
    [
        (nn.Linear(4, 3), held(kernel=(3, 4), bias=(3,)), r"weight has another shape there, params.kernel \(3, 4\)"),
        (nn.Linear(4, 3), held(kernel=(4, 3)), "nothing is held for bias"),
        (nn.Linear(4, 3, bias=False), held(kernel=(4, 3), bias=(3,)), "it has no 'bias', which is held there"),
        (nn.Linear(4, 3), held(kernel=(4, 3), bias=(3,), extra=(1,)), "unknown: params.extra"),
        (nn.Bilinear(2, 3, 4), held(kernel=(4, 3)), r"no equal of Bilinear with \['bias', 'weight'\] is known"),
        (nn.LSTMCell(4, 3), {"params": {"ii": {"kernel": X}, "hi": {"kernel": X}}}, r"'params.if.kernel' is not held there"),
        (nn.LSTM(4, 3, proj_size=2), {"params": {}}, "nothing is held under"),
        (nn.ConvLSTM2dCell(4, 3, 3, bias=False), {"params": {"ih": {"kernel": X}, "hh": {"kernel": X}}}, "forget gate"),
    ],
)  # fmt: skip
def test_linen_refused(model, theirs, message):
    with pytest.raises(errors.StructureMismatchError, match=message):
        bridge.torch_layout(model, theirs)


SHAPE = jax.ShapeDtypeStruct((4, 3), jnp.float32)


@pytest.mark.parametrize(
    ("model", "like", "message"),
    [
        (nn.Linear(4, 3), {"params": {"kernel": SHAPE}}, "nothing is wanted under 'params.bias'"),
        (nn.Linear(3, 4, bias=False), {"params": {"kernel": SHAPE}}, r"params.kernel has shape \(4, 3\), here it would be \(3, 4\)"),
        (nn.Linear(4, 3, bias=False), {"params": {"kernel": SHAPE, "scale": SHAPE}}, "unknown: params.scale"),
        (nn.InstanceNorm1d(3, track_running_stats=True), {"params": {"scale": SHAPE}}, "running_mean has no counterpart there"),
        (nn.MultiheadAttention(4, 2, add_bias_kv=True), {"params": {"query": SHAPE}}, "bias_k has no counterpart there"),
        (nn.ConvLSTM1dCell(4, 3, 3, bias=False), {"params": {"ih": {"kernel": SHAPE}}}, "takes a bias to undo"),
    ],
)  # fmt: skip
def test_to_linen_refused(model, like, message):
    with pytest.raises(errors.StructureMismatchError, match=message):
        bridge.linen_layout(model, like)
