"""The Box-Muller transform in blocks of sixteen, rounded as torch's x86 kernels round it.

Block ``(u1[8], u2[8])`` becomes ``(r cos t [8], r sin t [8])`` with ``r = sqrt(-2 log(1 - u1))`` and ``t = 2 pi u2``.
In float32 torch takes the logarithm, sine and cosine from the single-precision polynomials of S. Moshier's Cephes
library and its compiler fuses multiply-add pairs, so the same polynomials are evaluated here with the same roundings:
the samples are equal to the last bit, and equal on every machine.  Where a sum below is not fused, the product in it is
exact, or torch's compiler leaves it apart too.
"""

from __future__ import annotations

import numpy as np

_F = np.float32
_TWO_PI = _F(2 * np.pi)
_FOUR_OVER_PI = _F(4 / np.pi)

# Cephes logf: log(1 + x) for 1 + x in [sqrt(1/2), sqrt(2)), and log(2) split in two
_SQRT_HALF_BITS = np.int32(0x3F3504F3)
_LOG = [
    _F(c)
    for c in (
        7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
        -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
    )
]  # fmt: skip
_LOG2_LOW, _LOG2_HIGH = _F(-2.12194440e-4), _F(0.693359375)

# Cephes sinf and cosf: polynomials on [-pi/4, pi/4], and pi/4 split in three
_SIN = [_F(c) for c in (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)]
_COS = [_F(c) for c in (2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)]
_QUARTER_PI = [_F(c) for c in (0.78515625, 2.4187564849853515625e-4, 3.77489497744594108e-8)]


def fused(x: np.ndarray, y: np.ndarray | np.float32, z: np.ndarray | np.float32) -> np.ndarray:
    """``x * y + z`` of float32 arguments, rounded once: a float64 product of two float32 numbers is exact."""
    product = np.multiply(x, y, dtype=np.float64)
    product += z
    return product.astype(np.float32)


def _horner(coefficients: list[np.float32], x: np.ndarray) -> np.ndarray:
    value = fused(x, coefficients[0], coefficients[1])
    for c in coefficients[2:]:
        value = fused(value, x, c)
    return value


def _log(u: np.ndarray) -> np.ndarray:
    """Natural logarithm of normal positive float32 numbers."""
    bits = u.view(np.int32)
    exponent = (bits - _SQRT_HALF_BITS) >> 23
    x = (bits - (exponent << 23)).view(np.float32) - _F(1)
    e = exponent.astype(np.float32)
    z = x * x
    y = fused(_horner(_LOG, x) * x, z, e * _LOG2_LOW) - z * _F(0.5)
    return (x + y) + e * _LOG2_HIGH


def _sincos(t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sine and cosine of float32 angles in [0, 2 pi]."""
    octant = ((t * _FOUR_OVER_PI).astype(np.int32) + 1) & ~1
    y = octant.astype(np.float32)
    high, middle, low = _QUARTER_PI
    x = fused(y, -low, t - y * high - y * middle)
    z = x * x
    c = fused(_horner(_COS, z) * z, z, z * _F(-0.5)) + _F(1)
    s = fused(_horner(_SIN, z) * z, x, x)
    swap = (octant & 2) != 0
    sine, cosine = np.where(swap, c, s), np.where(swap, s, c)
    sine.view(np.int32)[...] ^= (octant & 4) << 29  # the sign bit
    cosine.view(np.int32)[...] ^= ((octant + 2) & 4) << 29
    return sine, cosine


def box_muller(uniforms: np.ndarray, mean: float, std: float) -> np.ndarray:
    """Normal samples from uniform ones in [0, 1).

    Args:
        uniforms: float32 or float64, its size a multiple of 16.
        mean, std: of the samples.

    Returns:
        As many samples of the same dtype, one-dimensional.
    """
    dtype = uniforms.dtype.type
    shift, scale = dtype(mean), dtype(std)
    blocks = uniforms.reshape(-1, 2, 8)
    u1, u2 = dtype(1) - blocks[:, 0], np.ascontiguousarray(blocks[:, 1])
    samples = np.empty_like(blocks)
    if dtype is np.float32:
        radius = np.sqrt(_F(-2) * _log(u1))
        sine, cosine = _sincos(_TWO_PI * u2)
        samples[:, 0] = fused(radius * cosine, scale, shift)
        samples[:, 1] = fused(radius * sine, scale, shift)
    else:
        radius = np.sqrt(-2 * np.log(u1))
        angle = 2 * np.pi * u2
        samples[:, 0] = radius * np.cos(angle) * scale + shift
        samples[:, 1] = radius * np.sin(angle) * scale + shift
    return samples.reshape(-1)
