"""Embedding against torch's."""

from __future__ import annotations

import copy

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from objnet import nn  # noqa: E402
from objnet.core import errors  # noqa: E402
from objnet.transforms.jit import jit  # noqa: E402
from objnet.transforms.pure import transform_with_state  # noqa: E402
from tests.nn.module_parity import (  # noqa: E402
    Pair,
    build,
    check_attributes,
    check_forward,
    check_module,
    check_refused,
    check_state,
    check_training,
    converted,
    parameters_of,
)
from tests.nn.parity import assert_close  # noqa: E402

IDS = torch.tensor([[1, 2, 2], [0, 6, 2]])


@pytest.mark.parametrize(
    "options", [{}, {"padding_idx": 2}, {"padding_idx": -1, "_freeze": True}, {"scale_grad_by_freq": True, "padding_idx": 0}]
)
def test_embedding(options):
    if options.get("_freeze"):
        check_attributes(build("Embedding", 7, 3, **options))
    else:
        check_module("Embedding", 7, 3, inputs=(IDS,), **options)


@settings(max_examples=6, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(1, 5),
    st.none() | st.integers(-9, 8),
    st.sampled_from([2.0, 1.0, 3, float("inf")]),
    st.none() | st.floats(0.5, 2),
    st.booleans(),
)
def test_embedding_arguments(rows, columns, padding, norm_type, max_norm, by_frequency):
    if padding is not None and not -rows <= padding < rows:
        check_refused("Embedding", rows, columns, padding)
        return
    pair = build("Embedding", rows, columns, padding, max_norm, norm_type, by_frequency, dtype=torch.float32)
    check_attributes(pair)
    check_forward(pair, torch.arange(rows))


def test_max_norm_changes_the_weight():
    pair = build("Embedding", 7, 3, max_norm=0.7, norm_type=1.5)
    check_training(pair, IDS, steps=2)
    theirs = pair.theirs(IDS)
    assert_close(pair.ours(converted(IDS)), theirs)  # eagerly too
    check_state(pair, rtol=1e-5, atol=1e-5)
    net = transform_with_state(pair.ours)
    with pytest.raises(errors.WriteInTransformError, match="weight"):
        net.apply(*net.init(None), None, converted(IDS))


def test_from_pretrained():
    assert parameters_of(nn.Embedding.from_pretrained) == parameters_of(torch.nn.Embedding.from_pretrained)
    table = torch.randn(7, 3)
    for options in ({}, {"freeze": False, "padding_idx": 1, "max_norm": 3.0, "norm_type": 1.0, "scale_grad_by_freq": True}):
        pair = Pair(
            nn.Embedding.from_pretrained(converted(table), **options), torch.nn.Embedding.from_pretrained(table, **options)
        )
        check_attributes(pair)
        check_forward(pair, IDS)
    mine = nn.Embedding.from_pretrained(table.numpy())
    assert isinstance(mine.weight, nn.Parameter)
    assert not mine.weight.requires_grad
    with pytest.raises(AssertionError, match="2-dimensional"):
        nn.Embedding.from_pretrained(jnp.zeros(3))


def test_refusals():
    check_refused("Embedding", 7, 3, inputs=(torch.tensor([7]),))
    check_refused("Embedding", 7, 3, inputs=(torch.tensor([-1]),))
    check_refused("Embedding", 7, 3, inputs=(torch.tensor([1.0]),))
    check_refused("Embedding", 7, 3, padding_idx=7, match="Padding_idx must be within")
    check_refused("Embedding", 7, 3, _weight=torch.zeros(3, 7), match="Shape of weight")
    with pytest.raises(NotImplementedError, match="sparse gradients"):
        nn.Embedding(7, 3, sparse=True)


def test_an_index_out_of_range_in_compiled_code_is_nan():
    layer = nn.Embedding(7, 3)
    assert np.isnan(np.asarray(jit(layer)(jnp.asarray([7, 1]))[0])).all()


def test_a_subclass_may_define_its_own_initial_values():
    class Small(nn.Embedding):
        def reset_parameters(self):
            nn.init.constant_(self.weight, 0.5)

    layer = copy.deepcopy(Small(2, 3))
    assert (np.asarray(layer.weight) == 0.5).all()
