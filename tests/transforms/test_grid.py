from __future__ import annotations

from typing import Any
import copy
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from objnet.core import errors, frame
from objnet.core.rng import key_stream, manual_seed
from objnet.transforms.autodiff import value_and_grad
from objnet.transforms.jit import jit
from objnet.transforms.pure import transform_with_state
from tests.transforms import grid
from tests.transforms.grid import CALLABLES, EFFECTS, TRANSFORMS, X, Model, Plain, Reference

WEIGHTS = [np.asarray(w, np.float32) for w in ([1.5, -2.0, 0.5], [0.25, 3.0, -1.0], [2, 1, -.5])]


def total(out: Any) -> Any:
    return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(out))

def snapshot(model):
    assert frame.current() is None
    cells = {**model._parameters, **model._buffers, **model._arrays}
    vals = {k: v._value for k, v in cells.items()}
    vals["key"] = key_stream._value
    for p in model._parameters.values():
        assert not isinstance(p._grad._value, jax.core.Tracer)
    for v in vals.values():
        assert frame.is_concrete(v)
    return {k: np.asarray(v) for k, v in vals.items()}

def same(a, b):
    la, lb = jax.tree.leaves(a), jax.tree.leaves(b)
    assert len(la) == len(lb)
    for x, y in zip(la, lb):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=2e-5, atol=1e-6)

def outside(model, f, t, x):
    return t.run(f, x), None

@pytest.mark.parametrize("callable_", CALLABLES)
@pytest.mark.parametrize("context", ["outside", "jit", "vag", "pure", "pure_jit"])
@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("eff", EFFECTS)
def test_probe(eff, name, context, callable_):
    manual_seed(3)
    key_stream._own()
    effect, t = EFFECTS[eff], TRANSFORMS[name]
    model = Model(effect.act, WEIGHTS[0])
    x = jnp.asarray(X)
    f = CALLABLES[callable_](model, t.signature)
    go = lambda x: t.run(f, x)
    if context == "jit":
        go = jit(lambda x: t.run(f, x))
    if context == "vag":
        go = value_and_grad(lambda x: (lambda o: (total(o), o))(t.run(f, x)), has_aux=True, wrt=model)
    if context.startswith("pure"):
        net = transform_with_state(lambda x: t.run(f, x))
        apply = jax.jit(net.apply) if context == "pure_jit" else net.apply
    msgs = []
    for n in range(2):
        s = snapshot(model)
        if context.startswith("pure"):
            try:
                params, state = net.init(jax.random.PRNGKey(1), x)
                params = jax.tree.map(lambda v: v*.5+n, params)
                ref = Reference(params["model"]["weight"], state["model"]["buffer"], state["model"]["hidden"], jax.random.PRNGKey(7), params["model"].get("extra"))
                out, state = apply(params, state, jax.random.PRNGKey(7), x)
                expected = t.by_hand(Plain(effect, t.signature, ref), x)
                same(out, expected)
                same(state["model"]["buffer"], ref.buffer)
                same(state["model"]["hidden"], ref.hidden)
                if "extra" in state["model"]:same(state["model"]["extra"], ref.extra)
                msgs.append("ok")
            except (errors.ObjnetError) as e:
                msgs.append(type(e).__name__)
            same(s, snapshot(model))
            continue
        ref = Reference(jnp.asarray(s["weight"]), jnp.asarray(s["buffer"]), jnp.asarray(s["hidden"]), jnp.asarray(s["key"]), s.get("extra"))
        try:
            out = go(x)
        except (errors.ObjnetError) as e:
            msgs.append(type(e).__name__)
            same(s, snapshot(model))
            same(model(x) , X*s["weight"]) if eff != "hook_writes_buffer" else None
        else:
            if context == "vag":
                def by_hand(w):
                    r = copy.copy(ref); r.weight = w
                    o= t.by_hand(Plain(effect, t.signature, r), x)
                    return total(o), (o, r.values())
                (v, (o, vals)), g = jax.value_and_grad(by_hand, has_aux=True)(ref.weight)
                (v2, o2), g2 = out
                same(v, v2); same(o, o2)
                g2 = g2["weight"]
                if g2 is None: assert not np.any(g), g
                else: same(g, g2)
            else:
                expected = t.by_hand(Plain(effect, t.signature, ref), x)
                same(out, expected)
                vals = ref.values()
            if vals["extra"] is None: del vals["extra"]
            assert vals.keys() == (s2 := snapshot(model)).keys()
            for k in vals: same(vals[k], s2[k])
            if eff == "registers_buffer": assert "extra" in model._buffers
            if eff == "registers_parameter": assert "extra" in model._parameters
            msgs.append("ok")
        model.weight.data = WEIGHTS[n + 1]
    print(f"OUTCOME|{eff}|{name}|{context}|{callable_}|{msgs}")
