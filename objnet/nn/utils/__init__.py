"""Utilities over parameters and modules (torch's ``nn.utils``)."""

from __future__ import annotations

from objnet.nn.utils import clip_grad, rnn
from objnet.nn.utils.clip_grad import clip_grad_norm_, clip_grad_value_, clip_grads_with_norm_, get_total_norm

__all__ = ["clip_grad", "clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_", "get_total_norm", "rnn"]
