"""Every row of the parity table, but for what is listed with the reason why it differs."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("expecttest")  # PyTorch's published samples need it

from tests.nn.table import names, table  # noqa: E402

# What differs on purpose: name, column, and why.
_WINDOW = "torch takes a kernel size of -1 and gives minus infinity"
DIFFERS: dict[tuple[str, str], str] = {
    (
        "nn.AdaptiveLogSoftmaxWithLoss",
        "gradients",
    ): "a tail that no target uses has zeros here: a compiled program cannot know the targets",
    ("nn.AdaptiveAvgPool2d", "refusals"): "torch takes 5 dimensions where the output size is 1, and no others",
    (
        "nn.CircularPad3d",
        "refusals",
    ): "torch copies from memory it has not written where one side is negative and the other wraps twice",
    ("nn.EmbeddingBag", "refusals"): "torch takes offsets that decrease",
    ("nn.LinearCrossEntropyLoss", "refusals"): "a class out of range is an IndexError everywhere here",
    ("nn.MaxUnpool1d", "refusals"): "torch does not look at indices where the output is empty",
    ("nn.PixelUnshuffle", "refusals"): "torch gives the wrong shape for a batch of 0",
    ("nn.functional.hardtanh_", "refusals"): "torch takes min_val above max_val in place only",
    ("nn.functional.instance_norm", "refusals"): "torch takes integer running statistics",
    ("nn.functional.scaled_dot_product_attention", "refusals"): "torch takes batches of 4 and 0 together",
    **{(f"nn.functional.fractional_max_pool{d}d{tail}", "refusals"): _WINDOW for d in (2, 3) for tail in ("", "_with_indices")},
}


@pytest.mark.parametrize("name", names.public())
def test_row(name):
    row = table.make(name, most=2)
    wrong = {c: r for c, r in row.results.items() if r is not None and (name, c) not in DIFFERS}
    assert not wrong, row.differences
    stale = {c for n, c in DIFFERS if n == name} - {c for c, r in row.results.items() if r is not None}
    assert not stale, f"{name} differs no more in {stale}"


def test_the_table_can_tell_a_difference(monkeypatch):
    from objnet.nn import functional as F

    monkeypatch.setattr(F, "relu", lambda input, inplace=False: input)
    found = table.make("nn.functional.relu", most=1).results
    assert found["signature"] is None
    assert found["forward"] is not None
    assert found["gradients"] is not None


def test_the_count():
    rows = [table.Row("nn.A", {"forward": None}), table.Row("nn.B", {"forward": None, "gradients": "differs"})]
    *_, last = table.lines(rows)
    assert last.startswith("1 of 2 names fully equal")
