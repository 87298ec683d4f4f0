"""``F.multi_head_attention_forward`` against torch: every option, and what is refused."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from objnet.nn.functional.multihead import multi_head_attention_forward  # noqa: E402
from tests.nn.functional.outcome import normal  # noqa: E402
from tests.nn.module_parity import parameters_of  # noqa: E402
from tests.nn.parity import assert_parity, assert_same_error, to_torch  # noqa: E402

theirs = torch.nn.functional.multi_head_attention_forward
EMBED, HEADS, LENGTH, SOURCE, BATCH = 4, 2, 3, 5, 2


def masks(padding, mask, batch, source):
    """Masks that leave something to see to every query: NaN rows are compared elsewhere."""
    random = np.random.RandomState(1)
    given = {}
    if padding != "none":
        hidden = random.rand(*([BATCH] if batch else []), source) < 0.4
        hidden[..., 0] = False
        given["key_padding_mask"] = jnp.asarray(hidden if padding == "bool" else random.randn(*hidden.shape), padding)
    if mask != "none":
        kind, dtype = mask
        lead = [] if kind == "2d" else [BATCH * HEADS if batch else HEADS]
        hidden = random.rand(*lead, LENGTH, source) < 0.4
        hidden[..., 0] = False
        given["attn_mask"] = jnp.asarray(hidden if dtype == "bool" else random.randn(*hidden.shape), dtype)
    return given


@pytest.mark.filterwarnings("ignore:Support for mismatched")
@settings(max_examples=6, deadline=None)
@given(
    batch=st.booleans(),
    source=st.sampled_from(["self", "memory", "separate", "static"]),
    bias=st.booleans(),
    extra=st.booleans(),
    zero=st.booleans(),
    padding=st.sampled_from(["none", "bool", "float32"]),
    mask=st.just("none") | st.tuples(st.sampled_from(["2d", "3d"]), st.sampled_from(["bool", "float32"])),
    returned=st.sampled_from(["output", "weights", "average", "no weights"]),
)
def test_values_and_gradients(batch, source, bias, extra, zero, padding, mask, returned):
    def array(*shape, seed):
        return normal(*shape, seed=seed) / 2

    size = LENGTH if source == "self" else SOURCE
    lead = [BATCH] if batch else []
    wide = EMBED + 1 if source == "separate" else EMBED
    arrays = {
        "query": array(LENGTH, *lead, EMBED, seed=0),
        "key": array(size, *lead, wide, seed=1),
        "value": array(size, *lead, wide, seed=2),
        "in_proj_weight": array(3 * EMBED, EMBED, seed=3),
        "out_proj_weight": array(EMBED, EMBED, seed=4),
        **masks(padding, mask, batch, size),
    }
    fixed = {"in_proj_bias": None, "bias_k": None, "bias_v": None, "out_proj_bias": None}
    if bias:
        arrays |= {"in_proj_bias": array(3 * EMBED, seed=5), "out_proj_bias": array(EMBED, seed=6)}
    if extra and source != "static":
        arrays |= {"bias_k": array(1, 1, EMBED, seed=7), "bias_v": array(1, 1, EMBED, seed=8)}
    if source == "separate":
        del arrays["in_proj_weight"]
        fixed |= {"in_proj_weight": None, "use_separate_proj_weight": True}
        arrays |= {"q_proj_weight": array(EMBED, EMBED, seed=9)}
        arrays |= {f"{n}_proj_weight": array(EMBED, wide, seed=10 + i) for i, n in enumerate("kv")}
    if source == "static":
        heads = HEADS * (BATCH if batch else 1)
        arrays |= {f"static_{n}": array(heads, SOURCE, EMBED // HEADS, seed=12 + i) for i, n in enumerate("kv")}
    options = {
        "embed_dim_to_check": EMBED,
        "num_heads": HEADS,
        "add_zero_attn": zero,
        "dropout_p": 0.5,
        "training": False,
        "need_weights": returned != "no weights",
        "average_attn_weights": returned != "weights",
    }

    def call(function):
        def result(*values):
            given = fixed | dict(zip(arrays, values)) | options
            if source == "self":
                given["key"] = given["value"] = given["query"]
            if source in ("memory", "static"):
                given["value"] = given["key"]
            output, weights = function(**given)
            assert (weights is None) == (returned == "no weights")
            return weights if returned in ("weights", "average") else output

        return result

    assert_parity(call(multi_head_attention_forward), call(theirs), *arrays.values(), seed=3)


def given_arrays(length=3, source=3, batch=2, embed=4):
    return [normal(n, batch, embed, seed=n) for n in (length, source, source)]


def call(function, query, key, value, convert, **options):
    positional = {
        "embed_dim_to_check": 4,
        "num_heads": 2,
        "in_proj_weight": jnp.ones((12, 4)),
        "in_proj_bias": None,
        "bias_k": None,
        "bias_v": None,
        "add_zero_attn": False,
        "dropout_p": 0.0,
        "out_proj_weight": jnp.ones((4, 4)),
        "out_proj_bias": None,
    }
    options = positional | options
    options = {k: convert(v) if isinstance(v, jnp.ndarray) else v for k, v in options.items()}
    return function(convert(query), convert(key), convert(value), **options)


Q, K, V = given_arrays()


@pytest.mark.parametrize(
    ("arrays", "options"),
    [
        ((Q, K[0], V), {}),
        ((Q[0, 0], K, V), {}),
        ((Q, K, V), {"key_padding_mask": jnp.zeros(3, bool)}),
        ((Q[:, 0], K[:, 0], V[:, 0]), {"key_padding_mask": jnp.zeros((2, 3), bool)}),
        ((Q, K, V), {"key_padding_mask": jnp.zeros((2, 4), bool)}),
        ((Q, K, V), {"key_padding_mask": jnp.zeros((2, 3), "int32")}),
        ((Q, K, V), {"attn_mask": jnp.zeros((3, 3), "int32")}),
        ((Q, K, V), {"attn_mask": jnp.zeros((3, 4), bool)}),
        ((Q, K, V), {"attn_mask": jnp.zeros((3, 3, 3), bool)}),
        ((Q, K, V), {"attn_mask": jnp.zeros(3, bool)}),
        ((Q[:, 0], K[:, 0], V[:, 0]), {"attn_mask": jnp.zeros((3, 3, 3), bool)}),
        ((Q, K, V), {"is_causal": True}),
        ((Q, K, V), {"embed_dim_to_check": 5}),
        ((Q, K, V), {"num_heads": 3}),
        ((Q, K[:2], V), {}),
        ((Q, K[:, :1], V[:, :1]), {}),
        ((Q, K, V), {"in_proj_weight": None}),
        ((Q, K, V), {"in_proj_weight": None, "use_separate_proj_weight": True}),
        ((Q, K, V), {"use_separate_proj_weight": True, **{f"{n}_proj_weight": jnp.ones((4, 5)) for n in "qkv"}}),
        ((Q, K, V), {"bias_k": jnp.ones((1, 1, 4))}),
        ((Q, K, V), {"static_k": jnp.ones((3, 3, 2))}),
        ((Q, K, V), {"static_k": jnp.ones((4, 3, 3))}),
        ((Q, K, V), {"static_k": jnp.ones((4, 3, 2)), "bias_k": jnp.ones(4), "bias_v": jnp.ones(4)}),
    ],
)  # fmt: skip
def test_refusals(arrays, options):
    assert_same_error(
        lambda: call(multi_head_attention_forward, *arrays, lambda x: x, **options),
        lambda: call(theirs, *arrays, to_torch, **options),
    )


def test_two_kinds_of_masks_warn():
    masks = {"key_padding_mask": jnp.zeros((2, 3), bool), "attn_mask": jnp.zeros((3, 3))}
    with pytest.warns(UserWarning, match="mismatched key_padding_mask and attn_mask") as caught:
        call(multi_head_attention_forward, Q, K, V, lambda x: x, **masks)
    assert caught[0].filename == __file__


def test_a_query_that_sees_nothing():
    mask = jnp.zeros((3, 3), bool).at[1].set(True)
    for need_weights in (True, False):
        assert_parity(
            lambda q: call(multi_head_attention_forward, q, K, V, lambda x: x, attn_mask=mask, need_weights=need_weights)[0],
            lambda q: call(theirs, q, K, V, lambda x: x if torch.is_tensor(x) else to_torch(x), attn_mask=mask,
                           need_weights=need_weights)[0],
            Q, gradients=(),
        )  # fmt: skip


def test_signature():
    assert parameters_of(multi_head_attention_forward) == parameters_of(theirs)
