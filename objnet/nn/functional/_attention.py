"""How attention is computed: all at once, head by head, or by cuDNN.

*At once.*  ``softmax(query @ key.T * scale + bias) @ value``, where the exponentials are divided by their sum after the
product with ``value``: one pass less over the (L, S) matrix.  (8, 8, 128, 32) on CPU, causal, with its gradient, against
this: softmax before the product 1.12, analytic rules that keep the softmax or compute it again 1.27 and 1.11,
``jax.nn.dot_product_attention`` 1.42.  float16 and bfloat16 keep that matrix in float32.

*By head.*  On CPU an (L, S) matrix that falls out of the cache is computed for one head and a block of queries at a
time, and again in the backward pass.  Float32 on two cores, minima of interleaved runs, against one product over all
heads: (1, 8, 2048, 64) forward 0.3 of the time, (2, 8, 512, 64) forward 0.8 and with its gradient 0.7; blocks of
queries with all heads in each 0.6 and 0.9; ``jax.nn.dot_product_attention`` 1.3.  At (8, 8, 128, 32) one product wins.

*cuDNN.*  Half precision on NVIDIA GPUs, without a mask of the caller's and without dropout.  As torch's flash attention
it has one derivative and no forward mode: ``nn.attention.sdpa_kernel(SDPBackend.MATH)`` asks for the first way.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from objnet.core.attention import SDPBackend, enabled
from objnet.core.precision import matmul_precision
from objnet.nn.functional._common import is_half
from objnet.nn.functional.dropout import _kept, _masked

# Elements of the (L, S) matrix from which heads are taken one by one, and of the block of it that is held then.
_LONG, _BLOCK = 2**18, 2**20
# Blocks of fewer queries than this are not worth the loop.
_SHORT = 128


def product(a: jax.Array, b: jax.Array) -> jax.Array:
    """``a @ b``, accumulated in float32 at least."""
    wide = jnp.float32 if is_half(a) else a.dtype
    return jnp.matmul(a, b, precision=matmul_precision(a, b), preferred_element_type=wide)


def bias_of(mask: jax.Array, dtype: Any) -> jax.Array:
    """What is added to the logits: a floating point mask itself, minus infinity where a boolean one is False."""
    return jnp.where(mask, 0.0, -math.inf).astype(dtype) if mask.dtype == jnp.bool_ else mask.astype(dtype)


def causal_bias(rows: jax.Array, columns: int, dtype: Any) -> jax.Array:
    """Minus infinity where the column comes after the row."""
    return bias_of(rows[:, None] >= jnp.arange(columns), dtype)


def exponentials(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``softmax(logits)`` as a numerator and a denominator; rows that are all minus infinity become zero, as in torch."""
    top = lax.stop_gradient(jnp.max(logits, -1, keepdims=True, initial=-math.inf))
    powers = jnp.exp(logits - jnp.where(top == -math.inf, 0.0, top))
    total = jnp.sum(powers, -1, keepdims=True)
    return powers, jnp.where(total == 0, 1.0, total)


def dropped(weights: jax.Array, key: jax.Array | None, p: float) -> jax.Array:
    """Dropout with a key of the caller's."""
    if key is None or p == 0:
        return weights
    return weights * 0 if p == 1 else _masked(weights, _kept(key, weights.shape, p), 1 / (1 - p))


def at_once(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array | None,
    rows: jax.Array | None,
    scale: float,
    p: float = 0.0,
    rng: jax.Array | None = None,
) -> jax.Array:
    """Attention by two products over all heads.

    Args:
        query, key, value: shapes (..., L, E), (..., S, E), (..., S, Ev), leading dimensions that broadcast.
        mask: boolean or added to the logits, broadcasts to (..., L, S).
        rows: positions of the queries, shape (L,), if later keys are not to be seen.
        scale: multiplies the logits.
        p, rng: probability and key of the dropout of weights, none without a key.
    """
    logits = product(query, jnp.swapaxes(key, -1, -2)) * scale
    if mask is not None:
        logits = logits + bias_of(mask, logits.dtype)
    if rows is not None:
        logits = logits + causal_bias(rows, key.shape[-2], logits.dtype)
    powers, total = exponentials(logits)
    return (product(dropped(powers, rng, p).astype(value.dtype), value) / total).astype(query.dtype)


def by_head(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array | None,
    rows: jax.Array | None,
    scale: float,
    p: float = 0.0,
    rng: jax.Array | None = None,
) -> jax.Array:
    """As :func:`at_once`, in a loop over heads and blocks of queries that keeps none of the (L, S) matrices."""
    lead = jnp.broadcast_shapes(*(x.shape[:-2] for x in (query, key, value)))
    length, heads = query.shape[-2], math.prod(lead)
    blocks = length // _divisor(length, max(1, _BLOCK // key.shape[-2]))
    mask = None if mask is None else jnp.atleast_2d(mask)
    shared = mask is None or math.prod(mask.shape[:-2]) == 1  # one mask for all heads stays outside of the loop

    def flat(x: jax.Array) -> jax.Array:
        return jnp.broadcast_to(x, (*lead, *x.shape[-2:])).reshape(heads, *x.shape[-2:])

    def one_head(head: tuple[Any, ...]) -> jax.Array:
        query, key, value, own, rng = head
        seen = own if not shared or mask is None else mask.reshape(mask.shape[-2:])
        by_row = seen is not None and seen.shape[0] > 1

        @jax.checkpoint
        def one_block(block: tuple[Any, ...]) -> jax.Array:
            query, seen_here, rows, rng = block
            return at_once(query, key, value, seen_here if by_row else seen, rows, scale, p, rng)

        blocked = (_split(query, blocks), _split(seen, blocks) if by_row else None, _split(rows, blocks), rng)
        return lax.map(one_block, blocked).reshape(length, value.shape[-1])

    rngs = None if rng is None else jax.random.split(rng, (heads, blocks))
    each = (flat(query), flat(key), flat(value), None if shared else flat(mask), rngs)
    return lax.map(one_head, each).reshape(*lead, length, value.shape[-1])


def pays_by_head(query: jax.Array, key: jax.Array) -> bool:
    """Whether to take :func:`by_head`: the faster way for these shapes on this platform, or the only one allowed.

    Raises:
        RuntimeError: ``sdpa_kernel`` allows nothing that could compute this.
    """
    plain, cpu = SDPBackend.MATH in enabled(), jax.default_backend() == "cpu"
    blocks = {SDPBackend.EFFICIENT_ATTENTION} | ({SDPBackend.FLASH_ATTENTION} if cpu else set())
    if not plain and not blocks & enabled():
        names = ", ".join(b.name for b in sorted(enabled())) or "nothing"
        raise RuntimeError(
            f"No available kernel: sdpa_kernel allows {names}, which cannot compute this on {jax.default_backend()}"
        )
    size = query.shape[-2] * key.shape[-2]
    return bool(blocks & enabled()) and size > 0 and (not plain or (size >= _LONG and cpu))


def cudnn_takes(query: jax.Array, key: jax.Array, value: jax.Array, causal: bool) -> bool:
    """Whether cuDNN's flash attention computes these shapes and dtypes on the default device."""
    q, k, v = query.shape, key.shape, value.shape
    return (
        bool({SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION} & enabled())
        and is_half(query)
        and len(q) == len(k) == len(v) == 4
        and q[0] == k[0] == v[0]
        and k[1:] == v[1:]
        and q[3] == k[3]
        and q[3] % 8 == 0
        and q[3] <= 128
        and 0 not in (*q, *k)
        and q[1] % k[1] == 0
        and (not causal or q[2] == k[2])
        and _compute_capability() >= 8.0
    )


def by_cudnn(query: jax.Array, key: jax.Array, value: jax.Array, causal: bool, scale: float) -> jax.Array:
    """Attention by cuDNN where the program runs on CUDA, :func:`at_once` where it is lowered for something else."""

    def flash(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        q, k, v = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))
        output = jax.nn.dot_product_attention(q, k, v, scale=scale, is_causal=causal, implementation="cudnn")
        return jnp.swapaxes(output, 1, 2)

    def plain(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        (batch, heads, length, _), groups = query.shape, key.shape[1]
        rows = jnp.arange(length) if causal else None
        grouped = query.reshape(batch, groups, heads // groups, *query.shape[2:])
        output = at_once(grouped, key[:, :, None], value[:, :, None], None, rows, scale)
        return output.reshape(batch, heads, *output.shape[3:])

    return lax.platform_dependent(query, key, value, cuda=flash, default=plain)


def _compute_capability() -> float:
    """That of the default device if it is an NVIDIA GPU, else 0."""
    try:
        return float(getattr(jax.devices()[0], "compute_capability", 0))
    except ValueError:  # AMD names its architecture here
        return 0.0


def _divisor(length: int, most: int) -> int:
    """The largest divisor of ``length`` up to ``most``; ``length`` itself if only small ones are left."""
    found = next((n for n in range(min(most, length), 0, -1) if length % n == 0), length)
    return found if found >= min(length, _SHORT) else length


def _split(x: jax.Array | None, blocks: int) -> jax.Array | None:
    return None if x is None else x.reshape(blocks, len(x) // blocks, *x.shape[1:])
