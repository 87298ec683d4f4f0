"""Every row of the parity table, but for what is listed with the reason why it differs."""

from __future__ import annotations

import os

import pytest

pytest.importorskip("torch")
pytest.importorskip("expecttest")  # PyTorch's published samples need it

from tests.nn.table import names, table  # noqa: E402
from tests.nn.table.differs import DIFFERS  # noqa: E402

# Every row, from one sample; a sixth of them with the dtypes and the transforms. OBJNET_TABLE=full takes all there is.
FULL = os.environ.get("OBJNET_TABLE") == "full"


@pytest.mark.parametrize(("number", "name"), list(enumerate(names.public())))
def test_row(number, name):
    row = table.make(name, most=None if FULL else 1, thorough=FULL or number % 6 == 0)
    wrong = {c: r for c, r in row.results.items() if r is not None and (name, c) not in DIFFERS}
    assert not wrong, row.differences


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
