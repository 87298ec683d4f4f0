"""``objnet.func`` against ``torch.func``: the same calls, the same results, the same shapes of answers."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import objnet
from objnet import func, nn
from objnet.core import errors

torch = pytest.importorskip("torch")


def to_torch(tree):
    return jax.tree.map(lambda a: torch.from_numpy(np.array(a)), tree)


def close(ours, theirs, **tolerance):
    ours, theirs = jax.tree.leaves(ours), jax.tree.leaves(jax.tree.map(lambda t: t.detach().numpy(), theirs))
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, **{"rtol": 1e-5, "atol": 1e-6, **tolerance})


X = jax.random.normal(jax.random.key(0), (3,))
M = jax.random.normal(jax.random.key(1), (4, 3))


def f(np_, x, y=None):
    out = np_.sin(x) * x
    return out if y is None else out * y


def test_every_name_is_there_with_its_signature():
    own = {"stack_modules", "unstack_modules"}
    assert set(torch.func.__all__) == set(func.__all__) - own
    for name in torch.func.__all__:
        ours, theirs = (inspect.signature(getattr(m, name)).parameters.values() for m in (func, torch.func))
        if name == "linearize":  # has_aux besides
            ours = [p for p in ours if p.name != "has_aux"]
        named = [(p.name, p.kind, p.default) for p in ours]
        if name == "linearize":
            named = [("func", *named[0][1:]), *named[1:]]
        assert named == [(p.name, p.kind, p.default) for p in theirs], name


@pytest.mark.parametrize(
    "call",
    [
        lambda m, np_, x: m.grad(lambda x: f(np_, x).sum())(x),
        lambda m, np_, x: m.grad(lambda x, y: f(np_, x, y).sum(), argnums=(0, 1))(x, x),
        lambda m, np_, x: m.grad(lambda x: (f(np_, x).sum(), x), has_aux=True)(x),
        lambda m, np_, x: m.grad_and_value(lambda x: f(np_, x).sum())(x),
        lambda m, np_, x: m.grad_and_value(lambda x: (f(np_, x).sum(), x), has_aux=True)(x),
        lambda m, np_, x: m.vjp(lambda x: f(np_, x), x)[1](x),
        lambda m, np_, x: m.vjp(lambda x, y: f(np_, x, y), x, x)[1](x),
        lambda m, np_, x: m.vjp(lambda x: (f(np_, x), x), x, has_aux=True)[2],
        lambda m, np_, x: m.jvp(lambda x: f(np_, x), (x,), (x,)),
        lambda m, np_, x: m.jvp(lambda x: (f(np_, x), x), (x,), (x,), has_aux=True),
        lambda m, np_, x: m.jacrev(lambda x, y: f(np_, x, y), argnums=(0, 1))(x, x),
        lambda m, np_, x: m.jacrev(lambda x: {"a": f(np_, x), "b": x.sum()}, chunk_size=2)(x),
        lambda m, np_, x: m.jacrev(lambda x: (f(np_, x), x), has_aux=True, chunk_size=1)(x),
        lambda m, np_, x: m.jacfwd(lambda x: f(np_, x))(x),
        lambda m, np_, x: m.hessian(lambda x: f(np_, x).sum())(x),
    ],
)
def test_transforms(call):
    close(call(func, jnp, X), call(torch.func, torch, to_torch(X)))


@pytest.mark.parametrize("chunk_size", [None, 1, 3, 8])
@pytest.mark.parametrize(("in_dims", "out_dims"), [((0, None), 0), ((1, None), 1), ((-1, 0), 0)])
def test_vmap(in_dims, out_dims, chunk_size):
    a = M if in_dims[0] == 0 else M.T
    b = X if in_dims[1] is None else M
    run = [
        m.vmap(lambda a, b: {"y": a * b + a}, in_dims, out_dims, chunk_size=chunk_size)(*args)
        for m, args in ((func, (a, b)), (torch.func, to_torch((a, b))))
    ]
    close(*run)


def models(module, count=3):
    objnet.manual_seed(0)
    return [module.Sequential(module.Linear(3, 4), module.BatchNorm1d(4), module.Linear(4, 2)) for _ in range(count)]


def test_ensembles_by_functional_call():
    ours, theirs = models(nn), models(torch.nn)
    for a, b in zip(ours, theirs, strict=True):
        b.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in a.state_dict().items()})
        a.eval(), b.eval()
    params, buffers = func.stack_module_state(ours)
    torch_params, torch_buffers = torch.func.stack_module_state(theirs)
    assert list(params) == list(torch_params) and list(buffers) == list(torch_buffers)
    close(params, torch_params)
    got = func.vmap(lambda p, b, x: func.functional_call(ours[0], (p, b), (x,)), in_dims=(0, 0, None))(params, buffers, M)
    wanted = torch.func.vmap(lambda p, b, x: torch.func.functional_call(theirs[0], (p, b), (x,)), in_dims=(0, 0, None))(
        torch_params, torch_buffers, to_torch(M)
    )
    close(got, wanted)
    per_sample = func.vmap(func.grad(lambda p, x: (func.functional_call(ours[0], p, (x[None],)) ** 2).sum()), in_dims=(None, 0))(
        dict(ours[0].named_parameters()), M
    )
    wanted = torch.func.vmap(
        torch.func.grad(lambda p, x: (torch.func.functional_call(theirs[0], p, (x[None],)) ** 2).sum()), in_dims=(None, 0)
    )({k: v.detach() for k, v in theirs[0].named_parameters()}, to_torch(M))
    assert per_sample.keys() == wanted.keys()
    for name in wanted:
        close(per_sample[name], wanted[name])


def test_replacing_batch_norms():
    ours, theirs = models(nn, 1)[0], models(torch.nn, 1)[0]
    theirs.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in ours.state_dict().items()})
    func.replace_all_batch_norm_modules_(ours), torch.func.replace_all_batch_norm_modules_(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    close(ours(M), theirs(to_torch(M)))
    assert func.vmap(lambda x: ours(x))(jnp.stack([M, M + 1])).shape == (2, 4, 2)


@pytest.mark.parametrize(
    "call",
    [
        lambda m, x, n: m.vmap(lambda x: x, randomness="none")(x),
        lambda m, x, n: m.vmap(lambda x: x, chunk_size=0)(x),
        lambda m, x, n: m.jacrev(lambda x: x, chunk_size=0)(x),
        lambda m, x, n: m.jvp(lambda x: x, x, x),
        lambda m, x, n: m.stack_module_state([]),
        lambda m, x, n: m.stack_module_state([n.Linear(1, 1), n.Linear(1, 1).eval()]),
        lambda m, x, n: m.stack_module_state([n.Linear(1, 1), n.ReLU()]),
        lambda m, x, n: m.functional_call(n.Linear(3, 1), [{"weight": x}, {"weight": x}], (x,)),
        lambda m, x, n: m.functional_call(n.Linear(3, 1), 3, (x,)),
        lambda m, x, n: m.functionalize(lambda x: x, remove="all"),
    ],
)
def test_misuse_raises_torchs_class(call):
    with pytest.raises(Exception) as theirs:  # noqa: PT011
        call(torch.func, to_torch(X), torch.nn)
    with pytest.raises(type(theirs.value)):
        call(func, X, nn)


def test_what_jax_cannot_do_says_so():
    for call in (
        lambda: func.jvp(jnp.sin, (X,), (X,), strict=True),
        lambda: func.jacfwd(jnp.sin, randomness="different"),
        lambda: func.debug_unwrap(X),
    ):
        with pytest.raises(errors.TorchOnlyError):
            call()
    drop = nn.Dropout(0.5)
    with pytest.raises(errors.RngInTransformError):
        func.jacfwd(drop)(X)
    assert func.jacfwd(drop, randomness="same")(X).shape == (3, 3)
    assert func.functionalize(jnp.sin) is jnp.sin
    close(func.rearrange(M, "a b -> b a"), to_torch(M.T)) if _has_einops() else None


def _has_einops():
    try:
        import einops  # noqa: F401
    except ImportError:
        return False
    return True
