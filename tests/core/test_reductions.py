"""Reductions and shape methods of Parameters and views: torch's results where numpy has the same names with another meaning."""

import jax.numpy as jnp
import numpy as np
import pytest

import objnet
from objnet import nn

torch = pytest.importorskip("torch")

VALUE = np.asarray([[3.0, 1.0, 2.0], [4.0, 6.0, 5.0]], np.float32)
CALLS = [
    lambda p: p.std(),
    lambda p: p.std(0),
    lambda p: p.var(1, unbiased=False),
    lambda p: p.var(False),
    lambda p: p.var(dim=1, keepdim=True),
    lambda p: p.std(dim=(0, 1), correction=0),
    lambda p: p.max(),
    lambda p: p.max(1),
    lambda p: p.min(dim=0, keepdim=True),
    lambda p: p.sort(1),
    lambda p: p.sort(0, descending=True),
    lambda p: p.repeat(2, 1),
    lambda p: p.repeat(2, 2, 2),
    lambda p: p.mean(dim=1),
    lambda p: p.mean(1, True),
    lambda p: p.sum(dim=(0, 1)),
    lambda p: p.sum([0, 1], keepdim=True),
    lambda p: p.prod(1),
    lambda p: p.argmax(1, True),
    lambda p: p.argmin(),
    lambda p: p.flatten(0),
    lambda p: p.squeeze(1),
    lambda p: p.squeeze(),
    lambda p: p.clamp(2),
    lambda p: p.clamp(max=3),
    lambda p: p.logsumexp(1),
    lambda p: p.expand(4, -1, 3),
    lambda p: p.unbind(1),
    lambda p: p.split(2, 1),
    lambda p: p.split([1, 2], dim=1),
    lambda p: p.transpose(0, 1),
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("view", [False, True])
def test_as_torch(call, view):
    ours, theirs = nn.Parameter(jnp.asarray(VALUE)), torch.nn.Parameter(torch.from_numpy(VALUE.copy()))
    got, wanted = call(ours.data if view else ours), call(theirs.data if view else theirs.detach())
    if isinstance(wanted, torch.Tensor):
        got, wanted = (got,), (wanted,)
    assert len(got) == len(wanted)
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b.numpy(), rtol=1e-6)
        assert tuple(a.shape) == tuple(b.shape)


def test_numpys_own_functions_keep_numpys_meaning():
    p = nn.Parameter(jnp.asarray(VALUE))
    for name in ("mean", "sum", "std", "var", "max", "min", "prod"):
        function = getattr(np, name)
        np.testing.assert_allclose(function(p, axis=1), function(VALUE, axis=1), rtol=1e-6)
        np.testing.assert_allclose(getattr(jnp, name)(p), function(VALUE), rtol=1e-6)
    np.testing.assert_allclose(np.std(p, ddof=1), np.std(VALUE, ddof=1), rtol=1e-6)
    assert p.max(nn.Parameter(jnp.full((2, 3), 4.0))).shape == (2, 3)


@pytest.mark.parametrize("name", ["std", "var", "max", "min", "sum", "mean"])
def test_options_that_do_not_exist_are_refused(name):
    with pytest.raises(TypeError, match="unexpected keyword argument 'keep_dim'"):
        getattr(nn.Parameter(jnp.asarray(VALUE)), name)(0, keep_dim=True)


HABITS = {
    "x.reshape": lambda x: x.view(3, 2),
    "x.shape[i]": lambda x: x.size(0),
    "jnp.expand_dims": lambda x: x.unsqueeze(0),
    "jnp.where(mask, value, x)": lambda x: x.masked_fill(x > 0, 0.0),
    "not changed in place": lambda x: x.add_(1.0),
    "axis and keepdims": lambda x: x.mean(dim=1),
}


@pytest.mark.parametrize("advice", HABITS)
@pytest.mark.parametrize("compiled", [False, True])
def test_torch_habits_in_a_forward_are_told_what_to_write(advice, compiled):
    class Habit(nn.Module):
        def forward(self, x):
            return HABITS[advice](x)

    model = Habit()
    with pytest.raises((AttributeError, TypeError, NotImplementedError)) as caught:
        (objnet.jit(model) if compiled else model)(jnp.asarray(VALUE))
    assert any(advice in note for note in caught.value.__notes__)
