"""Making the rows of the table and showing them."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import NamedTuple

import torch

import objnet
from tests.nn.table import actions, names, samples
from tests.nn.table.columns import COLUMNS, Result
from tests.nn.table.differs import DIFFERS
from tests.nn.table.functions import function_row
from tests.nn.table.modules import module_row

# Published samples of a name that a row takes unless asked for all.
FEW = 3


class Row(NamedTuple):
    """A name and what was found of it, by column: None where equal, absent where the column does not apply."""

    name: str
    results: dict[str, Result]

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return not any(self.results.values())

    @property
    def differences(self) -> str:
        """A line for each column that differs."""
        found = {column: result for column, result in self.results.items() if result is not None}
        reasons = {column: f" (on purpose: {DIFFERS[self.name, column]})" for column in found if (self.name, column) in DIFFERS}
        return "\n".join(f"  {self.name} {column}: {result}{reasons.get(column, '')}" for column, result in found.items())


def make(name: str, most: int | None = FEW, thorough: bool = True) -> Row:
    """The row of ``name``, from ``most`` published samples (None: all); without the columns that compile most, unless thorough."""
    theirs = names.find(name, torch)
    try:
        ours = names.find(name, objnet)
    except AttributeError:
        return Row(name, {"signature": "not there"})
    if name in names.NO_MEANING:
        return Row(name, {"refusals": actions.refusal(ours)})
    if name in actions.ACTIONS:
        return Row(name, actions.row(name, ours, theirs))
    space = name.rpartition(".")[0]
    given = samples.of(name, most)
    if not given:
        return Row(name, {"forward": "no sample"})
    if space == "nn" and inspect.isclass(theirs) and issubclass(theirs, torch.nn.Module):
        return Row(name, module_row(name, given, thorough))
    return Row(name, function_row(name, given, thorough))


MARKS = {True: "=", False: "x"}


def lines(rows: Iterable[Row]) -> Iterable[str]:
    """The table as text, a line as soon as its row is there; then the count."""
    width = max(map(len, names.public()))
    yield f"{'':{width}}  {' '.join(COLUMNS)}"
    equal = count = 0
    for row in rows:
        marks = (MARKS[row.results[c] is None] if c in row.results else "." for c in COLUMNS)
        yield f"{row.name:{width}}  {' '.join(f'{mark:^{len(column)}}' for mark, column in zip(marks, COLUMNS, strict=True))}".rstrip()
        if not row.equal:
            yield row.differences
        equal, count = equal + row.equal, count + 1
    yield f"{equal} of {count} names fully equal (= equal, x differs, . does not apply)"
