"""What ``objnet.nn`` exports, and that layers can be built in a compiled and in a pure function."""

from __future__ import annotations

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import objnet.nn.functional as F  # noqa: E402
from objnet import nn  # noqa: E402
from objnet.transforms.jit import jit  # noqa: E402
from objnet.transforms.pure import transform_with_state  # noqa: E402
from tests.nn.module_parity import SPELLED_OUT, parameters_of  # noqa: E402

# A constructor and an input for each layer that holds arrays.
LAYERS = {
    "Linear": (lambda: nn.Linear(3, 2), (4, 3)),
    "Embedding": (lambda: nn.Embedding(5, 2, padding_idx=1), None),
    "Conv1d": (lambda: nn.Conv1d(3, 2, 2), (2, 3, 5)),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(3, momentum=None), (4, 3)),
    "LayerNorm": (lambda: nn.LayerNorm(3), (4, 3)),
    "LSTM": (lambda: nn.LSTM(3, 2, bidirectional=True), (4, 2, 3)),
    "LSTMCell": (lambda: nn.LSTMCell(3, 2), (4, 3)),
}


def given(shape):
    return jnp.asarray([[0, 1], [4, 1]]) if shape is None else jnp.asarray(np.random.RandomState(0).randn(*shape), jnp.float32)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_built_inside_a_pure_function(name):
    make, shape = LAYERS[name]
    x = given(shape)
    net = transform_with_state(lambda x: make()(x))
    params, state = jax.jit(net.init)(jax.random.key(0), x)
    live = make()
    shapes = {f"{n}": v.shape for n, v in live.named_parameters()}
    (path,) = params
    assert {n: v.shape for n, v in params[path].items()} == shapes
    out, new = jax.jit(net.apply)(params, state, None, x)
    for n, value in params[path].items():
        live.get_parameter(n).data = value
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), out, jit(live)(x))
    assert {k for names in new.values() for k in names} == {n for n, _ in live.named_buffers()}
    spread = [
        float(jnp.abs(v).max()) for n, v in params[path].items() if "weight" in n and name not in ("BatchNorm1d", "LayerNorm")
    ]
    assert all(s > 0 for s in spread)


@pytest.mark.parametrize("name", ["Linear", "Embedding", "BatchNorm1d"])
def test_a_layer_built_inside_a_compiled_function(name):
    make, shape = LAYERS[name]
    out = jit(lambda x: make()(x))(given(shape))
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(out))


# Names that torch.nn has not: Haiku's layers, and functions that torch keeps in its own namespace.
OWN_LAYERS = {
    *("ConvLSTM1dCell", "ConvLSTM2dCell", "ConvLSTM3dCell"),
    *("Deferred", "ScanSequential", "rolled", "stack_modules", "to_module", "unstack_modules"),
    *("DeepRNNCell", "IdentityCell", "RNNCore", "ResetCell", "Unroll"),
    *("BatchApply", "Bias", "Reshape", "expand_apply"),
    *("DepthwiseConv1d", "DepthwiseConv2d", "DepthwiseConv3d", "SeparableDepthwiseConv2d"),
    *("EMAModel", "ExponentialMovingAverage", "VectorQuantizer", "VectorQuantizerEMA"),
}
OWN_FUNCTIONS = {"gru", "gru_cell", "lstm", "lstm_cell", "rnn_relu", "rnn_relu_cell", "rnn_tanh", "rnn_tanh_cell"}


def test_names():
    assert set(nn.__all__) - OWN_LAYERS - {"initializers"} <= {*dir(torch.nn), "grad", "modules", "parameter"}
    assert set(nn.__all__) >= OWN_LAYERS
    assert set(F.__all__) - OWN_FUNCTIONS <= set(dir(torch.nn.functional))
    for space in (nn, F, nn.modules, nn.utils):
        assert len(set(space.__all__)) == len(space.__all__)
        for name in space.__all__:
            value = getattr(space, name)
            assert inspect.getdoc(value) or inspect.ismodule(value), name
    for name in nn.modules.__all__:
        assert getattr(nn, name) is getattr(nn.modules, name)
        assert issubclass(getattr(nn, name), nn.Module) or name == "LinearCrossEntropyOptions"
    assert issubclass(nn.BatchNorm2d, nn.modules.batchnorm._BatchNorm)
    assert issubclass(nn.Conv2d, nn.modules.conv._ConvNd)
    assert nn.parameter.Parameter is nn.Parameter


def test_names_inside_of_nn():
    ours, theirs = nn.modules.utils, torch.nn.modules.utils
    assert nn.modules.Module is nn.modules.module.Module is nn.Module
    for name in ("_single", "_pair", "_triple", "_quadruple"):
        for value in (3, [1, 2], range(3)):
            assert getattr(ours, name)(value) == getattr(theirs, name)(value)
        assert getattr(ours, name).__name__ == name
    assert ours._reverse_repeat_tuple((1, 2, 3), 2) == theirs._reverse_repeat_tuple((1, 2, 3), 2)
    for sizes in (3, [None, 4], (None,), []):
        assert ours._list_with_default(sizes, [5, 6, 7]) == theirs._list_with_default(sizes, [5, 6, 7])
    with pytest.raises(ValueError, match="Input dimension should be at least 3"):
        ours._list_with_default([None, 4], [5, 6])
    for space in (nn, torch.nn):
        state = space.Sequential(space.Linear(1, 1)).state_dict(prefix="module.")
        (nn if space is nn else torch.nn).modules.utils.consume_prefix_in_state_dict_if_present(state, "module.")
        assert list(state) == ["0.weight", "0.bias"]
        assert sorted(state._metadata) == ["", "0"]
    types = {name for name in dir(torch.nn.common_types) if name.startswith("_") and name.endswith("_t")}
    assert {n for n in types if not n.startswith("_scalar")} == set(nn.common_types.__all__)
    assert nn.Module.dump_patches is nn.Module.call_super_init is False
    assert nn.Module.T_destination.__name__ == "T_destination"


@pytest.mark.parametrize("world", [nn, torch.nn])
def test_arguments_handed_to_the_next_class(world):
    class Named:
        def __init__(self, name, size=1):
            self.name, self.size = name, size

    class Model(world.Module, Named):
        call_super_init = True

    assert vars(Model("a", size=2)).items() >= {"name": "a", "size": 2}.items()
    with pytest.raises(TypeError):
        Model()


def test_positional_arguments_follow_torch():
    for name in (
        set(nn.modules.__all__) - OWN_LAYERS - {*SPELLED_OUT, "Container"}
    ):  # Container: torch's deprecation hides its signature
        assert parameters_of(getattr(nn, name)) == parameters_of(getattr(torch.nn, name)), name


def test_double_precision_where_jax_has_it():
    with jax.enable_x64(True):
        for name in ("Linear", "BatchNorm1d"):
            make, shape = LAYERS[name]
            assert jit(make().double())(given(shape).astype(jnp.float64)).dtype == jnp.float64
        assert nn.Linear(2, 2, dtype="float64").weight.dtype == jnp.float64
        assert nn.BatchNorm1d(2).num_batches_tracked.dtype == jnp.int64
