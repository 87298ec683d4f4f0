"""``nn.ScanSequential`` and ``nn.rolled`` against the loop over the same blocks: values, gradients, buffers, keys, compile work."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import objnet
from objnet import nn, optim


def close(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **{"rtol": 1e-5, "atol": 1e-5, **tolerance}), a, b)


class Block(nn.Module):
    def __init__(self, p=0.0):
        super().__init__()
        self.norm = nn.BatchNorm1d(6)
        self.linear = nn.Linear(6, 6)
        self.drop = nn.Dropout(p)

    def forward(self, x, scale=1.0):
        return x + self.drop(jnp.tanh(self.linear(self.norm(x)))) * scale


def blocks(count=4, p=0.0):
    objnet.manual_seed(0)
    return nn.Sequential(*[Block(p) for _ in range(count)])


X = jax.random.normal(jax.random.key(0), (5, 6))


def by_layer(grads, count):
    return {f"{i}.{name.removeprefix('block.')}": g[i] for i in range(count) for name, g in grads.items()}


@pytest.mark.parametrize(
    "options", [{}, {"remat": True}, {"unroll": 2}, {"remat": True, "policy": jax.checkpoint_policies.dots_saveable}]
)
@pytest.mark.parametrize("compiled", [False, True])
def test_it_equals_the_loop(options, compiled):
    plain = blocks()
    scanned = nn.ScanSequential(*plain, **options)
    around = objnet.jit if compiled else (lambda f: f)
    loss = lambda m: lambda x: (m(x) ** 2).mean()  # noqa: E731
    for _ in range(2):
        value, (of_x, grads) = around(objnet.value_and_grad(loss(scanned), 0, wrt=scanned))(X)
        wanted, (wanted_x, wanted_grads) = objnet.value_and_grad(loss(plain), 0, wrt=plain)(X)
        close((value, of_x), (wanted, wanted_x))
        close(by_layer(grads, 4), dict(wanted_grads))
    close(dict(scanned.state_dict()), dict(plain.state_dict()))
    scanned.eval(), plain.eval()
    close(scanned(X, scale=0.5), _loop(plain, X, 0.5))
    out, outputs = scanned.with_outputs(X)
    assert outputs.shape == (4, 5, 6)
    close(outputs[-1], out)
    close(outputs[0], plain[0](X))


def _loop(layers, x, scale=1.0):
    for layer in layers:
        x = layer(x, scale)
    return x


def test_training_it_equals_training_the_loop():
    plain = blocks()
    scanned = nn.ScanSequential(plain)
    ours, theirs = optim.AdamW(scanned.parameters(), lr=0.01), optim.AdamW(plain.parameters(), lr=0.01)
    step = objnet.jit(lambda x: ours.step(lambda: (scanned(x) ** 2).mean()))
    for _ in range(5):
        close(step(X), theirs.step(lambda: (plain(X) ** 2).mean()))
    close(dict(scanned.state_dict()), dict(plain.state_dict()), atol=1e-4)


def test_dropout_differs_from_block_to_block():
    scanned = nn.ScanSequential([nn.Dropout(0.5) for _ in range(3)])
    _, outputs = scanned.with_outputs(jnp.ones((4, 32)))
    zeros = [np.asarray(o) == 0 for o in outputs]
    assert zeros[0].sum() < zeros[1].sum() < zeros[2].sum()


def test_state_dicts_pass_in_both_directions():
    plain, scanned = blocks(), nn.ScanSequential(*blocks())
    assert list(scanned.state_dict()) == list(plain.state_dict())
    assert scanned.state_dict()._metadata.keys() == plain.state_dict()._metadata.keys()
    for v in plain.state_dict().values():
        assert v is not None
    plain[2].linear.weight.data.mul_(3.0)
    assert str(scanned.load_state_dict(plain.state_dict())) == "<All keys matched successfully>"
    close(dict(scanned.state_dict()), dict(plain.state_dict()))
    other = blocks()
    other.load_state_dict(scanned.state_dict())
    close(dict(other.state_dict()), dict(plain.state_dict()))
    for one, block in zip(scanned.unrolled(), plain, strict=True):
        close(dict(one.state_dict()), dict(block.state_dict()))
    nested = nn.Sequential(nn.Linear(6, 6), scanned)
    assert list(nested.state_dict())[2] == "1.0.norm.weight"
    nested.load_state_dict(nested.state_dict())
    before = dict(scanned.state_dict())
    bad = {**before, "extra": jnp.ones(1), "1.linear.bias": jnp.ones(7)}
    del bad["3.norm.weight"]
    with pytest.raises(RuntimeError) as error:
        scanned.load_state_dict(bad)
    for text in (
        'Missing key(s) in state_dict: "3.norm.weight"',
        'Unexpected key(s) in state_dict: "extra"',
        "size mismatch for 1.linear.bias",
    ):
        assert text in str(error.value)
    close(dict(scanned.state_dict()), before)


@pytest.mark.slow
def test_the_pure_form_and_copies():
    scanned = nn.ScanSequential(*blocks())
    net = objnet.transform_with_state(scanned)
    params, state = net.init(None)
    out, new = net.apply(params, state, None, X)
    close(out, scanned(X))
    built = objnet.transform_with_state(lambda x: nn.ScanSequential(*[Block() for _ in range(3)])(x))
    params, state = built.init(jax.random.key(0), X)
    assert {v.shape[0] for entries in params.values() for v in entries.values()} == {3}
    out, _ = jax.jit(built.apply)(params, state, None, X)
    assert out.shape == X.shape


@pytest.mark.parametrize("remat", [False, True])
def test_rolled_loops_leave_the_layers_as_they_are(remat):
    plain, layers = nn.ModuleList(blocks()), nn.ModuleList(blocks())

    def looped(x):
        return (nn.rolled(layers, remat=remat)(x, 0.5) ** 2).sum()

    for around in (lambda f: f, objnet.jit):
        value, grads = around(objnet.value_and_grad(looped, wrt=layers))(X)
        wanted, wanted_grads = objnet.value_and_grad(lambda x: (_loop(plain, x, 0.5) ** 2).sum(), wrt=plain)(X)
        close(value, wanted)
        close(dict(grads), dict(wanted_grads))
    close(dict(layers.state_dict()), dict(plain.state_dict()))


def test_a_body_of_ones_own():
    layers = nn.ModuleList([nn.Linear(6, 6) for _ in range(3)])
    x = X
    for layer in layers:
        x = x + jnp.tanh(layer(x)) * 0.5
    close(nn.rolled(layers, lambda layer, x, s: x + jnp.tanh(layer(x)) * s)(X, 0.5), x)


def linears(count=4, size=6):
    return [nn.Linear(size, size) for _ in range(count)]


@pytest.mark.slow
def test_stacks_of_stacks_have_the_keys_of_sequentials_of_sequentials():
    rows = linears()
    nested = nn.ScanSequential(nn.ScanSequential(rows[:2]), nn.ScanSequential(rows[2:]))
    plain = nn.Sequential(nn.Sequential(*rows[:2]), nn.Sequential(*rows[2:]))
    assert list(nested.state_dict()) == list(plain.state_dict())
    close(dict(nested.state_dict()), dict(plain.state_dict()))
    other = nn.Sequential(nn.Sequential(*linears(2)), nn.Sequential(*linears(2)))
    nested.load_state_dict(other.state_dict())
    close(nested(X), other(X))
    ensemble = nn.stack_modules([nn.ScanSequential(linears(2)) for _ in range(3)])
    assert ensemble.state_dict()["1.weight"].shape == (3, 6, 6)
    ensemble.load_state_dict(ensemble.state_dict())
    apart = nn.unstack_modules(ensemble)
    close(objnet.vmap(lambda m, x: m(x), in_axes=(0, None))(ensemble, X), jnp.stack([m(X) for m in apart]))
    close(ensemble.state_dict()["1.weight"][2], apart[2].state_dict()["1.weight"])


def test_state_dict_hooks_run_and_kept_variables_are_views():
    scanned, seen = nn.ScanSequential(linears()), []
    scanned.register_state_dict_post_hook(lambda module, entries, prefix, metadata: seen.extend(entries))
    scanned.register_state_dict_pre_hook(lambda module, prefix, keep_vars: seen.append(keep_vars))
    kept = scanned.state_dict(keep_vars=True, prefix="a.")
    assert seen == [True, *kept] and list(kept)[0] == "a.0.weight"
    kept["a.2.bias"].fill_(7.0)
    close(np.asarray(scanned.block.bias)[2], np.full(6, 7.0))
    assert (np.asarray(scanned.block.bias)[[0, 1, 3]] != 7.0).all()


@pytest.mark.parametrize("fill", [nn.init.xavier_uniform_, nn.init.kaiming_normal_, nn.init.orthogonal_])
def test_initialisation_is_that_of_separate_blocks(fill):
    def init(m):
        if isinstance(m, nn.Linear):
            fill(m.weight)

    stacked = nn.ScanSequential(linears(8, 32))
    stacked.apply(init)
    plain = nn.Sequential(*linears(8, 32))
    plain.apply(init)
    for i in range(8):
        ours, theirs = stacked.state_dict()[f"{i}.weight"], plain.state_dict()[f"{i}.weight"]
        np.testing.assert_allclose(np.std(ours), np.std(theirs), rtol=0.1)
        if fill is nn.init.orthogonal_:
            close(ours @ ours.T, jnp.eye(32), atol=1e-4)
    stacked.block.reset_parameters()
    bound = 1 / np.sqrt(32)
    for name, p in stacked.block.named_parameters():
        assert 0.9 * bound < np.abs(np.asarray(p)).max() <= bound, name


def test_stacks_without_values():
    with objnet.abstract():
        scanned = nn.ScanSequential(linears())
        ensemble = nn.stack_modules(linears(3))
    assert scanned.state_dict()["2.weight"].shape == (6, 6) and ensemble.state_dict()["weight"].shape == (3, 6, 6)
    plain = nn.Sequential(*linears())
    scanned.load_state_dict(plain.state_dict())
    close(scanned(X), plain(X))


def test_the_program_does_not_grow_with_the_number_of_blocks():
    def size(count):
        scanned = nn.ScanSequential(*blocks(count))
        return len(str(objnet.make_jaxpr(lambda x: objnet.value_and_grad(lambda: scanned(x).sum(), wrt=scanned)())(X)))

    assert size(12) < size(3) * 1.1


def test_what_cannot_be_scanned_is_refused():
    with pytest.raises(RuntimeError, match="differs from module 0"):
        nn.ScanSequential(nn.Linear(3, 3), nn.Linear(3, 4))
    with pytest.raises(RuntimeError, match="at least one module"):
        nn.ScanSequential()
    with pytest.raises(TypeError, match="takes modules"):
        nn.ScanSequential([nn.Linear(3, 3), jnp.tanh])
    with pytest.raises(TypeError, match="call it"):
        list(nn.ScanSequential(nn.Linear(3, 3), nn.Linear(3, 3)))
    with pytest.raises(RuntimeError, match="differs"):
        nn.rolled([nn.Linear(3, 3), nn.Linear(3, 3, bias=False)])
    with pytest.raises(TypeError, match="not iterated over"):
        list(nn.rolled([nn.Linear(3, 3), nn.Linear(3, 3)]))
    with pytest.raises(TypeError, match="indexed"):
        nn.ScanSequential(nn.Linear(3, 3), nn.Linear(3, 3))[0]
    grows = nn.ScanSequential(nn.Linear(3, 4), nn.Linear(3, 4))
    with pytest.raises(TypeError, match="carry"):
        grows(jnp.ones((2, 3)))
    assert len(grows) == 2 and "(0-1): 2 x Linear(" in repr(grows)
