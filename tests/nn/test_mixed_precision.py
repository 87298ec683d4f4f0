"""Policies by class and by instance, and autocast: what is in which dtype, in eager, compiled and pure code."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import objnet
import objnet.nn.functional as F
from objnet import nn
from objnet.nn.mixed_precision import Policy, clear_policy, current_policy, get_policy, push_policy, set_policy

X = jnp.ones((2, 3))
HALF = Policy(jnp.float32, jnp.bfloat16, jnp.float32)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.fc = nn.Linear(3, 2)
        self.seen = objnet.nn.Identity()

    def forward(self, x):
        SEEN.append(x.dtype)
        y = self.fc(self.norm(x))
        SEEN.append(y.dtype)
        return y


SEEN: list = []


@pytest.fixture(autouse=True)
def fresh():
    SEEN.clear()
    yield
    clear_policy(Block)
    assert objnet.core.settings.current() == ()


def traced(run):
    SEEN.clear()
    out = run(X)
    return out.dtype, SEEN[:]


def test_a_class_policy_casts_inputs_parameters_and_results():
    model = Block()
    run = objnet.jit(model)
    assert traced(run) == (jnp.float32, [jnp.float32, jnp.float32])
    set_policy(Block, HALF)
    assert traced(run) == (jnp.float32, [jnp.bfloat16, jnp.bfloat16]) == traced(model)
    assert get_policy(Block) == get_policy(model) == HALF and current_policy() is None
    assert model.norm.running_mean.dtype == jnp.float32  # statistics keep moving
    _, grads = objnet.value_and_grad(lambda: model(X).sum(), wrt=model)()
    assert grads["fc.weight"].dtype == jnp.float32
    clear_policy(Block)
    assert get_policy(Block) is None
    SEEN.clear()
    run(X)
    assert SEEN == []  # the first program again


def test_plain_jit_of_a_pure_apply_follows_policies():
    net = objnet.transform_with_state(Block)
    params, state = net.init(0, X)
    apply = jax.jit(net.apply)
    assert traced(lambda x: apply(params, state, None, x)[0]) == (jnp.float32, [jnp.float32] * 2)
    set_policy(Block, HALF)
    assert traced(lambda x: apply(params, state, None, x)[0]) == (jnp.float32, [jnp.bfloat16] * 2)


def test_param_dtype_is_that_of_creation():
    set_policy(Block, Policy(jnp.float16, jnp.float32))
    assert Block().fc.weight.dtype == jnp.float16
    params, _ = objnet.transform_with_state(Block).init(0, X)
    assert params["fc"]["weight"].dtype == jnp.float16
    assert params["norm"]["weight"].dtype == jnp.float32


def test_the_innermost_policy_counts():
    model = Block()
    set_policy(Block, HALF)
    set_policy(model.fc, Policy(None, jnp.float16, jnp.float16))
    assert traced(objnet.jit(model))[1] == [jnp.bfloat16, jnp.float16]
    clear_policy(model.fc)
    assert traced(objnet.jit(model))[1] == [jnp.bfloat16, jnp.bfloat16]


def test_an_instances_parameters_are_cast_at_once():
    a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    set_policy(a, Policy(param_dtype=jnp.bfloat16, compute_dtype=jnp.float32))
    assert (a.weight.dtype, b.weight.dtype) == (jnp.bfloat16, jnp.float32)
    assert a(jnp.ones((1, 2))).dtype == jnp.float32


def test_pushed_policies_end_with_their_block():
    model = Block()
    with push_policy(Block, HALF):
        assert traced(model)[1] == [jnp.bfloat16] * 2
        with pytest.raises(objnet.errors.PolicyError, match="push_policy"):
            set_policy(Block, HALF)
    assert traced(model)[1] == [jnp.float32] * 2

    class Pushes(nn.Module):
        def forward(self, x):
            with push_policy(Pushes, HALF):
                return x

    with pytest.raises(objnet.errors.PolicyError, match="own forward"):
        Pushes()(X)


def test_other_threads_have_policies_of_their_own():
    set_policy(Block, HALF)
    found = []
    thread = threading.Thread(target=lambda: found.append(get_policy(Block)))
    thread.start()
    thread.join()
    assert found == [None]


def test_what_is_no_policy_or_module():
    for target, policy in ((3, HALF), (Block, "float16"), (int, HALF)):
        with pytest.raises(TypeError):
            set_policy(target, policy)


# -- autocast ----------------------------------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.n, self.b = nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)

    def forward(self, x):
        h = self.a(x)
        SEEN.append(h.dtype)
        h = self.n(h)
        SEEN.append(h.dtype)
        return self.b(h)


MIXED = (jnp.bfloat16, [jnp.bfloat16, jnp.float32])
PLAIN = (jnp.float32, [jnp.float32] * 2)


def test_autocast_around_and_inside_compiled_code():
    model = Net()
    run, inside = objnet.jit(model), objnet.jit(objnet.autocast()(lambda x: model(x)))
    assert traced(run) == PLAIN
    with objnet.autocast():
        assert traced(run) == MIXED == traced(model)
        assert objnet.is_autocast_enabled() and objnet.get_autocast_dtype() == jnp.bfloat16
        with objnet.autocast(enabled=False):
            assert F.linear(X, X).dtype == jnp.float32
    assert run(X).dtype == jnp.float32 and not objnet.is_autocast_enabled()
    assert traced(inside) == MIXED
    with objnet.autocast("cuda"):
        assert run(X).dtype == jnp.float16
    with objnet.autocast(jnp.float16):
        assert run(X).dtype == jnp.float16


def test_autocast_is_part_of_jaxs_own_caches():
    function = jax.jit(F.linear)
    assert function(X, X).dtype == jnp.float32
    with objnet.autocast():
        assert function(X, X).dtype == jnp.bfloat16
    assert function(X, X).dtype == jnp.float32


def test_losses_are_in_float32_and_gradients_in_the_parameters_dtype():
    model = Net()

    def loss():
        with objnet.autocast():
            return F.cross_entropy(model(X), jnp.array([0, 1]))

    value, grads = objnet.value_and_grad(loss, wrt=model)()
    assert value.dtype == grads["a.weight"].dtype == jnp.float32
    _, exact = objnet.value_and_grad(lambda: F.cross_entropy(model(X), jnp.array([0, 1])), wrt=model)()
    np.testing.assert_allclose(grads["b.weight"], exact["b.weight"], atol=0.05)


@pytest.mark.parametrize(
    ("module", "shape", "dtype"),
    [
        (lambda: nn.LSTM(3, 4), (2, 1, 3), jnp.bfloat16),
        (lambda: nn.GRU(3, 4), (2, 1, 3), jnp.bfloat16),
        (lambda: nn.GRUCell(3, 4), (2, 3), jnp.bfloat16),
        (lambda: nn.Conv1d(3, 2, 1), (2, 3, 4), jnp.bfloat16),
        (lambda: nn.ConvTranspose2d(3, 2, 1), (2, 3, 4, 4), jnp.bfloat16),
        (lambda: nn.PReLU(), (2, 3), jnp.bfloat16),
        (lambda: nn.Softmax(-1), (2, 3), jnp.float32),
        (lambda: nn.TransformerEncoderLayer(4, 2, 8), (2, 3, 4), jnp.float32),
        (lambda: nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), (2, 3), jnp.bfloat16),
    ],
)
def test_layers_under_autocast_are_torchs(module, shape, dtype):
    with objnet.autocast(), jax.numpy_dtype_promotion("standard"):  # for sums of the two in layers
        out = module()(jnp.ones(shape))
    assert jax.tree.leaves(out)[0].dtype == dtype


def test_a_bad_dtype_for_autocast():
    with pytest.raises(RuntimeError, match="bfloat16 or float16"):
        objnet.autocast(jnp.float32)


def test_dtypes_of_torch():
    torch = pytest.importorskip("torch")
    with objnet.amp.autocast("cpu", dtype=torch.bfloat16):
        assert nn.Linear(3, 2)(jnp.ones((1, 3))).dtype == jnp.bfloat16
    assert nn.Linear(3, 2).to(torch.float16).weight.dtype == jnp.float16
    with pytest.raises(RuntimeError, match="bfloat16 or float16"):
        objnet.autocast("cpu", dtype=torch.float32)
