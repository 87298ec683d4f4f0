"""Helpers that layers written for torch import from ``torch.nn.modules.utils``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from objnet.nn.modules._sizes import spread

__all__ = ["consume_prefix_in_state_dict_if_present"]


def _ntuple(n: int, name: str = "parse") -> Callable[[Any], tuple[Any, ...]]:
    """A function of the given name: a value ``n`` times as a tuple, the items of an iterable as they are."""

    def parse(x: Any) -> tuple[Any, ...]:
        return spread(x, n)

    parse.__name__ = name
    return parse


_single = _ntuple(1, "_single")
_pair = _ntuple(2, "_pair")
_triple = _ntuple(3, "_triple")
_quadruple = _ntuple(4, "_quadruple")


def _reverse_repeat_tuple(t: Sequence[Any], n: int) -> tuple[Any, ...]:
    """The items from the last to the first, each ``n`` times: paddings of a layer in the order ``F.pad`` takes."""
    return tuple(item for item in t[::-1] for _ in range(n))


def _list_with_default(out_size: Any, defaults: Sequence[int]) -> Any:
    """``out_size`` with each None replaced by the default of its dimension, counted from the last; a number as it is.

    Raises:
        ValueError: not more defaults than sizes (an input without a batch or channel dimension).
    """
    if not isinstance(out_size, Iterable):
        return out_size
    sizes = list(out_size)
    if len(defaults) <= len(sizes):
        raise ValueError(f"Input dimension should be at least {len(sizes) + 1}")
    last = defaults[len(defaults) - len(sizes) :]
    return [default if size is None else size for size, default in zip(sizes, last, strict=True)]


def consume_prefix_in_state_dict_if_present(state_dict: dict[str, Any], prefix: str) -> None:
    """Take ``prefix`` off the names that start with it, in place (torch's): weights of a wrapped model for the model itself.

    Args:
        state_dict: names to arrays; its ``_metadata`` is renamed too, and loses the entry of the wrapper.
        prefix: say ``"module."``.
    """
    for name in [name for name in state_dict if name.startswith(prefix)]:
        state_dict[name[len(prefix) :]] = state_dict.pop(name)
    metadata = getattr(state_dict, "_metadata", {})
    for path in [path for path in metadata if path]:
        if path.startswith(prefix) or path == prefix.replace(".", ""):
            metadata[path[len(prefix) :]] = metadata.pop(path)
