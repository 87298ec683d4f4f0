"""Causal masks by name (``torch.nn.attention.bias``)."""

from __future__ import annotations

import enum
import warnings

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["CausalBias", "CausalVariant", "causal_lower_right", "causal_upper_left"]


class CausalVariant(enum.IntEnum):
    """Which corner the diagonal of a causal mask goes through (torch's ``CausalVariant``)."""

    UPPER_LEFT = 1
    LOWER_RIGHT = 2


class CausalBias:
    """A causal mask, to be passed as ``attn_mask`` to ``F.scaled_dot_product_attention`` (torch's ``CausalBias``).

    With UPPER_LEFT query ``i`` sees the keys up to ``i``; with LOWER_RIGHT the last query sees all keys, each earlier one
    a key less.  Wherever an array is wanted it is the boolean mask of shape (seq_len_q, seq_len_kv).

    Raises:
        AssertionError: ``variant`` is no :class:`CausalVariant`.
    """

    def __init__(self, variant: CausalVariant, seq_len_q: int, seq_len_kv: int) -> None:
        if not isinstance(variant, CausalVariant):
            raise AssertionError(f"variant must be a CausalVariant, got {type(variant).__name__}")
        self.variant = variant
        self.seq_len_q = seq_len_q
        self.seq_len_kv = seq_len_kv
        if variant == CausalVariant.LOWER_RIGHT and seq_len_q > seq_len_kv:
            message = "with a lower right causal bias and seq_len_q > seq_len_kv the first queries see no key: they give zeros"
            warnings.warn(message, UserWarning, stacklevel=2)

    @property
    def shape(self) -> tuple[int, int]:
        """(seq_len_q, seq_len_kv)."""
        return self.seq_len_q, self.seq_len_kv

    def _materialize(self, device: object = None) -> jax.Array:
        offset = 0 if self.variant == CausalVariant.UPPER_LEFT else self.seq_len_kv - self.seq_len_q
        mask = jnp.asarray(np.tri(*self.shape, offset, bool))
        return mask if device is None else jax.device_put(mask, device)

    def __jax_array__(self) -> jax.Array:
        return self._materialize()

    def __repr__(self) -> str:
        return repr(self._materialize())


def causal_upper_left(*size: int) -> CausalBias:
    """Query ``i`` sees the keys up to ``i``: what ``is_causal=True`` says (torch's ``causal_upper_left``).

    Raises:
        AssertionError: not two sizes, of queries and of keys.
    """
    if len(size) != 2:
        raise AssertionError(f"causal_upper_left takes two sizes, got {size}")
    return CausalBias(CausalVariant.UPPER_LEFT, *size)


def causal_lower_right(*size: int) -> CausalBias:
    """The last query sees all keys, as when keys are cached (torch's ``causal_lower_right``).

    Raises:
        AssertionError: not two sizes, of queries and of keys.
    """
    if len(size) != 2:
        raise AssertionError(f"causal_lower_right takes two sizes, got {size}")
    return CausalBias(CausalVariant.LOWER_RIGHT, *size)
