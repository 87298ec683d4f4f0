"""Run the same lines with objnet and with torch, and compare what comes out: values, ``repr``s, state, or errors."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

import objnet.nn as ournn
from objnet.core.tensor import TensorMethods

# What the actions use of both worlds.
OURS = types.SimpleNamespace(
    nn=ournn,
    ones=lambda *shape: jnp.ones(shape),
    zeros=lambda *shape: jnp.zeros(shape),
    tensor=lambda values: jnp.asarray(np.asarray(values, np.float32)),
    integers=lambda values: jnp.asarray(values, jnp.int32),
    dtype=jnp.dtype,
)
THEIRS = types.SimpleNamespace(
    nn=torch.nn,
    ones=lambda *shape: torch.ones(shape),
    zeros=lambda *shape: torch.zeros(shape),
    tensor=lambda values: torch.tensor(values, dtype=torch.float32),
    integers=torch.tensor,
    dtype=lambda name: getattr(torch, name),
)


class Raised(tuple):
    """The class and the text of an error."""


def outcome(world: Any, action: Callable[[Any], Any]) -> Any:
    """What an action gives, in a form that can be compared, or what it raises."""
    try:
        result = action(world)
    except Exception as error:
        return Raised((type(error), str(error.args[0])))
    return show(result)


def show(value: Any) -> Any:
    """A form of ``value`` without anything of either world in it."""
    if isinstance(value, (ournn.Module, torch.nn.Module)):
        members = [[n for n, _ in value.named_modules()], [n for n, _ in value.named_parameters()]]
        return repr(value), *members, [(k, tuple(v.shape)) for k, v in value.state_dict().items()]
    if isinstance(value, (ournn.Parameter, torch.nn.Parameter)):
        return "Parameter", value.requires_grad, np.asarray(value.tolist()).tolist()
    if isinstance(value, (jax.Array, torch.Tensor, TensorMethods)):
        return str(value.dtype).removeprefix("torch.").replace("int64", "int32"), np.asarray(value.tolist()).tolist()
    if isinstance(value, (list, tuple)):
        return [show(v) for v in value]
    if isinstance(value, Mapping):
        return [(k, show(v)) for k, v in value.items()]
    return value


def same(action: Callable[[Any], Any], text: bool = False, exact: bool = False) -> Any:
    """The action does the same in both worlds: an equal result, or an error of the same class.

    With ``text`` that of the error is torch's too, or says more after it; with ``exact`` it says no more.
    """
    theirs, ours = outcome(THEIRS, action), outcome(OURS, action)
    if isinstance(theirs, Raised):
        assert isinstance(ours, Raised), f"torch raises {theirs}, objnet gives {ours}"
        assert issubclass(ours[0], theirs[0]), f"torch raises {theirs}, objnet {ours}"
        if exact:
            assert ours[1] == theirs[1], f"torch says {theirs[1]}, objnet {ours[1]}"
        if text:
            assert ours[1].replace("objnet.", "torch.").startswith(theirs[1]), f"torch says {theirs[1]}, objnet {ours[1]}"
    else:
        assert ours == theirs, f"torch gives {theirs}, objnet {ours}"
    return theirs
