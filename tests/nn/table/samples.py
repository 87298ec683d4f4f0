"""Arguments for every name: those PyTorch publishes for its own tests, and ours where it has none (``cases``)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import torch

from tests.nn.table import cases

# Sparse gradients, for which there is one clear error; and what writes to a weight, which takes Parameters (their own tests do).
_APART = ("sparse", "max_norm")
# One sample is one compilation: more elements than this only cost time.
LARGEST = 20_000


class Sample(NamedTuple):
    """A call: of a function (``args``, ``kwargs``), or of a module built with them and called with ``inputs``."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    inputs: tuple[Any, ...] = ()
    input_kwargs: dict[str, Any] = {}

    def __str__(self) -> str:
        return ", ".join(
            [*map(show, (*self.args, *self.inputs)), *(f"{k}={show(v)}" for k, v in {**self.kwargs, **self.input_kwargs}.items())]
        )


def show(value: Any) -> str:
    """A short text for an argument."""
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, (list, tuple)):
        return f"({', '.join(map(show, value))})"
    return f"{type(value).__name__}(...)" if isinstance(value, torch.nn.Module) else repr(value)[:60]


def published(name: str, dtype: torch.dtype = torch.float32) -> list[Sample]:
    """What PyTorch's own tests call ``name`` with, in evaluation and training, without repetitions."""
    space, _, short = name.rpartition(".")
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = list(_of_module(name, dtype) if space == "nn" else _of_function(space, short, dtype))
    unique = {str(sample): sample for sample in found if not any(map(sample.kwargs.get, _APART))}
    return list(unique.values())


def _of_module(name: str, dtype: torch.dtype) -> Iterator[Sample]:
    info = _modules().get(name)
    if info is None or dtype not in info.dtypes:
        return
    for module_input in info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=False, training=False):
        made, given = module_input.constructor_input, module_input.forward_input
        if given is not None and _is_small(given.args):
            yield Sample(tuple(made.args), _plain(made.kwargs), tuple(given.args), _plain(given.kwargs))


def _of_function(space: str, short: str, dtype: torch.dtype) -> Iterator[Sample]:
    if space != "nn.functional":
        return
    for op in _ops().get(short, ()):
        if dtype in op.dtypes:
            for sample in op.sample_inputs("cpu", dtype, requires_grad=False):
                if _is_small((sample.input, *sample.args)):
                    yield Sample((sample.input, *sample.args), _plain(sample.kwargs))


def refusals(name: str) -> list[Sample]:
    """What PyTorch's own tests say must be refused."""
    space, _, short = name.rpartition(".")
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if space == "nn" and name in _modules() and _modules()[name].module_error_inputs_func is not None:
            info = _modules()[name]
            for error in info.module_error_inputs_func(
                info, device="cpu", dtype=torch.float32, requires_grad=False, training=False
            ):
                made, given = error.module_error_input.constructor_input, error.module_error_input.forward_input
                inputs = (tuple(given.args), dict(given.kwargs)) if given is not None else ((), {})
                found.append(Sample(tuple(made.args), _plain(made.kwargs), *inputs))
        if space == "nn.functional":
            for op in _ops().get(short, ()):
                if op.error_inputs_func is not None:
                    for error in op.error_inputs("cpu"):
                        sample = error.sample_input
                        found.append(Sample((sample.input, *sample.args), _plain(sample.kwargs)))
    return found


@cache
def _modules() -> dict[str, Any]:
    from torch.testing._internal.common_modules import module_db

    return {info.name: info for info in module_db}


@cache
def _ops() -> dict[str, list[Any]]:
    from torch.testing._internal.common_methods_invocations import op_db

    found: dict[str, list[Any]] = {}
    for op in op_db:
        found.setdefault(op.name.removeprefix("nn.functional."), []).append(op)
    return found


def _plain(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Without the device, which is the default one's here."""
    return {k: v for k, v in kwargs.items() if k not in ("device", "_stacklevel")}


def _is_small(args: tuple[Any, ...]) -> bool:
    return all(not isinstance(a, torch.Tensor) or (a.numel() <= LARGEST and a.layout == torch.strided) for a in args)


def few(samples: list[Sample], most: int | None) -> list[Sample]:
    """At most that many, spread evenly."""
    if most is None or len(samples) <= most:
        return samples
    return [samples[i * (len(samples) - 1) // (most - 1)] if most > 1 else samples[len(samples) // 2] for i in range(most)]


def of(name: str, most: int | None) -> list[Sample]:
    """The samples a row is made from: ``most`` of the published ones, and of ours one more than that (None: all)."""
    torch.manual_seed(0)
    own = [Sample(*case) for case in cases.CASES.get(name, list)()]
    return few(own, None if most is None else most + 1) + few(published(name), most)
