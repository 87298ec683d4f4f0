"""The layers that ``layers.py`` compares: objnet's, ways of writing them by hand in jax, and torch's, on the same arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

import objnet
import objnet.nn.functional as F
from objnet.nn.functional import recurrent

Function = Callable[..., Any]


class Family(NamedTuple):
    """One layer: shapes of the arrays it is differentiated by, constants, and functions of both; ``torch`` takes the library."""

    shapes: tuple[tuple[int, ...], ...]
    ways: dict[str, Function]  # objnet first
    torch: Function
    constants: tuple[np.ndarray, ...] = ()
    random: bool = False  # results are not equal, only alike


def _integers(high: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(2).integers(0, high, shape).astype(np.int32)


# -- convolution and pooling -------------------------------------------------------------------------------------------


def _conv_nchw(x: Any, w: Any) -> Any:
    return lax.conv_general_dilated(x, w, (1, 1), [(1, 1)] * 2)


def _conv_nhwc(x: Any, w: Any) -> Any:
    names = ("NHWC", "HWIO", "NHWC")
    y = lax.conv_general_dilated(x.transpose(0, 2, 3, 1), w.transpose(2, 3, 1, 0), (1, 1), "SAME", dimension_numbers=names)
    return y.transpose(0, 3, 1, 2)


def _transposed_dilated(x: Any, w: Any) -> Any:
    return lax.conv_general_dilated(x, jnp.flip(w, (2, 3)).swapaxes(0, 1), (1, 1), [(2, 2)] * 2, lhs_dilation=(2, 2))


def _transposed_gradient(x: Any, w: Any) -> Any:
    n, _, h, width = x.shape
    big = jax.ShapeDtypeStruct((n, w.shape[1], 2 * h, 2 * width), x.dtype)
    return jax.linear_transpose(lambda y: lax.conv_general_dilated(y, w, (2, 2), [(1, 1)] * 2), big)(x)[0]


def _window(x: Any, start: float, operation: Any) -> Any:
    return lax.reduce_window(x, start, operation, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")


def _blocks(x: Any) -> Any:
    return x.reshape(*x.shape[:2], x.shape[2] // 2, 2, x.shape[3] // 2, 2)


# -- sequences ---------------------------------------------------------------------------------------------------------


def _lstm(hoisted: bool) -> Function:
    def run(x: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any) -> Any:
        def cell(state: Any, at: Any) -> Any:
            h, c = state
            gates = at + h @ w_hh.T if hoisted else at @ w_ih.T + b_ih + b_hh + h @ w_hh.T
            i, f, g, o = jnp.split(gates, 4, -1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        zero = jnp.zeros((x.shape[1], w_hh.shape[1]))
        return lax.scan(cell, (zero, zero), x @ w_ih.T + b_ih + b_hh if hoisted else x)[1]

    return run


def _attention(q: Any, k: Any, v: Any) -> Any:
    logits = jnp.einsum("bhld,bhmd->bhlm", q, k) * q.shape[-1] ** -0.5
    seen = jnp.tril(jnp.ones(logits.shape[-2:], bool))
    return jnp.einsum("bhlm,bhmd->bhld", jax.nn.softmax(jnp.where(seen, logits, -jnp.inf)), v)


def _jax_attention(*heads: Any) -> Any:
    return jax.nn.dot_product_attention(*(x.swapaxes(1, 2) for x in heads), is_causal=True).swapaxes(1, 2)


# -- normalisation, losses, pointwise ----------------------------------------------------------------------------------


def _normalised(axes: tuple[int, ...], parameters: tuple[int, ...], squares: bool) -> Function:
    def run(x: Any, w: Any, b: Any) -> Any:
        mean = x.mean(axes, keepdims=True)
        variance = (x * x).mean(axes, keepdims=True) - mean * mean if squares else x.var(axes, keepdims=True)
        return (x - mean) * lax.rsqrt(variance + 1e-5) * w.reshape(parameters) + b.reshape(parameters)

    return run


def _bernoulli(x: Any) -> Any:
    return jnp.where(jax.random.bernoulli(jax.random.key(0), 0.8, x.shape), x / 0.8, 0)


def _sixteen_bits(x: Any) -> Any:
    return jnp.where(jax.random.bits(jax.random.key(0), x.shape, jnp.uint16) < int(0.8 * 2**16), x / 0.8, 0)


def _resize_products(x: Any) -> Any:
    def weights(size: int) -> Any:
        at = (np.arange(2 * size) + 0.5) / 2 - 0.5
        return np.maximum(0, 1 - abs(np.clip(at, 0, size - 1)[:, None] - np.arange(size))).astype(np.float32)

    return jnp.einsum("nchw,Hh,Ww->ncHW", x, weights(x.shape[2]), weights(x.shape[3]))


_dropped = objnet.transform(lambda x: F.dropout(x, 0.2))
_channels, _rows = (1, -1, 1, 1), (1, 1, -1)

FAMILIES = {
    "linear": Family(
        ((8, 128, 256), (1024, 256), (1024,)),
        {
            "objnet": F.linear,
            "jax, x @ w.T": lambda x, w, b: x @ w.T + b,
            "jax, one matrix": lambda x, w, b: (x.reshape(-1, x.shape[-1]) @ w.T + b).reshape(*x.shape[:-1], -1),
        },
        lambda torch, *a: torch.nn.functional.linear(*a),
    ),
    "conv2d": Family(
        ((32, 64, 16, 16), (64, 64, 3, 3)),
        {"objnet": lambda x, w: F.conv2d(x, w, padding=1), "jax, NCHW": _conv_nchw, "jax, NHWC": _conv_nhwc},
        lambda torch, x, w: torch.nn.functional.conv2d(x, w, padding=1),
    ),
    "conv_transpose2d": Family(
        ((16, 32, 16, 16), (32, 16, 4, 4)),
        {
            "objnet": lambda x, w: F.conv_transpose2d(x, w, stride=2, padding=1),
            "jax, dilated": _transposed_dilated,
            "jax, transpose of conv": _transposed_gradient,
        },
        lambda torch, x, w: torch.nn.functional.conv_transpose2d(x, w, stride=2, padding=1),
    ),
    "max_pool2d": Family(
        ((64, 64, 24, 24),),
        {
            "objnet": lambda x: F.max_pool2d(x, 2),
            "jax, reduce_window": lambda x: _window(x, -jnp.inf, lax.max),
            "jax, blocks": lambda x: _blocks(x).max((3, 5)),
        },
        lambda torch, x: torch.nn.functional.max_pool2d(x, 2),
    ),
    "avg_pool2d": Family(
        ((64, 64, 24, 24),),
        {
            "objnet": lambda x: F.avg_pool2d(x, 2),
            "jax, reduce_window": lambda x: _window(x, 0.0, lax.add) / 4,
            "jax, blocks": lambda x: _blocks(x).mean((3, 5)),
        },
        lambda torch, x: torch.nn.functional.avg_pool2d(x, 2),
    ),
    "lstm": Family(
        ((35, 20, 200), (800, 200), (800, 200), (800,), (800,)),
        {
            "objnet": lambda x, *p: recurrent.lstm(x, None, p, True, 1, 0.0, False, False, False)[0],
            "jax, projection hoisted": _lstm(True),
            "jax, projection inside": _lstm(False),
        },
        lambda torch, x, *p: torch.lstm(x, (torch.zeros(1, 20, 200),) * 2, p, True, 1, 0.0, False, False, False)[0],
    ),
    "attention": Family(
        ((8, 8, 128, 32),) * 3,
        {
            "objnet": lambda *a: F.scaled_dot_product_attention(*a, is_causal=True),
            "jax, einsum": _attention,
            "jax.nn": _jax_attention,
        },
        lambda torch, *a: torch.nn.functional.scaled_dot_product_attention(*a, is_causal=True),
    ),
    "embedding": Family(
        ((2000, 256),),
        {
            "objnet": lambda w, i: F.embedding(i, w),
            "jax, lookup": lambda w, i: w[i],
            "jax, one-hot product": lambda w, i: jax.nn.one_hot(i, len(w)) @ w,
        },
        lambda torch, w, i: torch.nn.functional.embedding(i, w),
        (_integers(2000, 8, 128),),
    ),
    "cross_entropy": Family(
        ((1024, 10_000),),
        {
            "objnet": lambda x, y: F.cross_entropy(x, y),
            "jax, optax": lambda x, y: optax.softmax_cross_entropy_with_integer_labels(x, y).mean(),
            "jax, log_softmax": lambda x, y: -jnp.take_along_axis(jax.nn.log_softmax(x), y[:, None], 1).mean(),
        },
        lambda torch, x, y: torch.nn.functional.cross_entropy(x, y.long()),
        (_integers(10_000, 1024),),
    ),
    "batch_norm": Family(
        ((32, 64, 16, 16), (64,), (64,)),
        {
            "objnet": lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
            "jax, var": _normalised((0, 2, 3), _channels, False),
            "jax, mean of squares": _normalised((0, 2, 3), _channels, True),
        },
        lambda torch, x, w, b: torch.nn.functional.batch_norm(x, None, None, w, b, training=True),
    ),
    "layer_norm": Family(
        ((8, 128, 256), (256,), (256,)),
        {
            "objnet": lambda x, w, b: F.layer_norm(x, (256,), w, b),
            "jax, var": _normalised((-1,), _rows, False),
            "jax, mean of squares": _normalised((-1,), _rows, True),
        },
        lambda torch, x, w, b: torch.nn.functional.layer_norm(x, (256,), w, b),
    ),
    "gelu": Family(
        ((8, 128, 1024),),
        {
            "objnet": F.gelu,
            "jax.nn": lambda x: jax.nn.gelu(x, approximate=False),
            "jax, erf": lambda x: x * 0.5 * (1 + lax.erf(x * 0.5**0.5)),
        },
        lambda torch, x: torch.nn.functional.gelu(x),
    ),
    "dropout": Family(
        ((1024, 1024),),
        {
            "objnet": lambda x: _dropped.apply({}, jax.random.key(0), x),
            "jax, bernoulli": _bernoulli,
            "jax, 16 bits": _sixteen_bits,
        },
        lambda torch, x: torch.nn.functional.dropout(x, 0.2),
        random=True,
    ),
    "interpolate": Family(
        ((16, 32, 16, 16),),
        {
            "objnet": lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"),
            "jax.image": lambda x: jax.image.resize(x, (*x.shape[:2], 32, 32), "bilinear"),
            "jax, products": _resize_products,
        },
        lambda torch, x: torch.nn.functional.interpolate(x, scale_factor=2.0, mode="bilinear"),
    ),
}
