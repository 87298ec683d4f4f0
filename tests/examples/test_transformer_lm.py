"""The Transformer language model: it sees no future, it learns a text, and it says what it will not take."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

import objnet
from tests.examples.scripts import load

lm = load("transformer_lm")
TINY = ["--d-model=16", "--nhead=2", "--nlayers=1", "--length=16", "--batch-size=8"]


def tiny_model(dropout=0.0):
    objnet.manual_seed(0)
    return lm.TransformerModel(7, 16, 2, 32, 2, dropout, 12)


def test_no_place_sees_what_comes_after_it():
    model = tiny_model().eval()
    chars = np.random.default_rng(0).integers(0, 7, (2, 12))
    forward = objnet.jit(model)
    scores = np.asarray(forward(chars))
    assert scores.shape == (2, 12, 7)
    for place in (0, 5, 11):
        other = chars.copy()
        other[:, place] = (other[:, place] + 1) % 7
        changed = np.abs(np.asarray(forward(other)) - scores).max(axis=(0, 2))
        assert (changed[:place] < 1e-6).all() and (changed[place:] > 1e-4).all()


def test_positions_are_encoded_as_in_the_paper():
    encoding = lm.PositionalEncoding(6, 0.0, 9)
    found = encoding(jnp.zeros((1, 9, 6)))[0]
    for position in range(9):
        for i in range(3):
            angle = position / 10000 ** (2 * i / 6)
            np.testing.assert_allclose(found[position, 2 * i : 2 * i + 2], [math.sin(angle), math.cos(angle)], atol=1e-5)
    assert not encoding.state_dict()


def test_layers_start_apart():
    first, second = (layer.linear1.weight for layer in tiny_model().encoder.layers)
    assert np.abs(np.asarray(first.data) - np.asarray(second.data)).max() > 0.1


@pytest.mark.slow
def test_it_learns_a_text(tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat and the dog sat on the log. " * 80, encoding="utf-8")
    save = tmp_path / "run"
    args = [f"--data={text}", f"--save={save}", "--steps=150", "--log-interval=30", "--lr=1e-2", "--sample=40"]
    loss = lm.main([*TINY, *args])
    out = capsys.readouterr().out
    losses = [float(line.split("train loss ")[1]) for line in out.splitlines() if "train loss" in line]
    assert len(losses) == 5 and losses[-1] < 0.35 * losses[0]
    assert loss < 0.8  # chance is 2.8
    sample = out.partition("sample:\n")[2]
    assert len(sample.strip()) >= 30 and len(set(sample.split()) & set("the cat sat on mat and dog log.".split())) > 3
    weights = objnet.load(save / "model.safetensors")
    assert weights["encoder.layers.0.linear1.weight"].shape == (64, 16) and "pos_encoder.pe" not in weights


def test_a_sample_comes_from_the_last_characters_only():
    model = tiny_model()
    objnet.manual_seed(1)
    chars = lm.generate(model, 3, 30, 12)
    assert len(chars) == 30 and set(chars) <= set(range(7)) and len(set(chars)) > 2
    objnet.manual_seed(1)
    assert lm.generate(model, 3, 30, 12) == chars and not model.training
    objnet.manual_seed(1)
    scores = np.log([1e-9, 1, 1e-9, 1e-9, 1e-9, 1e-9, 1e-9])
    model.decoder.weight.data.zero_()
    model.decoder.bias.data.copy_(jnp.asarray(scores, jnp.float32))
    assert lm.generate(model, 3, 5, 12) == [1] * 5


def test_the_rate_warms_up_and_cools_down():
    rates = [lm.learning_rate(step, 200, 2.0) for step in range(200)]
    assert np.argmax(rates) in (9, 10) and max(rates) == 2.0 and rates[0] == 0.2
    assert rates[10:] == sorted(rates[10:], reverse=True) and rates[-1] == pytest.approx(0.2, rel=0.01)
    assert lm.learning_rate(0, 1, 2.0) == 2.0


def test_batches_are_windows_and_what_follows():
    chars, targets = lm.get_batch(np.arange(100, 130), np.array([0, 20]), 5)
    np.testing.assert_array_equal(chars, [[100, 101, 102, 103, 104], [120, 121, 122, 123, 124]])
    np.testing.assert_array_equal(targets, chars + 1)


def test_unfit_texts_are_refused(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("too short")
    with pytest.raises(lm.InputError, match="too short: 0 characters for validation"):
        lm.main([*TINY, f"--data={text}"])
    text.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(lm.InputError, match="not UTF-8 text.*byte 0"):
        lm.main([*TINY, f"--data={text}"])
    with pytest.raises(FileNotFoundError):
        lm.main([*TINY, f"--data={tmp_path / 'nowhere'}"])
