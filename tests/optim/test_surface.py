"""Names, signatures, defaults, texts and refusals of torch.optim."""

from __future__ import annotations

import inspect

import jax.numpy as jnp
import pytest

from objnet import optim
from objnet.core.variable import Parameter
from tests.optim.cases import EACH
from tests.optim.common import torch

# The two that have no place here exist and say so.
ABSENT = {"SparseAdam", "swap_in_optimizer_params_and_state"}
KINDS = sorted(name for name in torch.optim.__all__ if name[0].isupper() and name not in ABSENT | {"Optimizer"})
OWN = {"Optax", "MultiSteps", "EarlyStopping", "regularizers", "scan_steps", "GradScaler"}


def test_every_name_is_there():
    assert set(torch.optim.__all__) <= set(optim.__all__)
    assert set(optim.__all__) - set(torch.optim.__all__) <= OWN
    for name in ABSENT:
        with pytest.raises(NotImplementedError, match="optim|state_dict"):
            getattr(optim, name)([Parameter(jnp.ones(2))])


@pytest.mark.parametrize("name", KINDS)
def test_signatures_are_torchs(name):
    ours, theirs = (inspect.signature(getattr(module, name).__init__) for module in (optim, torch.optim))
    assert [(p.name, p.kind, p.default) for p in ours.parameters.values()] == [
        (p.name, p.kind, p.default) for p in theirs.parameters.values()
    ]


@pytest.mark.parametrize("name", KINDS)
def test_defaults_and_texts_are_torchs(name):
    for options in ({}, dict(EACH).get(name, {})):
        ours = getattr(optim, name)([Parameter(jnp.ones((2, 2)))], **options)
        theirs = getattr(torch.optim, name)([torch.nn.Parameter(torch.ones(2, 2))], **options)
        assert ours.defaults == theirs.defaults
        assert repr(ours) == repr(theirs)
        group = dict(ours.state_dict()["param_groups"][0])
        assert group == theirs.state_dict()["param_groups"][0]
        assert list(group) == list(theirs.state_dict()["param_groups"][0])


VALUES = [
    -1,
    -1e-9,
    0,
    0.5,
    1,
    2.5,
    100,
    float("nan"),
    (-0.1, 0.5),
    (0.5, -0.1),
    (0.5, 1.0),
    (1.0, 0.5),
    (0.5, 2.0),
    (None, -1.0),
]


@pytest.mark.parametrize("name", KINDS)
def test_what_torch_refuses_is_refused(name):
    """Every option over all kinds of values: the same class of error, or none."""
    parameters = list(inspect.signature(getattr(torch.optim, name).__init__).parameters.values())[2:]
    checked = 0
    for parameter in parameters:
        for value in VALUES:
            if isinstance(parameter.default, bool | None) or isinstance(value, tuple) != isinstance(parameter.default, tuple):
                continue
            if parameter.name in ("history_size", "max_iter", "max_eval", "ns_coefficients"):
                continue  # torch takes any, and breaks later
            outcomes = []
            for module, make in (
                (torch.optim, lambda: torch.nn.Parameter(torch.ones(2, 2))),
                (optim, lambda: Parameter(jnp.ones((2, 2)))),
            ):
                try:
                    getattr(module, name)([make()], **{parameter.name: value})
                    outcomes.append(None)
                except Exception as error:
                    outcomes.append(type(error))
            if outcomes[0] is None and outcomes[1] is ValueError and name == "Muon" and parameter.name == "ns_steps":
                continue  # torch refuses at the first step
            assert outcomes[1] is outcomes[0], (parameter.name, value, outcomes)
            checked += 1
    assert checked


@pytest.mark.parametrize("name", KINDS)
def test_parameters_are_checked(name):
    kind = getattr(optim, name)
    for wrong, error in (
        ([], ValueError),
        (Parameter(jnp.ones((2, 2))), TypeError),
        ([jnp.ones((2, 2))], TypeError),
        ([{"params": {Parameter(jnp.ones((2, 2)))}}], TypeError),
    ):
        with pytest.raises(error):
            kind(wrong)
    p = Parameter(jnp.ones((2, 2)))
    with pytest.raises(ValueError, match="more than"):
        kind([p, p])
