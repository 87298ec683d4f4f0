"""Channels dealt out in turns."""

from __future__ import annotations

import jax

from objnet.nn import functional as F
from objnet.nn.module import Module

__all__ = ["ChannelShuffle"]


class ChannelShuffle(Module):
    """Interleaves the channels of ``groups`` groups (torch's ``nn.ChannelShuffle``).

    Input (N, C, \\*), output alike.
    """

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, input: jax.Array) -> jax.Array:
        return F.channel_shuffle(input, self.groups)

    def extra_repr(self) -> str:
        return f"groups={self.groups}"
