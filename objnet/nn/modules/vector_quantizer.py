"""Vector quantization (van den Oord et al. 2017, "Neural discrete representation learning"), which torch lacks.

Each vector of the input is replaced by the nearest row of a table of codes.  Gradients pass from the output to the input unchanged
("straight through").  The codes learn from a loss of their own, or follow the means of the vectors that choose them.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from objnet.core.arrays import as_array
from objnet.core.variable import Buffer
from objnet.nn import functional as F
from objnet.nn import init
from objnet.nn.functional._common import normalise_dim
from objnet.nn.module import Module
from objnet.nn.modules._parameters import blank, float_dtype, place
from objnet.nn.modules.moving_average import ExponentialMovingAverage

__all__ = ["VectorQuantizer", "VectorQuantizerEMA"]


class _Quantized(NamedTuple):
    """``quantize``, of the input's shape; the scalars ``loss`` and ``perplexity``, how many codes are in use; for each of the M
    vectors ``encodings`` (M, num_embeddings), one-hot, and squared ``distances``, alike; ``encoding_indices``, of the input's shape
    without the dimension of the vectors."""

    quantize: jax.Array
    loss: jax.Array
    perplexity: jax.Array
    encodings: jax.Array
    encoding_indices: jax.Array
    distances: jax.Array


class _Quantizer(Module):
    weight: Any

    def __init__(
        self, num_embeddings: int, embedding_dim: int, commitment_cost: float, dim: int, axis_name: str | tuple[str, ...] | None
    ) -> None:
        super().__init__()
        if num_embeddings < 1 or embedding_dim < 1:
            raise ValueError(f"sizes must be positive, got num_embeddings={num_embeddings}, embedding_dim={embedding_dim}")
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.commitment_cost = commitment_cost
        self.dim = dim
        self.axis_name = axis_name

    def quantize(self, encoding_indices: jax.Array) -> jax.Array:
        """The codes of these indices, along ``dim`` of the result."""
        codes = F.embedding(encoding_indices, self.weight)
        return jnp.moveaxis(codes, -1, normalise_dim(self.dim, codes.ndim))

    def forward(self, input: jax.Array) -> _Quantized:
        input, weight = as_array(input), self.weight
        dim = normalise_dim(self.dim, input.ndim)
        if input.ndim == 0 or input.shape[dim] != self.embedding_dim:
            raise RuntimeError(
                f"{self._get_name()} takes vectors of {self.embedding_dim} along dimension {self.dim}, got shape {input.shape}"
            )
        if input.dtype != weight.dtype:
            raise RuntimeError(f"{self._get_name()}: the input is {input.dtype}, the codes are {weight.dtype}")
        last = jnp.moveaxis(input, dim, -1)
        vectors = last.reshape(-1, self.embedding_dim)
        squares = jnp.sum(vectors * vectors, 1, keepdims=True), jnp.sum(weight * weight, 1)
        distances = squares[0] - 2 * F.linear(vectors, weight) + squares[1]
        nearest = jnp.argmin(distances, 1)
        encodings = jax.nn.one_hot(nearest, self.num_embeddings, dtype=distances.dtype)
        encoding_indices = nearest.reshape(last.shape[:-1])
        codes = self.quantize(encoding_indices)
        loss = self._loss(input, codes)
        self._learn(vectors, encodings)
        shares = jnp.mean(encodings, 0)
        if self.axis_name is not None:
            shares = lax.pmean(shares, self.axis_name)
        perplexity = jnp.exp(-jnp.sum(shares * jnp.log(shares + 1e-10)))
        quantized = input + lax.stop_gradient(codes - input)
        return _Quantized(quantized, loss, perplexity, encodings, encoding_indices, distances)

    def _loss(self, input: jax.Array, codes: jax.Array) -> jax.Array:
        return self.commitment_cost * jnp.mean((lax.stop_gradient(codes) - input) ** 2)

    def _learn(self, vectors: jax.Array, encodings: jax.Array) -> None:
        """Move the codes, if they move by themselves."""

    def extra_repr(self) -> str:
        text = f"{self.num_embeddings}, {self.embedding_dim}, commitment_cost={self.commitment_cost}"
        return text if self.dim == 1 else f"{text}, dim={self.dim}"


class VectorQuantizer(_Quantizer):
    """Replaces vectors by their nearest codes, which learn by gradients (Haiku's VectorQuantizer).

    Input (N, embedding_dim, *), the vectors along ``dim``. The result is a named tuple ``(quantize, loss, perplexity, encodings,
    encoding_indices, distances)``: add ``loss`` to the loss of the model. It draws the codes to the vectors and, times
    ``commitment_cost``, the vectors to the codes. ``weight`` (num_embeddings, embedding_dim) starts uniform within
    ``sqrt(3 / embedding_dim)``.

    Args:
        num_embeddings: number of codes.
        embedding_dim: length of a code.
        commitment_cost: the paper's beta.
        dim: the dimension of the input that holds the vectors.
        axis_name: mapped axes over which ``perplexity`` is taken; None for this device's batch.
        device: where the codes live, as in :meth:`Module.to`.
        dtype: their dtype.

    Raises:
        ValueError: sizes that are not positive.
        RuntimeError: from a call: vectors of another length or dtype. IndexError: no dimension ``dim``.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        commitment_cost: float = 0.25,
        dim: int = 1,
        axis_name: str | tuple[str, ...] | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, commitment_cost, dim, axis_name)
        self.weight = blank(num_embeddings, embedding_dim, dtype=dtype)
        self.reset_parameters()
        place(self, device)

    def reset_parameters(self) -> None:
        """Draw new codes."""
        _reset(self.weight)

    def _loss(self, input: jax.Array, codes: jax.Array) -> jax.Array:
        return jnp.mean((codes - lax.stop_gradient(input)) ** 2) + super()._loss(input, codes)


class VectorQuantizerEMA(_Quantizer):
    """Replaces vectors by their nearest codes, each a moving average of the vectors it replaced (Haiku's VectorQuantizerEMA).

    Input and result as :class:`VectorQuantizer`; ``loss`` only draws the vectors to the codes. ``weight`` is a buffer, which moves
    with each call in training. The averages are the modules ``ema_cluster_size``, how many vectors chose each code, and ``ema_dw``,
    their sums.

    Args:
        num_embeddings: number of codes.
        embedding_dim: length of a code.
        commitment_cost: the paper's beta.
        decay: the share of the averages that stays at each step, in [0, 1).
        epsilon: added to the number of vectors of each code, so that none is zero.
        dim: the dimension of the input that holds the vectors.
        axis_name: mapped axes over which averages and ``perplexity`` are taken; None for this device's batch.
        device: where the codes live, as in :meth:`Module.to`.
        dtype: their dtype.

    Raises:
        ValueError: sizes that are not positive, a decay out of range.
        RuntimeError: from a call: vectors of another length or dtype. IndexError: no dimension ``dim``.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        commitment_cost: float = 0.25,
        decay: float = 0.99,
        epsilon: float = 1e-5,
        dim: int = 1,
        axis_name: str | tuple[str, ...] | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, commitment_cost, dim, axis_name)
        self.decay = decay
        self.epsilon = epsilon
        self.weight = Buffer(np.zeros((num_embeddings, embedding_dim), float_dtype(dtype)))
        self.ema_cluster_size = ExponentialMovingAverage(num_embeddings, decay, dtype=dtype)
        self.ema_dw = ExponentialMovingAverage((num_embeddings, embedding_dim), decay, dtype=dtype)
        self.reset_parameters()
        place(self, device)

    def reset_parameters(self) -> None:
        """Draw new codes, and forget the vectors seen."""
        _reset(self._buffers["weight"])
        for average in (self.ema_cluster_size, self.ema_dw):
            for buffer in average._buffers.values():
                init.zeros_(buffer)

    def _learn(self, vectors: jax.Array, encodings: jax.Array) -> None:
        if not self.training:
            return
        vectors, encodings = lax.stop_gradient((vectors, encodings))
        sizes, sums = jnp.sum(encodings, 0), F.linear(encodings.T, vectors.T)
        if self.axis_name is not None:
            sizes, sums = lax.psum((sizes, sums), self.axis_name)
        sizes, sums = self.ema_cluster_size(sizes), self.ema_dw(sums)
        total = jnp.sum(sizes)
        sizes = (sizes + self.epsilon) / (total + self.num_embeddings * self.epsilon) * total
        self.weight = sums / sizes[:, None]

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, decay={self.decay}, epsilon={self.epsilon}"


def _reset(weight: Any) -> None:
    bound = math.sqrt(3 / weight.shape[1])
    init.uniform_(weight, -bound, bound)
