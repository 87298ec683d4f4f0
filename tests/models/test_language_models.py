"""Transformers equal those of the library transformers: keys, initial values, logits, losses, gradients, checkpoints.

Every model is tiny, and its weights are random and large enough for every part to matter.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import objnet  # noqa: E402
from objnet import models  # noqa: E402

VOCABULARY = 37
RANDOM = np.random.RandomState(0)
IDS = RANDOM.randint(3, VOCABULARY, (2, 7)).astype(np.int32)
MASK = np.array([[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1]], np.int32)
LABELS = np.where(RANDOM.rand(2, 7) < 0.3, -100, IDS).astype(np.int32)
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


class Case(NamedTuple):
    """A class of both libraries, its configuration, and what its forward is given."""

    name: str
    config: Any
    inputs: dict[str, Any]
    options: dict[str, Any] = {}


def gpt2(layers: int = 1, **options: Any) -> Any:
    dropout = {name: options.pop("dropout", 0.0) for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop")}
    ends = {"bos_token_id": 1, "eos_token_id": 2}
    return transformers.GPT2Config(
        vocab_size=VOCABULARY, n_positions=32, n_embd=12, n_layer=layers, n_head=3, **ends, **dropout, **options
    )


def llama(layers: int = 1, **options: Any) -> Any:
    sizes = {"hidden_size": 16, "intermediate_size": 20, "num_attention_heads": 4, "num_key_value_heads": 2}
    return transformers.LlamaConfig(
        vocab_size=VOCABULARY, num_hidden_layers=layers, max_position_embeddings=64, **sizes, **options
    )


def bert(layers: int = 1, **options: Any) -> Any:
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    sizes = {"hidden_size": 12, "intermediate_size": 20, "num_attention_heads": 3, "num_hidden_layers": layers}
    return transformers.BertConfig(vocab_size=VOCABULARY, max_position_embeddings=16, **sizes, **dropout, **options)


def vit(layers: int = 1, **options: Any) -> Any:
    sizes = {"hidden_size": 12, "intermediate_size": 20, "num_attention_heads": 3, "num_hidden_layers": layers}
    return transformers.ViTConfig(image_size=(8, 12), patch_size=4, num_labels=4, **sizes, **options)


SEGMENTS = {"token_type_ids": np.array([[0, 0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 1, 1, 1]], np.int32)}
TEXT = {"input_ids": IDS, "attention_mask": MASK}
CASES = {
    "gpt2": Case("GPT2LMHeadModel", gpt2(2, scale_attn_by_inverse_layer_idx=True), {**TEXT, "labels": LABELS}),
    "gpt2 untied": Case(
        "GPT2LMHeadModel",
        gpt2(tie_word_embeddings=False, n_inner=20, activation_function="relu", scale_attn_weights=False),
        {"input_ids": IDS, "position_ids": IDS[:, ::-1] % 9, "labels": LABELS, **SEGMENTS},
    ),
    "llama": Case("LlamaForCausalLM", llama(pad_token_id=0), {"input_ids": IDS, "labels": LABELS}),
    "llama 3": Case(
        "LlamaForCausalLM",
        llama(2, rope_parameters=LLAMA3, tie_word_embeddings=True, attention_bias=True, mlp_bias=True, head_dim=6),
        {**TEXT, "position_ids": IDS[:, ::-1], "labels": LABELS},
    ),
    "bert": Case("BertForMaskedLM", bert(2), {**TEXT, **SEGMENTS, "labels": LABELS}),
    "bert classifier": Case(
        "BertForSequenceClassification",
        bert(num_labels=4, type_vocab_size=3, hidden_act="gelu_new"),
        {"input_ids": IDS, "position_ids": IDS[:, ::-1] % 16, "labels": np.array([3, 1], np.int32)},
    ),
    "vit": Case(
        "ViTForImageClassification",
        vit(qkv_bias=False),
        {"pixel_values": RANDOM.randn(2, 3, 8, 12).astype(np.float32), "labels": np.array([3, 0], np.int32)},
    ),
    "vit pooled": Case(
        "ViTModel",
        vit(2, pooler_output_size=5, pooler_act="relu"),
        {
            "pixel_values": RANDOM.randn(2, 3, 8, 12).astype(np.float32),
            "bool_masked_pos": np.array([[1, 0, 0, 1, 0, 0]] * 2, bool),
        },
        {"use_mask_token": True},
    ),
}


def tensors(inputs: dict[str, Any]) -> dict[str, Any]:
    found = {name: torch.tensor(np.ascontiguousarray(value)) for name, value in inputs.items()}
    return {name: value.long() if value.dtype == torch.int32 else value for name, value in found.items()}


def build(case: Case) -> tuple[Any, Any]:
    """Both models from one seed."""
    torch.manual_seed(7)
    theirs = getattr(transformers, case.name)(case.config, **case.options)
    objnet.manual_seed(7)
    return getattr(models, case.name)(case.config, **case.options), theirs


def randomise(theirs: Any) -> None:
    """Large random weights, tied ones too."""
    random = np.random.RandomState(1)
    for name, parameter in theirs.named_parameters():
        noise = random.randn(*parameter.shape) * (0.3 if parameter.ndim > 1 else 0.2)
        norm = parameter.ndim == 1 and name.endswith("weight")
        parameter.data = torch.tensor(noise + norm, dtype=torch.float32)
    theirs.tie_weights()


def assert_same_state(ours: Any, theirs: Any, tolerance: float) -> None:
    ours, theirs = ours.state_dict(), theirs.state_dict()
    assert list(ours) == list(theirs)
    for name, tensor in theirs.items():
        assert ours[name].shape == tuple(tensor.shape)
        np.testing.assert_allclose(np.asarray(ours[name]), tensor.numpy(), rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("name", CASES)
def test_equals_transformers(name: str) -> None:
    case = CASES[name]
    ours, theirs = build(case)
    assert_same_state(ours, theirs, 1e-6)
    randomise(theirs)
    assert str(ours.load_state_dict(theirs.state_dict())) == "<All keys matched successfully>"
    expected = theirs.train()(**tensors(case.inputs))
    fields = [name for name in ("logits", "last_hidden_state", "pooler_output", "loss") if expected.get(name) is not None]
    random = np.random.RandomState(2)
    cotangents = {name: np.asarray(random.randn(*expected[name].shape), np.float32) for name in fields}
    sum((expected[name] * torch.tensor(cotangents[name])).sum() for name in fields).backward()

    def loss(inputs: dict[str, Any], cotangents: dict[str, Any]) -> Any:
        result = ours(**inputs)
        outputs = {name: getattr(result, name) for name in cotangents}
        return sum((jnp.sum(outputs[name] * cotangents[name]) for name in cotangents), jnp.zeros(())), outputs

    step = objnet.jit(objnet.value_and_grad(loss, has_aux=True, wrt=ours))
    (_, outputs), gradients = step(case.inputs, cotangents)
    for field in fields:
        result, wanted = np.asarray(outputs[field]), expected[field].detach().numpy()
        np.testing.assert_allclose(result, wanted, rtol=1e-4, atol=1e-5, err_msg=field)
    wanted = {n: p.grad.numpy() for n, p in theirs.named_parameters()}
    assert list(gradients) == list(wanted)
    for parameter, gradient in gradients.items():
        np.testing.assert_allclose(np.asarray(gradient), wanted[parameter], rtol=1e-4, atol=3e-5, err_msg=parameter)


# -- checkpoints ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_checkpoints_load(name: str, tmp_path: Path) -> None:
    """What ``save_pretrained`` writes: tied weights once, and ViT with its older keys."""
    case = CASES[name]
    ours, theirs = build(case)
    randomise(theirs)
    theirs.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    ours = getattr(models, case.name)(config, **case.options)
    ours.load_state_dict(objnet.load(tmp_path / "model.safetensors"))
    assert_same_state(ours, theirs, 0)


def test_a_base_models_checkpoint_loads_into_a_head_and_back() -> None:
    base = models.GPT2Model(gpt2(2))
    entries = {name: np.asarray(value) for name, value in base.state_dict().items()}
    old = {"h.0.attn.bias": np.ones((1, 1, 4, 4), np.float32), "h.1.attn.masked_bias": np.float32(-1e4)}
    head = models.GPT2LMHeadModel(gpt2(2))
    head.load_state_dict(entries | old)
    assert head.lm_head.weight is head.transformer.wte.weight
    np.testing.assert_array_equal(head.lm_head.weight.data, entries["wte.weight"])
    other = models.GPT2Model(gpt2(2))
    with pytest.raises(RuntimeError, match="lm_head.weight"):
        other.load_state_dict(head.state_dict())
    other.load_state_dict(head.state_dict(), strict=False)
    np.testing.assert_array_equal(other.h[1].mlp.c_fc.weight.data, entries["h.1.mlp.c_fc.weight"])


def test_wrong_checkpoints_are_refused() -> None:
    model = models.GPT2LMHeadModel(gpt2(tie_word_embeddings=False))
    entries = dict(model.state_dict())
    del entries["lm_head.weight"]
    with pytest.raises(RuntimeError, match='Missing key.*"lm_head.weight"'):
        model.load_state_dict(entries)
    with pytest.raises(RuntimeError, match="Unexpected key.*nonsense"):
        model.load_state_dict({**model.state_dict(), "nonsense": np.zeros(1)})
    with pytest.raises(RuntimeError, match="size mismatch for transformer.ln_f.bias"):
        model.load_state_dict({**model.state_dict(), "transformer.ln_f.bias": np.zeros(5, np.float32)})


# -- generation ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "llama 3"])
def test_generates_what_transformers_does(name: str) -> None:
    case = CASES[name]
    ours, theirs = build(case)
    randomise(theirs)
    ours.load_state_dict(theirs.state_dict())
    ours.eval()
    theirs.eval()
    ids, mask = tensors({"input_ids": IDS, "attention_mask": MASK}).values()
    expected = theirs.generate(ids, attention_mask=mask, max_new_tokens=9, do_sample=False, eos_token_id=None, pad_token_id=0)
    result = ours.generate(IDS, MASK, max_new_tokens=9)
    assert result.dtype == IDS.dtype
    np.testing.assert_array_equal(result, expected.numpy())
    end = int(expected[0, 10])
    expected = theirs.generate(ids, attention_mask=mask, max_new_tokens=9, do_sample=False, eos_token_id=end, pad_token_id=0)
    result = np.asarray(ours.generate(IDS, MASK, max_new_tokens=9, eos_token_id=end, pad_token_id=0))
    np.testing.assert_array_equal(result[:, : expected.shape[1]], expected.numpy())
    assert not result[:, expected.shape[1] :].any()
