"""``F.scaled_dot_product_attention`` against torch: masks, groups of heads, both ways it is computed, derivatives, errors."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

import objnet  # noqa: E402
from objnet.nn.functional import _attention  # noqa: E402
from objnet.nn.functional.attention import scaled_dot_product_attention as attend  # noqa: E402
from tests.nn.functional.outcome import normal  # noqa: E402
from tests.nn.parity import assert_close, assert_derivatives, assert_parity, assert_same_error, to_torch  # noqa: E402

theirs = torch.nn.functional.scaled_dot_product_attention
# leading dimensions of query, key and value
LEADS = [((), (), ()), ((2,), (2,), (2,)), ((1, 2), (3, 2), (3, 1)), ((2, 1, 2),) * 3, ((2,), (3, 2), (3, 2)), ((0, 2),) * 3]
MASKS = ["none", "causal", "bool", "float", "float row", "bool per head", "float32"]


def mask_of(kind, lead, length, source, dtype):
    random = np.random.RandomState(3)
    if kind == "float row":
        return jnp.asarray(np.where(random.rand(1, source) < 0.3, -np.inf, random.randn(1, source))).astype(dtype)
    allowed = random.rand(*(lead[-1:] if "per head" in kind else ()), length, source) < 0.6
    if length:
        allowed[..., 0, :] = False  # sees nothing
    if kind.startswith("bool"):
        return jnp.asarray(allowed)
    values = np.where(allowed, random.randn(*allowed.shape), -np.inf)
    return jnp.asarray(values).astype("float32" if kind == "float32" else dtype)


@pytest.fixture(params=["at once", "by head"])
def way(request, monkeypatch):
    if request.param == "by head":
        monkeypatch.setattr(_attention, "_LONG", 1)
        monkeypatch.setattr(_attention, "_BLOCK", 10)
        monkeypatch.setattr(_attention, "_SHORT", 1)
    return request.param


@settings(max_examples=6, deadline=None)
@given(
    leads=st.sampled_from(LEADS),
    sizes=st.sampled_from([(4, 5, 3, 3), (1, 4, 2, 5), (6, 6, 4, 4), (3, 0, 2, 2), (0, 3, 2, 2), (2, 3, 0, 1)]),
    mask=st.sampled_from(MASKS),
    scale=st.sampled_from([None, 0.7, -1.0, 0.0]),
    dtype=st.sampled_from(["float32", "float32", "bfloat16", "float16"]),
    long=st.booleans(),
)
def test_values_and_gradients(leads, sizes, mask, scale, dtype, long):
    length, source, size, columns = sizes
    shapes = [(*leads[0], length, size), (*leads[1], source, size), (*leads[2], source, columns)]
    arrays = [normal(*shape, seed=i, dtype=dtype) for i, shape in enumerate(shapes)]
    if mask in ("none", "causal"):
        options = {"is_causal": mask == "causal", "scale": scale}
    else:
        options = {"scale": scale}
        arrays.append(mask_of(mask, leads[0] if len(leads[0]) else (1,), length, source, dtype))
        if mask == "bool per head" and not leads[0]:
            arrays[-1] = arrays[-1][0]
    with pytest.MonkeyPatch.context() as patch:
        if long:
            patch.setattr(_attention, "_LONG", 1)
            patch.setattr(_attention, "_BLOCK", 10)
            patch.setattr(_attention, "_SHORT", 1)
        assert_parity(lambda *a: attend(*a, **options), lambda *a: theirs(*a, **options), *arrays)


@settings(max_examples=4, deadline=None)
@given(
    heads=st.sampled_from([(4, 2, 2), (4, 1, 1), (6, 2, 3), (4, 4, 4), (2, 2, 1)]),
    lead=st.sampled_from([(), (2,), (2, 1)]),
    mask=st.sampled_from(["none", "causal", "bool", "bool per head"]),
    long=st.booleans(),
)
def test_fewer_heads_of_keys_and_values(heads, lead, mask, long):
    arrays = [normal(*lead, n, 4, 3, seed=i) for i, n in enumerate(heads)]
    if mask.startswith("bool"):
        arrays.append(mask_of(mask, (heads[0],), 4, 4, "float32"))
    options = {"is_causal": mask == "causal", "enable_gqa": True}
    with pytest.MonkeyPatch.context() as patch:
        if long:
            patch.setattr(_attention, "_LONG", 1)
        assert_parity(lambda *a: attend(*a, **options), lambda *a: theirs(*a, **options), *arrays)


@pytest.mark.parametrize("way", ["by head"], indirect=True)  # which has the other way inside
def test_derivatives(way):
    mask = jnp.asarray([[0.0, 1.0, -math.inf], [-math.inf] * 3])
    with jax.enable_x64(True):
        arrays = [normal(2, n, 2, seed=i, dtype="float64") for i, n in enumerate((2, 3, 3))]
        assert_derivatives(lambda q, k, v: attend(q, k, v, mask), *arrays)
        assert_parity(attend, theirs, *arrays)


def test_vmap_is_a_batch(way):
    q, k, v = (normal(3, 2, 4, 3, seed=i) for i in range(3))
    np.testing.assert_allclose(
        jax.vmap(lambda *a: attend(*a, is_causal=True))(q, k, v), attend(q, k, v, is_causal=True), rtol=1e-6
    )


def test_nan_and_infinity_are_torchs(way):
    q, k, v = (normal(2, 3, 4, seed=i) for i in range(3))
    mask = jnp.asarray([[True, False, True], [True] * 3, [False] * 3])
    assert_close(attend(q, k.at[0, 1, 0].set(jnp.nan), v, mask), theirs(*map(to_torch, (q, k.at[0, 1, 0].set(jnp.nan), v, mask))))
    infinite = jnp.zeros((3, 3)).at[0, 1].set(jnp.inf)
    assert_close(attend(q, k, v, infinite), theirs(*map(to_torch, (q, k, v, infinite))))


def test_dropout(way):
    objnet.manual_seed(0)
    q, k = normal(2, 40, 4), normal(2, 50, 4, seed=1)
    weights = attend(q, k, jnp.broadcast_to(jnp.eye(50), (2, 50, 50)))
    dropped = attend(q, k, jnp.broadcast_to(jnp.eye(50), (2, 50, 50)), dropout_p=0.25)
    kept = np.asarray(dropped != 0)
    assert abs(kept.mean() - 0.75) < 0.03
    np.testing.assert_allclose(np.asarray(dropped)[kept], (weights / 0.75)[kept], rtol=1e-5)
    assert len({row.tobytes() for row in kept.reshape(-1, 50)}) > 70  # no mask twice, whatever the loop
    assert (attend(q, k, k, dropout_p=1.0) == 0).all()


def test_signature():
    import inspect

    kinds = [(p.name, p.default, p.kind.name) for p in inspect.signature(attend).parameters.values()]
    assert kinds[:6] == [
        ("query", inspect.Parameter.empty, "POSITIONAL_OR_KEYWORD"),
        ("key", inspect.Parameter.empty, "POSITIONAL_OR_KEYWORD"),
        ("value", inspect.Parameter.empty, "POSITIONAL_OR_KEYWORD"),
        ("attn_mask", None, "POSITIONAL_OR_KEYWORD"),
        ("dropout_p", 0.0, "POSITIONAL_OR_KEYWORD"),
        ("is_causal", False, "POSITIONAL_OR_KEYWORD"),
    ]
    assert kinds[6:] == [("scale", None, "KEYWORD_ONLY"), ("enable_gqa", False, "KEYWORD_ONLY")]


def arrays_of(*shapes, dtype="float32"):
    return [jnp.ones(shape, dtype) for shape in shapes]


Q, K = (2, 3, 4), (2, 5, 4)


@pytest.mark.parametrize(
    ("arrays", "options"),
    [
        (arrays_of((4,), (5, 4), (5, 4)), {}),
        (arrays_of((2, 2, 3, 4), (3, 2, 5, 4), (3, 2, 5, 4)), {}),
        (arrays_of(Q, (2, 5, 6), (2, 5, 6)), {}),
        (arrays_of(Q, K, (2, 6, 4)), {}),
        ([*arrays_of(Q, K), jnp.ones(K, jnp.bfloat16)], {}),
        (arrays_of(Q, K, K, dtype="int32"), {}),
        (arrays_of(Q, K, K, dtype="complex64"), {}),
        ([*arrays_of(Q, K, K), jnp.ones((3, 5), bool)], {"is_causal": True}),
        (arrays_of(Q, K, K, (4, 5)), {}),
        (arrays_of(Q, K, K, (7, 1, 3, 5)), {}),
        ([*arrays_of(Q, K, K), jnp.ones((3, 5), jnp.bfloat16)], {}),
        ([*arrays_of(Q, K, K), jnp.ones((3, 5), jnp.int32)], {}),
        (arrays_of(Q, K, K), {"dropout_p": 2.0}),
        (arrays_of((4, 3, 4), (3, 5, 4), (3, 5, 4)), {"enable_gqa": True}),
        (arrays_of((4, 3, 4), (2, 5, 4), (2, 5, 4)), {}),
        (arrays_of((3, 4), (5, 4), (5, 4)), {"enable_gqa": True}),
    ],
)
def test_refusals(arrays, options):
    assert_same_error(lambda: attend(*arrays, **options), lambda: theirs(*map(to_torch, arrays), **options))


def test_a_long_sequence_keeps_no_matrix():
    q = normal(1, 2, 1024, 8)
    jaxpr = str(jax.make_jaxpr(jax.grad(lambda q: attend(q, q, q, is_causal=True).sum()))(q))
    assert "2,1024,1024" not in jaxpr and "scan" in jaxpr
