"""Multi-head attention and the transformer layers against torch's."""

from __future__ import annotations

import copy
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import objnet  # noqa: E402
import objnet.nn.functional as F  # noqa: E402
from objnet import nn  # noqa: E402
from objnet.core import rng  # noqa: E402
from objnet.transforms.jit import jit  # noqa: E402
from objnet.transforms.pure import transform_with_state  # noqa: E402
from tests.nn.module_parity import (  # noqa: E402
    SEED,
    Pair,
    build,
    check_attributes,
    check_copies,
    check_forward,
    check_module,
    check_outputs,
    check_refused,
    check_signature,
    check_training,
    converted,
)
from tests.nn.parity import assert_close  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:enable_nested_tensor")

CAUSAL = torch.nn.Transformer.generate_square_subsequent_mask(3)
PADDING = torch.tensor([[False, False, True], [False, False, False]])
x = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0))
memory = torch.randn(5, 2, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("options", "inputs"),
    [
        ({}, (x, memory, memory)),
        ({"batch_first": True, "bias": False, "add_zero_attn": True}, (x, x, x, torch.tensor([[True, False]] * 3))),
        ({"kdim": 5, "vdim": 3, "add_bias_kv": True}, (x, torch.randn(2, 2, 5), torch.randn(2, 2, 3))),
    ],
)
def test_attention(options, inputs):
    check_module("MultiheadAttention", 4, 2, inputs=inputs, vmap=not options, **options)


def test_attention_without_weights_and_with_a_hint():
    pair = build("MultiheadAttention", 4, 2, batch_first=True)
    q = x.transpose(0, 1)
    for options in ({"attn_mask": CAUSAL, "is_causal": True}, {"attn_mask": CAUSAL.isinf(), "key_padding_mask": PADDING}):
        theirs = pair.theirs(q, q, q, need_weights=False, **options)
        ours = pair.ours(*[converted(q)] * 3, need_weights=False, **{k: converted(v) for k, v in options.items()})
        assert ours[1] is theirs[1] is None
        assert_close(ours[0], theirs[0])
    assert nn.modules.activation.MultiheadAttention is nn.MultiheadAttention


def test_merged_masks():
    pair = build("MultiheadAttention", 4, 2, batch_first=True)
    q = x.transpose(0, 1)
    padding = torch.zeros(2, 3).masked_fill(PADDING, -torch.inf)
    for mask in (None, CAUSAL, torch.randn(4, 3, 3)):
        for pad in (None, padding):
            ours, kind = pair.ours.merge_masks(converted(mask), converted(pad), converted(q))
            theirs, wanted = pair.theirs.merge_masks(mask, pad, q)
            assert kind == wanted
            check_outputs(ours, theirs)


def test_attention_drops_weights_in_training_only():
    objnet.manual_seed(0)
    layer = nn.MultiheadAttention(4, 2, dropout=0.5)
    q = converted(x)
    weights = [np.asarray(jit(layer)(q, q, q)[1]) for _ in range(2)]
    assert (weights[0] != weights[1]).any()
    layer.eval()
    np.testing.assert_allclose(layer(q, q, q)[1].sum(-1), 1, rtol=1e-5)


def test_refusals_of_attention():
    check_refused("MultiheadAttention", 0, 2)
    check_refused("MultiheadAttention", 4, 0)
    check_refused("MultiheadAttention", 4, 3, match="divisible")
    check_refused("MultiheadAttention", 4, 2, inputs=(x, memory, x))
    check_refused("MultiheadAttention", 4, 2, inputs=(x[..., :2], x, x))
    check_refused("TransformerEncoderLayer", 4, 2, activation="tanh", match="activation")
    check_refused("Transformer", 4, 2, 1, 1, 8, inputs=(x, memory[:, :1]), match="batch number")
    check_refused("Transformer", 4, 2, 1, 1, 8, inputs=(x, memory[..., :2]), match="d_model")


def assert_same_module(pair):
    """As check_attributes, but for functions, which are equal by name."""
    for ours, theirs in zip(pair.ours.modules(), pair.theirs.modules(), strict=True):
        if "activation" in vars(theirs):
            assert ours.activation.__name__ == theirs.activation.__name__
            ours, theirs = copy.copy(ours), copy.copy(theirs)
            vars(theirs)["activation"] = ours.activation
        check_attributes(Pair(ours, theirs))


@pytest.mark.parametrize(
    ("name", "options", "inputs"),
    [
        ("TransformerEncoderLayer", {}, (x, CAUSAL, PADDING.float())),
        ("TransformerEncoderLayer", {"norm_first": True, "activation": "gelu", "batch_first": True, "bias": False}, (x[:2],)),
        ("TransformerDecoderLayer", {"batch_first": False}, (x, memory, CAUSAL, None, PADDING)),
        ("TransformerDecoderLayer", {"norm_first": True, "activation": "gelu"}, (x[:, 0], memory[:, 0])),
    ],
)
@pytest.mark.filterwarnings("ignore:Support for mismatched")
def test_layers(name, options, inputs):
    check_signature(name)
    pair = build(name, 4, 2, 6, 0.0, **options)
    assert_same_module(pair)
    check_training(pair, *inputs)
    check_copies(pair)


def test_activation_may_be_a_module():
    rng.manual_seed(SEED)
    torch.manual_seed(SEED)
    pair = Pair(
        nn.TransformerEncoderLayer(4, 2, 6, 0.0, nn.Tanh()), torch.nn.TransformerEncoderLayer(4, 2, 6, 0.0, torch.nn.Tanh())
    )
    check_attributes(pair)
    check_forward(pair, x)
    for activation, number in ((nn.ReLU(), 1), (nn.GELU(), 2), (F.gelu, 2), (jnp.sin, 0)):
        assert nn.TransformerEncoderLayer(4, 2, 6, activation=activation).activation_relu_or_gelu == number


def stack(kind, layers, *, of=None, **options):
    """An encoder or a decoder with a norm, in both worlds."""
    rng.manual_seed(SEED)
    torch.manual_seed(SEED)
    return Pair(*(
        getattr(m, f"Transformer{kind}")(
            getattr(m, f"Transformer{kind}Layer")(4, 2, 6, 0.0, **(of or {})), layers, m.LayerNorm(4), **options
        )
        for m in (nn, torch.nn)
    ))  # fmt: skip


def test_stacks():
    encoder = stack("Encoder", 2, enable_nested_tensor=False)
    assert_same_module(encoder)
    assert encoder.ours.layers[0].linear1.weight is not encoder.ours.layers[1].linear1.weight
    # masks are boolean here: torch gives none that it found to be causal a gradient
    check_training(encoder, x, CAUSAL.isinf(), PADDING)
    decoder = stack("Decoder", 1)
    assert_same_module(decoder)
    check_forward(decoder, x, memory, CAUSAL.isinf())


@pytest.mark.parametrize("of", [{}, {"norm_first": True}, {"batch_first": True, "bias": False}, {"activation": torch.sin}])
def test_nested_tensors_are_warned_about(of):
    def messages(make):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            encoder = make()
        return [(str(w.message), w.filename) for w in caught], encoder.use_nested_tensor

    def encoder(m, **of):
        return m.TransformerEncoder(m.TransformerEncoderLayer(4, 2, 6, **of), 1)

    ours = {k: jnp.sin if callable(v) else v for k, v in of.items()}
    assert messages(lambda: encoder(nn, **ours)) == messages(lambda: encoder(torch.nn, **of))
    assert messages(lambda: encoder(nn, batch_first=True)) == ([], True)


def test_padding_in_evaluation_changes_what_is_padded_only():
    pair = stack("Encoder", 1, of={"batch_first": True})
    pair.ours.eval()
    pair.theirs.eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = pair.theirs(x.transpose(0, 1), src_key_padding_mask=PADDING).numpy()
    ours = pair.ours(converted(x.transpose(0, 1)), src_key_padding_mask=converted(PADDING))
    np.testing.assert_allclose(np.asarray(ours)[~PADDING.numpy()], theirs[~PADDING.numpy()], rtol=1e-5, atol=1e-5)


def test_transformer():
    check_signature("Transformer")
    pair = build("Transformer", 4, 2, 1, 1, 6, 0.0)
    assert_same_module(pair)
    check_training(pair, memory, x, None, CAUSAL.isinf(), None, torch.zeros(2, 5, dtype=torch.bool))
    mask = nn.Transformer.generate_square_subsequent_mask
    assert_close(mask(3), CAUSAL)
    assert_close(mask(2, dtype="bfloat16"), torch.nn.Transformer.generate_square_subsequent_mask(2, dtype=torch.bfloat16))
    custom = nn.Transformer(4, 2, custom_encoder=nn.Identity(), custom_decoder=nn.Identity())
    assert list(custom.parameters()) == []


@pytest.mark.slow
def test_dropout_in_the_pure_form():
    net = transform_with_state(nn.TransformerEncoderLayer(4, 2, 6))
    params, state = net.init(None)
    apply = jax.jit(net.apply)
    one, same, two = (apply(params, state, jax.random.key(k), converted(x))[0] for k in (1, 1, 2))
    assert (one == same).all()
    assert (one != two).any()


def test_a_causal_mask_is_found_by_its_values():
    layer = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 6, 0.0), 1)
    seen = []
    layer.layers[0].register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs["is_causal"]), with_kwargs=True)
    causal = nn.Transformer.generate_square_subsequent_mask(3)
    for mask in (causal, causal == -jnp.inf, causal.at[0, 0].set(1), None):
        layer(converted(x), mask)
    layer(converted(x), causal, is_causal=False)
    assert seen == [True, True, False, False, False]


def test_a_mask_known_beforehand_in_compiled_code():
    layer = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True), 1)
    mask, x = nn.Transformer.generate_square_subsequent_mask(3), jnp.ones((2, 3, 4))
    assert_allclose = np.testing.assert_allclose
    assert_allclose(jit(lambda x: layer(x, mask))(x), layer(x, mask), rtol=1e-5, atol=1e-6)
