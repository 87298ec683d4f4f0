"""nn.initializers: what nn.init fills in as pure functions of a key, and Haiku's numbers for the same key."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from objnet import nn
from objnet.core import rng
from objnet.core.generator import Generator
from objnet.core.rng import PRNGSequence
from objnet.transforms.jit import jit

I = nn.initializers
KEY = jax.random.key(0)
QUICK = jax.random.key(0, impl="rbg")  # compiles sooner
# For every name of torch's a shape, and arguments other than the defaults.
CALLS = {
    "uniform": ((3, 5), (-0.5, 0.25)),
    "normal": ((3, 5), (1.0, 0.5)),
    "trunc_normal": ((3, 5), (0.1, 1.0, -1.0, 2.0)),
    "constant": ((3, 5), (2.5,)),
    "ones": ((3, 5), ()),
    "zeros": ((3, 5), ()),
    "eye": ((3, 5), ()),
    "dirac": ((4, 2, 3), (2,)),
    "xavier_uniform": ((3, 5, 2), (1.7,)),
    "xavier_normal": ((3, 5, 2), (1.7,)),
    "kaiming_uniform": ((3, 5, 2), (0.3, "fan_out")),
    "kaiming_normal": ((3, 5, 2), (0, "fan_in", "relu")),
    "orthogonal": ((3, 5), (0.3,)),
    "sparse": ((5, 3), (0.5, 0.2)),
}


@pytest.mark.parametrize("name", CALLS)
def test_same_values_as_in_place(name):
    """From the stream in force and from a Generator."""
    shape, args = CALLS[name]
    initializer, in_place = getattr(I, name)(*args), getattr(nn.init, name + "_")

    def filled(**kwargs):
        return in_place(nn.Parameter(jnp.full(shape, 7.0)), *args, **kwargs).value

    for given in (lambda: None, lambda: Generator().manual_seed(3)):
        kwargs = {} if given() is None or "generator" not in in_place.__code__.co_varnames else {"generator": given()}
        rng.manual_seed(1)
        wanted = filled(**kwargs)
        rng.manual_seed(1)
        np.testing.assert_array_equal(initializer(given(), shape), wanted)


@pytest.mark.slow
def test_pure_functions_of_a_key():
    """The same numbers whatever surrounds the call, others for another key, and the host's stream where it was."""

    def all_of(key, dtype="float32"):
        return {n: getattr(I, n)(*args)(key, list(shape), dtype) for n, (shape, args) in CALLS.items()}

    before = rng.default_generator.get_state()
    both = jax.jit(jax.vmap(all_of))(jnp.stack([KEY, jax.random.key(1)]))
    fixed = {"constant", "ones", "zeros", "eye", "dirac"}
    for name, (first, second) in both.items():
        assert first.shape == CALLS[name][0]
        assert bool((first == second).all()) is (name in fixed)
    for name in ("uniform", "orthogonal", "trunc_normal", "dirac"):
        shape, args = CALLS[name]
        eager = getattr(I, name)(*args)(KEY, shape)
        assert eager.dtype == jnp.float32
        np.testing.assert_allclose(eager, both[name][0], rtol=1e-5, atol=1e-6)
        if name == "orthogonal":
            continue
        half = nn.Parameter(getattr(I, name)(*args)(KEY, shape, "float16"))
        assert half.dtype == jnp.float16
        np.testing.assert_allclose(half.value, eager, rtol=2e-3, atol=1e-4)
    np.testing.assert_array_equal(rng.default_generator.get_state(), before)


def test_a_layer_of_ones_own():
    class Scale(nn.Module):
        def __init__(self, key):
            super().__init__()
            self.weight = nn.Parameter(I.xavier_normal()(key, (4, 3)))

    np.testing.assert_array_equal(Scale(KEY).weight.value, Scale(KEY).weight.value)
    np.testing.assert_allclose(jit(lambda key: Scale(key).weight.value)(KEY), Scale(KEY).weight.value, rtol=1e-5, atol=1e-6)


def test_every_name():
    own = {n for n in I.__all__ if n.islower()} - {"calculate_gain"}
    assert own == set(CALLS) == {n.removesuffix("_") for n in nn.init.__all__} - {"calculate_gain"}
    assert all(getattr(I, name).__doc__ for name in I.__all__)


@pytest.mark.parametrize("key", [3, "x", None.__class__])
def test_a_key_or_a_generator(key):
    with pytest.raises(TypeError, match="a jax key or None"):
        I.uniform()(key, (3,))


def test_refused():
    for name in ("eye", "sparse", "orthogonal", "xavier_normal", "kaiming_uniform", "Identity", "Orthogonal"):
        args = (0.5,) if name == "sparse" else ()
        with pytest.raises(ValueError, match=r"2 (or more )?dimensions"):
            getattr(I, name)(*args)(KEY, (3,))
    with pytest.raises(ValueError, match="scale"):
        I.VarianceScaling(-1.0)
    with pytest.raises(ValueError, match="mode"):
        I.VarianceScaling(mode="fan")
    with pytest.raises(ValueError, match="distribution"):
        I.VarianceScaling(distribution="cauchy")
    with pytest.raises(IndexError):
        I.VarianceScaling(fan_in_axes=[2])(KEY, (3, 4))
    with pytest.raises(RuntimeError, match="64-bit"):
        I.normal()(KEY, (3,), "float64")
    assert I.kaiming_normal()(KEY, (3, 0)).shape == (3, 0)


@pytest.mark.parametrize("bounds", [(-2.0, 2.0), (0.5, math.inf), (2.0, 2.5), (-1e9, 1.0)])
def test_truncation_by_either_method(bounds):
    a, b = bounds
    value = np.asarray(I.trunc_normal(0.5, 1.5, a, b)(KEY, (20_000,)), float)
    assert a <= value.min() <= value.max() <= b
    assert np.isfinite(I.trunc_normal(0.5, 1.5, a, b)(KEY, (3,), "float16")).all()
    lower, upper = ((bound - 0.5) / 1.5 for bound in (a, b))
    density, mass = (lambda z: math.exp(-z * z / 2) / math.sqrt(2 * math.pi)), (lambda z: math.erf(z / math.sqrt(2)) / 2)
    mean = 0.5 + 1.5 * (density(lower) - density(upper)) / (mass(upper) - mass(lower))
    np.testing.assert_allclose(value.mean(), mean, atol=0.04)


# ------------------------------------------------------------------------------------------------------ Haiku's numbers

HAIKU = [
    ("Constant", (2.5,), {}, (3, 4)),
    ("Constant", (np.arange(4),), {}, (3, 4)),
    ("RandomNormal", (0.5, 1.0), {}, (3, 4)),
    ("RandomNormal", (np.asarray([1.0, 2.0], np.float32),), {"mean": np.float32(3)}, (3, 2)),
    ("RandomUniform", (-1.0, 3.0), {}, (3, 4)),
    ("TruncatedNormal", (0.5, 1.0), {}, (3, 4)),
    ("TruncatedNormal", (), {"lower": -1.0, "upper": 3.0, "mean": np.arange(4.0, dtype=np.float32)}, (3, 4)),
    ("VarianceScaling", (2.0, "fan_in", "truncated_normal"), {"fan_in_axes": (0, 1)}, (3, 4, 5)),
    ("VarianceScaling", (0.5, "fan_out", "normal"), {"fan_in_axes": (0,)}, (3, 4, 5)),
    ("VarianceScaling", (2.0, "fan_avg", "uniform"), {"fan_in_axes": (0, 1)}, (3, 4, 5)),
    ("VarianceScaling", (), {}, (7,)),
    ("VarianceScaling", (), {}, ()),
    ("Orthogonal", (2.0, -1), {}, (3, 5)),
    ("Orthogonal", (2.0, -1), {}, (2, 5, 3)),
    ("Identity", (2.0,), {}, (2, 3, 4)),
    ("Identity", (), {}, (4, 3)),
]


def test_haikus_numbers():
    hk = pytest.importorskip("haiku")

    def theirs(key):
        values = []
        for name, args, kwargs, shape in HAIKU:
            with hk.with_rng(key):
                values.append(getattr(hk.initializers, name)(*args, **kwargs)(shape, jnp.float32))
        return values

    def ours(key):
        return [getattr(I, name)(*args, **kwargs)(key, shape) for name, args, kwargs, shape in HAIKU]

    expected = jax.jit(hk.transform(theirs).apply)({}, QUICK, QUICK)
    for case, value, wanted in zip(HAIKU, jax.jit(ours)(next(PRNGSequence(QUICK))), expected, strict=True):
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-6, err_msg=str(case))


def test_haikus_complex_numbers():
    hk = pytest.importorskip("haiku")
    theirs = hk.transform(lambda: hk.initializers.TruncatedNormal(0.5, 1 + 2j)((3, 4), jnp.complex64))
    with jax.numpy_dtype_promotion("standard"):
        expected = jax.jit(theirs.apply)({}, QUICK)
    ours = jax.jit(lambda key: I.TruncatedNormal(0.5, 1 + 2j)(key, (3, 4), "complex64"))(next(PRNGSequence(QUICK)))
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_scaling_in_torchs_layout():
    """(out, in, spatial sizes...): the fans of kaiming and xavier."""
    shape = (6, 4, 3)
    pairs = (
        (I.VarianceScaling(2.0, "fan_in", "normal"), I.kaiming_normal(nonlinearity="relu")),
        (I.VarianceScaling(1.0, "fan_avg", "uniform"), I.xavier_uniform()),
        (I.VarianceScaling(2.0, "fan_out", "uniform"), I.kaiming_uniform(mode="fan_out", nonlinearity="relu")),
        (I.UniformScaling(math.sqrt(2.0)), I.kaiming_uniform(nonlinearity="relu")),
        (I.Orthogonal(0.5), I.orthogonal(0.5)),
        (I.VarianceScaling(1.0, "fan_in", "normal"), I.VarianceScaling(1.0, "fan_in", "normal", fan_in_axes=(1, -1))),
    )
    for ours, torchs in jax.jit(lambda key: [(a(key, shape), b(key, shape)) for a, b in pairs])(QUICK):
        np.testing.assert_allclose(ours, torchs, rtol=1e-6)
