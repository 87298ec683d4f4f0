"""``jvp``, ``vjp``, ``linearize``, Jacobians, Hessians, custom rules, ``checkpoint``, ``eval_shape``, ``checkify``; against jax's own over pure functions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify as jax_checkify

import objnet
from objnet import nn
from objnet.core import errors


def close(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **{"rtol": 1e-5, "atol": 1e-6, **tolerance}), a, b)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.frozen = nn.Parameter(jnp.ones(2), requires_grad=False)
        self.calls = jnp.zeros(())

    def forward(self, x):
        self.calls = self.calls + 1
        return jnp.tanh(self.linear(x)) * self.frozen * self.calls


def made():
    objnet.manual_seed(0)
    model = Model()
    return model, {n: jnp.asarray(p.data) for n, p in model.named_parameters() if p.requires_grad}


def pure(params, x, calls=1.0):
    return jnp.tanh(x @ params["linear.weight"].T + params["linear.bias"]) * calls


X = jnp.asarray([0.5, -1.0, 2.0])
TANGENT = jnp.asarray([1.0, 0.5, -2.0])


@pytest.mark.parametrize("compiled", [False, True])
def test_with_respect_to_arguments_and_modules(compiled):
    model, params = made()
    around = objnet.jit if compiled else (lambda f: f)
    directions = jax.tree.map(lambda a: a * 0.5 + 1, params)
    close(
        around(lambda x: objnet.jvp(lambda m, x: m(x), (model, x), (directions, TANGENT)))(X),
        jax.jvp(pure, (params, X), (directions, TANGENT)),
    )
    assert model.calls == 1

    def pulled(x):
        out, pullback = objnet.vjp(lambda m, x: m(x), model, x)
        return out, pullback(out)

    out, back = jax.vjp(lambda p, x: pure(p, x, 2.0), params, X)
    got = around(pulled)(X)
    close((got[0], (dict(got[1][0]), got[1][1])), (out, back(out)))

    def pushed(x):
        out, push = objnet.linearize(model, x)
        return out, push(TANGENT)

    out, push = jax.linearize(lambda x: pure(params, x, 3.0), X)
    close(around(pushed)(X), (out, push(TANGENT)))
    assert model.calls == 3


@pytest.mark.parametrize("name", ["jacfwd", "jacrev", "hessian"])
def test_jacobians(name):
    ours, theirs = getattr(objnet, name), getattr(jax, name)
    model, params = made()
    close(ours(model)(X), theirs(lambda x: pure(params, x))(X))
    close(ours(lambda x: (model(x), x), has_aux=True)(X), (theirs(lambda x: pure(params, x, 2.0))(X), X))
    wanted = theirs(lambda p: pure(p, X, 3.0))(params)
    got = ours(lambda: model(X), wrt=model)()
    close(jax.tree.map(lambda a: a, _plain(got)), wanted)
    both = objnet.jit(ours(lambda m, x: m(x), argnums=(0, 1)))(model, X)
    close(_plain(both), theirs(lambda p, x: pure(p, x, 4.0), argnums=(0, 1))(params, X), atol=1e-5)
    assert model.calls == 4
    bias = model.linear.bias
    close(ours(lambda: model(X), wrt=bias)(), theirs(lambda b: pure({**params, "linear.bias": b}, X, 5.0))(params["linear.bias"]))
    with pytest.raises(ValueError, match="out of range"):
        ours(model, argnums=1)(X)
    with pytest.raises(TypeError, match="not both"):
        ours(model, argnums=0, wrt=model)


def _plain(tree):
    if isinstance(tree, dict):
        return {k: _plain(v) for k, v in tree.items()}
    return tuple(map(_plain, tree)) if isinstance(tree, tuple) else tree


def test_bad_tangents_are_named():
    model, params = made()
    with pytest.raises(ValueError, match="one entry for each trainable parameter"):
        objnet.jvp(lambda m: m(X), (model,), ({"linear.weight": params["linear.weight"]},))
    with pytest.raises(TypeError, match="each argument needs a tangent"):
        objnet.jvp(model, (X,), ())
    with pytest.raises(TypeError, match="tuples"):
        objnet.jvp(model, X, X)
    assert model.calls == 0


@pytest.mark.parametrize("compiled", [False, True])
def test_checkpoint_counts_a_batch_norm_once_and_draws_once(compiled):
    objnet.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    other = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    other.load_state_dict(model.state_dict())
    x = jax.random.normal(jax.random.key(0), (6, 3))
    saved = objnet.checkpoint(model)

    def run(f, m):
        def step(x):
            return objnet.value_and_grad(lambda: (f(x) ** 2).sum(), wrt=m)()

        objnet.manual_seed(1)
        return (objnet.jit(step) if compiled else step)(x)

    (value, grads), (wanted, wanted_grads) = run(saved, model), run(other, other)
    close((value, dict(grads)), (wanted, dict(wanted_grads)), atol=1e-5)
    close(dict(model.state_dict()), dict(other.state_dict()))
    assert model[1].num_batches_tracked == 1


def test_checkpoint_saves_what_the_policy_says():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh())

    def products(**options):
        run = objnet.checkpoint(lambda x: model(x), **options)
        text = str(objnet.make_jaxpr(lambda x: objnet.grad(lambda x: run(x).sum())(x))(jnp.ones((2, 4))))
        return text.count("dot_general")

    everything = products(policy=jax.checkpoint_policies.everything_saveable)
    assert products() > everything
    close(objnet.checkpoint(lambda x, n: x * n, static_argnums=1)(X, 3), X * 3)
    close(objnet.checkpoint(lambda x, *, flag, m: m(x) if flag else x)(jnp.ones(4), flag=True, m=model), model(jnp.ones(4)))


@pytest.mark.parametrize("around", ["eager", "jit"])
def test_custom_rules_over_modules(around):
    model, params = made()
    wrap = objnet.jit if around == "jit" else (lambda f: f)

    @objnet.custom_vjp
    def f(m, x):
        return m(x)

    f.defvjp(lambda m, x: (m(x), x), lambda x, ct: ({"linear.bias": ct * 7}, 2 * x))
    (value, (grads, of_x)) = wrap(lambda x: objnet.value_and_grad(lambda m, x: f(m, x).sum(), argnums=(0, 1))(model, x))(X)
    close(value, pure(params, X).sum())
    close((grads["linear.bias"], of_x), (jnp.full(2, 7.0), 2 * X))
    close(grads["linear.weight"], jnp.zeros((2, 3)))
    assert model.calls == 1

    @objnet.custom_jvp
    def g(m, x):
        return m(x)

    @g.defjvp
    def _(primals, tangents):
        m, x = primals
        return m(x), tangents[0]["linear.bias"] * 3 + tangents[1].sum()

    value, (grads, of_x) = wrap(lambda x: objnet.value_and_grad(lambda m, x: g(m, x).sum(), argnums=(0, 1))(model, x))(X)
    close((value, grads["linear.bias"], of_x), (pure(params, X, 2.0).sum(), jnp.full(2, 3.0), jnp.full(3, 2.0)))
    assert model.calls == 2


def test_custom_rules_with_fixed_arguments_and_misuse():
    @objnet.custom_vjp
    def plain(x):
        return x

    with pytest.raises(AttributeError, match="no rule"):
        plain(X)
    scaled = objnet.custom_vjp(lambda n, x: x * n, nondiff_argnums=(0,))
    scaled.defvjp(lambda n, x: (x * n, x), lambda n, x, ct: (ct * n * 10,))
    close(objnet.grad(lambda x: scaled(3.0, x).sum())(X), jnp.full(3, 30.0))
    wrong = objnet.custom_vjp(lambda a, b: a * b)
    wrong.defvjp(lambda a, b: (a * b, b), lambda b, ct: ct)
    with pytest.raises(TypeError, match="tuple of 2 cotangents"):
        objnet.grad(lambda x: wrong(x, x).sum())(X)
    model, _ = made()
    unknown = objnet.custom_vjp(lambda m, x: m(x))
    unknown.defvjp(lambda m, x: (m(x), x), lambda x, ct: ({"nothing": ct}, x))
    with pytest.raises(ValueError, match="no trainable parameters"):
        objnet.grad(lambda m: unknown(m, X).sum())(model)
    parts = objnet.custom_jvp(lambda a, b: a * b)
    parts.defjvps(lambda t, out, a, b: 10 * t, None)
    close(objnet.grad(lambda a, b: parts(a, b).sum(), argnums=(0, 1))(X, X), (jnp.full(3, 10.0), jnp.zeros(3)))


@pytest.mark.parametrize("kind", ["jvp", "vjp"])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_rule_that_says_nothing_of_a_parameter_is_refused(kind, compiled):
    model, _ = made()
    ruled = getattr(objnet, f"custom_{kind}")(lambda x: model.linear(x))
    if kind == "jvp":
        ruled.defjvp(lambda p, t: (model.linear(p[0]), jnp.zeros(2)))
    else:
        ruled.defvjp(lambda x: (model.linear(x), x), lambda x, ct: (x,))
    run = objnet.grad(lambda x: ruled(x).sum(), wrt=model)
    with pytest.raises(errors.LeakedTracerError, match="pass the parameter as an argument"):
        (objnet.jit(run) if compiled else run)(X)


def test_looking_at_a_function_changes_nothing():
    objnet.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    before, rng = dict(model.state_dict()), objnet.get_rng_state()
    shape = objnet.eval_shape(
        lambda x, flag: {"y": model(x), "flag": x if flag else None}, jax.ShapeDtypeStruct((5, 3), jnp.float32), True
    )
    assert shape["y"].shape == (5, 4) and shape["flag"].shape == (5, 3)
    text = str(objnet.make_jaxpr(model)(jnp.ones((5, 3))))
    assert "dot_general" in text
    closed, shape = objnet.make_jaxpr(model, return_shape=True)(jnp.ones((5, 3)))
    assert shape.shape == (5, 4) and len(closed.out_avals) == 1
    close(dict(model.state_dict()), before)
    np.testing.assert_array_equal(objnet.get_rng_state()["key"], rng["key"])
    made = objnet.eval_shape(lambda x: nn.Linear(3, 2)(x), jnp.ones(3))
    assert made.shape == (2,)
    np.testing.assert_array_equal(objnet.get_rng_state()["generator"], rng["generator"])


@pytest.mark.parametrize("compiled", [False, True])
def test_checkify(compiled):
    model = nn.BatchNorm1d(3)

    def run(x):
        jax_checkify.check(x.sum() > 0, "the sum is {}", x.sum())
        return model(x)

    checked = objnet.checkify(run)
    checked = objnet.jit(checked) if compiled else checked
    error, out = checked(jnp.ones((2, 3)))
    error.throw()
    assert out.shape == (2, 3) and model.num_batches_tracked == 1
    error, _ = checked(-jnp.ones((2, 3)))
    with pytest.raises(jax_checkify.JaxRuntimeError, match="the sum is -6"):
        error.throw()
    error, _ = objnet.checkify(lambda x: jnp.log(x), errors=objnet.transforms.stage.nan_checks)(jnp.float32(-1.0))
    assert "nan" in error.get()


@pytest.mark.parametrize("rule", [objnet.custom_jvp, objnet.custom_vjp])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_ruled_function_that_changes_a_differentiated_parameter_is_refused(rule, compiled):
    """Its rule says nothing of the parameter's gradient, which would be lost."""
    weight = nn.Parameter(jnp.ones(3))

    @rule
    def f(x):
        weight.data.add_(x)
        return (weight._read() * x).sum()

    if rule is objnet.custom_jvp:
        f.defjvp(lambda primals, tangents: (f._function(*primals), tangents[0].sum()))
    else:
        f.defvjp(lambda x: (f._function(x), x), lambda x, g: (g * x,))
    grad = objnet.value_and_grad(lambda x: f(x) + weight._read().sum(), wrt=[weight])
    with pytest.raises(objnet.errors.LeakedTracerError):
        (objnet.jit(grad) if compiled else grad)(jnp.arange(3.0))
    assert weight._read().tolist() == [1, 1, 1]


def test_numpy_state_bound_inside_a_transform_leaves_no_tracer():
    model = nn.Identity()

    def run(x):
        model.register_buffer("extra", jnp.zeros(3))
        return model(x) * model.extra

    net = objnet.transform_with_state(objnet.checkpoint(run))
    params, state = net.init(jax.random.key(0), jnp.ones(3))
    given = jax.tree.map(lambda v: np.full(3, 4.0, np.float32), state)
    out, after = net.apply(params, given, jax.random.key(0), jnp.ones(3))
    assert out.tolist() == [4, 4, 4]
    assert [np.asarray(leaf).tolist() for leaf in jax.tree.leaves(after)] == [[4, 4, 4]]
