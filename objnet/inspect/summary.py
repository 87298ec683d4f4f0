"""``summary``: a model as a table of modules, shapes, parameters and operations (what torchinfo does for torch)."""

from __future__ import annotations

import html
import math
from typing import Any, NamedTuple

import jax

from objnet.inspect import flops
from objnet.inspect.record import Recording


class Row(NamedTuple):
    """One module.

    Attributes:
        path: dotted; empty for the model itself.
        kind: the class name.
        input, output: shapes at the first call, as text; empty for a module that was not called.
        parameters: how many numbers the module's own parameters hold, those below not counted.
        trainable: how many of them require gradients.
        flops: floating-point operations of all its calls, those below counted (see :mod:`objnet.inspect.flops`).
        bytes: of its own parameters and buffers.
        calls: how often the forward was traced; the body of a loop once.
        frozen: whether it has parameters and none requires gradients.
        tied: for each parameter that goes by several names, ``name = other path``; its numbers count where it comes first.
    """

    path: str
    kind: str
    input: str
    output: str
    parameters: int
    trainable: int
    flops: Any
    bytes: int
    calls: int
    frozen: bool
    tied: tuple[str, ...]

    @property
    def depth(self) -> int:
        """How far below the model."""
        return self.path.count(".") + 1 if self.path else 0


class Summary:
    """What :func:`summary` returns; prints as a table.

    Attributes:
        rows: one :class:`Row` a module, in the order of ``named_modules``.
        parameters, trainable: totals; a tied parameter counts once.
        buffers: how many numbers the buffers and array attributes hold.
        flops: of the whole forward, operations outside of any submodule counted.
        parameter_bytes, buffer_bytes: totals.
        output_bytes: of the outputs of all modules that call no other, as an estimate of activations.
    """

    def __init__(self, name: str, rows: list[Row], cells: list[Any], flops: Any, output_bytes: Any):
        self.name = name
        self.rows = rows
        self.parameters = sum(row.parameters for row in rows)
        self.trainable = sum(row.trainable for row in rows)
        self.flops = flops
        self.output_bytes = output_bytes
        own = [_size(cell) for cell in cells]
        self.buffers = sum(size for size, _ in own)
        self.buffer_bytes = sum(size for _, size in own)
        self.parameter_bytes = sum(row.bytes for row in rows) - self.buffer_bytes

    def _lines(self) -> list[tuple[str, ...]]:
        lines = [("Module", "Input", "Output", "Parameters", "FLOPs", "Bytes", "")]
        for row in self.rows:
            name = row.path.rpartition(".")[2]
            label = "  " * row.depth + (f"{name} ({row.kind})" if name else row.kind)
            marks = [f"x{row.calls}"] if row.calls > 1 else []
            marks += ["frozen"] if row.frozen else ["partly frozen"] if row.trainable < row.parameters else []
            marks += [f"tied: {tie}" for tie in row.tied]
            numbers = [f"{n:,}" if isinstance(n, int) else str(n) for n in (row.parameters, row.flops, row.bytes)]
            numbers = [n if n != "0" else "-" for n in numbers]
            lines.append((label, row.input or "-", row.output or "-", *numbers, ", ".join(marks)))
        return lines

    def _totals(self) -> list[str]:
        flops = f"{self.flops:,}" if isinstance(self.flops, int) else str(self.flops)
        return [
            f"Parameters: {self.parameters:,} ({_bytes(self.parameter_bytes)}), trainable {self.trainable:,}, "
            f"frozen {self.parameters - self.trainable:,}",
            f"Buffers: {self.buffers:,} ({_bytes(self.buffer_bytes)})",
            f"FLOPs of one forward: {flops} (as traced; a multiply-add is 2)",
            f"Outputs of innermost modules: {_bytes(self.output_bytes)}",
        ]

    def __str__(self) -> str:
        lines = self._lines()
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = []
        for line in lines:
            cells = [c.rjust(w) if 3 <= i <= 5 else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
            text.append("  ".join(cells).rstrip())
        rule = "-" * max(map(len, text))
        return "\n".join([text[0], rule, *text[1:], rule, *self._totals()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head, *body = self._lines()
        cells = "".join(f"<th>{html.escape(c)}</th>" for c in head)
        rows = "".join(
            "<tr>" + "".join(f'<td style="white-space:pre">{html.escape(c)}</td>' for c in line) + "</tr>" for line in body
        )
        totals = "<br>".join(map(html.escape, self._totals()))
        return f"<table><thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table><p>{totals}</p>"


def summary(model: Any, *inputs: Any, **kwargs: Any) -> Summary:
    """A table of the modules of ``model``, evaluated abstractly: nothing is computed, drawn or changed.

    Args:
        model: a module, in the mode it is in.
        inputs, kwargs: as for a call; ``jax.ShapeDtypeStruct`` may stand for arrays, also with symbolic dimensions.

    Raises:
        TypeError: ``model`` is no module.
    """
    if not hasattr(model, "named_modules"):
        raise TypeError(f"summary takes a module, got {type(model).__name__}: objnet.inspect.to_dot takes functions too")
    recording = Recording(model, inputs, kwargs)
    own, order = flops.by_call(recording.jaxpr.jaxpr)
    total = dict(own)
    for number, caller in reversed(order):  # callers come before what they call
        total[caller] = total.get(caller, 0) + total.get(number, 0)
    callers = {caller for _, caller in order}
    numbers: dict[int, list[int]] = {}
    for number, _ in order:
        numbers.setdefault(id(recording.calls[number].module), []).append(number)
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    seen: set[int] = set()
    rows: list[Row] = []
    state: list[Any] = []
    for path, module in model.named_modules():
        called = numbers.get(id(module), [])
        first = recording.calls[called[0]] if called else None
        fresh, tied = [], []
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            others = [n for n in names[id(parameter)] if n != (f"{path}.{name}" if path else name)]
            tied += [f"{name} = {others[0]}"] if others else []
            if id(parameter) not in seen:
                fresh.append(parameter)
                seen.add(id(parameter))
        cells = [c for c in (*module._buffers.values(), *module._arrays.values()) if c is not None and id(c) not in seen]
        seen.update(map(id, cells))
        state += cells
        sizes = [_size(p) for p in fresh]
        mine = [p for p in module._parameters.values() if p is not None]
        rows.append(
            Row(
                path,
                type(module).__name__,
                _text(_arguments(first.inputs)) if first else "",
                _text(first.outputs) if first else "",
                sum(size for size, _ in sizes),
                sum(size for p, (size, _) in zip(fresh, sizes, strict=True) if p.requires_grad),
                sum(total.get(number, 0) for number in called),
                sum(size for _, size in sizes) + sum(_size(c)[1] for c in cells),
                len(called),
                bool(mine) and not any(p.requires_grad for p in mine),
                tuple(tied),
            )
        )
    innermost = [recording.calls[number].outputs for number, _ in order if number not in callers]
    return Summary(type(model).__name__, rows, state, total.get(-1, 0), sum(map(_nbytes, jax.tree.leaves(innermost))))


def _arguments(inputs: Any) -> Any:
    args, kwargs = inputs
    given = [*args, *kwargs.values()]
    return given[0] if len(given) == 1 else tuple(given)


def _size(cell: Any) -> tuple[int, int]:
    """Numbers and bytes of a Variable."""
    leaves = [x for x in jax.tree.leaves(cell._peek()) if hasattr(x, "shape")]
    return sum(math.prod(x.shape) for x in leaves), sum(map(_nbytes, leaves))


def _nbytes(x: Any) -> Any:
    return math.prod(x.shape) * x.dtype.itemsize


def _text(shapes: Any) -> str:
    """``float32[8,4]``, or a list of those."""
    found = [f"{x.dtype}[{','.join(map(str, x.shape))}]" for x in jax.tree.leaves(shapes)]
    return ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")


def _bytes(count: Any) -> str:
    if not isinstance(count, int):
        return f"{count} B"
    size, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"
