"""Gradient clipping against torch's."""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from objnet import nn  # noqa: E402
from objnet.core import errors  # noqa: E402
from objnet.nn import utils  # noqa: E402
from objnet.transforms.autodiff import backward  # noqa: E402
from objnet.transforms.jit import jit  # noqa: E402
from tests.nn.module_parity import parameters_of  # noqa: E402
from tests.nn.parity import assert_close, to_jax  # noqa: E402

FUNCTIONS = ["clip_grad_norm_", "clip_grad_value_", "get_total_norm", "clip_grads_with_norm_"]
NORMS = [2.0, 1, 3.5, 0, math.inf, "inf", -math.inf, -1]


def pairs(*gradients):
    """Parameters here and in torch with these gradients (None for none)."""
    ours, theirs = [], []
    for gradient in gradients:
        like = torch.zeros(2) if gradient is None else gradient
        theirs.append(torch.nn.Parameter(torch.zeros_like(like)))
        ours.append(nn.Parameter(to_jax(torch.zeros_like(like))))
        if gradient is not None:
            theirs[-1].grad = gradient.clone()
            ours[-1].grad = to_jax(gradient.clone())
    return ours, theirs


def check(ours, theirs, **tolerances):
    for mine, expected in zip(ours, theirs, strict=True):
        assert (mine.grad is None) == (expected.grad is None)
        if expected.grad is not None:
            assert_close(mine.grad, expected.grad, **tolerances)


def some(scale=1.0):
    torch.manual_seed(1)
    return torch.randn(3, 2) * scale, None, torch.randn(4) * scale, torch.randn(()) * scale


@pytest.mark.parametrize("name", FUNCTIONS)
def test_signatures(name):
    assert parameters_of(getattr(utils, name)) == parameters_of(getattr(torch.nn.utils, name))
    assert getattr(utils.clip_grad, name) is getattr(utils, name)


@pytest.mark.parametrize(("norm_type", "max_norm"), list(itertools.product(NORMS, [0.3, 100, 0, -1])))
def test_norm(norm_type, max_norm):
    ours, theirs = pairs(*some())
    total = utils.clip_grad_norm_(ours, max_norm, norm_type, foreach=False)
    assert_close(total, torch.nn.utils.clip_grad_norm_(theirs, max_norm, norm_type))
    check(ours, theirs)


@settings(max_examples=8, deadline=None)
@given(
    st.lists(st.lists(st.floats(-1e3, 1e3, width=32), min_size=2, max_size=2), min_size=1, max_size=2),
    st.floats(1e-3, 50),  # not 0 nor negative: with gradients of zero torch then gives NaN in float16
    st.sampled_from(NORMS[:5]),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_norm_of_any_gradients(gradients, max_norm, norm_type, dtype):
    ours, theirs = pairs(*(torch.tensor(g).to(dtype) for g in gradients))
    total = utils.clip_grad_norm_(iter(ours), max_norm, norm_type)
    loose = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 3e-2, "atol": 1e-2}
    assert_close(total, torch.nn.utils.clip_grad_norm_(iter(theirs), max_norm, norm_type), **loose)
    check(ours, theirs, **loose)


@pytest.mark.parametrize("value", [0.5, 0, -1, 100, math.inf])
def test_value(value):
    ours, theirs = pairs(*some(), torch.tensor([math.nan, math.inf]), torch.randn(3).bfloat16())
    assert utils.clip_grad_value_(ours, value) is None
    torch.nn.utils.clip_grad_value_(theirs, value)
    check(ours, theirs)


def test_in_two_steps():
    ours, theirs = pairs(*some())
    mine = utils.get_total_norm([p.grad for p in ours if p.grad is not None], 3)
    total = torch.nn.utils.get_total_norm([p.grad for p in theirs if p.grad is not None], 3)
    assert_close(mine, total)
    utils.clip_grads_with_norm_(ours, 0.5, mine)
    torch.nn.utils.clip_grads_with_norm_(theirs, 0.5, total)
    check(ours, theirs)
    assert_close(utils.get_total_norm(jnp.asarray([3.0, 4.0])), torch.tensor(5.0))
    assert_close(utils.get_total_norm(np.asarray([[3.0], [4.0]], np.float32)), torch.tensor(5.0))


@pytest.mark.parametrize(
    "dtypes", [("bfloat16", "bfloat16"), ("bfloat16", "float16"), ("float16", "float32"), ("complex64", "float32")]
)
def test_mixed_dtypes(dtypes):
    gradients = [(torch.randn(5) + (1j if d == "complex64" else 0)).to(getattr(torch, d)) for d in dtypes]
    ours, theirs = pairs(*gradients)
    total = utils.clip_grad_norm_(ours, 0.7)
    assert_close(total, torch.nn.utils.clip_grad_norm_(theirs, 0.7), rtol=2e-2, atol=1e-2)
    for mine, expected in zip(ours, theirs, strict=True):
        wanted = expected.grad.detach()
        np.testing.assert_allclose(
            np.asarray(mine.grad, np.complex64), np.asarray(wanted.to(torch.complex64)), rtol=2e-2, atol=1e-2
        )
        assert str(mine.grad.dtype) == str(wanted.dtype).removeprefix("torch.")


def test_one_parameter_none_and_nothing():
    (mine, none), (expected, nothing) = pairs(torch.tensor([3.0, 4.0]), None)
    assert_close(utils.clip_grad_norm_(mine, 1.0), torch.nn.utils.clip_grad_norm_(expected, 1.0))
    check([mine], [expected])
    assert_close(utils.clip_grad_norm_([none], 1.0), torch.nn.utils.clip_grad_norm_([nothing], 1.0))
    assert_close(utils.clip_grad_norm_([], 1.0), torch.nn.utils.clip_grad_norm_([], 1.0))
    utils.clip_grad_value_(none, 1.0)
    assert none.grad is None
    used = nn.Linear(2, 2).parameters()
    list(used)
    with pytest.warns(UserWarning, match="iterator without items"):
        utils.clip_grad_norm_(used, 1.0)


def test_not_finite():
    for bad in (math.inf, -math.inf, math.nan):
        ours, theirs = pairs(torch.tensor([bad, 1.0]))
        with pytest.raises(RuntimeError, match="non-finite"):
            utils.clip_grad_norm_(ours, 1.0, error_if_nonfinite=True)
        check(ours, theirs)  # and nothing has changed
        utils.clip_grad_norm_(ours, 1.0)
        torch.nn.utils.clip_grad_norm_(theirs, 1.0)
        check(ours, theirs)
    (mine, *_), _ = pairs(torch.tensor([3.0, 4.0]))
    assert float(utils.clip_grad_norm_(mine, 1.0, error_if_nonfinite=True)) == 5.0


def model_and_step(**options):
    model = nn.Linear(3, 2)

    @jit
    def step(x, limit):
        model.zero_grad()
        loss = backward(lambda: jnp.sum(model(x) ** 2))
        norm = utils.clip_grad_norm_(model.parameters(), limit, **options)
        utils.clip_grad_value_(model.parameters(), 0.5)
        for p in model.parameters():
            p.data.add_(p.grad, alpha=-0.1)
        return loss, norm

    return model, step


def test_inside_a_compiled_step():
    model, step = model_and_step()
    theirs = torch.nn.Linear(3, 2)
    model.load_state_dict(theirs.state_dict())
    x = torch.randn(4, 3)
    step(jnp.asarray(x.numpy()), jnp.float32(1.0))
    model.load_state_dict(theirs.state_dict())
    with jax.transfer_guard("allow"):
        arguments = jnp.asarray(x.numpy()), jnp.float32(0.7)
    with jax.transfer_guard("disallow"):
        loss, norm = step(*arguments)
    expected = theirs(x).square().sum()
    expected.backward()
    assert_close(norm, torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.7))
    torch.nn.utils.clip_grad_value_(theirs.parameters(), 0.5)
    assert_close(loss, expected)
    for mine, wanted in zip(model.parameters(), theirs.parameters(), strict=True):
        assert_close(mine.grad, wanted.grad)
        assert_close(mine.value, wanted - 0.1 * wanted.grad)


def test_checking_for_finite_values_in_a_trace_is_refused():
    _, step = model_and_step(error_if_nonfinite=True)
    with pytest.raises(errors.CompiledCallError, match="error_if_nonfinite=True was asked for in a trace"):
        step(jnp.ones((4, 3)), jnp.float32(1.0))


def test_refusals():
    (mine, *_), (expected, *_) = pairs(torch.tensor([3.0, 4.0]))
    for call in (
        lambda u, p, t: u.clip_grad_norm_(p, "much"),
        lambda u, p, t: u.clip_grad_norm_(p, 1.0, "frobenius"),
        lambda u, p, t: u.clip_grad_value_(p, None),
        lambda u, p, t: u.get_total_norm([t.ones((2,)), t.zeros((0,))], math.inf),
        lambda u, p, t: u.get_total_norm([t.asarray([1, 2])]),
    ):
        with pytest.raises(Exception) as error:
            call(torch.nn.utils, expected, torch)
        with pytest.raises(error.type):
            call(utils, mine, jnp)
    with pytest.raises(TypeError, match="takes Parameters, whose .grad it replaces, got str"):
        utils.clip_grad_norm_({"weight": mine.grad}, 1.0)
    with pytest.raises(TypeError, match="takes Parameters"):
        utils.clip_grad_value_([mine.grad], 1.0)
    complex_one = nn.Parameter(jnp.ones(2, jnp.complex64))
    complex_one.grad = jnp.ones(2, jnp.complex64)
    with pytest.raises(NotImplementedError, match="complex"):
        utils.clip_grad_value_(complex_one, 1.0)
