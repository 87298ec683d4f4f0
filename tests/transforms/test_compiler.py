"""Compiler options of compiled functions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import objnet
from objnet import nn
from objnet.transforms import compiler


def compiled_with(monkeypatch, **arguments):
    """The compiler options that every ``jax.jit`` of a compiled function is given."""
    seen = []
    original = jax.jit

    def spy(function, **options):
        seen.append(options.get("compiler_options"))
        return original(function, **options)

    monkeypatch.setattr(jax, "jit", spy)
    model = nn.Linear(2, 2)
    objnet.jit(lambda x: model(x), **arguments)(jnp.ones((1, 2)))
    return seen


def test_the_defaults_of_the_platform_are_used(monkeypatch):
    assert compiler.default_options() in compiled_with(monkeypatch)


def test_they_can_be_switched_off_and_replaced(monkeypatch):
    assert all(not options for options in compiled_with(monkeypatch, compiler_options={}))
    other = {"xla_cpu_enable_fast_min_max": True}
    assert other in compiled_with(monkeypatch, compiler_options=other)


def test_none_where_they_were_not_tried(monkeypatch):
    monkeypatch.setattr(jax, "__version_info__", (99, 0))
    assert not compiler.default_options()


def test_an_unknown_option_is_refused():
    with pytest.raises(Exception, match="no_such_option"):
        objnet.jit(lambda x: x + 1, compiler_options={"no_such_option": True})(jnp.ones(2))


def test_a_compiled_function_inside_other_programs_and_transforms():
    model = nn.Conv2d(2, 3, 3)
    inner = objnet.jit(model)
    x = jnp.ones((1, 2, 5, 5))
    expected = model(x)
    for outer in (objnet.jit(lambda x: inner(x)), objnet.jit(lambda x: inner(x), compiler_options={})):
        np.testing.assert_allclose(outer(x), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(jax.vmap(inner)(x[None])[0], expected, rtol=1e-5, atol=1e-6)
