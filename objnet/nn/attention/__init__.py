"""Choosing how ``F.scaled_dot_product_attention`` computes (``torch.nn.attention``)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from objnet.core import attention
from objnet.core.attention import SDPBackend
from objnet.nn.attention import bias, flex_attention

__all__ = ["SDPBackend", "bias", "flex_attention", "sdpa_kernel"]


@contextlib.contextmanager
def sdpa_kernel(backends: list[SDPBackend] | SDPBackend, set_priority: bool = False) -> Iterator[dict[str, object]]:
    """Allow only some ways of computing attention, as a context or a decorator (torch's ``sdpa_kernel``).

    What counts is the moment of tracing.  ``objnet.jit`` keeps a program for each choice it is called under; plain
    ``jax.jit`` does not know about it, so there the context belongs inside of the function.

    Args:
        backends: one or a list; where none of them can compute a call, that call raises RuntimeError.
        set_priority: makes no difference: of those that can, the one expected to be fastest computes.

    Raises:
        AssertionError: ``backends`` is neither.
    """
    if not isinstance(backends, (list, SDPBackend)):
        raise AssertionError(f"backends must be an SDPBackend or a list of them, got {type(backends).__name__}")
    previous = attention.enabled()
    attention.enable([backends] if isinstance(backends, SDPBackend) else backends)
    try:
        yield {}
    finally:
        attention.enable(previous)
