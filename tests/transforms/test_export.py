"""``objnet.export``: StableHLO with weights inside or outside."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import objnet
import objnet.nn.functional as F
from objnet import nn, optim
from objnet.errors import ExportError
from objnet.transforms.export import Exported, export

x = jnp.linspace(-1, 1, 20).reshape(5, 4)
(n,) = jax.export.symbolic_shape("n")
spec = jax.ShapeDtypeStruct((n, 4), jnp.float32)


@pytest.fixture
def model():
    objnet.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))


def test_weights_inside(model):
    exported = export(model.eval(), spec)
    for rows in (1, 2, 5):
        np.testing.assert_allclose(exported(x[:rows]), model(x[:rows]), rtol=1e-5, atol=1e-6)
    assert exported.exported.fun_name == "Sequential" and "stablehlo" in exported.mlir_module()
    before = exported(x)
    model[0].weight.data.zero_()
    np.testing.assert_array_equal(exported(x), before)  # today's values


def test_bytes_round_trip(model):
    pytest.importorskip("flatbuffers")
    exported = export(model.eval(), spec)
    blob = exported.serialize(vjp_order=1)
    assert isinstance(blob, bytes)
    np.testing.assert_array_equal(Exported.deserialize(blob)(x), exported(x))
    np.testing.assert_array_equal(jax.export.deserialize(bytearray(blob)).call(x), exported(x))
    gradient = jax.grad(lambda x: Exported.deserialize(blob)(x).sum())(x)
    np.testing.assert_allclose(gradient, jax.grad(lambda x: model(x).sum())(x), rtol=1e-5)


def test_bytes_need_flatbuffers(model, monkeypatch):
    exported = export(model.eval(), x)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for call in (exported.serialize, lambda: Exported.deserialize(b"")):
        with pytest.raises(ImportError, match=r"objnet\[export\]"):
            call()


def test_weights_outside_are_the_pure_form(model):
    exported = export(model.eval(), spec, weights="out")
    assert not exported.takes_rng and set(exported.params) == {"0", "1", "3"}
    out, state = exported(exported.params, exported.state, x)
    np.testing.assert_allclose(out, model(x), rtol=1e-5)
    doubled = jax.tree.map(lambda p: 2 * p, exported.params)
    expected, _ = objnet.transform_with_state(model).apply(doubled, exported.state, None, x)
    np.testing.assert_allclose(exported(doubled, state, x)[0], expected, rtol=1e-5)


def test_weights_outside_return_the_new_state_and_take_a_key(model):
    exported = export(model, spec, weights="out")
    assert exported.takes_rng
    out, state = exported(exported.params, exported.state, jax.random.PRNGKey(1), x)
    assert int(state["1"]["num_batches_tracked"]) == 1 and int(exported.state["1"]["num_batches_tracked"]) == 0
    other, _ = exported(exported.params, exported.state, jax.random.PRNGKey(2), x)
    assert not np.array_equal(out, other)
    hidden = model[0](x)
    np.testing.assert_allclose(state["1"]["running_mean"], 0.1 * hidden.mean(0), rtol=1e-4, atol=1e-6)
    assert int(model[1].num_batches_tracked) == 0


def test_weights_inside_refuse_keys_and_state(model):
    with pytest.raises(ExportError, match="draws random numbers.*model.eval"):
        export(model, spec)
    with pytest.raises(ExportError, match=r"writes state.*1.running_mean"):
        export(nn.Sequential(model[0], model[1]), x)


def test_functions_that_reach_modules(model):
    model.eval()

    def twice(x, *, scale):
        return {"logits": model(x) * scale}

    exported = export(twice, spec, scale=2.0)
    np.testing.assert_allclose(exported(x, scale=3.0)["logits"], 3 * model(x), rtol=1e-5)
    outside = export(twice, spec, scale=2.0, weights="out")
    out, _ = outside(outside.params, outside.state, x, scale=3.0)
    np.testing.assert_allclose(out["logits"], 3 * model(x), rtol=1e-5)
    np.testing.assert_allclose(export(objnet.jit(twice), x, scale=2.0)(x, scale=2.0)["logits"], 2 * model(x), rtol=1e-5)


def test_what_cannot_be_exported(model):
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    def train_step(x, y):
        return optimizer.step(lambda: F.cross_entropy(model(x), y))

    with pytest.raises(ExportError, match="train_step"):
        export(train_step, x, jnp.zeros(5, jnp.int32))
    with pytest.raises(objnet.errors.ObjnetError):
        export(train_step, x, jnp.zeros(5, jnp.int32), weights="out")
    with pytest.raises(ExportError, match="argument of the exported function is a bool"):
        export(lambda x, flag: x, x, True)
    with pytest.raises(ExportError, match="Linear"):
        export(lambda x, m: m(x), x, model[0])
    with pytest.raises(ValueError, match='weights is "in" or "out"'):
        export(model, x, weights="inside")
    with pytest.raises(TypeError, match="export takes"):
        export(3, x)


def test_platforms():
    exported = export(nn.Linear(4, 2), spec, platforms=["cpu", "cuda"])
    assert exported.exported.platforms == ("cpu", "cuda") and "cuda" in repr(exported)
