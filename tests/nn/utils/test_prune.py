"""Pruning against torch's: the same lines in both worlds, from the same seed."""

from __future__ import annotations

import copy
import inspect
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.utils.prune as theirs  # noqa: E402

from objnet import nn  # noqa: E402
from objnet.core import rng  # noqa: E402
from objnet.nn.utils import prune as ours  # noqa: E402
from objnet.transforms.autodiff import value_and_grad  # noqa: E402
from objnet.transforms.jit import jit  # noqa: E402
from objnet.transforms.pure import transform_with_state  # noqa: E402
from tests.nn.two_worlds import OURS, same  # noqa: E402


def both(action, **kwargs):
    """``action(world, prune)`` does the same in both, from one seed."""

    def run(w):
        rng.manual_seed(3)
        torch.manual_seed(3)
        return action(w, ours if w is OURS else theirs)

    return same(run, **kwargs)


def state(module):
    """Keys, rounded values, and the kinds of the hooks."""
    values = [(k, np.round(np.asarray(v.tolist(), np.float64), 4).tolist()) for k, v in module.state_dict().items()]
    pruned = np.round(np.asarray(module.weight.tolist(), np.float64), 4).tolist()
    return values, pruned, [type(h).__name__ for h in module._forward_pre_hooks.values()]


@pytest.mark.parametrize(
    "prune",
    [
        lambda u, m: u.identity(m, "weight"),
        lambda u, m: u.random_unstructured(m, "weight", 0.3),
        lambda u, m: u.l1_unstructured(m, "weight", 5),
        lambda u, m: u.random_structured(m, "weight", 2, 1),
        lambda u, m: u.ln_structured(m, "weight", 0.5, 2, -1),
        lambda u, m: u.ln_structured(m, "weight", 1, float("-inf"), 0),
        lambda u, m: u.l1_unstructured(u.ln_structured(m, "weight", 1, 1, 0), "weight", 0.5),
        lambda u, m: u.random_structured(u.random_structured(u.identity(m, "weight"), "weight", 1, 0), "weight", 1, 0),
    ],
)
def test_methods(prune):
    def run(w, u):
        module = prune(u, w.nn.Linear(4, 3))
        before = state(module)
        module(w.ones(1, 4))
        u.remove(module, "weight")
        return before, state(module), isinstance(module.weight, w.nn.Parameter), u.is_pruned(w.nn.Sequential(module))

    both(run)


def test_scores_and_masks():
    def run(w, u):
        scores = w.tensor([[1.0, 2, 3], [6, 5, 4]])
        first = u.l1_unstructured(w.nn.Linear(3, 2), "weight", 2, importance_scores=scores)
        second = u.ln_structured(w.nn.Linear(3, 2), "weight", 1, 1, 0, importance_scores=scores)
        third = u.custom_from_mask(w.nn.Linear(3, 2), "weight", mask=w.integers([[0, 1, 1], [1, 0, 1]]))
        alone = (
            u.L1Unstructured(2).prune(scores),
            u.L1Unstructured(2).prune(scores, importance_scores=-scores, default_mask=scores * 0),
        )
        return [m.weight_mask for m in (first, second, third)], alone, u.is_pruned(w.nn.ModuleList([third]))

    both(run)


def test_global():
    def run(w, u):
        model = w.nn.Sequential(w.nn.Linear(3, 2), w.nn.Linear(2, 2))
        pairs = [(model[0], "weight"), (model[1], "weight"), (model[0], "bias")]
        u.global_unstructured(pairs, u.L1Unstructured, amount=4)
        masks = [m.weight_mask for m in model]
        scores = {(model[1], "weight"): w.ones(2, 2) * 0}
        u.global_unstructured(pairs, u.L1Unstructured, importance_scores=scores, amount=0.4)
        return masks, [m.weight_mask for m in model], model[0].bias_mask, [len(h) for h in model[0]._forward_pre_hooks.values()]

    both(run)


def test_containers_and_methods_of_ones_own():
    def run(w, u):
        class First(u.BasePruningMethod):
            PRUNING_TYPE = "unstructured"

            def compute_mask(self, t, default_mask):
                if w is OURS:
                    return default_mask.at[0].set(0)
                mask = default_mask.clone()
                mask[0] = 0
                return mask

        layer = w.nn.Linear(1, 4, bias=False)
        First.apply(layer, "weight")
        First.apply(layer, "weight")
        container = next(iter(layer._forward_pre_hooks.values()))
        return layer.weight_mask, len(container), [type(m).__name__ for m in container], type(container[0]).__name__

    both(run)


@pytest.mark.parametrize(
    "action",
    [
        lambda w, u: u.random_unstructured(w.nn.Linear(2, 2), "weight", -1),
        lambda w, u: u.random_unstructured(w.nn.Linear(2, 2), "weight", 1.5),
        lambda w, u: u.random_unstructured(w.nn.Linear(2, 2), "weight", "a"),
        lambda w, u: u.l1_unstructured(w.nn.Linear(2, 2), "weight", 5),
        lambda w, u: u.l1_unstructured(w.nn.Linear(2, 2), "nothing", 1),
        lambda w, u: u.l1_unstructured(w.nn.Linear(2, 2, bias=False), "bias", 1),
        lambda w, u: u.random_structured(w.nn.Linear(2, 2), "bias", 1, 0),
        lambda w, u: u.ln_structured(w.nn.Linear(2, 2), "weight", 1, 2, 2),
        lambda w, u: u.ln_structured(w.nn.Linear(2, 2), "weight", 3, 2, 0),
        lambda w, u: u.l1_unstructured(w.nn.Linear(2, 2), "weight", 1, importance_scores=w.ones(3)),
        lambda w, u: u.custom_from_mask(w.nn.Linear(2, 2), "weight", w.ones(3, 3)),
        lambda w, u: u.remove(w.nn.Linear(2, 2), "weight"),
        lambda w, u: u.global_unstructured(5, u.L1Unstructured, amount=1),
        lambda w, u: u.global_unstructured([(w.nn.Linear(2, 2), "weight")], u.LnStructured, amount=1, n=2),
        lambda w, u: u.global_unstructured([(w.nn.Linear(2, 2), "weight")], u.L1Unstructured, importance_scores=[], amount=1),
        lambda w, u: u.PruningContainer(u.L1Unstructured(1), u.L1Unstructured(1)),
        lambda w, u: u.BasePruningMethod(),
    ],
)
def test_bad_input(action):
    both(action)


def test_a_failure_leaves_the_module_as_it_was():
    layer = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="smaller"):
        ours.l1_unstructured(layer, "weight", 5)
    assert list(layer._parameters) == ["weight", "bias"]
    assert not layer._forward_pre_hooks


def test_training_copies_and_the_pure_form():
    layer = ours.l1_unstructured(nn.Linear(3, 2), "weight", 3)
    x = jnp.ones((1, 3))
    step = jit(lambda x: value_and_grad(lambda: layer(x).sum(), wrt=layer)()[1])
    np.testing.assert_array_equal(step(x)["weight_orig"], layer.weight_mask)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        np.testing.assert_allclose(other(x), layer(x), rtol=1e-6)
    net = transform_with_state(layer)
    params, state = net.init(None)
    gradient = jax.jit(jax.grad(lambda p: net.apply(p, state, None, x)[0].sum()))(params)
    np.testing.assert_array_equal(gradient["~"]["weight_orig"], layer.weight_mask)


def test_names_and_signatures():
    for name in ours.__all__:
        mine, other = getattr(ours, name), getattr(theirs, name)
        for a, b in [(mine, other), *([(mine.apply, other.apply)] if inspect.isclass(mine) else [])]:
            assert [(p.name, p.kind, p.default) for p in inspect.signature(a).parameters.values()] == [
                (p.name, p.kind, p.default) for p in inspect.signature(b).parameters.values()
            ]
    public = {n for n, v in vars(theirs).items() if not n.startswith("_") and getattr(v, "__module__", "") == theirs.__name__}
    assert public == set(ours.__all__)
