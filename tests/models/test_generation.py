"""Caches, generation, half precision and the pure form of the language models; no torch is needed."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import objnet
from objnet import models
from objnet.models._generation import _likeliest

GPT2 = {"vocab_size": 19, "n_positions": 12, "n_embd": 8, "n_layer": 1, "n_head": 2}
LLAMA = {
    "vocab_size": 19,
    "hidden_size": 16,
    "intermediate_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
BERT = {"vocab_size": 19, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
IDS = jnp.asarray(np.random.RandomState(0).randint(0, 19, (2, 6)), jnp.int32)


def lively(model: Any) -> Any:
    """The model in evaluation mode, with weights so large that logits differ clearly."""
    random = np.random.RandomState(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data = jnp.asarray(random.randn(*parameter.shape) * 0.4, jnp.float32)
    return model.eval()


@pytest.fixture(scope="module")
def gpt2() -> Any:
    return lively(models.GPT2LMHeadModel.from_config(GPT2))


@pytest.fixture(scope="module")
def llama() -> Any:
    return lively(models.LlamaForCausalLM(LLAMA))


class TestCache:
    def test_steps_give_what_the_whole_gives(self, llama: Any) -> None:
        whole = objnet.jit(llama)(IDS).logits
        step = objnet.jit(lambda ids, cache: llama(ids, cache=cache))
        cache, found = llama.make_cache(2, 9), []
        for start, stop in ((0, 4), (4, 5), (5, 6)):
            output = step(IDS[:, start:stop], cache)
            found.append(np.asarray(output.logits))
            cache = output.cache
        np.testing.assert_allclose(np.concatenate(found, 1), np.asarray(whole), rtol=1e-4, atol=1e-5)
        assert int(cache.length) == 6 and cache.max_length == 9
        assert cache.keys[0].shape == (2, 2, 9, 4)
        last = objnet.jit(lambda ids: llama(ids, logits_to_keep=2))(IDS).logits
        np.testing.assert_allclose(np.asarray(last), np.asarray(whole[:, -2:]), rtol=1e-4, atol=1e-5)

    def test_a_full_cache_is_refused_and_never_overwritten(self, llama: Any) -> None:
        cache = llama.make_cache(2, 6)._replace(length=jnp.asarray(5, jnp.int32))
        with pytest.raises(IndexError, match="6 places, 5 are taken: 2 more do not fit"):
            llama(IDS[:, :2], cache=cache)
        output = objnet.jit(lambda ids, cache: llama(ids, cache=cache))(IDS[:, :2], cache)
        assert np.isnan(np.asarray(output.logits)).all()

    def test_sizes_that_do_not_fit(self, llama: Any, gpt2: Any) -> None:
        with pytest.raises(ValueError, match="a batch of 3, the input has 2"):
            llama(IDS, cache=llama.make_cache(3, 8))
        with pytest.raises(ValueError, match="6 tokens do not fit a cache of 4"):
            llama(IDS, cache=llama.make_cache(2, 4))
        with pytest.raises(ValueError, match=r"attention_mask must have the shape \(2, 8\)"):
            llama(IDS, jnp.ones((2, 6), jnp.int32), cache=llama.make_cache(2, 8))
        with pytest.raises(ValueError, match="exceeds the model's 12 positions"):
            gpt2.make_cache(2, 13)


class TestGenerate:
    def test_greedy_is_the_likeliest_token_each_time(self, gpt2: Any) -> None:
        ids = IDS
        follow = objnet.jit(lambda ids, last: jnp.argmax(jnp.take(gpt2(ids).logits, last, axis=1), -1))
        padded = jnp.zeros((2, 10), jnp.int32).at[:, :6].set(ids)
        for place in range(6, 10):  # one program: what is behind the last token does not matter
            padded = padded.at[:, place].set(follow(padded, place - 1).astype(jnp.int32))
        np.testing.assert_array_equal(gpt2.generate(ids, max_new_tokens=4), padded)
        again = objnet.jit(lambda ids: gpt2.generate(ids, max_new_tokens=4))(ids)
        np.testing.assert_array_equal(again, padded)

    def test_sampling(self, gpt2: Any) -> None:
        options = {"max_new_tokens": 6, "do_sample": True, "temperature": 3.0, "top_k": 15, "top_p": 0.99}
        objnet.manual_seed(0)
        first, second = gpt2.generate(IDS, **options), gpt2.generate(IDS, **options)
        assert (first != second).any()
        objnet.manual_seed(0)
        np.testing.assert_array_equal(gpt2.generate(IDS, **options), first)

    def test_likeliest(self) -> None:
        logits = jnp.log(jnp.asarray([[0.1, 0.4, 0.2, 0.3]]))

        def kept(top_k: int | None, top_p: float | None) -> list[bool]:
            return np.isfinite(np.asarray(_likeliest(logits, top_k, top_p)))[0].tolist()

        assert kept(None, None) == [True] * 4
        assert kept(2, None) == [False, True, False, True]
        assert kept(9, None) == [True] * 4
        assert kept(None, 0.39) == [False, True, False, False]
        assert kept(None, 0.65) == [False, True, False, True]
        assert kept(None, 0.75) == [False, True, True, True]
        assert kept(3, 0.8) == [False, True, True, True]

    def test_bad_arguments(self, gpt2: Any) -> None:
        for options, match in (
            ({"max_new_tokens": 0}, "max_new_tokens must be positive, got 0"),
            ({"do_sample": True, "temperature": 0.0}, "use do_sample=False"),
            ({"do_sample": True, "top_k": 0}, "top_k must be positive"),
            ({"do_sample": True, "top_p": 1.5}, r"top_p must be in \(0, 1\]"),
            ({"attention_mask": jnp.ones((2, 5))}, "attention_mask must have the shape"),
            ({"attention_mask": jnp.ones((2, 6)).at[:, 4:].set(0)}, "padded on the left"),
            ({"max_new_tokens": 8}, "exceeds the model's 12 positions"),
        ):
            with pytest.raises(ValueError, match=match):
                gpt2.generate(IDS, **options)
        for ids in (IDS[0], IDS[:, :0]):
            with pytest.raises(ValueError, match="input_ids must have the shape"):
                gpt2.generate(ids)
        gpt2.train()
        with pytest.raises(RuntimeError, match=r"call model.eval\(\) first"):
            gpt2.generate(IDS)
        gpt2.eval()


class TestForward:
    @pytest.mark.parametrize("name", ["LlamaForCausalLM", "BertForMaskedLM"])
    def test_half_precision(self, name: str) -> None:
        model = lively(getattr(models, name)({"L": LLAMA, "B": BERT}[name[0]]))
        mask = jnp.ones_like(IDS).at[0, :2].set(0)
        run = objnet.jit(lambda ids, mask: model(ids, attention_mask=mask, labels=ids))
        wanted = run(IDS, mask)
        model.bfloat16()
        output = run(IDS, mask)
        assert output.logits.dtype == jnp.bfloat16
        assert float(output.loss) == pytest.approx(float(wanted.loss), rel=0.05)

    def test_embeddings_in_place_of_ids(self, gpt2: Any) -> None:
        embeds = jnp.take(gpt2.transformer.wte.weight.data, IDS, axis=0)
        output = objnet.jit(lambda e: gpt2(inputs_embeds=e))(embeds)
        np.testing.assert_allclose(np.asarray(output.logits), np.asarray(objnet.jit(gpt2)(IDS).logits), rtol=1e-5, atol=1e-5)
        for model in (gpt2, models.BertModel(BERT)):
            for inputs in ({}, {"input_ids": IDS, "inputs_embeds": embeds}):
                with pytest.raises(ValueError, match="exactly one of input_ids or inputs_embeds"):
                    model(**inputs)

    def test_own_masks(self, gpt2: Any) -> None:
        """A 4-d mask, boolean or additive, is the whole mask."""
        seen = jnp.tril(jnp.ones((6, 6), bool))[None, None]
        run = objnet.jit(lambda mask: gpt2(IDS, attention_mask=mask).logits)
        wanted = np.asarray(objnet.jit(gpt2)(IDS).logits)
        np.testing.assert_allclose(np.asarray(run(seen)), wanted, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(np.asarray(run(jnp.where(seen, 0.0, -1e9))), wanted, rtol=1e-5, atol=1e-5)

    def test_the_pure_form(self, gpt2: Any) -> None:
        net = objnet.transform_with_state(gpt2)
        params, state = net.init(None)
        rows = jnp.stack([IDS, IDS[::-1]])
        logits = jax.jit(jax.vmap(lambda ids: net.apply(params, state, None, ids)[0].logits))(rows)
        np.testing.assert_allclose(np.asarray(logits[0]), np.asarray(objnet.jit(gpt2)(IDS).logits), rtol=1e-5, atol=1e-5)

    def test_copies(self, llama: Any, gpt2: Any) -> None:
        for model in (llama, gpt2, models.BertModel(BERT)):
            for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
                assert repr(other) == repr(model)
                assert other.config == model.config
                names = {name for name, _ in model.named_parameters()}
                assert {name for name, _ in other.named_parameters()} == names  # what is tied stays tied

    def test_dropout_in_training(self) -> None:
        model = models.GPT2Model(GPT2)
        run = objnet.jit(lambda: model(IDS).last_hidden_state)
        objnet.manual_seed(0)
        first, second = run(), run()
        assert (first != second).any()
        objnet.manual_seed(0)
        np.testing.assert_array_equal(run(), first)


class TestConfig:
    def test_other_names_and_defaults(self) -> None:
        config = models.GPT2Config.from_config({"hidden_size": 8, "num_hidden_layers": 1, "n_head": 2, "architectures": ["X"]})
        assert (config.n_embd, config.n_layer, config.n_head, config.n_positions) == (8, 1, 2, 1024)
        assert models.GPT2Config.from_config(config) is config
        assert models.BertConfig.from_config({"id2label": {0: "a", 1: "b", 2: "c"}}).num_labels == 3
        assert models.ViTConfig(image_size=32).image_size == (32, 32)

    def test_older_rotary_fields(self) -> None:
        parameters = models.LlamaConfig.from_config({"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}})
        assert (parameters.rope_parameters.rope_theta, parameters.rope_parameters.rope_type) == (5e5, "linear")
        plain = models.RopeParameters(rope_theta=5e5).frequencies(8)
        np.testing.assert_allclose(parameters.rope_parameters.frequencies(8), plain / 2)

    @pytest.mark.parametrize(
        ("config", "values", "match"),
        [
            (models.BertConfig, {"is_decoder": True}, "is_decoder=True is not supported"),
            (models.BertConfig, {"position_embedding_type": "relative_key"}, "only 'absolute' is"),
            (models.BertConfig, {"hidden_size": 10, "num_attention_heads": 3}, "not a multiple of the number of attention heads"),
            (models.BertConfig, {"model_type": "roberta"}, "needs model_type='bert', got 'roberta'"),
            (models.GPT2Config, {"add_cross_attention": True}, "add_cross_attention=True is not supported"),
            (
                models.LlamaConfig,
                {"num_attention_heads": 4, "num_key_value_heads": 3},
                "must be a multiple of num_key_value_heads",
            ),
            (models.LlamaConfig, {"rope_parameters": {"rope_type": "yarn"}}, "'default', 'linear', 'llama3', got 'yarn'"),
            (models.LlamaConfig, {"rope_scaling": {"rope_type": "llama3"}}, "missing .*'factor'"),
            (models.LlamaConfig, {"rope_parameters": {"partial_rotary_factor": 0.5}}, "the whole head is rotated"),
        ],
    )
    def test_what_is_not_supported_is_refused(self, config: Any, values: dict[str, Any], match: str) -> None:
        with pytest.raises(ValueError, match=match):
            config.from_config(values)

    def test_other_mistakes(self) -> None:
        with pytest.raises(TypeError, match="config must be a GPT2Config, a dict or a transformers configuration, got int"):
            models.GPT2Model(3)
        with pytest.raises(TypeError, match="nonsense"):
            models.GPT2Config(nonsense=1)
        with pytest.raises(ValueError, match="no activation 'gelo'"):
            models.BertModel({**BERT, "hidden_act": "gelo"})
        with pytest.raises(ValueError, match="problem_type must be"):
            models.BertConfig(problem_type="guess")
        with pytest.raises(ValueError, match="doesn't match model"):
            models.ViTModel(
                {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 0, "image_size": 8, "patch_size": 4}
            )(jnp.zeros((1, 3, 8, 4)))
