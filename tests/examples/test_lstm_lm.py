"""The examples lstm_lm.py and lstm_lm_pure.py: they learn, resume to the bit, refuse bad input, agree with torch."""

import importlib.util
import io
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import objnet
from objnet import nn, optim

ROOT = Path(__file__).parents[2]
# Sizes at which every batch has the same shape, so that there is little to compile.
TINY = ["--emsize=16", "--nhid=16", "--nlayers=1", "--batch-size=4", "--eval-batch-size=1", "--bptt=5", "--lr=10"]
EPOCH = re.compile(r"epoch +(\d+) .*train loss ([\d.]+) ppl +([\d.]+) *\| valid loss ([\d.]+) ppl +([\d.]+)")


def load(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


lm, pure = load("lstm_lm"), load("lstm_lm_pure")


def run(name, *args, first="", cwd=None):
    """Exit code, output and errors of an example as a program of its own, in which the code ``first`` runs first."""
    script = str(ROOT / "examples" / f"{name}.py")
    start = f"{first}\nimport runpy, sys\nsys.argv[0] = {script!r}\nrunpy.run_path({script!r}, run_name='__main__')"
    line = [sys.executable, *(["-c", start] if first else [script]), *args]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(line, env=environment, cwd=cwd, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout, done.stderr


WITHOUT_MATPLOTLIB = "import sys; sys.modules['matplotlib'] = None"
CTRL_C = """
import builtins, os, signal
say = builtins.print
def print(line, **kwargs):
    say(line, **kwargs)
    if line.startswith("epoch 2 | 3/"):
        os.kill(os.getpid(), signal.SIGINT)
builtins.print = print
"""


def epochs(out):
    """By epoch: train loss, train perplexity, valid loss, valid perplexity."""
    return {int(n): tuple(map(float, rest)) for n, *rest in EPOCH.findall(out)}


# -- lstm_lm.py as a program -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A text of a hundred sentences, where each word tells much of the next."""
    rng = np.random.default_rng(0)
    names = ["ann", "bob", "cat", "dan", "eve"]
    lines = [f"{rng.choice(names)} gave {rng.choice(names)} the {rng.choice(['red', 'old'])} book ." for _ in range(120)]
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n\n".join(lines), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def whole(text, tmp_path_factory):
    """An uninterrupted run of three epochs."""
    save = tmp_path_factory.mktemp("whole") / "deep" / "er"
    code, out, err = run("lstm_lm", "--data", text, "--save", str(save), "--epochs=3", "--sample=20", *TINY)
    assert code == 0, err
    return save, out


@pytest.mark.slow
def test_lm_learns(whole):
    _, out = whole
    found = epochs(out)
    assert list(found) == [1, 2, 3]
    assert found[3][1] < 0.7 * found[1][1] and found[3][3] < 0.9 * found[1][3]
    assert found[3][3] < 12  # of 15 words
    assert {"gave", "the", "book"} <= set(out.partition("sample:\n")[2].split())


def test_lm_writes_curve_weights_and_nothing_else(whole):
    save, _ = whole
    files = {f.name for f in save.iterdir()}
    assert files - {"loss.png"} == {"checkpoint.safetensors", "model.safetensors"}
    if importlib.util.find_spec("matplotlib"):
        assert (save / "loss.png").read_bytes().startswith(b"\x89PNG")
    weights = objnet.load(save / "model.safetensors")
    assert set(weights) >= {"encoder.weight", "decoder.weight", "decoder.bias", "rnn.weight_hh_l0"}
    np.testing.assert_array_equal(weights["encoder.weight"], weights["decoder.weight"])


@pytest.mark.slow
def test_lm_stopped_in_mid_epoch_and_resumed_is_the_same_run(text, whole, tmp_path):
    """Ctrl-C within epoch 2, resumed to the end of epoch 2, resumed to epoch 3: the same bits as without any stop."""
    save = tmp_path / "stopped"
    args = ["--data", text, "--save", str(save), "--log-interval=1", "--sample=0", *TINY]
    code, first, err = run("lstm_lm", "--epochs=3", *args, first=CTRL_C)
    assert code == 130 and "--resume" in first and "Traceback" not in err, (code, first, err)
    stopped = objnet.load(save / "checkpoint.safetensors")
    assert (stopped["epoch"], stopped["batch"]) == (1, 3)
    code, second, err = run("lstm_lm", "--resume", "--epochs=2", *args, first=WITHOUT_MATPLOTLIB)
    assert code == 0, err
    assert "matplotlib is not installed" in second and not (save / "loss.png").exists()
    code, third, err = run("lstm_lm", "--resume", "--epochs=3", *args)
    assert code == 0, err

    path, expected = whole
    assert [list(epochs(out)) for out in (first, second, third)] == [[1], [2], [3]]
    assert epochs(first) | epochs(second) | epochs(third) == epochs(expected)
    a, b = objnet.load(path / "checkpoint.safetensors"), objnet.load(save / "checkpoint.safetensors")
    assert jax.tree.structure(a) == jax.tree.structure(b) and a["epoch"] == 3
    jax.tree.map(np.testing.assert_array_equal, a, b)
    best = objnet.load(path / "model.safetensors"), objnet.load(save / "model.safetensors")
    jax.tree.map(np.testing.assert_array_equal, *best)


def test_lm_help_pages_of_python_are_text_enough():
    corpus = lm.Corpus(lm.read_text(None), 2)
    assert len(corpus.train) > 50_000 and 1_000 < len(corpus.words) < 10_000
    assert np.mean(corpus.valid == lm.UNK) < 0.1
    with pytest.raises(SystemExit, match="0"):
        lm.parse_args(["--help"])


# -- bad input ---------------------------------------------------------------------------------------------------------


def refused(capsys, module, *args):
    """The one line a program ends with, its exit code being 2."""
    with pytest.raises(SystemExit) as caught:
        module.main(list(map(str, args)))
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith(f"{module.__name__.removeprefix('example_')}: error: ")
    return err


def bad_texts(tmp_path):
    (tmp_path / "empty.txt").write_text(" \n\n\t")
    (tmp_path / "short.txt").write_text("a few words only")
    (tmp_path / "binary.txt").write_bytes(b"good \xff\xfe bad")
    return [
        ("missing.txt", "No such file"),
        ("empty.txt", "is empty"),
        ("short.txt", "too short"),
        ("binary.txt", "not UTF-8 text.*at byte 5"),
        (".", "directory"),
    ]


@pytest.mark.parametrize("module", [lm, pure], ids=["lm", "pure"])
def test_bad_texts_are_refused_and_nothing_is_written(capsys, tmp_path, monkeypatch, module):
    monkeypatch.chdir(tmp_path)
    texts = bad_texts(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for name, message in texts:
        assert re.search(f"{re.escape(name)}.*{message}|{message}.*{re.escape(name)}", refused(capsys, module, "--data", name))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_bad_text_as_a_program(tmp_path):
    code, out, err = run("lstm_lm", "--data", "missing.txt", cwd=tmp_path)
    assert (code, out) == (2, "") and "missing.txt" in err and "Traceback" not in err and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "args",
    [
        ["--epochs=0"],
        ["--lr=nan"],
        ["--lr=0"],
        ["--bptt=-3"],
        ["--dropout=1.5"],
        ["--batch-size=x"],
        ["--nhid=7"],
        ["--seed=-1"],
        ["--nonsense"],
    ],
)
def test_bad_arguments_are_refused(capsys, args):
    with pytest.raises(SystemExit, match="2"):
        lm.parse_args(args)
    assert re.search(r"error: .*" + args[0].partition("=")[0], capsys.readouterr().err)


def test_bad_checkpoints_are_refused_and_left_alone(capsys, text, whole, tmp_path):
    save, _ = whole
    good = (save / "checkpoint.safetensors").read_bytes()
    other = tmp_path / "other.txt"
    other.write_text(Path(text).read_text() + "\n\nzoe zoe zoe saw zoe .")
    cases = [
        (None, ["--data", text, *TINY], "No such file"),
        (good[: len(good) // 2], ["--data", text, *TINY], "checkpoint.safetensors"),
        (b"nonsense", ["--data", text, *TINY], "checkpoint.safetensors"),
        ((save / "model.safetensors").read_bytes(), ["--data", text, *TINY], "no checkpoint of this program"),
        (good, ["--data", text, *TINY, "--nhid=8", "--emsize=8"], "--emsize 16, this run has --emsize 8"),
        (good, ["--data", text, *TINY, "--nlayers=2"], "--nlayers 1, this run has --nlayers 2"),
        (good, ["--data", text, *TINY, "--bptt=6"], "--bptt 5, this run has --bptt 6"),
        (good, ["--data", other, *TINY], "another text"),
    ]
    for content, args, message in cases:
        folder = tmp_path / "run"
        folder.mkdir(exist_ok=True)
        path = folder / "checkpoint.safetensors"
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
        assert re.search(re.escape(message), refused(capsys, lm, "--resume", "--save", folder, *args))
        assert [f.name for f in folder.iterdir()] == ([] if content is None else [path.name])
        assert content is None or path.read_bytes() == content


def test_a_finished_run_resumed_trains_no_more(capsys, text, whole, tmp_path):
    args = ["--resume", "--data", text, "--save", str(tmp_path), "--epochs=3", "--sample=0", *TINY]
    for name in ("checkpoint.safetensors", "model.safetensors"):
        (tmp_path / name).write_bytes((whole[0] / name).read_bytes())
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    lm.main(args)
    out = capsys.readouterr().out
    assert "resumed after epoch 3" in out and "best valid loss" in out and not epochs(out)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(SystemExit, match="2"):
        lm.main(args)
    err = capsys.readouterr().err
    assert "model.safetensors: No such file" in err and err.count("\n") == 1


def test_a_folder_that_cannot_be_made(capsys, text, tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot make the folder" in refused(capsys, lm, "--data", text, "--save", tmp_path / "file" / "run", *TINY)


# -- the parts ---------------------------------------------------------------------------------------------------------


def test_batches_are_stretches_of_the_text():
    source = lm.batchify(np.arange(26, dtype=np.int32), 4)
    np.testing.assert_array_equal(source[:, 1], np.arange(6, 12))
    pieces = [lm.get_batch(source, i, 4) for i in range(0, len(source) - 1, 4)]
    assert [len(data) for data, _ in pieces] == [4, 1]
    for data, targets in pieces:
        np.testing.assert_array_equal(targets, data.reshape(-1) + 1)
    chars, targets = zip(*pure.batches(np.arange(26), (2, 2), 3))
    np.testing.assert_array_equal(np.concatenate(chars, -1)[1, 0], np.arange(12, 18))
    np.testing.assert_array_equal(np.concatenate(targets, -1), np.concatenate(chars, -1) + 1)


def test_words_and_vocabulary():
    words = ["it's", "good", "...", "<eos>", "'", "ok", "'", ";", "über", "<eos>"]
    assert lm.tokenize("It's  GOOD...\n \n'ok'; über\n\n\n") == words
    corpus = lm.Corpus("a a b <eos> c\n\n" * 5 + "once\n\n" + "d d", 2)
    assert corpus.words[:2] == ["<eos>", "<unk>"] and "once" not in corpus.words
    assert corpus.words.count("<eos>") == 1


def test_learning_rate_is_quartered_without_a_new_best(text, tmp_path, monkeypatch):
    args = lm.parse_args(["--data", text, "--save", str(tmp_path), "--epochs=5", *TINY])
    trainer = lm.Trainer(args, lm.Corpus(lm.read_text(text), args.min_count))
    losses = iter([3.0, 2.0, 2.5, 2.0, 1.5])
    monkeypatch.setattr(trainer, "train_epoch", lambda interrupt: 1.0)
    monkeypatch.setattr(trainer, "evaluate", lambda: next(losses))
    trainer.run(None)
    assert trainer.lr == 10 / 16 and trainer.best_loss == 1.5
    checkpoint = objnet.load(tmp_path / "checkpoint.safetensors")
    assert (checkpoint["lr"], checkpoint["best_loss"], checkpoint["epoch"]) == (10 / 16, 1.5, 5)


def test_a_run_that_diverges_says_so(text, tmp_path, monkeypatch, capsys):
    args = lm.parse_args(["--data", text, "--save", str(tmp_path), *TINY])
    trainer = lm.Trainer(args, lm.Corpus(lm.read_text(text), args.min_count))
    monkeypatch.setattr(trainer, "train_epoch", lambda interrupt: 1e6)
    monkeypatch.setattr(trainer, "evaluate", lambda: float("nan"))
    with pytest.raises(SystemExit, match="2"):
        trainer.run(None)
    assert "diverged" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_ctrl_c_asks_once_and_then_insists():
    before = signal.getsignal(signal.SIGINT)
    with lm.Interrupt() as interrupt:
        assert not interrupt.asked
        signal.raise_signal(signal.SIGINT)
        assert interrupt.asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_progress_bar_on_a_terminal(monkeypatch):
    pytest.importorskip("tqdm")
    stderr = io.StringIO()
    stderr.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", stderr)
    progress = lm.Progress("epoch 7", 2, 10, 4)
    assert not progress.due(7) and progress.due(8)
    progress.show(8, 12.3456, 5.0)
    progress.close()
    assert "epoch 7" in stderr.getvalue() and "8/10" in stderr.getvalue() and "ppl=12.35" in stderr.getvalue()


# -- against torch, and against itself in pure form --------------------------------------------------------------------

NTOKEN, SIZE, LAYERS, ROWS, BPTT = 13, 16, 2, 3, 7


def torch_model(dropout=0.0, tied=True):
    torch = pytest.importorskip("torch")

    class RNNModel(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.drop = torch.nn.Dropout(dropout)
            self.encoder = torch.nn.Embedding(NTOKEN, SIZE)
            self.rnn = torch.nn.LSTM(SIZE, SIZE, LAYERS, dropout=dropout)
            self.decoder = torch.nn.Linear(SIZE, NTOKEN)
            if tied:
                self.decoder.weight = self.encoder.weight
            torch.nn.init.uniform_(self.encoder.weight, -0.1, 0.1)
            torch.nn.init.zeros_(self.decoder.bias)
            torch.nn.init.uniform_(self.decoder.weight, -0.1, 0.1)

        def forward(self, input, hidden=None):
            output, hidden = self.rnn(self.drop(self.encoder(input)), hidden)
            return self.decoder(self.drop(output)).view(-1, NTOKEN), hidden

    torch.manual_seed(5)
    return torch, RNNModel()


def our_model(dropout=0.0, tied=True):
    objnet.manual_seed(5)
    return lm.RNNModel(NTOKEN, SIZE, SIZE, LAYERS, dropout, tied)


def words(rows=40):
    return lm.batchify(np.cumsum(np.arange(rows * ROWS, dtype=np.int32) % 3 + 1, dtype=np.int32) % NTOKEN, ROWS)


@pytest.mark.parametrize("tied", [True, False])
def test_same_seed_gives_torch_initial_weights(tied):
    _, theirs = torch_model(tied=tied)
    ours = our_model(tied=tied)
    expected = theirs.state_dict()
    assert list(ours.state_dict()) == list(expected)
    assert len(list(ours.parameters())) == len(list(theirs.parameters()))
    for name, value in ours.state_dict().items():
        np.testing.assert_allclose(value, expected[name].numpy(), rtol=0, atol=1e-6, err_msg=name)


def test_torch_weights_load_unchanged_and_back():
    torch, theirs = torch_model()
    with torch.no_grad():
        for p in theirs.parameters():
            p.copy_(torch.randn(p.shape))
    ours = our_model()
    assert not any(ours.load_state_dict(theirs.state_dict()))
    ours.eval().init_hidden(ROWS)
    hidden = None
    for i in range(0, 21, BPTT):
        data, _ = lm.get_batch(words(), i, BPTT)
        with torch.no_grad():
            expected, hidden = theirs.eval()(torch.from_numpy(data).long(), hidden)
        np.testing.assert_allclose(ours(data), expected.numpy(), atol=1e-5)
        for mine, their in zip(ours.hidden, hidden, strict=True):
            np.testing.assert_allclose(mine, their.numpy(), atol=1e-5)
    _, twin = torch_model()
    twin.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in ours.state_dict().items()})
    for (name, a), b in zip(theirs.state_dict().items(), twin.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def objnet_losses(model, lr, clip, steps):
    optimizer = optim.SGD(model.parameters(), lr=lr)
    criterion = nn.CrossEntropyLoss()

    @objnet.jit
    def step(data, targets):
        optimizer.zero_grad()
        loss = objnet.backward(lambda: criterion(model(data), targets))
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        return loss

    model.train().init_hidden(ROWS)
    return [float(step(*lm.get_batch(words(), i * BPTT % 35, BPTT))) for i in range(steps)]


def test_training_follows_torch():
    torch, theirs = torch_model()
    optimizer = torch.optim.SGD(theirs.parameters(), lr=5.0)
    expected, hidden = [], None
    for i in range(15):
        data, targets = lm.get_batch(words(), i * BPTT % 35, BPTT)
        optimizer.zero_grad()
        output, hidden = theirs(torch.from_numpy(data).long(), hidden)
        hidden = tuple(h.detach() for h in hidden)
        loss = torch.nn.functional.cross_entropy(output, torch.from_numpy(targets).long())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.25)
        optimizer.step()
        expected.append(loss.item())
    ours = our_model()
    np.testing.assert_allclose(objnet_losses(ours, 5.0, 0.25, 15), expected, atol=1e-4)
    assert np.ptp(expected) > 0.1  # the weights have moved
    for name, value in theirs.state_dict().items():
        np.testing.assert_allclose(ours.state_dict()[name], value.numpy(), atol=1e-4, err_msg=name)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_plain_jax_on_the_pure_form_and_objnet_jit_give_equal_losses(dropout):
    """Dropout 0: a whole training loop. With dropout: masks differ by design, so evaluation only."""
    model = our_model(dropout)
    model.init_hidden(ROWS)
    model.train(dropout == 0.0)
    net = objnet.transform_with_state(model)
    params, state = net.init(None)

    def loss_fn(params, state, data, targets):
        logits, state = net.apply(params, state, None, data)
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean(), state

    @jax.jit
    def step(params, state, data, targets):
        (loss, state), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, state, data, targets)
        scale = jnp.minimum(1.0, 0.25 / (jnp.sqrt(sum(jnp.vdot(g, g) for g in jax.tree.leaves(grads))) + 1e-6))
        return loss, jax.tree.map(lambda p, g: p - 5.0 * scale * g, params, grads), state

    criterion = nn.CrossEntropyLoss()
    batches = [lm.get_batch(words(), i * BPTT % 35, BPTT) for i in range(8)]
    expected = []
    if dropout:
        evaluate = objnet.jit(lambda data, targets: criterion(model(data), targets))
        for batch in batches:
            loss, state = jax.jit(loss_fn)(params, state, *batch)
            expected.append(float(loss))
        found = [float(evaluate(*batch)) for batch in batches]
    else:
        for batch in batches:
            loss, params, state = step(params, state, *batch)
            expected.append(float(loss))
        found = objnet_losses(model, 5.0, 0.25, 8)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert len(set(found)) > 1


# -- lstm_lm_pure.py ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_pure_learns(text, tmp_path):
    args = ["--data", text, "--hidden=16", "--batch-size=4", "--bptt=16", "--epochs=2", "--sample=50"]
    code, out, err = run("lstm_lm_pure", *args, cwd=tmp_path)
    assert code == 0, err
    found = epochs(out)
    assert found[2][1] < 0.8 * found[1][1] and found[2][3] < found[1][3] and found[2][3] < 10
    assert "1 device\n" in out and len(out.partition("sample:\n")[2]) > 50
    assert not list(tmp_path.iterdir())


def test_pure_refuses_a_batch_its_devices_cannot_share(capsys):
    if jax.local_device_count() < 2:
        pytest.skip("one device")
    assert "--batch-size 33 cannot be split" in refused(capsys, pure, "--quick", "--batch-size=33")


def test_pure_step_uses_all_five_transforms_for_gradient_descent_on_the_mean_of_all_texts(monkeypatch):
    """The step against the same written with one gradient over the whole batch."""
    used = set()

    def note(module, name):
        original = getattr(module, name)

        def wrapper(*args, **kwargs):
            used.add(name)
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, wrapper)

    for module, name in ((jax, "jit"), (jax, "grad"), (jax, "vmap"), (jax, "pmap"), (jax.lax, "scan")):
        note(module, name)
    functions = pure.purify(5, 4, 1e-3)
    params = functions.init(jax.random.PRNGKey(0))
    assert used == {"jit", "pmap"}
    rows = (jax.local_device_count(), 2)
    chars, targets = np.random.default_rng(0).integers(0, 5, (2, *rows, 3)).astype(np.int32)
    state = pure.zero_state(*rows, 4)
    new, loss, ended = functions.train_step(params, 500.0, state, chars, targets)
    assert used == {"jit", "grad", "vmap", "pmap", "scan"}
    assert jax.tree.map(jnp.shape, ended) == ((*rows, 4), (*rows, 4)) and loss.shape == ()

    flat = [jax.tree.map(lambda a: a.reshape(-1, a.shape[-1]), x) for x in (state, chars, targets)]
    grads, (expected, _) = jax.grad(functions.loss, has_aux=True)(params, *flat)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    norm = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(grads)))
    assert norm > 1e-2  # so it was clipped
    for a, p, g in zip(*map(jax.tree.leaves, (new, params, grads)), strict=True):
        np.testing.assert_allclose(a, p - 0.5 * g / norm, atol=1e-6)


def test_pure_cell_is_torch_cell():
    torch = pytest.importorskip("torch")
    cell, theirs = pure.LSTMCell(3, 4), torch.nn.LSTMCell(3, 4)
    with torch.no_grad():
        theirs.bias_hh.zero_()
        for name in ("weight_ih", "weight_hh"):
            getattr(theirs, name).copy_(torch.from_numpy(np.array(cell.state_dict()[name])))
        cell.load_state_dict({**cell.state_dict(), "bias": theirs.bias_ih})
    x, h, c = (np.random.default_rng(i).normal(size=n).astype(np.float32) for i, n in enumerate((3, 4, 4)))
    _, (h1, c1) = cell(jnp.asarray(x), (jnp.asarray(h), jnp.asarray(c)))
    with torch.no_grad():
        h2, c2 = theirs(torch.from_numpy(x), (torch.from_numpy(h), torch.from_numpy(c)))
    np.testing.assert_allclose(h1, h2.numpy(), atol=1e-6)
    np.testing.assert_allclose(c1, c2.numpy(), atol=1e-6)


def test_pure_text_in_alphabet_and_back():
    functions = pure.purify(5, 4, 1.0)
    params = functions.init(jax.random.PRNGKey(0))
    chars = functions.generate(params, jax.random.PRNGKey(1), jnp.asarray(0), 12)
    assert chars.shape == (12,) and 0 <= int(chars.min()) and int(chars.max()) < 5
