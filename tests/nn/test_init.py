"""torch.nn.init, name by name: the same numbers for the same seed, the same refusals, and jax keys inside a trace."""

from __future__ import annotations

import inspect
import math
import warnings

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from objnet.core import errors, frame, rng
from objnet.core.generator import Generator
from objnet.core.variable import Buffer, Parameter
from objnet.nn import init

SHAPES = [(3, 5), (40, 30), (30, 40), (1, 1), (8, 3, 3), (6, 4, 3, 2), (2, 2, 2, 3, 3), (16,), (5,)]
DTYPES = ["float32", "bfloat16", "float16"]


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def parameter(shape, dtype="float32"):
    return Parameter(jnp.full(shape, 7, dtype))


def as_numpy(tensor):
    if str(tensor.dtype) == "torch.bfloat16":
        return tensor.detach().view(pytest.importorskip("torch").int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.detach().numpy()


def compare(torch, name, shape, *args, dtype="float32", seed=3, tolerance=0.0, **kwargs):
    """Fill a Parameter here and a tensor in torch from one seed; compare the values and the position in the stream."""
    ours, theirs = parameter(shape, dtype), torch.full(shape, 7, dtype=getattr(torch, dtype))
    rng.manual_seed(seed)
    torch.manual_seed(seed)
    assert getattr(init, name)(ours, *args, **kwargs) is ours
    getattr(torch.nn.init, name)(theirs, *args, **kwargs)
    expected = as_numpy(theirs)
    assert ours.dtype == expected.dtype
    assert ours.shape == expected.shape
    np.testing.assert_allclose(
        np.asarray(ours.value).astype(float), expected.astype(float), rtol=max(tolerance, 1e-6), atol=tolerance
    )
    np.testing.assert_array_equal(rng.default_generator.get_state(), torch.get_rng_state().numpy())


# ------------------------------------------------------------------------------------------------------------- surface


def test_every_public_name_is_there_and_no_other(torch):
    assert sorted(init.__all__) == sorted(torch.nn.init.__all__)
    assert all(callable(getattr(init, name)) for name in init.__all__)


@pytest.mark.parametrize("name", [n for n in init.__all__ if n.endswith("_")] + ["calculate_gain"])
def test_signatures(torch, name):
    def shape(function):
        return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]

    assert shape(getattr(init, name)) == shape(getattr(torch.nn.init, name))


@pytest.mark.parametrize("name", [n for n in init.__all__ if not n.endswith("_") and n != "calculate_gain"])
def test_old_names_warn_and_do_the_same(torch, name):
    shape, args = ((4, 3, 2), ()) if name == "dirac" else ((4, 3), {"constant": (2.5,), "sparse": (0.5,)}.get(name, ()))
    ours, new = parameter(shape), parameter(shape)
    rng.manual_seed(0)
    with pytest.warns(FutureWarning, match=f"nn.init.{name}_"):
        assert getattr(init, name)(ours, *args) is ours
    rng.manual_seed(0)
    getattr(init, name + "_")(new, *args)
    np.testing.assert_array_equal(ours.value, new.value)
    assert getattr(init, name).__name__ == name == getattr(torch.nn.init, name).__name__


# ------------------------------------------------------------------------------------------------------ torch's numbers


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_elementary_distributions(torch, shape, dtype):
    compare(torch, "uniform_", shape, -0.2, 0.3, dtype=dtype)
    compare(torch, "normal_", shape, 1.0, 0.5, dtype=dtype)
    compare(torch, "trunc_normal_", shape, std=0.02, a=-0.03, b=0.01, dtype=dtype)
    compare(torch, "trunc_normal_", shape, a=1.0, b=1.5, dtype=dtype)


@pytest.mark.parametrize("shape", [s for s in SHAPES if len(s) > 1])
def test_scaled_distributions(torch, shape):
    for name in ("xavier_uniform_", "xavier_normal_"):
        compare(torch, name, shape)
        compare(torch, name, shape, gain=1.7)
    for name in ("kaiming_uniform_", "kaiming_normal_"):
        compare(torch, name, shape)
        compare(torch, name, shape, a=math.sqrt(5))
        compare(torch, name, shape, mode="FAN_OUT", nonlinearity="relu")


@pytest.mark.parametrize("shape", [s for s in SHAPES if len(s) > 1])
@pytest.mark.parametrize("gain", [1, 0.3])
def test_orthogonal(torch, shape, gain):
    compare(torch, "orthogonal_", shape, gain, tolerance=1e-5)
    weight = parameter(shape)
    matrix = np.asarray(init.orthogonal_(weight, gain).value).reshape(shape[0], -1)
    small = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    np.testing.assert_allclose(small, gain**2 * np.eye(len(small)), atol=1e-6)


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 1.0, 1.5, -0.5])
@pytest.mark.parametrize("shape", [(5, 3), (20, 30), (1, 4), (4, 0), (0, 4)])
def test_sparse(torch, shape, sparsity):
    compare(torch, "sparse_", shape, sparsity, std=0.2)


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 2**40),
    names=st.lists(
        st.sampled_from(["uniform_", "normal_", "trunc_normal_", "xavier_normal_", "kaiming_uniform_", "orthogonal_"]),
        min_size=2,
        max_size=5,
    ),
    shape=st.tuples(st.integers(1, 6), st.integers(1, 6)),
)
def test_models_of_several_parameters(torch, seed, names, shape):
    rng.manual_seed(seed)
    torch.manual_seed(seed)
    for name in names:
        theirs = getattr(torch.nn.init, name)(torch.empty(shape)).numpy()
        np.testing.assert_allclose(getattr(init, name)(parameter(shape)).value, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("uniform_", ()),
        ("normal_", ()),
        ("trunc_normal_", ()),
        ("xavier_uniform_", ()),
        ("xavier_normal_", ()),
        ("kaiming_uniform_", ()),
        ("kaiming_normal_", ()),
        ("orthogonal_", ()),
        ("sparse_", (0.5,)),
    ],
)
def test_generator(torch, name, args):
    ours, theirs = Generator().manual_seed(5), torch.Generator().manual_seed(5)
    rng.manual_seed(1)
    torch.manual_seed(1)
    value = getattr(init, name)(parameter((6, 9)), *args, generator=ours).value
    expected = getattr(torch.nn.init, name)(torch.empty(6, 9), *args, generator=theirs).numpy()
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(ours.get_state(), theirs.get_state().numpy())
    np.testing.assert_array_equal(rng.default_generator.get_state(), torch.get_rng_state().numpy())


def test_views_and_buffers(torch):
    weight, expected = parameter((6, 20)), torch.full((6, 20), 7.0)
    rng.manual_seed(0)
    torch.manual_seed(0)
    view = weight[2:4]
    assert init.normal_(view) is view
    torch.nn.init.normal_(expected[2:4])
    init.ones_(weight.data[0])
    torch.nn.init.ones_(expected.data[0])
    np.testing.assert_array_equal(weight.value, expected.numpy())
    assert isinstance(weight.value, jax.Array)
    buffer = Buffer(jnp.zeros((2, 3), jnp.int32))
    init.eye_(buffer)
    np.testing.assert_array_equal(buffer.value, np.eye(2, 3, dtype=np.int32))
    assert buffer.dtype == jnp.int32


def test_complex(torch):
    for name in ("uniform_", "normal_"):
        compare_complex = getattr(init, name)(Parameter(jnp.zeros((4, 8), jnp.complex64)), generator=Generator())
        expected = getattr(torch.nn.init, name)(torch.empty(4, 8, dtype=torch.complex64), generator=torch.Generator())
        np.testing.assert_allclose(compare_complex.value, expected.numpy(), rtol=1e-6)


# -------------------------------------------------------------------------------------------------------- deterministic


@pytest.mark.parametrize("dtype", [*DTYPES, "int32", "bool"])
def test_constants(torch, dtype):
    kind, its = jnp.dtype(dtype), getattr(torch, dtype)
    for name, shape, args in [
        ("ones_", (2, 3), ()),
        ("zeros_", (2, 3), ()),
        ("zeros_", (), ()),
        ("ones_", (0, 2), ()),
        ("constant_", (2, 3), (2.75,)),
        ("constant_", (3,), (True,)),
        ("eye_", (2, 3), ()),
        ("eye_", (3, 2), ()),
        ("dirac_", (4, 2, 3), (2,)),
    ]:
        buffer = Buffer(jnp.full(shape, 7, kind))
        assert getattr(init, name)(buffer, *args) is buffer
        expected = as_numpy(getattr(torch.nn.init, name)(torch.full(shape, 7, dtype=its), *args))
        assert buffer.dtype == expected.dtype
        np.testing.assert_array_equal(np.asarray(buffer.value), expected)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (2.7, "int32"), (-2.7, "int32"), (300, "int8"), (-1, "uint8"), (-255, "uint8"), (-256, "uint8"), (256, "uint8"),
        (math.nan, "int32"), (math.inf, "int32"), (1e6, "float16"), (-1e6, "float16"), (math.inf, "float16"),
        (math.nan, "float32"), (1e300, "float32"), (3.4e38, "bfloat16"), (1j, "float32"), (1 + 0j, "float32"),
        (1 + 2j, "complex64"), (1e300j, "complex64"), (2, "complex64"), (3.2, "bool"), (np.float64(1.5), "float32"),
        ("1", "float32"), (None, "float32"), ([1, 2], "float32"), (np.ones(2), "float32"),
    ],
)  # fmt: skip
def test_constant_fits_or_is_refused_as_in_torch(torch, value, dtype):
    buffer = Buffer(jnp.zeros(2, dtype))
    try:
        expected = as_numpy(torch.nn.init.constant_(torch.zeros(2, dtype=getattr(torch, dtype)), value))
    except (RuntimeError, TypeError) as error:
        with pytest.raises(type(error)):
            init.constant_(buffer, value)
        np.testing.assert_array_equal(np.asarray(buffer.value), np.zeros(2))
    else:
        np.testing.assert_array_equal(np.asarray(init.constant_(buffer, value).value), expected)


def test_constant_from_an_array_without_axes():
    np.testing.assert_array_equal(init.constant_(parameter((2,)), jnp.asarray(2.5)).value, [2.5, 2.5])
    with pytest.raises(RuntimeError, match="1 dimensions"):
        init.constant_(parameter((2,)), jnp.ones(1))


@pytest.mark.parametrize("shape", [(4, 6, 3), (6, 4, 3, 2), (6, 2, 1, 4, 5), (2, 0, 3), (0, 2, 3)])
@pytest.mark.parametrize("groups", [1, 2, -1])
def test_dirac(torch, shape, groups):
    expected = torch.nn.init.dirac_(torch.empty(shape), groups).numpy()
    np.testing.assert_array_equal(init.dirac_(parameter(shape), groups).value, expected)


# ------------------------------------------------------------------------------------------------------- gains and fans


@pytest.mark.parametrize("param", [None, 0.2, 1, -3.0, True, "x", [1]])
@pytest.mark.parametrize(
    "name",
    [
        "linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "sigmoid",
        "tanh", "relu", "leaky_relu", "selu", "gelu", "", "ReLU",
    ],
)  # fmt: skip
def test_calculate_gain(torch, name, param):
    try:
        expected = torch.nn.init.calculate_gain(name, param)
    except ValueError:
        with pytest.raises(ValueError, match=r"negative_slope|unsupported"):
            init.calculate_gain(name, param)
    else:
        assert init.calculate_gain(name, param) == expected


@pytest.mark.parametrize("shape", [s for s in SHAPES if len(s) > 1] + [(0, 3), (2, 0, 4)])
def test_fans(torch, shape):
    theirs = torch.empty(shape)
    assert init._calculate_fan_in_and_fan_out(parameter(shape)) == torch.nn.init._calculate_fan_in_and_fan_out(theirs)
    assert init._calculate_fan_in_and_fan_out(jnp.zeros(shape)) == torch.nn.init._calculate_fan_in_and_fan_out(theirs)
    for mode in ("fan_in", "Fan_Out"):
        expected = torch.nn.init._calculate_correct_fan(theirs, mode)
        assert init._calculate_correct_fan(parameter(shape), mode) == expected


# ------------------------------------------------------------------------------------------------ refusals and warnings


@pytest.mark.parametrize(
    ("name", "shape", "kwargs"),
    [
        ("eye_", (3,), {}), ("eye_", (1, 2, 3), {}), ("sparse_", (3,), {"sparsity": 0.5}), ("dirac_", (3, 3), {}),
        ("dirac_", (1,) * 6, {}), ("dirac_", (4, 2, 3), {"groups": 3}), ("dirac_", (4, 2, 3), {"groups": 0}),
        ("dirac_", (2, 2, 0), {}), ("xavier_uniform_", (3,), {}), ("xavier_normal_", (), {}),
        ("xavier_uniform_", (0, 0), {}), ("xavier_uniform_", (2, 3), {"gain": -1}),
        ("xavier_normal_", (2, 3), {"gain": -1}),
        ("kaiming_uniform_", (3,), {}), ("kaiming_normal_", (3,), {}), ("kaiming_uniform_", (2, 3), {"mode": "fan"}),
        ("kaiming_uniform_", (2, 3), {"mode": 3}), ("kaiming_normal_", (2, 3), {"nonlinearity": "gelu"}),
        ("kaiming_normal_", (2, 3), {"a": True}), ("kaiming_normal_", (2, 3), {"a": "x"}), ("orthogonal_", (3,), {}),
        ("uniform_", (3,), {"a": 1.0, "b": 0.0}), ("uniform_", (3,), {"a": "x"}), ("uniform_", (3,), {"b": math.inf}),
        ("normal_", (3,), {"std": -1.0}), ("normal_", (3,), {"mean": "x"}), ("normal_", (3,), {"mean": [1.0, 2.0]}),
        ("trunc_normal_", (3,), {"std": 0.0}), ("trunc_normal_", (3,), {"a": 2.0, "b": -2.0}),
        ("uniform_", (3,), {"generator": 3}), ("normal_", (3,), {"generator": "x"}),
    ],
)  # fmt: skip
def test_refused_with_torchs_error_and_nothing_changed(torch, name, shape, kwargs):
    with pytest.raises(Exception) as theirs:  # noqa: PT011  which error is the question
        getattr(torch.nn.init, name)(torch.empty(shape), **kwargs)
    ours = parameter(shape)
    before = rng.default_generator.get_state()
    with pytest.raises(theirs.type):
        getattr(init, name)(ours, **kwargs)
    np.testing.assert_array_equal(ours.value, np.full(shape, 7))
    np.testing.assert_array_equal(rng.default_generator.get_state(), before)


@pytest.mark.parametrize("name", ["uniform_", "normal_", "trunc_normal_", "kaiming_uniform_", "orthogonal_"])
def test_integers_are_refused(torch, name):
    with pytest.raises(NotImplementedError):
        getattr(torch.nn.init, name)(torch.zeros(3, 3, dtype=torch.int32))
    with pytest.raises(NotImplementedError, match="int32"):
        getattr(init, name)(Buffer(jnp.zeros((3, 3), jnp.int32)))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "complex64"])
def test_orthogonal_needs_a_dtype_with_a_factorisation(torch, dtype):
    with pytest.raises(NotImplementedError):
        torch.nn.init.orthogonal_(torch.zeros(3, 3, dtype=getattr(torch, dtype)))
    with pytest.raises(NotImplementedError, match="float32"):
        init.orthogonal_(parameter((3, 3), dtype))


@pytest.mark.parametrize("target", [jnp.zeros((3, 3)), np.zeros((3, 3)), [1.0], None])
@pytest.mark.parametrize("name", [n for n in init.__all__ if n.endswith("_")])
def test_only_parameters_buffers_and_views_can_be_filled(name, target):
    args = {"constant_": (1.0,), "sparse_": (0.5,)}.get(name, ())
    with pytest.raises(TypeError, match="Parameter"):
        getattr(init, name)(target, *args)


def test_torch_tensors_are_refused(torch):
    with pytest.raises(TypeError, match="Tensor"):
        init.uniform_(torch.zeros(3))


@pytest.mark.parametrize("name", ["kaiming_uniform_", "kaiming_normal_"])
def test_tensors_without_elements_warn(name):
    ours = parameter((0, 3))
    with pytest.warns(UserWarning, match="without elements") as caught:
        assert getattr(init, name)(ours) is ours
    assert caught[0].filename == __file__


@pytest.mark.parametrize("name", ["uniform_", "normal_", "trunc_normal_", "xavier_uniform_", "orthogonal_", "zeros_"])
def test_tensors_without_elements_elsewhere_are_left_alone(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert getattr(init, name)(parameter((0, 3))).shape == (0, 3)


def test_trunc_normal_warns_far_from_the_mean():
    with pytest.warns(UserWarning, match="more than 2 std") as caught:
        value = init.trunc_normal_(parameter((50,)), mean=3.0, a=-1.0, b=0.5).value
    assert caught[0].filename == __file__
    assert -1 <= value.min() <= value.max() <= 0.5


# ------------------------------------------------------------------------------------------------------- inside a trace


def traced(fill, shape, dtype="float32", seed=0):
    """What ``fill`` leaves in a parameter when it runs inside a compiled program with a key stream of its own."""
    weight = parameter(shape, dtype)

    @jax.jit
    def program(key, value):
        inner = frame.Frame(closed=True)
        with inner.open():
            inner.values.update({rng.key_stream: key, weight: value})
            fill(weight)
            return inner.values[weight]

    before = rng.default_generator.get_state()
    value = program(jax.random.PRNGKey(seed), weight.value)
    np.testing.assert_array_equal(rng.default_generator.get_state(), before)
    assert value.dtype == jnp.dtype(dtype)
    assert value.shape == shape
    return np.asarray(value)


def quantiles_agree(value, expected):
    """Both samples are of one distribution, as far as 40,000 draws can tell."""
    at = np.linspace(0.02, 0.98, 25)
    spread = expected.std()
    np.testing.assert_allclose(np.quantile(value, at) / spread, np.quantile(expected, at) / spread, atol=0.06)


@pytest.mark.parametrize(
    ("fill", "dtype"),
    [
        (lambda p: init.uniform_(p, -0.5, 0.25), "float32"),
        (lambda p: init.uniform_(p, -0.5, 0.25), "bfloat16"),
        (lambda p: init.normal_(p, 0.5, 2.0), "float32"),
        (lambda p: init.normal_(p, 0.5, 2.0), "float16"),
        (lambda p: init.trunc_normal_(p, 0.1, 1.0, -1.0, 2.0), "float32"),
        (lambda p: init.trunc_normal_(p, 0.1, 1.0, -1.0, 2.0), "bfloat16"),
        (lambda p: init.trunc_normal_(p, 0.0, 1.0, 1.9, 9.0), "float32"),
        (lambda p: init.trunc_normal_(p, 0.0, 1.0, 1.0, 1.5), "float16"),
        (lambda p: init.xavier_uniform_(p, 2.0), "float32"),
        (lambda p: init.kaiming_normal_(p, nonlinearity="relu"), "float32"),
    ],
)
def test_keys_give_the_same_distribution(fill, dtype):
    shape = (200, 200)
    value = traced(fill, shape, dtype).astype(np.float64)
    quantiles_agree(value, np.asarray(fill(parameter(shape, dtype)).value).astype(np.float64))


def test_keys_differ_from_draw_to_draw_and_from_seed_to_seed():
    def twice(p):
        first = init.normal_(p)._read()
        init.normal_(p)
        p._set(p._read() - first)

    assert (traced(twice, (20,)) != 0).all()
    assert (traced(init.normal_, (20,), seed=0) != traced(init.normal_, (20,), seed=1)).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_keys_respect_bounds(dtype):
    value = traced(lambda p: init.trunc_normal_(p, 0.0, 1.0, 2.0, 2.25), (2000,), dtype).astype(float)
    assert 2.0 <= value.min() <= value.max() <= 2.25
    value = traced(lambda p: init.uniform_(p, 1.0, 1.0 + 2.0**-7), (2000,), dtype).astype(float)
    assert 1.0 <= value.min() <= value.max() < 1.0 + 2.0**-7


def test_keys_complex():
    value = traced(lambda p: init.normal_(p, 0.5, 2.0), (20_000,), "complex64")
    np.testing.assert_allclose([value.real.mean(), value.imag.mean()], 0.5, atol=0.05)
    np.testing.assert_allclose([value.real.std(), value.imag.std()], 2**0.5, rtol=0.03)


@pytest.mark.parametrize("shape", [(3, 8), (8, 3), (4, 3, 3)])
def test_keys_orthogonal(shape):
    matrix = traced(lambda p: init.orthogonal_(p, 2.0), shape).reshape(shape[0], -1)
    small = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    np.testing.assert_allclose(small, 4 * np.eye(len(small)), atol=1e-5)


def test_keys_sparse():
    value = traced(lambda p: init.sparse_(p, 0.3, std=2.0), (10, 400))
    assert ((value == 0).sum(0) == 3).all()
    assert len({tuple(column) for column in (value == 0).T}) > 50
    np.testing.assert_allclose(value[value != 0].std(), 2.0, rtol=0.1)


def test_deterministic_ones_inside_a_trace():
    np.testing.assert_array_equal(traced(init.eye_, (2, 3)), np.eye(2, 3))
    np.testing.assert_array_equal(traced(lambda p: init.constant_(p, 2.5), (2,)), [2.5, 2.5])
    np.testing.assert_array_equal(traced(init.dirac_, (2, 2, 1))[..., 0], np.eye(2))


def test_a_generator_inside_a_compiled_program_is_refused():
    generator = Generator()
    with pytest.raises(errors.RngInTransformError, match="generator"):
        traced(lambda p: init.uniform_(p, generator=generator), (3,))
    np.testing.assert_array_equal(generator.get_state(), Generator().get_state())
