"""Options for XLA that were measured to pay, by platform and version of jax; they change no result beyond rounding.

On CPU, jaxlib hands float32 convolutions and some fusions to a library (YNNPACK) that is several times slower than XLA's own
code at many shapes.  ``xla_cpu_experimental_ynn_fusion_type=""`` keeps them with XLA.  Gradients of a 3x3 convolution of 32
channels over 64 images of 26x26, jitted, interleaved, on two AVX-512 cores, as a ratio to the default: 0.21 with jax 0.10.2,
0.16 with 0.12.0.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax

# The first version the options below were not tried with: XLA refuses to compile with an option it does not know.
_UNTRIED = (0, 13)
_CPU = {"xla_cpu_experimental_ynn_fusion_type": ""}


def default_options() -> Mapping[str, str | bool]:
    """The compiler options of :func:`objnet.jit` on the default backend."""
    if jax.default_backend() == "cpu" and jax.__version_info__ < _UNTRIED:
        return _CPU
    return {}
