"""What the benchmarks share: equal losses first, interleaved rounds, and a table of ratios to the first entry."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence


class LossesDiffer(Exception):
    """Two entries do not compute the same thing, so their times cannot be compared."""


def check_losses(losses: Mapping[str, Sequence[float]], tolerance: float) -> None:
    """Compare every entry's losses with the first entry's, relative to their size or to 1 if that is larger.

    Raises:
        LossesDiffer: naming the entry and the step.
    """
    (first, expected), *others = losses.items()
    for name, values in others:
        for step, (a, b) in enumerate(zip(expected, values, strict=True)):
            if not abs(a - b) <= tolerance * max(1.0, abs(a)):
                raise LossesDiffer(f"{name} gives {b:.8g} in step {step}, {first} gives {a:.8g}")


def interleave(entries: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds per call that each entry reports, ``rounds`` times; every round begins with another entry."""
    times: dict[str, list[float]] = {name: [] for name in entries}
    names = list(entries)
    for number in range(rounds):
        start = number % len(names)
        for name in names[start:] + names[:start]:
            times[name].append(entries[name]())
    return times


def table(title: str, times: Mapping[str, Sequence[float] | str], unit: float, unit_name: str) -> str:
    """One row an entry: median time, and median, least and largest ratio to the first entry within a round.

    A string in place of times says why there are none.
    """
    first = next(iter(times.values()))
    width = max(map(len, times))
    lines = [title, f"{'':{width}}  {f'median {unit_name}':>12}  {'ratio':>6}  least - largest"]
    for name, values in times.items():
        if isinstance(values, str):
            lines.append(f"{name:{width}}  {values}")
            continue
        ratios = [b / a for a, b in zip(first, values, strict=True)]
        spread = f"{min(ratios):.2f} - {max(ratios):.2f}"
        median, ratio = statistics.median(values) / unit, statistics.median(ratios)
        lines.append(f"{name:{width}}  {median:12.1f}  {ratio:6.2f}  {spread}")
    return "\n".join(lines)
