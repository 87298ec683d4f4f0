"""Rotary positions (Su et al. 2021): the plain ones, and Llama 3's, which stretch the slow frequencies."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["RopeParameters", "rotary", "rotate"]

_NEEDED: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}


@dataclasses.dataclass(frozen=True)
class RopeParameters:
    """transformers' ``rope_parameters``: ``rope_type`` is "default", "linear" or "llama3"."""

    rope_theta: float = 10000.0
    rope_type: str = "default"
    factor: Any = None  # numbers, where the type needs them
    low_freq_factor: Any = None
    high_freq_factor: Any = None
    original_max_position_embeddings: Any = None

    def __post_init__(self) -> None:
        if self.rope_type not in _NEEDED:
            raise ValueError(f"rope_type must be one of {', '.join(map(repr, _NEEDED))}, got {self.rope_type!r}")
        missing = [name for name in _NEEDED[self.rope_type] if getattr(self, name) is None]
        if missing:
            raise ValueError(f"rope_parameters of type {self.rope_type!r} are missing {missing}")

    @classmethod
    def of(cls, values: RopeParameters | Mapping[str, Any] | None, max_position_embeddings: int) -> RopeParameters:
        """``values`` as this class.

        Raises:
            ValueError: a type or a field that is not known here, or a field missing that the type needs.
        """
        if isinstance(values, RopeParameters):
            return values
        values = {name: value for name, value in (values or {}).items() if value is not None}
        if "type" in values:
            values.setdefault("rope_type", values.pop("type"))  # the name before transformers 4.43
        if values.pop("partial_rotary_factor", 1.0) != 1.0:
            raise ValueError("partial_rotary_factor is not supported: the whole head is rotated")
        unknown = sorted(set(values) - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise ValueError(f"rope_parameters has unknown fields {unknown}")
        values.setdefault("original_max_position_embeddings", max_position_embeddings)
        return cls(**values)

    def frequencies(self, head_dim: int) -> np.ndarray:
        """Angle per position of each pair, (head_dim / 2,) float32."""
        frequencies = 1.0 / self.rope_theta ** (np.arange(0, head_dim, 2) / head_dim)
        if self.rope_type == "linear":
            frequencies = frequencies / self.factor
        elif self.rope_type == "llama3":
            # of a wave in the original context: the more turns, the less it is stretched
            turns = self.original_max_position_embeddings * frequencies / (2 * math.pi)
            kept = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
            kept = np.clip(kept, 0.0, 1.0)
            frequencies = (1 - kept) * frequencies / self.factor + kept * frequencies
        return frequencies.astype(np.float32)


def rotary(position_ids: jax.Array, head_dim: int, parameters: RopeParameters, dtype: Any) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine of every position's angles, (B or 1, 1, S, head_dim / 2) of ``dtype``; the angles are float32."""
    angles = position_ids[:, None, :, None].astype(jnp.float32) * parameters.frequencies(head_dim)
    return jnp.cos(angles).astype(dtype), jnp.sin(angles).astype(dtype)


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """(B, heads, S, head_dim) with the pairs ``(x[i], x[i + head_dim / 2])`` turned by their angles."""
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
