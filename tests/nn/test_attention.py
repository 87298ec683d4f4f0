"""``nn.attention``: which way computes attention, causal masks by name, and attention with functions of the score."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.nn.attention import bias as their_bias  # noqa: E402
from torch.nn.attention import flex_attention as theirs  # noqa: E402

import objnet.nn.functional as F  # noqa: E402
from objnet import nn  # noqa: E402
from objnet.nn.attention import SDPBackend, flex_attention, sdpa_kernel  # noqa: E402
from objnet.nn.attention.bias import CausalBias, CausalVariant, causal_lower_right, causal_upper_left  # noqa: E402
from objnet.transforms.jit import jit  # noqa: E402
from tests.nn.functional.outcome import normal  # noqa: E402
from tests.nn.module_parity import parameters_of  # noqa: E402
from tests.nn.parity import assert_close, assert_parity, assert_same_error, to_torch  # noqa: E402

Q, K, V = normal(1, 4, 3, 2), normal(1, 2, 5, 2, seed=1), normal(1, 2, 5, 3, seed=2)


def way(q, **options):
    """How attention is computed, told from the program."""
    jaxpr = str(jax.make_jaxpr(lambda q: F.scaled_dot_product_attention(q, q, q, **options))(q))
    return "blocks" if "scan" in jaxpr else "at once"


def test_names_and_numbers():
    for backend in SDPBackend:
        assert int(getattr(torch.nn.attention.SDPBackend, backend.name)) == backend
    assert parameters_of(sdpa_kernel) == parameters_of(torch.nn.attention.sdpa_kernel)
    assert nn.attention.sdpa_kernel is sdpa_kernel
    with pytest.raises(AssertionError), sdpa_kernel("math"):
        pass


def test_the_way_is_chosen():
    short, long = jnp.zeros((2, 8, 2)), jnp.zeros((2, 512, 2))
    assert (way(short), way(long)) == ("at once", "blocks")
    with sdpa_kernel(SDPBackend.MATH):
        assert (way(short), way(long)) == ("at once", "at once")
        with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]):
            assert (way(short), way(long)) == ("blocks", "blocks")
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION), pytest.raises(RuntimeError, match="No available kernel"):
            way(short)
    assert way(long) == "blocks"


def test_a_compiled_function_follows_the_choice():
    traced = []

    @jit
    def attend(q):
        traced.append(way(q))
        return F.scaled_dot_product_attention(q, q, q)

    for backend in (SDPBackend.MATH, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH):
        with sdpa_kernel(backend):
            attend(Q)
    assert traced == ["at once", "blocks"]


@pytest.mark.parametrize("ours", [causal_upper_left, causal_lower_right])
def test_causal_masks(ours):
    other = getattr(their_bias, ours.__name__)
    mask, wanted = ours(3, 5), other(3, 5)
    assert (mask.variant, mask.seq_len_q, mask.seq_len_kv) == (wanted.variant, 3, 5)
    q, k, v = Q, normal(1, 4, 5, 2), normal(1, 4, 5, 3)
    output = torch.nn.functional.scaled_dot_product_attention(*map(to_torch, (q, k, v)), wanted._materialize())
    assert_close(jax.jit(lambda *a: F.scaled_dot_product_attention(*a, mask))(q, k, v), output)
    assert_same_error(lambda: ours(3), lambda: other(3))


def test_causal_masks_of_more_queries_than_keys():
    with pytest.warns(UserWarning, match="seq_len_q > seq_len_kv") as caught:
        mask = CausalBias(CausalVariant.LOWER_RIGHT, 3, 2)
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(jnp.asarray(mask), [[0, 0], [1, 0], [1, 1]])
    with pytest.raises(AssertionError):
        CausalBias(1, 2, 2)


def relative(score, b, h, q, k):
    return score * 0.5 + (q - k) / (h + 2)


def window(b, h, q, k):
    return (q >= k) & (q - k < 2 + h)


@pytest.mark.parametrize(("mod", "mask"), [(None, True), (relative, False), (relative, True)])
def test_flexible_attention(mod, mask):
    """Against its definition in torch's operators: its own has no gradients on CPU."""
    blocks = flex_attention.create_block_mask(window, None, 4, 3, 5) if mask else None
    request = flex_attention.AuxRequest(lse=True, max_scores=True)

    def ours(q, k, v):
        output, aux = flex_attention.flex_attention(q, k, v, mod, blocks, 0.7, True, return_aux=request)
        return jnp.concatenate([output, aux.lse[..., None], aux.max_scores[..., None]], -1)

    def wanted(q, k, v):
        k, v = (x.repeat_interleave(2, 1) for x in (k, v))
        scores = q @ k.transpose(-1, -2) * 0.7
        indices = [torch.arange(n).reshape([-1 if i == axis else 1 for i in range(4)]) for axis, n in enumerate(scores.shape)]
        scores = scores if mod is None else mod(scores, *indices)
        scores = scores.masked_fill(~window(*indices), -torch.inf) if mask else scores
        return torch.cat([scores.softmax(-1) @ v, scores.logsumexp(-1, True), scores.max(-1, True)[0]], -1)

    with jax.numpy_dtype_promotion("standard"):
        assert_parity(ours, wanted, Q, K, V)


def test_masks_by_functions():
    def hidden(score, b, h, q, k):
        return jnp.where(q == k, -jnp.inf, score)

    both, any_of = (
        flex_attention.and_masks(window, flex_attention.noop_mask),
        flex_attention.or_masks(window, lambda b, h, q, k: k == 4),
    )
    np.testing.assert_array_equal(
        flex_attention.create_mask(both, 2, 3, 4, 5), theirs.create_mask(window, 2, 3, 4, 5, "cpu").numpy()
    )
    wanted = theirs.create_mask(theirs.or_masks(window, lambda b, h, q, k: k == 4), None, 3, 4, 5, "cpu")
    np.testing.assert_array_equal(flex_attention.create_mask(any_of, None, 3, 4, 5), wanted.numpy())
    np.testing.assert_array_equal(flex_attention.create_mask(hidden, None, None, 3, 3)[0, 0], ~np.eye(3, dtype=bool))
    with pytest.raises(AssertionError, match="four indices"):
        flex_attention.create_block_mask(hidden, 1, 1, 2, 2)


@pytest.mark.parametrize(
    "arrays", [(Q[0], K[0], V[0]), (Q, K, V), (Q[..., :1], K, V)]
)  # fmt: skip
def test_refusals(arrays):
    assert_same_error(lambda: flex_attention.flex_attention(*arrays), lambda: theirs.flex_attention(*map(to_torch, arrays)))
